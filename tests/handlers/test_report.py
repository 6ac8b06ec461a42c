"""The report of a run: from files alone, whatever is in them and whatever is missing."""

from __future__ import annotations

import html.parser
import json
import re
from pathlib import Path

import numpy as np
import pytest
from ignite.engine import Engine, Events

from ignite_imgtools.handlers import RunFolderError, attach_report, write_report
from ignite_imgtools.handlers.drawing import panels_of, rows_picture
from ignite_imgtools.handlers.figures import array_to_png
from ignite_imgtools.handlers.report_charts import chart

_BAD = '<script>alert("x")</script>&\x1b[31m'


class _Page(html.parser.HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.links: list[str] = []
        self.images = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        for name, value in attrs:
            assert not name.startswith("on")
            if name in ("src", "href"):
                self.links.append(value or "")
                self.images += tag == "img"


def _write_run(folder: Path, name: str = "dog") -> None:
    rng = np.random.default_rng(0)
    (folder / "eval").mkdir(parents=True)
    (folder / "plots").mkdir()
    (folder / "config.json").write_text(
        json.dumps({"epochs": 3, "data": f"/data/{name}", "sizes": [1, 2], "ema": None})
    )
    (folder / "environment.json").write_text(json.dumps({"torch": "2.15", "commit": "abc", "device": "CPU"}))
    records = []
    for step in (1, 2, 3):
        records.append({"epoch": step, "iteration": 10 * step, "lr": 0.1 / step, "train/loss": 1 / step})
        records[-1][f"train/loss_{name}"] = None if step == 2 else 0.5
        values = {"val/bbox/AP": (0.1, 0.5, 0.25)[step - 1], f"val/bbox/AP/{name}": 0.3}
        records.append({"epoch": step, "iteration": 10 * step, **values})
    (folder / "metrics.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records) + '{"half')
    (folder / "log.txt").write_text("Epoch: [1]  Total time: 0:01:40 (1.0 s / it)\n" * 2)
    cell = name.replace('"', '""')
    (folder / "eval" / "per_class.csv").write_text(f'class,AP,AP50,iou_type\n"{cell}",0.25,-1.0,bbox\n')
    errors = {
        "ap": 0.5,
        "gain": {"missed": 0.25, name: 0.1},
        "count": {"missed": 7},
        "gain_without_false_positives": 0.2,
    }
    (folder / "eval" / "errors.json").write_text(json.dumps({"epoch": 3, "bbox": errors}))
    panels = [rng.integers(0, 255, (60, 90, 3), dtype=np.uint8) for _ in range(3)]
    (folder / "plots" / "worst.png").write_bytes(array_to_png(rows_picture(panels, width=200)))
    (folder / "plots" / "pr_curve.png").write_bytes(array_to_png(panels[0]))


def _parse(path: Path) -> tuple[str, _Page]:
    text, page = path.read_text(), _Page()
    page.feed(text)
    return text, page


def test_a_report_says_what_the_run_folder_holds(tmp_path: Path) -> None:
    _write_run(tmp_path / "first")
    text, page = _parse(write_report(tmp_path / "first"))
    assert "<h1>first</h1>" in text
    for words in ("Epoch 3 of 3", "0:03:20 of training", "<b>0.500</b>", "iteration 20, last 0.250", "Worst images"):
        assert words in text
    assert "25.0  (7)" in text
    assert "AP50, which is 50.0 now" in text
    assert re.search('<td class="n share"[^>]*>0.250</td><td class="n">\N{EN DASH}</td>', text)
    assert "<dt>commit</dt><dd>abc</dd>" in text
    assert "<dt>sizes</dt><dd>1, 2</dd>" in text
    assert page.images == 4  # three panels and a plot
    assert page.tags.count("svg") == 3


def test_nothing_is_loaded_and_nothing_runs_whatever_names_the_data_have(tmp_path: Path) -> None:
    _write_run(tmp_path, _BAD)
    text, page = _parse(write_report(tmp_path))
    assert "script" not in page.tags
    assert "\x1b" not in text
    assert "&lt;script&gt;alert(&quot;x&quot;)" in text
    assert all(link.startswith(("data:image/", "#s")) for link in page.links)
    assert not re.search(r"""(src|href)=["']?(https?:)?//""", text)
    assert "default-src 'none'" in text


def test_a_run_that_was_killed_at_once_has_a_report(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    text, page = _parse(write_report(tmp_path))
    assert "nothing was logged yet" in text
    assert page.images == 0


def test_damaged_files_are_left_out(tmp_path: Path) -> None:
    _write_run(tmp_path)
    (tmp_path / "environment.json").write_text("[")
    (tmp_path / "eval" / "errors.json").write_text('{"bbox": {"gain": {"missed": "many"}, "count": 3}}')
    (tmp_path / "eval" / "per_class.csv").write_bytes(b"\xff\xfe")
    picture = (tmp_path / "plots" / "pr_curve.png").read_bytes()
    (tmp_path / "plots" / "pr_curve.png").write_bytes(picture[:200])
    text, page = _parse(write_report(tmp_path))
    assert "Environment" not in text
    assert "Classes" not in text
    assert page.images == 3


@pytest.mark.parametrize(("make", "message"), [(False, "no such folder"), (True, "holds no run")])
def test_what_is_no_run_is_refused(make: bool, message: str, tmp_path: Path) -> None:
    if make:
        (tmp_path / "run").mkdir()
    with pytest.raises(RunFolderError, match=message):
        write_report(tmp_path / "run")
    assert not list(tmp_path.glob("*/*"))


def test_a_training_ends_with_its_report(tmp_path: Path) -> None:
    trainer = Engine(lambda engine, batch: None)
    attached = attach_report(tmp_path, trainer)
    # Attached later, and seen by the report all the same.
    trainer.add_event_handler(Events.COMPLETED, lambda: _write_run(tmp_path))
    trainer.run([0], max_epochs=1)
    assert "Epoch 3 of 3" in (tmp_path / "report.html").read_text()
    attached.detach()
    (tmp_path / "report.html").unlink()
    trainer = Engine(lambda engine, batch: None)
    trainer.run([0], max_epochs=1)
    assert not (tmp_path / "report.html").exists()


def test_panels_come_out_of_their_picture_as_they_went_in() -> None:
    rng = np.random.default_rng(1)
    panels = [rng.integers(0, 200, (h, w, 3), dtype=np.uint8) for h, w in ((40, 90), (60, 80), (30, 70), (50, 40))]
    found = panels_of(rows_picture(panels, width=220))
    assert len(found) == len(panels)
    for panel in panels:
        assert any(panel.shape == other.shape and (panel == other).all() for other in found)


def test_curves_keep_to_their_drawing_and_part_where_numbers_are_missing() -> None:
    drawn = chart("a", [("b", range(6), [0.0, 1.0, float("nan"), 2.0, 900.0, 1.0])], limit=2.0)
    lines = re.findall(r'<polyline[^>]*points="([^"]*)"', drawn)
    assert [len(line.split()) for line in lines] == [2, 3]
    places = [tuple(map(float, point.split(","))) for line in lines for point in line.split()]
    assert all(0 <= x <= 360 and 0 <= y <= 210 for x, y in places)
    long = chart("a", [("b", range(10000), np.ones(10000).tolist())])
    assert len(re.findall(r'points="([^"]*)"', long)[0].split()) == 300
