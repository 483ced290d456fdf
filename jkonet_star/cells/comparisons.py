"""Cells beside cells: conditions of an experiment, and predicted fates beside those of clones.

Functions of `cells.tl`.
"""

from typing import Any

import numpy as np

from jkonet_star.cells.clones import clonal_report
from jkonet_star.cells.conditions import PERMUTATIONS, write_conditions
from jkonet_star.cells.model import KEY, CellEnergy, asked, snapshots_of
from jkonet_star.cells.representation import absent, obs_column

BOOTSTRAPS = 200
"""Of the clones."""
_NO_CLONE = ("", "nan", "none", "na", "<na>", "-1", "-1.0")


def conditions(
    adata: Any,
    *,
    condition_key: str,
    reference: str | None = None,
    batch_key: str | None = None,
    n_permutations: int = PERMUTATIONS,
    seed: int = 0,
    model: CellEnergy | None = None,
    key: str = KEY,
    copy: bool = False,
) -> Any:
    """What each condition adds to the shared drift, and whether that is there.

    The energy is that of the cells of all conditions. `uns[key]["conditions"]` has, for every condition
    but the reference, the statistic of `condition_test`, equation (4), its mean without a difference,
    the p-value, that by Holm for all conditions together, and, for every time after the first, the
    p-value of the cells of that time alone. A small one says that cells of the condition have moved, or
    multiplied, otherwise than those of the reference. What they were at first is no difference.
    `obsm[key_difference]` is what the cell's own condition adds to the drift (`condition_differences`;
    with `obsm[key_velocity]` the drift under it), `obs[key_effect_CONDITION]` the length of the
    condition's drift less the reference's at every cell, whatever its own: both read with the p-value,
    since they are nowhere exactly zero. A / in the name of a condition is a _ in that of the column.

    Args:
        adata: AnnData.
        condition_key: entry of `obs` with the condition of each cell. Where some condition has no cell
            at the first time, the cells of that time are taken for the beginning of all; a name that
            only they have, such as "before", is no condition.
        reference: the condition that others are compared with; the first category where not given.
        batch_key: entry of `obs` with what else may shift cells: labels are compared, and permuted,
            within it.
        n_permutations: of the labels, for each condition.
        seed: of them.
        model: the energy; the one kept in `uns[key]` where not given.
        key: of the names.
        copy: leaves `adata` as it is, and returns a changed copy.

    Raises:
        ValueError: no energy is kept, entries are missing, cells have no condition, there is one
            condition only, or one has hardly any cells at a later time, or a batch has one only.
    """
    adata, model = asked(adata, model, key, copy)
    write_conditions(
        adata,
        model,
        key,
        condition_key=condition_key,
        reference=reference,
        batch_key=batch_key,
        n_permutations=n_permutations,
        seed=seed,
    )
    return adata if copy else None


def clones(
    adata: Any,
    *,
    clone_key: str,
    groups: str,
    n_bootstrap: int = BOOTSTRAPS,
    seed: int = 0,
    model: CellEnergy | None = None,
    key: str = KEY,
    copy: bool = False,
) -> Any:
    """How well predicted fates go with those of clones, of which the energy knows nothing.

    The correlation `clones`, equation (2), of three predictions: `energy`, the fates of
    `cells.tl.fates`; `transport`, the same chain on balanced plans between the cells as they are,
    without any energy; and `no_motion`, the terminal cells of the last time next to the cell itself.
    `uns[key]["clones"]` has it, `correlation`, with its deviation over a bootstrap of the clones,
    `correlation_sd`, for all times and `_by_time`; `ahead` and `ahead_sd`, by how much the energy is
    ahead of the two others; and how many clones there were. Fates of clones are of few cells each: the
    true fates, too, have a correlation far below 1 with them.

    Args:
        adata: AnnData with fates.
        clone_key: entry of `obs` with the clone of each cell. Cells without a barcode have none, or
            what such cells become in text and whole numbers: "", "nan", "None", "NA", or -1.
        groups: as given to `cells.tl.fates`.
        n_bootstrap: draws of the clones.
        seed: of them.
        model: the energy; the one kept in `uns[key]` where not given.
        key: of the names.
        copy: leaves `adata` as it is, and returns a changed copy.

    Raises:
        ValueError: no energy is kept, there are no fates, entries are missing, or hardly any clone has
            cells before they are terminal and terminal ones later.
    """
    adata, model = asked(adata, model, key, copy)
    if f"{key}_fates" not in adata.obsm:
        raise ValueError(f"no {key}_fates in obsm: ask for cells.tl.fates first")
    for name, argument in ((clone_key, "clone_key"), (groups, "groups")):
        if name not in adata.obs:
            raise ValueError(absent("obs", name, adata.obs.columns, argument))
    if n_bootstrap < 2:
        raise ValueError(f"n_bootstrap must be at least 2, got {n_bootstrap}")
    names = [str(name) for name in adata.uns[key]["fates"]]
    labels = np.asarray(obs_column(adata, groups).astype(str), dtype=object)
    report = clonal_report(
        model.coordinates(adata),
        snapshots_of(adata, model),
        np.stack([labels == name for name in names], axis=1).astype(np.float64),
        np.asarray(adata.obsm[f"{key}_fates"], np.float64),
        _numbers(obs_column(adata, clone_key)),
        times=model.energy.time_values(),
        n_bootstrap=n_bootstrap,
        seed=seed,
        name=clone_key,
    )
    adata.uns[key]["clones"] = {"clone_key": clone_key, "groups": groups, **report}
    return adata if copy else None


def _numbers(clone: Any) -> np.ndarray:
    """Of the clone of each cell; negative where it has none."""
    clone = clone.astype("category").cat
    none = [str(name).strip().lower() in _NO_CLONE for name in clone.categories]
    return np.where(np.isin(clone.codes, np.flatnonzero(none)), -1, clone.codes)
