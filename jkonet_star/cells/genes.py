"""Genes of cells through the loadings of their components: drivers of fates, and cells to come.

Functions of `cells.tl`.
"""

import warnings
from typing import Any

import jax
import numpy as np
from scipy import sparse

from diffusions.keys import named_key
from diffusions.late_imports import import_extra
from jkonet_star.cells.conditions import effect_column
from jkonet_star.cells.fields import cell_fields
from jkonet_star.cells.model import KEY, OF_CELLS, CellEnergy, asked, kept
from jkonet_star.cells.representation import REPRESENTATION, coordinates, listed

LEAST_EXPRESSED = 1e-9
"""Deviation of a gene, of its largest value, below which it correlates with nothing."""
GENES_AT_ONCE = 512
CHECKED, TOLERANCE = 5, 1e-2
"""Cells whose expression must have the coordinates of the components, and how exactly."""


def gene_loadings(adata: Any, model: CellEnergy) -> np.ndarray | None:
    """Of the energy's coordinates, (genes, d); None where there are none.

    They belong to the coordinates where differences of a few cells' expression have those of their
    coordinates, whatever mean was taken off.

    Warns (UserWarning):
        There are loadings, and they do not belong.
    """
    if model.use_rep != REPRESENTATION or "PCs" not in adata.varm or adata.X is None:
        return None
    found = np.asarray(adata.varm["PCs"], np.float64)
    points = coordinates(adata, model.use_rep)
    if found.shape[1] == points.shape[1] and _belong(adata, found, points):
        return found[:, : model.energy.dimension]
    warnings.warn(
        f"nothing is said of genes through varm['PCs']: X is not the expression of which they make "
        f"obsm[{model.use_rep!r}], as where it holds counts or only some genes; set X to what "
        "scanpy.pp.pca was given, or ask it again",
        UserWarning,
        stacklevel=3,
    )
    return None


def _belong(adata: Any, found: np.ndarray, points: np.ndarray) -> bool:
    few = np.unique(np.linspace(0, adata.n_obs - 1, CHECKED).astype(int))
    some = adata[few].to_memory().X if adata.isbacked else adata[few].X
    some = np.asarray(some.toarray() if hasattr(some, "toarray") else some, np.float64)
    own = np.asarray(points[few], np.float64)
    away = (some - some[0]) @ found - (own - own[0])
    most = TOLERANCE * max(np.abs(own - own[0]).max(), np.finfo(float).tiny)
    return bool(np.abs(away).max() <= most)


def drivers(
    adata: Any, *, model: CellEnergy | None = None, key: str = KEY, copy: bool = False
) -> Any:
    """How each gene goes with each fate: `varm[key_drivers]`, a table.

    `FATE_correlation` is that of the gene's expression with the share of the fate, over all cells, and
    `FATE_error` its standard error by Fisher's z, (1 - r^2) / sqrt(n - 3). `FATE_velocity` is how fast
    the gene changes in the cells with that fate and not in all, per time: with c the loadings and b the
    drift, sum_i (F_if / sum F_f - 1 / n) c . b_i; only where the loadings are known, and NaN where no
    cell has the fate. A / in the name of
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
    n, loadings = adata.n_obs, gene_loadings(adata, model)
    drift = None
    if loadings is not None:
        drift = cell_fields(model.energy, model.coordinates(adata), model.field_times(adata)).drift
    table: dict[str, np.ndarray] = {}
    for f, fate in enumerate(adata.uns[key]["fates"]):
        name = str(fate).replace("/", "_")  # which files take for a folder
        table[f"{name}_correlation"] = r[:, f]
        table[f"{name}_error"] = (1 - r[:, f] ** 2) / np.sqrt(max(n - 3, 1))
        if loadings is not None and drift is not None:
            more = chance[:, f] / (chance[:, f].sum() or np.nan) - 1.0 / n
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
        entries of `obs` that they had, but for those that the energy wrote, and, where `varm["PCs"]`
        belongs to the coordinates, their genes, which is the mean expression and the components' part.

    Raises:
        ValueError: no energy is kept, entries are missing, the time is not after the first, or there
            are no cells of the snapshot before it.

    Warns (UserWarning):
        Genes are not known.
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
    loadings = gene_loadings(adata, model)
    expression, genes = None, None
    if loadings is None and (model.use_rep != REPRESENTATION or "PCs" not in adata.varm):
        warnings.warn(
            f"the cells have no genes: loadings, varm['PCs'], are known of obsm[{REPRESENTATION!r}] "
            "only, as scanpy.pp.pca makes them",
            UserWarning,
            stacklevel=2,
        )
    if loadings is not None:
        # Of the cells from which the components were made, whichever of them are here.
        middle = np.asarray(_expression(adata).mean(axis=0), np.float64).ravel()
        every = np.asarray(adata.varm["PCs"], np.float64)
        mean = middle - every @ coordinates(adata, model.use_rep).mean(axis=0, dtype=np.float64)
        expression = (mean + now @ loadings.T).astype(np.float32)
        genes = adata.var.to_memory() if hasattr(adata.var, "to_memory") else adata.var.copy()
    obs = adata.obs.to_memory() if hasattr(adata.obs, "to_memory") else adata.obs
    # What was said of the cells is said of where they were.
    gone = {f"{key}_{name}" for name in OF_CELLS}
    effects = effect_column(key, "")
    kept_columns = [c for c in obs if c not in gone and not str(c).startswith(effects)]
    obs = obs[kept_columns].iloc[chosen].copy()
    obs[f"{key}_weight"] = weights * len(now)
    obs[f"{key}_time"] = float(time)
    return anndata.AnnData(X=expression, obs=obs, var=genes, obsm={model.use_rep: now})
