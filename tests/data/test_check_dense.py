"""Everything that is wrong with a data set for segmentation or saliency, in one pass."""

import os
import shutil

import numpy as np
import pytest
from PIL import Image

from ignite_imgtools.data import check_dataset
from tests.data.dense_folders import labels, photo, save, write_drive, write_masks, write_saliency, write_voc


def told(data_format, folder):
    """Faults as ``file: rest``, with the file relative to the folder."""
    return [str(fault).replace(f"{folder}{os.sep}", "") for fault in check_dataset(data_format, folder)]


def test_masks_all_at_once(tmp_path):
    for part, stems in (("train", "abcdefgh"), ("val", "ij")):
        write_masks(tmp_path, f"images/{part}", f"masks/{part}", stems)
    (tmp_path / "classes.txt").write_text("road\ncar\nsky\n")
    assert told("masks", tmp_path) == []

    images, masks = tmp_path / "images" / "train", tmp_path / "masks" / "train"
    (masks / "a.png").unlink()
    (images / "b.jpg").unlink()
    save(masks / "c.png", labels(0, [0, 1], 30, 41))
    save(masks / "d.png", np.array([[3] * 40] * 2 + [[0] * 38 + [77] * 2] * 28, dtype=np.uint8))
    save(masks / "e.png", photo(0))
    (masks / "f.png").write_bytes((masks / "f.png").read_bytes()[:-30])
    (images / "g.jpg").write_bytes(b"<html>")
    Image.fromarray(labels(0, [0, 1])).save(masks / "h.jpg")
    (masks / "h.png").unlink()
    save(tmp_path / "masks" / "val" / "j.png", labels(0, [0, 200]), "P")
    brown = tuple(photo(0)[0, 0].tolist())
    reasons = told("masks", tmp_path)
    assert [reason.split("; ")[0] for reason in reasons] == [
        "images/train/a.jpg: mask: expected one of the same name in masks/train, got none",
        "masks/train/b.png: image: expected one of the same name in images/train, got none",
        "masks/train/c.png: size: expected 40 x 30 as images/train/c.jpg has, got 41 x 30",
        "masks/train/f.png: the image breaks off before its end",
        "images/train/g.jpg: cannot be read as an image (JPEG, PNG, BMP, GIF, JPEG2000, PPM, TIFF, WEBP): no known "
        "image format",
        "masks/train/d.png: class numbers: expected 0 to 2, or 255 where ignored, got 3 (80 pixels), 77 (56 pixels)",
        f"masks/train/e.png: class numbers: expected a palette or a grey image, got one of colours such as {brown}",
        "masks/train/h.jpg: neither JPEG nor GIF with colours keeps class numbers as they were",
        "masks/val/j.png: class numbers: expected 0 to 2, or 255 where ignored, got 200 "
        f"({(labels(0, [0, 200]) == 200).sum()} pixels)",
    ]


def test_masks_without_classes(tmp_path):
    write_masks(tmp_path)
    assert told("masks", tmp_path) == []
    for stem in "abc":
        save(tmp_path / "masks" / f"{stem}.png", labels(0, [0, 255]))
    (tmp_path / "images" / "c.jpg").unlink()
    assert [reason.split("; ")[0] for reason in told("masks", tmp_path)] == [
        "masks: class numbers: expected 0, 1, 2, ..., and 255 where ignored, got 0, 255",
        "masks/c.png: image: expected one of the same name in images, got none",
    ]
    (tmp_path / "masks" / "c.png").unlink()
    (tmp_path / "classes.txt").write_text("background\nroad\n")
    assert told("masks", tmp_path) == [
        "masks: class numbers: expected some of 2 classes, got 0 and 255, which means ignored; "
        "write class numbers, for a single class 1 and not 255"
    ]


def test_masks_of_colours_alone(tmp_path):
    write_masks(tmp_path)
    for seed, stem in enumerate("abc"):
        save(tmp_path / "masks" / f"{stem}.png", photo(seed))
    assert [reason.split(", got")[0] for reason in told("masks", tmp_path)] == [
        f"masks/{stem}.png: class numbers: expected a palette or a grey image" for stem in "abc"
    ]


def test_voc(tmp_path):
    root = write_voc(tmp_path)
    list_file = "ImageSets/Segmentation/train.txt"
    (root / list_file).write_text("a\ne\nnobody\n")
    save(root / "SegmentationClass" / "c.png", labels(0, [0, 21]), "P")
    assert [reason.split("; ")[0] for reason in told("voc_segmentation", tmp_path)] == [
        f"{list_file}: line 2: mask: expected a file of the name 'e' in SegmentationClass, got none",
        f"{list_file}: line 3: image: expected a file of the name 'nobody' in JPEGImages, got none",
        f"{list_file}: line 3: mask: expected a file of the name 'nobody' in SegmentationClass, got none",
        "SegmentationClass/c.png: class numbers: expected 0 to 20, or 255 where ignored, got 21 "
        f"({(labels(0, [0, 21]) == 21).sum()} pixels)",
    ]


def test_drive(tmp_path):
    root = write_drive(tmp_path)
    save(root / "training" / "1st_manual" / "21_manual1.gif", labels(0, [0, 1]))
    path = root / "training" / "mask" / "22_training_mask.gif"
    path.write_bytes(path.read_bytes()[:-30])
    (root / "test" / "mask" / "01_test_mask.gif").unlink()
    first, second, third, fourth = told("drive", tmp_path)
    assert first.startswith("training/1st_manual/21_manual1.gif: brightness: expected 0 to 255, 128 and more for")
    assert second.startswith("training/mask/22_training_mask.gif: cannot be read as an image")
    assert third.startswith(
        "test/images/01_test.tif: field of view: expected one of the same name in test/mask, got none"
    )
    assert fourth.startswith("test: images: expected at least one image with its manual segmentation that can be used")


def test_saliency(tmp_path):
    write_saliency(tmp_path)
    save(tmp_path / "masks" / "a.png", labels(0, [0, 1]))
    save(tmp_path / "masks" / "b.png", labels(0, [0, 255]), "P")  # a palette: its colours count
    shutil.copy(tmp_path / "images" / "c.jpg", tmp_path / "images" / "d.jpg")
    assert [reason.split(": expected")[0] for reason in told("saliency", tmp_path)] == [
        "images/d.jpg: mask",
        "masks/a.png: brightness",
    ]


def test_images_are_not_decoded(tmp_path):
    """What only a decoder finds in an image is found when it is read, not here."""
    write_saliency(tmp_path)
    path = tmp_path / "images" / "a.jpg"
    content = path.read_bytes()
    scan = content.index(b"\xff\xda") + 12
    path.write_bytes(content[:scan] + b"\0" * (len(content) - scan - 2) + b"\xff\xd9")
    assert told("saliency", tmp_path) == []


@pytest.mark.data
@pytest.mark.parametrize(
    ("data_format", "name"),
    [
        ("voc_segmentation", "voc2012_mini"),
        ("voc_segmentation", "labelme_voc2011"),
        ("drive", "drive"),
        ("masks", "camvid"),
        ("saliency", "duts_tr"),
        ("saliency", "ecssd"),
    ],
)
def test_real_data_have_no_faults(real_data, data_format, name):
    assert check_dataset(data_format, real_data / name) == []
