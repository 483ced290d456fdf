"""What a learned energy says of cells, written into their AnnData object: `cells.tl`.

Every function takes the energy that `cells.fit` kept in `adata.uns[key]`, or another `model`; changes
`adata` in place, or returns a changed copy where `copy=True`; and writes under `key`:

    potential    obs[key_potential], obs[key_energy], obs[key_interaction]
    velocity     obsm[key_velocity], obsm[key_BASIS], layers[key]
    growth       obs[key_growth], obs[key_growth_sd]
    transitions  obsp[key_transitions]
    fates        obsm[key_fates], uns[key]["fates"], uns[key]["fates_sd"]
    drivers      varm[key_drivers]
    conditions   uns[key]["conditions"], obsm[key_difference], obs[key_effect_CONDITION]
    clones       uns[key]["clones"]
"""

import warnings
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from scipy import sparse

from diffusions.keys import named_key
from diffusions.late_imports import import_extra
from jkonet_star.cells.chain import (
    absorbed,
    along_drift,
    futures,
    similar_cells,
    step_transitions,
    terminal_fates,
)
from jkonet_star.cells.comparisons import clones as clones
from jkonet_star.cells.comparisons import conditions as conditions
from jkonet_star.cells.fields import cell_fields, needs_times, write_energies
from jkonet_star.cells.model import KEY, CellEnergy, asked, kept, snapshots_of
from jkonet_star.cells.representation import (
    REPRESENTATION,
    absent,
    coordinates,
    embedding,
    listed,
    obs_column,
)
from jkonet_star.fitted import FittedEnergy

FUTURES = 10
FEWER_FUTURES = 3
"""Of each replicate, whose spread is averaged over all of them."""
LEAST_EXPRESSED = 1e-9
"""Deviation of a gene, of its largest value, below which it correlates with nothing."""
GENES_AT_ONCE = 512
CHECKED, TOLERANCE = 5, 1e-2
"""Cells whose expression must have the coordinates of the components, and how exactly."""


def potential(
    adata: Any, *, model: CellEnergy | None = None, key: str = KEY, copy: bool = False
) -> Any:
    """Potential and energy of every cell; a constant in each is arbitrary.

    Args:
        adata: AnnData.
        model: the energy; the one kept in `uns[key]` where not given.
        key: of the names.
        copy: leaves `adata` as it is, and returns a changed copy.

    Raises:
        ValueError: no energy is kept, or entries that it needs are missing.
    """
    adata, model = asked(adata, model, key, copy)
    fields = cell_fields(model.energy, model.coordinates(adata), _times(adata, model))
    write_energies(adata, model.energy, fields, key)
    return adata if copy else None


def _times(adata: Any, model: CellEnergy) -> np.ndarray | None:
    return model.times(adata).values if needs_times(model.energy) else None


def velocity(
    adata: Any,
    *,
    basis: str | None = None,
    genes: bool = True,
    model: CellEnergy | None = None,
    key: str = KEY,
    copy: bool = False,
) -> Any:
    """The drift of every cell, in its coordinates, on an embedding, and of its genes.

    With p_ij the probabilities `chain`, equation (2), and e_i the embedding of cell i, it is

        v_i = sum_j (p_ij - 1 / k) (e_j - e_i) / |e_j - e_i|                                       (1)

    there, as scVelo has it (Bergen et al., Nat. Biotechnol. 38, 2020): directions are shown, lengths
    say how sure they are. Of genes it is exact: the drift times the loadings of the components.

    Args:
        adata: AnnData.
        basis: of the embedding, `umap` for `obsm["X_umap"]`; none where not given.
        genes: writes `layers[key]` where `varm["PCs"]` belongs to the energy's coordinates.
        model: the energy; the one kept in `uns[key]` where not given.
        key: of the names; scVelo's `vkey`.
        copy: leaves `adata` as it is, and returns a changed copy.

    Raises:
        ValueError: no energy is kept, or entries that it needs are missing.
    """
    adata, model = asked(adata, model, key, copy)
    points = model.coordinates(adata)
    drift = cell_fields(model.energy, points, _times(adata, model)).drift
    adata.obsm[f"{key}_velocity"] = drift
    if basis is not None:
        shown = _projected(points, drift, embedding(adata, basis))
        adata.obsm[f"{key}_{basis.removeprefix('X_')}"] = shown
    loadings = _loadings(adata, model) if genes else None
    if loadings is not None:
        adata.layers[key] = drift @ loadings.T.astype(np.float32)
    return adata if copy else None


def _projected(points: np.ndarray, drift: np.ndarray, shown: np.ndarray) -> np.ndarray:
    """Equation (1)."""
    index, chance = along_drift(points, drift)
    away = shown[index] - shown[:, None]
    length = np.linalg.norm(away, axis=2, keepdims=True)
    direction = away / np.where(length > 0, length, np.inf)
    return np.einsum("nk,nke->ne", chance - 1.0 / index.shape[1], direction)


def _loadings(adata: Any, model: CellEnergy) -> np.ndarray | None:
    """Of the energy's coordinates, (genes, d); None where there are none.

    They belong to the coordinates where differences of a few cells' expression have those of their
    coordinates, whatever mean was taken off.
    """
    if model.use_rep != REPRESENTATION or "PCs" not in adata.varm or adata.X is None:
        return None
    found = np.asarray(adata.varm["PCs"], np.float64)
    points = coordinates(adata, model.use_rep)
    if found.shape[1] != points.shape[1]:
        return None
    few = np.unique(np.linspace(0, adata.n_obs - 1, CHECKED).astype(int))
    some = adata[few].to_memory().X if adata.isbacked else adata[few].X
    some = np.asarray(some.toarray() if hasattr(some, "toarray") else some, np.float64)
    own = np.asarray(points[few], np.float64)
    away = (some - some[0]) @ found - (own - own[0])
    if np.abs(away).max() > TOLERANCE * max(np.abs(own - own[0]).max(), np.finfo(float).tiny):
        return None
    return found[:, : model.energy.dimension]


def growth(
    adata: Any, *, model: CellEnergy | None = None, key: str = KEY, copy: bool = False
) -> Any:
    """The rate at which every cell multiplies or dies, in 1 / time, and its deviation.

    The deviation is that over the replicates of a bootstrap; without one there is none.

    Args:
        adata: AnnData.
        model: the energy; the one kept in `uns[key]` where not given.
        key: of the names.
        copy: leaves `adata` as it is, and returns a changed copy.

    Raises:
        ValueError: no energy is kept, it was learned without growth, or entries are missing.
    """
    adata, model = asked(adata, model, key, copy)
    points, times = model.coordinates(adata), model.times(adata).values
    adata.obs[f"{key}_growth"] = _rates(model.energy, points, times)
    if f"{key}_growth_sd" in adata.obs:
        del adata.obs[f"{key}_growth_sd"]
    replicates = _replicates(model.energy)
    if replicates:
        deviation = _deviation([_rates(one, points, times) for one in replicates], "growth_sd")
        if deviation is not None:
            adata.obs[f"{key}_growth_sd"] = deviation
    return adata if copy else None


def _deviation(each: list[np.ndarray], name: str) -> np.ndarray | None:
    """Over replicates; None, and a word, where one alone has none."""
    if len(each) > 1:
        return np.std(each, axis=0, ddof=1)
    warnings.warn(
        f"{name} is not written: the energy has one replicate, which has no deviation",
        UserWarning,
        stacklevel=3,
    )
    return None


def _rates(energy: FittedEnergy, points: np.ndarray, times: np.ndarray) -> np.ndarray:
    found = np.empty(len(points))
    for t in np.unique(times):
        inside = times == t
        found[inside] = np.asarray(energy.growth(points[inside], float(t)))
    return found


def _replicates(energy: FittedEnergy) -> list[FittedEnergy]:
    stack = energy.replicates
    return [] if stack is None else [stack.member(i) for i in range(len(stack.times))]


def transitions(
    adata: Any,
    *,
    n_futures: int = FUTURES,
    seed: int = 0,
    model: CellEnergy | None = None,
    key: str = KEY,
    copy: bool = False,
) -> Any:
    """The Markov chain of `chain`, equations (1) and (2), sparse; every row sums to 1.

    It is what CellRank's PrecomputedKernel takes.

    Args:
        adata: AnnData.
        n_futures: of each cell, where there is noise.
        seed: of the noise.
        model: the energy; the one kept in `uns[key]` where not given.
        key: of the names.
        copy: leaves `adata` as it is, and returns a changed copy.

    Raises:
        ValueError: no energy is kept, entries are missing, or no cell is of some snapshot.
    """
    adata, model = asked(adata, model, key, copy)
    points = model.coordinates(adata)
    cells = snapshots_of(adata, model)
    steps, _ = _steps(model.energy, points, cells, n_futures, seed)
    n = len(points)
    rows, columns, values = [], [], []
    for k, step in enumerate(steps):
        own = step.tocoo()
        rows.append(cells[k][own.row])
        columns.append(cells[k + 1][own.col])
        values.append(own.data)
    last = cells[-1]
    drift = cell_fields(model.energy, points[last], _last_times(model, len(last))).drift
    index, chance = along_drift(points[last], drift)
    rows.append(np.repeat(last, index.shape[1]))
    columns.append(last[index].ravel())
    values.append(chance.ravel())
    joined = (np.concatenate(rows), np.concatenate(columns))
    adata.obsp[f"{key}_transitions"] = sparse.csr_matrix((np.concatenate(values), joined), (n, n))
    return adata if copy else None


def _last_times(model: CellEnergy, n: int) -> np.ndarray | None:
    times = model.energy.time_values()
    return np.full(n, times[-1]) if needs_times(model.energy) else None


def _steps(
    energy: FittedEnergy, points: np.ndarray, cells: list[np.ndarray], n_futures: int, seed: int
) -> tuple[list[sparse.csr_matrix], list[np.ndarray]]:
    """Transitions and growth of every step."""
    found, grown = [], []
    for k in range(len(cells) - 1):
        key = jax.random.fold_in(named_key(jax.random.key(seed), "futures"), k)
        arrivals, w = futures(energy, points[cells[k]], k, n_futures, key)
        found.append(step_transitions(arrivals, points[cells[k + 1]]))
        grown.append(w)
    return found, grown


def fates(
    adata: Any,
    *,
    groups: str,
    terminal: Sequence[str] | None = None,
    n_futures: int = FUTURES,
    seed: int = 0,
    model: CellEnergy | None = None,
    key: str = KEY,
    copy: bool = False,
) -> Any:
    """The share of every cell's descendants that end in each terminal group.

    By the chain of `chain`, equation (3): with noise where the energy has some, with growth where it
    was learned. `uns[key]["fates"]` has the names of the columns; `uns[key]["fates_sd"]` the deviation
    over the replicates of a bootstrap, which does not know how the fates vary from one seed to another.

    Args:
        adata: AnnData.
        groups: entry of `obs` with the groups.
        terminal: those in which cells end; where not given, all that the last snapshot has and the
            first has not.
        n_futures: of each cell, where there is noise.
        seed: of the noise.
        model: the energy; the one kept in `uns[key]` where not given.
        key: of the names.
        copy: leaves `adata` as it is, and returns a changed copy.

    Raises:
        ValueError: no energy is kept, entries or groups are missing, or the last snapshot has no cell
            of a terminal group.

    Warns (UserWarning):
        There are replicates, and no deviation: noisy futures are too few, or there is one replicate.
    """
    adata, model = asked(adata, model, key, copy)
    if groups not in adata.obs:
        raise ValueError(absent("obs", groups, adata.obs.columns, "groups"))
    column = obs_column(adata, groups)
    named = ~np.asarray(column.isna())
    labels = np.where(named, np.asarray(column.astype(str), dtype=object), "")
    points = model.coordinates(adata)
    cells = snapshots_of(adata, model)
    there = sorted(set(labels[cells[-1]]) - {""})
    # What cells were from the start is not where they end.
    early = set(labels[cells[0]])
    names = [name for name in there if name not in early]
    if terminal is not None:
        names = [str(name) for name in terminal]
        if len(set(names)) < len(names):
            raise ValueError(f"terminal names a group twice: {listed(names)}")
    missing = [name for name in names if name not in there]
    if missing or not names:
        raise ValueError(
            f"no cell of the last time is of {listed(missing)}; its groups are {listed(there)}"
            if missing
            else f"name terminal: {listed(there)} of the last time are all there from the start"
        )
    ends = np.stack([labels == name for name in names], axis=1).astype(np.float64)
    last = terminal_fates(points[cells[-1]], ends[cells[-1]])

    similar = [similar_cells(points[some]) for some in cells[:-1]]

    def of(energy: FittedEnergy, n: int) -> np.ndarray:
        steps, grown = _steps(energy, points, cells, n, seed)
        each = absorbed(steps, grown, [ends[some] for some in cells[:-1]], last, similar)
        found = np.empty(ends.shape)
        for some, own in zip(cells, each, strict=True):
            found[some] = own
        return found

    adata.obsm[f"{key}_fates"] = of(model.energy, n_futures)
    adata.uns.setdefault(key, {})
    adata.uns[key]["fates"] = np.asarray(names, dtype=object)
    adata.uns[key].pop("fates_sd", None)
    replicates = _replicates(model.energy)
    if replicates and float(model.energy.beta) > 0 and n_futures < FEWER_FUTURES:
        warnings.warn(
            f"fates_sd is not written: of {n_futures} noisy futures of a cell (n_futures) the fates "
            f"vary more than replicates tell; {FEWER_FUTURES} are enough",
            UserWarning,
            stacklevel=2,
        )
    elif replicates:
        deviation = _deviation([of(one, FEWER_FUTURES) for one in replicates], "fates_sd")
        if deviation is not None:
            adata.uns[key]["fates_sd"] = deviation
    return adata if copy else None


def drivers(
    adata: Any, *, model: CellEnergy | None = None, key: str = KEY, copy: bool = False
) -> Any:
    """How each gene goes with each fate: `varm[key_drivers]`, a table.

    `FATE_correlation` is that of the gene's expression with the share of the fate, over all cells, and
    `FATE_error` its standard error by Fisher's z, (1 - r^2) / sqrt(n - 3). `FATE_velocity` is how fast
    the gene changes in the cells with that fate and not in all, per time: with c the loadings and b the
    drift, sum_i (F_if / sum F_f - 1 / n) c . b_i; only where the loadings are known. A / in the name of
    a fate is a _ in those of the columns.

    Args:
        adata: AnnData with fates.
        model: the energy; the one kept in `uns[key]` where not given.
        key: of the names.
        copy: leaves `adata` as it is, and returns a changed copy.

    Raises:
        ValueError: no energy is kept, there are no fates, or X is absent, on disk or not finite.
    """
    adata, model = asked(adata, model, key, copy)
    pandas = import_extra("pandas", "cells.tl.drivers")
    if f"{key}_fates" not in adata.obsm:
        raise ValueError(f"no {key}_fates in obsm: ask for cells.tl.fates first")
    chance = np.asarray(adata.obsm[f"{key}_fates"])
    r = _correlations(_expression(adata), chance, adata.var_names)
    n, loadings = adata.n_obs, _loadings(adata, model)
    drift = None
    if loadings is not None:
        drift = cell_fields(model.energy, model.coordinates(adata), _times(adata, model)).drift
    table: dict[str, np.ndarray] = {}
    for f, fate in enumerate(adata.uns[key]["fates"]):
        name = str(fate).replace("/", "_")  # which files take for a folder
        table[f"{name}_correlation"] = r[:, f]
        table[f"{name}_error"] = (1 - r[:, f] ** 2) / np.sqrt(max(n - 3, 1))
        if loadings is not None and drift is not None:
            more = chance[:, f] / chance[:, f].sum() - 1.0 / n
            table[f"{name}_velocity"] = loadings @ (more @ drift)
    adata.varm[f"{key}_drivers"] = pandas.DataFrame(table, index=adata.var_names)
    return adata if copy else None


def _correlations(expression: Any, chance: np.ndarray, names: Any) -> np.ndarray:
    """Of genes with fates, (genes, fates); 0 for a gene that is the same in all cells.

    Raises:
        ValueError: a gene that is not finite.
    """
    away = chance - chance.mean(axis=0)
    found = np.zeros((expression.shape[1], chance.shape[1]))
    if sparse.issparse(expression):
        expression = expression.tocsc()
    for start in range(0, len(found), GENES_AT_ONCE):
        genes = slice(start, start + GENES_AT_ONCE)
        some = expression[:, genes]
        # Centred in double precision before anything is squared.
        some = np.asarray(some.toarray() if sparse.issparse(some) else some, np.float64)
        bad = ~np.isfinite(some).all(axis=0)
        if bad.any():
            raise ValueError(f"X has NaN or inf in {listed(np.asarray(names[genes])[bad])}")
        largest = np.abs(some).max(axis=0)
        some = some - some.mean(axis=0)
        deviation = some.std(axis=0)
        telling = deviation > LEAST_EXPRESSED * largest
        scale = np.where(telling, deviation, np.inf)[:, None] * away.std(axis=0)
        found[genes] = some.T @ away / len(away) / np.where(scale > 0, scale, np.inf)
    return np.clip(found, -1, 1)


def _expression(adata: Any) -> Any:
    """X in memory.

    Raises:
        ValueError: there is none, or it is on disk.
    """
    if adata.X is None:
        raise ValueError("X holds no expression")
    if adata.isbacked:
        raise ValueError("X is on disk: give adata.to_memory()")
    found = adata.X
    return found.compute() if hasattr(found, "compute") else found


def predict(
    adata: Any,
    *,
    time: float,
    seed: int = 0,
    model: CellEnergy | None = None,
    key: str = KEY,
) -> Any:
    """Future cells: those of the last snapshot before a time, moved to it.

    Args:
        adata: AnnData.
        time: when, in the unit of the times; after the first snapshot.
        seed: of the noise.
        model: the energy; the one kept in `uns[key]` where not given.
        key: of the names.

    Returns:
        An AnnData object of the moved cells: their coordinates, `obs[key_weight]` by growth, the
        entries of `obs` that they had, and, where `varm["PCs"]` belongs to the coordinates, their
        genes, which is the mean expression and the components' part.

    Raises:
        ValueError: no energy is kept, entries are missing, the time is not after the first, or there
            are no cells of the snapshot before it.
    """
    anndata = import_extra("anndata", "cells.tl.predict")
    if model is None:
        model = kept(adata, key)
    times = model.energy.time_values()
    if isinstance(time, str) or not times[0] < time < np.inf:
        raise ValueError(f"time must be after the first, {times[0]:g}, and finite, got {time!r}")
    # Single precision moves a time a little.
    near = 1e-6 * float(np.ptp(times))
    k = int(np.flatnonzero(times < time - near)[-1])
    chosen = np.flatnonzero(model.snapshot(adata)[1] == k)
    if not len(chosen):
        raise ValueError(f"there are no cells at {times[k]:g}, from which those at {time:g} come")
    now = model.coordinates(adata)[chosen]
    weights = np.full(len(now), 1.0 / len(now))
    at, step, draws = float(times[k]), k, named_key(jax.random.key(seed), "predict")
    while time - at > near:
        # Beyond the last snapshot as its last step, and as long ones.
        last = min(step, len(times) - 2)
        tau = min(time - at, float(times[last + 1] - times[last]))
        noise = jax.random.fold_in(draws, step) if float(model.energy.beta) > 0 else None
        moved = model.energy.predict_weighted(
            now, 1, key=noise, weights=weights, start=step, dt=tau
        )
        now, weights = np.asarray(moved.points[1]), np.asarray(moved.weights[1], np.float64)
        at, step = at + tau, step + 1
    loadings = _loadings(adata, model)
    expression, genes = None, None
    if loadings is not None:
        # Of the cells from which the components were made, whichever of them are here.
        middle = np.asarray(_expression(adata).mean(axis=0), np.float64).ravel()
        every = np.asarray(adata.varm["PCs"], np.float64)
        mean = middle - every @ coordinates(adata, model.use_rep).mean(axis=0, dtype=np.float64)
        expression = (mean + now @ loadings.T).astype(np.float32)
        genes = adata.var.to_memory() if hasattr(adata.var, "to_memory") else adata.var.copy()
    obs = adata.obs.to_memory() if hasattr(adata.obs, "to_memory") else adata.obs
    obs = obs.iloc[chosen].copy()
    obs[f"{key}_weight"] = weights * len(now)
    obs[f"{key}_time"] = float(time)
    return anndata.AnnData(X=expression, obs=obs, var=genes, obsm={model.use_rep: now})
