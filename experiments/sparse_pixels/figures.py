"""Pictures of reconstructions: panels of images, and the cost of their quality."""

from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
from matplotlib.axes import Axes

from data_generation.images.batches import as_bytes
from data_generation.scripts.figures import (
    TICK_SIZE,
    TITLE_SIZE,
    log_scale,
    new_figure,
    save_figure,
)

ROW = 0.85
"""Inches of an image."""
ASKED = 0.0
"""Grey of a mask's target pixels; conditioning ones are white and the others black."""
COLORS = ("#1d4ed8", "#c2410c", "#15803d", "#7c3aed", "#9aa0a6", "#0f766e")


def plot_panel(file: Path, columns: dict[str, np.ndarray], held: Any, *, n: int) -> None:
    """The masks and one column of images per method.

    Args:
        file: to write.
        columns: images in [-1, 1] by title.
        held: with the masks.
        n: images at most.
    """
    masks = np.where(held.told, 1.0, np.where(held.asked, ASKED, -1.0))
    shown = {"masks": masks} | {name.replace("_", " "): images for name, images in columns.items()}
    _grid(file, {name: images[:n] for name, images in shown.items()})


def plot_diversity(file: Path, draws: np.ndarray, held: Any, *, n: int) -> None:
    """Several samples per input, their mean and their deviation."""
    told = np.where(held.told, held.images, -1.0)
    deviation = draws.std(axis=0)
    largest = max(float(deviation[:n].max()), 1e-6)
    columns = {"told": told} | {f"sample {i + 1}": images for i, images in enumerate(draws)}
    columns |= {"mean": draws.mean(axis=0), "deviation": 2 * deviation / largest - 1}
    columns |= {"truth": held.images}
    _grid(file, {name: images[:n] for name, images in columns.items()})


def _grid(file: Path, columns: dict[str, np.ndarray]) -> None:
    rows = len(next(iter(columns.values())))
    figure, grid = new_figure(len(columns), rows, size=ROW)
    for j, (name, images) in enumerate(columns.items()):
        for i, image in enumerate(np.asarray(as_bytes(jnp.asarray(images)))):
            _show(grid[i, j], image)
        grid[0, j].set_title(name, fontsize=TICK_SIZE)
    save_figure(figure, file)


def _show(axes: Axes, image: np.ndarray) -> None:
    gray = image.shape[-1] == 1
    axes.imshow(image[..., 0] if gray else image, cmap="gray" if gray else None, vmin=0, vmax=255)
    axes.set_axis_off()


def plot_calibration(file: Path, found: dict[str, Any], methods: dict[str, dict[str, Any]]) -> None:
    """The error of means of draws beside what it has to be, and the intervals' shares.

    Args:
        file: to write.
        found: by `calibration`.
        methods: figures by method, with what the draws are compared with.
    """
    figure, ((left, right),) = new_figure(2, size=3.4)
    rows = found["errors"]
    draws = [row["draws"] for row in rows]
    for value, style, label in (
        ("mse", "o-", "mean of K draws"),
        ("expected_mse", "--", "(1 + 1/K) best"),
    ):
        color = COLORS[0] if value == "mse" else "black"
        left.plot(draws, [row[value] for row in rows], style, color=color, ms=3, label=label)
    for color, name in zip(COLORS[1:], ("kriging", "regression"), strict=False):
        if name in methods:
            left.axhline(
                methods[name]["rmse_unseen"] ** 2,
                color=color,
                linestyle=":",
                label=name,
            )
    log_scale(left.xaxis)
    left.set(xlabel="draws K")
    left.set_title("squared error of unseen pixels", fontsize=TITLE_SIZE)
    left.set_xticks(draws, [str(k) for k in draws])
    left.set_xticks([], minor=True)
    left.legend(frameon=False, fontsize=7)
    levels = [float(name.rstrip("%")) / 100 for name in found["coverage"]]
    right.plot([0, 1], [0, 1], "--", color="black", linewidth=0.8)
    right.plot(levels, list(found["coverage"].values()), "o-", color=COLORS[0], ms=3)
    right.set(xlabel="level of the draws' interval")
    right.set_title("share of the unseen pixels in the interval", fontsize=TITLE_SIZE)
    save_figure(figure, file)


def plot_comparison(
    file: Path, rows: list[dict[str, Any]], methods: dict[str, dict[str, Any]]
) -> None:
    """Quality of single samples over network calls, and the speed, per sampler."""
    figure, (axes,) = new_figure(3, size=3.4)
    names = list(dict.fromkeys(row["sampler"] for row in rows))
    for color, name in zip(COLORS * len(names), names, strict=False):
        own = [row for row in rows if row["sampler"] == name]
        calls = [row["network_calls"] for row in own]
        for place, value in zip(axes, ("psnr_unseen", "frechet", "images_per_second"), strict=True):
            if own[0][value] is not None:
                place.plot(
                    calls, [r[value] for r in own], color=color, marker="o", ms=3, label=name
                )
    for name, style in (("linear", "--"), ("sample_mean", ":")):
        value = methods[name]["psnr_unseen"]
        label = name.replace("_", " ")
        axes[0].axhline(value, color="black", linestyle=style, linewidth=0.8, label=label)
    titles = ("PSNR of unseen pixels [dB]", "Frechet distance", "images per second")
    for place, title in zip(axes, titles, strict=True):
        log_scale(place.xaxis)
        place.set(xlabel="network calls")
        place.set_title(title, fontsize=TITLE_SIZE)
    axes[0].legend(frameon=False, fontsize=7)
    save_figure(figure, file)


def plot_losses(file: Path, curves: dict[str, list[dict[str, Any]]]) -> None:
    """Training losses over epochs, and the quality of the panels on the way.

    Args:
        file: to write.
        curves: rows of metrics by the network's name.
    """
    figure, ((left, right),) = new_figure(2, size=3.4)
    for color, (name, rows) in zip(COLORS, curves.items(), strict=False):
        for axes, value in ((left, "loss"), (right, "panel_psnr_unseen")):
            points = np.array([(row["epoch"], row[value]) for row in rows if value in row])
            if len(points):
                axes.plot(*points.T, color=color, marker="o", ms=3, label=name)
    for axes, title in ((left, "training loss"), (right, "PSNR of unseen pixels, one sample [dB]")):
        axes.set(xlabel="epoch")
        axes.set_title(title, fontsize=TITLE_SIZE)
    left.legend(frameon=False, fontsize=7)
    save_figure(figure, file)
