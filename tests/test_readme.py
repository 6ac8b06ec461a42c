"""The README keeps its word: its script runs as it stands, on data and a model that are small."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from ignite_imgtools.data.make_data import make_data

_README = (Path(__file__).resolve().parents[1] / "README.md").read_text()


def _block(name: str) -> str:
    found = re.search(rf"<!-- {name} -->\n```\w+\n(.*?)```", _README, re.DOTALL)
    assert found, f"README.md has no block named {name!r}"
    return found.group(1)


def test_the_first_code_stands_within_the_first_screen() -> None:
    assert "```bash" in "\n".join(_README.splitlines()[:40])
    assert len([line for line in _block("script").splitlines() if line.strip()]) <= 35


@pytest.mark.fixed_port
def test_the_script_trains_on_two_processes_and_goes_on_where_it_was(tmp_path: Path) -> None:
    make_data("coco", tmp_path / "coco", num_train=12, num_val=5, seed=1)
    script = _block("script")
    for written, small in {
        "fasterrcnn_resnet50_fpn": "fasterrcnn_mobilenet_v3_large_320_fpn",
        "path/to/coco": str(tmp_path / "coco"),
        "runs/mine": str(tmp_path / "run"),
        "max_epochs=12": "max_epochs=int(__import__('sys').argv[1])",
    }.items():
        assert written in script
        script = script.replace(written, small)
    (tmp_path / "script.py").write_text(script)

    for epochs in ("1", "2"):
        done = subprocess.run(
            [sys.executable, "script.py", epochs], cwd=tmp_path, capture_output=True, text=True, timeout=900
        )
        assert done.returncode == 0, done.stdout + done.stderr
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [line["epoch"] for line in lines if "val/bbox/AP" in line] == [1, 2]
    checkpoint = torch.load(tmp_path / "run" / "checkpoints" / "last.pt", weights_only=True)
    assert checkpoint["trainer"]["iteration"] == lines[-1]["iteration"] > 0
    assert not any(key.startswith("module.") for key in checkpoint["model"])
