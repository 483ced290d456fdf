"""Curves of the metrics as SVG, in the colours of the page they stand on."""

import math
from collections.abc import Sequence
from typing import Any

from markupsafe import Markup

from experiments.reports.html import label, number, text

WIDTH, HEIGHT = 360, 220
LEFT, RIGHT, TOP, BOTTOM = 52, 8, 8, 30
MOST_POINTS = 400
MOST_LINES = 20
COLOURS = ("#1f77b4", "#d95f02", "#1b9e77", "#e7298a", "#7570b3", "#a6761d", "#66a61e", "#999999")
BEYOND = 1e100
"""What is larger is no result, and would make everything else a flat line."""
COUNTERS = ("epoch", "first", "count")
"""Columns that say where a row stands."""

Line = list[tuple[float, float]]


def curves(rows: Sequence[dict[str, Any]]) -> dict[str, list[Line]]:
    """The columns that can be drawn against the epoch: numbers, or one number per seed."""
    found: dict[str, list[Line]] = {}
    for row in rows:
        for name, value in row.items():
            values = value if isinstance(value, list) else [value]
            if name in COUNTERS or not 0 < len(values) <= MOST_LINES:
                continue
            if not all(isinstance(v, int | float | str) for v in values):
                continue
            lines = found.setdefault(name, [[] for _ in values])
            for line, v in zip(lines, values, strict=False):
                # Text is what JSON has in place of a number that is not finite.
                if isinstance(v, int | float) and not isinstance(v, bool) and abs(v) < BEYOND:
                    line.append((float(row["epoch"]), float(v) if abs(v) > 1 / BEYOND else 0.0))
    return {name: lines for name, lines in found.items() if max(map(len, lines)) > 1}


def chart(name: str, lines: Sequence[Line]) -> str:
    """One column against the epoch, logarithmic where it spans more than a factor of ten."""
    points = [point for line in lines for point in line]
    x_low, x_high = min(x for x, _ in points), max(x for x, _ in points)
    low, high = min(y for _, y in points), max(y for _, y in points)
    logarithmic = low > 0 and high > 10 * low

    def height(value: float) -> float:
        return math.log10(value) if logarithmic else value

    bottom, top = height(low), height(high)
    if top == bottom:
        bottom, top = bottom - 0.5, top + 0.5

    def place(x: float, y: float) -> tuple[float, float]:
        across = (x - x_low) / (x_high - x_low or 1.0)
        up = (height(y) - bottom) / (top - bottom)
        return (
            LEFT + across * (WIDTH - LEFT - RIGHT),
            HEIGHT - BOTTOM - up * (HEIGHT - TOP - BOTTOM),
        )

    made = [
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{text(name)} against epoch" '
        'font-size="11" fill="none">'
    ]
    ticks = _ticks(low, high, logarithmic)
    for value, shown in zip(ticks, _told_apart(ticks), strict=True):
        _, y = place(x_low, value)
        made.append(
            f'<path d="M{LEFT} {y:.1f}H{WIDTH - RIGHT}" stroke="currentColor" opacity=".15"/>'
            f'<text x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor="end" fill="currentColor">'
            f"{shown}</text>"
        )
    for value, anchor in ((x_low, "start"), (x_high, "end")):
        x, _ = place(value, low)
        made.append(
            f'<text x="{x:.1f}" y="{HEIGHT - 12}" text-anchor="{anchor}" fill="currentColor">'
            f"{number(int(value) if value.is_integer() else value)}</text>"
        )
    made.append(
        f'<text x="{(LEFT + WIDTH) / 2:.0f}" y="{HEIGHT - 12}" text-anchor="middle" '
        'fill="currentColor">epoch</text>'
    )
    for index, line in enumerate(lines):
        colour = COLOURS[index % len(COLOURS)]
        placed = [place(x, y) for x, y in _thinned(line)]
        path = "L".join(f"{x:.1f} {y:.1f}" for x, y in placed)
        if len(placed) > 1:
            made.append(f'<path d="M{path}" stroke="{colour}" stroke-width="1.4"/>')
        if len(placed) < 30:
            made += [
                f'<circle cx="{x:.1f}" cy="{y:.1f}" r="2" fill="{colour}"/>' for x, y in placed
            ]
    made.append("</svg>")
    scale = ", logarithmic" if logarithmic else ""
    several = f", {len(lines)} seeds" if len(lines) > 1 else ""
    return Markup(
        f"<figure>{''.join(made)}<figcaption>{label(name)}{several}{scale}</figcaption></figure>"
    )


def _ticks(low: float, high: float, logarithmic: bool) -> list[float]:
    """Round values from low to high, about five."""
    if logarithmic:
        first, last = math.ceil(math.log10(low)), math.floor(math.log10(high))
        found = [10.0**k for k in range(first, last + 1, max(1, (last - first) // 4))]
        return found if len(found) > 1 else [low, high]
    if low == high:
        return [low]
    step = 10.0 ** math.floor(math.log10((high - low) / 3))
    step *= next(m for m in (1, 2, 5, 10) if (high - low) / (m * step) <= 5)
    # A range that ends on a round value shall have it, whatever its last bit.
    first, last = math.ceil(low / step - 1e-6), math.floor(high / step + 1e-6)
    return [k * step for k in range(first, last + 1)]


def _told_apart(values: list[float]) -> list[str]:
    """Each value in so few digits, three or more, that no two look alike."""
    for digits in range(3, 12):
        shown = [f"{value:.{digits}g}" for value in values]
        if len(set(shown)) == len(values):
            break
    return shown


def _thinned(line: Line) -> Line:
    """So many points that a screen shows no difference: the extremes of each stretch stay."""
    if len(line) <= MOST_POINTS:
        return line
    stretch = math.ceil(2 * len(line) / MOST_POINTS)
    kept = [line[0]]
    for start in range(0, len(line), stretch):
        part = line[start : start + stretch]
        ends = {min(part, key=lambda p: p[1]), max(part, key=lambda p: p[1])}
        kept += sorted(ends)
    return [*kept, line[-1]]
