"""What a learned energy says of cells, written into their AnnData object: `cells.tl`.

Every function takes the energy that `cells.fit` kept in `adata.uns[key]`, or another `model`; changes
`adata` in place, or returns a changed copy where `copy=True`; and writes under `key`:

    potential    obs[key_potential], obs[key_energy], obs[key_interaction]
    velocity     obsm[key_velocity], obsm[key_BASIS], layers[key]
    growth       obs[key_growth], obs[key_growth_sd]
    transitions  obsp[key_transitions]
    fates        obsm[key_fates], obsm[key_fates_sd], uns[key]["fates"], uns[key]["fates_sd"]
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
from jkonet_star.cells.chain import (
    along_drift,
    fates_of_cells,
    futures,
    similar_cells,
    step_transitions,
    terminal_fates,
)
from jkonet_star.cells.comparisons import clones as clones
from jkonet_star.cells.comparisons import conditions as conditions
from jkonet_star.cells.fields import cell_fields, needs_times, write_energies
from jkonet_star.cells.genes import drivers as drivers
from jkonet_star.cells.genes import gene_loadings
from jkonet_star.cells.genes import predict as predict
from jkonet_star.cells.model import KEY, CellEnergy, asked, snapshots_of
from jkonet_star.cells.representation import (
    absent,
    embedding,
    listed,
    obs_column,
)
from jkonet_star.fitted import FittedEnergy

FUTURES = 10
FEWER_FUTURES = 3
"""Of each replicate, whose spread is averaged over all of them."""


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
    fields = cell_fields(model.energy, model.coordinates(adata), model.field_times(adata))
    write_energies(adata, model.energy, fields, key)
    return adata if copy else None


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

    Warns (UserWarning):
        The loadings in `varm["PCs"]` do not belong to X.
    """
    adata, model = asked(adata, model, key, copy)
    points = model.coordinates(adata)
    drift = cell_fields(model.energy, points, model.field_times(adata)).drift
    adata.obsm[f"{key}_velocity"] = drift
    if basis is not None:
        shown = _projected(points, drift, embedding(adata, basis))
        adata.obsm[f"{key}_{basis.removeprefix('X_')}"] = shown
    loadings = gene_loadings(adata, model) if genes else None
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
    terminal: str | Sequence[str] | None = None,
    n_futures: int = FUTURES,
    seed: int = 0,
    model: CellEnergy | None = None,
    key: str = KEY,
    copy: bool = False,
) -> Any:
    """The share of every cell's descendants that end in each terminal group.

    By the chain of `chain`, equation (3): with noise where the energy has some, with growth where it
    was learned. `uns[key]["fates"]` has the names of the columns; `uns[key]["fates_sd"]` the deviation
    over the replicates of a bootstrap, which does not know how the fates vary from one seed to another;
    `obsm[key_fates_sd]` is the same, and goes with the cells where they are chosen or put in order.

    Args:
        adata: AnnData.
        groups: entry of `obs` with the groups.
        terminal: those in which cells end, or the only one; where not given, all that the last
            snapshot has and the first has not.
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
        terminal = [terminal] if isinstance(terminal, str) else terminal
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
        return fates_of_cells(cells, ends, steps, grown, last, similar)

    adata.obsm[f"{key}_fates"] = of(model.energy, n_futures)
    adata.uns.setdefault(key, {})
    adata.uns[key]["fates"] = np.asarray(names, dtype=object)
    adata.uns[key].pop("fates_sd", None)
    if f"{key}_fates_sd" in adata.obsm:
        del adata.obsm[f"{key}_fates_sd"]
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
            adata.uns[key]["fates_sd"] = adata.obsm[f"{key}_fates_sd"] = deviation
    return adata if copy else None
