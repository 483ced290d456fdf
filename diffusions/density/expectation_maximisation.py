"""Weighted Gaussian mixtures by expectation maximisation, on the host in double precision.

The mixture p(x) = sum_k pi_k N(x; m_k, S_k) is fitted to particles x_i of weights w_i by

    r_ik = pi_k N(x_i; m_k, S_k) / p(x_i)                                                        (1)
    pi_k = sum_i w_i r_ik,   m_k = sum_i w_i r_ik x_i / pi_k                                     (2)
    S_k = sum_i w_i r_ik (x_i - m_k)(x_i - m_k)^T / pi_k + F                                     (3)

from the centres of a weighted k-means. The floor F = lambda (S + s I), with S the covariance of all
particles and s its mean variance, keeps every component non-degenerate: duplicated particles,
collapsed clusters and constant coordinates included. It is relative to the data, so that the fit
does not depend on their units, and small against any component that the data resolve.
"""

import dataclasses
from collections.abc import Iterator
from typing import TypeAlias

import numpy as np
from scipy.special import logsumexp
from threadpoolctl import threadpool_limits

from diffusions.typing import HostArray

# lambda of (3): components narrower than 0.3 % of the data's spread are not resolved.
COVARIANCE_FLOOR = 1e-5
# Starts from different centres, run for a few iterations each; the likeliest is carried on.
_STARTS = 3
_START_ITERATIONS = 20
_MAX_ITERATIONS = 300
# Least gain of the mean log-likelihood per iteration worth another one.
_TOLERANCE = 1e-5
_LLOYD_ITERATIONS = 10
_TRACE = 1e-10
# Features or distances computed at a time: half a MiB, so that a block stays in the cache.
_BLOCK_ENTRIES = 2**16


@dataclasses.dataclass(frozen=True, kw_only=True)
class MixtureFit:
    """A fitted mixture.

    Attributes:
        weights: (k,) positive weights of sum 1.
        means: (k, d).
        precision_factors: (k, d, d) lower triangular W with S^-1 = W^T W.
        log_likelihood: weighted mean over the particles.
        iterations: of expectation maximisation.
    """

    weights: HostArray
    means: HostArray
    precision_factors: HostArray
    log_likelihood: float
    iterations: int


def covariance(points: HostArray, weights: HostArray) -> HostArray:
    """Weighted covariance sum_i w_i (x_i - m)(x_i - m)^T of points (n, d) with weights of sum 1."""
    centred = points - weights @ points
    return (weights[:, None] * centred).T @ centred


def covariance_floor(
    total: HostArray, scale: float, relative: float = COVARIANCE_FLOOR
) -> HostArray:
    """The floor F of (3).

    Args:
        total: (d, d) covariance of the particles.
        scale: variance to take where the particles have none at all.
        relative: lambda.

    Returns:
        A positive definite (d, d) matrix.
    """
    d = len(total)
    mean_variance = np.trace(total) / d
    return relative * (total + (mean_variance or scale) * np.eye(d))


def precision_factors(covariances: HostArray) -> HostArray:
    """Lower triangular W with S^-1 = W^T W, for covariances S (..., d, d)."""
    identity = np.broadcast_to(np.eye(covariances.shape[-1]), covariances.shape)
    # The inverse of a triangular matrix is triangular; what a general solver leaves above is noise.
    return np.tril(np.linalg.solve(np.linalg.cholesky(covariances), identity))


def fit_mixture(
    points: HostArray,
    weights: HostArray,
    n_components: int,
    floor: HostArray,
    generator: np.random.Generator,
) -> MixtureFit:
    """Equations (1) to (3) until the likelihood stands still, from the best of several starts.

    Args:
        points: (n, d) particles, at least `n_components` of them distinct.
        weights: (n,) positive weights of sum 1.
        n_components: k.
        floor: (d, d) positive definite F.
        generator: draws the first centres.

    Returns:
        The mixture.
    """
    # Second moments about the mean keep their digits however far from the origin the data lie.
    origin = weights @ points
    points = points - origin
    # The matrices are thin: threads gain little, and cost seconds where the cores are shared.
    with threadpool_limits(limits=1, user_api="blas"):
        starts = []
        for _ in range(_STARTS):
            labels = kmeans_labels(points, weights, n_components, floor, generator)
            mixture = _maximised(moments_of_labels(points, weights, labels, n_components), floor)
            starts.append(_iterate(points, weights, mixture, floor, _START_ITERATIONS))
        best = max(starts, key=lambda start: start[1])[0]
        mixture, log_likelihood, iterations = _iterate(
            points, weights, best, floor, _MAX_ITERATIONS
        )
    return MixtureFit(
        weights=mixture[0],
        means=mixture[1] + origin,
        precision_factors=mixture[2],
        log_likelihood=log_likelihood,
        iterations=iterations,
    )


Mixture: TypeAlias = tuple[HostArray, HostArray, HostArray]
"""Weights (k,), means (k, d), precision factors (k, d, d)."""


def _iterate(
    points: HostArray, weights: HostArray, mixture: Mixture, floor: HostArray, limit: int
) -> tuple[Mixture, float, int]:
    """Expectation maximisation; also the log-likelihood of the mixture and the iterations."""
    log_likelihood, moments = expectation(points, weights, mixture)
    iteration = 0
    while iteration < limit:
        iteration += 1
        mixture = _maximised(moments, floor)
        previous = log_likelihood
        log_likelihood, moments = expectation(points, weights, mixture)
        if log_likelihood - previous < _TOLERANCE:
            break
    return mixture, log_likelihood, iteration


def _features(points: HostArray) -> HostArray:
    """(1, x, x x^T) of each row, (n, 1 + d + d^2): log densities are linear in it."""
    squares = (points[:, :, None] * points[:, None, :]).reshape(len(points), -1)
    return np.concatenate([np.ones((len(points), 1)), points, squares], axis=1)


def _blocks_of_rows(n: int, d: int) -> Iterator[slice]:
    size = max(1, _BLOCK_ENTRIES // (1 + d + d * d))
    return (slice(start, start + size) for start in range(0, n, size))


def _coefficients(mixture: Mixture) -> HostArray:
    """Of each component, by which the features of points give log pi_k N(x; m_k, S_k)."""
    component_weights, means, factors = mixture
    d = means.shape[1]
    precisions = np.swapaxes(factors, 1, 2) @ factors
    linear = np.einsum("kij,kj->ki", precisions, means)
    constant = (
        np.log(component_weights)
        + np.log(np.diagonal(factors, axis1=1, axis2=2)).sum(axis=1)
        - 0.5 * (linear * means).sum(axis=1)
        - 0.5 * d * np.log(2 * np.pi)
    )
    return np.concatenate(
        [constant[:, None], linear, -0.5 * precisions.reshape(len(means), -1)], axis=1
    )


def log_densities(points: HostArray, mixture: Mixture) -> HostArray:
    """Log density (n,) of a mixture at points (n, d)."""
    coefficients = _coefficients(mixture)
    found = np.empty(len(points))
    for rows in _blocks_of_rows(*points.shape):
        found[rows] = logsumexp(_features(points[rows]) @ coefficients.T, axis=1)
    return found


def expectation(points: HostArray, weights: HostArray, mixture: Mixture) -> tuple[float, HostArray]:
    """Equation (1) and what (2) and (3) need of it.

    Returns:
        The mean log-likelihood, and the moments sum_i w_i r_ik (1, x_i, x_i x_i^T),
        (k, 1 + d + d^2).
    """
    coefficients = _coefficients(mixture)
    n, d = points.shape
    log_likelihood, moments = 0.0, np.zeros_like(coefficients)
    for rows in _blocks_of_rows(n, d):
        features = _features(points[rows])
        joint = features @ coefficients.T
        top = joint.max(axis=1, keepdims=True)
        np.exp(joint - top, out=joint)
        normaliser = joint.sum(axis=1, keepdims=True)
        log_likelihood += float(weights[rows] @ (top + np.log(normaliser))[:, 0])
        moments += (joint * (weights[rows, None] / normaliser)).T @ features
    return log_likelihood, moments


def moments_of_labels(
    points: HostArray, weights: HostArray, labels: HostArray, n_components: int
) -> HostArray:
    """The moments of `expectation` where each particle belongs to one component."""
    n, d = points.shape
    moments = np.zeros((n_components, 1 + d + d * d))
    for rows in _blocks_of_rows(n, d):
        one_hot = labels[rows, None] == np.arange(n_components)
        moments += (one_hot * weights[rows, None]).T @ _features(points[rows])
    return moments


def _maximised(moments: HostArray, floor: HostArray) -> Mixture:
    """Equations (2) and (3)."""
    d = len(floor)
    # A component that lost its particles gets a trace of everyone's rather than a zero mass.
    moments = moments + _TRACE * moments.sum(axis=0)
    mass = moments[:, 0]
    means = moments[:, 1 : 1 + d] / mass[:, None]
    seconds = (moments[:, 1 + d :] / mass[:, None]).reshape(-1, d, d)
    covariances = seconds - means[:, :, None] * means[:, None, :] + floor
    return mass / mass.sum(), means, precision_factors(covariances)


def kmeans_labels(
    points: HostArray,
    weights: HostArray,
    n_components: int,
    floor: HostArray,
    generator: np.random.Generator,
) -> HostArray:
    """Labels (n,) of a weighted k-means from k-means++ centres, each label used at least once.

    Distances are taken after whitening by the floor, so that the clusters, like (3), do not depend
    on the coordinates' units.
    """
    white = points @ precision_factors(floor).T
    centres = np.empty((n_components, white.shape[1]))
    nearest = np.ones(len(white))
    for k in range(n_components):
        # Squared distances vanish at earlier centres, so no particle is drawn twice.
        chance = weights * nearest
        centres[k] = white[generator.choice(len(white), p=chance / chance.sum())]
        distance = ((white - centres[k]) ** 2).sum(axis=1)
        nearest = distance if k == 0 else np.minimum(nearest, distance)
    labels = _nearest(white, centres)
    for _ in range(_LLOYD_ITERATIONS):
        mass = np.bincount(labels, weights, n_components)
        sums = np.stack(
            [np.bincount(labels, weights * column, n_components) for column in white.T], axis=1
        )
        occupied = mass > 0
        centres[occupied] = sums[occupied] / mass[occupied, None]
        moved = _nearest(white, centres)
        if (moved == labels).all():
            break
        labels = moved
    return labels


def _nearest(white: HostArray, centres: HostArray) -> HostArray:
    """Index (n,) of the nearest centre."""
    labels = np.empty(len(white), np.intp)
    squares = (centres**2).sum(axis=1)
    for rows in _blocks_of_rows(len(white), len(centres)):
        labels[rows] = (squares - 2 * white[rows] @ centres.T).argmin(axis=1)
    return labels
