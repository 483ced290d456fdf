"""Figures of the linear denoiser and of its learned counterpart. Every function writes one file."""

from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from diffusions.linear_denoiser import OneStepModel
from diffusions.linear_denoiser_theory import theory_curve
from experiments.figures import new_figure, save_figure

MEASURED = "#c2410c"
THEORY = "#1d4ed8"
LIMIT = "#6b7280"


def _column(table: list[dict[str, Any]], name: str) -> np.ndarray:
    return np.array([np.nan if row[name] is None else row[name] for row in table], np.float64)


def _band(axes: Axes, table: list[dict[str, Any]], name: str, *, label: str, color: str) -> None:
    """Means with a band of two standard errors, where they are finite."""
    n, mean = _column(table, "n"), _column(table, name)
    error = np.nan_to_num(_column(table, f"{name}_standard_error"))
    shown = np.isfinite(mean)
    n, mean, error = n[shown], mean[shown], error[shown]
    axes.plot(n, mean, "o-", color=color, markersize=3.5, linewidth=1, label=label)
    axes.fill_between(n, mean - 2 * error, mean + 2 * error, color=color, alpha=0.25, linewidth=0)


def plot_linear(file: Path, table: list[dict[str, Any]], model: OneStepModel) -> None:
    """H^2, KL, P(Delta > 0) and the generated variance against n, with theory and error bands.

    Args:
        file: where to.
        table: one row per n.
        model: for the theory.
    """
    table = sorted(table, key=lambda row: row["n"])
    figure, grid = new_figure(2, 2, size=3.9)
    n = _column(table, "n")
    d = model.dimension
    # The curves begin below the smallest size and end above the largest one.
    fine = np.unique(np.geomspace(max(2, n.min() * 0.8), n.max() * 1.25, 240).astype(int))
    theory = theory_curve(model, fine)
    panels = (
        (grid[0, 0], "log_affinity", r"$-\log(1 - H^2)$", theory.log_affinity),
        (grid[0, 1], "kl", "KL(generated, truth)", theory.kl),
        (grid[1, 1], "mean_variance", "generated variance per coordinate", theory.mean_variance),
    )
    limits = {
        "log_affinity": np.log1p(-model.limiting_hellinger_squared),
        "kl": model.limiting_kl,
        "mean_variance": model.limiting_ratio * model.std**2,
    }
    for axes, name, title, curve in panels:
        sign = -1.0 if name == "log_affinity" else 1.0
        rows = [row | {name: sign * row[name]} for row in table]
        _band(axes, rows, name, label="measured, $\\pm$ 2 standard errors", color=MEASURED)
        finite = np.isfinite(curve)
        axes.plot(
            fine[finite],
            sign * curve[finite],
            color=THEORY,
            linewidth=1.2,
            label="theory",
            zorder=3,
        )
        axes.axhline(
            sign * limits[name], color=LIMIT, linestyle=":", linewidth=1, label=r"$n \to \infty$"
        )
        axes.set_yscale("log")
        axes.set_title(title, fontsize=10)
    if (n <= d).any():
        for axes, value in ((grid[0, 0], r"$H^2 = 1$"), (grid[0, 1], r"KL $= \infty$")):
            axes.axvspan(min(n.min(), fine.min()), d, color="black", alpha=0.06, linewidth=0)
            axes.text(0.03, 0.5, f"{value} for $n \\leq d$", transform=axes.transAxes, fontsize=8)
    axes = grid[1, 0]
    plot_probability(axes, table)
    for axes in grid.ravel():
        axes.axvline(d, color="black", linestyle="--", linewidth=0.7)
        axes.set_xscale("log")
        axes.set_xlim(fine.min(), fine.max())
        axes.set_xlabel("training points n  (dashed: n = d)")
    grid[1, 1].legend(fontsize=8)
    save_figure(figure, file)


def plot_probability(axes: Axes, table: list[dict[str, Any]]) -> None:
    """P(Delta > 0) against n with its 95 % confidence interval."""
    n = _column(table, "n")
    p = _column(table, "p_delta_positive")
    low, high = _column(table, "p_delta_positive_low"), _column(table, "p_delta_positive_high")
    # An interval need not contain the estimate to the last bit when that is 0 or 1.
    errors = np.maximum(np.stack([p - low, high - p]), 0.0)
    axes.errorbar(n, p, errors, fmt="o-", color=MEASURED, markersize=3.5, linewidth=1, capsize=2.5)
    axes.axhline(0.5, color=LIMIT, linestyle=":", linewidth=1)
    axes.set_ylim(-0.03, 1.03)
    axes.set_title(r"$P(\Delta > 0)$, 95 % confidence", fontsize=10)
