"""Charts as inline SVG text: colours come from the page's CSS classes, so that they follow its light and dark theme."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

from markupsafe import Markup, escape

Point = tuple[float, float]

_WIDTH, _HEIGHT = 360, 200
_LEFT, _RIGHT, _TOP, _BOTTOM = 44, 12, 12, 26
_MOST_POINTS = 300
_MOST_COLUMNS = 30
_TICKS = 4

# Colours of series in the style sheet.
COLOURS = 6


def line_chart(label: str, points: Sequence[Point], *, zero: bool) -> Markup:
    """A noisy series as a faint line, its running mean as the main line, the last mean written at its end.

    Args:
        label: What the chart shows, for readers who cannot see it.
        points: (step, value), by step; two or more.
        zero: Let the axis start at 0.
    """
    smooth = _running_mean(points)
    parts, place = _axes(points, zero=zero)
    parts.append(f'<polyline class="raw" points="{_path(points, place)}"/>')
    parts.append(f'<polyline class="mean" points="{_path(smooth, place)}"/>')
    end_x, end_y = place(smooth[-1])
    parts.append(f'<circle class="end" cx="{end_x:.1f}" cy="{end_y:.1f}" r="3"/>')
    # The figure stands above the end of the line, or below it where the chart ends above.
    text_y = end_y - 8 if end_y > _TOP + 18 else end_y + 16
    figure = number(smooth[-1][1])
    parts.append(f'<text class="value" x="{end_x:.1f}" y="{text_y:.1f}" text-anchor="end">{figure}</text>')
    return _svg(label, _WIDTH, _HEIGHT, parts, "chart")


def lines_chart(label: str, series: Sequence[Sequence[Point]], *, zero: bool) -> Markup:
    """Running means of several series over one pair of axes, in the colours ``s0``, ``s1``, ... of the page.

    Args:
        label: What the chart shows, for readers who cannot see it.
        series: (step, value), by step; an empty one is left out.
        zero: Let the axis start at 0.
    """
    smooth = [_running_mean(points) for points in series]
    parts, place = _axes([point for points in smooth for point in points], zero=zero)
    for index, points in enumerate(smooth):
        if points:
            colour = f"s{index % COLOURS}"
            x, y = place(points[-1])
            parts.append(f'<polyline class="series {colour}" points="{_path(points, place)}"/>')
            parts.append(f'<circle class="mark {colour}" cx="{x:.1f}" cy="{y:.1f}" r="3"/>')
    return _svg(label, _WIDTH, _HEIGHT, parts, "chart")


def _axes(points: Sequence[Point], *, zero: bool) -> tuple[list[str], Callable[[Point], Point]]:
    """Grid and ticks around ``points``, and where on the chart a point lies."""
    xs = [x for x, _ in points]
    ys = [y for _, y in points]
    low, high, step = _ticks(0.0 if zero else min(ys), max(ys))
    left, right = min(xs), max(xs)

    def place(point: Point) -> Point:
        x = _LEFT + (point[0] - left) / ((right - left) or 1) * (_WIDTH - _LEFT - _RIGHT)
        y = _HEIGHT - _BOTTOM - (point[1] - low) / (high - low) * (_HEIGHT - _TOP - _BOTTOM)
        return x, y

    parts = []
    for index in range(round((high - low) / step) + 1):
        value = low + index * step
        y = place((left, value))[1]
        parts.append(f'<line class="grid" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(f'<text class="tick" x="{_LEFT - 6}" y="{y + 3.5:.1f}" text-anchor="end">{number(value)}</text>')
    floor = _HEIGHT - 8
    parts.append(f'<text class="tick" x="{_LEFT}" y="{floor}">step {number(left)}</text>')
    parts.append(f'<text class="tick" x="{_WIDTH - _RIGHT}" y="{floor}" text-anchor="end">{number(right)}</text>')
    return parts, place


def _path(points: Sequence[Point], place: Callable[[Point], Point]) -> str:
    """The points of a polyline."""
    return " ".join(f"{x:.1f},{y:.1f}" for x, y in map(place, _thin(points)))


def bar_chart(label: str, rows: Sequence[tuple[str, float, str]], full: float | None = None) -> Markup:
    """Horizontal bars from 0, each with its name and its figure.

    Args:
        label: What the chart shows.
        rows: (name, value, figure as text); values of 0 or more.
        full: What a bar of full length stands for, which a faint one behind each shows; the largest value by default.
    """
    largest = full or max((value for _, value, _ in rows), default=0.0) or 1.0
    parts = []
    for index, (name, value, figure) in enumerate(rows):
        y = 4 + index * 30
        width = max(1.0, value / largest * (_WIDTH - 190))
        parts.append(f'<text class="tick" x="0" y="{y + 14}">{escape(name)}</text>')
        if full:
            parts.append(f'<rect class="full" x="130" y="{y + 2}" width="{_WIDTH - 190}" height="16" rx="3"/>')
        parts.append(f'<rect class="bar" x="130" y="{y + 2}" width="{width:.1f}" height="16" rx="3"/>')
        end = _WIDTH - 190 if full else width
        parts.append(f'<text class="value" x="{136 + end:.1f}" y="{y + 14}">{escape(figure)}</text>')
    return _svg(label, _WIDTH, 4 + 30 * len(rows), parts, "chart")


def histogram(label: str, counts: Mapping[int, int]) -> Markup:
    """Columns of how often each whole number occurs, neighbours joined where there are many.

    Args:
        label: What the chart shows.
        counts: Number of times by whole number; not empty.
    """
    first, last = min(counts), max(counts)
    span = math.ceil((last - first + 1) / _MOST_COLUMNS)
    columns = [0] * ((last - first) // span + 1)
    for value, count in counts.items():
        columns[(value - first) // span] += count
    width = (_WIDTH - _LEFT - _RIGHT) / len(columns)
    room = _HEIGHT - _TOP - _BOTTOM
    parts = []
    for index, count in enumerate(columns):
        start = first + index * span
        name = f"{start}" if span == 1 else f"{start} to {start + span - 1}"
        height = count / max(columns) * room
        parts.append(
            f'<rect class="bar" x="{_LEFT + index * width:.1f}" y="{_HEIGHT - _BOTTOM - height:.1f}" '
            f'width="{width * 0.82:.1f}" height="{height:.1f}"><title>{name}: {number(count)}</title></rect>'
        )
    floor = _HEIGHT - 8
    parts.append(f'<text class="tick" x="{_LEFT}" y="{floor}">{first}</text>')
    parts.append(f'<text class="tick" x="{_WIDTH - _RIGHT}" y="{floor}" text-anchor="end">{last}</text>')
    parts.append(f'<text class="tick" x="{_LEFT - 6}" y="{_TOP + 8}" text-anchor="end">{number(max(columns))}</text>')
    return _svg(label, _WIDTH, _HEIGHT, parts, "chart")


def interval_bar(low: float, value: float, high: float, largest: float) -> Markup:
    """A mean and its interval on an axis from 0 to ``largest``."""
    scale = 92 / (largest or 1)
    ends = [4 + min(max(part, 0.0), largest) * scale for part in (low, value, high)]
    parts = [
        '<line class="axis" x1="4" x2="96" y1="5" y2="5"/>',
        f'<line class="interval" x1="{ends[0]:.1f}" x2="{ends[2]:.1f}" y1="5" y2="5"/>',
        f'<circle class="end" cx="{ends[1]:.1f}" cy="5" r="2.6"/>',
    ]
    return _svg(f"{number(value)}, 95 % interval {number(low)} to {number(high)}", 100, 10, parts, "interval-bar")


def number(value: float) -> str:
    """A figure for a reader: whole numbers with thousands, others with three significant digits or more."""
    if value == round(value) and abs(value) < 1e15:
        return f"{round(value):,}"
    if abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.3g}"


def _svg(label: str, width: int, height: int, parts: Sequence[str], kind: str) -> Markup:
    return Markup(  # noqa: S704 - texts are escaped where they go in
        f'<svg class="{kind}" viewBox="0 0 {width} {height}" role="img" aria-label="{escape(label)}">'
        f"{''.join(parts)}</svg>"
    )


def _ticks(low: float, high: float) -> tuple[float, float, float]:
    """Round ends and step of an axis that covers ``low`` to ``high`` in about four steps of 1, 2 or 5 times 10^n."""
    span = (high - low) or abs(high) or 1.0
    power = 10 ** math.floor(math.log10(span / _TICKS))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= span / _TICKS)
    start = math.floor(low / step) * step
    return start, max(math.ceil(high / step) * step, start + step), step


def _running_mean(points: Sequence[Point]) -> list[Point]:
    """Mean over a twentieth of the series on either side, as far as it reaches."""
    reach = len(points) // 20
    sums = [0.0]
    for _, y in points:
        sums.append(sums[-1] + y)
    result = []
    for index, (x, _) in enumerate(points):
        first, last = max(0, index - reach), min(len(points), index + reach + 1)
        result.append((x, (sums[last] - sums[first]) / (last - first)))
    return result


def _thin(points: Sequence[Point]) -> list[Point]:
    """At most `_MOST_POINTS` of them, the last always kept."""
    stride = math.ceil(len(points) / _MOST_POINTS)
    return [*points[:-1:stride], points[-1]]
