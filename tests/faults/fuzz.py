"""Readers fed with damaged files: only the errors they declare may come out, soon, and with no memory kept.

Valid files of each kind are changed by a seeded generator (bits, bytes, slices, numbers and words that break parsers;
in json also values of the tree, in archives with the checksums made right again), and read.

    python -m tests.faults.fuzz --inputs 2000           # a short form, of each reader so many
    python -m tests.faults.fuzz --total 100000          # the long form: as many of all readers together

prints one JSON object for each reader: inputs, those refused, the slowest in seconds of the processor, how memory grew
in KB for each thousand inputs; and at the end the sums. An input that breaks a rule is written to ``--keep``.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import dataclasses
import faulthandler
import io
import json
import os
import random
import signal
import tempfile
import time
import warnings
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from PIL import Image

from ignite_imgtools.data import images
from ignite_imgtools.data.check import check_dataset
from ignite_imgtools.data.class_list import find_class_names
from ignite_imgtools.data.coco_file import read_coco
from ignite_imgtools.data.detection_table import DetectionTable
from ignite_imgtools.data.images import image_size, read_image
from ignite_imgtools.data.landmark_files import read_points_csv, read_pts, read_wflw_list
from ignite_imgtools.data.masks import read_binary_mask, read_mask
from ignite_imgtools.data.persons import _read_detections
from ignite_imgtools.data.segmentations import BadSegmentation, SegmentationBuilder, rle_counts
from ignite_imgtools.data.voc_file import read_voc
from ignite_imgtools.data.yolo_file import read_yolo
from ignite_imgtools.formats import DataError, one_line
from ignite_imgtools.handlers.checkpoint_file import CheckpointError, load_checkpoint, save_checkpoint
from ignite_imgtools.metrics.coco.files import coco_eval
from ignite_imgtools.models.weights import read_weights
from ignite_imgtools.recipes.box_files import read_boxes
from tests.data.coco_folder import coco_content, write_coco_folder
from tests.data.dense_folders import labels, photo
from tests.data.landmark_folders import face, write_csv, write_wflw
from tests.data.voc_folder import write_voc_folder
from tests.data.yolo_folder import write_yolo_folder

SECONDS = 1.0
"""Of the processor, for one input."""

# Images of fuzzing are small, so what their damaged headers promise may be bounded by less than usual.
_PIXELS = 1 << 20

_WORDS = [
    *(b"NaN", b"-Infinity", b"1e999", b"1e308", b"-1", b"0", b"-0.0", b"1e-320", b"9" * 400, b"9" * 5000),
    *(b"2147483648", b"184467440737095516160", b"null", b"true", b"[]", b"{}", b'""', b"[" * 2000, b'"\\ud800"'),
    *(b"\0", b"\xff", b"\xef\xbb\xbf", b"\xc0\x80", b"\n", b"\r\n", b"\x1b[2J", b"../", b"/etc/passwd", b"%s%n", b"\t"),
    *(b"<!DOCTYPE a [<!ENTITY b 'c'>]>", b"&b;", b"&#0;", b"<a>" * 300, b"</annotation>", b"<![CDATA[", b"<?xml ?>"),
    *(b"&a ", b"*a", b"!!python/name:os.system ", b"<<: ", b"? ", b"- " * 300, b"{{", b"}", b"|", b"@", b"2001-99-99"),
    *(b"1_000", b"0x1F", b"\xe2\x80\xae", "ñ".encode(), "Ⅷ".encode(), "٣".encode(), b"nan", b"inf", b"1,2", b'"', b"'"),
]  # fmt: skip
_VALUES: list[Any] = [
    *(None, True, False, 0, 1, -1, 2**31, 2**62, 2**63, 2**64, 10**400, 0.5, -0.0, 1e308, 1e-320, 1e30),
    *(float("nan"), float("inf"), -float("inf"), "", "x", "7", "\0", "\ud800", "a\nb", "../x", "/etc", "x" * 5000),
    *([], {}, [[]], [{}], [1], [1, 2, 3, 4], [1, 2, 3, 4, 5, 6], [[1, 2, 3, 4, 5, 6]], [None] * 4, ["a"] * 6),
    *([[float("nan")] * 6], [[1e9, 0, 0, 1e9, 1e9, 1e9]], [1e30] * 4, [0] * 51, {"size": [30, 40], "counts": "o"}),
    *({"size": [30, 40], "counts": [1200]}, {"size": [0, 0], "counts": []}, {"size": [30, 40], "counts": [-1, 1201]}),
    *({"size": [10**6, 10**6], "counts": [10**12]}, {"size": [30, 40], "counts": "oooooooooooo0"}, {"counts": "0"}),
]  # fmt: skip


class Mutator:
    """Changes valid files; the same seed makes the same files."""

    def __init__(self, seed: int):
        self._random = random.Random(seed)

    def change(self, seeds: Sequence[bytes], *, is_json: bool = False, is_archive: bool = False) -> bytes:
        """One of the files, changed."""
        draw = self._random
        content = draw.choice(seeds)
        if is_json and draw.random() < 0.6:
            return self._changed_json(content)
        if is_archive and draw.random() < 0.6:
            return self._changed_archive(content)
        changed = bytearray(content)
        for _ in range(draw.choice((1, 1, 1, 2, 3, 8))):
            self._damage(changed, seeds)
        return bytes(changed)

    def _damage(self, content: bytearray, seeds: Sequence[bytes]) -> None:
        draw = self._random
        place = draw.randrange(len(content) + 1)
        end = min(len(content), place + draw.choice((1, 2, 4, 16, 64)))
        kind = draw.randrange(8)
        if kind == 0 and content:
            content[place % len(content)] ^= 1 << draw.randrange(8)
        elif kind == 1:
            content[place:end] = draw.randbytes(end - place)
        elif kind == 2:
            del content[place:end]
        elif kind == 3:
            content[place:place] = content[place:end] * draw.choice((1, 2, 50))
        elif kind == 4:
            content[place:place] = draw.choice(_WORDS)
        elif kind == 5:
            content[place:end] = draw.choice(_WORDS)
        elif kind == 6:
            other = draw.choice(seeds)
            start = draw.randrange(len(other) + 1)
            content[place:end] = other[start : start + 64]
        elif draw.random() < 0.3:
            del content[place:]

    def _changed_json(self, content: bytes) -> bytes:
        draw = self._random
        root = [json.loads(content)]
        for _ in range(draw.choice((1, 1, 2, 4))):
            place: Any = root
            key: Any = 0
            while isinstance(place[key], list | dict) and place[key] and draw.random() < 0.85:
                place = place[key]
                key = draw.choice(list(place) if isinstance(place, dict) else range(len(place)))
            kind = draw.randrange(5)
            if kind == 0 and place is not root:
                del place[key]
                if not place:
                    break
            elif kind == 1 and isinstance(place, list) and place is not root:
                place.append(copy.deepcopy(place[key]))
            elif kind == 2 and type(place[key]) in (int, float) and abs(place[key]) < 1e300:
                place[key] = place[key] * draw.choice((-1, 0, 0.5, 10, 1e3, 1e9)) + draw.choice((0, 1, -1))
            else:
                place[key] = copy.deepcopy(draw.choice(_VALUES))
        return json.dumps(root[0]).encode()

    def _changed_archive(self, content: bytes) -> bytes:
        """An archive with a changed entry, and all checksums right again."""
        draw, new = self._random, io.BytesIO()
        with zipfile.ZipFile(io.BytesIO(content)) as archive, zipfile.ZipFile(new, "w") as copy:
            names = archive.namelist()
            # What is unpickled is the most interesting.
            chosen = draw.choice([*names, *(name for name in names if name.endswith("data.pkl"))])
            for name in names:
                data = bytearray(archive.read(name))
                if name == chosen:
                    for _ in range(draw.choice((1, 2, 4))):
                        self._damage(data, [bytes(data)])
                copy.writestr(name, bytes(data))
        return with_checksum(new.getvalue())


def with_checksum(archive: bytes) -> bytes:
    """An archive as our checkpoints are: the checksum of all before it at its end."""
    comment = b"ignite_imgtools crc32 "
    body = archive[:-2] + (len(comment) + 8).to_bytes(2, "little") + comment
    return body + f"{zlib.crc32(body):08x}".encode()


@dataclasses.dataclass(frozen=True)
class Target:
    """A reader.

    Args:
        seeds: valid files.
        read: reads one of these bytes.
        refusals: the errors that it may raise.
    """

    seeds: Sequence[bytes]
    read: Callable[[bytes], Any]
    refusals: tuple[type[Exception], ...] = ()
    is_json: bool = False
    is_archive: bool = False


def _use(table: DetectionTable | None) -> None:
    """What is made of annotations when they are used."""
    for index in range(0 if table is None else len(table)):
        assert table is not None
        target = table.target(index, crowd=True, masks=True, keypoints=True)
        boxes, (height, width) = target["boxes"], table.image_size(index)
        assert boxes.isfinite().all()
        assert (boxes >= 0).all()
        assert (boxes <= torch.tensor([width, height] * 2)).all()
        assert ((target["labels"] > 0) & (target["labels"] < len(table.class_names))).all()


def _one_line(faults: Sequence[Any]) -> None:
    for fault in faults:
        assert str(fault) == one_line(str(fault)), str(fault)


def create_targets(folder: Path) -> dict[str, Target]:
    """All readers, working in ``folder``."""
    targets: dict[str, Target] = {}
    targets |= _annotation_targets(folder)
    targets |= _point_targets(folder)
    targets |= _mask_targets()
    targets |= _evaluation_targets(folder)
    targets |= _weight_targets(folder)
    targets |= _image_targets(folder)
    return targets


def _annotation_targets(folder: Path) -> dict[str, Target]:
    coco_file = write_coco_folder(folder / "coco")
    people = coco_content()
    people["categories"][1] |= {"keypoints": ["nose", "left_eye", "right_eye"], "skeleton": [[1, 2]]}
    for row in people["annotations"]:
        row |= {"keypoints": [3, 4, 2, 5.5, 6, 1, 0, 0, 0], "num_keypoints": 2}

    def read_coco_file(content: bytes) -> None:
        coco_file.write_bytes(content)
        table, faults = read_coco(coco_file, folder / "coco" / "train")
        _one_line(faults)
        _use(table)

    def check_people(content: bytes) -> None:
        coco_file.write_bytes(content)
        _one_line(check_dataset("coco_keypoints", folder / "coco"))

    coco = Target([json.dumps(c).encode() for c in (coco_content(), people)], read_coco_file, (), is_json=True)

    voc = write_voc_folder(folder / "voc")
    xml, names = voc / "Annotations" / "a.xml", voc / "ImageSets" / "Main" / "train.txt"
    good_names = names.read_bytes()

    def read_voc_xml(content: bytes) -> None:
        names.write_bytes(good_names)
        xml.write_bytes(content)
        table, faults = read_voc(voc, "train")
        _one_line(faults)
        _use(table)

    good_xml = xml.read_bytes()

    def read_voc_list(content: bytes) -> None:
        xml.write_bytes(good_xml)
        names.write_bytes(content)
        _one_line(read_voc(voc, "train")[1])

    yolo = write_yolo_folder(folder / "yolo")
    yaml, label, listed = yolo / "data.yaml", yolo / "labels" / "train" / "a.txt", yolo / "train.txt"
    good_yaml = yaml.read_bytes()

    def read_label(content: bytes) -> None:
        yaml.write_bytes(good_yaml)
        label.write_bytes(content)
        table, faults = read_yolo(yolo, "train")
        _one_line(faults)
        _use(table)

    def read_yaml(content: bytes) -> None:
        yaml.write_bytes(content)
        _one_line(check_dataset("yolo", yolo))

    def read_list(content: bytes) -> None:
        yaml.write_bytes(good_yaml.replace(b"images/train", b"train.txt"))
        listed.write_bytes(content)
        _one_line(read_yolo(yolo, "train")[1])

    classes = folder / "names"
    classes.mkdir()

    def read_names(content: bytes) -> None:
        (classes / "classes.txt").write_bytes(content)
        find_class_names(classes)

    shares = b"0 0.5 0.5 0.25 0.5\n1 0.25 0.2 0.5 0.4\n"
    return {
        "COCO json": coco,
        "keypoints json": Target([json.dumps(people).encode()], check_people, (), is_json=True),
        "VOC xml": Target([good_xml, (voc / "Annotations" / "b.xml").read_bytes()], read_voc_xml),
        "VOC list": Target([good_names, b"a 1\nb -1\n"], read_voc_list),
        "YOLO labels": Target([shares], read_label),
        "YOLO yaml": Target([good_yaml, b"names: {0: cat, 1: dog}\ntrain: [images/train]\n"], read_yaml, (DataError,)),
        "YOLO list": Target([b"images/train/a.jpg\n./images/train/b.jpg\n"], read_list),
        "class names": Target([b"background\nroad\ncar\n", b"__ignore__\na\nb\n"], read_names, (DataError,)),
    }


def _point_targets(folder: Path) -> dict[str, Target]:
    wflw = write_wflw(folder / "wflw", {"train": ["a.png", "b.png"]})
    (wflw_list,) = wflw.rglob("*.txt")
    csv = write_csv(folder / "csv" / "faces.csv", ["a.png", "b.png"], count=5) / "faces.csv"
    pts = folder / "a.pts"
    points = "".join(f"{x} {y}\n" for x, y in face(0, 5))

    def read_wflw(content: bytes) -> None:
        wflw_list.write_bytes(content)
        _one_line(read_wflw_list(wflw_list)[1])
        _one_line(check_dataset("wflw", wflw))

    def read_csv(content: bytes) -> None:
        csv.write_bytes(content)
        _one_line(read_points_csv(csv)[1])
        _one_line(check_dataset("points_csv", csv.parent))

    def read_pts_file(content: bytes) -> None:
        pts.write_bytes(content)
        assert np.isfinite(read_pts(pts, None)).all()

    return {
        "WFLW list": Target([wflw_list.read_bytes()], read_wflw),
        "csv of points": Target([csv.read_bytes()], read_csv),
        "pts": Target([f"version: 1\nn_points: 5\n{{\n{points}}}\n".encode()], read_pts_file, (DataError,)),
    }


def _mask_targets() -> dict[str, Target]:
    from pycocotools import mask as mask_utils

    masks = [labels(seed, [0, 1]) for seed in range(3)]
    strings = [mask_utils.encode(np.asfortranarray(mask))["counts"] for mask in masks]

    def read_rle(content: bytes) -> None:
        counts = content.decode("latin-1")
        try:
            rle_counts(content)
        finally:
            _build({"size": [30, 40], "counts": counts})

    def read_segmentation(content: bytes) -> None:
        _build(json.loads(content))

    def _build(segmentation: Any) -> None:
        builder = SegmentationBuilder()
        builder.add(segmentation, 30, 40)
        built = builder.build()
        # As the reader of annotations does, which refuses points that are far away or not finite.
        if built.reach()[0] <= 400:
            assert set(np.unique(built.mask(0, 30, 40)).tolist()) <= {0, 1}

    segmentations: list[Any] = [
        {"size": [30, 40], "counts": [0, 33, 1167]},
        {"size": [30, 40], "counts": strings[0].decode()},
        [[1, 2, 11, 2, 11, 10, 1, 10], [20.5, 3, 25, 3, 25, 9.25]],
    ]
    return {
        "run lengths": Target(strings, read_rle, (ValueError,)),
        "segmentations": Target(
            [json.dumps(s).encode() for s in segmentations],
            read_segmentation,
            (BadSegmentation, json.JSONDecodeError, UnicodeDecodeError, RecursionError, ValueError),
            is_json=True,
        ),
    }


def _evaluation_targets(folder: Path) -> dict[str, Target]:
    from pycocotools import mask as mask_utils

    content = coco_content()
    for row in content["annotations"]:
        x, y, width, height = row["bbox"]
        row.setdefault("segmentation", [[x, y, x + width, y, x + width, y + height, x, y + height]])
        row |= {"keypoints": [3, 4, 2] * 17, "num_keypoints": 17}
    rows = [
        {key: row[key] for key in ("image_id", "category_id", "bbox", "segmentation", "keypoints")} | {"score": 0.5}
        for row in content["annotations"]
    ]
    encoded = mask_utils.encode(np.asfortranarray(labels(0, [0, 1])))
    string = {"size": [30, 40], "counts": encoded["counts"].decode()}
    results = [
        [{key: row[key] for key in ("image_id", "category_id", "score", kind)} for row in rows]
        for kind in ("bbox", "segmentation", "keypoints")
    ]
    truth, found = folder / "truth.json", folder / "results.json"
    good = json.dumps(content).encode()

    def evaluate(truth_content: bytes, results_content: bytes) -> None:
        truth.write_bytes(truth_content)
        found.write_bytes(results_content)
        refused: list[DataError] = []
        for iou_type in ("bbox", "segm", "keypoints"):
            try:
                numbers = coco_eval(truth, found, iou_type, per_class=True)
            except DataError as error:
                refused.append(error)
            else:
                assert all(-1 <= value <= 1 for value in numbers.values())
        assert all(str(folder) in str(error) for error in refused)
        if len(refused) == 3:
            raise refused[0]

    boxes = folder / "boxes.json"

    def read_box_file(content: bytes) -> None:
        for path in (boxes, boxes.with_suffix(".csv")):
            path.write_bytes(content)
            with contextlib.suppress(DataError):
                read_boxes(path, [Path("a.jpg"), Path("b.jpg")])

    def read_person_boxes(content: bytes) -> None:
        boxes.write_bytes(content)
        _read_detections(boxes)

    predicted = [{"file": "a.jpg", "detections": [{"box": [1, 2, 3, 4], "score": 0.5, "name": "cat"}]}]
    seeds = [json.dumps(r).encode() for r in (*results, [{**results[1][0], "segmentation": string}])]
    everything = json.dumps(rows).encode()
    return {
        "COCO results": Target(seeds, lambda c: evaluate(good, c), (DataError,), is_json=True),
        "COCO truth": Target([good], lambda c: evaluate(c, everything), (DataError,), is_json=True),
        "boxes": Target([json.dumps(predicted).encode(), b"a.jpg,1,2,3,4\n"], read_box_file),
        "boxes json": Target([json.dumps(predicted).encode(), seeds[0]], read_box_file, is_json=True),
        "persons' boxes": Target([seeds[0]], read_person_boxes, (DataError,), is_json=True),
    }


def _weight_targets(folder: Path) -> dict[str, Target]:
    path = folder / "a.pt"
    state = {"model": {"conv.weight": torch.randn(2, 3), "norm.steps": torch.tensor(3)}, "trainer": {"epoch": 2}}
    save_checkpoint(state, path)
    checkpoint = path.read_bytes()
    legacy = io.BytesIO()
    torch.save(state, legacy, _use_new_zipfile_serialization=False)
    plain = io.BytesIO()
    torch.save(state, plain)

    def read(content: bytes) -> None:
        path.write_bytes(content)
        load_checkpoint(path)

    def read_any(content: bytes) -> None:
        path.write_bytes(content)
        read_weights(path)

    return {
        "checkpoints": Target([checkpoint], read, (CheckpointError,), is_archive=True),
        "weights": Target([plain.getvalue()], read_any, (ValueError,), is_archive=True),
        "weights of old": Target([legacy.getvalue()], read_any, (ValueError,)),
    }


def _image_targets(folder: Path) -> dict[str, Target]:
    picture, numbers = Image.fromarray(photo(1)), Image.fromarray(labels(1, [0, 1, 2]))

    def encoded(image: Image.Image, kind: str, **options: Any) -> bytes:
        content = io.BytesIO()
        exif = Image.Exif()
        exif[0x0112] = 6
        with contextlib.suppress(TypeError):
            options |= {} if kind in ("BMP", "GIF", "PPM") else {"exif": exif}
        image.save(content, kind, **options)
        return content.getvalue()

    photos = [encoded(picture, kind) for kind in ("JPEG", "PNG", "BMP", "GIF", "PPM", "TIFF", "WEBP")]
    photos += [encoded(picture, "JPEG", progressive=True), encoded(picture.convert("CMYK"), "JPEG")]
    masks = [encoded(image, kind) for kind in ("PNG", "TIFF", "GIF") for image in (numbers, numbers.convert("P"))]
    path = folder / "image"

    def read_photo(content: bytes) -> None:
        path.write_bytes(content)
        size = image_size(path)
        assert tuple(read_image(path).shape[1:]) == size

    def read_numbers(content: bytes) -> None:
        path.write_bytes(content)
        for read in (read_mask, read_binary_mask):
            with contextlib.suppress(DataError):
                read(path)

    return {
        "images": Target(photos, read_photo, (DataError,)),
        "masks": Target(masks, read_numbers, (DataError,)),
    }


def run_target(name: str, target: Target, inputs: int, *, seed: int = 0, keep: Path | None = None) -> dict[str, Any]:
    """Feed a reader.

    Returns:
        What happened; ``broken`` lists the errors that are not declared, and the inputs that took too long.
    """
    mutator = Mutator(zlib.crc32(name.encode()) + seed)
    refused, slowest, broken = 0, 0.0, list[str]()
    memory: list[tuple[int, int]] = []
    for content in target.seeds:
        target.read(content)
    for number in range(inputs):
        content = mutator.change(target.seeds, is_json=target.is_json, is_archive=target.is_archive)
        if keep is not None:  # should the process die of it
            (keep / "newest").write_bytes(content)
        begin = time.process_time()
        problem = ""
        try:
            with _alarm(ends_process=keep is not None):
                target.read(content)
        except target.refusals as error:
            refused += 1
            if not str(error).strip() or "\n" in str(error):
                problem = f"not one line: {error!r}"
        except Exception as error:
            problem = f"{type(error).__name__}: {error}"
        seconds = time.process_time() - begin
        slowest = max(slowest, seconds)
        if seconds > SECONDS:
            problem = problem or f"{seconds:.1f} s"
        if problem:
            broken.append(f"{name}, input {number}: {problem[:300]}")
            if keep is not None:
                (keep / f"{name} {number}".replace(" ", "-")).write_bytes(content)
        if number % 100 == 0:
            memory.append((number, _resident_kilobytes()))
    return {
        "reader": name,
        "inputs": inputs,
        "refused": refused,
        "broken": broken,
        "slowest": round(slowest, 3),
        "KB per 1000": _slope(memory),
    }


def _slope(memory: list[tuple[int, int]]) -> float | None:
    """Growth of memory after the first third, in KB for each thousand inputs."""
    later = np.array(memory[len(memory) // 3 :], dtype=np.float64)
    if len(later) < 4:
        return None
    return round(float(np.polyfit(later[:, 0], later[:, 1], 1)[0]) * 1000, 1)


def _resident_kilobytes() -> int:
    with contextlib.suppress(OSError):
        return int(Path("/proc/self/statm").read_text().split()[1]) * (os.sysconf("SC_PAGE_SIZE") // 1024)
    return 0


@contextlib.contextmanager
def _alarm(seconds: int = 30, *, ends_process: bool) -> Iterator[None]:
    def stop(*_: object) -> None:
        raise TimeoutError(f"no answer within {seconds} seconds")

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(seconds)
    if ends_process:  # no signal interrupts a loop in C; the input is in the file "newest"
        faulthandler.dump_traceback_later(2 * seconds, exit=True)
    try:
        yield
    finally:
        signal.alarm(0)
        if ends_process:
            faulthandler.cancel_dump_traceback_later()
        signal.signal(signal.SIGALRM, before)


@contextlib.contextmanager
def small_images() -> Iterator[None]:
    """Within it no image of more than a million pixels is decoded."""
    with patch.object(images, "MAX_PIXELS", _PIXELS), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow and torch warn of some damages that they get over
        yield


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--inputs", type=int, default=2000, help="for each reader")
    parser.add_argument("--total", type=int, help="for all readers together, instead")
    parser.add_argument("--readers", nargs="+")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep", type=Path, default=Path(tempfile.gettempdir()) / "fuzz", help="folder")
    arguments = parser.parse_args()
    faulthandler.enable()
    torch.set_num_threads(1)
    arguments.keep.mkdir(parents=True, exist_ok=True)
    begin, first = time.perf_counter(), _resident_kilobytes()
    reports = []
    with tempfile.TemporaryDirectory() as name, small_images():
        targets = create_targets(Path(name))
        chosen = arguments.readers or list(targets)
        inputs = -(-arguments.total // len(chosen)) if arguments.total else arguments.inputs
        for reader in chosen:
            reports.append(run_target(reader, targets[reader], inputs, seed=arguments.seed, keep=arguments.keep))
            print(json.dumps(reports[-1]), flush=True)
    sums = {key: sum(report[key] for report in reports) for key in ("inputs", "refused")}
    broken = sum(len(report["broken"]) for report in reports)
    slowest = max(report["slowest"] for report in reports)
    grown = _resident_kilobytes() - first
    seconds = round(time.perf_counter() - begin)
    print(json.dumps({**sums, "broken": broken, "slowest": slowest, "KB grown": grown, "seconds": seconds}))


if __name__ == "__main__":
    main()
