"""Figures of the JKOnet* runs. Every function writes one file and touches no global state."""

import dataclasses
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes

from experiments.run.figures import new_figure, save_figure
from jkonet_star.dynamics import scheme_time
from jkonet_star.evaluation import KnownEnergy
from jkonet_star.fitted import FittedEnergy
from jkonet_star.snapshots import Snapshots
from jkonet_star.two_samples import systematic_counts

GRID = 120
LEVELS = 22
MOST_DRAWN = 1500
OBSERVED = "#9aa0a6"
PREDICTED = "#c2410c"


class Plane:
    """A grid in the first two coordinates, the others at the population's mean."""

    def __init__(self, snapshots: Snapshots):
        particles = np.concatenate(snapshots.arrays())
        low, high = np.quantile(particles, 0.002, axis=0), np.quantile(particles, 0.998, axis=0)
        margin = 0.05 * (high - low)
        self.low, self.high = (low - margin)[:2], (high + margin)[:2]
        self.axes = [np.linspace(a, b, GRID) for a, b in zip(self.low, self.high, strict=True)]
        mesh = np.meshgrid(*self.axes, indexing="xy")
        points = np.tile(particles.mean(axis=0), (GRID * GRID, 1))
        points[:, :2] = np.stack([m.ravel() for m in mesh], axis=-1)
        self.points = points  # in double precision, for populations far from zero

    def contours(
        self, axes: Axes, values: Any, *, reference: Any = None, filled: bool = True
    ) -> None:
        """Level curves of values at `points` above their minimum, at the levels of a reference."""
        table = np.asarray(values, np.float64).reshape(GRID, GRID)
        table = table - table.min()
        levels = _levels(table)
        if reference is not None and levels is not None:
            # A constant has no levels to compare with.
            common = _levels(np.asarray(reference, np.float64))
            levels = levels if common is None else common
        if levels is None:
            word = "constant" if np.isfinite(table).all() else "not finite"
            axes.text(0.5, 0.5, word, transform=axes.transAxes, ha="center", va="center")
        elif filled:
            axes.contourf(
                *self.axes, table, levels=levels, cmap="viridis", alpha=0.9, extend="both"
            )
        else:
            axes.contour(*self.axes, table, levels=levels, cmap="viridis", linewidths=0.8)
        self.frame(axes)

    def frame(self, axes: Axes) -> None:
        """Limits and labels of the plane."""
        axes.set_xlim(self.low[0], self.high[0])
        axes.set_ylim(self.low[1], self.high[1])
        axes.set_xlabel("$x_1$")
        axes.set_ylabel("$x_2$")


def _levels(values: np.ndarray) -> np.ndarray | None:
    """Levels of values above their minimum; None where there is nothing to see."""
    if not np.isfinite(values).all():
        return None
    # Levels at quantiles show the structure of an energy that grows like a power.
    levels = np.unique(np.quantile(values - values.min(), np.linspace(0, 1, LEVELS)))
    return None if len(levels) < 3 or levels[-1] < 1e-6 else levels


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


def plot_potential(
    file: Path, energy: FittedEnergy, truth: KnownEnergy | None, snapshots: Snapshots
) -> None:
    """Level curves of the learned potential beside the true one, on common axes.

    Learned level curves over the true ones would hide the difference outside the data: the dots are
    where there were particles to learn from.
    """
    particles = _drawn(np.concatenate(snapshots.arrays()))
    varying = bool(getattr(energy.model, "time_varying", False))
    if snapshots.dimension == 1:
        steps = _step_times(energy, snapshots)
        _plot_potential_line(file, energy, truth, particles, steps if varying else steps[:1])
        return
    plane = Plane(snapshots)
    if varying:
        steps = _step_times(energy, snapshots)
        figure, grid = new_figure(len(steps))
        for axes, t, points in zip(grid[0], steps, snapshots.arrays()[:-1], strict=True):
            plane.contours(axes, energy.potential(plane.points, t))
            axes.scatter(*_drawn(points)[:, :2].T, s=1.5, color="white", alpha=0.5, linewidths=0)
            axes.set_title(f"learned V(x, t = {t:.3g})", fontsize=9)
        save_figure(figure, file)
        return
    known = truth is not None
    figure, grid = new_figure(2 if known else 1)
    panels = [("learned V", energy.potential(plane.points))]
    if truth is not None:
        true = truth.potential
        values = (
            jnp.zeros(len(plane.points))
            if true is None
            else jax.jit(jax.vmap(true))(jnp.asarray(plane.points, jnp.float32))
        )
        panels.append(("true V", values))
    for axes, (title, values) in zip(grid[0], panels, strict=True):
        plane.contours(axes, values, reference=panels[-1][1])
        axes.scatter(*particles[:, :2].T, s=1, color="white", alpha=0.35, linewidths=0)
        axes.set_title(title, fontsize=10)
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
        values = np.asarray(jax.jit(jax.vmap(truth.potential))(jnp.asarray(x)))
        axes.plot(x[:, 0], values - values.min(), "--", color="black", label="true V")
    axes.legend(fontsize=8)
    axes.set_xlabel("$x_1$")
    save_figure(figure, file)


def plot_interaction(
    file: Path, energy: FittedEnergy, truth: KnownEnergy | None, snapshots: Snapshots
) -> None:
    """Level curves of the learned interaction energy of a difference z, beside the true one."""
    particles = np.concatenate(snapshots.arrays())
    spread = 2.0 * particles.std(axis=0)[: min(2, snapshots.dimension)]
    if snapshots.dimension == 1:
        line = jnp.linspace(-spread[0], spread[0], 400)[:, None]
        figure, grid = new_figure(1, size=4.2)
        axes = grid[0, 0]
        axes.plot(line[:, 0], energy.interaction(line), label="learned U")
        if truth is not None and truth.interaction is not None:
            axes.plot(line[:, 0], jax.vmap(truth.interaction)(line), "--", label="true U")
        axes.set_xlabel("$z_1$")
        axes.legend(fontsize=8)
        save_figure(figure, file)
        return
    corners = np.zeros((2, snapshots.dimension), np.float32)
    corners[0, :2], corners[1, :2] = -spread, spread
    plane = Plane(
        dataclasses.replace(snapshots, points=jnp.asarray(corners)[None], weights=jnp.ones((1, 2)))
    )
    panels = [("learned U", energy.interaction(plane.points))]
    if truth is not None:
        true = truth.interaction
        values = (
            jnp.zeros(len(plane.points))
            if true is None
            else jax.jit(jax.vmap(true))(jnp.asarray(plane.points, jnp.float32))
        )
        panels.append(("true U", values))
    figure, grid = new_figure(len(panels))
    for axes, (title, values) in zip(grid[0], panels, strict=True):
        plane.contours(axes, values, reference=panels[-1][1])
        axes.set_xlabel("$z_1$")
        axes.set_ylabel("$z_2$")
        axes.set_title(title, fontsize=10)
    save_figure(figure, file)


def plot_predictions(
    file: Path,
    energy: FittedEnergy,
    snapshots: Snapshots,
    one_step: np.ndarray,
    weights: np.ndarray | None = None,
) -> None:
    """Each observed snapshot under the one predicted from its predecessor, with the potential.

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
    figure, grid = new_figure(len(one_step))
    plane = Plane(snapshots) if snapshots.dimension > 1 else None
    for k, axes in enumerate(grid[0]):
        observed = _drawn(snapshots.arrays()[k + 1])
        predicted = _drawn(_in_proportion(one_step[k], weights[k]) + origin)
        if plane is None:
            both = np.concatenate([observed, predicted])
            edges = np.linspace(both.min(), both.max(), 40)
            axes.hist(observed[:, 0], edges, density=True, color=OBSERVED, label="observed")
            if len(predicted):
                axes.hist(
                    predicted[:, 0],
                    edges,
                    density=True,
                    histtype="step",
                    color=PREDICTED,
                    label="predicted",
                )
            axes.set_xlabel("$x_1$")
        else:
            if energy.model.has_potential:
                plane.contours(axes, energy.potential(plane.points, steps[k]), filled=False)
            axes.scatter(*observed[:, :2].T, s=4, color=OBSERVED, linewidths=0, label="observed")
            axes.scatter(
                *predicted[:, :2].T,
                s=4,
                color=PREDICTED,
                alpha=0.55,
                linewidths=0,
                label="predicted",
            )
            plane.frame(axes)
        axes.set_title(f"t = {times[k + 1]:.3g}", fontsize=10)
    grid[0, 0].legend(fontsize=7, markerscale=2, loc="upper right")
    save_figure(figure, file)


def plot_training(file: Path, rows: list[dict[str, Any]]) -> None:
    """Loss per epoch and distance per evaluation, one line per seed."""
    figure, grid = new_figure(2, size=3.8)
    for axes, name, title in (
        (grid[0, 0], "loss", "loss (mean squared residual, in units of the displacement)"),
        (grid[0, 1], "emd_one_step_ahead", "one-step-ahead EMD on held-out particles"),
    ):
        chosen = [row for row in rows if name in row]
        values = np.asarray([row[name] for row in chosen], np.float64)
        epochs = [row["epoch"] for row in chosen]
        for s in range(values.shape[1] if values.ndim == 2 else 0):
            axes.plot(epochs, values[:, s], linewidth=0.9, marker="." if len(epochs) < 30 else "")
        if values.size and (values > 0).all():
            axes.set_yscale("log")
        axes.set_xlabel("epoch")
        axes.set_title(title, fontsize=8)
    save_figure(figure, file)
