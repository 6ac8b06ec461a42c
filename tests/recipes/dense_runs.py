"""Runs of the dense recipes on models and data so small that the start of the process takes longer."""

from __future__ import annotations

from pathlib import Path

from ignite_imgtools import distributed
from ignite_imgtools.cli import main
from ignite_imgtools.data.make_data import make_data
from tests.distributed.spawn import run_processes

__all__ = ["FLAGS", "call", "create_data"]

_SEGMENTATION = (
    "--base-size 40 72 --crop-size 48 --optimizer adamw --lr 2e-3 --weight-decay 0.01 --warmup 3 --batch-size 4 "
    "--eval-size 0 --device cpu"
).split()

FLAGS: dict[str, list[str]] = {
    "unet": ["--base-channels", "4", *_SEGMENTATION],
    # A checkpoint of AdamW would be three times as large as the model.
    "fcn": ["--backbone", "resnet50", *_SEGMENTATION, "--optimizer", "sgd", "--crop-size", "32"],
    "deeplab_v3": ["--backbone", "mobilenet_v3_large", *_SEGMENTATION],
    "lraspp": _SEGMENTATION,
    "u2net": "--model lite --resize 40 --crop-size 32 --lr 2e-3 --batch-size 4 --warmup 3 --eval-every 1 "
    "--device cpu".split(),
}
"""The flags of each recipe that make it small."""

_FORMATS = {"unet": "drive", "u2net": "saliency"}


def create_data(recipe: str, folder: Path, num_train: int, num_val: int, image_size: int = 64) -> Path:
    """Built-in data that a recipe can be trained on."""
    data_format = _FORMATS.get(recipe, "voc_segmentation")
    return make_data(data_format, folder / "data", num_train=num_train, num_val=num_val, image_size=image_size)


def call(processes: int, *args: str) -> None:
    """A command that must succeed, on new processes that have imported everything already."""
    assert run_processes(_main, processes, list(args), timeout=600) == [0] * processes


def _main(args: list[str]) -> int:
    # These processes have been joined already, by the test.
    distributed.launch = lambda function, *args, **_: function(0, *args)
    return main(args)
