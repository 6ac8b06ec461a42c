"""The recipe of HRNet runs from training to prediction, and goes on exactly where it was stopped."""

from __future__ import annotations

import contextlib
import io
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from ignite_imgtools import data, engines, handlers, models
from ignite_imgtools.cli import main
from ignite_imgtools.data.make_data import make_data
from ignite_imgtools.data.shapes_people import PERSON_KEYPOINTS
from ignite_imgtools.recipes import hrnet
from tests.recipes.dense_runs import call
from tests.recipes.faster_rcnn_runs import metrics_lines

FLAGS = (
    "--model hrnet_small --base-channels 4 --input-size 64 48 --lr 5e-3 --batch-size 6 --ema-decay 0.9 --warmup 2 "
    "--decode dark --joint-weighting hard --log-every 1 --device cpu"
).split()


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("people")
    return make_data("coco_keypoints", folder / "data", num_train=7, num_val=5, image_size=96)


@pytest.fixture(scope="module")
def stopped(dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A run of two epochs, and one that was stopped within the first and then went on."""
    folder = tmp_path_factory.mktemp("stopped")
    arguments = ["train", "hrnet", "--data", str(dataset), *FLAGS, "--epochs", "2", "--eval-every", "2"]
    call(1, *arguments, "--output-dir", str(folder / "straight"))
    call(1, *arguments, "--output-dir", str(folder / "run"), "--max-iterations", "2")
    call(1, *arguments, "--output-dir", str(folder / "run"))
    return folder / "straight", folder / "run"


def test_it_goes_on_exactly_where_it_was_stopped(stopped: tuple[Path, Path]) -> None:
    states = [torch.load(folder / "checkpoints" / "last.pt", weights_only=True) for folder in stopped]
    assert all(torch.equal(states[0]["model"][name], states[1]["model"][name]) for name in states[0]["model"])
    averages = [state["resumables"]["update"]["ema"]["module"] for state in states]
    assert all(torch.equal(averages[0][name], averages[1][name]) for name in averages[0])
    lines = [{line["iteration"]: line for line in metrics_lines(folder) if "train/loss" in line} for folder in stopped]
    assert lines[0] == lines[1]
    evaluations = [[line for line in metrics_lines(folder) if "train/loss" not in line] for folder in stopped]
    assert evaluations[0][-1] == evaluations[1][-1]


def test_it_leaves_a_run_folder_and_pictures(stopped: tuple[Path, Path]) -> None:
    straight, _ = stopped
    names = "config.json log.txt checkpoints/best.pt eval/metrics.json eval/coco_results_keypoints.json "
    names += "eval/per_class.csv eval/errors.json plots/loss_and_lr.png plots/metric.png plots/predictions.png "
    names += "plots/heatmaps.png plots/pr_curve.png plots/confusion_matrix.png"
    for name in names.split():
        assert (straight / name).stat().st_size > 0, name
    (events,) = (straight / "tensorboard").glob("events.out.tfevents.*")
    content = events.read_bytes()
    assert all(tag in content for tag in (b"val/predictions", b"val/heatmaps", b"val/keypoints/AP", b"train/loss"))
    (evaluation,) = [line for line in metrics_lines(straight) if "val/keypoints/AP" in line]
    assert {"val/keypoints/AP50", "val/keypoints/APm", "val/keypoints/AR", "val/keypoints/ARl"} <= evaluation.keys()
    saved = handlers.load_checkpoint(straight / "checkpoints" / "best.pt")["checkpoints"]
    assert (saved["metric"], saved["score"]) == ("keypoints/AP", evaluation["val/keypoints/AP"])


def _pycocotools(ground_truth: Path, results: Path) -> list[float]:
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(str(ground_truth))
        evaluation = COCOeval(truth, truth.loadRes(str(results)), "keypoints")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return [float(value) for value in evaluation.stats]


_NUMBERS = "AP AP50 AP75 APm APl AR AR50 AR75 ARm ARl".split()


class _Oracle(nn.Module):
    """Answers with the truth of crops that it knows, some of it moved."""

    def __init__(self, images: data.PersonImages) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))
        self.crops, keypoints = [], []
        for person in range(len(images.persons)):
            crop, target = images.persons[person]
            self.crops.append(crop)
            keypoints.append(target["keypoints"])
        self.keypoints = torch.stack(keypoints)
        generator = torch.Generator().manual_seed(1)
        spread = torch.rand(len(self.crops), 1, 1, generator=generator) * 8
        self.keypoints[..., :2] += spread * torch.randn(len(self.crops), 17, 2, generator=generator)
        self.keypoints[..., 2] = 1

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        mean, std = (torch.tensor(values)[:, None, None] for values in (engines.IMAGENET_MEAN, engines.IMAGENET_STD))
        pixels = ((images * std + mean) * 255).round().to(torch.uint8)
        known = [next(i for i, crop in enumerate(self.crops) if torch.equal(crop, image)) for image in pixels]
        return engines.keypoints_to_heatmaps(self.keypoints[known], (images.shape[2] // 4, images.shape[3] // 4))[0]


def test_pycocotools_finds_the_same_numbers_in_its_results(tmp_path: Path) -> None:
    dataset = make_data("coco_keypoints", tmp_path / "data", num_train=2, num_val=20, image_size=160)
    config = hrnet.Config(device="cpu", data=dataset, flip_test=False, output_dir=tmp_path / "run").filled("hrnet")
    _, val_set, keypoints = hrnet._create_data(config)
    evaluator = hrnet._create_evaluator(config, _Oracle(val_set), val_set, keypoints, config.output_dir)
    evaluator.run(hrnet._create_val_loader(config, val_set))
    file = dataset / "annotations" / "person_keypoints_val.json"
    stats = _pycocotools(file, tmp_path / "run" / "eval" / "coco_results_keypoints.json")
    written = json.loads((tmp_path / "run" / "eval" / "metrics.json").read_text())
    assert [written[f"keypoints/{name}"] for name in _NUMBERS] == stats
    assert 0.2 < stats[0] < 0.95


def _write_detections(dataset: Path, file: Path) -> list[dict[str, Any]]:
    content = json.loads((dataset / "annotations" / "person_keypoints_val.json").read_text())
    rows = [
        {"image_id": row["image_id"], "category_id": 1, "bbox": row["bbox"], "score": 0.25 + 0.5 * (row["id"] % 2)}
        for row in content["annotations"]
        if not row["iscrowd"]
    ]
    rows.append({"image_id": 1, "category_id": 1, "bbox": [4, 4, 30, 40], "score": 0.9})
    file.write_text(json.dumps(rows))
    return rows


@pytest.mark.parametrize("processes", [2, 3])
def test_any_number_of_processes_evaluates_as_the_training_did(
    processes: int, stopped: tuple[Path, Path], tmp_path: Path
) -> None:
    args = ["--checkpoint", str(stopped[0] / "checkpoints" / "last.pt"), "--output-dir", str(tmp_path / "run")]
    call(processes, "evaluate", "hrnet", *args, "--batch-size", "4")
    expected, evaluated = (
        json.loads((folder / "eval" / "metrics.json").read_text()) for folder in (stopped[0], tmp_path / "run")
    )
    assert evaluated == {name: value for name, value in expected.items() if name not in ("epoch", "iteration")}
    results = [
        sorted(json.loads((folder / "eval" / "coco_results_keypoints.json").read_text()), key=str)
        for folder in (stopped[0], tmp_path / "run")
    ]
    assert results[0] == results[1]
    assert (tmp_path / "run" / "plots" / "heatmaps.png").read_bytes() == (
        stopped[0] / "plots" / "heatmaps.png"
    ).read_bytes()


def test_it_is_evaluated_in_the_boxes_of_a_detector(dataset: Path, stopped: tuple[Path, Path], tmp_path: Path) -> None:
    rows = _write_detections(dataset, tmp_path / "boxes.json")
    args = ["--checkpoint", str(stopped[0] / "checkpoints" / "last.pt"), "--output-dir", str(tmp_path / "run")]
    args += ["--person-detections", str(tmp_path / "boxes.json"), "--oks-nms", "1", "--no-flip-test"]
    call(1, "evaluate", "hrnet", *args, "--person-score", "0.5")
    results = json.loads((tmp_path / "run" / "eval" / "coco_results_keypoints.json").read_text())
    assert len(results) == sum(row["score"] >= 0.5 for row in rows)
    assert {result["image_id"] for result in results} == {row["image_id"] for row in rows if row["score"] >= 0.5}


def _predict(stopped: tuple[Path, Path], output: Path, *args: str) -> list[dict[str, Any]]:
    checkpoint = ["--checkpoint", str(stopped[0] / "checkpoints" / "last.pt"), "--output-dir", str(output)]
    call(1, "predict", "hrnet", *args, *checkpoint)
    entries: list[dict[str, Any]] = json.loads((output / "predictions.json").read_text())
    assert all((output / f"{Path(entry['file']).stem}.png").stat().st_size > 0 for entry in entries)
    return entries


def test_it_predicts(dataset: Path, stopped: tuple[Path, Path], tmp_path: Path) -> None:
    image = str(dataset / "val" / "000001.jpg")
    (whole,) = _predict(stopped, tmp_path / "whole", image)
    (person,) = whole["persons"]
    assert person["box"] == [0, 0, whole["width"], whole["height"]]
    assert list(person["keypoints"]) == list(PERSON_KEYPOINTS)
    assert all(len(place) == 3 for place in person["keypoints"].values())

    (tmp_path / "boxes.csv").write_text("000001.jpg,5,6,40,70\n000001.jpg,20,0,30,30\n")
    (two,) = _predict(stopped, tmp_path / "two", image, "--boxes", str(tmp_path / "boxes.csv"))
    assert sorted(person["box"] for person in two["persons"]) == [[5, 6, 40, 70], [20, 0, 30, 30]]

    rows = _write_detections(dataset, tmp_path / "boxes.json")
    found = _predict(stopped, tmp_path / "found", str(dataset / "val"), "--boxes", str(tmp_path / "boxes.json"))
    assert [Path(entry["file"]).stem for entry in found] == [f"{number:06d}" for number in range(1, 6)]
    for number, entry in enumerate(found, start=1):
        sure = sorted(row["score"] for row in rows if row["image_id"] == number and row["score"] >= 0.5)
        assert sorted(person["box_score"] for person in entry["persons"]) == pytest.approx(sure, abs=1e-6)
        scores = [person["score"] for person in entry["persons"]]
        assert scores == sorted(scores, reverse=True)


def test_it_predicts_in_what_a_detector_wrote(dataset: Path, stopped: tuple[Path, Path], tmp_path: Path) -> None:
    box = [3.0, 4.0, 33.0, 60.0]
    detections = [
        {"label": 1, "name": "person", "score": 0.75, "box": box},
        {"label": 1, "name": "person", "score": 0.25, "box": [0, 0, 9, 9]},
        {"label": 2, "name": "dog", "score": 0.875, "box": [0, 0, 9, 9]},
    ]
    file = tmp_path / "predictions.json"
    file.write_text(json.dumps([{"file": "elsewhere/000001.jpg", "detections": detections}]))
    images = [str(dataset / "val" / f"00000{number}.jpg") for number in (1, 2)]
    first, second = _predict(stopped, tmp_path / "out", *images, "--boxes", str(file))
    assert [(person["box"], person["box_score"]) for person in first["persons"]] == [(box, 0.75)]
    assert second["persons"] == []


def test_weights_by_the_authors_names_and_of_our_own(stopped: tuple[Path, Path], tmp_path: Path) -> None:
    authors = models.hrnet_small(17, base_channels=4)  # parameters have the authors' names
    torch.save(
        {"state_dict": {f"module.{name}": value for name, value in authors.state_dict().items()}}, tmp_path / "a.pth"
    )
    ours = stopped[0] / "checkpoints" / "last.pt"
    for file, expected in (
        (tmp_path / "a.pth", authors.state_dict()),
        (ours, torch.load(ours, weights_only=True)["model"]),
    ):
        config = hrnet.Config(device="cpu", model="hrnet_small", base_channels=4, weights=str(file)).filled("hrnet")
        state = hrnet.create_model(config, 17).state_dict()
        assert all(torch.equal(state[name], value) for name, value in expected.items())


def test_what_the_authors_train_is_the_default_with_data(tmp_path: Path) -> None:
    config = hrnet.Config(data=tmp_path, device="cpu").filled("hrnet")
    expected: dict[str, Any] = {"model": "hrnet_w32", "input_size": (256, 192), "sigma": 2.0, "lr": 1e-3}
    expected |= {"lr_steps": (170, 200), "epochs": 210, "batch_size": 32, "weight_decay": 1e-4, "flip_test": True}
    expected |= {"visibility_weighting": "equal", "decode": "quarter", "half_body": 0.3, "rotate": 45.0, "scale": 0.35}
    assert {name: getattr(config, name) for name in expected} == expected
    assert hrnet.Config(data=tmp_path, device="cpu", input_size=(384, 288)).filled("hrnet").sigma == 3.0
    with torch.device("meta"):
        assert hrnet.create_model(config, 17).final_layer.in_channels == 32


def test_other_keypoints_than_the_models_are_refused(
    stopped: tuple[Path, Path], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    shapes = make_data("coco", tmp_path / "shapes", num_train=12, num_val=4, image_size=64)
    checkpoint = stopped[0] / "checkpoints" / "last.pt"
    args = ["evaluate", "hrnet", "--checkpoint", str(checkpoint), "--data", str(shapes), "--output-dir"]
    args += [str(tmp_path / "run"), "--category", "star", "--keypoint-sigmas", *["0.05"] * 4]
    assert main(args) == 2
    assert f"{checkpoint}: knows 17 keypoints (nose, left_eye, " in capfd.readouterr().err


def test_keypoints_of_anything_are_learned(tmp_path: Path) -> None:
    shapes = make_data("coco", tmp_path / "shapes", num_train=12, num_val=4, image_size=64)
    flags = [*FLAGS, "--joint-weighting", "equal", "--category", "star", "--keypoint-sigmas", *["0.05"] * 4]
    args = ["--data", str(shapes), *flags, "--epochs", "1", "--max-iterations", "2"]
    call(1, "train", "hrnet", *args, "--output-dir", str(tmp_path / "run"))
    results = json.loads((tmp_path / "run" / "eval" / "coco_results_keypoints.json").read_text())
    assert {(result["category_id"], len(result["keypoints"])) for result in results} == {(4, 12)}


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--flip-test", "False"], "False"),  # not taken for a true value
        (["--input-size", "64", "50"], "--input-size must be two multiples of 4 above 32, the height first, got 64 50"),
        (["--input-size", "64", "32"], "--input-size must be two multiples of 4 above 32, the height first, got 64 32"),
        (["--model", "hrnet_w18"], "hrnet_w18"),
        (["--model", "hrnet_w32", "--base-channels", "8"], "--base-channels is for --model hrnet_small"),
        (["--base-channels", "0"], "--base-channels must be at least 1, got 0"),
        (["--sigma", "0"], "--sigma must be a positive number, got 0"),
        (["--oks-nms", "-1"], "--oks-nms must be a positive number, got -1"),
        (["--warmup", "-1"], "--warmup must be 0 or more, got -1"),
        (["--lr-steps", "20", "10"], "--lr-steps must rise, got 20 10"),
        (["--person-detections", "no.json"], "--person-detections must be a file; there is no file no.json"),
        (["--norm", "sync"], "--norm sync works between GPUs only"),
    ],
)
def test_bad_arguments_are_one_line_and_status_2(
    args: list[str], message: str, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["train", "hrnet", "--device", "cpu", *args]) == 2
    err = capsys.readouterr().err
    assert err.startswith("ignite-imgtools: ")
    assert err.count("\n") == 1
    assert message in err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--half-body", "2"], "half_body_probability must be from 0 to 1, got 2"),
        (["--category", "cow"], "category 'cow' is not among"),
        (["--data-format", "voc"], "--data-format must be one of coco_keypoints, got 'voc'"),
        (["--weights", "default"], "weights: none can be downloaded for HRNet"),
        (["--keypoint-sigmas", "0.1"], "--keypoint-sigmas must be 17 positive numbers, got 0.1"),
    ],
)
def test_what_only_the_components_can_tell_is_one_line_too(
    flags: list[str], message: str, dataset: Path, capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    args = ["train", "hrnet", "--data", str(dataset), "--output-dir", str(tmp_path / "run"), *FLAGS, *flags]
    assert main(args) == 2
    err = capfd.readouterr().err
    assert err.count("\n") == 1
    assert message in err


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{}", "boxes.json: boxes: expected a json list of images, got a dict"),
        ('[{"image_id": 1, "bbox": [1, 2, 3]}]', "boxes.json: entry 0: expected image_id, category_id, bbox [x, y"),
        ('[{"image_id": 9, "category_id": 1, "bbox": [1, 2, 3, 4], "score": 1}]', "names none of the 1 images"),
        ('[{"image_id": 1, "category_id": 1, "bbox": [1, 2, 0, 4], "score": 1}]', "box: expected x1 < x2 and y1 < y2"),
    ],
)
def test_boxes_that_are_none_are_one_line(
    content: str,
    message: str,
    dataset: Path,
    stopped: tuple[Path, Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "boxes.json").write_text(content)
    args = ["--checkpoint", str(stopped[0] / "checkpoints" / "last.pt"), "--boxes", str(tmp_path / "boxes.json")]
    args += ["--device", "cpu", "--output-dir", str(tmp_path / "out")]
    assert main(["predict", "hrnet", str(dataset / "val" / "000001.jpg"), *args]) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert message in err
