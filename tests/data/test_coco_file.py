"""What is wrong with COCO data is refused in one line, or left out with a count; nothing is read outside the folder."""

import json
import logging
import os
import re
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ignite_imgtools.data import CocoDetection, check_dataset
from ignite_imgtools.formats import DataError
from tests.data.coco_folder import write_coco_folder


def image(content, id_):
    return next(entry for entry in content["images"] if entry["id"] == id_)


def ann(content, id_):
    return next(entry for entry in content["annotations"] if entry["id"] == id_)


def set_ann(**values):
    return lambda content: ann(content, 11).update(values)


def set_image(**values):
    return lambda content: image(content, 1).update(values)


def without(kind, key):
    return lambda content: content[kind][1].pop(key)


# name: (change of the content, what the fault says); the fault is of one annotation
BAD_ANNOTATIONS = {
    "zero width": (set_ann(bbox=[5, 5, 0, 9]), "annotation 11: bbox: expected a width and a height above 0, got"),
    "negative height": (set_ann(bbox=[5, 5, 9, -3]), "annotation 11: bbox: expected a width and a height above 0, got"),
    "outside": (set_ann(bbox=[41, 5, 9, 9]), "annotation 11: bbox: expected a box that overlaps its image, got"),
    "far": (set_ann(bbox=[0, 0, 1e30, 9]), "annotation 11: bbox: expected a box that overlaps its image, got"),
    "largest": (set_ann(bbox=[1.7e308] * 4), "annotation 11: bbox: expected a box that overlaps its image, got"),
    "sliver": (set_ann(bbox=[5, 5, 1e-9, 9]), "annotation 11: bbox: expected a box that overlaps its image, got"),
    "nan": (set_ann(bbox=[float("nan"), 5, 9, 9]), "annotation 11: bbox: expected 4 finite numbers"),
    "inf": (set_ann(bbox=[5, 5, float("inf"), 9]), "annotation 11: bbox: expected 4 finite numbers"),
    "3 numbers": (set_ann(bbox=[5, 5, 9]), r"expected 4 finite numbers x, y, width, height, got \[5, 5, 9\]"),
    "5 numbers": (set_ann(bbox=[5, 5, 9, 9, 9]), "annotation 11: bbox: expected 4 finite numbers"),
    "text in the box": (set_ann(bbox=[5, 5, "9", 9]), "annotation 11: bbox: expected 4 finite numbers"),
    "null box": (set_ann(bbox=None), "annotation 11: bbox: expected 4 finite numbers x, y, width, height, got None"),
    "huge integer": (set_ann(bbox=[5, 5, 10**400, 9]), "annotation 11: bbox: expected 4 finite numbers"),
    "object as box": (set_ann(bbox={"x": 1}), "annotation 11: bbox: expected 4 finite numbers"),
    "no box": (without("annotations", "bbox"), "annotation 11: bbox: expected 4 .*, got nothing; "),
    "category unknown": (set_ann(category_id=50), r"category_id: expected a category of the file \(5, 7\), got 50;"),
    "category 0": (set_ann(category_id=0), "annotation 11: category_id: expected a category of the file .*, got 0;"),
    "category -1": (set_ann(category_id=-1), "annotation 11: category_id: expected a category .*, got -1;"),
    "category text": (set_ann(category_id="7"), "annotation 11: category_id: expected an integer, got '7'"),
    "no category": (
        without("annotations", "category_id"),
        "annotation 11: category_id: expected an integer, got nothing",
    ),
    "image unknown": (set_ann(image_id=99), "annotation 11: image_id: expected the id of an image in the file, got 99"),
    "no image": (without("annotations", "image_id"), "annotation 11: image_id: expected an integer, got nothing"),
    "id again": (set_ann(id=10), "annotation 10: id: expected one annotation of this id, got another one"),
    "no id": (without("annotations", "id"), r"annotations\[1\]: id: expected an integer, got nothing"),
    "id true": (set_ann(id=True), r"annotations\[1\]: id: expected an integer, got True"),
    "id too large": (set_ann(id=2**70), r"annotations\[1\]: id: expected an integer, got"),
    "crowd 2": (set_ann(iscrowd=2), "annotation 11: iscrowd: expected 0 or 1, got 2"),
    "area nan": (
        set_ann(area=float("nan")),
        "annotation 11: area: expected a number from 0 that fits the image, got nan",
    ),
    "area negative": (set_ann(area=-1), "annotation 11: area: expected a number from 0 that fits the image, got -1"),
    "area huge": (set_ann(area=1e300), "annotation 11: area: expected a number from 0 that fits the image, got 1e"),
    "keypoint far": (
        set_ann(keypoints=[1e300, 2, 1]),
        "annotation 11: keypoints: expected 1 times x, y near the image",
    ),
    "area text": (set_ann(area="9"), "annotation 11: area: expected a number from 0 that fits the image, got '9'"),
    "odd polygon": (set_ann(segmentation=[[1, 2, 3, 4, 5, 6, 7]]), "segmentation: expected polygons .* got one of 7 "),
    "short polygon": (set_ann(segmentation=[[1, 2, 3, 4]]), "segmentation: expected polygons .* got one of 4 numbers"),
    "text polygon": (set_ann(segmentation=[["a"] * 6]), "segmentation: expected polygons .* that is not a number"),
    "flat polygon": (set_ann(segmentation=[1, 2, 3, 4, 5, 6]), "segmentation: expected polygons .* got int"),
    "far polygon": (set_ann(segmentation=[[0, 0, 1e9, 0, 0, 1e9]]), "segmentation: expected finite points near the"),
    "nan polygon": (set_ann(segmentation=[[0, 0, float("nan"), 0, 0, 9]]), "segmentation: expected finite points near"),
    "rle of another size": (set_ann(segmentation={"size": [40, 30], "counts": [1200]}), "got size .40, 30.;"),
    "rle too long": (set_ann(segmentation={"size": [30, 40], "counts": [0, 9999]}), "got runs of 9999 pixels"),
    "rle negative": (set_ann(segmentation={"size": [30, 40], "counts": [1300, -100]}), "expected polygons, or run "),
    "rle garbled": (set_ann(segmentation={"size": [30, 40], "counts": "~~~"}), "got counts that are no run lengths"),
    "rle without counts": (
        set_ann(segmentation={"size": [30, 40]}),
        "annotation 11: segmentation: expected polygons, ",
    ),
    "rle bomb": (set_ann(segmentation={"size": [10**6, 10**6], "counts": [10**12]}), "annotation 11: segmentation: "),
    "keypoints short": (set_ann(keypoints=[1, 2]), "annotation 11: keypoints: expected"),
    "visibility 3": (
        set_ann(keypoints=[1, 2, 3]),
        "annotation 11: keypoints: expected 1 times x, y near the image, vis",
    ),
    "no object": (
        lambda content: content["annotations"].__setitem__(1, 5),
        r"annotations\[1\]: annotation: expected an",
    ),
}
# the fault is of one image
BAD_IMAGES = {
    "missing file": (set_image(file_name="none.jpg"), r"none\.jpg: .*no such image file; "),
    "up and out": (set_image(file_name="../../../../../etc/passwd"), "image 1: file name .* goes up out of"),
    "absolute": (set_image(file_name="/etc/passwd"), "image 1: file name '/etc/passwd': expected a path relative to"),
    "folder": (set_image(file_name="."), "it is a folder"),
    "no name": (without("images", "file_name"), "image 1: file_name: expected a path, got nothing"),
    "endless name": (set_image(file_name="x" * 9999), "image 1: file_name: expected a path, got 'xxx"),
    "name a number": (set_image(file_name=7), "image 1: file_name: expected a path, got 7"),
    "empty name": (set_image(file_name=""), "image 1: file name ''"),
    "nul in the name": (set_image(file_name="1\0.jpg"), "image 1: file name"),
    "half a character": (set_image(file_name="1\ud800.jpg"), "image 1: file_name: expected a path, got"),
    "line break in the name": (set_image(file_name="1\n2.jpg"), "no such image file"),
    "another width": (set_image(width=41), r"image 1: image size: expected 41 x 30 .* as annotated, got 40 x 30 in"),
    "turned size": (set_image(width=30, height=40), r"got 40 x 30 in .*1\.jpg \(turned by its EXIF orientation\?\)"),
    "width 0": (set_image(width=0), "image 1: width and height: expected integers from 1, got 0 x 30"),
    "width text": (set_image(width="40"), "image 1: width and height: expected integers from 1, got '40' x 30"),
    "height alone": (without("images", "width"), "image 1: width and height: expected integers from 1, got None x 30"),
    "image id again": (
        lambda content: image(content, 3).update(id=1),
        "image 1: id: expected one image of this id, got 2",
    ),
    "no image id": (without("images", "id"), r"images\[1\]: id: expected an integer, got nothing"),
    "image no object": (
        lambda content: content["images"].__setitem__(1, []),
        r"images\[1\]: image: expected an object",
    ),
}
BAD_CATEGORIES = {
    "category again": (
        lambda content: content["categories"].append({"id": 5, "name": "x"}),
        "category 5: id: expected one",
    ),
    "name again": (
        lambda content: content["categories"].append({"id": 9, "name": "cat"}),
        "category 9: name: expected a",
    ),
    "category without name": (
        lambda content: content["categories"].append({"id": 9}),
        "category 9: name: expected a name",
    ),
    "category without id": (
        lambda content: content["categories"].append({"name": "x"}),
        r"categories\[2\]: id: expected",
    ),
    "category no object": (
        lambda content: content["categories"].append("x"),
        r"categories\[2\]: category: expected an",
    ),
}


def refused(folder: Path, message: str) -> None:
    """The data set is refused in one line that names the folder's file; the check lists the same."""
    with pytest.raises(DataError) as caught:
        CocoDetection(folder / "train", folder / "annotations" / "instances_train.json")
    text = str(caught.value)
    assert re.search(message, text), text
    assert str(folder) in text
    assert "\n" not in text
    faults = check_dataset("coco", folder)
    assert any(re.search(message, str(fault)) for fault in faults), faults


@pytest.mark.parametrize("name", BAD_ANNOTATIONS)
def test_bad_annotation(tmp_path, caplog, name):
    change, message = BAD_ANNOTATIONS[name]
    write_coco_folder(tmp_path, change)
    refused(tmp_path, message)
    assert len(check_dataset("coco", tmp_path)) == 1
    with caplog.at_level(logging.WARNING):
        dataset = CocoDetection(
            tmp_path / "train", tmp_path / "annotations" / "instances_train.json", on_bad_sample="skip"
        )
    assert "left out 1 bad" in caplog.text
    assert len(dataset.faults) == 1
    assert len(dataset) == 3
    assert len(dataset.table.labels) == 3


@pytest.mark.parametrize("name", BAD_IMAGES)
def test_bad_image(tmp_path, name):
    change, message = BAD_IMAGES[name]
    file = write_coco_folder(tmp_path, change)
    refused(tmp_path, message)
    dataset = CocoDetection(tmp_path / "train", file, on_bad_sample="skip")
    assert dataset.faults
    assert 1 not in [dataset[index][1]["image_id"] for index in range(len(dataset))]


@pytest.mark.parametrize("name", BAD_CATEGORIES)
def test_bad_category(tmp_path, name):
    change, message = BAD_CATEGORIES[name]
    file = write_coco_folder(tmp_path, change)
    refused(tmp_path, message)
    assert CocoDetection(tmp_path / "train", file, on_bad_sample="skip").class_names == ["__background__", "cat", "dog"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "json: expected COCO annotations, got no valid json"),
        (b'{"images": [', "json: expected COCO annotations, got no valid json"),
        (b"\xef\xbb\xbf{}", "save it as UTF-8 without a byte order mark"),
        (b'{"images": "\xff"}', "encoding: expected UTF-8, got byte 12 that is not; save it as UTF-8"),
        (b"[" * 200000, "json: expected COCO annotations, got"),
        (b"[]", "json: expected an object with images, annotations, categories, got a list"),
        (b"{}", "images: expected a list, got nothing"),
        (b'{"images": {}, "annotations": [], "categories": []}', "images: expected a list, got a dict"),
        (b'{"images": [], "annotations": [], "categories": [{"id": 1, "name": "a"}]}', "images: expected at least one"),
        (
            b'{"images": [{"id": 1, "file_name": "1.jpg"}], "annotations": [], "categories": []}',
            "categories: expected at",
        ),
        (b'{"images": [], "annotations": []}', "categories: expected a list, got nothing; use a file of instances"),
    ],
)
@pytest.mark.parametrize("on_bad_sample", ["raise", "skip"])
def test_bad_file(tmp_path, content, message, on_bad_sample):
    file = write_coco_folder(tmp_path)
    file.write_bytes(content)
    refused(tmp_path, message)
    with pytest.raises(DataError, match=message):
        CocoDetection(tmp_path / "train", file, on_bad_sample=on_bad_sample)


def test_annotation_file_that_is_none(tmp_path):
    with pytest.raises(DataError, match="annotation file: expected a file, got nothing there; correct the path"):
        CocoDetection(tmp_path, tmp_path / "none.json")
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(DataError, match="annotation file: expected a file, got something else"):
        CocoDetection(tmp_path, tmp_path / "pipe")


def png_that_says(width: int, height: int) -> bytes:
    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


def truncated(path: Path) -> bytes:
    return path.read_bytes()[:-138]


BAD_FILES = {
    "empty": (lambda path: b"", "the image file is empty"),
    "html": (lambda path: b"<!DOCTYPE html><html>404 not found</html>", "cannot be read as an image"),
    "text": (lambda path: b"version https://git-lfs.github.com/spec/v1\n", "cannot be read as an image"),
    "truncated": (truncated, "the image breaks off before its end; restore the file"),
    "header alone": (lambda path: path.read_bytes()[:20], "cannot be read as a JPEG image"),
    "bomb": (lambda path: png_that_says(60000, 60000), "size: expected at most 178,956,970 pixels, got 60000 x 60000"),
}


@pytest.mark.parametrize("name", BAD_FILES)
def test_bad_image_file(tmp_path, name):
    make, message = BAD_FILES[name]
    write_coco_folder(tmp_path)
    path = tmp_path / "train" / "1.jpg"
    path.write_bytes(make(path))
    refused(tmp_path, rf"1\.jpg.*{message}")


def test_links_and_pipes(tmp_path):
    write_coco_folder(tmp_path / "data")
    folder = tmp_path / "data" / "train"
    outside = tmp_path / "secret.jpg"
    (folder / "1.jpg").rename(outside)
    for number, make in enumerate(
        (
            lambda: (folder / "1.jpg").symlink_to(outside),
            lambda: (folder / "1.jpg").symlink_to(folder / "1.jpg"),
            lambda: os.mkfifo(folder / "1.jpg"),
            lambda: (folder / "1.jpg").mkdir(),
        )
    ):
        make()
        message = ("follows a link out of", "image file|link", "not a regular file", "it is a folder")[number]
        refused(tmp_path / "data", message)
        (folder / "1.jpg").rmdir() if number == 3 else (folder / "1.jpg").unlink()


def test_accepted_as_it_is_meant(tmp_path):
    """Id 0, an id that is a float, no iscrowd, an image turned by EXIF whose size is noted as shown, 16-bit PNG."""

    def change(content):
        ann(content, 11)["id"] = 0
        ann(content, 12).update(id=12.0, bbox=[20, 30, 15, 15])
        image(content, 1).update(width=30, height=40)
        image(content, 2)["file_name"] = "2.png"
        for entry in content["annotations"]:
            entry.pop("iscrowd", None) if entry["id"] != 13 else None

    file = write_coco_folder(tmp_path, change)
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.open(tmp_path / "train" / "1.jpg").save(tmp_path / "train" / "1.jpg", exif=exif)
    Image.fromarray(np.full((30, 40), 40000, np.uint16)).save(tmp_path / "train" / "2.png")
    assert check_dataset("coco", tmp_path) == []
    dataset = CocoDetection(tmp_path / "train", file)
    assert [tuple(dataset[index][0].shape) for index in range(3)] == [(3, 40, 30), (3, 30, 40), (3, 30, 40)]
    assert dataset[1][0].unique().tolist() == [156]  # 40000 / 257, not saturated


def test_bytes_after_the_image_are_no_fault(tmp_path):
    write_coco_folder(tmp_path)
    for name, rest in (("1.jpg", b"\0" * 100), ("2.jpg", b"some camera's notes " * 20)):
        with (tmp_path / "train" / name).open("ab") as file:
            file.write(rest)
    assert check_dataset("coco", tmp_path) == []


@pytest.mark.parametrize(
    ("segmentation", "area"),
    [(None, 200), ([], 200), ([[5, 5, 9, 5, 9, 9, 5, 9]], 16), ({"size": [30, 40], "counts": [0, 33, 1167]}, 33)],
)
def test_an_area_that_is_missing_is_that_of_the_mask_or_the_box(tmp_path, segmentation, area):
    def change(content):
        ann(content, 11)["segmentation"] = segmentation
        del ann(content, 11)["area"]

    file = write_coco_folder(tmp_path, change)
    assert CocoDetection(tmp_path / "train", file)[0][1]["area"][0] == area


def test_a_missing_id_is_not_another_ones(tmp_path):
    """It has no number inside either that could be taken for an id."""

    def change(content):
        ann(content, 11)["id"] = 0
        del ann(content, 10)["id"]

    write_coco_folder(tmp_path, change)
    assert len(check_dataset("coco", tmp_path)) == 1


def test_no_annotations_at_all(tmp_path):
    file = write_coco_folder(tmp_path, lambda content: content.update(annotations=[]))
    dataset = CocoDetection(tmp_path / "train", file, masks=True)
    assert [dataset[index][1]["boxes"].shape for index in range(3)] == [(0, 4)] * 3


def test_all_faults_are_listed_in_one_pass(tmp_path):
    def change(content):
        ann(content, 10)["bbox"] = [1, 1, 0, 1]
        ann(content, 11).update(category_id=9, image_id=1)
        image(content, 2)["file_name"] = "none.jpg"

    file = write_coco_folder(tmp_path, change)
    assert len(check_dataset("coco", tmp_path)) == 3
    with pytest.raises(DataError, match=r"\(2 more faults: `ignite-imgtools check coco --data DIR` lists them\)"):
        CocoDetection(tmp_path / "train", file)
    dataset = CocoDetection(tmp_path / "train", file, on_bad_sample="skip")
    assert len(dataset) == 2
    assert dataset.table.count_objects(crowd=True).tolist() == [1, 1]


def test_on_bad_sample_is_checked(tmp_path):
    file = write_coco_folder(tmp_path)
    with pytest.raises(ValueError, match="on_bad_sample must be 'raise' or 'skip', got 'ignore'"):
        CocoDetection(tmp_path / "train", file, on_bad_sample="ignore")


def test_keys_that_are_not_needed(tmp_path):
    """Files of other tools have no "info" and "licenses"; what a file has beside is nobody's business."""
    write_coco_folder(tmp_path, lambda content: content.update(info=5, licenses=None, type="instances"))
    assert check_dataset("coco", tmp_path) == []


def test_compressed_run_lengths_equal_uncompressed(tmp_path):
    from pycocotools import mask

    counts = mask.frPyObjects({"size": [30, 40], "counts": [3, 33, 100, 64, 1000]}, 30, 40)["counts"].decode()
    encodings = ([3, 33, 100, 64, 1000], counts)
    masks = []
    for number, encoding in enumerate(encodings):
        change = set_ann(segmentation={"size": [30, 40], "counts": encoding})
        file = write_coco_folder(tmp_path / str(number), change)
        masks.append(CocoDetection(file.parents[1] / "train", file, masks=True)[0][1]["masks"][0])
    assert masks[0].sum() == 97
    assert (masks[0] == masks[1]).all()
    assert json.dumps(counts)  # as it stands in a file
