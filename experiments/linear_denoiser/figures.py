"""Figures of the linear denoiser and of its learned counterpart. Every function writes one file."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.colors import CenteredNorm, LogNorm
from matplotlib.ticker import LogLocator, NullLocator, ScalarFormatter

from data_generation.gaussians import IsotropicMixture
from data_generation.scripts.figures import (
    FAINT,
    LABEL_SIZE,
    TICK_SIZE,
    TITLE_SIZE,
    log_scale,
    new_figure,
    save_figure,
)
from diffusions.linear_denoiser.expectation import exact_expectation
from diffusions.linear_denoiser.model import OneStepModel
from diffusions.linear_denoiser.theory import leading_order
from experiments.linear_denoiser.memorisation import expected_values

MEASURED = "#c2410c"
THEORY = "#1d4ed8"


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
    """H^2, KL, P(Delta > 0) and variance against n, with error bands and both theories.

    Args:
        file: where to.
        table: one row per n.
        model: for the theory.
    """
    table = sorted(table, key=lambda row: row["n"])
    figure, grid = new_figure(3, 2, size=3.6)
    n, d = _column(table, "n"), model.dimension
    # The curves begin below the smallest size and end above the largest one.
    fine = np.unique(np.geomspace(max(2, n.min() * 0.8), n.max() * 1.25, 240).astype(int))
    theory = leading_order(model, fine)._asdict()
    exact = exact_expectation(model, fine)._asdict()
    limits = {
        "hellinger_squared": model.limiting_hellinger_squared,
        "log_affinity": -np.log1p(-model.limiting_hellinger_squared),
        "kl": model.limiting_kl,
        "mean_variance": model.limiting_ratio * model.std**2,
    }
    # Where H^2 cannot be told from 1, its distance from 1 still can.
    theory["log_affinity"] = -theory["log_affinity"]
    table = [row | {"log_affinity": -row["log_affinity"]} for row in table]
    for axes, name, title in (
        (grid[0, 0], "hellinger_squared", "$H^2$(generated, truth)"),
        (grid[0, 1], "log_affinity", r"$-\log(1 - H^2)$"),
        (grid[0, 2], "kl", "KL(generated, truth)"),
        (grid[1, 1], "mean_variance", "generated variance per coordinate"),
    ):
        _band(axes, table, name, label="measured, $\\pm$ 2 standard errors", color=MEASURED)
        for curves, style, label in (
            (theory, "--", "theory, leading order in n and d"),
            (exact, "-", "theory, exact at finite n"),
        ):
            # An infinite value is a gap in the curve.
            curve = curves.get(name, np.full(len(fine), np.nan))
            curve = np.where(np.isfinite(curve), curve, np.nan)
            axes.plot(fine, curve, style, color=THEORY, linewidth=1.2, label=label, zorder=3)
        axes.axhline(limits[name], color=FAINT, linestyle=":", linewidth=1, label=r"$n \to \infty$")
        if name != "hellinger_squared":
            log_scale(axes.yaxis)
        axes.set_title(title, fontsize=TITLE_SIZE)
    if fine.min() <= d:
        for axes in grid[0, 1:]:
            axes.axvspan(fine.min(), min(d, fine.max()), color="black", alpha=0.06, linewidth=0)
            axes.set_title(axes.get_title() + r", $\infty$ for $n \leq d$", fontsize=TITLE_SIZE)
    plot_probability(grid[1, 0], table)
    for axes in grid.ravel()[:-1]:
        axes.axvline(d, color="black", linestyle="--", linewidth=0.7, label="n = d")
        log_scale(axes.xaxis)
        # The default labels of less than two decades run into each other.
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.xaxis.set_major_formatter(ScalarFormatter())
        axes.xaxis.set_minor_locator(NullLocator())
        axes.set_xlim(fine.min(), fine.max())
        axes.set_xlabel("training points n")
    grid[1, 2].set_axis_off()
    grid[1, 2].legend(
        *grid[0, 0].get_legend_handles_labels(), loc="center", fontsize=10, frameon=False
    )
    save_figure(figure, file)


def plot_memorisation(
    file: Path, table: list[dict[str, Any]], models: Sequence[OneStepModel]
) -> None:
    """Maps of the gap between fresh and training loss, and of KL, over n / d and diffusion time.

    Args:
        file: where to.
        table: one row per time and size.
        models: one per time, in order.
    """
    figure, grid = new_figure(3, 2, size=3.9)
    d = models[0].dimension
    times = np.array([model.time for model in models])
    sizes = np.array(sorted({row["n"] for row in table}))
    cells = {(row["time"], row["n"]): row for row in table}

    def measured(name: str) -> np.ndarray:
        rows = [[cells[time, n][name] for n in sizes] for time in times]
        return np.array([[np.nan if v is None else v for v in row] for row in rows], np.float64)

    for axes_row, name, title, unit in zip(
        grid,
        ("gap", "kl_per_dimension"),
        ("fresh - training loss", "KL(generated, truth) / d"),
        ("squared error per coordinate", "nats per coordinate"),
        strict=True,
    ):
        exact = np.stack([expected_values(model, sizes)[name] for model in models])
        finite = np.concatenate([exact[np.isfinite(exact)], [1.0]])
        norm = LogNorm(finite[finite > 0].min(), finite.max())
        scores = measured(f"{name}_z")
        extent = max(3.0, np.nanmax(np.abs(scores), initial=0.0))
        for axes, values, scale, colours, label, shade in (
            (axes_row[0], exact, norm, "viridis", f"{title}: exact", unit),
            (axes_row[1], measured(name), norm, "viridis", f"{title}: Monte Carlo", unit),
            (
                axes_row[2], scores, CenteredNorm(0.0, extent), "RdBu_r",
                "z-score of the two", "standard errors",
            ),
        ):  # fmt: skip
            # Grey: infinite, or not known.
            shown = np.where(np.isfinite(values), values, np.nan)
            axes.set_facecolor("#d1d5db")
            picture = axes.pcolormesh(
                np.arange(len(sizes) + 1),
                np.arange(len(times) + 1),
                shown,
                norm=scale,
                cmap=colours,
            )
            bar = figure.colorbar(picture, ax=axes)
            bar.set_label(shade, fontsize=LABEL_SIZE)
            bar.ax.tick_params(which="both", labelsize=TICK_SIZE)
            axes.axvline(np.searchsorted(sizes, d, side="right"), color="black", linestyle="--")
            axes.set_xticks(np.arange(len(sizes)) + 0.5, [f"{n / d:g}" for n in sizes], rotation=90)
            axes.set_yticks(np.arange(len(times)) + 0.5, [f"{time:g}" for time in times])
            axes.tick_params(labelsize=8)
            axes.set_xlabel("n / d (dashed: n = d; grey: infinite or unknown)", fontsize=8)
            axes.set_title(label, fontsize=TITLE_SIZE)
        axes_row[0].set_ylabel("diffusion time")
    save_figure(figure, file)


def plot_learned(file: Path, table: list[dict[str, Any]], averages: list[dict[str, Any]]) -> None:
    """Delta, P(Delta > 0) and the distances against n, and the running averages of Delta.

    Args:
        file: where to.
        table: one row per n.
        averages: over the first repetitions, for every number of them.
    """
    table = sorted(table, key=lambda row: row["n"])
    figure, grid = new_figure(2, 2, size=3.9)
    _band(grid[0, 0], table, "delta", label="$\\pm$ 2 standard errors", color=MEASURED)
    grid[0, 0].axhline(0.0, color=FAINT, linestyle=":", linewidth=1)
    grid[0, 0].set_title(
        r"$\Delta$ = D(train, generated) - D(original, generated)", fontsize=TITLE_SIZE
    )
    grid[0, 0].legend(fontsize=8, frameon=False)
    plot_probability(grid[0, 1], table)
    for name, label, color in (
        ("distance_train", "training and generated", MEASURED),
        ("distance_original", "original and generated", THEORY),
    ):
        _band(grid[1, 0], table, name, label=label, color=color)
    grid[1, 0].set_title("distance per pixel", fontsize=TITLE_SIZE)
    grid[1, 0].legend(fontsize=8, frameon=False)
    for axes in grid.ravel()[:3]:
        axes.set_xlabel("training images n")
    shades = colormaps["viridis"](np.linspace(0, 0.9, len(table)))
    for row, shade in zip(table, shades, strict=True):
        own = [average for average in averages if average["n"] == row["n"]]
        count, delta = _column(own, "repetitions"), _column(own, "delta")
        grid[1, 1].plot(count, delta, color=shade, linewidth=1, label=f"n = {row['n']}")
    grid[1, 1].axhline(0.0, color=FAINT, linestyle=":", linewidth=1)
    grid[1, 1].set_title(r"running average of $\Delta$", fontsize=TITLE_SIZE)
    grid[1, 1].set_xlabel("repetitions")
    grid[1, 1].legend(fontsize=6, ncols=2, frameon=False)
    save_figure(figure, file)


def plot_generated(file: Path, images: np.ndarray, data: IsotropicMixture) -> None:
    """Some generated images, and their pixels' histogram with the true density.

    Args:
        file: where to.
        images: (n, height, width, 1).
        data: the truth.
    """
    figure, grid = new_figure(2, size=3.6)
    side = images.shape[1]
    columns = min(5, len(images))
    rows = min(2, len(images) // columns)
    # One pixel of background between the images.
    sheet = np.full((rows * (side + 1) - 1, columns * (side + 1) - 1), np.nan)
    for k in range(rows * columns):
        i, j = divmod(k, columns)
        sheet[i * (side + 1) :, j * (side + 1) :][:side, :side] = images[k, :, :, 0]
    grid[0, 0].imshow(sheet, cmap="gray")
    grid[0, 0].set_axis_off()
    grid[0, 0].set_title("generated", fontsize=TITLE_SIZE)
    low = min(images.min(), *(m - 4 * s for m, s in zip(data.means, data.stds, strict=True)))
    high = max(images.max(), *(m + 4 * s for m, s in zip(data.means, data.stds, strict=True)))
    values = np.linspace(low, high, 400)
    axes = grid[0, 1]
    axes.hist(images.ravel(), 40, density=True, color=MEASURED, alpha=0.5, label="generated")
    axes.plot(values, data.density(values), color=THEORY, label="truth")
    axes.set_title("pixels", fontsize=TITLE_SIZE)
    axes.legend(fontsize=8, frameon=False)
    save_figure(figure, file)


def plot_probability(axes: Axes, table: list[dict[str, Any]]) -> None:
    """P(Delta > 0) against n with its 95 % confidence interval."""
    n = _column(table, "n")
    p = _column(table, "p_delta_positive")
    low, high = _column(table, "p_delta_positive_low"), _column(table, "p_delta_positive_high")
    # An interval need not contain the estimate to the last bit when that is 0 or 1.
    errors = np.maximum(np.stack([p - low, high - p]), 0.0)
    axes.errorbar(n, p, errors, fmt="o-", color=MEASURED, markersize=3.5, linewidth=1, capsize=2.5)
    axes.axhline(0.5, color=FAINT, linestyle=":", linewidth=1)
    axes.set_ylim(-0.03, 1.03)
    axes.set_title(r"$P(\Delta > 0)$, 95 % confidence", fontsize=TITLE_SIZE)
