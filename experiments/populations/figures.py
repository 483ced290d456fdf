"""Figures of the JKOnet* runs. Every function writes one file and touches no global state."""

import dataclasses
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib import colormaps

from data_generation.scripts.figures import (
    FAINT,
    OBSERVED,
    PREDICTED,
    TITLE_SIZE,
    TRUTH,
    coordinate,
    log_scale,
    new_figure,
    save_figure,
)
from experiments.populations.plane import Plane
from jkonet_star.dynamics import scheme_time
from jkonet_star.evaluation import KnownEnergy
from jkonet_star.fitted import FittedEnergy
from jkonet_star.snapshots import Snapshots
from jkonet_star.two_samples import systematic_counts

MOST_DRAWN = 1500
MOST_STEPS = 6
COLUMNS = 3
ENERGY_UNIT = "[length² / time]"


def _drawn(points: np.ndarray) -> np.ndarray:
    """The points, or so many of them that the figure stays legible; a diverged one is left out."""
    points = points[np.isfinite(points).all(axis=1)]
    if len(points) <= MOST_DRAWN:
        return points
    return points[np.random.default_rng(0).choice(len(points), MOST_DRAWN, replace=False)]


def _in_proportion(points: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """The particles that are there, or as many in proportion to their weights, where those differ."""
    there = np.flatnonzero(weights > 0)
    if np.ptp(weights[there]) <= 1e-5 * weights[there].max():
        return points[there]
    counts = systematic_counts(weights[there], len(there), np.random.default_rng(0))
    return np.repeat(points[there], counts, axis=0)


def _step_times(energy: FittedEnergy, snapshots: Snapshots) -> list[float]:
    """Where the scheme evaluates each step: at other times a varying potential learned nothing."""
    times = snapshots.time_values()
    return scheme_time(energy.scheme, times[:-1], np.diff(times)).tolist()


def _some(n_steps: int) -> list[int]:
    """All steps, or so many of them, evenly, that the figure stays legible."""
    return (
        np.unique(np.linspace(0, n_steps - 1, min(n_steps, MOST_STEPS)).round())
        .astype(int)
        .tolist()
    )


def plot_potential(
    file: Path, energy: FittedEnergy, truth: KnownEnergy | None, snapshots: Snapshots
) -> None:
    """The learned potential, the true one in the same colours, and their difference.

    The dots are where there were particles to learn from: outside, nothing says what the potential is.
    One that varies in time has a panel per step.
    """
    particles = _drawn(np.concatenate(snapshots.arrays()))
    varying = bool(getattr(energy.model, "time_varying", False))
    steps = _step_times(energy, snapshots)
    if snapshots.dimension == 1:
        _plot_potential_line(file, energy, truth, particles, steps if varying else steps[:1])
        return
    plane = Plane(snapshots)
    if varying:
        chosen = _some(len(steps))
        figure, grid = new_figure(len(chosen))
        values = [energy.potential(plane.points, steps[k]) for k in chosen]
        plane.draw_energies(list(grid[0]), values, f"V − min V {ENERGY_UNIT}")
        for axes, k in zip(grid[0], chosen, strict=True):
            points = _drawn(snapshots.arrays()[k])
            axes.scatter(*points[:, :2].T, s=1.5, color="white", alpha=0.5, linewidths=0)
            axes.set_title(f"learned V, t = {steps[k]:.3g}", fontsize=TITLE_SIZE)
        save_figure(figure, file)
        return
    learned = energy.potential(plane.points)
    true = None if truth is None else _values(truth.potential, plane.points)
    _plot_plane(file, plane, "V", learned, true, particles, dots=True)


def _values(function: Any, points: np.ndarray) -> np.ndarray:
    """Of a known energy, which is zero where it is None."""
    if function is None:
        return np.zeros(len(points))
    return np.asarray(jax.jit(jax.vmap(function))(jnp.asarray(points, jnp.float32)))


def _plot_plane(
    file: Path,
    plane: Plane,
    name: str,
    learned: Any,
    true: Any,
    where: np.ndarray,
    *,
    dots: bool = False,
) -> None:
    figure, grid = new_figure(1 if true is None else 3)
    panels = {f"learned {name}": learned} | ({} if true is None else {f"true {name}": true})
    every = list(grid[0, : len(panels)])
    label = f"{name} − min {name} {ENERGY_UNIT}"
    plane.draw_energies(every, list(panels.values()), label, reference=true)
    for axes, title in zip(every, panels, strict=True):
        axes.set_title(title, fontsize=TITLE_SIZE)
        if dots:
            axes.scatter(*where[:, :2].T, s=1, color="white", alpha=0.35, linewidths=0)
    if true is not None:
        label = f"difference {ENERGY_UNIT}"
        plane.draw_difference(grid[0, 2], learned, true, where[:, :2], label)
        grid[0, 2].set_title(f"learned {name} less true {name}", fontsize=TITLE_SIZE)
        if dots:
            grid[0, 2].scatter(*where[:, :2].T, s=1, color=TRUTH, alpha=0.35, linewidths=0)
    save_figure(figure, file)


def _plot_potential_line(
    file: Path,
    energy: FittedEnergy,
    truth: KnownEnergy | None,
    particles: np.ndarray,
    times: list[float],
) -> None:
    figure, grid = new_figure(1, size=4.2)
    axes = grid[0, 0]
    x = np.linspace(particles.min(), particles.max(), 400, dtype=np.float32)[:, None]
    shades = colormaps["viridis"](np.linspace(0, 0.9, len(times)))
    for t, shade in zip(times, shades, strict=True):
        values = np.asarray(energy.potential(jnp.asarray(x), t))
        label = "learned V" if len(times) == 1 else f"learned V, t = {t:.3g}"
        axes.plot(x[:, 0], values - values.min(), color=shade, label=label)
    if truth is not None and truth.potential is not None:
        values = _values(truth.potential, x)
        axes.plot(x[:, 0], values - values.min(), "--", color=TRUTH, label="true V")
    # Where there were particles to learn from.
    axes.plot(particles[:, 0], np.zeros(len(particles)), "|", color=FAINT, ms=5, alpha=0.2)
    axes.legend(fontsize=7, frameon=False)
    axes.set_xlabel(coordinate(0))
    axes.set_ylabel(f"V − min V {ENERGY_UNIT}")
    save_figure(figure, file)


def plot_interaction(
    file: Path, energy: FittedEnergy, truth: KnownEnergy | None, snapshots: Snapshots
) -> None:
    """The learned interaction energy of a difference z, the true one, and their difference."""
    particles = np.concatenate(snapshots.arrays())
    spread = 2.0 * particles.std(axis=0)[: min(2, snapshots.dimension)]
    if snapshots.dimension == 1:
        line = jnp.linspace(-spread[0], spread[0], 400)[:, None]
        figure, grid = new_figure(1, size=4.2)
        axes = grid[0, 0]
        axes.plot(line[:, 0], energy.interaction(line), color=PREDICTED, label="learned U")
        if truth is not None and truth.interaction is not None:
            values = _values(truth.interaction, np.asarray(line))
            axes.plot(line[:, 0], values, "--", color=TRUTH, label="true U")
        axes.set_xlabel(coordinate(0, "z"))
        axes.set_ylabel(f"U {ENERGY_UNIT}")
        axes.legend(fontsize=7, frameon=False)
        save_figure(figure, file)
        return
    corners = np.zeros((2, snapshots.dimension), np.float32)
    corners[0, :2], corners[1, :2] = -spread, spread
    plane = Plane(
        dataclasses.replace(snapshots, points=jnp.asarray(corners)[None], weights=jnp.ones((1, 2))),
        letter="z",
    )
    true = None if truth is None else _values(truth.interaction, plane.points)
    drawn = _drawn(particles)
    differences = drawn - np.random.default_rng(0).permutation(drawn)
    learned = energy.interaction(plane.points)
    _plot_plane(file, plane, "U", learned, true, differences)


def plot_predictions(
    file: Path,
    energy: FittedEnergy,
    snapshots: Snapshots,
    one_step: np.ndarray,
    weights: np.ndarray | None = None,
) -> None:
    """Observed snapshots under those predicted from their predecessors, with the potential.

    Six steps at most, evenly.

    Args:
        file: where to.
        energy: whose potential is drawn.
        snapshots: the observed ones.
        one_step: (t, n, d) predictions of snapshots 1, 2, ..., relative to the origin.
        weights: (t, n) of the predictions; those of the snapshots where absent. Particles whose
            weights differ are drawn in proportion to them.
    """
    weights = np.asarray(snapshots.weights if weights is None else weights)
    origin = 0.0 if snapshots.origin is None else np.asarray(snapshots.origin, np.float64)
    times = snapshots.time_values().tolist()
    steps = _step_times(energy, snapshots)
    chosen = _some(len(one_step))
    columns = min(COLUMNS, len(chosen))
    figure, grid = new_figure(columns, -(-len(chosen) // columns), size=3.0)
    plane = Plane(snapshots) if snapshots.dimension > 1 else None
    for k, axes in zip(chosen, grid.ravel(), strict=False):
        observed = _drawn(snapshots.arrays()[k + 1])
        predicted = _drawn(_in_proportion(one_step[k], weights[k]) + origin)
        clouds = ((observed, OBSERVED, "observed"), (predicted, PREDICTED, "predicted"))
        if plane is None:
            both = np.concatenate([observed, predicted])
            edges = np.linspace(both.min(), both.max(), 40)
            for points, colour, label in clouds:
                if len(points):
                    density, _ = np.histogram(points[:, 0], edges, density=True)
                    fill = colour == OBSERVED
                    axes.stairs(
                        density, edges, color=colour, fill=fill, alpha=0.25 if fill else 1.0
                    )
                    axes.plot([], [], color=colour, label=label)
            axes.set_xlabel(coordinate(0))
            axes.set_ylabel("density")
        else:
            if energy.model.has_potential:
                plane.draw_lines(axes, energy.potential(plane.points, steps[k]))
            for points, colour, label in clouds:
                x, y = points[:, :2].T
                axes.scatter(x, y, s=4, color=colour, alpha=0.5, linewidths=0, label=label)
            plane.frame(axes)
        axes.set_title(f"t = {times[k + 1]:.3g}", fontsize=TITLE_SIZE)
    for axes in grid.ravel()[len(chosen) :]:
        axes.set_axis_off()
    handles, labels = grid[0, 0].get_legend_handles_labels()
    legend = figure.legend(
        handles, labels, loc="outside upper right", ncols=2, markerscale=2.5, fontsize=8,
        frameon=False,
    )  # fmt: skip
    for handle in legend.legend_handles:
        if handle is not None:
            handle.set_alpha(1.0)
    save_figure(figure, file)


def plot_training(file: Path, rows: list[dict[str, Any]]) -> None:
    """Loss per epoch and distance per evaluation, one line per seed."""
    figure, grid = new_figure(2, size=3.6)
    for axes, name, title in (
        (grid[0, 0], "loss", "loss: mean squared residual\n[in units of the displacement]"),
        (grid[0, 1], "emd_one_step_ahead", "EMD one step ahead,\nheld-out particles [length]"),
    ):
        chosen = [row for row in rows if name in row]
        values = np.asarray([row[name] for row in chosen], np.float64)
        epochs = [row["epoch"] for row in chosen]
        n_seeds = values.shape[1] if values.ndim == 2 else 0
        for s, shade in enumerate(
            colormaps["viridis"](np.linspace(0.2, 0.85, max(n_seeds, 1)))[:n_seeds]
        ):
            marker = "." if len(epochs) < 30 else ""
            axes.plot(epochs, values[:, s], color=shade, linewidth=0.9, marker=marker)
        if values.size and (values > 0).all():
            log_scale(axes.yaxis)
        axes.set_xlabel("epoch")
        axes.set_title(title, fontsize=TITLE_SIZE)
    save_figure(figure, file)
