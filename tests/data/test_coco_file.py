"""What is wrong with COCO data is refused in one line, or left out with a count; nothing is read outside the folder."""

import json
import logging
import os
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ignite_imgtools.data import CocoDetection, check_dataset
from ignite_imgtools.formats import DataError
from tests.data.coco_faults import (
    BAD_ANNOTATIONS,
    BAD_CATEGORIES,
    BAD_FILES,
    BAD_IMAGES,
    ann,
    image,
    set_ann,
)
from tests.data.coco_folder import write_coco_folder


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
