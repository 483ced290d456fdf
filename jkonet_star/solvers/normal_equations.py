"""The sums of linear least squares over couplings, in double precision.

With v = (y - x) / tau and the (d, f) matrix of `closed_form`,

    A(p) = [J phi_1(p)^T, mean_{y' ~ nu} J phi_2(p - y')^T, -S_m grad phi_3(p), grad log rho(p)],

    G = sum_k E[A^T A],   g = sum_k E[A^T v],   s = sum_k E|v|^2.                                   (1)

In many dimensions a monomial touches few coordinates, and most of A is zero: row i has entries at the
monomials that touch x_i, at the radial functions and at the score only. With A_i the (pairs, m) matrix
of these entries over pairs, W their weights, and J_i the places of the m among the f,

    G[J_i, J_i] += A_i^T W A_i,   g[J_i] += A_i^T W v_i,   i = 1 .. d,                              (2)

d m^2 products for a pair instead of d f^2. In dimension 50 a row has 61 of the 1335 functions, which
makes it a 480th. A itself is never written down there.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from diffusions.precision import double_precision, einsum
from diffusions.typing import Array, Float, Int, PyTree
from jkonet_star.energies.features import POPULATION_PER_BLOCK, Features
from jkonet_star.energies.interactions import interaction_drift
from jkonet_star.energies.models import LinearEnergy
from jkonet_star.solvers.first_order import FirstOrderConditions

PAIRS_PER_BLOCK = 256
PAIRS_AT_ONCE = 2**17
"""In double precision on the device, however many there are."""
FULL_UP_TO = 3
"""Dimensions in which most monomials touch every coordinate, and (1) is as good as (2)."""


def design_matrix(
    model: LinearEnergy,
    constants: PyTree,
    points: Float[Array, "b d"],
    scores: Float[Array, "b d"],
    population: Float[Array, "p d"],
    population_weights: Float[Array, "p"],
) -> Float[Array, "b d f"]:
    """A(p) of equation (1) at each point."""
    columns = []
    if model.potential_features is not None:
        jacobian = functools.partial(
            model.potential_features.jacobian, constants["potential"].astype(points.dtype)
        )
        columns.append(jnp.swapaxes(jax.vmap(jacobian)(points), 1, 2))
    if model.interaction_features is not None:
        mean = model.interaction_features.mean_jacobian(
            constants["interaction"].astype(points.dtype),
            points,
            population,
            population_weights,
        )
        columns.append(jnp.swapaxes(mean, 1, 2))
    return jnp.concatenate([*columns, *_in_full(model, constants, points, scores)], axis=2)


def _in_full(
    model: LinearEnergy, constants: PyTree, points: Float[Array, "b d"], scores: Float[Array, "b d"]
) -> list[Float[Array, "b d n"]]:
    """The last columns of A(p), of the circulation and of the score, which are zero nowhere."""
    columns = []
    if model.has_circulation:
        turned = functools.partial(
            model.circulation_jacobian, constants["circulation"].astype(points.dtype)
        )
        columns.append(-jnp.swapaxes(jax.vmap(turned)(points), 1, 2))
    if model.internal == "learned":
        columns.append(scores[:, :, None])
    return columns


def count_unknowns(model: LinearEnergy) -> int:
    """f, the columns of A."""
    features = (model.potential_features, model.interaction_features)
    known = sum(own.n_features for own in features if own is not None)
    return known + model.n_circulation + int(model.internal == "learned")


def places(model: LinearEnergy) -> Int[np.ndarray, "d m"]:
    """J_i of equation (2).

    Where a coordinate is touched by fewer monomials than others, zeros fill its row up, at place 0.
    """
    columns, first = [], 0
    for features in (model.potential_features, model.interaction_features):
        if features is None:
            continue
        touching, slots = features.touching, features.axes_touched
        n_monomials = features.n_features - features.n_centers
        columns.append(
            np.where(touching < n_monomials * slots, first + touching // max(slots, 1), 0)
        )
        columns.append(_in_all_rows(model.dimension, first + n_monomials, features.n_centers))
        first += features.n_features
    rest = _in_all_rows(model.dimension, first, count_unknowns(model) - first)
    return np.concatenate([*columns, rest], axis=1)


def _in_all_rows(dimension: int, first: int, count: int) -> Int[np.ndarray, "d count"]:
    return np.tile(np.arange(first, first + count), (dimension, 1))


def compact_design(
    model: LinearEnergy,
    constants: PyTree,
    points: Float[Array, "b d"],
    scores: Float[Array, "b d"],
    population: Float[Array, "p d"],
    population_weights: Float[Array, "p"],
) -> Float[Array, "b d m"]:
    """The entries of A(p) that `places` has the places of, at each point."""

    def gradients(features: Features, name: str, x: Float[Array, "d"]) -> Float[Array, "n"]:
        """All that is not zero by itself, in one row."""
        centers = constants[name].astype(points.dtype)
        parts = [features.partial_derivatives(x).ravel()] if features.exponents else []
        if features.n_centers:
            parts.append(features.radial_jacobian(centers, x).ravel())
        return jnp.concatenate(parts)

    columns = []
    if model.potential_features is not None:
        own = functools.partial(gradients, model.potential_features, "potential")
        columns += _by_coordinate(model.potential_features, jax.vmap(own)(points))
    if model.interaction_features is not None:
        mean = interaction_drift(
            functools.partial(gradients, model.interaction_features, "interaction"),
            points,
            population,
            population_weights,
            block_size=POPULATION_PER_BLOCK,
        )
        columns += _by_coordinate(model.interaction_features, mean)
    return jnp.concatenate([*columns, *_in_full(model, constants, points, scores)], axis=2)


def _by_coordinate(features: Features, gradients: Float[Array, "b n"]) -> list[Array]:
    """Rows of `gradients` as monomials (b, d, m) and radial functions (b, d, k)."""
    n_slots = (features.n_features - features.n_centers) * features.axes_touched
    slopes, radial = gradients[:, :n_slots], gradients[:, n_slots:]
    missing = jnp.zeros((len(gradients), 1), gradients.dtype)
    slopes = jnp.concatenate([slopes, missing], axis=1)[:, features.touching]
    shape = (len(gradients), features.n_centers, features.dimension)
    return [slopes, jnp.swapaxes(radial.reshape(shape), 1, 2)]


@functools.partial(jax.jit, static_argnames=("model",))
def _step_normal_equations(
    model: LinearEnergy,
    constants: PyTree,
    blocks: tuple[Array, Array, Array, Array],
    population: Array,
    population_weights: Array,
) -> tuple[Array, Array, Array]:
    """The sums (1), or the A_i^T W A_i and A_i^T W v_i of (2), over the blocks of one step."""
    compact = model.dimension > FULL_UP_TO
    design, gram_of, moment_of = (
        (compact_design, "bdf,bdg->dfg", "bdf,bd->df")
        if compact
        else (design_matrix, "bdf,bdg->fg", "bdf,bd->f")
    )

    def sums(block: tuple) -> tuple[Array, Array, Array]:
        points, velocities, scores, weights = block
        a = design(model, constants, points, scores, population, population_weights)
        weighted = weights[:, None, None] * a
        return (
            einsum(gram_of, weighted, a),
            einsum(moment_of, weighted, velocities),
            einsum("b,bd->", weights, velocities**2),
        )

    def accumulate(total: tuple, block: tuple) -> tuple[tuple, None]:
        return jax.tree.map(jnp.add, total, sums(block)), None

    shapes = jax.eval_shape(sums, jax.tree.map(lambda leaf: leaf[0], blocks))
    start = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)
    return jax.lax.scan(accumulate, start, blocks)[0]


class NormalEquations(NamedTuple):
    """The sums of equation (1), in double precision."""

    gram: Float[np.ndarray, "*folds f f"]  # sum over steps of E[A^T A]
    moment: Float[np.ndarray, "*folds f"]  # of E[A^T (y - x)] / tau
    square: Float[np.ndarray, "*folds"]  # of E|y - x|^2 / tau^2


def normal_equations(
    model: LinearEnergy,
    constants: PyTree,
    conditions: FirstOrderConditions,
    *,
    fold: Int[np.ndarray, "c"] | None = None,
    n_folds: int | None = None,
    apart: bool = False,
) -> NormalEquations:
    """The sums of equation (1), kept apart for each fold of the pairs where folds are given.

    Args:
        model: which features and terms.
        constants: radial centres, and the data's units.
        conditions: the data, in its own units: at unit scale there is only a block at a time.
        fold: a label 0, 1, .. per pair.
        n_folds: of the labels; up to the largest one where it is not given.
        apart: the particles of a fold meet only each other.
    """
    host = jax.tree.map(np.asarray, conditions)
    labels = np.zeros(len(host.step), int) if fold is None else fold
    parts = []
    nobody = np.zeros((1, model.dimension)), np.ones(1)
    for k in range(host.population.shape[0]):
        all_met = population_of(host, constants, k) if model.has_interaction else nobody
        for j in range(labels.max() + 1):
            own = np.flatnonzero((host.step == k) & (labels == j))
            if not len(own):
                continue
            met = population_of(host, constants, k, own) if apart else all_met
            for first in range(0, len(own), PAIRS_AT_ONCE):
                parts.append((k, j, own[first : first + PAIRS_AT_ONCE], *met))
    longest = max(len(own) for _, _, own, *_ in parts)
    largest = max(len(population) for *_, population, _ in parts)
    block = min(PAIRS_PER_BLOCK, longest)
    n_rows = -(-longest // block) * block
    sums: list[Any] = [None] * (n_folds or labels.max() + 1)
    with double_precision():
        fixed = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float64), constants)
        for _, j, own, population, population_weights in parts:
            # Every part is padded to one shape, so that the program is compiled once; the padding
            # repeats a real pair, or particle, and weighs nothing.
            missing = largest - len(population)
            part = _step_normal_equations(
                model,
                fixed,
                pair_blocks(host, constants, own, n_rows, block),
                jnp.asarray(np.pad(population, ((0, missing), (0, 0)), "edge"), jnp.float64),
                jnp.asarray(np.pad(population_weights, (0, missing)), jnp.float64),
            )
            own_sums = _in_place(model, *(np.asarray(p) for p in part))
            sums[j] = jax.tree.map(np.add, sums[j], own_sums) if sums[j] else own_sums
    if fold is None:
        return sums[0]
    nothing = jax.tree.map(np.zeros_like, next(part for part in sums if part))
    sums = [part or nothing for part in sums]
    return NormalEquations(*(np.stack(p) for p in zip(*sums, strict=True)))


def _in_place(
    model: LinearEnergy, gram: np.ndarray, moment: np.ndarray, square: np.ndarray
) -> NormalEquations:
    """The sums (1) out of those of one step, by (2) where they are."""
    if gram.ndim == 2:
        return NormalEquations(gram, moment, square)
    where, n_features = places(model), count_unknowns(model)
    own = NormalEquations(np.zeros((n_features, n_features)), np.zeros(n_features), square)
    np.add.at(own.gram, (where[:, :, None], where[:, None, :]), gram)
    np.add.at(own.moment, where, moment)
    return own


def pair_blocks(
    host: FirstOrderConditions,
    constants: PyTree,
    own: Int[np.ndarray, "c"],
    n_rows: int,
    block: int,
) -> tuple[Array, Array, Array, Array]:
    """Points, velocities, scores and weights of some pairs, at unit scale, in blocks.

    Args:
        host: the conditions, as NumPy arrays.
        constants: with the data's units; without them the conditions are at unit scale.
        own: the pairs; a real one is repeated with weight zero up to `n_rows`.
        n_rows: a multiple of `block`.
        block: pairs in one.
    """
    center, length, speed = _scales(constants)
    rows = np.concatenate([own, np.zeros(n_rows - len(own), own.dtype)])
    # r / (s tau): a displacement over the speed is a time, as tau is.
    velocities = host.displacement[rows] / speed / host.tau[rows, None].astype(np.float64)
    weights = np.concatenate([host.weight[own], np.zeros(n_rows - len(own))])
    scores = np.zeros_like(velocities) if host.score is None else host.score[rows] * length
    points, moved, slopes, mass = (
        jnp.asarray(c.reshape(-1, block, *c.shape[1:]), jnp.float64)
        for c in (
            (host.point[rows] - center) / length,
            velocities,
            scores,
            weights,
        )
    )
    return points, moved, slopes, mass


def population_of(
    host: FirstOrderConditions, constants: PyTree, k: int, own: np.ndarray | None = None
) -> tuple[Float[np.ndarray, "p d"], Float[np.ndarray, "p"]]:
    """Support of nu at a step, at unit scale, and its weights.

    Args:
        host: the conditions, as NumPy arrays.
        constants: as of `pair_blocks`.
        k: the step.
        own: pairs whose particles alone are meant.
    """
    center, length, _ = _scales(constants)
    population = np.asarray(host.population[k])
    weights = np.asarray(host.population_weights[k])
    if own is not None:
        row, mass = np.asarray(host.row)[own], np.asarray(host.weight)[own]
        weights = np.bincount(row, mass, minlength=len(population))
        present = np.flatnonzero(weights)
        population, weights = population[present], weights[present] / weights.sum()
    return (population - center) / length, weights


def _scales(constants: PyTree) -> tuple[np.ndarray | float, np.ndarray | float, np.ndarray | float]:
    """Centre, length and speed of the data."""
    units = constants.get("units")
    if units is None:
        return 0.0, 1.0, 1.0
    return np.asarray(units.center), np.asarray(units.length), np.asarray(units.speed)
