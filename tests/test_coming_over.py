"""The page for those who come from a copied folder: its script runs, and its table has the names of the other one."""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
from pathlib import Path

from ignite_imgtools.data.make_data import make_data

_PAGE = (Path(__file__).resolve().parents[1] / "docs" / "coming_over.md").read_text()


def _script(name: str) -> str:
    found = re.search(rf"<!-- {name} -->\n```python\n(.*?)```", _PAGE, re.DOTALL)
    assert found
    return found.group(1)


def test_the_table_has_every_name_that_the_script_before_takes_from_the_folder() -> None:
    imports = [node for node in ast.walk(ast.parse(_script("before"))) if isinstance(node, ast.ImportFrom)]
    names = {alias.name for node in imports if node.module in ("train_utils", "plot_curve") for alias in node.names}
    table = "".join(line.split("|")[1] for line in _PAGE.splitlines() if line.startswith("|"))
    assert len(names) == 8
    assert [name for name in names if f"`{name}" not in table] == []
    assert len(_script("after").splitlines()) < 0.7 * len(_script("before").splitlines())


def test_the_script_after_trains(tmp_path: Path) -> None:
    make_data("voc", tmp_path / "voc", num_train=3, num_val=2, seed=1, image_size=96)
    script = _script("after")
    for written, small in {
        "fasterrcnn_resnet50_fpn": "fasterrcnn_mobilenet_v3_large_320_fpn",
        "(num_classes=": "(weights_backbone=None, num_classes=",
        ", num_workers=4": "",
    }.items():
        assert written in script
        script = script.replace(written, small)
    (tmp_path / "train.py").write_text(script)
    flags = "--data-path voc --batch-size 2 --epochs 1 --lr-steps 1".split()
    done = subprocess.run(
        [sys.executable, "train.py", *flags], cwd=tmp_path, capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stdout + done.stderr
    lines = [json.loads(line) for line in (tmp_path / "multi_train" / "metrics.jsonl").read_text().splitlines()]
    assert "val/bbox/AP" in lines[-1]
    assert {path.name for path in (tmp_path / "multi_train" / "checkpoints").iterdir()} >= {"best.pt", "last.pt"}
    assert (tmp_path / "multi_train" / "plots" / "metric.png").is_file()
