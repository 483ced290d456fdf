"""The figure of a predicted law: where the particles are, and how each coordinate is distributed."""

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from data_generation.scripts.figures import (
    LABEL_SIZE,
    OBSERVED,
    PREDICTED,
    TITLE_SIZE,
    coordinate,
    empty_figure,
    in_style,
    save_figure,
)
from diffusions.typing import HostArray
from jkonet_star.snapshots import Snapshots
from jkonet_star.two_samples import systematic_counts

MOST_STEPS = 4
MOST_MARGINALS = 3
MOST_DRAWN = 1500
BINS = 36
TICKS = 5
"""Most intervals of an axis."""
SIZE = 2.5
"""Inches of a panel."""
FAR = 1.0
"""Of the observed range: a prediction further outside is counted, not drawn."""


class _Cloud(NamedTuple):
    """Particles on the axes of the figure, with weights of sum 1."""

    points: HostArray  # [n, d]
    weights: HostArray  # [n]


def plot_law(
    file: Path,
    snapshots: Snapshots,
    one_step: HostArray,
    law: dict[str, Any] | None = None,
    weights: HostArray | None = None,
) -> None:
    """Observed and predicted particles of at most four steps, and their marginals.

    From three dimensions on the axes are the principal components of all observed particles.

    Args:
        file: where to.
        snapshots: the observed ones.
        one_step: (t, n, d) predictions of snapshots 1, 2, ..., relative to the origin.
        law: of these predictions, as `jkonet_star.law.Law.as_dict` has it, for the titles.
        weights: (t, n) of the predictions; those of the snapshots where absent.
    """
    n_steps, d = snapshots.n_steps, snapshots.dimension
    steps = np.unique(np.linspace(0, n_steps - 1, min(n_steps, MOST_STEPS)).round().astype(int))
    axis, names = _axes(snapshots)
    weights = np.asarray(snapshots.weights if weights is None else weights, np.float64)
    origin = 0.0 if snapshots.origin is None else np.asarray(snapshots.origin, np.float64)
    observed = [
        _Cloud(axis(x), np.asarray(w, np.float64) / np.sum(w, dtype=np.float64))
        for x, w in zip(snapshots.arrays(), snapshots.array_weights(), strict=True)
    ]
    every = np.concatenate([cloud.points for cloud in observed])
    low, high = every.min(axis=0), every.max(axis=0)
    wide = np.where(high > low, high - low, 1.0)
    predicted, beyond = [], []
    for k in steps:
        there = weights[k] > 0
        points, mass = axis(np.float64(one_step[k][there]) + origin), weights[k][there]
        near = ((points > low - FAR * wide) & (points < high + FAR * wide)).all(axis=1)
        beyond.append(int(np.count_nonzero(~near)))
        predicted.append(_Cloud(points[near], mass[near] / (mass[near].sum() or 1.0)))
    shown = np.concatenate([every, *(cloud.points for cloud in predicted)])
    low, high = shown.min(axis=0), shown.max(axis=0)
    margin = 0.04 * np.where(high > low, high - low, 1.0)
    low, high = low - margin, high + margin

    columns = min(d, MOST_MARGINALS) + (d > 1)
    width = max(SIZE * columns, 4.6)
    figure = empty_figure(width, (SIZE + 0.25) * len(steps) + 0.4)
    rows = figure.subfigures(len(steps), 1, squeeze=False)[:, 0]
    for row, k, cloud, lost in zip(rows, steps.tolist(), predicted, beyond, strict=True):
        row.suptitle(_title(snapshots, k, lost, law), x=0.01, ha="left", fontsize=TITLE_SIZE)
        panels = row.subplots(1, columns, squeeze=False)[0]
        target = observed[k + 1]
        if d > 1:
            _scatter(panels[0], target, cloud)
            middle, half = 0.5 * (low + high)[:2], 0.5 * (high - low)[:2].max()
            panels[0].set_xlim(middle[0] - half, middle[0] + half)
            panels[0].set_ylim(middle[1] - half, middle[1] + half)
            panels[0].set_aspect("equal")
            panels[0].locator_params(nbins=TICKS)
            panels[0].set_xlabel(names[0])
            panels[0].set_ylabel(names[1])
        for j, panel in enumerate(panels[d > 1 :]):
            _marginal(panel, j, target, cloud, np.linspace(low[j], high[j], BINS + 1))
            panel.set_xlabel(names[j])
        in_style(panels)
    handles = [
        Line2D([], [], color=colour, marker="o", markersize=4, linewidth=1.3, label=label)
        for colour, label in ((OBSERVED, "observed"), (PREDICTED, "predicted, one step ahead"))
    ]
    figure.legend(
        handles=handles, loc="outside upper right", ncols=2, fontsize=LABEL_SIZE, frameon=False
    )
    save_figure(figure, file)


def _axes(snapshots: Snapshots) -> tuple[Any, list[str]]:
    """From points to the axes of the figure, and their names."""
    d = snapshots.dimension
    if d < MOST_MARGINALS:
        return (lambda x: x), [coordinate(j) for j in range(d)]
    every = np.concatenate([np.float64(x) for x in snapshots.arrays()])
    center = every.mean(axis=0)
    variances, basis = np.linalg.eigh(np.cov((every - center).T))
    basis, shares = basis[:, ::-1], variances[::-1] / (variances.sum() or 1.0)
    # A component's sign is free: the largest entry is positive.
    basis = basis * np.sign(basis[np.abs(basis).argmax(axis=0), np.arange(d)])
    basis = basis[:, :MOST_MARGINALS]
    names = [f"component {j + 1} ({100 * shares[j]:.0f} %)" for j in range(MOST_MARGINALS)]
    return (lambda x: (x - center) @ basis), names


def _title(snapshots: Snapshots, k: int, beyond: int, law: dict[str, Any] | None) -> str:
    """Of a step: when, its scores, and what is not drawn."""
    times = snapshots.time_values()
    words = [f"t = {times[k]:.3g} to {times[k + 1]:.3g}"]
    if law is not None and len(law["w1"]["per_seed"]) == 1:
        for name, label in (
            ("energy_distance", "energy distance"),
            ("c2st", "C2ST"),
            ("variance_ratio", "variance ratio"),
        ):
            value = law[name]["per_step"][k]
            words += [] if value is None else [f"{label} {value:.2g}"]
    if beyond:
        words.append(f"{beyond:,} predictions beyond the figure")
    return "     ".join(words)


def _scatter(axes: Axes, observed: _Cloud, predicted: _Cloud) -> None:
    """As many of both, in an order by chance: neither hides the other."""
    rng = np.random.default_rng(0)
    size = min(len(observed.points), len(predicted.points), MOST_DRAWN)
    if not size:
        return
    drawn = [
        np.repeat(points[:, :2], systematic_counts(weights, size, rng), axis=0)
        for points, weights in (observed, predicted)
    ]
    order = rng.permutation(2 * size)
    colours = np.repeat([OBSERVED, PREDICTED], size)
    x, y = np.concatenate(drawn)[order].T
    axes.scatter(x, y, s=5, c=colours[order].tolist(), alpha=0.4, linewidths=0)


def _marginal(axes: Axes, j: int, observed: _Cloud, predicted: _Cloud, edges: HostArray) -> None:
    """The density of one coordinate."""
    for (points, weights), colour in ((observed, OBSERVED), (predicted, PREDICTED)):
        if len(points):
            density, _ = np.histogram(points[:, j], edges, weights=weights, density=True)
            # From zero to zero; `stairs` measures its path segment by segment.
            x, height = np.append(edges[0], edges), np.concatenate([[0.0], density, [0.0]])
            if colour == OBSERVED:
                axes.fill_between(x, height, step="post", color=colour, alpha=0.15, linewidth=0)
            axes.plot(x, height, drawstyle="steps-post", color=colour, linewidth=1.3)
    axes.set_xlim(edges[0], edges[-1])
    axes.locator_params("x", nbins=TICKS)
    axes.set_ylim(bottom=0)
    axes.set_yticks([])
    axes.set_ylabel("density")
