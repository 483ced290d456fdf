"""The sums by coordinates, equation (2), against those of the whole design matrix, equation (1)."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import jkonet_star.solvers.normal_equations as module
from jkonet_star.energies.circulation import coordinate_planes
from jkonet_star.energies.features import Features, monomial_exponents
from jkonet_star.energies.models import LinearEnergy
from jkonet_star.solvers.first_order import FirstOrderConditions
from jkonet_star.solvers.normal_equations import (
    compact_design,
    count_unknowns,
    design_matrix,
    normal_equations,
    places,
)

pytestmark = pytest.mark.usefixtures("double_precision")

PAIRS, OTHERS = 30, 7


def features(dimension, exponents, *, trigonometric=False, n_centers=0):
    return Features(
        dimension=dimension,
        exponents=tuple(exponents),
        trigonometric=trigonometric,
        radial="thin-plate" if n_centers else "none",
        width=None if n_centers else 1.0,
        n_centers=n_centers,
    )


def model_of(potential, interaction=None, *, circulation=None, internal=False):
    dimension = (potential or interaction).dimension
    return LinearEnergy(
        dimension=dimension,
        potential_features=potential,
        interaction_features=interaction,
        circulation_features=circulation,
        circulation_planes=() if circulation is None else coordinate_planes(dimension),
        internal="learned" if internal else "none",
    )


def constants_of(model, rng):
    def centers(of):
        width = rng.uniform(1.0, 3.0, (of.n_centers, 1))
        table = np.column_stack([rng.normal(size=(of.n_centers, of.dimension)), width])
        return jnp.asarray(table if of.n_centers else np.zeros((0, of.dimension)))

    named = {
        "potential": model.potential_features,
        "interaction": model.interaction_features,
        "circulation": model.circulation_features,
    }
    return {name: centers(of) for name, of in named.items() if of is not None}


def conditions_of(dimension, rng):
    """Two steps with weights, and populations of their own."""
    arrays = {
        "point": rng.normal(size=(PAIRS, dimension)),
        "displacement": rng.normal(size=(PAIRS, dimension)),
        "score": rng.normal(size=(PAIRS, dimension)),
        "tau": rng.uniform(0.1, 1.0, PAIRS),
        "weight": rng.uniform(0.0, 1.0, PAIRS),
        "time": np.zeros(PAIRS),
        "population": rng.normal(size=(2, OTHERS, dimension)),
        "population_weights": np.full((2, OTHERS), 1.0 / OTHERS),
    }
    step = np.arange(PAIRS) % 2
    whole = {"step": step, "row": np.arange(PAIRS), "lineage": np.arange(PAIRS)}
    return FirstOrderConditions(
        **{name: jnp.asarray(column) for name, column in arrays.items()},
        **{name: jnp.asarray(column, jnp.int32) for name, column in whole.items()},
    )


def written_out(model, constants, conditions):
    """Equation (1), with NumPy, from the design matrix of every pair."""
    c = jax.tree.map(np.asarray, conditions)
    sums = [0.0, 0.0, 0.0]
    for k in range(2):
        own = c.step == k
        a = np.asarray(
            design_matrix(
                model,
                constants,
                conditions.point[own],
                conditions.score[own],
                conditions.population[k],
                conditions.population_weights[k],
            )
        )
        v, w = c.displacement[own] / c.tau[own, None], c.weight[own]
        sums[0] += np.einsum("b,bdf,bdg->fg", w, a, a)
        sums[1] += np.einsum("b,bdf,bd->f", w, a, v)
        sums[2] += np.einsum("b,bd,bd->", w, v, v)
    return sums


def same(model, rng):
    constants, conditions = constants_of(model, rng), conditions_of(model.dimension, rng)
    found = normal_equations(model, constants, conditions)
    for own, expected in zip(found, written_out(model, constants, conditions), strict=True):
        np.testing.assert_allclose(own, expected, rtol=1e-11, atol=1e-11 * np.abs(expected).max())


CUBIC = functools.partial(monomial_exponents, degree=3, total_degree=3)


@pytest.mark.parametrize("dimension", [2, 4, 6])
@pytest.mark.parametrize("trigonometric", [False, True])
@pytest.mark.parametrize("n_centers", [0, 5])
def test_the_sums_are_those_of_the_design_matrix(dimension, trigonometric, n_centers):
    own = features(dimension, CUBIC(dimension), trigonometric=trigonometric, n_centers=n_centers)
    same(model_of(own, internal=True), np.random.default_rng(dimension))


def test_interactions_and_circulations_have_their_places():
    rng = np.random.default_rng(0)
    own = features(5, CUBIC(5), n_centers=3)
    pull = features(5, monomial_exponents(5, 2, 2), n_centers=4)
    turning = features(5, monomial_exponents(5, 1, 1))
    same(model_of(own, pull, circulation=turning, internal=True), rng)
    same(model_of(None, pull), rng)
    same(model_of(features(5, (), n_centers=3), internal=True), rng)


@settings(max_examples=20, deadline=None)
@given(
    st.lists(st.tuples(*[st.integers(0, 3)] * 4).filter(any), min_size=1, max_size=6, unique=True)
)
def test_coordinates_may_be_touched_by_fewer_monomials_than_others(exponents):
    """Rows are filled up with zeros then, whose place is that of another function."""
    model = model_of(features(4, exponents), internal=True)
    rows = places(model)
    assert rows.shape[1] <= count_unknowns(model)
    same(model, np.random.default_rng(len(exponents)))


def test_many_dimensions_never_hold_the_whole_design():
    """In dimension 50 it has 66,750 entries a pair, of which 3,050 are not zero."""
    model = model_of(features(50, monomial_exponents(50, 4, 0), n_centers=10))
    assert count_unknowns(model) == 1335
    assert places(model).shape == (50, 61)
    rng = np.random.default_rng(0)
    points = jnp.asarray(rng.normal(size=(8, 50)))
    constants = constants_of(model, rng)
    program = jax.make_jaxpr(
        lambda x: compact_design(model, constants, x, x, x, jnp.full(8, 1.0 / 8))
    )(points)
    largest = max(v.aval.size for eqn in program.eqns for v in eqn.outvars)
    assert largest < 8 * 50 * 1335 // 20
    same(dataclasses.replace(model, internal="learned"), rng)


def test_folds_add_up_to_the_whole(monkeypatch):
    rng = np.random.default_rng(1)
    model = model_of(features(4, CUBIC(4), n_centers=3), internal=True)
    constants, conditions = constants_of(model, rng), conditions_of(4, rng)
    monkeypatch.setattr(module, "PAIRS_PER_BLOCK", 4)
    monkeypatch.setattr(module, "PAIRS_AT_ONCE", 8)
    whole = normal_equations(model, constants, conditions)
    parts = normal_equations(model, constants, conditions, fold=np.arange(PAIRS) % 3)
    for own, expected in zip(parts, whole, strict=True):
        np.testing.assert_allclose(own.sum(axis=0), expected, rtol=1e-12, atol=1e-12)
