"""Files that want to do harm: nothing in them is executed, nothing outside of the data folder is read, nothing outside
of the output folder is written, and names in them are harmless wherever they are shown."""

from __future__ import annotations

import ast
import io
import json
import logging
import os
import pickle
import sys
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ignite_imgtools import cli
from ignite_imgtools.data import check_dataset, convert_detection_data
from ignite_imgtools.formats import DataError, one_line
from ignite_imgtools.handlers import CheckpointError, load_checkpoint, save_checkpoint
from ignite_imgtools.handlers.console import show_messages
from ignite_imgtools.handlers.evaluation_pictures import class_precision_figure, confusion_figure
from ignite_imgtools.handlers.evaluation_report import class_table, write_evaluation_report
from ignite_imgtools.handlers.event_file import EventFile
from ignite_imgtools.handlers.figures import figure_to_array
from ignite_imgtools.handlers.pr_curve import pr_curve_figure
from ignite_imgtools.metrics.coco.files import evaluate_files
from ignite_imgtools.metrics.coco_analysis import table_to_text
from ignite_imgtools.models.darknet import Yolov3SppNetwork
from ignite_imgtools.models.darknet_weights import read_darknet_weights
from ignite_imgtools.models.weights import read_weights
from ignite_imgtools.recipes import load_recipe
from ignite_imgtools.recipes.config import ConfigError
from ignite_imgtools.recipes.records import RecipeRecord
from tests.data.coco_folder import coco_content, write_coco_folder
from tests.data.dense_folders import photo, save
from tests.faults.bad_input import FORMATS

PACKAGE = Path(cli.__file__).parent

# --- the source -------------------------------------------------------------------------------------------------------

_MODULES = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "marshal", "shelve", "subprocess", "webbrowser"}
_BUILT_IN = {"eval", "exec", "compile", "__import__", "execfile"}
_CALLS = {
    "os.system", "os.popen", "os.execv", "os.execvp", "os.spawnv", "torch.jit.load", "torch.hub.load", "torch.package",
    "torch.hub.load_state_dict_from_url", "shutil.unpack_archive", "np.fromregex", "yaml.load", "yaml.load_all",
    "yaml.unsafe_load", "yaml.full_load", "yaml.Loader", "yaml.FullLoader", "yaml.UnsafeLoader", "yaml.CLoader",
}  # fmt: skip
_ENDINGS = ("all_gather_object", "gather_object", "broadcast_object_list", "scatter_object_list", "extractall")


def forbidden(source: str) -> Iterator[str]:
    """What in ``source`` could execute what a file says, with its line."""
    for node in ast.walk(ast.parse(source)):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [node.module or ""]
        if {name.partition(".")[0] for name in names} & _MODULES:
            yield f"line {node.lineno}: {ast.unparse(node)}"
        if isinstance(node, ast.Attribute) and ast.unparse(node) in _CALLS:
            yield f"line {node.lineno}: {ast.unparse(node)}"
        if not isinstance(node, ast.Call):
            continue
        called = ast.unparse(node.func)
        keywords = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
        if (
            called in _BUILT_IN
            or called.endswith(_ENDINGS)
            or (called == "torch.load" and keywords.get("weights_only") != "True")
            or (called.endswith("get_state_dict") and "." in called and keywords.get("weights_only") != "True")
            or (called in ("np.load", "numpy.load") and keywords.get("allow_pickle", "False") != "False")
            or (called == "np.array" and keywords.get("dtype") == "object")
            or (called.endswith(("fromstring", "iterparse", ".XML")) and "defusedxml" not in source)
        ):
            yield f"line {node.lineno}: {ast.unparse(node)}"


def test_the_source_has_nothing_that_executes_files() -> None:
    found = {
        str(path.relative_to(PACKAGE)): told
        for path in PACKAGE.rglob("*.py")
        if (told := list(forbidden(path.read_text(encoding="utf-8"))))
    }
    assert found == {}


@pytest.mark.parametrize(
    "line",
    [
        "import pickle",
        "from pickle import loads",
        "import subprocess as s",
        "eval('1')",
        "exec(text)",
        "torch.load(path)",
        "torch.load(path, weights_only=False)",
        "np.load(path, allow_pickle=True)",
        "yaml.load(text, Loader=x)",
        "yaml.unsafe_load(text)",
        "class A(yaml.FullLoader): pass",
        "ElementTree.fromstring(text)",
        "os.system('true')",
        "dist.all_gather_object(a, b)",
        "archive.extractall(folder)",
        "enum.get_state_dict(progress=False)",
    ],
)
def test_the_source_is_looked_through(line: str) -> None:
    assert list(forbidden(line))
    for good in ("torch.load(p, weights_only=True)", "np.load(p)", "yaml.SafeLoader", "model.eval()", "re.compile(p)"):
        assert not list(forbidden(good))


# --- files of weights -------------------------------------------------------------------------------------------------


class _Evil:
    def __init__(self, function: Callable[..., Any], *arguments: Any):
        self._call = function, arguments

    def __reduce__(self) -> Any:
        return self._call


def _zip(pickled: bytes, name: str = "archive/data.pkl", comment: bytes = b"", **more: bytes) -> bytes:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_STORED) as archive:
        archive.writestr(name, pickled)
        archive.writestr("archive/version", b"3\n")
        archive.writestr("archive/byteorder", b"little")
        for entry, data in more.items():
            archive.writestr(f"archive/{entry}", data)
        archive.comment = comment
    return content.getvalue()


def _checked(content: bytes) -> bytes:
    """With the checksum that our own checkpoints carry: whoever means harm can compute it too."""
    comment = b"ignite_imgtools crc32 "
    body = content[:-2] + (len(comment) + 8).to_bytes(2, "little") + comment
    return body + f"{zlib.crc32(body):08x}".encode()


def _tar(pickled: bytes) -> bytes:
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w") as archive:
        for name in ("sys_info", "pickle", "tensors", "storages"):
            entry = tarfile.TarInfo(name)
            entry.size = len(pickled)
            archive.addfile(entry, io.BytesIO(pickled))
    return content.getvalue()


def evil_files(marker: Path) -> dict[str, bytes]:
    """Files that make ``marker`` if what they say is executed."""
    command = f"touch '{marker}'"
    code = f"open({str(marker)!r}, 'w').close()"
    weights = {"conv.weight": torch.zeros(2)}
    objects = {
        "os.system": _Evil(os.system, command),
        "eval": _Evil(eval, code),
        "exec": _Evil(exec, code),
        "open": _Evil(open, str(marker), "w"),
        "in a state dict": {**weights, "evil": _Evil(os.system, command)},
        "in a checkpoint": {"format": "ignite_imgtools.checkpoint", "version": 1, "model": _Evil(os.system, command)},
        "numpy": np.array([_Evil(os.system, command)], dtype=object),
        "getattr": _Evil(getattr, _Evil(__import__, "os"), "system"),
    }
    files: dict[str, bytes] = {}
    for name, value in objects.items():
        pickled = pickle.dumps(value, protocol=2)
        files |= {f"{name}, zip": _zip(pickled), f"{name}, checked": _checked(_zip(pickled))}
        files |= {f"{name}, pickle": pickled, f"{name}, tar": _tar(pickled)}
    pickled = pickle.dumps(objects["os.system"], protocol=2)
    files["torch script"] = _zip(pickled, **{"constants.pkl": pickled, "code/__torch__.py": b"def f(): pass"})
    files["name that goes up"] = _zip(pickled, "../../archive/data.pkl")
    return files


def test_nothing_in_a_file_of_weights_is_executed(tmp_path: Path) -> None:
    marker, network = tmp_path / "marker", Yolov3SppNetwork(21)
    kind = load_recipe("fcn").Config
    readers: dict[str, Callable[[Path], Any]] = {
        "checkpoint": load_checkpoint,
        "record": lambda path: RecipeRecord.from_checkpoint(path, "fcn", kind),
        "weights": read_weights,
        "darknet": lambda path: read_darknet_weights(path, network),
    }
    tried = 0
    for name, content in evil_files(marker).items():
        path = tmp_path / "evil.pt"
        path.write_bytes(content)
        for reader in readers.values():
            with pytest.raises((CheckpointError, ConfigError, ValueError)) as caught:
                reader(path)
            assert str(path) in str(caught.value), name
            assert "\n" not in str(caught.value), name
            tried += 1
        assert not marker.exists(), name
    assert tried == 4 * 34
    # The files would do it if they were let.
    pickle.loads(evil_files(marker)["os.system, pickle"])
    assert marker.exists()


def test_archives_that_unfold_are_not_read(tmp_path: Path) -> None:
    path = tmp_path / "bomb.pt"
    save_checkpoint({"model": {"weight": torch.zeros(1_000_000)}}, path)
    bomb = tmp_path / "bomb.zip"
    with zipfile.ZipFile(path) as archive, zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED) as packed:
        for name in archive.namelist():
            packed.writestr(name, archive.read(name))
    assert bomb.stat().st_size < 20_000
    with pytest.raises(ValueError, match="compressed"):
        read_weights(bomb)
    with pytest.raises(CheckpointError, match="compressed"):
        load_checkpoint(bomb)


def test_what_a_checkpoint_says_of_its_run_stays_in_its_folder(tmp_path: Path) -> None:
    kind = load_recipe("fcn").Config
    path = tmp_path / "run" / "checkpoints" / "last.pt"
    path.parent.mkdir(parents=True)
    good = {"name": "fcn", "config": {"output_dir": "/etc", "resume": "/etc/passwd"}, "class_names": ["a", "b"]}
    save_checkpoint({"resumables": {"recipe": good}}, path)
    config = RecipeRecord.from_checkpoint(path, "fcn", kind).config
    assert (config.output_dir, config.resume, config.weights) == (tmp_path / "run", "auto", "none")
    for bad in (
        5,
        {},
        {**good, "name": ["fcn"]},
        {**good, "config": 5},
        {**good, "config": {"output_dir": 5}},
        {**good, "class_names": "ab"},
        {**good, "class_names": [1]},
        {**good, "details": [1]},
    ):
        save_checkpoint({"resumables": {"recipe": bad}}, path)
        with pytest.raises(ConfigError, match=r"last\.pt: "):
            RecipeRecord.from_checkpoint(path, "fcn", kind)


# --- what is read and written -----------------------------------------------------------------------------------------

_opened: list[str] | None = None


def _note_opened(event: str, arguments: tuple[Any, ...]) -> None:
    if _opened is not None and event == "open" and isinstance(arguments[0], str | bytes):
        _opened.append(os.fsdecode(arguments[0]))


sys.addaudithook(_note_opened)

# Where a format names an image, and what it is named in a good data set.
_NAMED = {
    "coco": ("annotations/instances_train.json", '"1.jpg"'),
    "coco_keypoints": ("annotations/person_keypoints_train.json", '"1.jpg"'),
    "wflw": ("WFLW_annotations/list_98pt_rect_attr_train_test/list_98pt_rect_attr_train.txt", "a.png"),
    "points_csv": ("faces.csv", "a.png"),
    "voc": ("ImageSets/Main/train.txt", "a"),
    "voc_segmentation": ("ImageSets/Segmentation/train.txt", "a"),
}
_LINKED = {
    "coco": "train/1.jpg",
    "voc": "Annotations/a.xml",
    "yolo": "labels/train/a.txt",
    "penn_fudan": "PedMasks/a_mask.png",
    "masks": "masks/a.png",
    "voc_segmentation": "SegmentationClass/a.png",
    "drive": "training/mask/21_training_mask.gif",
    "saliency": "masks/a.png",
    "class_folders": "cat/1.jpg",
    "wflw": "WFLW_images/a.png",
    "pts": "a.pts",
    "points_csv": "a.png",
    "coco_keypoints": "train/1.jpg",
}


def _read_everything(data_format: str, folder: Path) -> None:
    for decode in (False, True):
        try:
            check_dataset(data_format, folder, decode=decode)
        except DataError:
            continue
    for on_bad_sample in ("raise", "skip"):
        try:
            parts = FORMATS[data_format].open(folder, data_format, on_bad_sample=on_bad_sample)
        except DataError:
            continue
        for part in parts:
            for index in range(len(part)):
                try:
                    part[index]
                except DataError:
                    continue


def _read_outside(data_format: str, folder: Path, secret: Path) -> list[str]:
    """Paths of ``secret``'s folder that are opened while the data set is checked, opened and loaded."""
    global _opened
    _opened = []
    try:
        _read_everything(data_format, folder)
        seen = {os.path.realpath(path) for path in _opened}
    finally:
        _opened = None
    assert any(str(folder.resolve()) in path for path in seen)  # the hook sees what is opened
    return [path for path in seen if path.startswith(str(secret.parent.resolve()))]


@pytest.mark.parametrize("data_format", FORMATS)
def test_nothing_outside_of_the_folder_is_read(data_format: str, tmp_path: Path) -> None:
    secret = tmp_path / "outside" / "secret.jpg"
    save(secret, photo(1))
    for stem in ("secret.png", "secret.xml", "secret.txt", "secret.pts"):
        (secret.parent / stem).write_bytes(secret.read_bytes())
    names = [str(secret), "../outside/secret.jpg", "../../outside/secret.jpg", "x/../../../outside/secret.jpg"]
    tried = 0
    for number, name in enumerate(names if data_format in _NAMED else []):
        folder = _write(data_format, tmp_path / str(number))
        file, known = _NAMED[data_format]
        text = (folder / file).read_text()
        if data_format.startswith("voc"):
            (folder / file).write_text(f"{text}{name.removesuffix('.jpg')}\n")
        else:
            assert known in text
            (folder / file).write_text(text.replace(known, json.dumps(name) if known[0] == '"' else name))
        assert _read_outside(data_format, folder, secret) == []
        tried += 1
    folder = _write(data_format, tmp_path / "linked")
    path = folder / _LINKED[data_format]
    path.rename(secret.with_name(f"linked{path.suffix}"))
    path.symlink_to(secret.with_name(f"linked{path.suffix}"))
    assert _read_outside(data_format, folder, secret) == []
    assert tried == (4 if data_format in _NAMED else 0)


def test_lists_and_parts_of_yolo_stay_inside(tmp_path: Path) -> None:
    secret = tmp_path / "outside" / "images" / "secret.jpg"
    save(secret, photo(1))
    for number, (yaml, line) in enumerate(
        (
            ("train.txt", str(secret)),
            ("train.txt", "../outside/images/secret.jpg"),
            ("train.txt", "images/../../outside/images/secret.jpg"),
            (str(secret.parent), ""),
            ("../outside/images", ""),
            ("images/../../outside/images", ""),
        )
    ):
        folder = _write("yolo", tmp_path / str(number))
        text = (folder / "data.yaml").read_text()
        (folder / "data.yaml").write_text(text.replace("images/train", yaml))
        (folder / "train.txt").write_text(f"images/train/a.jpg\n{line}\n")
        assert _read_outside("yolo", folder, secret) == []
    folder = _write("yolo", tmp_path / "linked")
    (folder / "images" / "val").rename(tmp_path / "val")
    (folder / "images" / "val").symlink_to(secret.parent)
    assert _read_outside("yolo", folder, secret) == []


def _write(data_format: str, folder: Path) -> Path:
    if data_format not in ("coco", "coco_keypoints"):
        folder.mkdir()
    FORMATS[data_format].write(folder)
    return folder


HOSTILE_NAMES = (
    "../../evil",
    "/tmp/evil",
    "..",
    "a/b",
    "<script>alert(1)</script>",
    "$\\frac{",
    "$a$",
    "_hidden",
    "=1+1",
    "a, \"b\"; 'c'",
    "C:\\evil",
    "%s%n{0}",
    "x" * 256,
)
UNSHOWABLE = ("a\nb", "a\x1b[2J\x1b[1;1H", "a\rb", "a\x00b", "a\u202eb", "a\u2028b", "a\ud800b", "a\x9b31m")


def _named(content: dict[str, Any], name: str) -> dict[str, Any]:
    content["categories"][0]["name"] = name
    return content


@pytest.mark.parametrize("to_format", ["voc", "yolo"])
def test_nothing_is_written_outside_of_the_folder(to_format: str, tmp_path: Path) -> None:
    for number, name in enumerate(HOSTILE_NAMES):
        source, target = tmp_path / f"from {number}", tmp_path / "to" / str(number)
        write_coco_folder(source, lambda content, name=name: _named(content, name))
        convert_detection_data(source, target, to_format)
        assert check_dataset(to_format, target) == []
        assert sorted(path.name for path in tmp_path.glob("to/*")) == sorted(map(str, range(number + 1)))
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(
        ["to", *(f"from {number}" for number in range(len(HOSTILE_NAMES)))]
    )
    # A name of a file that would be two lines of a list.
    source = tmp_path / "broken"
    write_coco_folder(source, lambda content: content["images"][0].update(file_name="3\n2.jpg"))
    (source / "train" / "3.jpg").rename(source / "train" / "3\n2.jpg")
    with pytest.raises(DataError, match="has characters that lists cannot hold"):
        convert_detection_data(source, tmp_path / "new", to_format)
    assert not (tmp_path / "new").exists()


def test_reports_of_files_stay_in_their_folder(tmp_path: Path) -> None:
    for number, name in enumerate((*HOSTILE_NAMES, *UNSHOWABLE)):
        content = _named(coco_content(), name)
        results = [
            {"image_id": row["image_id"], "category_id": row["category_id"], "bbox": row["bbox"], "score": 0.5}
            for row in content["annotations"]
        ]
        evaluation = evaluate_files(content, results)
        table = table_to_text(class_table(evaluation))
        assert one_line(table) == " ".join(table.splitlines())
        assert len(table.splitlines()) == 3
        assert all(one_line(key) == key for key in evaluation.numbers(per_class=True))
        if number % 9 == 0:  # pictures take a second
            write_evaluation_report(tmp_path / "report", evaluation)
    assert [path.name for path in tmp_path.iterdir()] == ["report"]
    assert len(list((tmp_path / "report").iterdir())) == 6


# --- where names are shown --------------------------------------------------------------------------------------------


def test_tags_of_tensorboard_are_harmless(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    names = (*HOSTILE_NAMES, *UNSHOWABLE, "y" * 9_999, "y" * 9_998)
    file = EventFile(tmp_path)
    file.add_scalars({f"val/bbox/AP/{name}": 0.5 for name in names}, 1)
    file.add_image(f"val/{names[4]}", np.zeros((2, 2, 3), dtype=np.uint8), 1)
    tags = EventAccumulator(str(tmp_path)).Reload().Tags()
    # Breaks of lines of whatever kind are blanks.
    assert len(tags["scalars"]) == len(set(map(one_line, names)))
    for tag in (*tags["scalars"], *tags["images"]):
        assert tag == one_line(tag)
        assert not set(tag) & set("<>&\"'`")
        assert len(tag) <= 320


def test_pictures_take_any_name() -> None:
    names = list(HOSTILE_NAMES)
    count = len(names)
    precision = np.full((10, 101, count, 1), 0.5)
    figures = (
        confusion_figure(np.eye(count + 1, dtype=np.int64), names),
        class_precision_figure(names, [0.5] * count),
        *(
            pr_curve_figure(
                precision[..., k : k + 1, 0], np.linspace(0.5, 0.95, 10), np.linspace(0, 1, 101), [names[k]]
            )
            for k in range(0, count, 2)
        ),
    )
    for figure in figures:
        assert figure_to_array(figure).shape[2] == 3


def test_logs_and_the_command_line_are_harmless(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    logger = logging.getLogger("ignite_imgtools")
    before, logger.handlers, level, propagate = logger.handlers, [], logger.level, logger.propagate
    try:
        show_messages()
        for name in UNSHOWABLE:
            logger.warning("%s: %d found", Path("folder") / name.replace("\0", ""), 3)
            logger.warning("%s", DataError(f"{name}: cannot be read"))
    finally:
        logger.handlers, logger.level, logger.propagate = before, level, propagate
    for name in ("a\x1b[2Jb", "a\u202eb"):
        folder = tmp_path / name
        write_coco_folder(folder, lambda content: content["images"][0].update(file_name="\x1b[31mnone\n.jpg"))
        assert cli.main(["check", "coco", "--data", str(folder)]) == 2
        assert cli.main(["check", "voc", "--data", str(folder)]) == 2
    captured = capsys.readouterr()
    lines = (captured.out + captured.err).splitlines()
    assert len(lines) == 2 * len(UNSHOWABLE) + 2 * 3
    for line in lines:
        assert line == one_line(line)
        line.encode()
