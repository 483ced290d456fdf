"""Pictures of learned densities."""

from pathlib import Path

import numpy as np
from matplotlib.axes import Axes

from data_generation.scripts.figures import (
    ENERGIES,
    TITLE_SIZE,
    colour_bar,
    coordinate,
    new_figure,
    save_figure,
)
from diffusions.density.error_curves import ErrorCurves

LEVELS = 24
DEPTH = 14.0
"""Nats below the highest density that contours reach."""
MOST_MARGINALS = 8
DATA, MODEL = "#9aa0a6", "#c2410c"


def plot_error_curve(
    file: Path,
    curves: ErrorCurves,
    gaussian_curves: ErrorCurves,
    *,
    exact: np.ndarray | None = None,
) -> None:
    """Denoising errors over the log SNR: learned, and of a Gaussian's ideal denoiser."""
    figure, ((axes, gap),) = new_figure(2, size=3.8)
    gaussian = np.asarray(gaussian_curves.epsilon)
    axes.plot(curves.a, gaussian, color=DATA, label="Gaussian of the training covariance")
    axes.plot(curves.a, curves.epsilon, color=MODEL, label="learned")
    gap.fill_between(curves.a, gaussian - np.asarray(curves.epsilon), color=MODEL, alpha=0.3)
    if exact is not None:
        axes.plot(curves.a, exact, color="black", linestyle=":", label="exact")
        gap.plot(curves.a, gaussian - exact, color="black", linestyle=":")
    axes.set(xlabel="log SNR", ylabel="E |eps - eps_hat|²")
    axes.set_title("denoising error", fontsize=TITLE_SIZE)
    axes.legend(frameon=False, fontsize=8)
    gap.axhline(0.0, color="black", linewidth=0.5)
    gap.set(xlabel="log SNR")
    gap.set_title("their difference", fontsize=TITLE_SIZE)
    save_figure(figure, file)


def square_grid(points: np.ndarray, n: int) -> tuple[np.ndarray, np.ndarray]:
    """The axis and the (n^2, 2) nodes of a square around points."""
    reach = float(np.abs(points).max()) * 1.1
    axis = np.linspace(-reach, reach, n)
    mesh = np.meshgrid(axis, axis, indexing="xy")
    return axis, np.stack([m.ravel() for m in mesh], axis=-1).astype(np.float32)


def _contours(
    axes: Axes, axis: np.ndarray, values: np.ndarray, title: str, *, bar: bool = True
) -> None:
    """A log density below its highest value, and what its colours mean."""
    n = len(axis)
    below = values - np.nanmax(np.where(np.isfinite(values), values, np.nan))
    shown = np.clip(np.nan_to_num(below, neginf=-DEPTH), -DEPTH, 0.0).reshape(n, n)
    levels = np.linspace(-DEPTH, 0.0, LEVELS)
    drawn = axes.contourf(axis, axis, shown, levels=levels, cmap=ENERGIES)
    if bar:
        colour_bar(drawn, axes, r"$\log p - \max \log p$ [nats]")
    _in_plane(axes, axis, title)


def _in_plane(axes: Axes, axis: np.ndarray, title: str) -> None:
    axes.set(
        xlim=axis[[0, -1]],
        ylim=axis[[0, -1]],
        aspect="equal",
        xlabel=coordinate(0),
        ylabel=coordinate(1),
    )
    axes.set_title(title, fontsize=TITLE_SIZE)


def _points(axes: Axes, axis: np.ndarray, points: np.ndarray, title: str) -> None:
    color = DATA if title == "data" else MODEL
    axes.scatter(points[:, 0], points[:, 1], s=1.0, color=color, linewidths=0)
    _in_plane(axes, axis, title)


def plot_density(
    file: Path, axis: np.ndarray, learned: np.ndarray, points: np.ndarray, title: str
) -> None:
    """Contours of the learned log density beside data."""
    figure, ((left, right),) = new_figure(2, size=3.6)
    _contours(left, axis, learned, title)
    _points(right, axis, points, "data")
    save_figure(figure, file)


def plot_final_density(
    file: Path, axis: np.ndarray, learned: np.ndarray, exact: np.ndarray, points: np.ndarray
) -> None:
    """Contours of the learned and the exact log density, and data."""
    figure, ((left, middle, right),) = new_figure(3, size=3.6)
    _contours(left, axis, learned, "learned log density", bar=False)
    _contours(middle, axis, exact, "exact log density")
    _points(right, axis, points, "data")
    save_figure(figure, file)


def plot_samples(file: Path, points: np.ndarray, samples: dict[str, np.ndarray]) -> None:
    """Data beside samples of several samplers."""
    figure, (row,) = new_figure(1 + len(samples), size=3.4)
    reach = float(np.abs(points).max()) * 1.1
    for axes, (name, drawn) in zip(row, {"data": points, **samples}.items(), strict=True):
        _points(axes, np.array([-reach, reach]), drawn, name)
    save_figure(figure, file)


def plot_marginals(file: Path, points: np.ndarray, samples: dict[str, np.ndarray]) -> None:
    """Histograms of the leading coordinates, of data and of samples."""
    shown = min(points.shape[1], MOST_MARGINALS)
    columns = min(shown, 4)
    figure, axes = new_figure(columns, -(-shown // columns), size=2.8)
    for axis in axes.ravel()[shown:]:
        axis.axis("off")
    for i, axis in enumerate(axes.ravel()[:shown]):
        bins = np.linspace(points[:, i].min(), points[:, i].max(), 41)
        axis.hist(points[:, i], bins, density=True, color=DATA, label="data")
        for (name, drawn), style in zip(samples.items(), ("-", "--"), strict=False):
            axis.hist(
                drawn[:, i],
                bins,
                density=True,
                histtype="step",
                color=MODEL,
                linestyle=style,
                label=name,
            )
        axis.set(yticks=[])
        axis.set_title(f"coordinate {i + 1}", fontsize=TITLE_SIZE)
    axes[0, 0].legend(frameon=False, fontsize=8)
    save_figure(figure, file)


def plot_loss(file: Path, rows: list[dict], *, truth: float | None, gaussian: float) -> None:
    """Training loss and validation nll over epochs."""
    figure, ((axes,),) = new_figure(1, size=4.2)
    loss = np.array([(row["epoch"], row["loss"]) for row in rows if "loss" in row])
    validation = np.array(
        [(row["epoch"], row["validation_nll"]) for row in rows if "validation_nll" in row]
    )
    axes.plot(*loss.T, color=DATA, linewidth=0.8, label="training loss")
    axes.plot(*validation.T, color=MODEL, marker="o", markersize=3, label="validation nll")
    axes.axhline(gaussian, color="black", linestyle="--", linewidth=0.7, label="Gaussian")
    if truth is not None:
        axes.axhline(truth, color="black", linestyle=":", label="exact")
    low = min(validation[:, 1].min(), np.quantile(loss[:, 1], 0.02), truth if truth else np.inf)
    high = max(gaussian, float(np.quantile(loss[:, 1], 0.98)))
    margin = 0.05 * (high - low) + 1e-6
    axes.set(xlabel="epoch", ylabel="nats", ylim=(low - margin, high + margin))
    axes.legend(frameon=False)
    save_figure(figure, file)


def plot_images(file: Path, images: np.ndarray, columns: int = 8) -> None:
    """A panel of images, bytes (n, height, width, channels)."""
    rows = -(-len(images) // columns)
    figure, axes = new_figure(columns, rows, size=1.0)
    for axis in axes.ravel():
        axis.axis("off")
    for axis, image in zip(axes.ravel(), images, strict=False):
        axis.imshow(image.squeeze(), cmap="gray" if image.shape[-1] == 1 else None)
    save_figure(figure, file)
