"""Tables of two axes as colours."""

import textwrap
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure

from data_generation.scripts.figures import LABEL_SIZE, new_figure

Value = Callable[..., float | None]
"""(row, column) -> what is shown; None where there is nothing."""


def heat_maps(
    panels: dict[tuple[str, str], Value],
    rows: Sequence[Any],
    columns: Sequence[Any],
    *,
    label: str,
    row_axis: str = "",
    column_axis: str = "",
    limits: tuple[float, float] | None = None,
) -> Figure:
    """One map per panel, all on one logarithmic scale of colours.

    Args:
        panels: by the title of their row of the figure and that of their column.
        rows: of every map, upwards.
        columns: of every map.
        label: of the colours.
        row_axis: what the rows are.
        column_axis: what the columns are.
        limits: of the colours; absent, those of the values.
    """
    tops = list(dict.fromkeys(top for top, _ in panels))
    sides = list(dict.fromkeys(side for _, side in panels))
    figure, grid = new_figure(len(sides), len(tops), size=2.2 + 0.15 * max(len(rows), len(columns)))
    tables = {
        key: np.array([[_number(value(r, c)) for c in columns] for r in rows])
        for key, value in panels.items()
    }
    finite = np.concatenate([t[np.isfinite(t) & (t > 0)] for t in tables.values()])
    low, high = limits or ((finite.min(), finite.max()) if len(finite) else (0.1, 1.0))
    norm = LogNorm(low, max(high, low * 1.01))
    for (top, side), table in tables.items():
        axes = grid[tops.index(top), sides.index(side)]
        axes.set_facecolor("0.85")
        # Zero is as good as it gets, not absent.
        image = axes.imshow(
            np.clip(table, low, high), norm=norm, cmap="viridis_r", origin="lower", aspect="auto"
        )
        first = sides.index(side) == 0
        last = tops.index(top) == len(tops) - 1
        axes.set_xticks(range(len(columns)), columns if last else [], fontsize=6)
        axes.set_yticks(range(len(rows)), rows if first else [], fontsize=6)
        if last and any(isinstance(c, str) for c in columns):
            axes.tick_params(axis="x", rotation=90)
        if first:
            axes.set_ylabel(f"{textwrap.fill(top, 30)}\n{row_axis}".strip(), fontsize=7)
        if last:
            axes.set_xlabel(column_axis, fontsize=7)
        if tops.index(top) == 0:
            axes.set_title(side.removeprefix("jkonet-star-"), fontsize=LABEL_SIZE)
    bar = figure.colorbar(image, ax=grid.ravel().tolist(), shrink=0.8)
    bar.set_label(textwrap.fill(label, 28), fontsize=7)
    bar.ax.tick_params(which="both", labelsize=7)
    return figure


def _number(value: float | None) -> float:
    return np.nan if value is None else value
