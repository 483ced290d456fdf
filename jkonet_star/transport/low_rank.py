"""Low-rank optimal transport by OTT-JAX, refined, for populations too large for anything else.

A plan of rank K (Scetbon, Cuturi, Peyre, "Low-rank Sinkhorn factorization", ICML 2021)

    P = sum_k Q_k R_k^T / g_k,   Q_k >= 0 (n),   R_k >= 0 (m),   1^T Q_k = 1^T R_k = g_k         (1)

pairs the K sub-populations Q_k of the source with the sub-populations R_k of the target, at a cost
linear in n + m. Inside a pair, however, it couples every particle with every other, so its
displacements are blurred by the size of a sub-population. Each product in (1) is therefore replaced
by the optimal plan between the same two sub-populations,

    P = sum_k argmin_{P_k in Pi(Q_k, R_k)} <P_k, C>,                                             (2)

which has the same marginals, no higher cost, and few entries; the largest matrix ever held is that
of one pair.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from ott.geometry import pointcloud
from ott.initializers.linear import initializers_lr
from ott.problems.linear import linear_problem
from ott.solvers.linear import sinkhorn_lr

from diffusions.typing import Array, Float, HostArray
from jkonet_star.settings import CouplingSettings
from jkonet_star.transport.exact import exact_plan
from jkonet_star.transport.sparse_plan import SparsePlan
from jkonet_star.transport.standardised import standardised

# Sub-populations overlap softly; shares of a particle below this would only enlarge every pair.
_SMALLEST_SHARE = 0.05


def low_rank_plan(
    x: HostArray, y: HostArray, a: HostArray, b: HostArray, settings: CouplingSettings
) -> SparsePlan:
    """Equation (2).

    Args:
        x: (n, d) source particles.
        y: (m, d) target particles.
        a: (n,) positive source weights of sum 1.
        b: (m,) positive target weights of sum 1.
        settings: rank, max_iterations and threshold are used; (1) takes no epsilon.

    Returns:
        The plan. Its source marginal is exact; `marginal_error` is that of the target.

    Raises:
        RuntimeError: the solver diverged.
    """
    x, y = standardised(x, y, a, b)
    if not (x.any() or y.any()):
        # All particles in one place: every plan is optimal, and the solver has no scale to work at.
        row, col, mass, _ = exact_plan(x[:, :1], y[:, :1], a, b)
        return SparsePlan(
            rows=row,
            cols=col,
            mass=mass,
            converged=True,
            iterations=0,
            marginal_error=0.0,
            dropped_mass=0.0,
        )
    q, r, converged, iterations = _factors(
        jnp.asarray(x, jnp.float32),
        jnp.asarray(y, jnp.float32),
        jnp.asarray(a, jnp.float32),
        jnp.asarray(b, jnp.float32),
        rank=min(settings.rank, len(x), len(y)),
        max_iterations=settings.max_iterations,
        threshold=settings.threshold,
    )
    q, r = np.asarray(q, np.float64), np.asarray(r, np.float64)
    if not (np.isfinite(q).all() and np.isfinite(r).all()):
        raise RuntimeError(
            f"low-rank transport of {len(x)} and {len(y)} particles diverged at rank {q.shape[1]}; "
            "change the rank, or couple in blocks"
        )
    (q, dropped_q), (r, dropped_r) = _pruned(q, a), _pruned(r, b)
    rows, cols, masses = [], [], []
    for k in np.flatnonzero((q.sum(axis=0) > 0) & (r.sum(axis=0) > 0)):
        i, j = np.flatnonzero(q[:, k]), np.flatnonzero(r[:, k])
        row, col, mass, _ = exact_plan(x[i], y[j], q[i, k], r[j, k])
        rows.append(i[row])
        cols.append(j[col])
        masses.append(mass * q[i, k].sum())
    row, col, mass = np.concatenate(rows), np.concatenate(cols), np.concatenate(masses)
    # No pair is too light to keep: optimal plans are sparse as they are.
    mass *= (a / np.bincount(row, mass, len(x)))[row]
    return SparsePlan(
        rows=row,
        cols=col,
        mass=mass,
        converged=bool(converged),
        iterations=int(iterations),
        marginal_error=float(np.abs(np.bincount(col, mass, len(y)) - b).sum()),
        dropped_mass=max(dropped_q, dropped_r),
    )


@functools.partial(jax.jit, static_argnames=("rank", "max_iterations", "threshold"))
def _factors(
    x: Float[Array, "n d"],
    y: Float[Array, "m d"],
    a: Float[Array, "n"],
    b: Float[Array, "m"],
    *,
    rank: int,
    max_iterations: int,
    threshold: float,
) -> tuple[Float[Array, "n k"], Float[Array, "m k"], Array, Array]:
    """Q and R of (1), whether the solver converged, and its iterations."""
    with jax.default_matmul_precision("highest"):
        problem = linear_problem.LinearProblem(pointcloud.PointCloud(x, y), a=a, b=b)
        solver = sinkhorn_lr.LRSinkhorn(
            rank,
            # Deterministic, and blind to the particles' positions: they come shuffled.
            initializer=initializers_lr.Rank2Initializer(rank),
            threshold=threshold,
            max_iterations=max_iterations,
            inner_iterations=min(10, max_iterations),
        )
        output = solver(problem)
    return output.q, output.r, jnp.asarray(output.converged), jnp.asarray(output.n_iters)


def _pruned(factor: HostArray, weights: HostArray) -> tuple[HostArray, float]:
    """A factor of (1) without its smallest shares, rows scaled back; and the mass they had."""
    share = factor / factor.sum(axis=1, keepdims=True)
    keep = share >= np.minimum(_SMALLEST_SHARE, share.max(axis=1, keepdims=True))
    share = np.where(keep, share, 0.0)
    kept = share.sum(axis=1)
    return share * (weights / kept)[:, None], float(weights @ (1.0 - kept))
