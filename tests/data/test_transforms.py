"""Detection transforms: against plain loops over coordinates and against the pixels themselves."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import tv_tensors
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as F

from ignite_imgtools.data.coco import CocoDetection
from ignite_imgtools.data.transforms import DetectionTransform, detection_eval, detection_train, flip_permutation
from ignite_imgtools.formats import check_detection_batch

HEIGHT, WIDTH = 40, 60
NAMES = ["nose", "left_eye", "right_eye"]
FIELDS = ("boxes", "labels", "area", "iscrowd", "masks", "keypoints")


def sample(tv: bool = True) -> tuple[torch.Tensor, dict[str, Any]]:
    """Rectangles of one colour each: where they went can be read off the pixels."""
    corners = [(5, 4, 25, 20), (30, 10, 58, 38), (2, 25, 12, 39)]
    image = torch.zeros(3, HEIGHT, WIDTH, dtype=torch.uint8)
    masks = torch.zeros(3, HEIGHT, WIDTH, dtype=torch.uint8)
    for number, (x1, y1, x2, y2) in enumerate(corners):
        image[:, y1:y2, x1:x2] = 60 * (number + 1)
        masks[number, y1:y2, x1:x2] = 1
    boxes = torch.tensor(corners, dtype=torch.float32)
    keypoints = torch.tensor([[[x1, y1, 2], [x1 + 3, y1, 1], [0, 0, 0]] for x1, y1, _, _ in corners]).float()
    target = {
        "boxes": boxes,
        "labels": torch.tensor([1, 2, 3]),
        "image_id": 7,
        "area": masks.sum((1, 2)).float(),
        "iscrowd": torch.tensor([False, True, False]),
        "masks": masks,
        "keypoints": keypoints,
    }
    if tv:
        image = tv_tensors.Image(image)
        target["masks"] = tv_tensors.Mask(masks)
        target["boxes"] = tv_tensors.BoundingBoxes(boxes, format="XYXY", canvas_size=(HEIGHT, WIDTH))
    return image, target


def boxes_of_masks(masks: torch.Tensor) -> list[list[float]]:
    boxes = []
    for mask in masks:
        y, x = torch.nonzero(mask, as_tuple=True)
        boxes.append([float(x.min()), float(y.min()), float(x.max()) + 1, float(y.max()) + 1])
    return boxes


@pytest.mark.parametrize("tv", [True, False])
def test_mirroring_moves_every_field(tv: bool) -> None:
    image, target = sample(tv)
    before = pickle.dumps((image, target))
    mirrored, changed = DetectionTransform(hflip=1.0, keypoint_flip=flip_permutation(NAMES))(image, target)
    check_detection_batch([mirrored], [changed])
    assert mirrored.dtype == torch.uint8
    assert torch.equal(mirrored, image.flip(2))
    assert torch.equal(changed["masks"], target["masks"].flip(2))
    assert changed["boxes"].tolist() == boxes_of_masks(changed["masks"])
    for number in range(3):
        nose, left, right = changed["keypoints"][number].tolist()
        x1, y1 = target["boxes"][number, :2].tolist()
        assert nose == [WIDTH - 1 - x1, y1, 2]
        # What was the left eye is on the other side now, and what was not annotated has no place.
        assert right == [WIDTH - 1 - (x1 + 3), y1, 1]
        assert left == [0, 0, 0]
        # A keypoint is at a pixel: that of the same colour.
        assert mirrored[0, int(nose[1]), int(nose[0])] == 60 * (number + 1)
    for key in ("labels", "area", "iscrowd", "image_id"):
        assert changed[key] is target[key]
    assert pickle.dumps((image, target)) == before


def test_mirroring_twice_changes_nothing() -> None:
    image, target = sample()
    mirror = DetectionTransform(hflip=1.0, keypoint_flip=flip_permutation(NAMES))
    again, same = mirror(*mirror(image, target))
    assert torch.equal(again, image)
    assert all(torch.equal(same[key], target[key]) for key in FIELDS)


def test_mirroring_is_as_likely_as_asked() -> None:
    image, target = sample()
    del target["keypoints"]
    for hflip in (0.0, 0.25):
        torch.manual_seed(0)
        transform = DetectionTransform(hflip=hflip)
        mirrored = sum(not torch.equal(transform(image, target)[0], image) for _ in range(400))
        assert abs(mirrored - 400 * hflip) <= 26 * (hflip > 0)  # three standard deviations


def test_scaling_scales_areas_and_keypoints() -> None:
    image, target = sample()
    scaled, changed = DetectionTransform([v2.Resize((HEIGHT * 2, WIDTH * 3))])(image, target)
    assert scaled.shape == (3, HEIGHT * 2, WIDTH * 3)
    assert torch.allclose(changed["boxes"], target["boxes"] * torch.tensor([3, 2, 3, 2]))
    assert torch.allclose(changed["area"], target["area"] * 6)
    assert torch.allclose(changed["keypoints"], target["keypoints"] * torch.tensor([3, 2, 1]))
    assert changed["masks"].shape == (3, HEIGHT * 2, WIDTH * 3)
    assert changed["boxes"].canvas_size == (HEIGHT * 2, WIDTH * 3)


class Crop(v2.Transform):
    def __init__(self, left: int, top: int, width: int, height: int):
        super().__init__()
        self.place = {"left": left, "top": top, "width": width, "height": height}

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        return self._call_kernel(F.crop, inpt, **self.place)


def test_cropping_removes_slivers_from_every_field() -> None:
    image, target = sample()
    # Nothing is left of the first object, of the third 0.5 pixels; the second loses its left half.
    target["boxes"][2, 2] = 44.5
    cropped, changed = DetectionTransform([Crop(44, 0, 16, HEIGHT)])(image, target)
    assert cropped.shape == (3, HEIGHT, 16)
    assert changed["labels"].tolist() == [2]
    assert changed["boxes"].tolist() == [[0, 10, 14, 38]]
    assert changed["area"].tolist() == [14 * 28]
    assert changed["iscrowd"].tolist() == [True]
    assert torch.equal(changed["masks"][0], cropped[0] // 120)
    assert changed["keypoints"].tolist() == [[[0, 0, 0]] * 3]  # they were left of the crop
    assert isinstance(changed["boxes"], tv_tensors.BoundingBoxes)
    assert isinstance(changed["masks"], tv_tensors.Mask)
    kept = DetectionTransform([Crop(44, 0, 16, HEIGHT)], min_box_size=0.25)(image, target)[1]
    assert kept["labels"].tolist() == [2, 3]


def test_no_object_may_be_left() -> None:
    image, target = sample()
    image, changed = DetectionTransform([Crop(26, 0, 3, 3)])(image, target)
    assert changed["boxes"].shape == (0, 4)
    assert changed["masks"].shape == (0, 3, 3)
    assert changed["keypoints"].shape == (0, 3, 3)
    assert [len(changed[key]) for key in FIELDS] == [0] * 6
    changed.pop("keypoints"), changed.pop("masks")
    empty = detection_train(1.0, photometric=True, iou_crop=True, jitter_size=(32, 32))(image, changed)
    check_detection_batch([empty[0]], [empty[1]])


def test_keypoints_out_of_the_image_are_not_annotated() -> None:
    image, target = sample()
    target["keypoints"][0] = torch.tensor([[20.0, 10, 2], [31, 10, 2], [25, 3, 1]])
    target["boxes"][0] = torch.tensor([0, 0, 60, 40])
    changed = DetectionTransform([Crop(18, 5, 13, 20)])(image, target)[1]
    assert changed["keypoints"][0].tolist() == [[2, 5, 2], [0, 0, 0], [0, 0, 0]]


def test_other_boxes_and_images_are_converted() -> None:
    boxes = tv_tensors.BoundingBoxes([[5.0, 4, 20, 16]], format="XYWH", canvas_size=(HEIGHT, WIDTH))
    picture = Image.fromarray(np.zeros((HEIGHT, WIDTH, 3), dtype=np.uint8))
    image, target = DetectionTransform(hflip=1.0)(picture, {"boxes": boxes, "labels": torch.ones(1), "image_id": 1})
    assert image.dtype == torch.uint8
    assert target["boxes"].tolist() == [[WIDTH - 25, 4, WIDTH - 5, 20]]
    assert target["boxes"].format == tv_tensors.BoundingBoxFormat.XYXY
    image, target = DetectionTransform()(torch.rand(3, 4, 5), {"boxes": torch.zeros(0), "image_id": 1})
    assert image.is_floating_point()
    assert target["boxes"].shape == (0, 4)


def test_evaluation_keeps_all_but_empty_boxes() -> None:
    image, target = sample()
    same, kept = detection_eval()(image, target)
    assert torch.equal(same, image)
    assert all(torch.equal(kept[key], target[key]) for key in FIELDS)
    target["boxes"][0, 2] = target["boxes"][0, 0]
    target["boxes"][1, 2:] = target["boxes"][1, :2] + 0.25
    assert detection_eval()(image, target)[1]["labels"].tolist() == [2, 3]
    assert detection_train(0)(image, target)[1]["labels"].tolist() == [3]


def test_all_of_training_fits_together_and_pickles() -> None:
    transform = pickle.loads(
        pickle.dumps(
            detection_train(
                photometric=True, iou_crop=True, jitter_size=(48, 32), jitter_range=(0.5, 2), keypoint_flip=(0, 2, 1)
            )
        )
    )
    assert "RandomIoUCrop" in repr(transform)
    for seed in range(30):
        torch.manual_seed(seed)
        image, target = transform(*sample())
        check_detection_batch([image], [target])
        assert image.shape == (3, 48, 32)
        count = len(target["boxes"])
        assert all(len(target[key]) == count for key in FIELDS)
        for box, mask in zip(target["boxes"].tolist(), boxes_of_masks(target["masks"]), strict=True):
            assert max(abs(a - b) for a, b in zip(box, mask, strict=True)) <= 1.5
        places = target["keypoints"][target["keypoints"][..., 2] > 0]
        assert (places[:, 0] < 32).all()
        assert (places[:, 1] < 48).all()


def test_what_is_wrong_is_said() -> None:
    image, target = sample()
    with pytest.raises(ValueError, match="hflip must be a probability from 0 to 1, got 2"):
        DetectionTransform(hflip=2)
    with pytest.raises(ValueError, match="min_box_size must be 0 or more, got -1"):
        DetectionTransform(min_box_size=-1)
    for permutation in ([0, 0, 1], [1, 2, 0], [0, 1, 5]):
        with pytest.raises(ValueError, match="keypoint_flip must exchange keypoints in pairs"):
            DetectionTransform(keypoint_flip=permutation)
    for permutation in (None, (1, 0)):
        with pytest.raises(ValueError, match=r"mirroring targets with 3 keypoints needs keypoint_flip"):
            detection_train(keypoint_flip=permutation)(image, target)
    with pytest.raises(ValueError, match="'left_ear' has no counterpart 'right_ear'"):
        flip_permutation(["left_ear", "nose"])


def test_names_give_the_permutation() -> None:
    assert flip_permutation(["Left-eye", "nose", "right eye", "mouth_left_up", "mouth_right_up"]) == (2, 1, 0, 4, 3)
    assert flip_permutation([]) == ()


@pytest.mark.data
def test_real_people(real_data: Path) -> None:
    root = real_data / "coco_mini"
    dataset = CocoDetection(
        root / "val2017",
        root / "annotations" / "person_keypoints_val2017.json",
        masks=True,
        keypoints=True,
        drop_empty=True,
    )
    permutation = flip_permutation(dataset.table.categories[0].keypoints)
    mirror = detection_train(1.0, keypoint_flip=permutation)
    for index in range(0, len(dataset), 4):
        image, target = dataset[index]
        mirrored, changed = mirror(image, target)
        check_detection_batch([mirrored], [changed])
        seen = target["keypoints"][..., 2] > 0
        for person, number in torch.nonzero(seen).tolist():
            x, y, visibility = target["keypoints"][person, number].tolist()
            other = changed["keypoints"][person, permutation[number]].tolist()
            assert other == [image.shape[2] - 1 - x, y, visibility]
            assert torch.equal(mirrored[:, int(y), int(other[0])], image[:, int(y), int(x)])
        assert not changed["keypoints"][changed["keypoints"][..., 2] == 0].any()
