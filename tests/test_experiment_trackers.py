"""Ignite's loggers attach to a trainer, and the scripts of docs/experiment_trackers.md fill real trackers offline."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import sqlite3
import struct
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from ignite.engine import Engine, Events
from ignite.handlers.base_logger import BaseLogger, BaseOutputHandler

from ignite_imgtools import handlers
from ignite_imgtools.data.make_data import make_data
from ignite_imgtools.formats import TrainerEvents

_PAGE = (Path(__file__).resolve().parents[1] / "docs" / "experiment_trackers.md").read_text()
_STEPS = [2, 3, 5, 6]


class _Tracker(BaseLogger):
    """Keeps what ignite's handlers of output would send."""

    def __init__(self) -> None:
        self.sent: list[tuple[int, dict[str, Any]]] = []

    def _create_output_handler(self, *args: Any, **kwargs: Any) -> Callable[..., None]:
        handler = _Output(*args, **kwargs)

        def send(engine: Engine, tracker: _Tracker, event: Any) -> None:
            values = handler._setup_output_metrics_state_attrs(engine, key_tuple=False)
            tracker.sent.append((handler.global_step_transform(engine, event), values))

        return send

    def _create_opt_params_handler(self, *args: Any, **kwargs: Any) -> Callable[..., None]:
        raise NotImplementedError


class _Output(BaseOutputHandler):
    def __call__(self, engine: Engine, logger: Any, event_name: Any) -> None:
        raise NotImplementedError


def _block(name: str) -> str:
    found = re.search(rf"<!-- {name} -->\n```python\n(.*?)```", _PAGE, re.DOTALL)
    assert found
    return found.group(1)


def test_a_logger_of_ignite_gets_the_numbers_of_the_log_at_their_iterations() -> None:
    trainer = Engine(lambda _, value: {"loss": torch.tensor(float(value)), "batch_size": 1})
    evaluator = Engine(lambda *_: None)
    handlers.MetricLogger(console=False).attach(trainer, every=2)
    handlers.evaluate_on_epoch(trainer, evaluator, [0])
    evaluator.add_event_handler(Events.COMPLETED, lambda: evaluator.state.metrics.update(AP=0.5))
    tracker = _Tracker()

    tracker.attach_output_handler(
        trainer, TrainerEvents.METRICS_LOGGED, "train", output_transform=lambda _: trainer.state.logged["metrics"]
    )
    tracker.attach_output_handler(
        trainer,
        TrainerEvents.EVALUATION_COMPLETED,
        "val",
        output_transform=lambda _: trainer.state.evaluations["val"],
    )
    trainer.run([1, 2, 4], max_epochs=2)

    epoch = [{"train/loss": 1.5}, {"train/loss": 4.0}, {"val/AP": 0.5}]
    assert tracker.sent == list(zip([2, 3, 3, 5, 6, 6], epoch * 2, strict=True))


def _mlflow_runs(folder: Path) -> list[dict[tuple[str, int], float]]:
    with sqlite3.connect(folder / "mlflow.db") as database:
        assert {status for (status,) in database.execute("SELECT status FROM runs")} == {"FINISHED"}
        runs: dict[str, dict[tuple[str, int], float]] = {}
        for run, key, step, value in database.execute("SELECT run_uuid, key, step, value FROM metrics"):
            runs.setdefault(run, {})[key.replace(" ", "/"), step] = value
    database.close()
    return list(runs.values())


def _wandb_runs(folder: Path) -> list[dict[tuple[str, int], float]]:
    from wandb.proto.wandb_internal_pb2 import Record

    runs = []
    for path in folder.glob("wandb/offline-run-*/*.wandb"):
        values = {}
        for data in _chunks(path.read_bytes()):
            history = Record.FromString(data).history
            found = {item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in history.item}
            values |= {(key, found["_step"]): value for key, value in found.items() if not key.startswith("_")}
        runs.append(values)
    return runs


def _chunks(log: bytes) -> Iterator[bytes]:
    """The records of a log as LevelDB writes it, here with 7 bytes before the first."""
    place, parts = 7, b""
    while place + 7 <= len(log):
        left = 32768 - place % 32768
        if left < 7:
            place += left
            continue
        size, kind = struct.unpack_from("<HB", log, place + 4)
        parts += log[place + 7 : place + 7 + size]
        place += 7 + size
        if kind in (1, 4):  # whole, or the last part
            yield parts
            parts = b""


def _clearml_runs(folder: Path) -> list[dict[tuple[str, int], float]]:
    runs = []
    for path in folder.glob(".clearml/cache/offline/*.zip"):
        with zipfile.ZipFile(path) as archive:
            events = [event for line in archive.read("metrics.jsonl").splitlines() for event in json.loads(line)]
        scalars = [event for event in events if event["type"] == "training_stats_scalar"]
        runs.append({(f"{e['metric']}/{e['variant']}", e["iter"]): e["value"] for e in scalars})
    return runs


_TRACKERS = {
    "mlflow": (("mlflow", "alembic"), _mlflow_runs),
    "wandb": (("wandb",), _wandb_runs),
    "clearml": (("clearml",), _clearml_runs),
}


@pytest.mark.slow
@pytest.mark.fixed_port
@pytest.mark.parametrize("name", _TRACKERS)
def test_the_script_fills_one_run_of_a_tracker_from_two_processes(name: str, tmp_path: Path) -> None:
    needed, read_runs = _TRACKERS[name]
    if missing := [module for module in needed if importlib.util.find_spec(module) is None]:
        pytest.skip(f"{' and '.join(missing)} not installed: see docs/experiment_trackers.md")
    make_data("class_folders", tmp_path / "shapes", num_train=24, num_val=8, image_size=64)

    _run(tmp_path, _block("script"), name)

    (run,) = read_runs(tmp_path)
    lines = [json.loads(line) for line in (tmp_path / "runs" / "shapes" / "metrics.jsonl").read_text().splitlines()]
    logged = {(key, line["iteration"]): value for line in lines for key, value in line.items() if "/" in key}
    assert sorted({step for _, step in logged}) == _STEPS
    logged |= {("train/lr/0", step): 0.01 for step in _STEPS}
    assert {key: value for key, value in run.items() if key[0].startswith(("train/", "val/"))} == pytest.approx(logged)
    if name == "mlflow":
        _run(tmp_path, _block("afterwards"))
        first, second = sorted(_mlflow_runs(tmp_path), key=lambda run: ("epoch", 2) in run)
        assert first == run
        assert {key: value for key, value in second.items() if "/" in key[0]} == pytest.approx(
            {key: value for key, value in logged.items() if key[0] != "train/lr/0"}
        )


def _run(folder: Path, script: str, *args: str) -> None:
    (folder / "script.py").write_text(script)
    offline = {
        "HOME": str(folder),
        "WANDB_MODE": "offline",
        "CLEARML_OFFLINE_MODE": "1",
        "MLFLOW_DISABLE_TELEMETRY": "1",
    }
    done = subprocess.run(
        [sys.executable, "script.py", *args],
        cwd=folder,
        env=os.environ | offline,
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stdout + done.stderr
