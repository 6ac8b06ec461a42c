"""Bad input of every format, one record each, and the judge of what becomes of it.

A case is right if the ``check`` command finds the fault in its one pass, opening the data for training refuses it in
one line that names the file, the place in it, what was expected and what to do, and ``on_bad_sample="skip"`` opens what
is good (every sample of which loads) or, where nothing can be read past the fault, refuses as well. What no format
can see before a file is decoded is refused or left out when it is loaded. Some cases look bad and are rightly accepted.

    python -m tests.faults.bad_input            # prints each case, and how many are right
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import re
import shutil
import signal
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from PIL import Image

from ignite_imgtools import data
from ignite_imgtools.data import check_dataset, create_loader
from ignite_imgtools.formats import DataError
from tests.data import coco_faults, voc_faults
from tests.data.coco_faults import ann, set_ann, set_image, without
from tests.data.coco_faults import image as image_of
from tests.data.coco_folder import annotation, coco_content, write_coco_folder
from tests.data.dense_folders import labels, photo, save, write_drive, write_masks, write_saliency, write_voc
from tests.data.landmark_folders import face, write_csv, write_pts, write_wflw
from tests.data.person_folder import change_to_people
from tests.data.voc_folder import voc_object, voc_xml, write_voc_folder
from tests.data.yolo_folder import BAD_ROWS, YAML, write_yolo_folder

SECONDS = 5  # no case may take longer: a pipe that is opened would wait for ever

Damage = Callable[[Path], Any]


@dataclasses.dataclass(frozen=True)
class Case:
    """One kind of bad input.

    Args:
        data_format: a key of :data:`FORMATS`.
        name: what is wrong.
        damage: called with the folder of a good data set.
        says: a regular expression in what check and training say; ``None`` where the data are rightly accepted.
        found: what finds it: looking at the files, as both check and training do before the first step (``"looking"``);
            check, which decodes masks, and training when it loads them (``"loading"``); ``check --decode`` alone, and
            training when it loads the image, unless libjpeg goes on with what it makes of the rest (``"decoding"``).
        skipped: whether ``"skip"`` can leave it out; ``False`` where nothing can be read past it.
    """

    data_format: str
    name: str
    damage: Damage
    says: str | None
    found: Literal["looking", "decoding", "loading"] = "looking"
    skipped: bool = True


@dataclasses.dataclass(frozen=True)
class _Format:
    write: Callable[[Path], Any]
    open: Callable[..., Any]


def _people(folder: Path) -> None:
    def change(content: dict[str, Any]) -> None:
        change_to_people(content)
        points = [3, 4, 2, 5.5, 6, 1, 0, 0, 0]
        for id_, image_id in ((7, 2), (8, 2), (9, 1)):
            row = annotation(id_, image_id, 5, [1, 2, 10, 8], keypoints=points, num_keypoints=2)
            content["annotations"].append(row)

    file = write_coco_folder(folder, change)
    file.rename(file.with_name("person_keypoints_train.json"))


def _penn_fudan(folder: Path) -> None:
    for number, stem in enumerate(("a", "b", "c")):
        save(folder / "PNGImages" / f"{stem}.png", photo(number))
        numbers = np.zeros((30, 40), dtype=np.uint8)
        numbers[3:12, 5:15], numbers[10:28, 20:33] = 1, 2
        save(folder / "PedMasks" / f"{stem}_mask.png", numbers, "P")


def _classes(folder: Path) -> None:
    for number in range(6):
        save(folder / ("cat" if number % 2 else "dog") / f"{number}.jpg", photo(number))


FORMATS: dict[str, _Format] = {
    "coco": _Format(write_coco_folder, data.open_detection_data),
    "voc": _Format(write_voc_folder, data.open_detection_data),
    "yolo": _Format(write_yolo_folder, data.open_detection_data),
    "penn_fudan": _Format(_penn_fudan, data.open_detection_data),
    "coco_keypoints": _Format(_people, data.open_person_data),
    "masks": _Format(lambda folder: _with_classes(write_masks(folder)), data.open_segmentation_data),
    "voc_segmentation": _Format(write_voc, data.open_segmentation_data),
    "drive": _Format(write_drive, data.open_segmentation_data),
    "saliency": _Format(write_saliency, data.open_saliency_data),
    "class_folders": _Format(_classes, data.open_classification_data),
    "wflw": _Format(lambda f: write_wflw(f, {"train": ["a.png", "b.png", "c.png"]}), data.open_landmark_data),
    "pts": _Format(lambda folder: write_pts(folder, ["a", "b", "c"]), data.open_landmark_data),
    "points_csv": _Format(
        lambda f: write_csv(f / "faces.csv", ["a.png", "b.png", "c.png"], count=5), data.open_landmark_data
    ),
}


def _with_classes(folder: Path) -> None:
    (folder / "classes.txt").write_text("background\nroad\ncar\n")


# --- ways to damage ---------------------------------------------------------------------------------------------------


def _json(name: str, change: Callable[[dict[str, Any]], Any]) -> Damage:
    def damage(folder: Path) -> None:
        file = folder / "annotations" / name
        content = json.loads(file.read_text())
        change(content)
        file.write_text(json.dumps(content))

    return damage


def _coco(change: Callable[[dict[str, Any]], Any]) -> Damage:
    return _json("instances_train.json", change)


def _persons(change: Callable[[dict[str, Any]], Any]) -> Damage:
    return _json("person_keypoints_train.json", change)


def _bytes(name: str, make: bytes | Callable[[Path], bytes]) -> Damage:
    return lambda folder: (folder / name).write_bytes(make if isinstance(make, bytes) else make(folder / name))


def _text(name: str, change: Callable[[str], str]) -> Damage:
    return lambda folder: (folder / name).write_text(change((folder / name).read_text()))


def _lines(name: str, change: Callable[[list[str]], Any]) -> Damage:
    def damage(folder: Path) -> None:
        lines = (folder / name).read_text().splitlines()
        change(lines)
        (folder / name).write_text("\n".join(lines) + "\n")

    return damage


def _pixels(name: str, pixels: np.ndarray, mode: str | None = None) -> Damage:
    return lambda folder: save(folder / name, pixels, mode)


def _remove(*names: str) -> Damage:
    return lambda folder: [(folder / name).unlink() for name in names]


def _pipe(name: str) -> Damage:
    def damage(folder: Path) -> None:
        (folder / name).unlink(missing_ok=True)
        os.mkfifo(folder / name)

    return damage


def _folder_instead(name: str) -> Damage:
    def damage(folder: Path) -> None:
        (folder / name).unlink()
        (folder / name).mkdir()

    return damage


def _link_out(name: str) -> Damage:
    def damage(folder: Path) -> None:
        outside = folder.parent / f"outside-{Path(name).name}"
        (folder / name).rename(outside)
        (folder / name).symlink_to(outside)

    return damage


def _link_to_itself(name: str) -> Damage:
    def damage(folder: Path) -> None:
        (folder / name).unlink()
        (folder / name).symlink_to(folder / name)

    return damage


def _turned(name: str, orientation: int = 6) -> Damage:
    def damage(folder: Path) -> None:
        exif = Image.Exif()
        exif[0x0112] = orientation
        with Image.open(folder / name) as image:
            image.load()
        image.save(folder / name, exif=exif)

    return damage


def _converted(name: str, mode: str) -> Damage:
    def damage(folder: Path) -> None:
        with Image.open(folder / name) as image:
            image.load()
        image.convert(mode).save(folder / name)

    return damage


def _garbled(name: str, count: int = 400) -> Damage:
    """Zeros where pixels are: as after the loss of a sector of a disk. No marker of the file is touched."""

    def damage(folder: Path) -> None:
        with Image.open(folder / name) as image:
            size = image.size
        # Noise, so that there is enough to lose.
        noise = np.random.default_rng(3).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
        Image.fromarray(noise).save(folder / name, quality=95)
        content = bytearray((folder / name).read_bytes())
        middle = (content.index(b"\xff\xda") + len(content)) // 2
        content[middle : middle + count] = bytes(count)
        (folder / name).write_bytes(content)

    return damage


def _bad_chunk(name: str) -> Damage:
    """A PNG whose pixels have a wrong checksum."""

    def damage(folder: Path) -> None:
        content = bytearray((folder / name).read_bytes())
        content[content.index(b"IDAT") + 20] ^= 0xFF
        (folder / name).write_bytes(content)

    return damage


def _all(*damages: Damage) -> Damage:
    return lambda folder: [damage(folder) for damage in damages]


# --- the cases --------------------------------------------------------------------------------------------------------

_IMAGE_FILES: dict[str, tuple[Callable[[str], Damage], str]] = {
    # Of any format: what the file of an image can be instead.
    "missing": (_remove, "no such image file|expected one of the same name|a file of the name|image: expected one"),
    "no bytes": (lambda name: _bytes(name, b""), "the image file is empty"),
    "a page of html": (lambda name: _bytes(name, b"<!DOCTYPE html><html>404</html>"), "cannot be read as an image"),
    "cut": (lambda name: _bytes(name, lambda path: path.read_bytes()[:-138]), "breaks off|cannot be read as"),
    "a folder": (_folder_instead, "it is a folder|image: expected one of this name"),
    "a pipe": (_pipe, "not a regular file"),
    "a link to itself": (_link_to_itself, "link|cannot be opened"),
    "a link out": (_link_out, "follows a link out of"),
    "a bomb": (lambda name: _bytes(name, coco_faults.png_that_says(60_000, 60_000)), "at most 178,956,970 pixels"),
}


def _image_cases() -> Iterator[Case]:
    images = {
        "coco": "train/1.jpg",
        "voc": "JPEGImages/a.jpg",
        "yolo": "images/train/a.jpg",
        "penn_fudan": "PNGImages/a.png",
        "coco_keypoints": "train/1.jpg",
        "masks": "images/a.jpg",
        "voc_segmentation": "JPEGImages/a.jpg",
        "drive": "training/images/21_training.tif",
        "saliency": "images/a.jpg",
        "class_folders": "cat/1.jpg",
        "wflw": "WFLW_images/a.png",
        "pts": "a.png",
        "points_csv": "a.png",
    }
    for data_format, name in images.items():
        for what, (make, says) in _IMAGE_FILES.items():
            # What is in a folder of a class, or of Penn-Fudan's images, is all there is.
            if (data_format, what) in (
                ("class_folders", "missing"),
                ("class_folders", "a folder"),
                ("penn_fudan", "missing"),
            ):
                continue
            yield Case(data_format, f"image file: {what}", make(name), says)
        if not name.endswith(".tif"):
            garble = _garbled if name.endswith(".jpg") else _bad_chunk
            what = "damage in the middle of the image"
            yield Case(data_format, what, garble(name), "found damage|cannot be read as a PNG", "decoding")


def _coco_cases() -> Iterator[Case]:
    for name, (change, says) in coco_faults.BAD_ANNOTATIONS.items():
        yield Case("coco", f"annotation: {name}", _coco(change), says)
    for name, (change, says) in coco_faults.BAD_IMAGES.items():
        # Of two images of an id none can be used, and the one that is left cannot be split.
        yield Case("coco", f"image: {name}", _coco(change), says, skipped=name != "image id again")
    for name, (change, says) in coco_faults.BAD_CATEGORIES.items():
        yield Case("coco", f"category: {name}", _coco(change), says)
    file = "annotations/instances_train.json"
    for name, content, says in (
        ("empty", b"", "json: expected COCO annotations, got no valid json"),
        ("cut", json.dumps(coco_content()).encode()[:-9], "json: expected COCO annotations, got no valid json"),
        ("byte order mark", b"\xef\xbb\xbf{}", "without a byte order mark"),
        ("not UTF-8", b'{"images": "\xff"}', "encoding: expected UTF-8, got byte 12 that is not"),
        ("nested endlessly", b"[" * 200_000, "json: expected COCO annotations"),
        ("a list", b"[]", "expected an object with images, annotations, categories, got a list"),
        ("nothing in it", b"{}", "images: expected a list, got nothing"),
        ("no categories", b'{"images": [], "annotations": [], "categories": []}', "expected at least one"),
    ):
        yield Case("coco", f"file: {name}", _bytes(file, content), says, skipped=False)
    for key in ("images", "categories", "annotations"):
        yield Case("coco", f"no {key}", _coco(lambda c, key=key: c.pop(key)), f"{key}: expected a list", skipped=False)
        if key != "annotations":
            empty = _coco(lambda c, key=key: c.update({key: []}))
            yield Case("coco", f"{key} empty", empty, f"{key}: expected at least one", skipped=False)
    yield Case("coco", "file: a pipe", _pipe(file), "annotation file: expected a file", skipped=False)
    yield Case("coco", "size: one pixel", _pixels("train/1.jpg", photo(0, 1, 1)), "image size: expected 40 x 30")
    yield Case("coco", "turned by EXIF, sizes as stored", _turned("train/1.jpg"), r"turned by its EXIF orientation\?")
    for name in ("a\x1b[2Jb", "a\u202eb", "a\ud800b", "a\nb", "x" * 9_999):
        change = _coco(lambda c, name=name: c["categories"][0].update(name=name))
        yield Case("coco", f"class named {name!r:.20}", change, "name: expected a name of 1 to 256 printable")

    def sizes_as_shown(content: dict[str, Any]) -> None:
        image_of(content, 1).update(width=30, height=40)
        for id_ in (11, 12):
            ann(content, id_)["bbox"] = [1, 2, 8, 9]

    for name, damage in {
        "turned by EXIF, sizes as shown": _all(_turned("train/1.jpg"), _coco(sizes_as_shown)),
        "upside down by EXIF": _turned("train/1.jpg", 3),
        "RGBA": _all(
            lambda folder: save(folder / "train" / "1.png", np.dstack([photo(1), photo(1)[..., 0]])),
            _coco(set_image(file_name="1.png")),
        ),
        "CMYK": _converted("train/1.jpg", "CMYK"),
        "grey": _converted("train/1.jpg", "L"),
        "16 bits": _all(
            lambda folder: save(folder / "train" / "1.png", np.full((30, 40), 40_000, np.uint16)),
            _coco(set_image(file_name="1.png")),
        ),
        "bytes after the image": _bytes("train/1.jpg", lambda path: path.read_bytes() + b"a camera's notes" * 9),
        "no annotations": _coco(lambda content: content.update(annotations=[])),
        "crowds alone": _coco(lambda content: content.update(annotations=content["annotations"][3:])),
        "partly outside": _coco(set_ann(bbox=[35, 25, 20, 20])),
        "annotation id 0": _coco(set_ann(id=0)),
        "id 3.0": _coco(set_ann(id=3.0)),
        "no iscrowd": _coco(without("annotations", "iscrowd")),
        "no area": _coco(without("annotations", "area")),
        "no segmentation": _coco(set_ann(segmentation=[])),
        "keys of other tools": _coco(lambda content: content.update(info=5, licenses=None)),
        "script in a class name": _coco(lambda c: c["categories"][0].update(name="<script>alert(1)</script>")),
    }.items():
        yield Case("coco", f"accepted: {name}", damage, None)


def _voc_cases() -> Iterator[Case]:
    def of_a(xml: str) -> Damage:
        return lambda folder: (folder / "Annotations" / "a.xml").write_text(xml)

    for name, (xml, says) in voc_faults.BAD_OBJECTS.items():
        yield Case("voc", f"object: {name}", of_a(voc_xml("a", voc_object("wolf", voc_faults.GOOD_BOX), xml)), says)
    for name, (xml, says) in voc_faults.BAD_XML.items():
        yield Case("voc", f"xml: {name}", of_a(xml), says)
    names = "ImageSets/Main/train.txt"
    for name, line, says in (
        ("up and out", "../../secret", "name: expected one inside of Annotations"),
        ("absolute", "/etc/passwd", "name: expected one inside of Annotations"),
        ("too long for a file", "x" * 300, "File name too long"),
        ("endless", "x" * 99_999, "has 100,003 characters"),
        ("unknown", "none", "annotation file: expected a file, got nothing there"),
        ("twice", "b", "line 3: name: expected each image once"),
        ("null character", "a\0b", "name: expected one inside of Annotations"),
    ):
        yield Case("voc", f"list: {name}", _lines(names, lambda rows, line=line: rows.append(line)), says)
    yield Case("voc", "list: empty", _bytes(names, b"\n"), "images: expected at least one", skipped=False)
    yield Case("voc", "list: not UTF-8", _bytes(names, b"\xff\xfe"), "expected UTF-8 text", skipped=False)
    yield Case("voc", "xml: a pipe", _pipe("Annotations/a.xml"), "annotation file: expected a file")
    yield Case("voc", "xml: a link out", _link_out("Annotations/a.xml"), "follows a link out of")
    yield Case("voc", "turned by EXIF", _turned("JPEGImages/a.jpg"), "EXIF orientation")
    for name in ("&#8238;dog", "x" * 300):
        xml = voc_xml("a", voc_object(name, voc_faults.GOOD_BOX))
        yield Case("voc", f"class named {name:.9}", of_a(xml), "name: expected a name of 1 to 256 printable")
    small = voc_xml("a", voc_object("dog", (1, 2, 11, 12)), size="<width>0</width><height>0</height>")
    yield Case("voc", "accepted: size 0 x 0, as tools write it", of_a(small), None)
    yield Case("voc", "accepted: no size", of_a(voc_xml("a", voc_object("dog", (1, 2, 11, 12)), size="")), None)
    yield Case("voc", "accepted: no objects", of_a(voc_xml("a")), None)


def _yolo_cases() -> Iterator[Case]:
    label = "labels/train/a.txt"
    for row, says in BAD_ROWS:
        damage = _bytes(label, f"1 0.25 0.2 0.5 0.4\n{row}\n".encode())
        yield Case("yolo", f"row: {row}", damage, f"line 2: {re.escape(says)}")
    yield Case("yolo", "labels: a pipe", _pipe(label), "label file: expected UTF-8 text, got .*not a regular file")
    yield Case("yolo", "labels: a folder", _folder_instead(label), "label file: expected UTF-8 text")
    yield Case("yolo", "labels: a link out", _link_out(label), "follows a link out of")
    yield Case("yolo", "labels: not UTF-8", _bytes(label, b"\xff\xfe\0"), "label file: expected UTF-8 text")
    lost = _bytes("labels/train/lost.txt", b"0 .5 .5 .5 .5")
    yield Case("yolo", "labels of no image", lost, "lost.txt: image: expected one of this name")
    gone = _all(_remove("labels/train/b.txt"), _remove(label))
    yield Case("yolo", "no labels at all", gone, "labels: expected at least one label file", skipped=False)
    yield Case("yolo", "linked folder", lambda f: (f / "images/train/more").symlink_to("/"), "a link, which is not")
    for name, yaml, says in (
        ("no yaml", "a: [", "expected YAML"),
        ("an alias", "names: &a [cat, dog]\ntrain: images/train\nother: *a", "an alias, which this file needs none"),
        ("python object", "names: !!python/object/apply:os.system ['true']\ntrain: images/train", "expected YAML"),
        ("python name", "names: !!python/name:os.system\ntrain: images/train", "expected YAML"),
        ("no names", "train: images/train", "expected names, train and val"),
        ("nc differs", YAML.replace("nc: 2", "nc: 3"), "nc: expected 2"),
        ("a name twice", YAML.replace("dog", "cat"), "names: expected different names"),
        ("a name that is none", YAML.replace("dog", "no"), "put it in quotes"),
        ("escapes in a name", YAML.replace("dog", '"\\e[31m"'), "names: expected a name of 1 to 256 printable"),
        ("a part outside", YAML.replace("images/train", "../../../etc"), "inside of"),
        ("an absolute part", YAML.replace("images/train", "/etc"), "inside of"),
        ("an endless part", YAML.replace("images/train", "x" * 9_999), "inside of"),
        ("a large file", "#" * (1 << 20) + YAML, "expected a short description"),
        ("nested endlessly", "[" * 5_000, "expected YAML"),
    ):
        yield Case("yolo", f"yaml: {name}", _bytes("data.yaml", yaml.encode()), says, skipped=False)
    by_list = _bytes("data.yaml", YAML.replace("images/train", "train.txt").encode())
    for name, line, says in (
        ("up and out", "../../../etc/passwd", "expected one inside of|goes up"),
        ("absolute", "/etc/passwd", "expected one inside of"),
        ("unknown", "images/train/none.jpg", "no such image file"),
        ("twice", "images/train/a.jpg", "each once"),
        ("endless", "x" * 9_999, "has 9,999 characters|inside of"),
        ("null character", "images/a\0.jpg", "file name|inside of"),
    ):
        damage = _all(by_list, _bytes("train.txt", f"images/train/a.jpg\nimages/train/b.jpg\n{line}\n".encode()))
        yield Case("yolo", f"list: {name}", damage, says)
    yield Case("yolo", "list: a pipe", _all(by_list, _pipe("train.txt")), "list of images", skipped=False)
    yield Case("yolo", "accepted: turned by EXIF, shares hold", _turned("images/train/a.jpg"), None)
    yield Case("yolo", "accepted: an empty label file", _bytes(label, b""), None)


def _dense_cases() -> Iterator[Case]:
    masks = {
        "masks": ("masks/a.png", "images/a.jpg"),
        "voc_segmentation": ("SegmentationClass/a.png", "JPEGImages/a.jpg"),
        "saliency": ("masks/a.png", "images/a.jpg"),
        "drive": ("training/1st_manual/21_manual1.gif", "training/images/21_training.tif"),
    }
    for data_format, (mask, image) in masks.items():
        missing = "expected one of the same name|a file of the name"
        yield Case(data_format, "mask missing", _remove(mask), missing)
        yield Case(data_format, "mask empty", _bytes(mask, b""), "the image file is empty")
        yield Case(data_format, "mask of another size", _pixels(mask, labels(0, [0, 255], 30, 41)), "size: expected")
        turned = _pixels(mask, labels(0, [0, 255], 40, 30))
        yield Case(data_format, "mask turned", turned, r"turned by EXIF orientation\?")
        yield Case(data_format, "mask: a pipe", _pipe(mask), "not a regular file")
        yield Case(data_format, "mask: a link out", _link_out(mask), "follows a link out of")
        cut = _bytes(mask, lambda path: path.read_bytes()[:-60])
        found: Any = "loading" if mask.endswith(".gif") else "looking"
        yield Case(data_format, "mask cut", cut, "breaks off|cannot be read as", found)
        turned = r"turned by EXIF orientation\?"
        yield Case(data_format, "image turned by EXIF, mask not", _turned(image), turned)
        if data_format in ("masks", "voc_segmentation"):
            says = "expected a palette or a grey image"
            yield Case(data_format, "mask of colours", _pixels(mask, photo(3)), says, "loading")
            number = _pixels(mask, labels(0, [0, 77]))
            yield Case(data_format, "mask of unknown numbers", number, "class numbers: expected 0 to", "loading")
        else:
            yield Case(data_format, "mask of 0 and 1", _pixels(mask, labels(0, [0, 1])), "write 255 for 1", "loading")
    yield Case("drive", "no field of view", _remove("training/mask/21_training_mask.gif"), "expected one of the same")
    view = _pixels("training/mask/21_training_mask.gif", labels(0, [255], 29, 40))
    yield Case("drive", "field of view of another size", view, "size: expected")
    lone = _pixels("masks/lone.png", labels(0, [0, 1]))
    yield Case("masks", "mask without its image", lone, "image: expected one of the same name")
    twin = _pixels("images/a.png", photo(0))
    yield Case("masks", "two images of a name", twin, "expected no other one of this name")
    jpeg = _all(_remove("masks/a.png"), _pixels("masks/a.jpg", labels(0, [0, 1])))
    yield Case("masks", "mask as JPEG", jpeg, "neither JPEG nor GIF", "loading")
    for name, text, says in (
        ("a name twice", b"a\na\n", "different and not empty"),
        ("not UTF-8", b"\xff\n", "expected UTF-8 text"),
        ("one name", b"a\n", "must be 2 to 255 names"),
        ("escapes in a name", b"a\nb\x1b[31m\n", "expected a name of 1 to 256 printable"),
    ):
        yield Case("masks", f"classes.txt: {name}", _bytes("classes.txt", text), says, skipped=False)
    names = "ImageSets/Segmentation/train.txt"
    for name, line, says in (
        ("unknown", "nobody", "a file of the name 'nobody'"),
        ("twice", "a", "each image once"),
        ("up and out", "../../secret", "a file of the name"),
    ):
        yield Case("voc_segmentation", f"list: {name}", _lines(names, lambda r, line=line: r.append(line)), says)
    bare = _bytes(names, b"\n")
    yield Case("voc_segmentation", "list: empty", bare, "images: expected at least one", skipped=False)
    yield Case("penn_fudan", "mask missing", _remove("PedMasks/a_mask.png"), "no such image file")
    wrong = _pixels("PedMasks/a_mask.png", labels(0, [0, 1], 30, 41), "P")
    yield Case("penn_fudan", "mask of another size", wrong, "size: expected that of the image")
    yield Case("penn_fudan", "mask: a pipe", _pipe("PedMasks/a_mask.png"), "not a regular file")
    yield Case("penn_fudan", "accepted: nobody in the image", _pixels("PedMasks/a_mask.png", labels(0, [0]), "P"), None)


def _class_cases() -> Iterator[Case]:
    yield Case(
        "class_folders", "a class without images", lambda f: (f / "cow").mkdir(), "images: expected at least one"
    )
    outside = Path("/usr/share")
    says = "follows a link out of"
    yield Case("class_folders", "a class that is a link out", lambda f: (f / "cow").symlink_to(outside), says)
    inner = "a link, which is not followed"
    yield Case("class_folders", "a linked folder in a class", lambda f: (f / "cat/more").symlink_to(outside), inner)
    only = "expected at least 2 folders"
    alone = _all(lambda f: shutil.rmtree(f / "dog"))
    yield Case("class_folders", "a single class", alone, only, skipped=False)
    for name in ("a\nb", "a\x1b[31m", os.fsdecode(b"a\xff")):
        damage = _renamed("dog", name)
        says = "class: expected a name of 1 to 256 printable"
        yield Case("class_folders", f"class named {name!r}", damage, says, skipped=False)
    other = _all(_into_train, *(_pixels(f"val/{name}/1.jpg", photo(1)) for name in ("cat", "cow")))
    yield Case("class_folders", "an unknown class to validate", other, "class: expected one of cat, dog")
    yield Case("class_folders", "accepted: turned by EXIF", _turned("cat/1.jpg"), None)
    yield Case("class_folders", "accepted: notes beside images", _bytes("cat/notes.txt", b"x"), None)


def _renamed(old: str, new: str) -> Damage:
    return lambda folder: (folder / old).rename(folder / new)


def _into_train(folder: Path) -> None:
    (folder / "train").mkdir()
    for name in ("cat", "dog"):
        (folder / name).rename(folder / "train" / name)


def _landmark_cases() -> Iterator[Case]:
    file = "WFLW_annotations/list_98pt_rect_attr_train_test/list_98pt_rect_attr_train.txt"

    def field(number: int, value: str) -> Damage:
        def change(lines: list[str]) -> None:
            fields = lines[1].split()
            fields[number] = value
            lines[1] = " ".join(fields)

        return _lines(file, change)

    for name, damage, says in (
        ("a field too few", _lines(file, lambda r: r.__setitem__(1, r[1].partition(" ")[2])), "line 2: fields: exp"),
        ("NaN", field(3, "nan"), "line 2: coordinates: expected finite numbers, got 'nan'"),
        ("infinity", field(3, "1e999"), "line 2: coordinates: expected finite numbers"),
        ("text", field(3, "x"), "line 2: coordinates: expected finite numbers"),
        ("flag 2", field(200, "2"), "line 2: attributes: expected 0 or 1"),
        ("box of no width", field(198, "1"), "line 2: box: expected x1 < x2"),
        ("point far away", field(3, "5000"), "line 2: point 1: expected at most 60 pixels outside"),
        ("unknown image", field(206, "none.png"), "line 2: no such image file"),
        ("up and out", field(206, "../../secret.png"), "goes up out of"),
        ("absolute", field(206, "/etc/passwd"), "expected a path relative to"),
        ("endless name", field(206, "x" * 9_999), "has 9,999 characters"),
        ("a face twice", _lines(file, lambda rows: rows.append(rows[0])), "each of its faces once"),
    ):
        yield Case("wflw", name, damage, says)
    yield Case("wflw", "empty", _bytes(file, b""), "faces: expected at least one", skipped=False)
    yield Case("wflw", "not UTF-8", _bytes(file, b"\xff"), "points: expected UTF-8 text", skipped=False)
    yield Case("wflw", "a pipe", _pipe(file), "not a regular file", skipped=False)
    yield Case("wflw", "accepted: two faces of an image", field(206, "a.png"), None)

    good = "version: 1\nn_points: 68\n{\n" + "".join(f"{x} {y}\n" for x, y in face(0)) + "}\n"
    for name, text, says in (
        ("empty", "", "points: expected a closing brace"),
        ("cut", good[:-20], "expected a closing brace|numbers: expected 2"),
        ("a point too few", good.replace(good.splitlines()[5] + "\n", "", 1), "points: expected 68, got 67"),
        ("three numbers", good.replace("{\n", "{\n1 ", 1), "line 4: numbers: expected 2, got 3"),
        ("NaN", good.replace("{\n", "{\nnan ", 1).replace(" ", " ", 1), "line 4: "),
        ("text after", good + "x\n", "expected version, n_points, and points in braces"),
        ("in shares of the image", _shares(), "write them in pixels"),
    ):
        yield Case("pts", name, _bytes("a.pts", text.encode()), says)
    yield Case("pts", "not UTF-8", _bytes("a.pts", b"\xff\xfe"), "points: expected UTF-8 text")
    yield Case("pts", "a video", _bytes("a.pts", bytes(1_000_001)), "expected a file of points, got 1,000,001 bytes")
    yield Case("pts", "a pipe", _pipe("a.pts"), "not a regular file")
    yield Case("pts", "a link out", _link_out("a.pts"), "follows a link out of")
    yield Case("pts", "two images of a name", _pixels("a.jpg", photo(0)), "image: expected one of the same name")
    yield Case("pts", "accepted: a byte order mark", _bytes("a.pts", b"\xef\xbb\xbf" + good.encode()), None)

    def cell(number: int, value: str) -> Damage:
        def change(lines: list[str]) -> None:
            cells = lines[2].split(",")
            cells[number] = value
            lines[2] = ",".join(cells)

        return _lines("faces.csv", change)

    for name, damage, says in (
        ("a number too few", _lines("faces.csv", lambda r: r.__setitem__(2, r[2].rpartition(",")[0])), "line 3: numb"),
        ("NaN", cell(1, "nan"), "line 3: coordinates: expected finite numbers"),
        ("no name", cell(0, ""), "line 3: name: expected that of an image"),
        ("up and out", cell(0, "../a.png"), "goes up out of"),
        ("absolute", cell(0, "/etc/passwd"), "expected a path relative to"),
        ("point far away", cell(1, "9999"), "point 0: expected at most 60 pixels outside"),
        ("endless cell", cell(1, "9" * 200_000), "line 3: "),
    ):
        yield Case("points_csv", name, damage, says)
    for name, text, says in (
        ("no header", b"a.png,1,2,3,4\n", "header: expected names of columns"),
        ("even columns", b"name,x\na.png,1\n", "header: expected a name"),
        ("empty", b"", "header: expected names of columns"),
        ("endless header", b"x" * 200_000 + b"\na.png,1\n", "line 1: fields: field larger than"),
        ("not UTF-8", b"\xff", "points: expected UTF-8 text"),
    ):
        yield Case("points_csv", name, _bytes("faces.csv", text), says, skipped=False)
    yield Case("points_csv", "a pipe", _pipe("faces.csv"), "not a regular file", skipped=False)


def _shares() -> str:
    rows = "".join(f"{1 + x / 100} {1 + y / 100}\n" for x, y in face(0))
    return "version: 1\nn_points: 68\n{\n" + rows + "}\n"


def _person_cases() -> Iterator[Case]:
    def of_first(**values: Any) -> Damage:
        return _persons(lambda content: ann(content, 1).update(values))

    for name, damage, says in (
        ("too few numbers", of_first(keypoints=[1, 2, 2]), "annotation 1: keypoints: expected 3 times"),
        ("visibility 3", of_first(keypoints=[3, 4, 3, 5, 6, 1, 0, 0, 0]), "annotation 1: keypoints: expected 3 times"),
        ("NaN", of_first(keypoints=[float("nan"), 4, 2, 5, 6, 1, 0, 0, 0]), "annotation 1: keypoints: expected"),
        ("text", of_first(keypoints=["x", 4, 2, 5, 6, 1, 0, 0, 0]), "annotation 1: keypoints: expected"),
        ("far away", of_first(keypoints=[1e9, 4, 2, 5, 6, 1, 0, 0, 0]), "annotation 1: keypoints: expected"),
        ("zero width", of_first(bbox=[1, 2, 0, 8]), "annotation 1: bbox: expected a width and a height above 0"),
    ):
        yield Case("coco_keypoints", name, damage, says)
    absent = _persons(lambda content: [row.pop("keypoints", None) for row in content["annotations"]])
    says = "keypoints: expected some annotations with keypoints|the annotations have no keypoints"
    yield Case("coco_keypoints", "no keypoints at all", absent, says, skipped=False)
    extra = annotation(20, 1, 5, [2, 2, 9, 9], keypoints=[0] * 9, num_keypoints=0)
    unmarked = _persons(lambda content: content["annotations"].append(extra))
    yield Case("coco_keypoints", "accepted: a person without keypoints", unmarked, None)


def all_cases() -> list[Case]:
    """Every case; names are unique within a format."""
    groups = (_coco_cases, _voc_cases, _yolo_cases, _dense_cases, _class_cases, _landmark_cases, _person_cases)
    cases = [case for group in (*groups, _image_cases) for case in group()]
    assert len({(case.data_format, case.name) for case in cases}) == len(cases)
    return cases


# --- the judge --------------------------------------------------------------------------------------------------------


class Judge:
    """Writes each data set once, and damages copies of it."""

    def __init__(self, folder: Path):
        self._folder = folder
        self._number = 0

    def complaints(self, case: Case) -> list[str]:
        """What is wrong with how the package treats a case; nothing if it is right."""
        self._number += 1
        folder = self._folder / f"case {self._number}" / "data"
        shutil.copytree(self._good(case.data_format), folder)
        case.damage(folder)
        try:
            with _time_limit():
                return list(_judge(case, folder))
        except _TooLong:
            return [f"takes more than {SECONDS} seconds"]
        except Exception as error:
            return [f"{type(error).__name__} escapes: {error}"]
        finally:
            shutil.rmtree(folder.parent, ignore_errors=True)

    def _good(self, data_format: str) -> Path:
        folder = self._folder / "good" / data_format
        if not folder.exists():
            folder.mkdir(parents=True)
            if data_format in ("coco", "coco_keypoints"):
                folder.rmdir()
            FORMATS[data_format].write(folder)
            assert check_dataset(data_format, folder, decode=True) == [], data_format
        return folder


def _judge(case: Case, folder: Path) -> Iterator[str]:
    told = _told_by_check(case, folder, decode=False)
    if case.says is None:
        told += _told_by_check(case, folder, decode=True)
        if told:
            yield f"check says {told[0]!r}"
        parts = _open(case, folder, "raise")
        yield from _unreadable(parts)
        return
    if case.found == "decoding":
        if told:
            yield f"check says {told[0]!r} without decoding"
        told = _told_by_check(case, folder, decode=True)
    if not any(re.search(case.says, line) for line in told):
        yield f"check says {told}"
    yield from (f"check says in several lines {line!r}" for line in told if not _is_line(line, folder))
    if case.found != "looking":
        yield from _judge_loading(case, folder)
        return
    try:
        _open(case, folder, "raise")
        yield "is opened for training"
    except DataError as error:
        line = str(error)
        if not re.search(case.says, line):
            yield f"training says {line!r}"
        if not _is_line(line, folder):
            yield f"training says in several lines, or without file and advice {line!r}"
        if case.skipped and "--on-bad-sample skip" not in line:
            yield f"training does not say how to leave it out: {line!r}"
    try:
        parts = _open(case, folder, "skip")
    except DataError as error:
        if case.skipped:
            yield f"skip says {str(error)!r}"
        return
    if not case.skipped:
        yield "skip opens it"
    if not any(_faults(part) for part in parts):
        yield "skip does not count it"
    yield from _unreadable(parts)


def _judge_loading(case: Case, folder: Path) -> Iterator[str]:
    """Damage that only decoding shows: an error in one line that names the file, or what libjpeg makes of it."""
    parts = _open(case, folder, "raise")
    told = list(_unreadable(parts))
    yield from (f"loading says {line!r}" for line in told if not _is_line(line, folder))
    if case.found == "loading" and not any(re.search(case.says or "", line) for line in told):
        yield f"loading says {told}"
    loaders = [create_loader(part, 1, on_bad_sample="skip", collate_fn=list) for part in parts]
    seen = sum(len(batch) for loader in loaders for batch in loader)
    skipped = sum(loader.skipped_samples() for loader in loaders)
    if (seen, skipped) != (sum(map(len, parts)) - len(told), len(told)):
        yield f"of {sum(map(len, parts))} samples {seen} are loaded and {skipped} counted as skipped"


def _told_by_check(case: Case, folder: Path, *, decode: bool) -> list[str]:
    try:
        return [str(fault) for fault in check_dataset(case.data_format, folder, decode=decode)]
    except DataError as error:
        return [str(error)]


def _open(case: Case, folder: Path, on_bad_sample: str) -> tuple[Any, Any]:
    return FORMATS[case.data_format].open(folder, case.data_format, on_bad_sample=on_bad_sample, val_fraction=0.4)


def _faults(part: Any) -> Any:
    while hasattr(part, "dataset"):
        part = part.dataset
    return part.faults


def _unreadable(parts: tuple[Any, Any]) -> Iterator[str]:
    for part in parts:
        for index in range(len(part)):
            try:
                image, target = part[index]
            except DataError as error:
                yield str(error)
                continue
            # Nothing that is not finite, or outside of its image, comes through.
            if isinstance(target, dict) and "boxes" in target:
                boxes, (height, width) = target["boxes"], image.shape[-2:]
                limits = torch.tensor([width, height, width, height])
                if not ((boxes >= 0).all() and (boxes <= limits).all() and (boxes[:, 2:] > boxes[:, :2]).all()):
                    yield f"boxes {boxes.tolist()} in {width} x {height}"


def _is_line(line: str, folder: Path) -> bool:
    return str(folder) in line and line.isprintable() and "; " in line and len(line) < 3_000


class _TooLong(BaseException):
    pass


@contextlib.contextmanager
def _time_limit() -> Iterator[None]:
    def stop(*_: object) -> None:
        raise _TooLong

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def main() -> None:
    torch.set_num_threads(1)
    begin = time.perf_counter()
    right, cases = 0, all_cases()
    with tempfile.TemporaryDirectory() as name:
        judge = Judge(Path(name))
        for case in cases:
            complaints = judge.complaints(case)
            right += not complaints
            print(
                f"{'right' if not complaints else 'WRONG'}  {case.data_format}: {case.name!r}", *complaints, sep="\n   "
            )
    seconds = time.perf_counter() - begin
    print(f"cases tried {len(cases)}, cases right {right}, {seconds:.0f} s")


if __name__ == "__main__":
    main()
