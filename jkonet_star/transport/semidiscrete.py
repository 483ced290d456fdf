"""Optimal transport by potentials of the target particles alone, in memory linear in the particles.

The semidual of the transport problem has one number g_j per target particle,

    max_g  sum_j b_j g_j + sum_i a_i min_j (|x_i - y_j|^2 - g_j)                                 (1)
    j(i) = argmin_j (|x_i - y_j|^2 - g_j)                                                        (2)

and at its maximum the partners (2) are an optimal plan (Genevay, Cuturi, Peyre, Bach, "Stochastic
optimization for large-scale optimal transport", NeurIPS 2016). Ascent on (1) makes a target that too
many sources choose dearer, and one that too few choose cheaper: for a batch B of sources

    g_j <- g_j + s m (b_j sum_{i in B} a_i - sum_{i in B, j(i) = j} a_i),   m targets.           (3)

Every pass takes each source once, in a new order. Sources drawn anew, as a density would give them,
leave a target with as many partners as chance says, about twice the error in the marginal. The
step s falls geometrically from a tenth of the mean cost. It has to begin large: potentials
move by s a pass, and ones that vary over the whole population would never arise.

After the last pass some targets still have more mass than b_j, others less. A target keeps the sources
that would lose most by leaving, and what exceeds b_j is coupled with what is missing elsewhere: by the
same procedure while it is large, then exactly. So the plan has both marginals, and costs at least (1):
how far it is from the optimum, at most, is known.
"""

import functools
import logging

import jax
import jax.numpy as jnp
import numpy as np

from diffusions.precision import matmul
from diffusions.typing import Array, Float, HostArray, Int
from jkonet_star.settings import CouplingSettings
from jkonet_star.transport.blocks_of_mass import blocks_of_mass
from jkonet_star.transport.exact import exact_plan
from jkonet_star.transport.sparse_plan import SparsePlan
from jkonet_star.transport.standardised import standardised

logger = logging.getLogger(__name__)

# Entries of the cost matrix held at a time (64 MiB in single precision).
_BLOCK_ENTRIES = 2**24
# Batches in a pass, at least: larger ones answer to potentials that are too old.
_BATCHES_PER_PASS = 40
# s of (3) in the first batch and in the last, for a mean cost of 1.
_STEPS = (0.1, 1e-4)
# Times that (3) is run, at most: on everything, then on what remains. The last remainder is cut.
_ROUNDS = 5
# Particles coupled exactly at a time.
_MOVED_AT_ONCE = 2000
# Share of a weight below which a piece of it is rounding.
_ROUNDING = 1e-6
# Share of the cost that may lie above the bound (1) where the potentials count as found, and what
# single precision adds to a mean cost of 1.
_GAP = 0.1
_GAP_OF_ROUNDING = 1e-5
# Pairs that a busy processor compares in an hour, and hours that are said beforehand.
_PAIRS_AN_HOUR = 1.4e12
_LONG = 0.5


def semidiscrete_plan(
    x: HostArray, y: HostArray, a: HostArray, b: HostArray, settings: CouplingSettings
) -> SparsePlan:
    """Partners (2) of potentials by `settings.passes` passes of (3), with what exceeds b moved.

    Args:
        x: (n, d) source particles, in random order.
        y: (m, d) target particles, likewise.
        a: (n,) positive source weights of sum 1.
        b: (m,) positive target weights of sum 1.
        settings: only `passes` is used.

    Returns:
        The plan, which has the marginals a and b. `marginal_error` is that of (2) in the target,
        before anything was moved: twice the mass that was. `converged` says that the cost is at most
        a tenth above (1), about the centres of x and y; `iterations` counts passes.
    """
    hours = settings.passes * len(x) * len(y) / _PAIRS_AN_HOUR
    if hours > _LONG:
        logger.warning(
            "comparing %d with %d particles %d times: about %.1f hours of a processor",
            len(x),
            len(y),
            settings.passes,
            hours,
        )
    x, y = standardised(x, y, a, b)
    left, missing = np.array(a, np.float64), np.array(b, np.float64)
    pairs, error, bound = [], 0.0, 0.0
    for n_round in range(_ROUNDS):
        i, j = np.flatnonzero(left), np.flatnonzero(missing)
        if n_round and max(len(i), len(j)) <= _MOVED_AT_ONCE:
            break
        total, a_left, b_left = left.sum(), left[i], missing[j]
        shares = a_left / total, b_left / total
        partner, regret, dual = _chosen(x[i], y[j], *shares, settings.passes)
        if n_round == 0:
            bound = dual
            error = float(np.abs(np.bincount(partner, a, len(b)) - b).sum())
        kept, left[i], missing[j] = _kept(partner, regret, a_left, b_left)
        stays = np.flatnonzero(kept)
        pairs.append((i[stays], j[partner[stays]], kept[stays]))
    pairs.append(_moved(x, y, left, missing))
    rows, cols, mass = (np.concatenate(part) for part in zip(*pairs, strict=True))
    cost = float(mass @ ((x[rows] - y[cols]) ** 2).sum(axis=1))
    logger.info("at most %.3g of the cost lies above the optimum", 1 - bound / max(cost, 1e-30))
    return SparsePlan(
        rows=rows,
        cols=cols,
        mass=mass,
        converged=cost - bound <= _GAP * cost + _GAP_OF_ROUNDING,
        iterations=settings.passes,
        marginal_error=error,
        dropped_mass=0.0,
    )


def _chosen(
    x: HostArray, y: HostArray, a: HostArray, b: HostArray, passes: int
) -> tuple[HostArray, HostArray, float]:
    """The partners (2) after `passes` of (3), how much dearer the second best are, and (1)."""
    x_device, y_device = jnp.asarray(x, jnp.float32), jnp.asarray(y, jnp.float32)
    potentials = _potentials(
        x_device,
        y_device,
        jnp.asarray(a, jnp.float32),
        jnp.asarray(b, jnp.float32),
        passes=passes,
        batch=max(1, min(len(x) // _BATCHES_PER_PASS, _BLOCK_ENTRIES // len(y))),
    )
    rows = max(1, min(len(x), _BLOCK_ENTRIES // len(y)))
    found = [
        _partners(x_device, y_device, potentials, min(start, len(x) - rows), rows=rows)
        for start in range(0, len(x), rows)
    ]
    # The last block began early rather than being short: one shape, one compilation.
    overlap = len(found) * rows - len(x)
    partner, regret, best = (
        np.concatenate([*(np.asarray(p) for p in part[:-1]), np.asarray(part[-1])[overlap:]])
        for part in zip(*found, strict=True)
    )
    least = (x**2).sum(axis=1) - best
    return partner, regret, float(a @ least + b @ np.asarray(potentials, np.float64))


def _scores(x: Float[Array, "n d"], y: Float[Array, "m d"], g: Float[Array, "m"]) -> Array:
    """g_j - |x_i - y_j|^2 + |x_i|^2, the largest of which is the partner's."""
    return 2 * matmul(x, y.T) + (g - (y**2).sum(axis=1))


def _largest(scores: Float[Array, "n m"]) -> tuple[Int[Array, "n"], Float[Array, "n 1"]]:
    """Where a row is largest, and how large. XLA's own argmax takes three times as long on a CPU.

    It is taken where no entry equals the largest: in one dimension, or for one row, XLA computes the
    scores once for either use of them, and rounds them differently.
    """
    top = scores.max(axis=1, keepdims=True)
    index = jnp.arange(scores.shape[1], dtype=jnp.int32)
    where = jnp.where(scores >= top, index, -1).max(axis=1)
    where = jax.lax.cond(
        (where >= 0).all(), lambda: where, lambda: scores.argmax(axis=1).astype(jnp.int32)
    )
    return where, top


@functools.partial(jax.jit, static_argnames=("passes", "batch"))
def _potentials(
    x: Float[Array, "n d"],
    y: Float[Array, "m d"],
    a: Float[Array, "n"],
    b: Float[Array, "m"],
    *,
    passes: int,
    batch: int,
) -> Float[Array, "m"]:
    """The g_j of (1) by (3). Rows come shuffled by the caller's key, so that a fixed one will do."""
    n, m = len(x), len(y)
    n_batches = -(-n // batch)
    first, last = _STEPS

    def step(g, taken):
        rows, present, s = taken
        partner, _ = _largest(_scores(x[rows], y, g))
        mass = m * s * a[rows] * present
        return (g + mass.sum() * b).at[partner].add(-mass), None

    def one_pass(g, index):
        order = jax.random.permutation(jax.random.fold_in(jax.random.key(0), index), n)
        rows = jnp.pad(order, (0, n_batches * batch - n)).reshape(n_batches, batch)
        present = (jnp.arange(n_batches * batch) < n).reshape(n_batches, batch)
        progress = (index + jnp.arange(n_batches) / n_batches) / passes
        return jax.lax.scan(step, g, (rows, present, first * (last / first) ** progress))[0], None

    return jax.lax.scan(one_pass, jnp.zeros(m), jnp.arange(passes))[0]


@functools.partial(jax.jit, static_argnames="rows")
def _partners(
    x: Float[Array, "n d"],
    y: Float[Array, "m d"],
    g: Float[Array, "m"],
    start: Int[Array, ""] | int,
    *,
    rows: int,
) -> tuple[Int[Array, "rows"], Float[Array, "rows"], Float[Array, "rows"]]:
    """Equation (2) for some rows, how much dearer the second best target is, and the best score."""
    scores = _scores(jax.lax.dynamic_slice_in_dim(x, start, rows), y, g)
    partner, top = _largest(scores)
    others = jnp.where(jnp.arange(len(y)) == partner[:, None], -jnp.inf, scores)
    return partner, top[:, 0] - others.max(axis=1), top[:, 0]


def _kept(
    partner: HostArray, regret: HostArray, a: HostArray, b: HostArray
) -> tuple[HostArray, HostArray, HostArray]:
    """What of each source's mass stays with its partner, what does not, and what targets miss."""
    order = np.lexsort((-regret, partner))
    ordered, weight = partner[order], a[order]
    before = np.cumsum(weight) - weight
    starts = np.flatnonzero(np.diff(ordered, prepend=-1))
    before -= np.repeat(before[starts], np.diff(starts, append=len(order)))
    share = np.clip((b[ordered] - before) / weight, 0.0, 1.0)
    share = np.where(share > 1 - _ROUNDING, 1.0, np.where(share < _ROUNDING, 0.0, share))
    kept = np.empty_like(weight)
    kept[order] = share * weight
    missing = b - np.bincount(partner, kept, len(b))
    return kept, a - kept, np.where(missing > _ROUNDING * b, missing, 0.0)


def _moved(
    x: HostArray, y: HostArray, left: HostArray, missing: HostArray
) -> tuple[HostArray, HostArray, HostArray]:
    """The exact plan, by blocks, from the mass that is left to the mass that is missing."""
    source, target = np.flatnonzero(left), np.flatnonzero(missing)
    rows, cols, mass = [source[:0]], [target[:0]], [left[:0]]
    if len(source) and len(target):
        total = left.sum()
        n_blocks = -(-max(len(source), len(target)) // _MOVED_AT_ONCE)
        parts = blocks_of_mass(left[source] / total, missing[target] / missing.sum(), n_blocks)
        for i, j, a_part, b_part in parts:
            row, col, part, _ = exact_plan(x[source[i]], y[target[j]], a_part, b_part)
            rows.append(source[i[row]])
            cols.append(target[j[col]])
            mass.append(part * a_part.sum() * total)
    return np.concatenate(rows), np.concatenate(cols), np.concatenate(mass)
