"""The Gaussian mixture of points: how many components of which kind, by points kept out of the fit.

Candidates are copies of one shape (`diffusions.density.shared_shape`), pairs of a number of copies and
a number of components of the shape; a single Gaussian is one of them. A tenth of the points is
kept out. By their likelihood a grid of pairs is screened with few iterations, the neighbours of the
best are added, and the best few are fitted to the end. Their mixture

    p = sum_b u_b p_b,   u to maximise the likelihood of the points kept out,                      (1)

is a mixture again (Smyth and Wolpert, Linearly combining density estimators via stacking, Machine
Learning 1999).
"""

import dataclasses
from collections.abc import Iterable

import jax.numpy as jnp
import numpy as np
from scipy.special import logsumexp

from diffusions.arguments import checked
from diffusions.density.exact import GaussianMixture
from diffusions.density.expectation_maximisation import (
    Mixture,
    covariance,
    covariance_floor,
    log_densities,
    precision_factors,
)
from diffusions.density.mixture_reference import MixtureReference
from diffusions.density.shared_shape import fit_shared_shape
from diffusions.short_repr import short_repr
from diffusions.typing import Float, HostArray

COPIES = (1, 2, 4, 8, 12, 16, 20, 24, 32, 48, 64, 96, 128, 160, 192, 256)
COMPONENTS = (1, 2, 4, 8, 16, 32, 64, 128)
SCREENED_COMPONENTS = (1, 16)
"""Of a shape that has several copies; of a single copy all are."""
SCREENING, FINAL = 25, 150
"""Iterations, at most."""
MEMBERS = 4
"""Of equation (1), at most."""
LEAST_SHARE = 0.02
"""Of a member that is kept."""
FLOOR = 1e-7
"""Of the covariances, relative to that of all points."""
HELD_OUT = 0.1
"""Share of the points that the choice is made by."""
LEAST_POINTS = 20
MOST_COMPONENTS = 400
"""Of all members together, where there are several: a denoiser visits all of them."""
MOST_WORK, MOST_SCREENED = 3e8, 1.5e8
"""Of an iteration, in points times components times (50 + d^2): tenths of a second; of the grid's."""

Pair = tuple[int, int]
"""Copies, and components of their shape."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class ChosenMixture:
    """A fitted mixture, and how it was chosen.

    Attributes:
        reference: the mixture.
        held_out: (m,) numbers of the points that it was chosen by and not fitted to.
        held_out_nll: mean of -log p over them, in nats.
        members: copies, components of their shape and share of each member of (1).
    """

    reference: MixtureReference
    held_out: HostArray
    held_out_nll: float
    members: tuple[tuple[int, int, float], ...]

    __repr__ = short_repr

    @property
    def in_words(self) -> str:
        """Such as `17 x 32 Gaussians`."""
        pairs = " and ".join(f"{copies} x {components}" for copies, components, _ in self.members)
        return f"{pairs} Gaussians"


class _Candidates:
    """Fits to the points that are not kept out, judged by those that are."""

    def __init__(self, train: HostArray, judges: HostArray, seed: int):
        self.train, self.judges, self.seed = train, judges, seed
        equal = np.full(len(train), 1.0 / len(train))
        self.mean, self.total = equal @ train, covariance(train, equal)
        self.floor = covariance_floor(self.total, 1.0, FLOOR)
        self.distinct = len(np.unique(train, axis=0))
        self.scores: dict[Pair, float] = {}

    def fitted(self, pair: Pair, iterations: int) -> Mixture:
        """The mixture of a pair."""
        if pair == (1, 1):  # whose moments are at hand, in any dimension
            return np.ones(1), self.mean[None], precision_factors(self.total + self.floor)[None]
        # Each has a stream of its own, so that none depends on which others were tried.
        generator = np.random.default_rng([self.seed, *pair])
        shape = fit_shared_shape(self.train, *pair, self.floor, generator, iterations=iterations)
        return shape.mixture()

    def screen(self, pairs: Iterable[Pair], most_work: float = MOST_SCREENED) -> None:
        """Judges pairs that can be afforded."""
        n, d = self.train.shape
        for pair in pairs:
            few_enough = pair[0] <= self.distinct // 2 and pair[1] * (d + 1) <= self.distinct
            affordable = n * pair[0] * pair[1] * (50 + d * d) <= most_work
            if pair == (1, 1) or (few_enough and affordable):
                found = log_densities(self.judges, self.fitted(pair, SCREENING))
                self.scores[pair] = -float(found.mean())

    def best(self) -> list[Pair]:
        """The pairs of highest likelihood, the highest first, as many as (1) may have."""
        kept: list[Pair] = []
        for pair in sorted(self.scores, key=self.scores.__getitem__):
            total = sum(copies * components for copies, components in [*kept, pair])
            if len(kept) < MEMBERS and (not kept or total <= MOST_COMPONENTS):
                kept.append(pair)
        return kept


def _steps(value: int, grid: tuple[int, ...]) -> list[int]:
    """A number of a grid and those beside it."""
    i = grid.index(value)
    return list(grid[max(i - 1, 0) : i + 2])


@checked
def chosen_mixture(x: Float[np.ndarray, "n d"], seed: int) -> ChosenMixture:
    """The mixture (1) of points.

    Args:
        x: the points.
        seed: of the points that are kept out and of the first centres: the same seed, the same mixture.

    Raises:
        ValueError: too few points, numbers that are not finite, or a constant coordinate.
    """
    points = np.asarray(x, np.float64)
    check_points(points)
    n = len(points)
    order = np.random.default_rng([seed, 0]).permutation(n)
    held_out = np.sort(order[: round(HELD_OUT * n)])
    origin = points.mean(axis=0)
    points = points - origin
    candidates = _Candidates(np.delete(points, held_out, axis=0), points[held_out], seed)
    candidates.screen((1, j) for j in COMPONENTS)
    candidates.screen((c, j) for c in COPIES[1:] for j in SCREENED_COMPONENTS)
    while True:
        copies, components = candidates.best()[0]
        beside = [(c, j) for c in _steps(copies, COPIES) for j in _steps(components, COMPONENTS)]
        known = len(candidates.scores)
        candidates.screen((p for p in beside if p not in candidates.scores), MOST_WORK)
        if len(candidates.scores) == known:
            break
    best = candidates.best()
    mixtures = [candidates.fitted(pair, FINAL) for pair in best]
    logs = np.stack([log_densities(candidates.judges, mixture) for mixture in mixtures])
    shares = stacked_shares(logs)
    kept = shares >= LEAST_SHARE
    shares = np.where(kept, shares, 0.0) / shares[kept].sum()
    return ChosenMixture(
        reference=MixtureReference(
            _on_device(
                [m for m, keep in zip(mixtures, kept, strict=True) if keep], shares[kept], origin
            )
        ),
        held_out=held_out,
        held_out_nll=-float(logsumexp(logs[kept], axis=0, b=shares[kept, None]).mean()),
        members=tuple(
            (*pair, float(share)) for pair, share in zip(best, shares, strict=True) if share
        ),
    )


@checked
def stacked_shares(logs: Float[np.ndarray, "b n"]) -> Float[np.ndarray, "b"]:
    """The u of equation (1), by expectation maximisation.

    Args:
        logs: log density of each member at each of the points kept out.
    """
    shares = np.full(len(logs), 1.0 / len(logs))
    densities = np.exp(logs - logs.max(axis=0))
    for _ in range(FINAL):
        joint = shares[:, None] * densities
        shares = (joint / joint.sum(axis=0)).mean(axis=1)
    return shares


def _on_device(mixtures: list[Mixture], shares: HostArray, origin: HostArray) -> GaussianMixture:
    weights = np.concatenate([u * mixture[0] for u, mixture in zip(shares, mixtures, strict=True)])
    means = np.concatenate([mixture[1] for mixture in mixtures]) + origin
    factors = np.concatenate([mixture[2] for mixture in mixtures])
    # Singular vectors and values of W give those of S = (W^T W)^-1 without forming it.
    _, values, vectors = np.linalg.svd(factors)
    return GaussianMixture(
        weights=jnp.asarray(weights, jnp.float32),
        means=jnp.asarray(means, jnp.float32),
        eigenvalues=jnp.asarray(values**-2.0, jnp.float32),
        eigenvectors=jnp.asarray(np.swapaxes(vectors, -1, -2), jnp.float32),
    )


def check_points(points: HostArray) -> None:
    """Raises ValueError, saying why, where no mixture can be fitted to points."""
    if len(points) < LEAST_POINTS:
        raise ValueError(
            f"a mixture needs at least {LEAST_POINTS} points, got {len(points)}; a Gaussian needs fewer"
        )
    if not np.isfinite(points).all():
        row = int(np.flatnonzero(~np.isfinite(points).all(axis=1))[0])
        raise ValueError(
            f"the points must be finite, and number {row} is {points[row].tolist()[:8]}"
        )
    constant = np.flatnonzero(np.ptp(points, axis=0) == 0.0)
    if len(constant):
        raise ValueError(
            f"coordinate {constant[0]} is the same for all points: leave it out, a density has no "
            "value along it"
        )
