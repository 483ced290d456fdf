"""Batches of whole trajectories of populations, for `bilevel`: training particles only.

A batch holds as many particles of every snapshot. Drawn alone, two snapshots of a batch differ by the
accident of sampling more than by the motion of a short step. Matched batches follow the couplings:
particles of the first snapshot without replacement, then

    j ~ gamma_k(i, .) / sum_j' gamma_k(i, j')                                                        (1)

for the partner of i in the next one. With the weights of the first particles such a batch is, for
every snapshot, a sample of it, because gamma_k has the snapshots as its marginals. Where particles
multiply and die, the first marginal is w_k in place of mu_k, and the step from i multiplies the weight
by w_k(i) / mu_k(i).                                                                                 (2)
"""

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

from diffusions.short_repr import short_repr
from diffusions.typing import Array, Float, Int, Key
from jkonet_star.snapshots import Snapshots
from jkonet_star.transport.couplings import Couplings


@flax.struct.dataclass
class BilevelData:
    """Snapshots, with the couplings sorted by source for sampling (1)."""

    points: Float[Array, "t n d"]
    weights: Float[Array, "t n"]
    tau: Float[Array, "steps"]
    target: Int[Array, "steps p"]  # of each pair
    first: Int[Array, "steps n"]  # of the pairs of each source
    last: Int[Array, "steps n"]
    cumulated: Float[Array, "steps p"]  # weight of the pairs up to and with this one
    before: Float[Array, "steps n"]  # weight of the pairs before a source's
    mass: Float[Array, "steps n"]  # of a source's pairs
    factor: Float[Array, "steps n"] | None = None  # of equation (2), where there is growth

    __repr__ = short_repr


def bilevel_data(
    snapshots: Snapshots,
    couplings: Couplings | None,
    source_weights: Float[Array, "steps n"] | None = None,
) -> BilevelData:
    """Gathers what batches are drawn from.

    Args:
        snapshots: the training population.
        couplings: of its steps.
        source_weights: w_k of equation (2), where there is growth.

    Raises:
        ValueError: there are no couplings.
    """
    if couplings is None:
        raise ValueError("batches follow the couplings: prepare the problem with couplings")
    step = np.asarray(couplings.step)
    n_steps, n = snapshots.n_steps, snapshots.points.shape[1]
    n_pairs = int(np.bincount(step, minlength=n_steps).max())
    target = np.zeros((n_steps, n_pairs), np.int32)
    cumulated = np.full((n_steps, n_pairs), np.inf, np.float32)
    first, last = np.zeros((n_steps, n), np.int32), np.zeros((n_steps, n), np.int32)
    before, mass = np.zeros((n_steps, n), np.float32), np.zeros((n_steps, n), np.float32)
    for k in range(n_steps):
        own = np.flatnonzero(step == k)
        own = own[np.argsort(np.asarray(couplings.source)[own], kind="stable")]
        source = np.asarray(couplings.source)[own]
        weight = np.asarray(couplings.weight, np.float64)[own]
        target[k, : len(own)] = np.asarray(couplings.target)[own]
        cumulated[k, : len(own)] = np.cumsum(weight)
        first[k] = np.searchsorted(source, np.arange(n))
        last[k] = np.searchsorted(source, np.arange(n), side="right") - 1
        total = np.concatenate([[0.0], np.cumsum(weight)])
        before[k] = total[first[k]]
        mass[k] = total[last[k] + 1] - total[first[k]]
    return BilevelData(
        points=snapshots.points,
        weights=snapshots.weights,
        tau=snapshots.dt,
        target=jnp.asarray(target),
        first=jnp.asarray(first),
        last=jnp.asarray(np.maximum(last, first)),
        cumulated=jnp.asarray(cumulated),
        before=jnp.asarray(before),
        mass=jnp.asarray(mass),
        factor=None
        if source_weights is None
        else source_weights / jnp.where(snapshots.weights > 0, snapshots.weights, jnp.inf)[:-1],
    )


def draw_batches(
    key: Key, data: BilevelData, n_batches: int, batch_size: int, *, matched: bool
) -> tuple[Int[Array, "batches t b"], Float[Array, "batches t b"]]:
    """Rows of every snapshot, and their weights, for all batches of an epoch.

    A snapshot with fewer particles than the epoch takes begins anew.

    Args:
        key: of the epoch.
        data: the population.
        n_batches: static.
        batch_size: particles of each snapshot in a batch; static.
        matched: follow the couplings.
    """
    n_snapshots, n = data.weights.shape
    order_key, pair_key = jax.random.split(key)

    def shuffled(key: Key, weights: Array) -> Array:
        # Padding comes last and is never reached.
        order = jnp.argsort(
            jnp.where(weights > 0, jax.random.uniform(key, (n,), weights.dtype), 2.0)
        )
        return order[jnp.arange(n_batches * batch_size) % jnp.count_nonzero(weights)]

    def follow(rows: Array, step: tuple) -> tuple[Array, Array]:
        pairs, chance = step
        level = pairs["before"][rows] + chance * pairs["mass"][rows]
        found = jnp.searchsorted(pairs["cumulated"], level, side="right")
        found = jnp.clip(found, pairs["first"][rows], pairs["last"][rows])
        rows = pairs["target"][found]
        return rows, rows

    if matched:
        start = shuffled(order_key, data.weights[0])
        names = ("target", "first", "last", "cumulated", "before", "mass")
        pairs = {name: getattr(data, name) for name in names}
        chance = jax.random.uniform(
            pair_key, (n_snapshots - 1, n_batches * batch_size), data.weights.dtype
        )
        _, later = jax.lax.scan(follow, start, (pairs, chance))
        rows = jnp.concatenate([start[None], later])
        weights = jnp.broadcast_to(data.weights[0, start], rows.shape)
        if data.factor is not None:
            grown = jnp.cumprod(jnp.take_along_axis(data.factor, rows[:-1], axis=1), axis=0)
            weights = weights.at[1:].multiply(grown)
    else:
        rows = jax.vmap(shuffled)(jax.random.split(order_key, n_snapshots), data.weights)
        weights = jnp.take_along_axis(data.weights, rows, axis=1)
    rows, weights = (
        jnp.swapaxes(a.reshape(n_snapshots, n_batches, batch_size), 0, 1) for a in (rows, weights)
    )
    return rows, weights / jnp.sum(weights, axis=-1, keepdims=True)
