"""The density of each snapshot, for the internal energy: log density and score.

A Gaussian mixture, with S_k^-1 = W_k^T W_k and z_k(x) = W_k (x - m_k),

    log rho(x) = log sum_k pi_k |det W_k| exp(-|z_k|^2 / 2) - d/2 log 2 pi                       (1)
    grad log rho(x) = -sum_k r_k(x) W_k^T z_k(x)                                                 (2)

where r_k(x) are the responsibilities, the softmax of the terms of (1). A Gaussian kernel density is
the mixture with one component per particle, m_i = x_i, pi_i = w_i, and one covariance, Scott's rule
times `bandwidth_scale` s:

    H = s^2 n_eff^(-2 / (d + 4)) S,   n_eff = 1 / sum_i w_i^2,   S the particles' covariance.    (3)

Everything happens on the log scale and the density is never floored: far from all particles the
score grows linearly, as a Gaussian's does, where a floor would make it zero.
"""

import logging
from collections.abc import Mapping
from typing import TypeAlias

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

from diffusions.arguments import checked
from diffusions.density.expectation_maximisation import (
    MixtureFit,
    covariance,
    covariance_floor,
    fit_mixture,
    precision_factors,
)
from diffusions.precision import einsum, matmul
from diffusions.short_repr import count, known, short_repr
from diffusions.typing import Array, Float, HostArray, Int, Key
from jkonet_star.fit_report import DensityReport
from jkonet_star.settings import DensitySettings
from jkonet_star.snapshots import Snapshots

logger = logging.getLogger(__name__)

# Particles of a kernel density visited at a time: memory is O(batch x block x d).
KERNEL_BLOCK_SIZE = 2048


@flax.struct.dataclass
class GaussianMixtures:
    """One Gaussian mixture per snapshot, equation (1)."""

    log_weights: Float[Array, "t k"]
    means: Float[Array, "t k d"]
    precision_factors: Float[Array, "t k d d"]  # lower triangular W, inverse covariance W^T W

    def __repr__(self) -> str:
        if not known(self.means) or self.means.ndim != 3:
            return short_repr(self)
        snapshots, components, d = self.means.shape
        return (
            f"GaussianMixtures({count(snapshots, 'snapshot')}, {count(components, 'component')} each, "
            f"dimension {d})"
        )

    @property
    def dimension(self) -> int:
        """Dimension d of the state space."""
        return self.means.shape[-1]

    @checked(d=lambda densities: densities.dimension)
    def log_density(self, snapshot: Int[Array, ""] | int, x: Float[Array, "d"]) -> Float[Array, ""]:
        """Equation (1) of one snapshot at one point; both may be traced and batched by vmap."""
        return jax.nn.logsumexp(self._terms(snapshot, x)[0])

    @checked(d=lambda densities: densities.dimension)
    def score(self, snapshot: Int[Array, ""] | int, x: Float[Array, "d"]) -> Float[Array, "d"]:
        """Equation (2) of one snapshot at one point, in closed form."""
        terms, white = self._terms(snapshot, x)
        factors = self.precision_factors[snapshot]
        return -einsum("k,kij,ki->j", jax.nn.softmax(terms), factors, white)

    def _terms(self, snapshot, x):
        """The terms of (1), (k,), and z_k, (k, d)."""
        factors = self.precision_factors[snapshot]
        white = einsum("kij,kj->ki", factors, x[None] - self.means[snapshot])
        terms = self.log_weights[snapshot] + _log_determinant(factors) - 0.5 * (white**2).sum(-1)
        return terms - 0.5 * x.shape[-1] * jnp.log(2 * jnp.pi), white


@flax.struct.dataclass
class KernelDensities:
    """One Gaussian kernel density per snapshot, equations (1) and (3)."""

    points: Float[Array, "t blocks block d"]
    log_weights: Float[Array, "t blocks block"]  # -inf marks padding
    precision_factor: Float[Array, "t d d"]  # lower triangular W, H^-1 = W^T W

    def __repr__(self) -> str:
        if not known(self.log_weights) or self.log_weights.ndim != 3:
            return short_repr(self)
        most = int(np.isfinite(np.asarray(self.log_weights)).sum(axis=(1, 2)).max())
        snapshots = count(len(self.log_weights), "snapshot")
        return (
            f"KernelDensities({snapshots} of up to {count(most, 'particle')}, "
            f"dimension {self.dimension})"
        )

    @property
    def dimension(self) -> int:
        """Dimension d of the state space."""
        return self.points.shape[-1]

    @checked(d=lambda densities: densities.dimension)
    def log_density(self, snapshot: Int[Array, ""] | int, x: Float[Array, "d"]) -> Float[Array, ""]:
        """Equation (1) of one snapshot at one point; both may be traced and batched by vmap."""
        top, total, _ = self._sums(snapshot, x)
        normaliser = _log_determinant(self.precision_factor[snapshot])
        return top + jnp.log(total) + normaliser - 0.5 * x.shape[-1] * jnp.log(2 * jnp.pi)

    @checked(d=lambda densities: densities.dimension)
    def score(self, snapshot: Int[Array, ""] | int, x: Float[Array, "d"]) -> Float[Array, "d"]:
        """Equation (2) of one snapshot at one point, in closed form."""
        _, total, white = self._sums(snapshot, x)
        factor = self.precision_factor[snapshot]
        return -matmul(white / total, factor)

    def _sums(self, snapshot, x):
        """top, sum_i exp(l_i - top) and sum_i exp(l_i - top) z_i, block by block."""
        factor = self.precision_factor[snapshot]

        def add_block(carry, block):
            top, total, weighted = carry
            offset = x[None] - self.points[snapshot, block]
            white = matmul(offset, factor.T)
            terms = self.log_weights[snapshot, block] - 0.5 * (white**2).sum(-1)
            # The result does not depend on the shift, so neither does its derivative.
            new_top = jax.lax.stop_gradient(jnp.maximum(top, terms.max()))
            shrink, mass = jnp.exp(top - new_top), jnp.exp(terms - new_top)
            moment = matmul(mass, white)
            return (new_top, total * shrink + mass.sum(), weighted * shrink + moment), None

        # Finite, so that a block of padding only leaves no inf - inf.
        lowest = jnp.asarray(jnp.finfo(x.dtype).min, x.dtype)
        start = (lowest, jnp.zeros((), x.dtype), jnp.zeros_like(x))
        return jax.lax.scan(add_block, start, jnp.arange(self.points.shape[1]))[0]


Densities: TypeAlias = GaussianMixtures | KernelDensities

_KINDS: dict[str, type[GaussianMixtures] | type[KernelDensities]] = {
    "gaussian-mixtures": GaussianMixtures,
    "kernel-densities": KernelDensities,
}


@checked
def fit_densities(
    snapshots: Snapshots,
    settings: DensitySettings = DensitySettings(),  # noqa: B008 (frozen)
    *,
    key: Key,
) -> Densities | None:
    """Estimates the density of every snapshot.

    A snapshot with fewer distinct particles than `n_components` gets one component per distinct
    particle, and a warning in the log.

    Args:
        snapshots: the populations; padding takes no part and weights are honoured.
        settings: the estimator.
        key: draws the mixtures' first centres; a kernel density does not use it.

    Returns:
        The densities, of points as the snapshots store them; None where `n_components` is 0.
    """
    if settings.n_components == 0:
        return None
    points, present = np.asarray(snapshots.points, np.float64), np.asarray(snapshots.weights) > 0
    arrays = [p[rows] for p, rows in zip(points, present, strict=True)]
    weights = [w.astype(np.float64) for w in snapshots.array_weights()]
    weights = [w / w.sum() for w in weights]
    # Sorting makes the fit a function of the population, whatever the order of its rows.
    orders = [np.lexsort((w, *p.T)) for p, w in zip(arrays, weights, strict=True)]
    arrays = [p[order] for p, order in zip(arrays, orders, strict=True)]
    weights = [w[order] for w, order in zip(weights, orders, strict=True)]
    totals = [covariance(p, w) for p, w in zip(arrays, weights, strict=True)]
    floors = [covariance_floor(total, _fallback_variance(arrays)) for total in totals]
    dtype = snapshots.points.dtype
    if settings.method == "kde":
        return _kernel_densities(arrays, weights, totals, floors, settings.bandwidth_scale, dtype)
    fits = []
    for i, (p, w, floor) in enumerate(zip(arrays, weights, floors, strict=True)):
        n_distinct = len(np.unique(p, axis=0))
        if n_distinct < settings.n_components:
            logger.warning(
                "snapshot %d has %d distinct particles and gets as many components, not %d",
                i,
                n_distinct,
                settings.n_components,
            )
        # NumPy's generator needs no compilation for each new population size.
        generator = np.random.default_rng(
            np.asarray(jax.random.key_data(jax.random.fold_in(key, i)))
        )
        fits.append(fit_mixture(p, w, min(settings.n_components, n_distinct), floor, generator))
    return _stacked(fits, dtype)


def density_report(densities: Densities) -> DensityReport:
    """What a fit shall know of its densities."""
    if isinstance(densities, GaussianMixtures):
        return DensityReport(kind="gaussian-mixtures", components=densities.means.shape[1])
    particles = np.isfinite(np.asarray(densities.log_weights)).sum(axis=(1, 2))
    return DensityReport(kind="kernel-densities", components=int(particles.max()))


def to_arrays(densities: Densities) -> dict[str, HostArray]:
    """The densities as arrays for an .npz; `kind` tells which class they are."""
    kind = next(name for name, cls in _KINDS.items() if isinstance(densities, cls))
    fields = {name: np.asarray(value) for name, value in vars(densities).items()}
    return {"kind": np.array(kind), **fields}


def from_arrays(arrays: Mapping[str, HostArray]) -> Densities:
    """The inverse of `to_arrays`.

    Args:
        arrays: a mapping such as an open .npz; other entries are ignored.

    Returns:
        The densities.

    Raises:
        ValueError: an unknown kind, or a missing entry.
    """
    if "kind" not in arrays or str(arrays["kind"]) not in _KINDS:
        found = str(arrays["kind"]) if "kind" in arrays else "none"
        raise ValueError(f"unknown kind of density {found!r} (accepted: {', '.join(_KINDS)})")
    cls = _KINDS[str(arrays["kind"])]
    names = list(cls.__dataclass_fields__)
    missing = [name for name in names if name not in arrays]
    if missing:
        raise ValueError(f"{arrays['kind']} lack {', '.join(missing)}")
    return cls(**{name: jnp.asarray(arrays[name]) for name in names})


def _log_determinant(factor: Float[Array, "... d d"]) -> Float[Array, "..."]:
    """Logarithm of det W, for triangular W."""
    return jnp.log(jnp.diagonal(factor, axis1=-2, axis2=-1)).sum(-1)


def _fallback_variance(arrays: list[HostArray]) -> float:
    """A variance to measure a snapshot by that has none: all snapshots', then the points' size."""
    points = np.concatenate(arrays)
    return float(points.var(axis=0).mean() or (points**2).mean() or 1.0)


def _stacked(fits: list[MixtureFit], dtype) -> GaussianMixtures:
    """Mixtures of unequal size in rectangular arrays.

    The heaviest component of a smaller mixture is repeated, its weight shared by the copies, which
    leaves the density as it was and every entry finite.
    """
    k = max(len(fit.weights) for fit in fits)
    log_weights, means, factors = [], [], []
    for fit in fits:
        copies = k - len(fit.weights)
        heaviest = int(fit.weights.argmax())
        index = np.concatenate([np.arange(len(fit.weights)), np.full(copies, heaviest)])
        log_weight = np.log(fit.weights)[index]
        log_weight[index == heaviest] -= np.log(copies + 1)
        log_weights.append(log_weight)
        means.append(fit.means[index])
        factors.append(fit.precision_factors[index])
    return GaussianMixtures(
        log_weights=jnp.asarray(np.stack(log_weights), dtype),
        means=jnp.asarray(np.stack(means), dtype),
        precision_factors=jnp.asarray(np.stack(factors), dtype),
    )


def _kernel_densities(
    arrays: list[HostArray],
    weights: list[HostArray],
    totals: list[HostArray],
    floors: list[HostArray],
    bandwidth_scale: float,
    dtype,
) -> KernelDensities:
    """Equation (3), the particles packed in blocks."""
    n, d = max(len(p) for p in arrays), arrays[0].shape[1]
    n_blocks = -(-n // KERNEL_BLOCK_SIZE)
    block = -(-n // n_blocks)
    points = np.zeros((len(arrays), n_blocks * block, d))
    log_weights = np.full((len(arrays), n_blocks * block), -np.inf)
    factors = []
    for i, (p, w, total, floor) in enumerate(zip(arrays, weights, totals, floors, strict=True)):
        points[i] = np.concatenate([p, np.repeat(p[:1], len(points[i]) - len(p), axis=0)])
        log_weights[i, : len(p)] = np.log(w)
        n_effective = 1.0 / (w**2).sum()
        # The unbiased covariance, as SciPy's; of a single particle there is none.
        unbiased = total / (1 - 1 / n_effective) if n_effective > 1 + 1e-9 else total
        scott = bandwidth_scale * n_effective ** (-1.0 / (d + 4))
        factors.append(precision_factors(scott**2 * (unbiased + floor)))
    return KernelDensities(
        points=jnp.asarray(points.reshape(len(arrays), n_blocks, block, d), dtype),
        log_weights=jnp.asarray(log_weights.reshape(len(arrays), n_blocks, block), dtype),
        precision_factor=jnp.asarray(np.stack(factors), dtype),
    )
