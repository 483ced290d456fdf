r"""Predicted fates beside those of clones.

Of a clone c and a time t, with e its cells of that time that are not terminal yet, and l its terminal
cells of any later time,

    p_cf = mean over e of the predicted share of fate f,    q_cf = share of l that is of group f;   (1)

and with all of them relative to their mean over the clones of that time,

    r = sum_tcf p q / sqrt(sum_tcf p^2  sum_tcf q^2):                                              (2)

which clone of one time ends where, and not how common each fate is. Only clones with cells of both
kinds count. Its error is the deviation over samples of the clones with replacement, one for all
predictions and times.
"""

from typing import Any

import numpy as np

from jkonet_star.cells.chain import (
    NEIGHBOURS,
    fates_of_cells,
    nearest_cells,
    similar_cells,
    terminal_fates,
)
from jkonet_star.cells.plans import plan_between

FEWEST = 3
"""Clones at some time."""
METHODS = ("energy", "transport", "no_motion")


def clonal_report(
    points: np.ndarray,
    cells: list[np.ndarray],
    ends: np.ndarray,
    fates: np.ndarray,
    clone: np.ndarray,
    *,
    times: np.ndarray,
    n_bootstrap: int,
    seed: int,
    name: str,
) -> dict[str, Any]:
    """What `cells.tl.clones` writes.

    Args:
        points: of all cells.
        cells: of each snapshot.
        ends: 1 for the group of a terminal cell, (n, f).
        fates: predicted, (n, f).
        clone: number of each cell's clone; negative where it has none.
        times: of the snapshots.
        n_bootstrap: draws.
        seed: of them.
        name: of the entry with the clones.

    Raises:
        ValueError: hardly any clone counts.
    """
    times_of, numbers, shares, members = [], [], [], []
    for k in range(len(cells) - 1):
        rows, own, share = _clonal(cells, ends, clone, k)
        if len(own) >= FEWEST:
            times_of.append(np.full(len(own), k))
            numbers.append(own)
            shares.append(share)
            members.append(rows)
    if not members:
        raise ValueError(
            f"fewer than {FEWEST} clones of obs[{name!r}] have cells that are not terminal yet and "
            "terminal ones later: there is nothing to compare fates with"
        )
    predictions = (
        fates,
        _transported(points, cells, ends, seed),
        _unmoved(points, cells, ends),
    )
    predicted = [np.concatenate([_means(one, rows) for rows in members]) for one in predictions]
    when, seen = np.concatenate(times_of), np.concatenate(shares)
    present, who = np.unique(np.concatenate(numbers), return_inverse=True)
    rng = np.random.default_rng(seed)
    draws = rng.multinomial(len(present), np.full(len(present), 1 / len(present)), n_bootstrap)
    weights = np.concatenate([np.ones((1, len(present))), draws])[:, who]
    steps = np.unique(when)
    whole = np.stack([_correlations(one, seen, when, weights) for one in predicted])
    by_time = np.stack(
        [
            [
                _correlations(
                    one[when == k], seen[when == k], when[when == k], weights[:, when == k]
                )
                for k in steps
            ]
            for one in predicted
        ]
    )
    ahead = whole[:1] - whole[1:]
    return {
        "methods": np.asarray(METHODS, dtype=object),
        "correlation": whole[:, 0],
        "correlation_sd": _deviation(whole),
        "correlation_by_time": by_time[..., 0],
        "correlation_by_time_sd": _deviation(by_time),
        "ahead": ahead[:, 0],
        "ahead_sd": _deviation(ahead),
        "times": times[steps],
        "n_clones": len(present),
        "n_clones_by_time": np.array([(when == k).sum() for k in steps]),
    }


def _deviation(values: np.ndarray) -> np.ndarray:
    """Over the draws, behind what was found itself."""
    draws = values[..., 1:]
    there = np.isfinite(draws)  # of a draw in which something varies
    n = there.sum(axis=-1, keepdims=True)
    mean = np.where(there, draws, 0).sum(axis=-1, keepdims=True) / np.maximum(n, 1)
    square = np.where(there, (draws - mean) ** 2, 0).sum(axis=-1)
    n = n[..., 0]
    return np.where(n > 1, np.sqrt(square / np.maximum(n - 1, 1)), np.nan)


def _clonal(
    cells: list[np.ndarray], ends: np.ndarray, clone: np.ndarray, k: int
) -> tuple[list[np.ndarray], np.ndarray, np.ndarray]:
    """The cells e of each clone that counts at a time, its number, and q of (1)."""
    terminal = ends.sum(axis=1) > 0
    early = cells[k][(clone[cells[k]] >= 0) & ~terminal[cells[k]]]
    later = np.concatenate(cells[k + 1 :])
    later = later[(clone[later] >= 0) & terminal[later]]
    both = np.intersect1d(clone[early], clone[later])
    early = early[np.isin(clone[early], both)]
    early = early[np.argsort(clone[early], kind="stable")]
    rows = np.split(early, np.flatnonzero(np.diff(clone[early])) + 1) if len(both) else []
    later = later[np.isin(clone[later], both)]
    total = np.zeros((len(both), ends.shape[1]))
    np.add.at(total, np.searchsorted(both, clone[later]), ends[later])
    return rows, both, total / np.maximum(total.sum(axis=1, keepdims=True), 1)


def _means(values: np.ndarray, rows: list[np.ndarray]) -> np.ndarray:
    return np.stack([values[own].mean(axis=0) for own in rows])


def _transported(
    points: np.ndarray, cells: list[np.ndarray], ends: np.ndarray, seed: int
) -> np.ndarray:
    """Fates by balanced plans between the cells as they are."""
    plans = [
        plan_between(points[now], np.ones(len(now)), points[after], seed)
        for now, after in zip(cells[:-1], cells[1:], strict=True)
    ]
    return fates_of_cells(
        cells,
        ends,
        plans,
        [np.ones(len(own)) for own in cells[:-1]],
        terminal_fates(points[cells[-1]], ends[cells[-1]]),
        [similar_cells(points[own]) for own in cells[:-1]],
    )


def _unmoved(points: np.ndarray, cells: list[np.ndarray], ends: np.ndarray) -> np.ndarray:
    """Fates of the terminal cells of the last time next to each cell."""
    last = cells[-1][ends[cells[-1]].sum(axis=1) > 0]
    return ends[last][nearest_cells(points[last], points, NEIGHBOURS)[0]].mean(axis=1)


def _correlations(
    predicted: np.ndarray, seen: np.ndarray, when: np.ndarray, weights: np.ndarray
) -> np.ndarray:
    """Equation (2), for every row of weights; NaN where nothing varies."""
    products, squares, others = (np.zeros(len(weights)) for _ in range(3))
    for k in np.unique(when):
        own = when == k
        w, p, q = weights[:, own], predicted[own], seen[own]
        total = np.maximum(w.sum(axis=1), 1)[:, None]
        mean_p, mean_q = w @ p / total, w @ q / total
        products += (w @ (p * q) - total * mean_p * mean_q).sum(axis=1)
        squares += (w @ p**2 - total * mean_p**2).sum(axis=1)
        others += (w @ q**2 - total * mean_q**2).sum(axis=1)
    scale = np.sqrt(np.maximum(squares, 0) * np.maximum(others, 0))
    return products / np.where(scale > 1e-12 * len(seen), scale, np.nan)
