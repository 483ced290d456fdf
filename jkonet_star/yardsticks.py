"""What a prediction is measured beside: no motion, other particles of the same day, lookups.

The step from mu_k to mu_{k+1} is judged by some particles of mu_{k+1}. Beside the prediction, the
same scores are taken of

    no motion     mu_k itself                                                                      (1)
    floor         other particles of the same day, those learned from                              (2)
    lookup        x + y_j - x_j:  x moves as the nearest particle x_j that was learned from does
                  in the coupling, to one of its partners y_j, drawn by its weight                 (3)
    lookup, mean  x + mean_j (bar y_j - x_j)  of the ten nearest, bar y_j the mean of the partners (4)

(2) to (4) need what was learned from. Where the judged population is that one, its particles in
whatever order, it is halved: one half of a day's particles judges, (2) is the other half, and in (3)
and (4) a particle is no neighbour of itself and no partner is in the half that judges.

A step is judged on as many particles a side as (1), (2) and the observed population all have, at
most `MOST_JUDGED`, W_1 and W_2 on at most `MOST_TRANSPORTED` of them; where mu_k and mu_{k+1} have
as many particles, on the same rows of both. Their choice, and whatever else is drawn, comes from a
key of its own.
"""

import dataclasses
import functools
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jax
import numpy as np

from diffusions.arguments import checked
from diffusions.short_repr import short_repr
from diffusions.typing import Float, HostArray, Int, Key
from jkonet_star.snapshots import Snapshots, sorted_rows
from jkonet_star.transport.couplings import Couplings, check_couplings
from jkonet_star.transport.exact import wasserstein
from jkonet_star.two_samples import c2st, energy_distance, nearest, spread, variance_ratio

MOST_JUDGED = 2000
MOST_TRANSPORTED = 500
"""Exact transport is cubic: five populations a step are transported, where one is learned."""
NEAREST = 10
YARDSTICKS = ("no_motion", "floor", "lookup", "lookup_mean")

Found = dict[str, float]
"""Score by name; NaN where there is none."""


@dataclasses.dataclass(frozen=True)
class Sample:
    """Some particles, and their weights of sum 1."""

    points: Float[np.ndarray, "n d"]
    weights: Float[np.ndarray, "n"]

    @functools.cached_property
    def spread(self) -> float:
        """Mean distance of two of its particles."""
        return spread(self.points, self.weights)


@dataclasses.dataclass(frozen=True)
class Step:
    """What judges a step."""

    observed: Sample
    rows: Int[np.ndarray, "n"]  # of the snapshot before, whose predictions are judged
    entropy: tuple[int, ...]  # of what is drawn
    yardsticks: dict[str, Found]


@dataclasses.dataclass(frozen=True)
class Yardsticks:
    """What predictions of a population are judged by: made once, whatever is judged."""

    steps: tuple[Step, ...]
    orders: tuple[int, ...]
    halved: bool

    __repr__ = short_repr


def sample_of(points: HostArray, weights: HostArray, rows: Int[np.ndarray, "n"]) -> Sample:
    """Some rows of a population; what has no weight has none of its particles."""
    mass = weights[rows].astype(np.float64)
    return Sample(points[rows].astype(np.float64), mass / mass.sum())


def scores_of(
    sample: Sample, observed: Sample, orders: tuple[int, ...], entropy: tuple[int, ...]
) -> Found:
    """All scores of one step; what is not finite is infinitely far, and has no other score."""
    if not (np.isfinite(sample.points).all() and np.isfinite(sample.weights).all()):
        far = dict.fromkeys(("energy_distance", *(f"w{p}" for p in orders)), float("inf"))
        return {"c2st": float("nan"), "variance_ratio": float("nan"), **far}
    x, a, y, b = sample.points, sample.weights, observed.points, observed.weights
    # A prediction beyond all bounds has no distance; it must not end the others'.
    with np.errstate(all="ignore"):
        found = {
            "energy_distance": energy_distance(x, y, a, b, spread_y=observed.spread),
            "c2st": c2st(x, y, a, b, np.random.default_rng(entropy)),
            "variance_ratio": variance_ratio(x, y, a, b),
        }
        few = slice(0, MOST_TRANSPORTED)
        for p in orders:
            found[f"w{p}"] = wasserstein(x[few], y[few], a[few], b[few], order=p)
    return found


@checked
def measure_yardsticks(
    snapshots: Snapshots,
    *,
    learned_from: Snapshots | None = None,
    couplings: Couplings | None = None,
    order: int = 1,
    key: Key | None = None,
) -> Yardsticks:
    """Equations (1) to (4), and the particles that judge.

    Args:
        snapshots: the observed population.
        learned_from: that of the fit; its steps are found by their times.
        couplings: of `learned_from`.
        order: 2 for W_2 beside W_1.
        key: of the choice of particles, and of the partners; one and the same where absent.

    Raises:
        ValueError: couplings without, or not of, `learned_from`; another dimension; an order other
            than 1 and 2.
    """
    if order not in (1, 2):
        raise ValueError(f"the order of the distance must be 1 or 2, got {order}")
    learned = None
    if learned_from is not None:
        if learned_from.dimension != snapshots.dimension:
            raise ValueError(
                f"the energy was learned from snapshots of dimension {learned_from.dimension}, the "
                f"snapshots that judge it have dimension {snapshots.dimension}"
            )
        learned = _Learned(learned_from, couplings, snapshots)
    elif couplings is not None:
        raise ValueError("couplings need the snapshots that they are of: learned_from")
    seed = [] if key is None else np.asarray(jax.random.key_data(key)).ravel().tolist()
    orders = tuple(range(1, order + 1))

    shared = [
        None if learned is None else learned.rows_of(snapshots, k)
        for k in range(snapshots.n_snapshots)
    ]

    def one(k: int) -> Step:
        return _step(snapshots, k, learned, shared[k : k + 2], orders, (*seed, k))

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        steps = tuple(pool.map(one, range(snapshots.n_steps)))
    halved = any(rows is not None for rows in shared[1:])
    return Yardsticks(steps, orders, halved)


class _Learned:
    """The population that was learned from, in the frame of the one that judges."""

    def __init__(self, own: Snapshots, couplings: Couplings | None, judge: Snapshots):
        self.shift = np.zeros(own.dimension)
        for origin, sign in ((own.origin, 1.0), (judge.origin, -1.0)):
            if origin is not None:
                self.shift += sign * np.asarray(origin, np.float64)
        self.packed = np.asarray(own.points)
        self.weights = np.asarray(own.weights, np.float64)
        self.times = own.time_values()
        self.pairs: tuple[HostArray, ...] | None = None
        if couplings is not None:
            check_couplings(couplings, own)
            self.pairs = tuple(
                np.asarray(getattr(couplings, name))
                for name in ("step", "source", "target", "weight")
            )

    def points(self, j: int, rows: Any = slice(None)) -> HostArray:
        """Some rows of a snapshot, in double precision."""
        return self.packed[j, rows].astype(np.float64) + self.shift

    def _searched(self, j: int, rows: Int[np.ndarray, "n"]) -> HostArray:
        """The same points as they are stored, where that is what they are: a search converts them."""
        if self.shift.any():
            return self.points(j, rows)
        stored = self.packed[j]
        return stored if len(rows) == len(stored) else stored[rows]

    def snapshot(self, time: float) -> int | None:
        """The snapshot at a time."""
        near = np.abs(self.times - time) <= 1e-5 * np.diff(self.times).min()
        return int(near.argmax()) if near.any() else None

    def rows_of(self, judge: Snapshots, k: int) -> Int[np.ndarray, "n"] | None:
        """By row of a snapshot of the judging population, the row here; None if it is another one.

        Equal particles in another order are the same population. Padding has row -1.
        """
        j = self.snapshot(judge.time_values()[k])
        if j is None:
            return None
        points = np.asarray(judge.points)[k]
        weights = np.asarray(judge.weights)[k].astype(np.float64)
        if np.count_nonzero(weights) != np.count_nonzero(self.weights[j]):
            return None
        own, other = sorted_rows(self.packed[j], self.weights[j]), sorted_rows(points, weights)
        if not np.array_equal(self.points(j, own), points[other]):
            return None
        rows = np.full(len(points), -1)
        rows[other] = own
        return rows

    def lookup(
        self,
        x: Float[np.ndarray, "n d"],
        rows: Int[np.ndarray, "n"] | None,
        j: int,
        judging: Int[np.ndarray, "m"] | None,
        rng: np.random.Generator,
    ) -> tuple[HostArray, HostArray] | None:
        """Where the lookups (3) and (4) take particles, or None without couplings.

        Args:
            x: the particles.
            rows: theirs here, where they are of this population: no particle is its own neighbour.
            j: the step.
            judging: rows here of those that judge, where the next snapshot is of this population.
            rng: of the partners.
        """
        if self.pairs is None:
            return None
        step, source, target, weight = self.pairs
        inside = (step == j) & (weight > 0)
        if judging is not None:
            inside &= ~np.isin(target, judging)
        inside = np.flatnonzero(inside)
        inside = inside[np.argsort(source[inside], kind="stable")]
        sources, starts = np.unique(source[inside], return_index=True)
        if len(sources) < 2:
            return None
        weight = weight[inside].astype(np.float64)
        near = nearest(self._searched(j, sources), x, NEAREST + 1)
        if rows is not None:
            # The sort is stable: whatever is not the particle itself keeps its place.
            order = np.argsort(sources[near] == rows[:, None], axis=1, kind="stable")
            near = np.take_along_axis(near, order, axis=1)
        near = near[:, : min(NEAREST, near.shape[1] - (rows is not None))]
        stops = np.append(starts[1:], len(inside))
        levels = np.cumsum(weight)
        low = levels[starts] - weight[starts]
        high = np.append(low[1:], levels[-1])
        first = near[:, 0]
        drawn = low[first] + rng.random(len(x)) * (high - low)[first]
        partner = np.clip(np.searchsorted(levels, drawn), starts[first], stops[first] - 1)

        def shift(pairs: Int[np.ndarray, "m"]) -> Float[np.ndarray, "m d"]:
            rows = inside[pairs]
            return self.points(j + 1, target[rows]) - self.points(j, source[rows])

        # Of the neighbours alone: of a million particles they are few.
        asked, place = np.unique(near, return_inverse=True)
        sizes = stops[asked] - starts[asked]
        begins = np.cumsum(sizes) - sizes
        pairs = np.arange(sizes.sum()) + np.repeat(starts[asked] - begins, sizes)
        mean = np.add.reduceat(weight[pairs, None] * shift(pairs), begins)
        mean /= np.add.reduceat(weight[pairs], begins)[:, None]
        return x + shift(partner), x + mean[place.reshape(near.shape)].mean(axis=1)


def _step(
    snapshots: Snapshots,
    k: int,
    learned: _Learned | None,
    shared: Sequence[Int[np.ndarray, "n"] | None],
    orders: tuple[int, ...],
    entropy: tuple[int, ...],
) -> Step:
    """What judges step k, and its yardsticks; `shared` are `_Learned.rows_of` its two snapshots."""
    rng = np.random.default_rng(entropy)
    points = np.asarray(snapshots.points)[k : k + 2]
    weights = np.asarray(snapshots.weights)[k : k + 2].astype(np.float64)
    start, end = (np.flatnonzero(w) for w in weights)
    before, after = (
        None if learned is None else learned.snapshot(t) for t in snapshots.time_values()[k : k + 2]
    )
    size = min(len(start), len(end), MOST_JUDGED)
    own_start, own_end = shared
    others = np.empty(0, np.int64)
    if learned is not None and after is not None and own_end is None:
        others = rng.permutation(np.flatnonzero(learned.weights[after]))
        size = min(size, len(others))
    elif len(end) > 1 and own_end is not None:
        size = min(size, len(end) // 2)
    order = rng.permutation(max(len(start), len(end)))
    rows, judging = start[order[order < len(start)][:size]], end[order[order < len(end)]]
    if own_end is not None:
        others = own_end[judging[size:]]
    judging, others = judging[:size], others[:size]
    observed = sample_of(points[1], weights[1], judging)
    samples = {"no_motion": sample_of(points[0], weights[0], rows)}
    if learned is not None and after is not None and len(others):
        floor = learned.weights[after][others]
        samples["floor"] = Sample(learned.points(after, others), floor / floor.sum())
    if learned is not None and before is not None and after == before + 1:
        ends = learned.lookup(
            points[0, rows].astype(np.float64),
            None if own_start is None else own_start[rows],
            before,
            None if own_end is None else own_end[judging],
            rng,
        )
        for name, moved in zip(("lookup", "lookup_mean"), ends or (), strict=False):
            samples[name] = Sample(moved, samples["no_motion"].weights)
    found = {name: scores_of(sample, observed, orders, entropy) for name, sample in samples.items()}
    return Step(observed, rows, entropy, found)
