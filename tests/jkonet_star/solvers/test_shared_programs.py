"""A second fit of the same shape compiles nothing, whatever the numbers."""

import logging

import jax
import numpy as np
import pytest

from jkonet_star import (
    BilevelSettings,
    DensitySettings,
    FeatureSettings,
    NetworkSettings,
    fit,
    snapshots_from_arrays,
)
from jkonet_star.settings import RefinementSettings
from jkonet_star.solvers.learning import with_noise
from jkonet_star.solvers.problem import prepare
from jkonet_star.solvers.refinement import Refining
from jkonet_star.solvers.registry import SOLVERS
from jkonet_star.solvers.side_by_side import SideBySide

pytestmark = pytest.mark.filterwarnings("ignore")


def population(scale):
    x = scale * np.random.default_rng(0).normal(size=(20, 2))
    return snapshots_from_arrays([x, 0.8 * x, 0.6 * x], dt=0.5)


def fitted(solver, scale):
    return fit(
        population(scale),
        solver,
        key=jax.random.key(1),
        # Lists are what a user may write; a program is found by the value.
        network=NetworkSettings(epochs=1, batch_size=40, hidden=[4], interaction_samples=2),  # type: ignore[arg-type]
        bilevel=BilevelSettings(map_hidden=[4], inner_steps=2, sinkhorn_iterations=5),  # type: ignore[arg-type]
        features=FeatureSettings(degree=2, radial="none"),
        density_settings=DensitySettings(n_components=2),
    )


def kinds(state):
    """All that a program is compiled for."""
    return [(leaf.shape, leaf.dtype, leaf.weak_type) for leaf in jax.tree.leaves(state)]


@pytest.mark.parametrize(
    "solver", ["jkonet-star", "jkonet-star-time-potential", "jkonet-star-linear", "jkonet-vanilla"]
)
def test_the_second_fit_compiles_nothing(solver, caplog):
    first = fitted(solver, 1.0)
    with jax.log_compiles(), caplog.at_level(logging.DEBUG, logger="jax"):
        second = fitted(solver, 0.9)
    assert [r.getMessage()[:80] for r in caplog.records if "ompil" in r.getMessage()] == []
    x = np.ones((1, 2))
    assert np.abs(np.asarray(first.drift(x) - second.drift(x))).max() > 0


def numbers(leaf):
    is_key = jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key)
    return np.asarray(jax.random.key_data(leaf) if is_key else leaf)


@pytest.mark.parametrize("solver", ["jkonet-star", "jkonet", "ijkonet", "stitching"])
def test_every_chunk_of_a_training_is_one_program(solver):
    problem = prepare(population(1.0), solver, key=jax.random.key(1))
    training = SideBySide(SOLVERS[solver].make(), problem)
    keys = jax.random.split(jax.random.key(0), 2)
    state = jax.eval_shape(training.initial, keys)
    after, _ = jax.eval_shape(lambda state: training.advance(state, keys, 1), state)
    assert kinds(after) == kinds(state)
    assert kinds(jax.eval_shape(lambda: training.initial(keys))) == kinds(state)
    # Within another program it is compiled with that one's options.
    inside, alone = jax.jit(training.initial)(keys), training.initial(keys)
    for one, other in zip(jax.tree.leaves(inside), jax.tree.leaves(alone), strict=True):
        np.testing.assert_allclose(numbers(one), numbers(other), rtol=1e-3, atol=1e-5)


def test_so_is_every_chunk_of_a_refinement():
    """Also of a noise that begins at what is given."""
    energies = jax.tree.map(lambda leaf: leaf[None], fitted("jkonet-star-time-potential", 1.0))
    problem = prepare(population(1.0), "jkonet-star-time-potential", key=jax.random.key(1))
    refining = Refining(RefinementSettings(refine=2), problem, with_noise(energies, -1.0))
    keys = jax.random.key(0)[None]
    state = jax.eval_shape(refining.initial, keys)
    after, _ = jax.eval_shape(lambda state: refining.advance(state, keys, 1), state)
    assert kinds(after) == kinds(state)


def test_radial_functions_that_k_means_lays_are_data_of_the_program(caplog):
    def fitted(seed):
        x = np.random.default_rng(seed).gamma(1.0, size=(30, 3))
        features = FeatureSettings(degree=1, radial_centers=4)
        snapshots = snapshots_from_arrays([x, 0.8 * x, 0.6 * x], dt=0.5)
        return fit(snapshots, "jkonet-star-linear", key=jax.random.key(1), features=features)

    first = fitted(0)
    with jax.log_compiles(), caplog.at_level(logging.DEBUG, logger="jax"):
        second = fitted(1)
    assert [r.getMessage()[:80] for r in caplog.records if "ompil" in r.getMessage()] == []
    widths = [np.asarray(energy.constants["potential"])[:, 3] for energy in (first, second)]
    assert np.ptp(widths[0]) == np.ptp(widths[1]) == 0.0
    assert widths[0][0] != widths[1][0]
