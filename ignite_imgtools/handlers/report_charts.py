"""Charts and tables of a report, as SVG and HTML whose colours are the page's; every name in them is escaped."""

from __future__ import annotations

import html
import math
from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from ignite_imgtools.formats import one_line

__all__ = ["Line", "bar_list", "chart", "escape", "facts", "number", "table"]

# Sizes in units of the drawing, which is as wide as a phone: its letters are then read there, and larger elsewhere.
_WIDTH, _HEIGHT = 360, 210
_LEFT, _RIGHT, _TOP, _BOTTOM = 40, 8, 8, 22
_MAX_POINTS = 300
_COLORS = 8
_DASH = "\N{EN DASH}"
# Columns of a table that a phone has room for, beside the name.
_NARROW = 4

Line = tuple[str, npt.ArrayLike, npt.ArrayLike]
"""Name, iterations and values; NaN for a value that there is not."""


def escape(text: object) -> str:
    """``text`` in one line for the content of an element or of an attribute in double quotes."""
    return html.escape(one_line(str(text)))


def number(value: float | None) -> str:
    """A number as a reader wants it; a dash for one that there is not.

    >>> number(0.37723), number(12345.6), number(0.0000123), number(math.nan), number(64)
    ('0.377', '12,346', '1.23e-05', '–', '64')
    """
    if value is None or not math.isfinite(value):
        return _DASH
    if float(value).is_integer() and abs(value) < 1e15:
        return f"{int(value):,}"
    if abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.3f}" if abs(value) >= 0.001 else f"{value:.3g}"


def chart(title: str, lines: Sequence[Line], *, limit: float | None = None, notes: Sequence[str] = ()) -> str:
    """Curves over the iterations with a legend below.

    Args:
        limit: the largest value that is shown; by default the largest there is.
        notes: what the legend says beside each name.
    """
    points = [(np.asarray(x, dtype=float), np.asarray(y, dtype=float)) for _, x, y in lines]
    finite = np.concatenate([y[np.isfinite(y)] for _, y in points] or [np.zeros(0)])
    if not len(finite):
        return ""
    first = min(float(x[0]) for x, _ in points if len(x))
    last = max(float(x[-1]) for x, _ in points if len(x))
    low, high = min(0.0, float(finite.min())), float(finite.max() if limit is None else limit)
    high = high if high > low else low + 1
    ticks = _ticks(low, high)
    high = max(high, ticks[-1])

    def place(x: float, y: float) -> str:
        across = (x - first) / (last - first) if last > first else 0.5
        up = min(max((y - low) / (high - low), -0.02), 1.02)
        left, bottom = _LEFT + across * (_WIDTH - _LEFT - _RIGHT), _HEIGHT - _BOTTOM
        return f"{left:.1f},{bottom - up * (bottom - _TOP):.1f}"

    parts = []
    for tick in ticks:
        y = place(first, tick).split(",")[1]
        parts.append(f'<line class="grid" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{y}" y2="{y}"/>')
        parts.append(f'<text x="{_LEFT - 5}" y="{float(y) + 3.5:.1f}" text-anchor="end">{_tick_text(tick)}</text>')
    for iteration, anchor in ((first, "start"), (last, "end")) if last > first else ():
        across = place(iteration, low).split(",")[0]
        parts.append(f'<text x="{across}" y="{_HEIGHT - 6}" text-anchor="{anchor}">{number(iteration)}</text>')
    name = "iteration" if last > first else f"iteration {number(first)}"
    middle = (_LEFT + _WIDTH - _RIGHT) / 2
    parts.append(f'<text x="{middle:.0f}" y="{_HEIGHT - 6}" text-anchor="middle">{name}</text>')
    for order, curve in enumerate(points):
        shown = [place(a, b) if math.isfinite(b) else "" for a, b in zip(*_thinned(*curve), strict=True)]
        for run in " ".join(point or "|" for point in shown).split("|"):
            if not (places := run.split()):
                continue
            if len(places) < 40:
                dots = ((point.split(",")) for point in places)
                parts += [f'<circle class="c{order % _COLORS}" cx="{a}" cy="{b}" r="2.2"/>' for a, b in dots]
            parts.append(f'<polyline class="c{order % _COLORS}" points="{" ".join(places)}"/>')
    said = [*notes, *[""] * len(lines)]
    legend = "".join(
        f'<li><i class="c{order % _COLORS}"></i>{escape(name)}<b>{escape(note)}</b></li>'
        for order, ((name, _, _), note) in enumerate(zip(lines, said, strict=False))
    )
    drawing = f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{escape(title)}">{"".join(parts)}</svg>'
    return f'<figure class="card"><h3>{escape(title)}</h3>{drawing}<ul class="legend">{legend}</ul></figure>'


def _thinned(x: np.ndarray, y: np.ndarray) -> tuple[list[float], list[float]]:
    """Of a long curve the means of stretches of it."""
    if len(x) <= _MAX_POINTS:
        return x.tolist(), y.tolist()
    stretches = np.array_split(np.arange(len(x)), _MAX_POINTS)
    means = [
        float(y[part][np.isfinite(y[part])].mean()) if np.isfinite(y[part]).any() else math.nan for part in stretches
    ]
    return [float(x[part[-1]]) for part in stretches], means


def _ticks(low: float, high: float) -> list[float]:
    step = 10.0 ** math.floor(math.log10((high - low) / 3))
    step *= next((factor for factor in (1, 2, 5, 10) if (high - low) / (step * factor) <= 5), 10)
    return [step * i for i in range(math.ceil(low / step), math.ceil(high / step) + 1)]


def _tick_text(tick: float) -> str:
    return f"{tick:.0e}".replace("e-0", "e-") if 0 < abs(tick) < 0.001 else f"{tick:,.6g}"


def bar_list(rows: Sequence[tuple[str, float, str]]) -> str:
    """Names with bars, the longest for the largest value, and a text beside each."""
    largest = max((value for _, value, _ in rows), default=0) or 1
    items = "".join(
        f'<li><span>{escape(name)}</span><span class="bar"><i style="width:{max(100 * value / largest, 0):.1f}%"></i>'
        f"</span><b>{escape(text)}</b></li>"
        for name, value, text in rows
    )
    return f'<ul class="bars">{items}</ul>'


def facts(values: Mapping[str, object]) -> str:
    """Names and their values."""
    entries = (f"<div><dt>{escape(name)}</dt><dd>{escape(_said(value))}</dd></div>" for name, value in values.items())
    return f'<dl class="facts">{"".join(entries)}</dl>'


def _said(value: object) -> str:
    if value is None:
        return _DASH
    if isinstance(value, bool):
        return "yes" if value else "no"
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def table(rows: Sequence[Mapping[str, str]]) -> str:
    """Rows of texts, of which numbers are rounded; -1, which says that nothing was to be found, is a dash.

    The columns are those of the first row; the cells of the second one have a bar. A phone shows the first few.
    """
    names = list(rows[0])
    head = "".join(
        f"<th{_narrow(place)}{'' if place else ' scope=col'}>{escape(name)}</th>" for place, name in enumerate(names)
    )
    body = "".join(
        f"<tr>{''.join(_cell(place, row.get(name, '')) for place, name in enumerate(names))}</tr>" for row in rows
    )
    return f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def _cell(place: int, text: str) -> str:
    try:
        value = float(text)
    except ValueError:
        return f"<td{_narrow(place)}>{escape(text)}</td>"
    shown = _DASH if value == -1 else number(value)
    bar = f' style="--share:{min(max(value, 0), 1):.3f}"' if place == 1 else ""
    kind = "n share" if place == 1 else "n wide" if place > _NARROW else "n"
    return f'<td class="{kind}"{bar}>{shown}</td>'


def _narrow(place: int) -> str:
    return ' class="wide"' if place > _NARROW else ""
