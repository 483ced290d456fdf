"""The simulated course of cells against what its equations say."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from data_generation.populations.branching import (
    START_DEVIATION,
    basis,
    branch,
    branching_course,
    growth,
    potential,
)

KEY = jax.random.key(0)


def test_before_the_fork_cells_move_at_unit_speed_and_spread_by_the_noise():
    course = branching_course(KEY, n_cells=4000, times=(0.0, 0.4), gamma=0.0, beta=0.05)
    start, later = course.snapshots
    assert start.mean(axis=0) == pytest.approx([0.0, 0.0], abs=0.01)
    assert start.std(axis=0) == pytest.approx([START_DEVIATION] * 2, rel=0.05)
    assert later[:, 0].mean() == pytest.approx(0.4, abs=0.02)
    assert later[:, 0].var() == pytest.approx(START_DEVIATION**2 + 2 * 0.05 * 0.4, rel=0.08)
    assert course.mass == pytest.approx([1.0, 1.0])


@pytest.mark.parametrize("dimension", [2, 10])
def test_the_upper_branch_grows_and_the_lower_dies(dimension):
    def shares(gamma):
        course = branching_course(KEY, dimension=dimension, n_cells=1500, gamma=gamma)
        last = branch(course.snapshots[-1])
        return (last > 0).mean(), (last < 0).mean(), course.mass[-1]

    up, down, mass = shares(0.8)
    assert up > 2 * down > 0.2
    assert mass > 1.05
    up, down, mass = shares(0.0)
    assert up == pytest.approx(down, abs=0.06)
    assert mass == pytest.approx(1.0)


def test_mass_is_that_of_the_equation():
    """Far beyond the fork and up, g is gamma: mass grows by exp(gamma t)."""
    x = jnp.asarray([6.0, 1.0])
    assert float(growth(x, 0.7)) == pytest.approx(0.7, rel=0.01)
    assert float(growth(-x, 0.7)) == pytest.approx(0.0, abs=1e-6)
    valley = jax.grad(potential)(x)
    assert np.asarray(valley) == pytest.approx([-1.0, 0.0], abs=1e-3)


def test_in_more_dimensions_the_course_is_turned_and_the_rest_is_passive():
    q = basis(10)
    assert q.T @ q == pytest.approx(np.eye(10), abs=1e-12)
    course = branching_course(KEY, dimension=10, n_cells=1000, times=(0.0, 1.0))
    z = course.snapshots[1] @ q
    rest = z[:, 2:] - np.sin(z[:, :1] + np.arange(1, 9)) / 4.0
    # Stationary: beta / kappa = .05 / 4, beside what is left of the start.
    assert rest.var(axis=0) == pytest.approx([0.0125] * 8, rel=0.25)


def test_equal_keys_give_equal_cells_and_bad_times_are_refused():
    one = branching_course(KEY, n_cells=50, times=(0.0, 0.1))
    two = branching_course(KEY, n_cells=50, times=(0.0, 0.1))
    np.testing.assert_array_equal(one.snapshots, two.snapshots)
    with pytest.raises(ValueError, match="rise from 0"):
        branching_course(KEY, times=(0.0, 1.0, 1.0))
    with pytest.raises(ValueError, match="two dimensions"):
        branching_course(KEY, dimension=1)
