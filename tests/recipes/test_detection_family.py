"""The recipes of detectors beside Faster R-CNN as a user runs them, on a few images."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ignite_imgtools.data.make_data import make_data
from tests.recipes.faster_rcnn_runs import metrics_lines, run

_COMMON = (
    "--backbone resnet18 --min-size 48 --max-size 64 --optimizer adamw --lr 1e-3 --weight-decay 0.01 --schedule cosine "
    "--warmup 2 --batch-size 2 --epochs 2 --group-by none --device cpu --log-every 1 --checkpoint-every 1"
).split()
RUNS = {
    "retinanet": [*_COMMON, *"--fpn-channels 32 --anchor-sizes 8 12 16 32 64 --score-threshold 0.001".split()],
    "mask_rcnn": [*_COMMON, *"--heads small --anchor-sizes 8 12 16 32 64".split()],
    "coco_detection": [*_COMMON, *"--backbone mobilenet_v3_large --fpn True --channels 32".split()],
}


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_data("coco", tmp_path_factory.mktemp("data") / "coco", num_train=8, num_val=3, seed=3, image_size=64)


@pytest.mark.parametrize("name", sorted(RUNS))
def test_train_evaluate_predict(name: str, dataset: Path, tmp_path: Path) -> None:
    whole = tmp_path / "whole"
    args = ["train", name, "--data", str(dataset), *RUNS[name]]
    run(*args, "--output-dir", str(whole))
    assert metrics_lines(whole)[-1]["iteration"] == 8

    evaluate = ["evaluate", name, "--checkpoint", str(whole / "checkpoints" / "last.pt")]
    run(*evaluate, "--output-dir", str(tmp_path / "one"))
    run(*evaluate, "--output-dir", str(tmp_path / "two"), "--batch-size", "3", "--nproc-per-node", "2")
    numbers = [(tmp_path / folder / "eval" / "metrics.json").read_text() for folder in ("one", "two")]
    assert numbers[0] == numbers[1]
    types = {"bbox", "segm"} if name == "mask_rcnn" else {"bbox"}
    assert {key.split("/")[0] for key in json.loads(numbers[0])} == types
    for kind in types:
        assert (tmp_path / "one" / "eval" / f"coco_results_{kind}.json").is_file()

    image = min((dataset / "val").iterdir())
    checkpoint = str(whole / "checkpoints" / "best.pt")
    run("predict", name, str(image), "--checkpoint", checkpoint, "--output-dir", str(tmp_path / "out"))
    (entry,) = json.loads((tmp_path / "out" / "predictions.json").read_text())
    assert entry["file"] == str(image)
    assert (tmp_path / "out" / f"{image.stem}.png").is_file()
