from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.data import Subset

from ignite_imgtools.data import (
    CocoDetection,
    PersonKeypoints,
    coco_index,
    collate_person_images,
    collate_persons,
    create_loader,
    open_person_data,
)
from ignite_imgtools.data.transforms import pose_eval, pose_train
from ignite_imgtools.formats import DataError, image_ids
from tests.data.coco_folder import write_coco_folder
from tests.data.person_folder import open_people


def test_persons_with_keypoints_are_the_samples(tmp_path: Path) -> None:
    coco = open_people(tmp_path)
    persons = PersonKeypoints(coco)
    assert len(persons) == 3
    assert [persons.person(i)["image_id"] for i in range(3)] == [1, 3, 3]
    first = persons.person(0)
    assert first["keypoints"].tolist() == [[31, 21, 2], [32, 22, 2], [33, 23, 2]]
    assert first["keypoints"].dtype == torch.float32
    assert first["box"].tolist() == [30, 20, 40, 30]  # clipped to the image
    assert (first["score"], first["label"]) == (1.0, 1)
    # Halves of pixels stay.
    assert persons.person(1)["keypoints"].tolist() == [[3, 4, 2], [5.5, 6, 1], [0, 0, 0]]
    image, target = persons[2]
    assert torch.equal(image, coco[2][0])
    assert target["box"].tolist() == [20, 10, 26, 19]
    assert persons.image_size(0) == (30, 40)
    assert persons.image_path(0) == coco.image_path(0)
    assert (persons.num_keypoints, persons.flip_permutation, persons.category.name) == (3, (0, 2, 1), "person")


def test_a_part_of_the_images(tmp_path: Path) -> None:
    persons = PersonKeypoints(Subset(open_people(tmp_path), [2, 1]))
    assert [persons.person(i)["image_id"] for i in range(len(persons))] == [3, 3]
    assert [persons.by_image()[i][1]["image_id"] for i in range(2)] == [3, 2]


def _write_detections(folder: Path) -> Path:
    boxes: list[dict[str, Any]] = [
        {"image_id": 3, "category_id": 5, "bbox": [2.5, 3, 10, 50], "score": 0.75},
        {"image_id": 2, "category_id": 5, "bbox": [0, 0, 4, 4], "score": 0.25},
        {"image_id": 3, "category_id": 7, "bbox": [0, 0, 4, 4], "score": 0.9},  # a dog
        {"image_id": 99, "category_id": 5, "bbox": [0, 0, 4, 4], "score": 0.9},  # of another data set
        {"image_id": 1, "category_id": 5, "bbox": [50, 0, 4, 4], "score": 0.9},  # outside
        {"image_id": 1, "category_id": 5, "bbox": [0, 0, 4, 4], "score": 0.01},
    ]
    (folder / "detections.json").write_text(json.dumps(boxes), encoding="utf-8")
    return folder / "detections.json"


def test_boxes_of_a_detector(tmp_path: Path) -> None:
    coco, file = open_people(tmp_path), _write_detections(tmp_path)
    persons = PersonKeypoints(coco, detections=file, min_score=0.1)
    found = [persons.person(i) for i in range(len(persons))]
    assert [(p["image_id"], p["score"]) for p in found] == [(2, 0.25), (3, 0.75)]
    assert found[1]["box"].tolist() == [2.5, 3, 12.5, 30]
    assert found[1]["keypoints"].tolist() == [[0, 0, 0]] * 3
    assert len(PersonKeypoints(coco, detections=file)) == 3


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[{", "no valid json"),
        ("{}", "expected a json list of detections, got a dict"),
        ('[{"image_id": 1}]', "detection 0: expected image_id, category_id, bbox"),
        ('[{"image_id": 1, "category_id": 5, "bbox": [1, 2, 3], "score": 1}]', "detection 0: expected"),
        ('[{"image_id": 1, "category_id": 5, "bbox": [1, 2, 3, NaN], "score": 1}]', "finite numbers"),
        ("[]", "no person with keypoints"),
    ],
)
def test_bad_detections_are_refused_in_one_line(content: str, message: str, tmp_path: Path) -> None:
    coco, file = open_people(tmp_path), tmp_path / "detections.json"
    file.write_text(content, encoding="utf-8")
    with pytest.raises(DataError, match=message) as caught:
        PersonKeypoints(coco, detections=file)
    assert str(file) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_other_data_is_refused(tmp_path: Path) -> None:
    coco = open_people(tmp_path / "people")
    boxes = CocoDetection(tmp_path / "boxes" / "train", write_coco_folder(tmp_path / "boxes"))
    with pytest.raises(DataError, match="the annotations have no keypoints"):
        PersonKeypoints(boxes)
    with pytest.raises(DataError, match="category 'cow' is not among"):
        PersonKeypoints(coco, category="cow")
    with pytest.raises(DataError, match="no such file of detections"):
        PersonKeypoints(coco, detections=tmp_path / "missing.json")
    with pytest.raises(DataError, match="no person with keypoints in the images"):
        PersonKeypoints(Subset(coco, [1]))
    with pytest.raises(TypeError, match="needs a CocoDetection"):
        PersonKeypoints([1, 2])  # type: ignore[arg-type]


def test_training_batches(tmp_path: Path) -> None:
    persons = PersonKeypoints(open_people(tmp_path), transforms=pose_train((32, 24), flip_permutation=(0, 2, 1)))
    loader = create_loader(persons, 2, shuffle=True, collate_fn=collate_persons)
    batches = list(loader)
    assert [tuple(images.shape) for images, _ in batches] in (
        [(2, 3, 32, 24), (1, 3, 32, 24)],
        [(1, 3, 32, 24), (2, 3, 32, 24)],
    )
    assert batches[0][0].dtype == torch.uint8
    assert batches[0][1]["keypoints"].shape[1:] == (3, 3)
    assert sorted(image_id for _, targets in batches for image_id in targets["image_id"]) == [1, 3, 3]
    assert image_ids(batches[0]) == batches[0][1]["image_id"]
    assert collate_persons([]) == ([], [])
    with pytest.raises(ValueError, match="persons of one size"):
        collate_persons([(torch.zeros(3, 4, 4), {}), (torch.zeros(3, 5, 4), {})])


@pytest.mark.parametrize("batch_size", [1, 2, 5])
def test_evaluation_batches_are_of_whole_images(batch_size: int, tmp_path: Path) -> None:
    persons = PersonKeypoints(open_people(tmp_path), transforms=pose_eval((32, 24)))
    images = persons.by_image()
    assert images.image_size(0) == (30, 40)
    loader = create_loader(images, batch_size, collate_fn=collate_person_images)
    crops, targets = zip(*loader, strict=True)
    found = [target for batch in targets for target in batch]
    assert [target["image_id"] for target in found] == [1, 2, 3]
    assert [len(target["scores"]) for target in found] == [1, 0, 2]
    assert [len(batch) for batch in crops] == [sum(len(t["scores"]) for t in batch) for batch in targets]
    all_crops = torch.cat([batch for batch in crops if len(batch)])
    for index in range(3):
        crop, target = persons[index]
        assert torch.equal(all_crops[index], crop)
        assert torch.equal(torch.cat([t["to_image"] for t in found])[index], target["to_image"])
        assert torch.equal(torch.cat([t["boxes"] for t in found])[index], target["box"])
    dtypes = {key: value.dtype for key, value in found[1].items() if key != "image_id"}
    assert dtypes == {"to_image": torch.float64, "boxes": torch.float32, "scores": torch.float32, "labels": torch.int64}
    assert collate_person_images([])[1] == []


@pytest.mark.data
def test_people_of_photographs(real_data: Path) -> None:
    folder = real_data / "coco_mini"
    for split, count in (("train2017", 86), ("val2017", 24)):
        file = folder / "annotations" / f"person_keypoints_{split}.json"
        persons = PersonKeypoints(CocoDetection(folder / split, file), transforms=pose_eval())
        assert len(persons) == count
        assert persons.flip_permutation == (0, 2, 1, 4, 3, 6, 5, 8, 7, 10, 9, 12, 11, 14, 13, 16, 15)
    crop, target = persons[0]
    assert crop.shape == (3, 256, 192)
    assert crop.float().std() > 10
    seen = target["keypoints"][target["keypoints"][:, 2] > 0]
    assert ((seen[:, :2] > 0) & (seen[:, :2] < torch.tensor([192.0, 256.0]))).all()
    folder = real_data / "coco_keypoints_mmpose"
    detected = PersonKeypoints(
        CocoDetection(folder, folder / "test_coco.json"), detections=folder / "test_coco_det_AP_H_56.json"
    )
    assert len(detected) > 14


def test_the_truth_of_an_evaluation_is_of_the_persons_alone(tmp_path: Path) -> None:
    images = PersonKeypoints(open_people(tmp_path)).by_image()
    index = coco_index(images)  # type: ignore[arg-type]
    annotations = index.loadAnns(index.getAnnIds())
    # With the crowd and the one without keypoints, which an evaluation forgives; without the dog.
    assert len(annotations) == 5
    assert {index.cats[annotation["category_id"]]["name"] for annotation in annotations} == {"person"}
    assert [len(index.getAnnIds(imgIds=[id_])) for id_ in (1, 2, 3)] == [2, 0, 3]
    image, keypoints = images.annotated(3)
    assert image.shape == (3, 30, 40)
    assert keypoints.tolist() == [[[3, 4, 2], [5.5, 6, 1], [0, 0, 0]], [[21, 11, 2], [22, 12, 2], [23, 13, 1]]]
    with pytest.raises(KeyError, match="no image with the id 9"):
        images.annotated(9)


def test_parts_are_found_and_opened(tmp_path: Path) -> None:
    people = open_people(tmp_path).images_dir.parent
    train, val = open_person_data(people, val_fraction=0.4, seed=1)
    assert len(train) + len(val) == 3
    assert len(val.table) == 1
    with pytest.raises(DataError, match="no annotations/person_keypoints_train"):
        open_person_data(tmp_path / "train")
    with pytest.raises(ValueError, match="data_format must be one of coco_keypoints, got 'voc'"):
        open_person_data(people, "voc")
