"""The short form of the trials that kill each recipe in the middle of an epoch."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from ignite_imgtools.recipes import RECIPES
from tests.faults import resume

_ROOT = Path(__file__).resolve().parents[2]
# Recipes that share a process, which imports torch once.
_GROUPS = (
    ("classification", "unet", "u2net", "deeppose"),
    ("fcn", "deeplab_v3", "lraspp"),
    ("faster_rcnn", "retinanet", "mask_rcnn"),
    ("coco_detection", "yolov3_spp", "hrnet"),
)


def test_every_recipe_is_tried() -> None:
    assert sorted(resume.RECIPES) == sorted(RECIPES) == sorted(name for group in _GROUPS for name in group)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="needs fork")
@pytest.mark.parametrize("names", _GROUPS, ids="-".join)
def test_a_killed_run_ends_as_the_one_that_is_not(names: tuple[str, ...]) -> None:
    # In a process of its own: the parent of the trials must never have computed a gradient.
    options = ["--modes", "plain", "--workers", "2", "--processes", "2", "--epochs", "2"]
    done = subprocess.run(
        [sys.executable, "-m", "tests.faults.resume", "--recipes", *names, *options],
        cwd=_ROOT,
        capture_output=True,
        text=True,
        timeout=900,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.endswith(f"{len(names)} of {len(names)} equal\n")
