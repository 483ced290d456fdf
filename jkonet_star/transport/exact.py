"""Optimal transport without regularisation, on the host in double precision.

For populations mu = sum_i a_i delta_{x_i} and nu = sum_j b_j delta_{y_j} the optimal plan is

    P* = argmin_P sum_ij P_ij |x_i - y_j|^p    over P >= 0,  P 1 = a,  P^T 1 = b                 (1)

and the Wasserstein distance of order p is

    W_p(mu, nu) = (sum_ij P*_ij |x_i - y_j|^p)^(1/p).                                            (2)

Three solvers share (1): on the line the plan is monotone and sorting finds it; for populations of
equal, moderate size and uniform weights a vertex of the polytope is a permutation, found by
shortest augmenting paths (SciPy); everything else goes to the network simplex (POT).
"""

import numpy as np
from scipy.optimize import linear_sum_assignment
from scipy.spatial.distance import cdist

from diffusions.typing import HostArray

_METRICS = {1: "euclidean", 2: "sqeuclidean"}
# Uniform float32 weights differ from 1/n by rounding only; the assignment solver may take those.
_UNIFORM_TOLERANCE = 1e-5
# Beyond, the network simplex is the faster one, at 35 bytes per entry of the cost matrix for 8.
_ASSIGNMENT_UP_TO = 5000


def exact_plan(
    x: HostArray,
    y: HostArray,
    a: HostArray | None = None,
    b: HostArray | None = None,
    *,
    order: int = 2,
) -> tuple[HostArray, HostArray, HostArray, float]:
    """The optimal plan of equation (1), as its pairs of positive mass.

    The assignment takes 8 n m bytes and the network simplex 35 n m: couple larger populations in
    blocks.

    Args:
        x: (n, d) source particles.
        y: (m, d) target particles.
        a: (n,) non-negative source weights, of any positive sum; uniform when absent.
        b: (m,) non-negative target weights, likewise.
        order: exponent p of the cost, 1 or 2.

    Returns:
        The pairs' rows in x, their rows in y, their mass (it sums to 1), and the transport cost
        sum_ij P_ij |x_i - y_j|^p.

    Raises:
        ValueError: an order other than 1 or 2, arrays of the wrong rank, different dimensions, an
            empty population, or non-finite or negative input.
        RuntimeError: the network simplex stopped before the optimum.
    """
    if order not in _METRICS:
        raise ValueError(f"the order of the transport cost must be 1 or 2, got {order}")
    x, a = _population("source", x, a)
    y, b = _population("target", y, b)
    if x.shape[1] != y.shape[1]:
        raise ValueError(f"source has dimension {x.shape[1]}, target has {y.shape[1]}")
    # Particles without mass take no part, whatever the solver does with empty rows.
    kept_x, kept_y = np.flatnonzero(a), np.flatnonzero(b)
    x, a, y, b = x[kept_x], a[kept_x], y[kept_y], b[kept_y]
    if x.shape[1] == 1:
        rows, cols, mass = _monotone_plan(x[:, 0], y[:, 0], a, b)
    elif len(x) == len(y) <= _ASSIGNMENT_UP_TO and _is_uniform(a) and _is_uniform(b):
        rows, cols = linear_sum_assignment(cdist(x, y, _METRICS[order]))
        mass = np.full(len(x), 1.0 / len(x))
    else:
        rows, cols, mass = _network_simplex_plan(x, y, a, b, order)
    distances = np.linalg.norm(x[rows] - y[cols], axis=1)
    return kept_x[rows], kept_y[cols], mass, float(mass @ distances**order)


def wasserstein(
    x: HostArray,
    y: HostArray,
    a: HostArray | None = None,
    b: HostArray | None = None,
    *,
    order: int = 1,
) -> float:
    """The Wasserstein distance of equation (2).

    Args:
        x: (n, d) source particles.
        y: (m, d) target particles.
        a: (n,) source weights; uniform when absent.
        b: (m,) target weights; uniform when absent.
        order: 1 (the "EMD") or 2.

    Returns:
        W_p, in the units of x.

    Raises:
        ValueError, RuntimeError: as `exact_plan`.
    """
    cost = exact_plan(x, y, a, b, order=order)[3]
    return float(cost ** (1.0 / order))


def _population(
    name: str, points: HostArray, weights: HostArray | None
) -> tuple[HostArray, HostArray]:
    """Validates one population; its weights come back with sum 1."""
    points = np.asarray(points, np.float64)
    if points.ndim != 2 or 0 in points.shape:
        raise ValueError(f"{name} must be (particles, dimension) and not empty, got {points.shape}")
    bad = np.count_nonzero(~np.isfinite(points).all(axis=1))
    if bad:
        raise ValueError(f"{name} has {bad} of {len(points)} particles with NaN or inf")
    if weights is None:
        return points, np.full(len(points), 1.0 / len(points))
    weights = np.asarray(weights, np.float64)
    if weights.shape != (len(points),):
        raise ValueError(f"{name} needs {len(points)} weights, got shape {weights.shape}")
    if not np.isfinite(weights).all() or (weights < 0).any() or weights.sum() <= 0:
        raise ValueError(f"{name} weights must be finite and non-negative with a positive sum")
    return points, weights / weights.sum()


def _is_uniform(weights: HostArray) -> bool:
    return bool(np.ptp(weights) <= _UNIFORM_TOLERANCE * weights.mean())


def _monotone_plan(
    x: HostArray, y: HostArray, a: HostArray, b: HostArray
) -> tuple[HostArray, HostArray, HostArray]:
    """Solves (1) on the line: mass at quantile q of the source goes to quantile q of the target."""
    by_x, by_y = np.argsort(x, kind="stable"), np.argsort(y, kind="stable")
    if len(x) == len(y) and _is_uniform(a) and _is_uniform(b):
        return by_x, by_y, np.full(len(x), 1.0 / len(x))
    levels_x, levels_y = np.cumsum(a[by_x]), np.cumsum(b[by_y])
    levels_x[-1] = levels_y[-1] = 1.0
    levels = np.union1d(levels_x, levels_y)
    mass = np.diff(levels, prepend=0.0)
    # The piece of mass that ends at level q belongs to the first particle whose level reaches q.
    rows = by_x[np.minimum(np.searchsorted(levels_x, levels), len(x) - 1)]
    cols = by_y[np.minimum(np.searchsorted(levels_y, levels), len(y) - 1)]
    # Levels that agree but for rounding leave pieces of about 1e-16.
    real = mass > 1e-14
    return rows[real], cols[real], mass[real] / mass[real].sum()


def _network_simplex_plan(
    x: HostArray, y: HostArray, a: HostArray, b: HostArray, order: int
) -> tuple[HostArray, HostArray, HostArray]:
    """Solves (1) for any weights."""
    import ot  # slow to load, and equal populations never need it

    # The pivots grow about as n m; the bound is there to stop a cycle, not to trade accuracy.
    plan, log = ot.emd(
        a, b, cdist(x, y, _METRICS[order]), numItermax=max(10**7, 100 * len(x) * len(y)), log=True
    )
    if log["warning"] is not None:
        raise RuntimeError(
            f"the network simplex found no optimum for {len(x)} and {len(y)} particles: "
            f"{str(log['warning']).strip()}"
        )
    rows, cols = np.nonzero(plan)
    mass = plan[rows, cols]
    return rows, cols, mass / mass.sum()
