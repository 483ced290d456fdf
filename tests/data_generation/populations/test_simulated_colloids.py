"""Colloids move by the forces and the noise that their truth says."""

import numpy as np
import pytest

from data_generation.populations import simulated_colloids as colloids
from data_generation.populations.simulated_colloids import (
    DIFFUSION,
    FRAME,
    pair_energy,
    potential,
    simulated_colloids,
)


def test_the_drift_is_minus_the_gradient_of_the_total_energy():
    """n V + the sum over pairs, by central differences."""
    x = np.random.default_rng(0).normal(size=(5, 2))

    def energy(x):
        apart = np.linalg.norm(x[:, None] - x, axis=-1)
        return potential(x).sum() + DIFFUSION * pair_energy(apart, 0.3).sum() / 2

    step = 1e-5
    for i in range(5):
        for k in range(2):
            moved = np.zeros_like(x)
            moved[i, k] = step
            slope = (energy(x + moved) - energy(x - moved)) / (2 * step)
            assert colloids._drift(x, 0.3)[i, k] == pytest.approx(-slope, abs=1e-8)


def test_a_table_of_tracks_with_the_right_noise():
    name, time, position = simulated_colloids(0, n_particles=400, n_frames=6)
    assert name.tolist() == 6 * list(range(400))
    assert np.unique(time).tolist() == pytest.approx((FRAME * np.arange(6)).tolist())
    tracks = position.reshape(6, 400, 2)
    # The trap changes a step's variance by a few percent, the error of so many is as large.
    assert (np.diff(tracks, axis=0) ** 2).mean() / (2 * FRAME) == pytest.approx(DIFFUSION, rel=0.1)
    again = simulated_colloids(0, n_particles=400, n_frames=6).position
    np.testing.assert_array_equal(again, position)


def test_a_repulsion_drives_them_apart():
    alone, together = (
        simulated_colloids(0, n_particles=100, n_frames=4, repulsion=u).position[-100:].std()
        for u in (0.0, 0.5)
    )
    assert together > 1.1 * alone
