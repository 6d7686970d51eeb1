"""Charts as inline SVG: lines, and values with their ranges. Legends are HTML, so that they wrap on narrow screens."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape

WIDTH, HEIGHT = 480, 300
LEFT, RIGHT, TOP, BOTTOM = 52, 12, 10, 42
ROW = 46
"""Height of a row of `range_chart`."""

COLOURS = (
    "#1f5fa8", "#c8501e", "#2f8043", "#8d3fa0", "#b3870b", "#157f8c", "#b92d55", "#5c6670", "#6b7f13", "#4b49b8",
)  # fmt: skip
DASHES = ("", "6 3", "2 3")

Curve = Sequence[tuple[float, float]]


@dataclass(frozen=True)
class Range:
    """A value, where it may lie by chance, and the published one; None for what is not known."""

    label: str
    value: float | None
    low: float | None = None
    high: float | None = None
    published: float | None = None


def line_chart(
    curves: Mapping[str, Curve], x_label: str, y_label: str, x_max: float | None = None, y_max: float | None = None
) -> str:
    """Curves {name: points (x, y)} from 0 on, negative values on the axis, as a figure with its legend; nothing for no
    points."""
    curves = {name: points for name, points in curves.items() if points}
    if not curves:
        return ""
    x_max = x_max or max(0.0, *(x for points in curves.values() for x, _ in points)) or 1.0
    y_max = y_max or max(0.0, *(y for points in curves.values() for _, y in points)) or 1.0

    def place(x: float, y: float) -> tuple[float, float]:
        return (
            LEFT + min(max(x / x_max, 0.0), 1.0) * (WIDTH - LEFT - RIGHT),
            HEIGHT - BOTTOM - min(max(y / y_max, 0.0), 1.0) * (HEIGHT - TOP - BOTTOM),
        )

    parts = []
    for y in ticks(y_max):
        _, at = place(0, y)
        parts.append(f'<path class="grid" d="M{LEFT} {at:.1f}H{WIDTH - RIGHT}"/>')
        parts.append(f'<text x="{LEFT - 6}" y="{at + 4:.1f}" text-anchor="end">{y:g}</text>')
    for x in ticks(x_max):
        at, _ = place(x, 0)
        parts.append(f'<text x="{at:.1f}" y="{HEIGHT - BOTTOM + 17}" text-anchor="middle">{x:g}</text>')
    parts.append(f'<path class="axis" d="M{LEFT} {TOP}V{HEIGHT - BOTTOM}H{WIDTH - RIGHT}"/>')
    middle = (LEFT + WIDTH - RIGHT) / 2, (TOP + HEIGHT - BOTTOM) / 2
    parts.append(f'<text x="{middle[0]}" y="{HEIGHT - 6}" text-anchor="middle">{escape(x_label)}</text>')
    turn = f'transform="rotate(-90 13 {middle[1]})"'
    parts.append(f'<text x="13" y="{middle[1]}" text-anchor="middle" {turn}>{escape(y_label)}</text>')
    legend = []
    for n, (name, points) in enumerate(curves.items()):
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in (place(*point) for point in points))
        parts.append(f'<polyline {_style(n)} points="{path}"/>')
        legend.append(
            f'<li><svg viewBox="0 0 24 8" width="24" height="8" aria-hidden="true">'
            f'<polyline {_style(n)} points="0,4 24,4"/></svg> {escape(name)}</li>'
        )
    label = escape(f"{y_label} over {x_label}", quote=True)
    svg = f'<svg class="chart" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{label}">{"".join(parts)}</svg>'
    return f'<figure>{svg}<ul class="legend">{"".join(legend)}</ul></figure>'


def range_chart(rows: Sequence[Range]) -> str:
    """Each row's value as a dot on its range, the published one as a diamond, on one scale; nothing for no values."""
    numbers = [x for row in rows for x in (row.value, row.low, row.high, row.published) if x is not None]
    if not numbers:
        return ""
    least, most = min(numbers), max(numbers)
    margin = max(0.08 * (most - least), 0.5)
    least, most = max(0.0, least - margin), most + margin
    height = ROW * len(rows) + 42

    def at(value: float) -> float:
        return 10 + (value - least) / (most - least) * (WIDTH - 20)

    parts = []
    for tick in ticks(most, least):
        x = at(tick)
        parts.append(f'<path class="grid" d="M{x:.1f} 0V{height - 38}"/>')
        parts.append(f'<text x="{x:.1f}" y="{height - 22}" text-anchor="middle">{tick:g}</text>')
    parts.append(f'<text x="{WIDTH / 2:g}" y="{height - 5}" text-anchor="middle">mAP, %</text>')
    for n, row in enumerate(rows):
        y = ROW * n + 31
        parts.append(f'<text x="10" y="{y - 14}">{escape(row.label)}</text>')
        if row.low is not None and row.high is not None:
            parts.append(f'<path class="band" d="M{at(row.low):.1f} {y}H{at(row.high):.1f}"/>')
        if row.published is not None:
            x = at(row.published)
            parts.append(f'<path class="published" d="M{x:.1f} {y - 6}l6 6l-6 6l-6 -6z"/>')
        if row.value is not None:
            parts.append(f'<circle class="here" cx="{at(row.value):.1f}" cy="{y}" r="4.5"/>')
    keys = [("here", '<circle class="here" cx="12" cy="6" r="4.5"/>')]
    if any(row.low is not None for row in rows):
        keys.append(("band of chance", '<path class="band" d="M4 6H20"/>'))
    if any(row.published is not None for row in rows):
        keys.append(("published", '<path class="published" d="M12 1l5 5l-5 5l-5 -5z"/>'))
    legend = "".join(
        f'<li><svg viewBox="0 0 24 12" width="24" height="12" aria-hidden="true">{mark}</svg> {name}</li>'
        for name, mark in keys
    )
    svg = f'<svg class="chart" viewBox="0 0 {WIDTH} {height}" role="img" aria-label="mAP in %">{"".join(parts)}</svg>'
    return f'<figure>{svg}<ul class="legend">{legend}</ul></figure>'


def ticks(most: float, least: float = 0.0) -> list[float]:
    """Round numbers from `least` to `most`, four to eight of them."""
    span = most - least
    power = 10.0 ** math.floor(math.log10(span / 4))
    step = next(power * m for m in (1, 2, 2.5, 5, 10) if span / (power * m) <= 7)
    first, last = math.ceil(least / step - 1e-9), math.floor(most / step + 1e-9)
    return [round(n * step, 10) for n in range(first, last + 1)]


def thinned(curve: Curve, points: int = 200) -> list[tuple[float, float]]:
    """At most so many points of a curve, first and last among them, smoothed over 1/40 of its length."""
    window = max(1, len(curve) // 40)
    sums = [0.0]
    for _, y in curve:
        sums.append(sums[-1] + y)
    chosen = sorted({*range(0, len(curve), math.ceil(len(curve) / points)), len(curve) - 1}) if curve else ()
    smooth = []
    for n in chosen:
        first, last = max(0, n - window // 2), min(len(curve), n + window // 2 + 1)
        smooth.append((curve[n][0], (sums[last] - sums[first]) / (last - first)))
    return smooth


def _style(n: int) -> str:
    dash = DASHES[n // len(COLOURS) % len(DASHES)]
    return f'class="line" stroke="{COLOURS[n % len(COLOURS)]}"' + (f' stroke-dasharray="{dash}"' if dash else "")
