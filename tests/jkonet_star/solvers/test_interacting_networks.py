"""What the training of a network with an interaction does with its settings."""

import jax
import numpy as np
import pytest

from jkonet_star import NetworkSettings, fit, snapshots_from_arrays
from jkonet_star.settings import RefinementSettings
from jkonet_star.solvers.learning import with_noise
from jkonet_star.solvers.problem import prepare
from jkonet_star.solvers.refinement import Refining
from jkonet_star.solvers.registry import SOLVERS

NETWORK = {"epochs": 2, "batch_size": 20, "hidden": (6,), "interaction_samples": 4}
POINTS = np.random.default_rng(0).normal(size=(40, 2)).astype(np.float32)
SNAPSHOTS = snapshots_from_arrays([POINTS, 0.8 * POINTS, 0.6 * POINTS], dt=0.5)


def learned(solver, **network):
    settings = NetworkSettings(**{**NETWORK, **network})
    return fit(SNAPSHOTS, solver, key=jax.random.key(1), network=settings)


def gaps(population):
    """Mean distance of neighbours in the order."""
    return float(np.linalg.norm(np.diff(np.asarray(population), axis=1), axis=-1).mean())


@pytest.mark.parametrize(
    ("solver", "samples", "ordered"),
    [("jkonet-star", 4, True), ("jkonet-star", 0, False), ("jkonet-star-potential", 4, False)],
)
def test_who_draws_particles_draws_from_compact_strata(solver, samples, ordered):
    problem = prepare(SNAPSHOTS, solver, key=jax.random.key(1))
    network = NetworkSettings(**{**NETWORK, "interaction_samples": samples})
    data, _ = SOLVERS[solver].make(network=network).prepare(problem)
    before, after = gaps(problem.conditions.population), gaps(data.conditions.population)
    assert (after < 0.8 * before) if ordered else (after == before)


def test_so_does_the_refinement():
    problem = prepare(SNAPSHOTS, "jkonet-star", key=jax.random.key(1))
    energies = with_noise(jax.tree.map(lambda leaf: leaf[None], learned("jkonet-star")), -1.0)
    data = Refining(RefinementSettings(refine=2), problem, energies).data
    assert gaps(data.conditions.population) < 0.8 * gaps(problem.conditions.population)


def test_the_ridge_reaches_the_training():
    """It makes the pull smaller, and matters to what learns both V and U only."""
    strong, weak = (learned("jkonet-star", pull_ridge=ridge, epochs=60) for ridge in (10.0, 0.0))
    weights = np.full(40, 1 / 40, np.float32)
    pulls = [
        np.abs(np.asarray(e.gradients(POINTS, weights, 0.0)[1])).mean() for e in (strong, weak)
    ]
    assert pulls[0] < 0.5 * pulls[1]
    one, other = (learned("jkonet-star-potential", pull_ridge=ridge) for ridge in (10.0, 0.0))
    jax.tree.map(np.testing.assert_array_equal, one.params, other.params)
