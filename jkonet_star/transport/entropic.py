"""Entropic optimal transport by OTT-JAX, returned as sparse plans in bounded memory.

For populations sum_i a_i delta_{x_i} and sum_j b_j delta_{y_j} and squared distances C_ij,

    P = argmin_P <P, C> + eps KL(P | a b^T) + rho_a KL(P 1 | a) + rho_b KL(P^T 1 | b)            (1)
    P_ij = exp((f_i + g_j - C_ij) / eps)                                                         (2)

with rho = eps tau / (1 - tau), infinite (a constraint) at tau = 1. Particles are shifted and scaled
first so that the mean of C about the populations' own centres is 1: epsilon is then relative to it, and
single precision suffices. Where both marginals are constraints each population is shifted to its own
centre, which changes C by terms of x and of y alone, and so not the plan: clouds far from each other
are coupled as well as near ones.

The plan (2) is dense. It is formed a few rows at a time and only its larger entries are kept:

    P_ij >= |P| / (10 max(n, m)),   and the largest entry of every row                           (3)

after which each row is scaled back to the mass that it had. The second clause and the scaling are
there because (3) alone biases the plan without a word: a row that spreads over more than about ten
targets would vanish, so that at a large epsilon only the sparsest regions survive, and particles
lighter than a tenth of the mean would vanish always. The mass that fell below is reported.
"""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
from ott.geometry import epsilon_scheduler
from ott.problems.linear import linear_problem
from ott.solvers.linear import sinkhorn

from diffusions.typing import Array, Float, HostArray, Int
from jkonet_star.settings import CouplingSettings
from jkonet_star.transport.blocked_point_cloud import BlockedPointCloud, squared_distances
from jkonet_star.transport.sparse_plan import SparsePlan
from jkonet_star.transport.standardised import standardised

# Entries of a dense plan or cost matrix held at a time (16 MiB in single precision).
BLOCK_ENTRIES = 2**22
# Blocks of nearly equal size share one compiled solver: sizes are rounded up with massless rows.
_SIZE_QUANTUM = 64
# Annealing: epsilon starts at the mean cost and shrinks by this factor per iteration.
_ANNEALING_DECAY = 0.9
_INNER_ITERATIONS = 10


def sinkhorn_plan(
    x: HostArray, y: HostArray, a: HostArray, b: HostArray, settings: CouplingSettings
) -> SparsePlan:
    """Equation (1) by Sinkhorn's iteration with annealed epsilon, sparsified by (3).

    Args:
        x: (n, d) source particles.
        y: (m, d) target particles.
        a: (n,) source weights of sum 1.
        b: (m,) target weights of sum 1.
        settings: epsilon, tau_a, tau_b, max_iterations and threshold are used.

    Returns:
        The plan; `converged` says whether it can be trusted. With tau_a = 1 its source marginal is
        exact even where it did not.

    Raises:
        RuntimeError: the iteration diverged, or left no mass.
    """
    x, y = standardised(x, y, a, b, apart=settings.tau_a == settings.tau_b == 1)
    n, m = len(x), len(y)
    padded = (*_padded(x, a), *_padded(y, b))
    f, g, error, iterations = _potentials(
        *padded,
        epsilon=settings.epsilon,
        tau_a=settings.tau_a,
        tau_b=settings.tau_b,
        max_iterations=settings.max_iterations,
        threshold=settings.threshold,
        batch_size=max(1, BLOCK_ENTRIES // max(len(padded[0]), len(padded[2]))),
    )
    x_device, a_device, y_device, _ = padded
    balanced = settings.tau_a == 1
    n_rows = max(1, min(len(x_device), BLOCK_ENTRIES // len(y_device)))

    def plan_rows(start):
        # The last block starts early rather than being short: one shape, one compilation.
        first = min(start, len(x_device) - n_rows)
        row_terms = a_device if balanced else f
        block = _plan_rows(
            x_device,
            row_terms,
            y_device,
            g,
            settings.epsilon,
            first,
            n_rows=n_rows,
            balanced=balanced,
        )
        return np.asarray(block)[start - first : n - first, :m]

    starts = range(0, n, n_rows)
    total = 1.0
    if not balanced or settings.tau_b != 1:
        total = sum(float(plan_rows(start).sum(dtype=np.float64)) for start in starts)
    if not (total > 0 and np.isfinite(total) and np.isfinite(float(error))):
        raise RuntimeError(
            f"Sinkhorn's iteration left a mass of {total:g} of 1 (error {float(error):g}); raise "
            f"epsilon from {settings.epsilon:g}, or tau_a and tau_b from {settings.tau_a:g} and "
            f"{settings.tau_b:g}"
        )
    cutoff = total / (10 * max(n, m))
    pieces = [_sparsified(plan_rows(start), start, cutoff) for start in starts]
    rows, cols, mass, kept, everything = (list(piece) for piece in zip(*pieces, strict=True))
    error = float(error)
    return SparsePlan(
        rows=np.concatenate(rows),
        cols=np.concatenate(cols),
        mass=np.concatenate(mass),
        converged=bool(error < settings.threshold),
        iterations=int(iterations),
        marginal_error=error,
        dropped_mass=max(0.0, 1.0 - sum(kept) / sum(everything)),
    )


def _padded(x: HostArray, a: HostArray) -> tuple[Array, Array]:
    """Rows up to a multiple of the quantum; the new ones repeat a particle and weigh nothing."""
    n = len(x)
    extra = -n % _SIZE_QUANTUM if n > _SIZE_QUANTUM else 0
    x = np.concatenate([x, np.repeat(x[:1], extra, axis=0)]).astype(np.float32)
    return jnp.asarray(x), jnp.asarray(np.concatenate([a, np.zeros(extra)]).astype(np.float32))


@functools.partial(
    jax.jit,
    static_argnames=("epsilon", "tau_a", "tau_b", "max_iterations", "threshold", "batch_size"),
)
def _potentials(
    x: Float[Array, "n d"],
    a: Float[Array, "n"],
    y: Float[Array, "m d"],
    b: Float[Array, "m"],
    *,
    epsilon: float,
    tau_a: float,
    tau_b: float,
    max_iterations: int,
    threshold: float,
    batch_size: int,
) -> tuple[Float[Array, "n"], Float[Array, "m"], Array, Array]:
    """The dual potentials f, g of (2), the marginal error, and the iterations taken."""
    # From the mean cost down to epsilon, and half of the iterations at least for epsilon itself.
    start = max(1.0, 1.0 / epsilon)
    annealing = math.ceil(math.log(start) / -math.log(_ANNEALING_DECAY))
    annealing = min(annealing, max_iterations // 2)
    decay = start ** (-1.0 / annealing) if annealing else 1.0
    inner = min(_INNER_ITERATIONS, max_iterations)
    # Convergence at a larger epsilon than the one asked for is no convergence. An error that is checked
    # before the least number of iterations counts as infinite, and one at that number as divergence.
    least = annealing + 1 if annealing and annealing % inner == 0 else annealing
    geometry = BlockedPointCloud(
        x,
        y,
        epsilon=epsilon_scheduler.Epsilon(
            target=epsilon, init=start if annealing else 1.0, decay=decay
        ),
        batch_size=batch_size,
    )
    problem = linear_problem.LinearProblem(geometry, a=a, b=b, tau_a=tau_a, tau_b=tau_b)
    solver = sinkhorn.Sinkhorn(
        threshold=threshold,
        inner_iterations=inner,
        min_iterations=least,
        max_iterations=max_iterations,
    )
    output = solver(problem)
    errors = jnp.asarray(output.errors)
    checks = jnp.sum(errors != -1)
    return output.f, output.g, errors[jnp.maximum(checks - 1, 0)], checks * inner


@functools.partial(jax.jit, static_argnames=("n_rows", "balanced"))
def _plan_rows(
    x: Float[Array, "n d"],
    row_terms: Float[Array, "n"],
    y: Float[Array, "m d"],
    g: Float[Array, "m"],
    epsilon: Float[Array, ""] | float,
    first: Int[Array, ""] | int,
    *,
    n_rows: int,
    balanced: bool,
) -> Float[Array, "rows m"]:
    """Rows `first` to `first + n_rows` of (2).

    Where the source marginal is a constraint, `row_terms` are its weights, and f is whatever meets
    them: a row is a softmax, which cannot underflow. Elsewhere `row_terms` is f.
    """
    x = jax.lax.dynamic_slice_in_dim(x, first, n_rows)
    row_terms = jax.lax.dynamic_slice_in_dim(row_terms, first, n_rows)[:, None]
    cost = squared_distances(x, y)
    if balanced:
        return row_terms * jax.nn.softmax((g - cost) / epsilon, axis=1)
    return jnp.exp((row_terms + g - cost) / epsilon)


def _sparsified(
    block: HostArray, first: int, cutoff: float
) -> tuple[HostArray, HostArray, HostArray, float, float]:
    """Equation (3) on some rows of a plan.

    Args:
        block: (rows, m) entries of the plan.
        first: the index of the block's first row.
        cutoff: the smallest mass worth keeping.

    Returns:
        Rows, columns and masses of what is kept, then the mass that was above the cutoff and the
        mass that there was.
    """
    row_mass = block.sum(axis=1, dtype=np.float64)
    keep = block >= cutoff
    kept_mass = float(block.sum(dtype=np.float64, where=keep))
    keep[np.arange(len(block)), block.argmax(axis=1)] = True
    # What died altogether in unbalanced transport has no pair to keep.
    keep &= block > 0
    rows, cols = np.nonzero(keep)
    mass = block[rows, cols].astype(np.float64)
    mass *= row_mass[rows] / np.bincount(rows, mass, len(block))[rows]
    return rows + first, cols, mass, kept_mass, float(row_mass.sum())
