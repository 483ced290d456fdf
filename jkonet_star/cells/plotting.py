"""Pictures of what a learned energy says of cells: `cells.pl`.

Each draws what a function of `cells.tl` has written, on an embedding of `obsm`, and returns the axes.
Nothing is shown or saved: `ax.figure.savefig("fates.png")` does.
"""

from typing import Any

import jax
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import TwoSlopeNorm

from diffusions.keys import named_key
from jkonet_star.cells.chain import futures, nearest_cells
from jkonet_star.cells.conditions import effect_column
from jkonet_star.cells.model import KEY, CellEnergy, kept, snapshots_of
from jkonet_star.cells.representation import embedding

PANEL, BESIDE = 3.6, 1.25
"""Inches of a panel's height, and of the letters and the colours beside it."""
SHAPES = (0.6, 1.8)
"""Width over height of the narrowest and the widest panel."""
GRID, NEAR = 30, 30
"""Points of a side of the grid of arrows, and cells that are averaged at each."""
SEEN = "#0b6e8f"
PREDICTED = "#d1495b"
METHOD_COLOURS = (SEEN, PREDICTED, "#8a8f98")
_MOST_POINTS = 4000


def landscape(adata: Any, *, basis: str = "umap", key: str = KEY, ax: Axes | None = None) -> Axes:
    """The potential of every cell.

    Raises:
        ValueError: `cells.tl.potential` was not asked, or there is no such embedding.
    """
    values = _entry(adata.obs, f"{key}_potential", "obs", "potential")
    ax = _axes(ax, _embedding(adata, basis))
    unit = _unit(adata, key)
    name = f"potential (1 / {unit})" if unit else "potential"
    _coloured(ax, adata, basis, np.asarray(values), name)
    return ax


def growth(adata: Any, *, basis: str = "umap", key: str = KEY, ax: Axes | None = None) -> Axes:
    """The rate at which every cell multiplies or dies.

    Raises:
        ValueError: `cells.tl.growth` was not asked, or there is no such embedding.
    """
    values = np.asarray(_entry(adata.obs, f"{key}_growth", "obs", "growth"))
    unit = _unit(adata, key)
    most = float(np.abs(values).max()) or 1.0
    ax = _axes(ax, _embedding(adata, basis))
    name = f"growth (1 / {unit})" if unit else "growth"
    norm = TwoSlopeNorm(0.0, -most, most)
    _coloured(ax, adata, basis, values, name, cmap="RdBu_r", norm=norm)
    return ax


def fates(adata: Any, *, basis: str = "umap", key: str = KEY) -> list[Axes]:
    """The share of every cell's descendants that end in each group, a panel each.

    Raises:
        ValueError: `cells.tl.fates` was not asked, or there is no such embedding.
    """
    shares = np.asarray(_entry(adata.obsm, f"{key}_fates", "obsm", "fates"))
    names = list(adata.uns[key]["fates"])
    axes = _row(len(names), _embedding(adata, basis))
    for ax, share, name in zip(axes, shares.T, names, strict=True):
        _coloured(ax, adata, basis, share, "share of descendants", vmin=0.0, vmax=1.0)
        ax.set_title(str(name))
    return axes


def conditions(adata: Any, *, basis: str = "umap", key: str = KEY) -> list[Axes]:
    """How far every condition's drift is from the reference's at every cell, a panel each.

    The title has the p-value by Holm: a difference of which it is large is what chance makes.

    Raises:
        ValueError: `cells.tl.conditions` was not asked, or there is no such embedding.
    """
    about = _entry(adata.uns.get(key, {}), "conditions", f"uns[{key!r}]", "conditions")
    names, pvalues = [str(name) for name in about["names"]], np.asarray(about["pvalue_holm"])
    shown = [np.asarray(adata.obs[effect_column(key, name)]) for name in names]
    most, unit = max(float(values.max()) for values in shown), _unit(adata, key)
    label = f"difference of the drift{f' (1 / {unit})' if unit else ''}"
    axes = _row(len(names), _embedding(adata, basis))
    for ax, values, name, pvalue in zip(axes, shown, names, pvalues, strict=True):
        _coloured(ax, adata, basis, values, label, vmin=0.0, vmax=most)
        title = f"{name} against {about['reference']}, p = {pvalue:.2g}"
        ax.set_title(title, fontsize="small", wrap=True)
    return axes


def clones(adata: Any, *, key: str = KEY, ax: Axes | None = None) -> Axes:
    """Correlation of predicted fates with those of clones, by time, with deviations.

    Raises:
        ValueError: `cells.tl.clones` was not asked.
    """
    about = _entry(adata.uns.get(key, {}), "clones", f"uns[{key!r}]", "clones")
    unit, times = _unit(adata, key), np.asarray(about["times"])
    ax = _axes(ax)
    for i, (method, colour) in enumerate(zip(about["methods"], METHOD_COLOURS, strict=True)):
        ax.errorbar(
            np.arange(len(times)) + 0.12 * (i - 1),
            about["correlation_by_time"][i],
            about["correlation_by_time_sd"][i],
            fmt="o",
            capsize=3,
            color=colour,
            label=str(method).replace("_", " "),
        )
    ax.axhline(0.0, color="#9aa0a6", linewidth=0.8)
    counts = np.asarray(about["n_clones_by_time"])
    ax.set_xticks(
        np.arange(len(times)),
        [f"{t:g}\n{n} clones" for t, n in zip(times, counts, strict=True)],
    )
    ax.set(xlabel=f"time of the cells{f' ({unit})' if unit else ''}")
    ax.set(ylabel="correlation with fates of clones")
    ax.legend(frameon=False)
    return ax


def velocity(adata: Any, *, basis: str = "umap", key: str = KEY, ax: Axes | None = None) -> Axes:
    """The mean direction of the cells on an embedding, as stream lines.

    Raises:
        ValueError: `cells.tl.velocity(adata, basis=...)` was not asked, or there is no such embedding.
    """
    own = f"{key}_{basis.removeprefix('X_')}"
    arrows = np.asarray(_entry(adata.obsm, own, "obsm", f"velocity(adata, basis={basis!r})"))
    shown = _embedding(adata, basis)
    ax = _axes(ax, shown)
    ax.scatter(shown[:, 0], shown[:, 1], s=4, c="#c8ccd0", linewidths=0, rasterized=True)
    sides = [np.linspace(side.min(), side.max(), GRID) for side in shown.T]
    grid = np.stack(np.meshgrid(*sides), axis=-1)
    index, square = nearest_cells(shown, grid.reshape(-1, 2), NEAR)
    mean = arrows[index].mean(axis=1).reshape(grid.shape)
    # Where no cell is nobody moves.
    apart = np.sqrt(np.median(nearest_cells(shown, shown, NEAR)[1][:, -1]))
    mean[(np.sqrt(square[:, NEAR // 4]) > 2 * apart).reshape(GRID, GRID)] = np.nan
    ax.streamplot(
        sides[0], sides[1], mean[..., 0], mean[..., 1], color="#1d2b3a", linewidth=0.9, density=1.3
    )
    _tidy(ax, basis)
    return ax


def law(adata: Any, *, model: CellEnergy | None = None, key: str = KEY) -> list[Axes]:
    """Cells of each time and those predicted from the time before, in the first two coordinates.

    The cells are those that the energy was learned from, where no others are given: a misfit is shown,
    and not how well new cells are predicted.

    Raises:
        ValueError: no energy is kept, or entries that it needs are missing.
    """
    model = kept(adata, key) if model is None else model
    points, cells = model.coordinates(adata), snapshots_of(adata, model)
    if points.shape[1] < 2:
        raise ValueError("a law is drawn in two coordinates, and the energy takes one")
    whole = np.concatenate([points[some, :2] for some in cells])
    times, axes = model.energy.time_values(), _row(len(cells) - 1, whole)
    draws = named_key(jax.random.key(0), "law")
    for k, ax in enumerate(axes):
        own = jax.random.fold_in(draws, k)
        (moved,), grown = futures(model.energy, points[cells[k]], k, 1, own)
        if model.energy.growth_rate is not None:  # as many as there are then
            chance = np.random.default_rng(k).choice(len(moved), len(moved), p=grown / grown.sum())
            moved = moved[chance]
        seen = points[cells[k + 1]]
        for some, colour, name in ((seen, SEEN, "observed"), (moved, PREDICTED, "predicted")):
            if len(some) > _MOST_POINTS:
                some = np.random.default_rng(k).permutation(some)[:_MOST_POINTS]
            ax.scatter(some[:, 0], some[:, 1], s=5, c=colour, alpha=0.5, linewidths=0, label=name)
        ax.set_title(f"{times[k]:g} to {times[k + 1]:g} {model.unit}".strip())
        ax.set_xlim(*_limits(whole[:, 0]))
        ax.set_ylim(*_limits(whole[:, 1]))
        ax.set_aspect("equal")
        ax.set_xlabel(f"{model.use_rep} 1")
        ax.set_ylabel(f"{model.use_rep} 2" if k == 0 else "")
    axes[-1].legend(loc="upper left", bbox_to_anchor=(1.0, 1.0), frameon=False, markerscale=2)
    return axes


def _unit(adata: Any, key: str) -> str:
    """Of time; empty where it is not known, of other cells for instance, whose energy is a `model`."""
    return str(adata.uns.get(key, {}).get("time_unit", ""))


def _entry(place: Any, name: str, where: str, function: str) -> Any:
    if name not in place:
        raise ValueError(f"no {name!r} in {where}: ask for cells.tl.{function} first")
    return place[name]


def _embedding(adata: Any, basis: str) -> np.ndarray:
    found = embedding(adata, basis)
    if found.ndim != 2 or found.shape[1] < 2:
        raise ValueError(
            f"the embedding {basis!r} has shape {found.shape}; two coordinates are drawn"
        )
    return found[:, :2]


def _axes(ax: Axes | None, shown: np.ndarray | None = None) -> Axes:
    return ax if ax is not None else _row(1, shown)[0]


def _row(n: int, shown: np.ndarray | None = None) -> list[Axes]:
    """Panels as wide as what is shown in equal units needs them: what is left is empty."""
    side = PANEL
    if shown is not None:
        width, height = np.ptp(shown, axis=0)
        side *= float(np.clip(width / height, *SHAPES)) if height > 0 else 1.0
    figure, axes = plt.subplots(
        1, n, figsize=((side + BESIDE) * n, PANEL), layout="constrained", squeeze=False
    )
    return list(axes[0])


def _coloured(
    ax: Axes, adata: Any, basis: str, values: np.ndarray, name: str, **style: Any
) -> None:
    shown = _embedding(adata, basis)
    order = np.argsort(np.abs(values))  # the most telling ones on top
    style = {"cmap": "viridis"} | style
    drawn = ax.scatter(
        shown[order, 0],
        shown[order, 1],
        c=values[order],
        s=6,
        linewidths=0,
        rasterized=True,
        **style,
    )
    ax.figure.colorbar(drawn, ax=ax, label=name)
    _tidy(ax, basis)


def _tidy(ax: Axes, basis: str) -> None:
    name = basis.removeprefix("X_")
    ax.set(xticks=[], yticks=[], xlabel=f"{name} 1", ylabel=f"{name} 2", aspect="equal")


def _limits(values: np.ndarray) -> tuple[float, float]:
    low, high = float(values.min()), float(values.max())
    room = 0.05 * (high - low) or 1.0
    return low - room, high + room
