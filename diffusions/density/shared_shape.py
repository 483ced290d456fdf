"""Mixtures that are copies of one shape, by expectation maximisation on the host.

Clean points m_c of shares w_c, each moved by independent noise of one law q, itself a mixture:

    p(x) = sum_c w_c q(x - m_c),   q(e) = sum_j v_j N(e; d_j, S_j).                                (1)

A single copy is any Gaussian mixture, a shape of one component a mixture of one covariance; what lies
between tells the shape of the noise from all points at once, where a mixture of free covariances has
only those of one clean point. With the responsibilities r_icj of the component (c, j) for x_i, and
N_cj = sum_i r_icj, each iteration is

    w_c = sum_j N_cj / n,   v_j = sum_c N_cj / n                                                   (2)
    d_j = sum_ic r_icj (x_i - m_c) / sum_c N_cj                                                    (3)
    S_j = sum_ic r_icj (x_i - m_c - d_j)(x_i - m_c - d_j)^T / sum_c N_cj + F                       (4)
    m_c = (sum_j N_cj S_j^-1)^-1 sum_ij r_icj S_j^-1 (x_i - d_j)                                   (5)

one after the other, each the best given the others (Meng and Rubin, Maximum likelihood estimation via
the ECM algorithm, Biometrika 1993), with the floor F of `diffusions.density.expectation_maximisation`.
"""

import dataclasses

import numpy as np
from threadpoolctl import threadpool_limits

from diffusions.density.expectation_maximisation import (
    Mixture,
    expectation,
    kmeans_labels,
    moments_of_labels,
    precision_factors,
)
from diffusions.typing import HostArray

STARTS = 3
"""Sets of first centres, of which the tightest is taken."""
TOLERANCE = 1e-5
"""Least gain of the mean log likelihood per iteration worth another one."""
TRACE = 1e-10
"""Share of everyone's moments that a component without points is given."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class SharedShape:
    """The mixture (1).

    Attributes:
        shares: (c,) w.
        centres: (c, d) m.
        weights: (j,) v.
        offsets: (j, d) of the shape's components.
        covariances: (j, d, d) S.
    """

    shares: HostArray
    centres: HostArray
    weights: HostArray
    offsets: HostArray
    covariances: HostArray

    def mixture(self) -> Mixture:
        """All components, copy by copy."""
        copies, d = self.centres.shape
        means = self.centres[:, None] + self.offsets
        return (
            (self.shares[:, None] * self.weights).ravel(),
            means.reshape(-1, d),
            np.tile(precision_factors(self.covariances), (copies, 1, 1)),
        )


def fit_shared_shape(
    points: HostArray,
    copies: int,
    components: int,
    floor: HostArray,
    generator: np.random.Generator,
    *,
    iterations: int,
) -> SharedShape:
    """Equations (2) to (5) until the likelihood stands still.

    Args:
        points: (n, d), about their mean, at least as many of them distinct as there are copies, and
            components.
        copies: number of centres.
        components: of the shape.
        floor: (d, d) positive definite F.
        generator: draws the first centres.
        iterations: at most.
    """
    n = len(points)
    weights = np.full(n, 1.0 / n)
    with threadpool_limits(limits=1, user_api="blas"):
        shape, moments = _first(points, weights, copies, components, floor, generator)
        shape = _maximised(moments, shape, floor)
        before = -np.inf
        for _ in range(iterations):
            likelihood, moments = expectation(points, weights, shape.mixture())
            shape = _maximised(moments, shape, floor)
            if likelihood - before < TOLERANCE:
                break
            before = likelihood
    return shape


def _first(
    points: HostArray,
    weights: HostArray,
    copies: int,
    components: int,
    floor: HostArray,
    generator: np.random.Generator,
) -> tuple[SharedShape, HostArray]:
    """Clusters as copies, and clusters of what they leave as the shape; and their moments."""
    d = points.shape[1]
    found = []
    for _ in range(STARTS if copies > 1 else 1):
        labels = kmeans_labels(points, weights, copies, floor, generator)
        moments = _with_trace(moments_of_labels(points, weights, labels, copies))
        centres = moments[:, 1 : 1 + d] / moments[:, :1]
        rest = points - centres[labels]
        found.append(((rest**2).sum(), labels, centres, rest))
    _, labels, centres, rest = min(found, key=lambda start: start[0])
    parts = kmeans_labels(rest, weights, components, floor, generator)
    moments = moments_of_labels(points, weights, labels * components + parts, copies * components)
    nothing = np.zeros((components, d))
    start = SharedShape(
        shares=np.full(copies, 1.0 / copies),
        centres=centres,
        weights=np.full(components, 1.0 / components),
        offsets=nothing,
        covariances=np.broadcast_to(floor, (components, d, d)),
    )
    return start, moments


def _with_trace(moments: HostArray) -> HostArray:
    return moments + TRACE * moments.sum(axis=0)


def _maximised(moments: HostArray, shape: SharedShape, floor: HostArray) -> SharedShape:
    """Equations (2) to (5), from the sums of r, r x and r x x^T."""
    (copies, d), components = shape.centres.shape, len(shape.weights)
    table = _with_trace(moments).reshape(copies, components, -1)
    mass, first = table[..., 0], table[..., 1 : 1 + d]
    second = table[..., 1 + d :].reshape(copies, components, d, d)
    of_components, of_copies = mass.sum(axis=0), mass.sum(axis=1)
    centres = shape.centres[:, None]
    offsets = (first - mass[..., None] * centres).sum(axis=0) / of_components[:, None]
    means = centres + offsets
    cross = first[..., :, None] * means[..., None, :]
    squares = mass[..., None, None] * means[..., :, None] * means[..., None, :]
    scatter = second - cross - np.swapaxes(cross, -1, -2) + squares
    covariances = scatter.sum(axis=0) / of_components[:, None, None] + floor
    precisions = np.linalg.inv(covariances)
    information = np.einsum("cj,jab->cab", mass, precisions)
    pulls = np.einsum("jab,cjb->ca", precisions, first - mass[..., None] * offsets)
    return SharedShape(
        shares=of_copies / of_copies.sum(),
        centres=np.linalg.solve(information, pulls[..., None])[..., 0],
        weights=of_components / of_components.sum(),
        offsets=offsets,
        covariances=covariances,
    )
