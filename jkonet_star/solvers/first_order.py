"""First-order optimality losses of the JKO step (Terpin et al., NeurIPS 2024, arXiv 2406.12616).

For (x, y) in the support of the optimal plan gamma_k between snapshots k and k + 1, tau apart,

    r(x, y) = tau [grad V(p) + (grad U * nu)(p) + beta grad log rho(p)] + (y - x),                 (1)

which vanishes at the truth; a circulation c (`energies`, equation (4)) counts as -c beside grad V. The
scheme says where:

    implicit   p = y,          nu = mu_{k+1},  rho = rho_{k+1}: the optimality of the JKO step
    explicit   p = x,          nu = mu_k,      rho = rho_k: exact for Euler-Maruyama without noise
    midpoint   p = (x + y)/2,  nu = law of p,  both scores averaged at p: second order in tau

The loss, free of units through the data's speed s, is

    L = mean_k E_{gamma_k} |r|^2 / (s tau_k)^2.                                                    (2)

With K particles y' drawn from nu in place of the whole snapshot, |r|^2 alone would be biased by the
variance of the mean of their tau grad U(p - y'). They are drawn from strata (`strata`), whose equation
(2) is an unbiased estimate S of that variance, so that

    |r|^2 - S                                                                                      (3)

is one of |r|^2.

Where beta is known beforehand its term joins the displacement. On the particles' own noise the plan
matters. Between independent samples it is the optimal map, the same at both ends of a step: the term
is (1)'s. Where snapshots show the same particles the plan finds them again, y - x contains each one's
noise xi ~ N(0, 2 beta tau I), and its mean given p is, by Tweedie's formula,

    E[xi | x] = 0, E[xi | (x + y)/2] ~ -beta tau grad log rho, E[xi | y] = -2 beta tau grad log rho: (4)

the term of (1) counts not at all (explicit), once (midpoint) or twice (implicit).

Of V and U the data tell little more than the sum grad V + grad U * nu where nu hardly changes: a
quadratic U pulls to the mean, as V can. Of what explains the data about equally well, the smallest
pull is learned, by a ridge: (2) has lambda times

    |tau grad U * nu|^2, or its unbiased estimate |u|^2 - S with u the mean over the draws         (5)

beside |r|^2. The refinement begins from such an energy, and has none.
"""

import dataclasses

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

from diffusions.alignment import aligned_empty
from diffusions.short_repr import short_repr
from diffusions.typing import Array, Float, Int, Key, Params, PyTree
from jkonet_star.densities import GaussianMixtures, KernelDensities
from jkonet_star.energies.interactions import grouped_interaction_drift
from jkonet_star.energies.models import EnergyModel
from jkonet_star.snapshots import Snapshots, take_rows, taken_over
from jkonet_star.solvers.strata import compact_order, mean_and_spread, uniform_in_strata
from jkonet_star.transport.couplings import Couplings


@flax.struct.dataclass
class FirstOrderConditions:
    """Everything in equation (1) that does not depend on the energy, one row per matched pair."""

    point: Float[Array, "c d"]  # p
    displacement: Float[Array, "c d"]  # y - x
    score: Float[Array, "c d"] | None  # grad log rho(p); None where no density was fitted
    tau: Float[Array, "c"]
    time: Float[Array, "c"]  # at which a time-varying potential is evaluated
    weight: Float[Array, "c"]  # of the plan; sums to 1 over each step
    step: Int[Array, "c"]
    row: Int[Array, "c"]  # of p in the population
    lineage: Int[Array, "c"]  # which particle x descends from, along the heaviest pairs
    population: Float[Array, "steps p d"]  # support of nu, one per step
    population_weights: Float[Array, "steps p"]

    __repr__ = short_repr


def filled_up(
    conditions: FirstOrderConditions, n_pairs: int, n_particles: int | None = None
) -> FirstOrderConditions:
    """The same conditions with more rows, which repeat the first ones and have weight zero.

    Args:
        conditions: of fewer.
        n_pairs: how many there shall be.
        n_particles: likewise, of the population of each step; as there are where absent.
    """
    more = n_pairs - conditions.point.shape[0]
    thin = 0 if n_particles is None else n_particles - conditions.population.shape[1]
    filled = {
        field.name: _repeated(getattr(conditions, field.name), more, axis=0)
        for field in dataclasses.fields(conditions)
        if not field.name.startswith("population") and getattr(conditions, field.name) is not None
    }
    filled["weight"] = jnp.asarray(np.pad(np.asarray(conditions.weight), (0, more)))
    if thin:
        weights = np.pad(np.asarray(conditions.population_weights), ((0, 0), (0, thin)))
        filled["population_weights"] = jnp.asarray(weights)
        filled["population"] = _repeated(conditions.population, thin, axis=1)
    return dataclasses.replace(conditions, **filled)


def compactly_ordered(conditions: FirstOrderConditions) -> FirstOrderConditions:
    """The same conditions with near particles as neighbours, so that strata of them are compact."""
    population = np.asarray(conditions.population)
    weights = np.asarray(conditions.population_weights)
    order = np.stack([compact_order(*step) for step in zip(population, weights, strict=True)])
    place = np.argsort(order, axis=1)
    row = place[np.asarray(conditions.step), np.asarray(conditions.row)]
    return dataclasses.replace(
        conditions,
        population=jnp.asarray(np.take_along_axis(population, order[..., None], axis=1)),
        population_weights=jnp.asarray(np.take_along_axis(weights, order, axis=1)),
        row=jnp.asarray(row, conditions.row.dtype),
    )


def _repeated(leaf: Array, count: int, axis: int) -> Array:
    """The first entry once more, `count` times, at the end."""
    array = np.asarray(leaf)
    first = np.take(array, [0], axis=axis)
    return jnp.asarray(np.concatenate([array, np.repeat(first, count, axis=axis)], axis=axis))


def _midpoint_population(
    step: np.ndarray, weight: np.ndarray, midpoints: np.ndarray, n_steps: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The law of (x + y)/2 under each step's plan, padded to the longest step, and each pair's row."""
    longest = int(np.bincount(step).max())
    population = np.empty((n_steps, longest, midpoints.shape[1]), midpoints.dtype)
    weights = np.zeros((n_steps, longest), weight.dtype)
    row = np.empty_like(step)
    for k in range(n_steps):
        own = np.flatnonzero(step == k)
        row[own] = np.arange(len(own))
        population[k] = midpoints[own[0]]
        population[k, : len(own)] = midpoints[own]
        weights[k, : len(own)] = weight[own]
    return population, weights, row


def _lineages(couplings: Couplings, n_rows: int) -> np.ndarray:
    """The number of the particle that each pair's source descends from, along the heaviest pairs.

    A particle that nothing is matched with starts a lineage of its own.
    """
    step, weight = np.asarray(couplings.step), np.asarray(couplings.weight)
    source, target = np.asarray(couplings.source), np.asarray(couplings.target)
    lineage = np.empty(len(step), np.int32)
    present = np.arange(n_rows, dtype=np.int32)
    for k in range(step.max() + 1):
        own = np.flatnonzero(step == k)
        lineage[own] = present[source[own]]
        # Written in the order of their weights: the heaviest pair of a target has the last word.
        order = own[np.argsort(weight[own], kind="stable")]
        present = np.arange((k + 1) * n_rows, (k + 2) * n_rows, dtype=np.int32)
        present[target[order]] = lineage[order]
    return lineage


def first_order_conditions(
    snapshots: Snapshots,
    couplings: Couplings,
    densities: GaussianMixtures | KernelDensities | None,
    scheme: str,
) -> FirstOrderConditions:
    """Gathers the data of equation (1) for one scheme.

    Args:
        snapshots: of the population.
        couplings: between consecutive snapshots.
        densities: one per snapshot; None leaves the score at zero.
        scheme: implicit, explicit or midpoint.
    """
    # On the host: a handful of gathers, each of which the device would compile first.
    points, times = np.asarray(snapshots.points), np.asarray(snapshots.times)
    k, weight = np.asarray(couplings.step), np.asarray(couplings.weight)
    source, target = np.asarray(couplings.source), np.asarray(couplings.target)
    x, y = _gathered(points, k, source), _gathered(points, k + 1, target)
    n_steps = len(points) - 1

    def marginal(rows: np.ndarray) -> np.ndarray:
        total = np.zeros(points.shape[:2], weight.dtype)[:-1]
        np.add.at(total, (k, rows), weight)
        return total

    density_snapshots: tuple[np.ndarray, ...]
    if scheme == "implicit":
        point, displacement, time = y, np.subtract(y, x, out=x), times[k + 1]
        population, weights, row = points[1:], marginal(target), target
        density_snapshots = (k + 1,)
    elif scheme == "explicit":
        point, displacement, time = x, np.subtract(y, x, out=y), times[k]
        population, weights, row = points[:-1], marginal(source), source
        density_snapshots = (k,)
    else:
        half = np.float32(0.5)
        point, time = aligned_empty(x.shape, x.dtype), half * (times[k] + times[k + 1])
        np.multiply(half, np.add(x, y, out=point), out=point)
        displacement = np.subtract(y, x, out=y)
        population, weights, row = _midpoint_population(k, weight, point, n_steps)
        density_snapshots = (k, k + 1)
    # What is large is taken over as it is, and so are the populations, which are the snapshots'.
    points_taken = taken_over(point)
    score: Array | None = None
    if densities is not None:
        scores = [_scores(densities, jnp.asarray(s), points_taken) for s in density_snapshots]
        score = jnp.asarray(np.mean([np.asarray(s) for s in scores], axis=0))
    return FirstOrderConditions(
        point=points_taken,
        displacement=taken_over(displacement),
        score=score,
        tau=jnp.asarray((times[1:] - times[:-1])[k]),
        time=jnp.asarray(time),
        weight=couplings.weight,
        step=couplings.step,
        row=jnp.asarray(row),
        lineage=jnp.asarray(_lineages(couplings, points.shape[1])),
        population=taken_over(population),
        population_weights=jnp.asarray(weights),
    )


def _gathered(
    points: Float[np.ndarray, "t n d"], snapshot: Int[np.ndarray, "c"], row: Int[np.ndarray, "c"]
) -> Float[np.ndarray, "c d"]:
    """`points[snapshot, row]`, where it can be taken over."""
    n, d = points.shape[1:]
    if len(row) and not 0 <= row.min() <= row.max() < n:
        raise ValueError(f"couplings name rows {row.min()} to {row.max()} of {n} particles")
    found = aligned_empty((len(row), d), points.dtype)
    take_rows(points.reshape(-1, d), snapshot.astype(np.int64) * n + row, found)
    return found


@jax.jit
def _scores(
    densities: GaussianMixtures | KernelDensities, step: Int[Array, "m"], point: Float[Array, "m d"]
) -> Float[Array, "m d"]:
    return jax.vmap(densities.score)(step, point)


PAIRED_FACTOR = {"explicit": 0.0, "midpoint": 1.0, "implicit": 2.0}
"""How often the score counts in paired data, equation (4)."""


def with_known_beta(
    conditions: FirstOrderConditions, beta: float, *, paired: bool, scheme: str
) -> FirstOrderConditions:
    """The conditions with beta's term in the displacement, once as in (1) or as often as (4) says.

    Without densities there is no such term.
    """
    factor = PAIRED_FACTOR[scheme] if paired else 1.0
    if conditions.score is None:
        return conditions
    shift = factor * beta * conditions.tau[:, None] * conditions.score
    return dataclasses.replace(conditions, displacement=conditions.displacement + shift)


def residuals(
    model: EnergyModel,
    params: Params,
    constants: PyTree,
    conditions: FirstOrderConditions,
    rows: Int[Array, "b"],
    *,
    key: Key | None = None,
    interaction_samples: int = 0,
    pull_ridge: float = 0.0,
) -> tuple[Float[Array, "b d"], Float[Array, "b"]]:
    """Equation (1) for some pairs, and what its square exceeds the loss by: S of (3) less (5).

    Args:
        model: of the energy.
        params: learned arrays of the model.
        constants: fixed arrays of the model.
        conditions: the data.
        rows: which pairs.
        key: needed where `interaction_samples` is positive.
        interaction_samples: K of equation (3), at least 2; 0 for the whole snapshot (then S is 0).
        pull_ridge: lambda of equation (5); it has no effect without a potential beside.
    """
    p, tau, step = conditions.point[rows], conditions.tau[rows], conditions.step[rows]
    drift = jnp.zeros_like(p)
    excess = jnp.zeros(p.shape[0])
    if model.has_potential:
        gradient = jax.grad(lambda x, t: model.potential(params, constants, x, t))
        drift += jax.vmap(gradient)(p, conditions.time[rows])
    if getattr(model, "has_circulation", False):
        drift -= jax.vmap(lambda x: model.circulation(params, constants, x))(p)
    if model.has_interaction:
        pairwise = jax.grad(lambda z: model.interaction(params, constants, z))
        if interaction_samples:
            if key is None:
                raise ValueError("interaction_samples needs a key")
            # Inverse-transform sampling: rows of the step's population in proportion to weight.
            uniform = uniform_in_strata(key, p.shape[0], interaction_samples)
            cumulative = jnp.cumsum(conditions.population_weights, axis=1)

            def draw(k: Array, u: Array) -> Array:
                row = jnp.searchsorted(cumulative[k], u * cumulative[k, -1], side="right")
                return conditions.population[k, jnp.minimum(row, cumulative.shape[1] - 1)]

            others = jax.vmap(draw)(step, uniform)
            pulls = jax.vmap(lambda a, b: jax.vmap(lambda c: pairwise(a - c))(b))(p, others)
            pull, spread = mean_and_spread(pulls)
            excess = tau**2 * spread
        else:
            pull = grouped_interaction_drift(
                pairwise, p, step, conditions.population, conditions.population_weights
            )
        drift += pull
        if pull_ridge and model.has_potential:
            excess -= pull_ridge * (tau**2 * jnp.sum(pull**2, axis=-1) - excess)
    if model.internal == "learned" and conditions.score is not None:
        drift += model.beta(params, constants) * conditions.score[rows]
    return tau[:, None] * drift + conditions.displacement[rows], excess


def jko_loss(
    model: EnergyModel,
    params: Params,
    constants: PyTree,
    conditions: FirstOrderConditions,
    rows: Int[Array, "b"],
    *,
    speed: Float[Array, ""],
    key: Key | None = None,
    interaction_samples: int = 0,
    pull_ridge: float = 0.0,
) -> Float[Array, ""]:
    """Equation (2) with the ridge (5), or its unbiased estimate on a batch of pairs.

    Args:
        model: of the energy.
        params: learned arrays of the model.
        constants: fixed arrays of the model.
        conditions: the data.
        rows: the batch; negative entries are fillers and do not count.
        speed: s, which makes the loss free of units.
        key: needed where `interaction_samples` is positive.
        interaction_samples: K of equation (3); 0 for the whole snapshot.
        pull_ridge: lambda of equation (5).
    """
    counted = rows >= 0
    rows = jnp.maximum(rows, 0)
    r, excess = residuals(
        model,
        params,
        constants,
        conditions,
        rows,
        key=key,
        interaction_samples=interaction_samples,
        pull_ridge=pull_ridge,
    )
    squared = (jnp.sum(r**2, axis=-1) - excess) / (speed * conditions.tau[rows]) ** 2
    weight = conditions.weight[rows] * counted
    n_pairs, n_steps = conditions.point.shape[0], conditions.population.shape[0]
    return jnp.sum(weight * squared) * n_pairs / (n_steps * jnp.sum(counted))


def with_drift_of(
    model: EnergyModel, params: Params, constants: PyTree, conditions: FirstOrderConditions
) -> FirstOrderConditions:
    """The conditions with an energy's drift in place of the displacements.

    Args:
        model: of an energy whose beta is no parameter.
        params: learned arrays of the model.
        constants: fixed arrays of the model.
        conditions: of the data.
    """
    rows = jnp.arange(conditions.point.shape[0])
    still = dataclasses.replace(conditions, displacement=jnp.zeros_like(conditions.displacement))
    missing, _ = residuals(model, params, constants, still, rows)
    return dataclasses.replace(conditions, displacement=-missing)
