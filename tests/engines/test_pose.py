from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from ignite.engine import Engine
from torch import Tensor, nn

from ignite_imgtools.data import CocoDetection, PersonKeypoints, coco_index, collate_person_images, create_loader
from ignite_imgtools.data.transforms import pose_eval
from ignite_imgtools.engines import (
    GradientUpdate,
    create_pose_evaluator,
    create_pose_predictor,
    create_pose_trainer,
    keypoints_to_heatmaps,
    pose_evaluation_step,
    pose_training_step,
)
from ignite_imgtools.formats import DataError
from ignite_imgtools.losses import HeatmapLoss
from ignite_imgtools.metrics import CocoMetric
from tests.engines.reads import CountReads
from tests.engines.tiny_pose import TinyPose


def _batch(count: int, seed: int = 0) -> tuple[Tensor, dict[str, Any]]:
    torch.manual_seed(seed)
    images = torch.randint(0, 256, (count, 3, 32, 24), dtype=torch.uint8)
    places = torch.rand(count, 3, 2) * torch.tensor([24.0, 32.0])
    visibility = torch.randint(0, 3, (count, 3, 1)).float()
    return images, {"keypoints": torch.cat((places, visibility), dim=2), "image_id": list(range(count))}


def test_a_training_step_by_hand() -> None:
    model, expected = TinyPose(), TinyPose()
    trainer = create_pose_trainer(
        model, GradientUpdate(torch.optim.SGD(model.parameters(), 0.1)), HeatmapLoss(), sigma=1.0, mean=(0.5,) * 3
    )
    images, targets = _batch(4)
    outputs: list[dict[str, Any]] = []
    with CountReads() as counter:
        trainer.run([(images, targets)] * 2, max_epochs=1)
        outputs.append(trainer.state.output)  # type: ignore[arg-type]
    assert not counter.reads
    assert set(outputs[0]) >= {"loss", "loss_heatmap", "batch_size", "grad_norm"}
    assert outputs[0]["batch_size"] == 4

    optimizer = torch.optim.SGD(expected.parameters(), 0.1)
    std = torch.tensor((0.229, 0.224, 0.225))[:, None, None]
    for _ in range(2):
        heatmaps = expected((images / 255 - 0.5) / std)
        truth, visibility = keypoints_to_heatmaps(targets["keypoints"], (8, 6), sigma=1.0)
        errors = (heatmaps - truth).square().mean(dim=(2, 3))
        loss = (errors * (visibility > 0)).sum() / 4
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    torch.testing.assert_close(outputs[0]["loss"], loss.detach())
    torch.testing.assert_close(model.state_dict(), expected.state_dict())


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("amp_dtype", [None, "bfloat16", "float16"])
def test_no_step_waits_for_the_device(amp_dtype: str | None) -> None:
    model = TinyPose().cuda()
    optimizer = torch.optim.SGD(model.parameters(), 0.1, fused=amp_dtype == "float16")
    step = pose_training_step(model, GradientUpdate(optimizer, amp_dtype=amp_dtype), HeatmapLoss((1.0, 2.0, 1.0)))
    images, targets = _batch(4)
    batch = images.pin_memory(), targets | {"keypoints": targets["keypoints"].pin_memory()}
    trainer = Engine(step)
    trainer.run([batch] * 3, max_epochs=1)  # buffers are moved, gradients made
    torch.cuda.set_sync_debug_mode("error")
    try:
        trainer.state.output = step(trainer, batch)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert torch.isfinite(trainer.state.output["loss"])  # type: ignore[index]


@pytest.mark.parametrize("refine", ["quarter", "dark"])
def test_a_prediction_reads_nothing(refine: str) -> None:
    predict = create_pose_predictor(TinyPose(), flip_permutation=(0, 2, 1), refine=refine)  # type: ignore[arg-type]
    images, _ = _batch(2)
    with CountReads() as counter:
        keypoints = predict(images, torch.eye(2, 3, dtype=torch.float64).expand(2, 2, 3))
    assert not counter.reads
    assert keypoints.shape == (2, 3, 3)
    assert keypoints.dtype == torch.float32


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda images, targets: (list(images), targets), "must be stacked"),
        (lambda images, targets: (images, [targets]), "must hold keypoints"),
        (lambda images, targets: (images[:1], targets), r"keypoints \[1, K, 3\], got \[2, 3, 3\]"),
        (lambda images, targets: (images, {"keypoints": torch.zeros(2, 5, 3)}), "3 keypoints, the targets have 5"),
    ],
)
def test_other_batches_are_refused(change: Any, message: str) -> None:
    model = TinyPose()
    trainer = create_pose_trainer(model, GradientUpdate(torch.optim.SGD(model.parameters(), 0.1)), HeatmapLoss())
    with pytest.raises(DataError, match=message):
        trainer.run([change(*_batch(2))], max_epochs=1)


_AS_THEY_ARE: dict[str, Any] = {"mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0)}


class _Oracle(nn.Module):
    """Answers with the truth of crops that it knows, and of their mirror images."""

    def __init__(self, persons: PersonKeypoints) -> None:
        super().__init__()
        self.known: list[tuple[Tensor, Tensor]] = []
        permutation, width = list(persons.flip_permutation), persons[0][0].shape[2]
        for crop, target in (persons[index] for index in range(len(persons))):
            keypoints = target["keypoints"]
            keypoints = torch.cat((keypoints[:, :2], torch.ones(len(keypoints), 1)), dim=1)
            mirrored = keypoints[permutation]
            mirrored[:, 0] = width - 1 - mirrored[:, 0]
            self.known += [(crop.float() / 255, keypoints), (crop.flip(-1).float() / 255, mirrored)]

    def forward(self, images: Tensor) -> Tensor:
        keypoints = [next(points for crop, points in self.known if torch.equal(crop, image)) for image in images]
        return keypoints_to_heatmaps(torch.stack(keypoints), (images.shape[2] // 4, images.shape[3] // 4))[0]


@pytest.fixture(scope="module")
def people(real_data: Path) -> PersonKeypoints:
    folder = real_data / "coco_mini"
    file = folder / "annotations" / "person_keypoints_val2017.json"
    return PersonKeypoints(CocoDetection(folder / "val2017", file), transforms=pose_eval())


@pytest.mark.data
@pytest.mark.parametrize(
    ("flip", "refine", "least"), [(False, "quarter", 0.96), (False, "dark", 0.98), (True, "dark", 0.97)]
)
def test_the_truth_of_photographs_is_found_again(
    flip: bool, refine: str, least: float, people: PersonKeypoints
) -> None:
    metric = CocoMetric(coco_index(people.dataset), iou_types=("keypoints",), keep_results=True)
    evaluator = create_pose_evaluator(
        _Oracle(people),
        {"coco": metric},
        flip_permutation=people.flip_permutation if flip else None,
        refine=refine,
        **_AS_THEY_ARE,
    )
    evaluator.run(create_loader(people.by_image(), 4, collate_fn=collate_person_images))
    # Two hips of one person are annotated outside its box, so not all can be found.
    assert evaluator.state.metrics["keypoints/AP"] >= least
    results = json.loads(json.dumps(metric.results("keypoints")))
    assert len(results) == len(people)


@pytest.mark.data
def test_places_in_photographs_are_found_to_a_twentieth_of_a_pixel(people: PersonKeypoints) -> None:
    predict = create_pose_predictor(_Oracle(people), refine="dark", **_AS_THEY_ARE)
    errors = []
    for index in range(len(people)):
        crop, target = people[index]
        inside = target["keypoints"][:, :2]
        inner = ((inside > 24) & (inside < torch.tensor([192.0, 256.0]) - 24)).all(dim=1)
        inner &= target["keypoints"][:, 2] > 0
        found = predict(crop[None], target["to_image"][None])[0]
        # In pixels of the heat-map, which are up to eight wide in the photograph.
        scale = 4 * float(target["to_image"][0, 0])
        errors.append((found - people.person(index)["keypoints"])[inner, :2] / scale)
    assert len(torch.cat(errors)) > 150
    assert torch.cat(errors).abs().max() < 0.05
    assert torch.cat(errors).mean(dim=0).abs().max() < 0.005


@pytest.mark.data
def test_numbers_depend_on_neither_batch_size_nor_wrappers(people: PersonKeypoints) -> None:
    model = TinyPose(17)
    found = []
    for batch_size, options in ((1, {}), (7, {}), (7, {"crops_per_forward": 3})):
        step = pose_evaluation_step(model, flip_permutation=people.flip_permutation, **options)  # type: ignore[arg-type]
        loader = create_loader(people.by_image(), batch_size, collate_fn=collate_person_images)
        outputs = [step(Engine(step), batch) for batch in loader]
        found.append([prediction for output in outputs for prediction in output["y_pred"]])
        assert [target["image_id"] for output in outputs for target in output["y"]] == people.table.image_ids.tolist()
    assert model.training
    for one, other, chunked in zip(*found, strict=True):
        for key, value in one.items():
            assert torch.equal(value, other[key])
            assert value.shape == chunked[key].shape
    assert sum(len(prediction["scores"]) for prediction in found[0]) <= len(people)


def _image(count: int) -> dict[str, Any]:
    scale = torch.eye(2, 3, dtype=torch.float64) * torch.tensor([2.0, 3.0, 1.0])
    return {
        "image_id": count,
        "to_image": (scale + torch.tensor([0, 0, 10.0])).expand(count, 2, 3),
        "boxes": torch.tensor([[0.0, 0.0, 9.0, 9.0]]).expand(count, 4),
        "scores": torch.linspace(0.5, 1, count) if count else torch.zeros(0),
        "labels": torch.ones(count, dtype=torch.int64),
    }


class _Fixed(nn.Module):
    """The same heat-maps for every crop: peaks of 0.1 and 0.5 at (1, 2) and (4, 3), and no flip can change that."""

    def forward(self, images: Tensor) -> Tensor:
        heatmaps = torch.zeros(len(images), 2, 8, 6)
        heatmaps[:, 0, 2, 1], heatmaps[:, 1, 3, 4] = 0.1, 0.5
        return heatmaps


def test_scores_places_and_suppression_by_hand() -> None:
    targets = [_image(2), _image(0), _image(1)]
    crops = torch.zeros(3, 3, 32, 24, dtype=torch.uint8)
    step = pose_evaluation_step(_Fixed(), keypoint_sigmas=(0.1, 0.1), refine="none")
    output = step(Engine(step), (crops, targets))
    assert output["batch_size"] == 3
    assert output["y"] is targets
    first, second, third = output["y_pred"]
    # Of two equal poses in an image the one in the box of the lower score is left out.
    assert [len(prediction["scores"]) for prediction in (first, second, third)] == [1, 0, 1]
    # x is 2 * x + 10, y is 3 * y + 10; 0.1 is too low to count in the score.
    expected = [[2 * 4 + 10, 3 * 8 + 10, 0.1], [2 * 16 + 10, 3 * 12 + 10, 0.5]]
    torch.testing.assert_close(first["keypoints"], torch.tensor([expected], dtype=torch.float32))
    assert first["scores"].tolist() == [0.5]
    assert third["scores"].tolist() == [0.25]
    everyone = pose_evaluation_step(_Fixed(), keypoint_sigmas=(0.1, 0.1), oks_threshold=None, min_keypoint_score=0.6)
    predictions = everyone(Engine(everyone), (crops, targets))["y_pred"]
    assert [prediction["scores"].tolist() for prediction in predictions] == [[0, 0], [], [0]]


def test_batches_without_persons() -> None:
    step = pose_evaluation_step(TinyPose())
    crops, targets = collate_person_images([([], {"image_id": 4, "persons": []})])
    output = step(Engine(step), (crops, targets))
    assert output["batch_size"] == 1
    assert output["y_pred"][0]["keypoints"].shape == (0, 17, 3)
    assert step(Engine(step), collate_person_images([]))["y_pred"] == []


def test_refusals() -> None:
    with pytest.raises(ValueError, match="crops_per_forward must be at least 1"):
        pose_evaluation_step(TinyPose(), crops_per_forward=0)
    with pytest.raises(ValueError, match="exchange keypoints in pairs"):
        pose_evaluation_step(TinyPose(), flip_permutation=(1, 2, 0))
    step = pose_evaluation_step(TinyPose())
    with pytest.raises(DataError, match="2 crops has targets of 1 persons"):
        step(Engine(step), (torch.zeros(2, 3, 32, 24), [_image(1)]))
    with pytest.raises(ValueError, match="one for each of 3 keypoints, got 17"):
        step(Engine(step), (torch.zeros(1, 3, 32, 24), [_image(1)]))
