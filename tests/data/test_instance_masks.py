"""Masks of objects: VOC's ``SegmentationObject``, and Penn-Fudan."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from pycocotools import mask as coco_mask

from ignite_imgtools import data
from ignite_imgtools.data.make_data import make_data
from ignite_imgtools.data.shapes import create_shapes_image
from ignite_imgtools.data.shapes_files import part_seed
from ignite_imgtools.formats import DataError


@pytest.fixture(scope="module")
def voc(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_data("voc", tmp_path_factory.mktemp("data") / "voc", num_train=6, num_val=2, seed=5, image_size=96)


def _root(folder: Path) -> Path:
    return folder / "VOCdevkit" / "VOC2012"


def _copy(folder: Path, target: Path) -> Path:
    import shutil

    shutil.copytree(folder, target)
    return _root(target)


def _objects_of(folder: Path, split: str) -> list[str]:
    return (_root(folder) / "ImageSets" / "Segmentation" / f"{split}.txt").read_text().split()


def test_masks_of_voc_are_the_pixels_that_were_drawn(voc: Path) -> None:
    train_set, _ = data.open_detection_data(voc, masks=True)
    for index in range(6):
        drawn = create_shapes_image(part_seed(5, "train"), index, 96)
        expected = [shape.mask for shape in drawn.objects if not shape.iscrowd]  # crowds are difficult in VOC
        target = train_set[index][1]
        assert target["masks"].dtype == torch.uint8
        assert np.array_equal(target["masks"].numpy().astype(bool), np.array(expected).reshape(target["masks"].shape))
        assert target["area"].tolist() == [float(mask.sum()) for mask in expected]


# pycocotools has not followed NumPy 2 in all things.
@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
def test_evaluation_finds_the_same_masks(voc: Path) -> None:
    train_set, _ = data.open_detection_data(voc, masks=True)
    coco = data.coco_index(train_set)
    for index in range(6):
        drawn = create_shapes_image(part_seed(5, "train"), index, 96).objects
        annotations = coco.loadAnns(coco.getAnnIds([index]))
        assert [bool(annotation["iscrowd"]) for annotation in annotations] == [shape.iscrowd for shape in drawn]
        for annotation, shape in zip(annotations, drawn, strict=True):
            assert np.array_equal(coco_mask.decode([annotation["segmentation"]])[..., 0].astype(bool), shape.mask)


def test_without_the_list_of_segmentation_the_main_one_serves(voc: Path, tmp_path: Path) -> None:
    root = _copy(voc, tmp_path / "voc")
    (root / "ImageSets" / "Segmentation" / "train.txt").unlink()
    assert len(data.VocDetection(root, masks=True)) == 6
    (root / "ImageSets" / "Segmentation" / "train.txt").write_text("train_000002\n")
    assert len(data.VocDetection(root, masks=True)) == 1
    assert len(data.VocDetection(root)) == 6


def test_bad_masks_of_voc(voc: Path, tmp_path: Path) -> None:
    root = _copy(voc, tmp_path / "voc")
    masks = root / "SegmentationObject"
    first, second, third, fourth = (masks / f"train_00000{number}.png" for number in (1, 2, 3, 4))
    first.unlink()
    Image.new("P", (5, 7)).save(second)
    numbers = np.array(Image.open(third))
    Image.fromarray(np.where(numbers == 1, 0, numbers).astype(np.uint8)).save(third)
    numbers = np.array(Image.open(fourth))
    numbers[0, 0] = 77
    Image.fromarray(numbers).save(fourth)

    report = data.format_report(data.check_dataset("voc", root))
    assert f"{first}: " in report
    assert f"{second}: size: expected that of the image" in report
    assert f"train_000003.xml: object 1: mask: expected pixels of 1 in {third}, got none" in report
    assert f"{fourth}: number 77: object: expected the numbers of the " in report
    assert "4 faults" in report
    with pytest.raises(DataError, match="3 more faults"):
        data.VocDetection(root, masks=True)
    assert len(data.VocDetection(root)) == 6  # boxes need no masks
    skipped = data.VocDetection(root, masks=True, on_bad_sample="skip")
    assert len(skipped.faults) == 4


def _penn_fudan(folder: Path) -> Path:
    for name in ("PNGImages", "PedMasks"):
        (folder / name).mkdir(parents=True)
    generator = np.random.default_rng(0)
    for number in range(3):
        Image.fromarray(generator.integers(0, 255, (20, 30, 3), dtype=np.uint8)).save(
            folder / "PNGImages" / f"Ped{number}.png"
        )
        mask = np.zeros((20, 30), dtype=np.uint8)
        mask[2:9, 3 : 8 + number] = 1
        mask[10:15, 20:30] = 2
        mask[19, 0] = 255
        Image.fromarray(mask).save(folder / "PedMasks" / f"Ped{number}_mask.png")
    return folder


def test_penn_fudan(tmp_path: Path) -> None:
    dataset = data.PennFudan(_penn_fudan(tmp_path / "pf"), masks=True)
    image, target = dataset[1]
    assert (len(dataset), image.shape, dataset.image_size(1)) == (3, (3, 20, 30), (20, 30))
    assert target["boxes"].tolist() == [[3, 2, 9, 9], [20, 10, 30, 15]]
    assert (target["labels"].tolist(), target["area"].tolist(), target["image_id"]) == ([1, 1], [42, 50], 1)
    assert target["masks"].sum((1, 2)).tolist() == [42, 50]
    coco = data.coco_index(dataset)
    assert [annotation["bbox"] for annotation in coco.loadAnns(coco.getAnnIds([1]))] == [[3, 2, 6, 7], [20, 10, 10, 5]]
    assert coco_mask.area(
        [annotation["segmentation"] for annotation in coco.loadAnns(coco.getAnnIds([1]))]
    ).tolist() == [42, 50]
    train_set, val_set = data.open_detection_data(tmp_path, masks=True)
    assert (len(train_set), len(val_set), data.class_names(val_set)) == (2, 1, ["__background__", "pedestrian"])


def test_bad_files_of_penn_fudan(tmp_path: Path) -> None:
    root = _penn_fudan(tmp_path / "pf")
    (root / "PedMasks" / "Ped0_mask.png").unlink()
    Image.new("L", (4, 4)).save(root / "PedMasks" / "Ped2_mask.png")
    report = data.format_report(data.check_dataset("penn_fudan", root))
    assert f"{root / 'PedMasks' / 'Ped0_mask.png'}" in report
    assert f"{root / 'PedMasks' / 'Ped2_mask.png'}: size: expected that of the image, 30 x 20, got 4 x 4" in report
    with pytest.raises(DataError, match="Ped0_mask"):
        data.PennFudan(root)
    assert len(data.PennFudan(root, on_bad_sample="skip")) == 1


def test_real_penn_fudan(real_data: Path) -> None:
    """Boxes of the masks are those that the authors annotated, but for their last row and column and a pixel or two."""
    root = real_data / "penn_fudan" / "PennFudanPed"
    dataset = data.PennFudan(root)
    assert len(dataset) == 20
    boxes = 0
    for index in range(len(dataset)):
        text = (root / "Annotation" / f"{dataset.image_path(index).stem}.txt").read_text(errors="replace")
        lines = [line.split(": ")[1] for line in text.splitlines() if line.startswith("Bounding box")]
        annotated = [
            [int(n) for n in line.replace("(", "").replace(")", "").replace(" - ", ", ").split(",")] for line in lines
        ]
        found = dataset.annotations(index)["boxes"]
        assert found.shape == (len(annotated), 4)
        assert (found - torch.tensor(annotated)).abs().max() <= 3
        boxes += len(annotated)
    assert boxes == 38
