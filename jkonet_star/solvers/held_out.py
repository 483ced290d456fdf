"""What `solver="auto"` judges its candidates by: particles held out, and distances to them.

Equations are those of `choice`.
"""

import dataclasses
import itertools
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from diffusions.keys import named_key
from diffusions.typing import HostArray, Key
from jkonet_star.fitted import FittedEnergy
from jkonet_star.snapshots import Snapshots
from jkonet_star.two_samples import (
    Contributions,
    c2st,
    contributions,
    variance_of_difference,
)

HELD_OUT = 0.25
MOST_COMPARED = 1000
ENOUGH_HELD_OUT = 1500
"""Particles held out, over all snapshots, below which others are held out once more."""


class WeightedParticles(NamedTuple):
    """Particles of one snapshot, and weights of sum one."""

    points: HostArray
    weights: HostArray


def held_out_splits(
    snapshots: Snapshots, key: Key
) -> list[tuple[Snapshots, list[WeightedParticles]]]:
    """Snapshots to learn from, and the particles held out of each, which have no weight there.

    Of few particles there are two such splits, which hold out others: how many of a branch happen to
    be held out must not decide. Errors take them for independent, though they share particles that are
    learned from.
    """
    rng = np.random.default_rng(np.asarray(jax.random.key_data(key)).ravel())
    points, weights = snapshots.arrays(), np.asarray(snapshots.weights)
    rows = [np.flatnonzero(w) for w in weights]
    orders = [rng.permutation(len(own)) for own in rows]
    counts = [int(HELD_OUT * len(order)) for order in orders]
    few = sum(min(count, MOST_COMPARED) for count in counts) < ENOUGH_HELD_OUT
    splits = []
    for number in range(2 if few else 1):
        kept, held = weights.copy(), []
        for k, (order, count) in enumerate(zip(orders, counts, strict=True)):
            chosen = order[number * count : (number + 1) * count]
            seen = chosen[:MOST_COMPARED]
            own = np.asarray(weights[k, rows[k][seen]], np.float64)
            held.append(WeightedParticles(points[k][seen], own / own.sum()))
            kept[k, rows[k][chosen]] = 0
            kept[k] /= kept[k].sum()
        splits.append((dataclasses.replace(snapshots, weights=jnp.asarray(kept)), held))
    return splits


class HeldOutDistances:
    """Energy distances of an energy's predictions, and what each particle adds to them."""

    def __init__(
        self,
        judged: Sequence[tuple[FittedEnergy, Sequence[WeightedParticles]]],
        exponent: float = 1.0,
    ):
        self.parts, accuracies, self.answers = list[Contributions](), [], 0
        self.weights = []
        for energy, population in judged:
            for k, (start, end) in enumerate(itertools.pairwise(population)):
                key = jax.random.fold_in(named_key(jax.random.key(0), "held out"), k)
                found = energy.predict_weighted(
                    start.points, 1, start=k, key=key, weights=start.weights
                )
                z, a, b = np.asarray(found.points[-1], np.float64), start.weights, end.weights
                if energy.growth_rate is not None:
                    grown = np.asarray(found.weights[-1], np.float64)
                    with np.errstate(invalid="ignore"):  # it is seen below
                        a = grown / grown.sum()
                self.weights.append((start.weights, b))
                self.parts.append(contributions(z, end.points, a, b, exponent=exponent))
                finite = np.isfinite(z).all() and np.isfinite(a).all()
                rng = np.random.default_rng(k)
                accuracies.append(c2st(z, end.points, a, b, rng) if finite else np.nan)
                self.answers += 2 * min(len(a), len(b))
        self.mean = float(np.mean([part.distance for part in self.parts]))
        self.accuracy = float(np.mean(accuracies))
        if not np.isfinite(self.mean):
            self.mean = float("inf")

    def error_of_difference(self, other: "HeldOutDistances") -> float:
        """The root of equation (2), of the means over the steps; of weighted particles likewise."""
        variance = sum(
            variance_of_difference(mine, its, *weights)
            for mine, its, weights in zip(self.parts, other.parts, self.weights, strict=True)
        )
        return float(np.sqrt(variance)) / len(self.parts)
