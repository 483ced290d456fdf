"""The figure of a sweep: the error of every solver along the axis with the most values."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes

from data_generation.scripts.figures import FAINT, log_scale, new_figure, save_figure
from experiments.run.tables import Row
from experiments.sweeps.table import DATA, varying

MARKERS = "osD^vPX*<>"
LEAST = 1e-8
"""What is drawn of errors that are zero but for rounding."""


def plot_sweep(file: Path, rows: Sequence[Row]) -> None:
    """EMD and, where the truth is known, the drift's error: medians over all other axes.

    Bars reach from the lower to the upper quartile.
    """
    rows = [row for row in rows if row["emd"] is not None]
    if not rows:
        return
    measures = [("emd", "EMD one step ahead")]
    if any(row["drift_error"] is not None for row in rows):
        measures.append(("drift_error", "relative error of the drift"))
    axis = widest_axis(rows)
    values = distinct(row[axis] for row in rows)
    figure, grid = new_figure(1, len(measures), size=3.2)
    figure.set_figwidth(max(6.0, 2.5 + 0.42 * len(values)))
    for axes, (measure, label) in zip(grid[:, 0], measures, strict=True):
        draw_measure(axes, rows, axis, values, measure)
        if measure == "emd":
            draw_no_motion(axes, rows, axis, values)
        axes.set_ylabel(label, fontsize=9)
    handles, labels = grid[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=2, fontsize=7, frameon=False)
    save_figure(figure, file)


def draw_no_motion(axes: Axes, rows: Sequence[Row], axis: str, values: Sequence[Any]) -> None:
    """How far the particles move: a prediction that is no nearer has learned nothing."""
    label: str | None = "no motion"
    for place, value in enumerate(values):
        found = [row["w1_no_motion"] for row in rows if row[axis] == value]
        known = [f for f in found if f]
        if known:
            level = float(np.median(known))
            axes.plot([place - 0.4, place + 0.4], [level, level], "--", color=FAINT, label=label)
            label = None


def widest_axis(rows: Sequence[Row]) -> str:
    """The property of the data with the most values."""
    names = varying(rows, DATA[1:])
    return max(names, key=lambda c: len({row[c] for row in rows})) if names else "dataset"


def distinct(values: Any) -> list:
    """Each value once, numbers in their order, words in that of their first appearance."""
    found = list(dict.fromkeys(values))
    return sorted(found) if all(isinstance(v, int | float) for v in found) else found


def draw_measure(
    axes: Axes, rows: Sequence[Row], axis: str, values: Sequence[Any], measure: str
) -> None:
    """One measure of every solver and scheme along an axis."""
    kinds = distinct((row["solver"], row["scheme"]) for row in rows)
    schemes = {scheme for _, scheme in kinds}
    shades = colormaps["tab10"](np.arange(len(kinds)) % 10)
    for number, (kind, shade) in enumerate(zip(kinds, shades, strict=True)):
        own = [row for row in rows if (row["solver"], row["scheme"]) == kind]
        shift = (number - (len(kinds) - 1) / 2) * 0.6 / len(kinds)
        places, quartiles = [], []
        for place, value in enumerate(values):
            found = [r[measure] for r in own if r[axis] == value and r[measure] is not None]
            finite = [max(f, LEAST) for f in found if np.isfinite(f)]
            if finite:
                places.append(place + shift)
                quartiles.append(np.quantile(finite, (0.25, 0.5, 0.75)))
        if not places:
            continue
        low, middle, high = np.transpose(quartiles)
        axes.errorbar(
            places,
            middle,
            yerr=np.stack([middle - low, high - middle]),
            fmt=MARKERS[number % len(MARKERS)],
            color=shade,
            markersize=4,
            linewidth=0.8,
            label=kind[0] if len(schemes) == 1 else f"{kind[0]}, {kind[1]}",
        )
    log_scale(axes.yaxis)
    axes.grid(axis="y", alpha=0.3, linewidth=0.5)
    axes.set_xticks(range(len(values)), [str(v) for v in values], fontsize=8)
    if any(isinstance(v, str) for v in values) and len(values) > 4:
        axes.tick_params(axis="x", rotation=45)
        for text in axes.get_xticklabels():
            text.set_horizontalalignment("right")
    axes.set_xlim(-0.6, len(values) - 0.4)
    axes.set_xlabel(axis.replace("_", " ") if not isinstance(values[0], str) else "")
