"""The report of a run: one HTML file with its settings, curves, tables and pictures, to be read anywhere."""

from __future__ import annotations

import base64
import datetime
import io
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from ignite.engine import Engine, Events
from PIL import Image

from ignite_imgtools.distributed import is_main_process
from ignite_imgtools.handlers.attachments import Attachments
from ignite_imgtools.handlers.curve_names import best_place, is_error, loss_names
from ignite_imgtools.handlers.drawing import panels_of
from ignite_imgtools.handlers.engine_handlers import move_to_end
from ignite_imgtools.handlers.report_charts import bar_list, chart, escape, facts, number, table
from ignite_imgtools.handlers.report_page import page
from ignite_imgtools.handlers.run_comparison import overall_metrics
from ignite_imgtools.handlers.run_files import WriteGuard, write_atomically
from ignite_imgtools.handlers.run_record import RunRecord, read_run

__all__ = ["attach_report", "report_html", "write_report"]

_MAX_LINES = 8
_TILES = 4
_PANELS = {"best": "Best images", "worst": "Worst images", "predictions": "Predictions beside the truth"}
_MAX_PANELS, _PANEL_SIDE = 12, 900
_WORDS = {"bbox": "boxes", "segm": "masks", "keypoints": "keypoints"}
_TITLES = {"pr_curve": "Precision and recall", "class_iou": "IoU of each class"}
_DRAWN_HERE = ("loss_and_lr", "metric", "errors", "class_precision")


def attach_report(output_dir: str | Path, trainer: Engine) -> Attachments:
    """Write ``report.html`` into the run folder when the training ends; call it on every process.

    It is written last, from the files that the other handlers have left. If it cannot be written there is one warning.

    Returns:
        An object whose ``remove()`` or ``detach()`` ends this.
    """
    guard = WriteGuard(f"the report in {output_dir}")

    def write() -> None:
        with guard:
            write_report(output_dir)

    def take_place(engine: Engine) -> None:
        move_to_end(engine, Events.COMPLETED, write)

    attachments = Attachments()
    if is_main_process():
        attachments.add(trainer, Events.COMPLETED, write)
        attachments.add(trainer, Events.STARTED, take_place)
    return attachments


def write_report(folder: str | Path) -> Path:
    """Write ``report.html`` into a run folder, from its files alone.

    Returns:
        The path of the file.

    Raises:
        RunFolderError: the folder holds no run.
        OSError: the file cannot be written.
    """
    path = Path(folder) / "report.html"
    write_atomically(path, report_html(read_run(folder)).encode())
    return path


def report_html(run: RunRecord) -> str:
    """The report of a run as one document that loads nothing and runs no script."""
    now = datetime.datetime.now().astimezone().isoformat(sep=" ", timespec="minutes")
    return page(
        run.folder.resolve().name,
        _introduction(run) + _tiles(run),
        {
            "Curves": _curves(run),
            "Classes": _classes(run.per_class),
            "Errors": _errors(run.errors),
            **{title: _panels(run.picture(name)) for name, title in _PANELS.items()},
            "Plots": _plots(run),
            "Configuration": f'<div class="card">{facts(run.config)}</div>' if run.config else "",
            "Environment": f'<div class="card">{facts(run.environment)}</div>' if run.environment else "",
        },
        f"Written {now} from {run.folder.resolve()}",
    )


def _introduction(run: RunRecord) -> str:
    total = run.config.get("epochs")
    reached = f"Epoch {run.epoch}" + (f" of {total}" if isinstance(total, int) else "")
    parts = [reached, f"{number(run.iteration)} iterations"]
    if run.seconds:
        parts.append(f"{datetime.timedelta(seconds=int(run.seconds))} of training")
    if run.environment.get("device"):
        parts.append(str(run.environment["device"]))
    if started := str(run.environment.get("started", ""))[:16].replace("T", " "):
        parts.append(f"started {started}")
    return f"<p>{escape(' · '.join(parts if run.history else ['nothing was logged yet']))}</p>"


def _tiles(run: RunRecord) -> str:
    tiles = []
    for name in overall_metrics(run)[:_TILES]:
        iterations, values = run.history.points(name)
        best = best_place(name, values)
        if best is None:
            continue
        when = f"last {number(values[-1])}" if len(values) - 1 != best else "in the last evaluation"
        word = "lowest" if is_error(name) else "best"
        tiles.append(
            f'<div class="tile"><span>{escape(name)}, {word}</span><b>{number(values[best])}</b>'
            f"<span>iteration {number(iterations[best])}, {escape(when)}</span></div>"
        )
    return f'<div class="tiles">{"".join(tiles)}</div>' if tiles else ""


def _curves(run: RunRecord) -> str:
    history = run.history
    losses = loss_names(history)[:_MAX_LINES]
    lines = [(name.removeprefix("train/"), *history.curve(name)) for name in losses]
    finite = sorted(value for _, _, values in lines for value in values.tolist() if math.isfinite(value))
    # A few outliers, usually the first iterations, must not press the rest together.
    limit = finite[math.ceil(0.98 * len(finite)) - 1] * 1.1 if finite and finite[0] >= 0 else None
    charts = [chart("Losses", lines, limit=limit, notes=[number(values[-1]) for _, _, values in lines])]
    measured = overall_metrics(run)[:_MAX_LINES]
    found = [(name, *history.points(name)) for name in measured]
    charts.append(chart("Evaluation", found, notes=[_best_note(name, values) for name, _, values in found]))
    rates = history.points("lr")
    charts.append(chart("Learning rate", [("lr", *rates)], notes=[number(rates[1][-1])]) if len(rates[0]) else "")
    return f'<div class="grid2">{"".join(charts)}</div>' if any(charts) else ""


def _best_note(name: str, values: np.ndarray) -> str:
    best = best_place(name, values)
    return "" if best is None else number(values[best])


def _classes(rows: Sequence[Mapping[str, str]]) -> str:
    if not rows:
        return ""
    # What is the same in all rows of a single type of overlap needs no column.
    same = len({row.get("iou_type") for row in rows}) == 1
    shown = [{key: value for key, value in row.items() if not (same and key == "iou_type")} for row in rows]
    return f'<div class="card">{table(shown)}</div>'


def _errors(errors: Mapping[str, Mapping[str, Any]]) -> str:
    cards = []
    for iou_type, found in errors.items():
        gains = {kind: gain for kind, gain in found["gain"].items() if isinstance(gain, int | float)}
        counts = found.get("count")
        counted = counts if isinstance(counts, dict) else {}
        rows = [(kind, 100 * gain, f"{100 * gain:.1f}  ({counted.get(kind, '?')})") for kind, gain in gains.items()]
        for kind in ("gain_without_false_positives", "gain_without_false_negatives"):
            if isinstance(found.get(kind), int | float):
                gain = 100 * found[kind]
                rows.append((f"all {kind.removeprefix('gain_without_').replace('_', ' ')}", gain, f"{gain:.1f}"))
        title = f"Of {_WORDS.get(iou_type, iou_type)}"
        now = found.get("ap")
        level = f", which is {100 * now:.1f} now" if isinstance(now, int | float) else ""
        note = f"Points of AP50{level}, that would be gained without errors of a kind, and how many there are."
        cards.append(
            f'<div class="card"><h3>{escape(title)}</h3>{bar_list(rows)}<p class="note">{escape(note)}</p></div>'
        )
    return f'<div class="grid2">{"".join(cards)}</div>' if cards else ""


def _panels(path: Path | None) -> str:
    if path is None or (pixels := _read_picture(path)) is None:
        return ""
    tags = (_photograph(panel) for panel in panels_of(pixels)[:_MAX_PANELS])
    return f'<div class="pictures">{"".join(tags)}</div>'


def _plots(run: RunRecord) -> str:
    """The pictures that are neither drawn anew on the page nor photographs."""
    folder = run.folder / "plots"
    shown = [
        path
        for path in sorted(folder.glob("*.png"))
        if path.stem not in _PANELS and not path.stem.startswith(_DRAWN_HERE) and not path.name.startswith(".")
    ]
    cards = [
        f'<figure class="card plot"><h3>{escape(_plot_title(path.stem))}</h3>{tag}</figure>'
        for path in shown
        if (tag := _plot(path))
    ]
    return f'<div class="grid2">{"".join(cards)}</div>' if cards else ""


def _plot_title(name: str) -> str:
    return _TITLES.get(name, name.replace("_", " ").capitalize())


def _plot(path: Path) -> str:
    if _read_picture(path) is None:
        return ""
    return _image("png", path.read_bytes(), path.stem)


def _read_picture(path: Path) -> np.ndarray | None:
    try:
        with Image.open(path, formats=("PNG",)) as picture:
            return np.asarray(picture.convert("RGB"))
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):
        return None  # half-written by a run that was killed


def _photograph(pixels: np.ndarray) -> str:
    picture = Image.fromarray(pixels)
    picture.thumbnail((_PANEL_SIDE, _PANEL_SIDE))
    content = io.BytesIO()
    # As PNG photographs would make the page several times as large.
    picture.save(content, "JPEG", quality=88)
    return _image("jpeg", content.getvalue(), "predictions and truth")


def _image(kind: str, content: bytes, text: str) -> str:
    data = base64.b64encode(content).decode()
    return f'<img loading="lazy" alt="{escape(text)}" src="data:image/{kind};base64,{data}">'
