"""Figures of the sparse rank-one experiment. Each function writes one file."""

from pathlib import Path
from typing import Any

import numpy as np

from data_generation.scripts.figures import FAINT, TITLE_SIZE, log_scale, new_figure, save_figure
from experiments.sparse_localization.measurement import SquaredErrors

NETWORK = "#c2410c"
STYLES = {
    "spectral": ("spectral", "#1d4ed8", "--"),
    "power_iteration": ("power iteration", "#047857", "-."),
    "amp": ("AMP, spectral start", "#7e22ce", "-"),
    "amp_random_start": ("AMP, random start", "#7e22ce", ":"),
}
THRESHOLD = 0.5
BIN = 0.04
"""Of norms; 1 is the middle of one."""


def plot_errors(
    file: Path,
    times: tuple[float, ...],
    n: int,
    errors: dict[str, SquaredErrors],
    reference: dict[float, float],
    predicted: dict[float, float],
) -> None:
    """Mean squared error against t/n, on a linear and on a logarithmic scale.

    Where no sample erred, a triangle stands at the lower edge of the latter.

    Args:
        file: where to.
        times: t.
        n: dimension.
        errors: by estimator.
        reference: published means, or nothing.
        predicted: time -> that of AMP by state evolution.
    """
    figure, grid = new_figure(2, size=4.2)
    ratio = np.asarray(times) / n
    for axes, scale in zip(grid[0], ("linear", "log"), strict=True):
        for name, found in errors.items():
            label, color, line = STYLES.get(name, (name, NETWORK, "-"))
            # On a logarithmic scale no sample that errs is a mark at the lower edge, not a fall to it.
            mean = found.mean if scale == "linear" else np.where(found.mean > 0, found.mean, np.nan)
            axes.plot(ratio, mean, line, color=color, linewidth=1.3, label=label)
            none = ratio[np.isnan(mean)]
            if len(
                none
            ):  # an empty line that is not clipped has no place, and none is left for axes
                edge = {"transform": axes.get_xaxis_transform(), "clip_on": False}
                axes.plot(none, np.zeros(len(none)), "v", color=color, markersize=4, **edge)
            if name not in STYLES:
                low, high = (found.mean + sign * 2 * found.standard_error for sign in (-1, 1))
                axes.fill_between(
                    ratio, low.clip(1e-9), high, where=~np.isnan(mean), color=color, alpha=0.2,
                    linewidth=0,
                )  # fmt: skip
        axes.plot(
            [t / n for t in predicted], list(predicted.values()), "--", color="black", linewidth=0.9,
            label="AMP for large n, by state evolution",
        )  # fmt: skip
        if reference:
            axes.plot(
                [t / n for t in reference], list(reference.values()), ".", color="black", ms=4,
                label="published",
            )  # fmt: skip
        axes.axvline(THRESHOLD, color=FAINT, linewidth=0.8, linestyle=":")
        axes.set_xlabel("$t/n$")
        if scale == "log":
            log_scale(axes.yaxis)
    shown = np.concatenate([found.mean for found in errors.values()])
    grid[0, 0].set_ylim(-0.02, min(1.05, 1.1 * shown.max()))
    positive = shown[shown > 0]
    if positive.size:
        grid[0, 1].set_ylim(max(0.5 * positive.min(), 1e-6), 2 * shown.max())
    grid[0, 0].set_ylabel(r"mean squared error $|\hat{x} - x|_F^2$")
    grid[0, 0].annotate(
        "$t = n/2$", (THRESHOLD, 0.02), xycoords=("data", "axes fraction"), fontsize=8,
        xytext=(3, 0), textcoords="offset points", color=FAINT,
    )  # fmt: skip
    figure.legend(
        *grid[0, 0].get_legend_handles_labels(),
        loc="outside upper center",
        ncols=3,
        fontsize=8,
        frameon=False,
    )
    save_figure(figure, file)


def plot_seeds(file: Path, times: tuple[float, ...], n: int, networks: dict[str, Any]) -> None:
    """Mean squared error of several networks, their mean, and their standard deviation."""
    figure, grid = new_figure(2, size=4.2)
    ratio = np.asarray(times) / n
    means = np.stack([found.mean for found in networks.values()])
    left, right = grid[0]
    for name, mean in zip(networks, means, strict=True):
        left.plot(ratio, mean, linewidth=0.8, alpha=0.8, label=name)
    left.plot(ratio, means.mean(axis=0), color="black", linewidth=1.4, label="mean")
    left.set_ylabel(r"mean squared error $|\hat{x} - x|_F^2$")
    left.legend(fontsize=7, frameon=False)
    right.plot(ratio, means.std(axis=0, ddof=1), color=NETWORK, label="between networks")
    sampling = np.stack([found.standard_error for found in networks.values()]).mean(axis=0)
    right.plot(ratio, sampling, "--", color=FAINT, label="standard error of each")
    right.set_ylabel("standard deviation")
    right.legend(fontsize=8, frameon=False)
    for axes in (left, right):
        axes.axvline(THRESHOLD, color=FAINT, linewidth=0.8, linestyle=":")
        axes.set_xlabel("$t/n$")
    save_figure(figure, file)


def plot_norms(file: Path, norms: np.ndarray, zero_probability: float, distance: float) -> None:
    """Shares of generated norms beside those of the true law, in bins that have 0 and 1 as middles."""
    figure, grid = new_figure(1, size=4.2)
    axes = grid[0, 0]
    edges = BIN * (np.arange(-1, round(max(1.0, norms.max()) / BIN) + 2) + 0.5)
    shares = np.histogram(norms, edges)[0] / len(norms)
    true = np.zeros(len(shares))
    true[0], true[round(1.0 / BIN)] = zero_probability, 1.0 - zero_probability
    axes.stairs(shares, edges, color=NETWORK, fill=True, alpha=0.75, label="generated")
    axes.stairs(true, edges, color="black", linewidth=1.2, label="true law")
    axes.set_xlabel(r"$|x|_F$")
    axes.set_ylabel(f"share of the samples in bins of {BIN:g}")
    axes.set_title(f"{len(norms)} samples, $W_1$ = {distance:.3f}", fontsize=TITLE_SIZE)
    axes.legend(fontsize=8, frameon=False)
    save_figure(figure, file)


def plot_training(file: Path, rows: list[dict[str, Any]]) -> None:
    """Mean loss of every epoch, the best of each stage, and where stages begin."""
    figure, grid = new_figure(1, size=4.6)
    axes = grid[0, 0]
    rows = [row for row in rows if "loss" in row]
    epochs = np.asarray([row["epoch"] for row in rows])
    losses = np.asarray([row["loss"] for row in rows], np.float64)
    noise_free = np.asarray([row["noise_free"] for row in rows], bool)
    axes.plot(epochs[~noise_free], losses[~noise_free], linewidth=0.8, color=NETWORK, label="loss")
    if noise_free.any():
        axes.plot(
            epochs[noise_free], losses[noise_free], ".", ms=3, color=FAINT, label="without noise"
        )
    best = np.asarray([float(row["best_loss"]) for row in rows])
    axes.plot(epochs, np.where(np.isfinite(best), best, np.nan), color="black", label="best")
    for previous, row in zip(rows, rows[1:], strict=False):
        if row["stage"] != previous["stage"]:
            axes.axvline(row["epoch"], color=FAINT, linewidth=0.8, linestyle=":")
    if (losses > 0).all():
        log_scale(axes.yaxis)
    axes.set_xlabel("epoch")
    axes.set_title("mean squared error in training", fontsize=TITLE_SIZE)
    axes.legend(fontsize=8, frameon=False)
    save_figure(figure, file)
