"""What can be wrong with the data set of :mod:`tests.data.coco_folder`, and what is then said of it."""

import struct
import zlib
from pathlib import Path


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
    "endless polygon": (
        set_ann(segmentation=[[-390, 0, 390, 1] * 3000]),
        "segmentation: expected outlines of at most 2,000,000 pixels, got a longer one",
    ),
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
