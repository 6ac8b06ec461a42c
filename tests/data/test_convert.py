"""Boxes survive the way from one format to another and back, within the bounds that are stated."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from ignite_imgtools.cli import main
from ignite_imgtools.data import check_dataset, convert_detection_data, open_detection_data
from ignite_imgtools.data.detection_table import clipped_corners
from ignite_imgtools.data.yolo_writer import yolo_rows
from ignite_imgtools.formats import DataError
from tests.data.coco_folder import write_coco_folder
from tests.data.voc_folder import voc_object, voc_xml, write_voc_folder
from tests.data.yolo_folder import YAML, write_image, write_yolo_folder


def _corners(dataset, index: int, crowd: bool = True) -> np.ndarray:
    table = dataset.table
    return clipped_corners(table.boxes_xywh[table.objects(index, crowd)], np.array([table.image_size(index)]))


@pytest.mark.parametrize("decimals", [4, 6, 9])
@pytest.mark.parametrize("size", [(640, 480), (31, 4000)])
def test_rounding_has_the_stated_bound(decimals: int, size: tuple[int, int]) -> None:
    height, width = size
    rng = np.random.default_rng(0)
    scale = np.array([width, height] * 2)
    boxes = rng.random((2000, 4)) * scale
    boxes[:, 2:] += 1e-3 * scale[2:]
    text = yolo_rows(rng.integers(1, 4, len(boxes)), boxes, height, width, decimals)
    rows = np.array([line.split()[1:] for line in text.splitlines()], np.float64) * scale
    assert len(rows) == len(boxes)
    read = np.concatenate((rows[:, :2] - rows[:, 2:] / 2, rows[:, :2] + rows[:, 2:] / 2), axis=1)
    moved = np.abs(read - clipped_corners(boxes, np.array([size]))) / scale
    assert moved.max() <= 0.75 * 10**-decimals * (1 + 1e-9) + 1e-15
    assert moved.max() > 0.5 * 10**-decimals  # the bound is not far above what happens


@pytest.mark.parametrize("other", ["voc", "coco"])
def test_whole_pixels_come_back_exactly(tmp_path: Path, other: str) -> None:
    """From YOLO's format and back into it: of an image of 6,600 pixels."""
    # VOC's names are not listed anywhere: they are those that occur, in order, or the 20 of VOC.
    root = write_yolo_folder(tmp_path / "start", YAML.replace("cat", "ant"))
    write_image(root / "images" / "train" / "a.jpg", 50, 6600)
    rng = np.random.default_rng(1)
    x, y = (np.sort(rng.integers(0, side, (40, 2)), axis=1) + np.array([0, 1]) for side in (6600, 50))
    boxes = np.stack((x[:, 0], y[:, 0], x[:, 1] - x[:, 0], y[:, 1] - y[:, 0]), axis=1)
    (root / "labels" / "train" / "a.txt").write_text(yolo_rows([1] * 40, boxes, 50, 6600))
    convert_detection_data(root, tmp_path / other, other)
    converted, _ = open_detection_data(tmp_path / other)
    assert converted.table.boxes_xywh[:40].tolist() == boxes.tolist()
    convert_detection_data(tmp_path / other, tmp_path / "back", "yolo")
    name = "a.txt"
    assert (tmp_path / "back" / "labels" / "train" / name).read_text() == (root / "labels" / "train" / name).read_text()
    for part in ("train", "val"):
        image = next((root / "images" / part).iterdir())
        assert (tmp_path / "back" / "images" / part / image.name).read_bytes() == image.read_bytes()


def test_from_coco(tmp_path: Path) -> None:
    write_coco_folder(tmp_path / "coco")
    written = convert_detection_data(tmp_path / "coco", tmp_path / "yolo", "yolo")
    assert str(written) == "3 images with 3 objects; 1 crowds or difficult objects left out"
    assert check_dataset("yolo", tmp_path / "yolo") == []
    one, _ = open_detection_data(tmp_path / "coco", val_fraction=0.4)
    two, _ = open_detection_data(tmp_path / "yolo", val_fraction=0.4)
    coco, yolo = one.dataset, two.dataset
    assert coco.class_names == yolo.class_names == ["__background__", "cat", "dog"]
    for index in range(3):  # images in order of their ids, which is that of their names here
        np.testing.assert_allclose(_corners(coco, index, crowd=False), _corners(yolo, index), atol=0.75e-6 * 40)
        assert coco.annotations(index)["labels"].tolist() == yolo.annotations(index)["labels"].tolist()
    kept = convert_detection_data(tmp_path / "coco", tmp_path / "kept", "yolo", crowd="keep")
    assert (kept.objects, kept.crowds) == (4, 0)


def test_from_voc_to_coco_and_back(tmp_path: Path) -> None:
    write_voc_folder(tmp_path / "voc")
    convert_detection_data(tmp_path / "voc", tmp_path / "coco", "coco", link_images=True)
    content = json.loads((tmp_path / "coco" / "annotations" / "instances_train.json").read_text())
    assert [a["iscrowd"] for a in content["annotations"]] == [0, 1, 0]
    assert content["annotations"][0]["bbox"] == [1, 2, 10, 10]
    assert [category["id"] for category in content["categories"]] == [1, 2, 3]
    source = tmp_path / "voc" / "JPEGImages" / "a.jpg"
    assert source.samefile(tmp_path / "coco" / "train" / "a.jpg")
    convert_detection_data(tmp_path / "coco", tmp_path / "again", "voc")
    for part, name in (("train", "a"), ("train", "b"), ("val", "c")):
        assert name in (tmp_path / "again" / "ImageSets" / "Main" / f"{part}.txt").read_text()
    one, other = (open_detection_data(tmp_path / name)[0] for name in ("voc", "again"))
    assert one.class_names == other.class_names
    assert one.table.boxes_xywh.tolist() == other.table.boxes_xywh.tolist()
    assert one.table.iscrowd.tolist() == other.table.iscrowd.tolist()


def test_what_cannot_be_written_is_counted(tmp_path: Path) -> None:
    def twice(content) -> None:
        content["annotations"].append(content["annotations"][1] | {"id": 99})
        content["annotations"].append(content["annotations"][1] | {"id": 100, "bbox": [1, 1, 1e-6, 5]})

    write_coco_folder(tmp_path / "coco", twice)
    written = convert_detection_data(tmp_path / "coco", tmp_path / "yolo", "yolo")
    assert (written.objects, written.dropped) == (3, 2)
    assert check_dataset("yolo", tmp_path / "yolo") == []


def test_images_of_both_parts_with_one_name(tmp_path: Path) -> None:
    root = write_yolo_folder(tmp_path / "yolo")
    (root / "images" / "val" / "d.jpg").rename(root / "images" / "val" / "a.jpg")
    (root / "labels" / "val" / "d.txt").rename(root / "labels" / "val" / "a.txt")
    convert_detection_data(root, tmp_path / "voc", "voc")
    assert (tmp_path / "voc" / "ImageSets" / "Main" / "val.txt").read_text() == "val_a\n"
    assert check_dataset("voc", tmp_path / "voc") == []


def test_two_images_with_one_label_file(tmp_path: Path) -> None:
    root = write_voc_folder(tmp_path / "voc")
    (root / "Annotations" / "b.xml").write_text(voc_xml("b", voc_object("dog", (1, 1, 9, 9))))
    convert_detection_data(root, tmp_path / "coco", "coco")
    content_file = tmp_path / "coco" / "annotations" / "instances_train.json"
    content = json.loads(content_file.read_text())
    content["images"][1]["file_name"] = "a.png"
    content_file.write_text(json.dumps(content))
    (tmp_path / "coco" / "train" / "b.jpg").rename(tmp_path / "coco" / "train" / "a.png")
    with pytest.raises(DataError, match=r"labels/train/a\.txt belongs to another image too; rename one"):
        convert_detection_data(tmp_path / "coco", tmp_path / "yolo", "yolo")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["coco", "voc"]  # nothing half written


def test_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_voc_folder(tmp_path / "voc")
    assert main(["convert", str(tmp_path / "voc"), str(tmp_path / "yolo"), "--to", "yolo"]) == 0
    assert "3 images with 3 objects; 1 crowds or difficult objects left out written to" in capsys.readouterr().out
    assert main(["check", "yolo", "--data", str(tmp_path / "yolo")]) == 0
    assert "of 2 objects mean IoU 1.000, best possible recall 1.0000" in capsys.readouterr().out
    for arguments, message in (
        ([str(tmp_path / "voc"), str(tmp_path / "yolo"), "--to", "yolo"], "yolo holds something already"),
        ([str(tmp_path / "voc"), str(tmp_path / "new"), "--to", "voc"], "is in the format voc already"),
        ([str(tmp_path / "voc"), str(tmp_path / "new"), "--to", "yolo", "--decimals", "3"], "decimals must be 4 to 12"),
        ([str(tmp_path / "no"), str(tmp_path / "new"), "--to", "yolo"], "expected a folder with a data set"),
    ):
        assert main(["convert", *arguments]) == 2
        error = capsys.readouterr().err
        assert error.count("\n") == 1
        assert message in error


@pytest.mark.data
@pytest.mark.parametrize("name", ["bccd_voc/BCCD", "voc2012_mini", "coco_mini"])
def test_real_data(real_data: Path, tmp_path: Path, name: str) -> None:
    convert_detection_data(real_data / name, tmp_path / "yolo", "yolo", crowd="keep", link_images=True)
    assert check_dataset("yolo", tmp_path / "yolo") == []
    one, two = open_detection_data(real_data / name), open_detection_data(tmp_path / "yolo")
    for before, after in zip(one, two, strict=True):
        names = {Path(after.table.name(index)).name: index for index in range(len(after))}
        for index in range(len(before)):
            found = _corners(after, names[Path(before.table.name(index)).name])
            bound = 0.75e-6 * max(before.image_size(index))
            np.testing.assert_allclose(found, _corners(before, index), atol=bound * 1.001, rtol=0)
