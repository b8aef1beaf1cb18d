"""Draw line charts as inline SVG, colored by the page's style sheet to follow its light or dark theme.

Every line carries its numbers (``data-x``, ``data-y``), which the page's script shows at the cursor.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from statistics import fmean

Point = tuple[float, float]

WIDTH, HEIGHT = 560, 280
LEFT, RIGHT, TOP, BOTTOM = 58, 14, 12, 40
MAX_POINTS = 200
"""Longer series are drawn as this many means, with a band from the lowest to the highest value."""
SMALL_WIDTH, SMALL_HEIGHT, SMALL_EDGE = 200, 64, 4
SMALL_POINTS = 60
"""As :data:`MAX_POINTS`, in a small chart."""
MARKED_POINTS = 30
"""Series with at most this many points get a dot for each."""


@dataclass(frozen=True)
class Series:
    """One line of a chart; points that are not finite are left out."""

    name: str
    points: Sequence[Point]
    style: int = -1
    """Number of its color in the style sheet; -1: its index in the chart."""

    def finite(self) -> list[Point]:
        """Return the points to draw, sorted by x."""
        return sorted(p for p in self.points if math.isfinite(p[0]) and math.isfinite(p[1]))


@dataclass(frozen=True)
class _Scale:
    """Map values to pixels linearly, ``low`` to pixel ``start`` and ``high`` to pixel ``end``."""

    low: float
    high: float
    start: float
    end: float

    def __call__(self, value: float) -> float:
        return self.start + (value - self.low) / (self.high - self.low) * (self.end - self.start)


def line_chart(title: str, series: Sequence[Series], x_name: str = "epoch", unit: str = "") -> str:
    """Return an ``<svg>`` element: axes with ticks, y from 0, line i in the style sheet's classes ``line s<i>``."""
    drawn = [one.finite() for one in series]
    xs = [x for points in drawn for x, _ in points] or [0.0]
    ys = [y for points in drawn for _, y in points] or [0.0]
    y_ticks = ticks(min(0.0, *ys), max(0.0, *ys))
    x_scale = _Scale(min(xs), max(xs) if max(xs) > min(xs) else min(xs) + 1, LEFT, WIDTH - RIGHT)
    y_scale = _Scale(y_ticks[0], y_ticks[-1], HEIGHT - BOTTOM, TOP)
    parts = [
        f'<svg class="chart" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" tabindex="0" aria-label="{escape(title)}" '
        f'data-axis="{escape(x_name)}" data-unit="{escape(unit)}">',
        *(_y_tick(value, y_scale, unit) for value in y_ticks),
        *(
            _x_tick(value, x_scale)
            for value in ticks(x_scale.low, x_scale.high)
            if x_scale.low <= value <= x_scale.high
        ),
        f'<text class="name" x="{(LEFT + WIDTH - RIGHT) / 2:g}" y="{HEIGHT - 4}">{escape(x_name)}</text>',
        _cursor(TOP, HEIGHT - BOTTOM),
        *_lines(series, x_scale, y_scale, MAX_POINTS),
        "</svg>",
    ]
    return "".join(parts)


def small_chart(title: str, series: Sequence[Series], low: float, high: float) -> str:
    """Return an ``<svg>`` element without ticks: x from ``low`` to ``high``, y from 0 to 100."""
    x_scale = _Scale(low, high if high > low else low + 1, SMALL_EDGE, SMALL_WIDTH - SMALL_EDGE)
    y_scale = _Scale(0, 100, SMALL_HEIGHT - SMALL_EDGE, SMALL_EDGE)
    heights = (f"{y_scale(y):g}" for y in (0, 50, 100))
    grid = (f'<line class="grid" x1="0" x2="{SMALL_WIDTH}" y1="{y}" y2="{y}"/>' for y in heights)
    head = f'<svg class="chart" viewBox="0 0 {SMALL_WIDTH} {SMALL_HEIGHT}" role="img" aria-label="{escape(title)}">'
    lines = _lines(series, x_scale, y_scale, SMALL_POINTS)
    return "".join([head, *grid, _cursor(0, SMALL_HEIGHT), *lines, "</svg>"])


def ticks(low: float, high: float, count: int = 5) -> list[float]:
    """Return about ``count`` round values (1, 2 or 5 × a power of ten apart) that enclose ``low`` … ``high``."""
    span = high - low or abs(high) or 1.0
    power = 10.0 ** math.floor(math.log10(span / count))
    step = next(factor * power for factor in (1, 2, 5, 10) if span / (factor * power) <= count * 1.001)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [i * step for i in range(first, max(last, first + 1) + 1)]


def compact(value: float) -> str:
    """Format a number in few characters: ``80k``, ``1.5M``, ``0.412``, ``5e-5``; – for NaN."""
    if not math.isfinite(value):
        return "–"
    for least, unit, suffix in ((1e6, 1e6, "M"), (1e4, 1e3, "k")):
        if abs(value) >= least:
            return f"{value / unit:.4g}{suffix}"
    return f"{value:.4g}".replace("e-0", "e-")


def _y_tick(value: float, scale: _Scale, unit: str) -> str:
    y = f"{scale(value):.1f}"
    label = compact(value) + unit
    line = f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y}" y2="{y}"/>'
    return f'{line}<text class="y" x="{LEFT - 8}" y="{y}">{escape(label)}</text>'


def _x_tick(value: float, scale: _Scale) -> str:
    x, bottom = f"{scale(value):.1f}", HEIGHT - BOTTOM
    line = f'<line class="axis" x1="{x}" x2="{x}" y1="{bottom}" y2="{bottom + 4}"/>'
    return f'{line}<text class="x" x="{x}" y="{bottom + 17}">{compact(value)}</text>'


def _cursor(top: float, bottom: float) -> str:
    return f'<line class="cursor" x1="-9" x2="-9" y1="{top}" y2="{bottom}"/>'


def _lines(series: Sequence[Series], x_scale: _Scale, y_scale: _Scale, most: int) -> list[str]:
    """Draw the series as at most ``most`` points each; the first one, the important one, last, on top."""
    styles = [one.style if one.style >= 0 else i for i, one in enumerate(series)]
    drawn = [_line(one, style, x_scale, y_scale, most) for one, style in zip(series, styles, strict=True)]
    return drawn[::-1]


def _line(series: Series, style: int, x_scale: _Scale, y_scale: _Scale, most: int) -> str:
    points = series.finite()
    chunks = _chunks(points, most)
    means = [(fmean(x for x, _ in c), fmean(y for _, y in c)) for c in chunks]
    middle = [(x_scale(x), y_scale(y)) for x, y in means]
    xs, ys = (" ".join(f"{point[i]:.4g}" for point in means) for i in (0, 1))
    parts = [f'<g class="series" data-style="s{style}" data-name="{escape(series.name)}" data-x="{xs}" data-y="{ys}">']
    if len(chunks) < len(points):
        upper = [(x, y_scale(max(y for _, y in c))) for (x, _), c in zip(middle, chunks, strict=True)]
        lower = [(x, y_scale(min(y for _, y in c))) for (x, _), c in zip(middle, chunks, strict=True)]
        parts.append(f'<polygon class="band s{style}" points="{_coordinates(upper + lower[::-1])}"/>')
    parts.append(f'<polyline class="line s{style}" points="{_coordinates(middle)}"/>')
    if len(middle) <= MARKED_POINTS:
        parts += [f'<circle class="dot s{style}" cx="{x:.1f}" cy="{y:.1f}" r="3"/>' for x, y in middle]
    return "".join([*parts, "</g>"])


def _chunks(points: list[Point], most: int) -> list[list[Point]]:
    """Group neighboring points into at most ``most`` lists."""
    size = math.ceil(len(points) / most) or 1
    return [points[i : i + size] for i in range(0, len(points), size)]


def _coordinates(points: list[Point]) -> str:
    return " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
