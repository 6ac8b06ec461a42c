import json
from pathlib import Path

import numpy as np
import pytest
import torch
from pycocotools.coco import COCO
from torch.utils.data import DataLoader
from torchvision import tv_tensors
from torchvision.transforms import v2

from ignite_imgtools.data import CocoDetection
from ignite_imgtools.formats import DataError, check_detection_batch
from tests.data.coco_folder import write_coco_folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_coco_folder(tmp_path_factory.mktemp("coco")).parents[1]


def open_it(folder: Path, **options) -> CocoDetection:
    return CocoDetection(folder / "train", folder / "annotations" / "instances_train.json", **options)


def test_samples_are_in_the_formats(folder):
    dataset = open_it(folder, masks=True, crowd="keep")
    samples = [dataset[index] for index in range(len(dataset))]
    check_detection_batch([image for image, _ in samples], [target for _, target in samples])
    assert [target["image_id"] for _, target in samples] == [1, 2, 3]
    image, target = samples[2]
    assert isinstance(image, tv_tensors.Image)
    assert image.dtype == torch.uint8
    assert isinstance(target["boxes"], tv_tensors.BoundingBoxes)
    assert target["boxes"].canvas_size == (30, 40)
    assert target["boxes"].dtype == torch.float32
    assert target["boxes"].tolist() == [[1, 2, 11, 10], [0, 0, 5, 30]]
    assert target["area"].tolist() == [80, 150]
    assert target["iscrowd"].tolist() == [False, True]
    assert target["masks"].shape == (2, 30, 40)
    assert target["masks"].sum((1, 2)).tolist() == [80, 150]
    empty = samples[1][1]
    assert {key: tuple(value.shape) for key, value in empty.items() if key != "image_id"} == {
        "boxes": (0, 4),
        "labels": (0,),
        "area": (0,),
        "iscrowd": (0,),
        "masks": (0, 30, 40),
    }


def test_labels_count_from_one_in_order_of_the_category_ids(folder):
    dataset = open_it(folder)
    assert dataset.class_names == ["__background__", "cat", "dog"]
    assert dataset.category_ids == {1: 5, 2: 7}
    assert dataset[0][1]["labels"].tolist() == [1, 2]


def test_boxes_reaching_out_are_clipped(folder):
    assert open_it(folder)[0][1]["boxes"].tolist() == [[5.5, 5.25, 25.5, 15.25], [30, 20, 40, 30]]


def test_crowds_are_not_trained_on(folder):
    assert open_it(folder)[2][1]["boxes"].tolist() == [[1, 2, 11, 10]]
    with pytest.raises(ValueError, match="crowd must be 'drop' or 'keep', got 'ignore'"):
        open_it(folder, crowd="ignore")


def test_targets_are_fresh_each_time(folder):
    dataset = open_it(folder, masks=True)
    for value in dataset[2][1].values():
        if isinstance(value, torch.Tensor):
            value.zero_()
    _, target = dataset[2]
    assert target["boxes"].tolist() == [[1, 2, 11, 10]]
    assert target["labels"].tolist() == [2]
    assert target["masks"].sum() == 80


def test_sizes_without_decoding(folder, monkeypatch):
    def refuse(*_):
        raise AssertionError("decoded an image")

    monkeypatch.setattr("ignite_imgtools.data.detection_table.read_image", refuse)
    dataset = open_it(folder)
    assert [dataset.image_size(index) for index in range(3)] == [(30, 40)] * 3
    assert dataset.image_sizes().tolist() == [[30, 40]] * 3
    assert dataset.annotations(0)["boxes"].shape == (2, 4)
    assert dataset.image_path(0) == folder / "train" / "1.jpg"


def test_drop_empty(folder):
    dataset = open_it(folder, drop_empty=True)
    assert [dataset[index][1]["image_id"] for index in range(len(dataset))] == [1, 3]


def test_transforms_of_torchvision(folder):
    dataset = open_it(folder, masks=True, transforms=v2.RandomHorizontalFlip(p=1))
    plain = open_it(folder, masks=True)
    (image, target), (plain_image, plain_target) = dataset[2], plain[2]
    assert torch.equal(image, plain_image.flip(2))
    assert torch.equal(target["masks"], plain_target["masks"].flip(2))
    assert target["boxes"].tolist() == [[29, 2, 39, 10]]


def test_keypoints(tmp_path):
    def with_keypoints(content):
        content["annotations"][1]["keypoints"] = [1, 2, 2, 0, 0, 0, 5, 6, 1]

    file = write_coco_folder(tmp_path, with_keypoints)
    target = CocoDetection(file.parents[1] / "train", file, keypoints=True)[0][1]
    assert target["keypoints"].tolist() == [[[1, 2, 2], [0, 0, 0], [5, 6, 1]], [[0, 0, 0]] * 3]
    without = write_coco_folder(tmp_path / "without")
    assert CocoDetection(without.parents[1] / "train", without, keypoints=True)[0][1]["keypoints"].shape == (2, 0, 3)


def test_sizes_missing_from_the_file_are_read_from_the_images(tmp_path):
    def without_sizes(content):
        for image in content["images"]:
            del image["width"], image["height"]

    file = write_coco_folder(tmp_path, without_sizes)
    for check_images in (True, False):
        dataset = CocoDetection(tmp_path / "train", file, check_images=check_images)
        assert dataset.image_sizes().tolist() == [[30, 40]] * 3


def test_an_unchecked_image_of_another_size_is_refused_when_read(tmp_path):
    file = write_coco_folder(tmp_path, lambda content: content["images"][1].update(width=41))
    dataset = CocoDetection(tmp_path / "train", file, check_images=False)
    with pytest.raises(DataError, match=r"1\.jpg: expected 41 x 30 pixels as annotated for image 1, got 40 x 30; "):
        dataset[0]


def test_workers_read_the_same(folder):
    dataset = open_it(folder)
    own = [dataset[index][0] for index in range(3)]
    read = list(DataLoader(dataset, batch_size=None, num_workers=1, collate_fn=lambda sample: sample[0]))
    assert all(torch.equal(*pair) for pair in zip(own, read, strict=True))


@pytest.mark.data
@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # of pycocotools, on numpy 2
@pytest.mark.parametrize(
    ("name", "kind", "part", "counts"),
    [
        ("coco_mini", "instances", "train2017", (80, 739, 8)),
        ("coco_mini", "instances", "val2017", (43, 323, 3)),
        ("coco_mini", "person_keypoints", "train2017", (80, 172, 5)),
        ("coco_tiny", "instances", "train2017", (80, 705, 6)),
        ("coco_tiny", "instances", "val2017", (19, 166, 1)),
    ],
)
def test_real_data_equal_pycocotools(real_data, capsys, name, kind, part, counts):
    folder = real_data / name
    file = folder / "annotations" / f"{kind}_{part}.json"
    keypoints = kind == "person_keypoints"
    dataset = CocoDetection(folder / part, file, masks=True, keypoints=keypoints, crowd="keep")
    targets = [dataset.annotations(index) for index in range(len(dataset))]
    crowds = sum(int(target["iscrowd"].sum()) for target in targets)
    assert (len(dataset), sum(len(target["labels"]) for target in targets), crowds) == counts

    coco = COCO(file)
    for index in range(0, len(dataset), 8):
        target = targets[index]
        expected = coco.loadAnns(coco.getAnnIds(target["image_id"]))
        height, width = dataset.image_size(index)
        boxes = np.array([annotation["bbox"] for annotation in expected]).reshape(-1, 4)
        boxes[:, 2:] += boxes[:, :2]
        np.testing.assert_array_equal(target["boxes"], boxes.clip(0, [width, height, width, height]).astype(np.float32))
        ids = [dataset.category_ids[label] for label in target["labels"].tolist()]
        assert ids == [annotation["category_id"] for annotation in expected]
        for mask, annotation in zip(target["masks"], expected, strict=True):
            np.testing.assert_array_equal(mask, coco.annToMask(annotation))
        if keypoints:
            points = [annotation["keypoints"] for annotation in expected]
            assert target["keypoints"].flatten(1).tolist() == points
    image, _ = dataset[0]
    assert tuple(image.shape) == (3, *dataset.image_size(0))


def test_a_file_at_the_scale_of_coco_stays_in_flat_arrays(tmp_path):
    """No Python object is kept for an annotation: workers would copy its page when they count a reference."""
    images = [{"id": id_, "file_name": f"{id_}.jpg", "width": 640, "height": 480} for id_ in range(2000)]
    box = {"category_id": 1, "bbox": [10, 20, 30, 40], "area": 1200, "iscrowd": 0}
    polygon = [[10, 20, 40, 20, 40, 60]]
    annotations = [{"id": id_, "image_id": id_ % 2000, "segmentation": polygon} | box for id_ in range(20000)]
    content = {"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "thing"}]}
    file = tmp_path / "instances.json"
    file.write_text(json.dumps(content))
    table = CocoDetection(tmp_path, file, check_images=False).table
    assert len(table) == 2000
    assert table.count_objects(crowd=False).tolist() == [10] * 2000
    for name, value in vars(table).items():
        assert name == "categories" or not isinstance(value, list | tuple | dict), name
