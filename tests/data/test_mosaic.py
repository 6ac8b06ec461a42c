"""Boxes stay on their objects in mosaics, under affine maps and mirrored; and each sample is a function of its key."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.data import Dataset, Subset

from ignite_imgtools.data import MosaicDataset, YoloDetection, create_loader, image_sizes, make_data
from ignite_imgtools.data.transforms import AffineRange, DetectionTransform, HsvJitter
from ignite_imgtools.formats import DataError

_COLOURS = torch.tensor([[255, 0, 0], [0, 255, 0], [0, 0, 255], [255, 255, 0], [255, 0, 255], [0, 255, 255]])


class _Boxes(Dataset):
    """Black images, each with two filled rectangles of two colours of its own, whose boxes are known."""

    def __init__(self, count: int = 3, bad: int | None = None):
        self.count, self.bad = count, bad

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int):
        if index == self.bad:
            raise DataError(f"image {index} is bad")
        rng = np.random.default_rng(index)
        height, width = rng.integers(60, 140, 2).tolist()
        image = torch.zeros(3, height, width, dtype=torch.uint8)
        boxes = []
        for half in range(2):  # side by side, so that none covers the other
            x1, y1 = rng.integers(3, 12, 2).tolist()
            x2, y2 = x1 + rng.integers(12, width // 2 - 14), y1 + rng.integers(25, height - 15)
            box = [x1 + half * width // 2, y1, x2 + half * width // 2, y2]
            image[:, box[1] : box[3], box[0] : box[2]] = _COLOURS[2 * index + half].view(3, 1, 1).to(torch.uint8)
            boxes.append(box)
        labels = torch.tensor([2 * index + 1, 2 * index + 2])
        boxes = torch.tensor(boxes, dtype=torch.float32)
        areas = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
        return image, {"boxes": boxes, "labels": labels, "image_id": index, "area": areas, "iscrowd": labels < 0}


def _colour_at(image: torch.Tensor, label: int) -> torch.Tensor:
    """Where an image has the colour of a label, at least by two thirds."""
    return ((image.int() - _COLOURS[label - 1].view(3, 1, 1)).abs() < 85).all(dim=0)


def _assert_on_objects(image: torch.Tensor, target: dict, turned: bool) -> None:
    boxes, labels = target["boxes"].as_subclass(torch.Tensor), target["labels"]
    for box, label, area in zip(boxes, labels, target["area"], strict=True):
        x1, y1, x2, y2 = box.tolist()
        inside = _colour_at(image, int(label))[round(y1) : round(y2), round(x1) : round(x2)]
        # What is seen of the object is in its box; the edges of turned ones are of mixed colours.
        assert inside.sum() > (0.7 if turned else 0.85) * area - 12
        if not turned:
            assert inside[1:-1, 1:-1].float().mean() > 0.97
    # Nothing of a colour lies outside of the boxes of its label, but for what is too little to be annotated.
    for label in range(1, 7):
        rest = _colour_at(image, label)
        for box in boxes[labels == label].tolist():
            rest[max(0, int(box[1]) - 2) : int(box[3]) + 3, max(0, int(box[0]) - 2) : int(box[2]) + 3] = False
        assert rest.sum() < 110


def _mosaic(**options) -> MosaicDataset:
    return MosaicDataset(_Boxes(), 96, min_visible=0.05, **options)


@pytest.mark.parametrize("index", range(3))
def test_boxes_lie_on_their_objects(index: int) -> None:
    mosaic = _mosaic(transforms=DetectionTransform(hflip=0.5))
    for seed in range(12):
        torch.manual_seed(seed)
        image, target = mosaic[index]
        assert tuple(image.shape) == (3, 96, 96)
        assert image.dtype == torch.uint8
        assert target["image_id"] == index
        assert {len(target[key]) for key in ("boxes", "labels", "area", "iscrowd")} == {len(target["labels"])}
        _assert_on_objects(image, target, turned=False)
        sizes = (target["boxes"][:, 2:] - target["boxes"][:, :2]).as_subclass(torch.Tensor)
        # Areas shrink with what is cut off.
        torch.testing.assert_close(target["area"], sizes.prod(dim=1), rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize(
    "affine",
    [
        AffineRange(scale=0.5),
        AffineRange(translate=0.3),
        AffineRange(degrees=30, shear=10),
        AffineRange(20, 0.2, 0.4, 5),
    ],
)
def test_boxes_follow_affine_maps(affine: AffineRange) -> None:
    mosaic = _mosaic(affine=affine)
    found = 0
    for seed in range(15):
        torch.manual_seed(seed)
        image, target = mosaic[seed % 3]
        found += len(target["labels"])
        _assert_on_objects(image, target, turned=affine.degrees > 0)
        boxes = target["boxes"].as_subclass(torch.Tensor)
        assert (boxes >= 0).all()
        assert (boxes <= 96).all()
        assert ((boxes[:, 2:] - boxes[:, :2]) >= 2).all()
    assert found > 20


def test_four_images_meet_in_a_point() -> None:
    counts = set()
    for seed in range(30):
        torch.manual_seed(seed)
        _, target = _mosaic()[0]
        counts.add(len(target["labels"]))
    assert max(counts) >= 6
    assert len(counts) > 3


def test_a_sample_is_a_function_of_its_key() -> None:
    transforms = DetectionTransform([HsvJitter()], hflip=0.5)
    mosaic = _mosaic(affine=AffineRange(10, 0.1, 0.5, 2), transforms=transforms)
    assert image_sizes(mosaic).tolist() == [[96, 96]] * 3
    batches: dict[int, list] = {}
    for workers in (0, 2):
        loader = create_loader(mosaic, 2, shuffle=True, group_by="shape", seed=5, num_workers=workers, timeout=60)
        batches[workers] = [batch for epoch in range(2) for batch in _epoch(loader, epoch)]
    for (images, targets), (others, other_targets) in zip(*batches.values(), strict=True):
        assert all(torch.equal(a, b) for a, b in zip(images, others, strict=True))
        for one, other in zip(targets, other_targets, strict=True):
            assert all(torch.equal(torch.as_tensor(one[key]), torch.as_tensor(other[key])) for key in one)
    first, second = batches[0][:2], batches[0][2:]
    assert not any(torch.equal(a, b) for x, _ in first for a in x for y, _ in second for b in y)


def _epoch(loader, epoch: int):
    loader.batch_sampler.set_epoch(epoch)
    return list(loader)


def test_it_can_be_pickled(tmp_path: Path) -> None:
    folder = make_data("yolo", tmp_path / "data", num_train=3, num_val=1, image_size=64)
    mosaic = MosaicDataset(Subset(YoloDetection(folder), [2, 0]), 64, transforms=DetectionTransform([HsvJitter()]))
    assert mosaic.class_names[1:] == ["ellipse", "rectangle", "triangle", "star", "cross"]
    assert mosaic.image_path(0) == folder / "images" / "train" / "000003.jpg"
    copy = pickle.loads(pickle.dumps(mosaic))
    torch.manual_seed(0)
    image, _ = mosaic[1]
    torch.manual_seed(0)
    assert torch.equal(image, copy[1][0])


def test_bad_images() -> None:
    dataset = MosaicDataset(_Boxes(bad=1), 64, on_bad_sample="skip")
    for seed in range(8):
        torch.manual_seed(seed)
        _, target = dataset[0]
        assert 3 not in target["labels"]
        assert 4 not in target["labels"]
        with pytest.raises(DataError, match="image 1 is bad"):
            dataset[1]
    strict = MosaicDataset(Subset(_Boxes(bad=1), [0] + [1] * 50), 64)  # hardly a draw without image 1
    with pytest.raises(DataError, match="image 1 is bad"):
        strict[0]


def test_what_cannot_be_done() -> None:
    with pytest.raises(ValueError, match="size must be at least 2 pixels, got 1"):
        MosaicDataset(_Boxes(), 1)
    with pytest.raises(ValueError, match="needs at least one image"):
        MosaicDataset(Subset(_Boxes(), []), 64)

    class WithMasks(_Boxes):
        def __getitem__(self, index: int):
            image, target = super().__getitem__(index)
            return image, target | {"masks": image[:1]}

    with pytest.raises(ValueError, match="a mosaic has no masks: open the data without them"):
        MosaicDataset(WithMasks(), 64)[0]
