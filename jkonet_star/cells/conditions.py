"""Conditions of an experiment: one shared energy, what each adds to it, and whether that is there.

The energy is that of the cells of all conditions. Along it, `condition_test` asks whether cells of a
condition and of the reference follow one dynamics, and `condition_differences` what each condition adds
to the drift, from plans between its own cells.
"""

import dataclasses
import itertools
from typing import Any

import numpy as np

from jkonet_star.cells.chain import one_step
from jkonet_star.cells.condition_differences import Differences, NormalEquations, make_basis
from jkonet_star.cells.condition_test import (
    Comparison,
    compare,
    expected_of_first,
    holm,
    standardised,
)
from jkonet_star.cells.plans import plan_between
from jkonet_star.cells.representation import absent, listed, obs_column

DIFFERENCES = "differences"
FEWEST = 5
"""Cells of a condition at a time."""
PERMUTATIONS = 999


def check_entries(
    adata: Any,
    condition_key: str,
    reference: str | None,
    batch_key: str | None,
    *,
    later: np.ndarray,
) -> tuple[str, np.ndarray]:
    """The reference, and the number of each cell's batch.

    Args:
        adata: AnnData.
        condition_key: entry of `obs`.
        reference: a condition, or None for the first.
        batch_key: entry of `obs`, or None.
        later: whether each cell is from after the first time.

    Raises:
        ValueError: entries are missing, there is one condition only, or no such reference.
    """
    names, _ = _conditions(adata, condition_key, later)
    if len(names) < 2:
        raise ValueError(
            f"obs[{condition_key!r}] has one condition only after the first time: {listed(names)}"
        )
    reference = names[0] if reference is None else str(reference)
    if reference not in names:
        raise ValueError(absent(f"obs[{condition_key!r}]", reference, names, "reference"))
    if batch_key is None:
        return reference, np.zeros(adata.n_obs, int)
    return reference, _groups(adata, batch_key, "batch_key")[1]


class _Labelled:
    """The cells of every snapshot, and of which condition each is.

    Attributes:
        names: of the conditions, those of a category in its order.
        number: the condition of each cell, (n,); -1 of one from before the treatment.
        cells: of each snapshot.
        shared: whether the first snapshot is the beginning of all conditions.
    """

    def __init__(self, adata: Any, key: str, step: np.ndarray, times: np.ndarray):
        self.names, self.number = _conditions(adata, key, step > 0)
        self.cells = [np.flatnonzero(step == k) for k in range(len(times))]
        counts = np.stack(
            [[(self.number[own] == c).sum() for c in range(len(self.names))] for own in self.cells]
        )
        # Cells from before the treatment are of one condition, or of none that there is later.
        self.shared = bool((counts[0] == 0).any())
        for k, t in enumerate(times):
            if k == 0 and self.shared:
                continue
            few = [self.names[c] for c in np.flatnonzero(counts[k] < FEWEST)]
            if few:
                raise ValueError(
                    f"at {t:g} obs[{key!r}] has fewer than {FEWEST} cells of {listed(few)}: leave "
                    "these conditions out, or that time"
                )

    def of(self, condition: int, k: int) -> np.ndarray:
        """The cells of a condition at a snapshot."""
        own = self.cells[k]
        return own if k == 0 and self.shared else own[self.number[own] == condition]


def _conditions(adata: Any, key: str, later: np.ndarray) -> tuple[list[str], np.ndarray]:
    """The names that cells have after the first time, and their number for each cell, or -1.

    A name that only cells of the first time have is that of the cells before the treatment.

    Raises:
        ValueError: as `_groups` says.
    """
    names, number = _groups(adata, key, "condition_key")
    there = np.unique(number[later])
    found = np.full(len(names), -1)
    found[there] = np.arange(len(there))
    return [names[c] for c in there], found[number]


def _groups(adata: Any, key: str, argument: str) -> tuple[list[str], np.ndarray]:
    """The names of an entry of `obs`, and their number for each cell.

    Raises:
        ValueError: there is no such entry, or cells have none.
    """
    if key not in adata.obs:
        raise ValueError(absent("obs", key, adata.obs.columns, argument))
    column = obs_column(adata, key).astype("category")
    codes = np.asarray(column.cat.codes)
    if (codes < 0).any():
        names = listed(np.asarray(adata.obs_names)[codes < 0][:5])
        raise ValueError(
            f"{(codes < 0).sum()} cells have no entry in obs[{key!r}]: {names}; remove them, or give "
            "those from before the treatment a name of their own"
        )
    there = np.unique(codes)
    return [str(column.cat.categories[c]) for c in there], np.searchsorted(there, codes)


def write_conditions(
    adata: Any,
    model: Any,
    key: str,
    *,
    condition_key: str,
    reference: str | None = None,
    batch_key: str | None = None,
    n_permutations: int = PERMUTATIONS,
    seed: int = 0,
) -> Any:
    """`cells.tl.conditions`, and the energy with the differences.

    Args:
        adata: AnnData; changed in place.
        model: the energy of its cells.
        key: of the names.
        condition_key: as of `cells.tl.conditions`, like all that follow.
        reference: likewise.
        batch_key: likewise.
        n_permutations: likewise.
        seed: likewise.

    Raises:
        ValueError: as `cells.tl.conditions` says.
    """
    about, found = _compared(
        adata,
        model,
        condition_key=condition_key,
        reference=reference,
        batch_key=batch_key,
        n_permutations=n_permutations,
        seed=seed,
    )
    forget_conditions(adata, key)
    held = adata.uns.setdefault(key, {})
    held["conditions"], held[DIFFERENCES] = about, found.written()
    points = model.coordinates(adata)
    drift = {name: found.drift(points, name) for name in found.names}
    own = np.asarray(obs_column(adata, condition_key).astype(str))
    adata.obsm[f"{key}_difference"] = np.select(
        [(own == name)[:, None] for name in drift], list(drift.values())
    )
    for name in about["names"]:
        away = drift[name] - drift[about["reference"]]
        adata.obs[effect_column(key, name)] = np.linalg.norm(away, axis=1)
    return dataclasses.replace(model, differences=found)


def effect_column(key: str, name: str) -> str:
    """Of `obs`: how far a condition's drift is from the reference's. Files take / for a folder."""
    return f"{key}_effect_{name.replace('/', '_')}"


def forget_conditions(adata: Any, key: str) -> None:
    """Removes what was written of conditions."""
    for name in ("conditions", DIFFERENCES):
        adata.uns.get(key, {}).pop(name, None)
    for name in [name for name in adata.obs if str(name).startswith(f"{key}_effect_")]:
        del adata.obs[name]
    if f"{key}_difference" in adata.obsm:
        del adata.obsm[f"{key}_difference"]


def _compared(
    adata: Any,
    model: Any,
    *,
    condition_key: str,
    reference: str | None,
    batch_key: str | None,
    n_permutations: int,
    seed: int,
) -> tuple[dict[str, Any], Differences]:
    """What the test says, and the differences."""
    if n_permutations < 19:
        raise ValueError(f"n_permutations must be at least 19, got {n_permutations}")
    times, step = model.snapshot(adata)
    reference, strata = check_entries(adata, condition_key, reference, batch_key, later=step > 0)
    labelled = _Labelled(adata, condition_key, step, times)
    names = labelled.names
    points, energy = model.coordinates(adata), model.energy
    basis = make_basis(points)
    tests = standardised(basis.values(points))
    cells = labelled.cells
    moved = [one_step(energy, points[own], k) for k, own in enumerate(cells[:-1])]
    plans = [
        plan_between(z, w, points[after], seed)
        for (z, w), after in zip(moved, cells[1:], strict=True)
    ]
    expected, numbers = expected_of_first(
        [tests[own] for own in cells], plans, [w for _, w in moved]
    )
    base = names.index(reference)
    others = [c for c in range(len(names)) if c != base]
    found: list[Comparison] = []
    for c in others:
        pair = [np.isin(labelled.number[own], (base, c)) for own in cells]
        if labelled.shared:  # one beginning: nothing is predicted to differ
            pair[0] = np.ones(len(cells[0]), bool)
        labels = [
            (labelled.number[own[i]] == c).astype(float) for own, i in zip(cells, pair, strict=True)
        ]
        if labelled.shared:
            labels[0] = np.zeros(len(cells[0]))
        within = [strata[own[i]] for own, i in zip(cells, pair, strict=True)]
        _check_strata(labels[1:], within[1:], times[1:], names[c], reference, batch_key)
        found.append(
            compare(
                [tests[own[i]] for own, i in zip(cells, pair, strict=True)],
                [f[pair[0]] for f in expected],
                [n[pair[0]] for n in numbers],
                labels,
                within,
                n_permutations=n_permutations,
                rng=np.random.default_rng([seed, c]),
            )
        )
    pvalues = np.array([one.pvalue for one in found])
    about = {
        "condition_key": condition_key,
        "batch_key": batch_key or "",
        "reference": reference,
        "names": np.asarray([names[c] for c in others], dtype=object),
        "statistic": np.array([one.statistic for one in found]),
        "expected": np.array([one.expected for one in found]),
        "pvalue": pvalues,
        "pvalue_holm": holm(pvalues),
        "pvalue_by_time": np.stack([one.by_time for one in found]),
        "times": times[1:],
        "n_permutations": n_permutations,
        "shared_start": labelled.shared,
    }
    return about, _differences(labelled, basis, points, moved, times, seed)


def _check_strata(
    labels: list[np.ndarray],
    strata: list[np.ndarray],
    times: np.ndarray,
    name: str,
    reference: str,
    batch_key: str | None,
) -> None:
    for own, which, t in zip(labels, strata, times, strict=True):
        if not any(0 < own[which == s].mean() < 1 for s in np.unique(which)):
            raise ValueError(
                f"at {t:g} no batch of obs[{batch_key!r}] has cells of both {name} and {reference}: "
                "what a batch does cannot be told from what a condition does"
            )


def _differences(
    labelled: _Labelled,
    basis: Any,
    points: np.ndarray,
    moved: list[tuple[np.ndarray, np.ndarray]],
    times: np.ndarray,
    seed: int,
) -> Differences:
    sums = NormalEquations(basis, len(labelled.names))
    place = np.empty(len(points), int)
    for own in labelled.cells:
        place[own] = np.arange(len(own))
    for k, (before, after) in enumerate(itertools.pairwise(times)):
        z, w = moved[k]
        for c in range(len(labelled.names)):
            now, then = labelled.of(c, k), labelled.of(c, k + 1)
            own = place[now]
            plan = plan_between(z[own], w[own], points[then], seed)
            left = (plan @ points[then] - z[own]) / ((after - before) * basis.length)
            sums.add(c, points[now], left, w[own] / w[own].mean())
    return sums.solved(tuple(labelled.names))
