"""Held-out particles and snapshots."""

import jax
import numpy as np
import pytest

from data_generation.populations.splitting import leave_one_out, split_particles, split_population
from jkonet_star.snapshots import snapshots_from_arrays

KEY = jax.random.key(3)


def labelled(counts, times=None):
    """Particle i of snapshot k sits at (k, i), so that every row can be told apart."""
    arrays = [np.stack([np.full(n, k), np.arange(n)], axis=1) for k, n in enumerate(counts)]
    return snapshots_from_arrays(arrays, times)


def rows(snapshots):
    return [p[:, 1].astype(int).tolist() for p in snapshots.arrays()]


def test_particles_are_held_out_along_time():
    train, test = split_particles(labelled([20] * 3), 0.25, KEY)
    kept, held_out = rows(train), rows(test)
    assert kept[0] == kept[1] == kept[2]
    assert held_out[0] == held_out[1] == held_out[2]
    assert len(held_out[0]) == 5
    assert sorted(kept[0] + held_out[0]) == list(range(20))


def test_population_is_split_inside_every_snapshot():
    counts = [50, 30, 50]
    train, test = split_population(labelled(counts), 0.4, KEY)
    for kept, held_out, n in zip(rows(train), rows(test), counts, strict=True):
        assert len(held_out) == round(0.4 * n)
        assert sorted(kept + held_out) == list(range(n))
    assert rows(test)[0] != rows(test)[2]  # independent permutations


def test_weights_go_with_their_particles():
    arrays = [np.arange(4.0)[:, None], np.arange(4.0)[:, None]]
    weights = [np.array([1.0, 2.0, 3.0, 4.0])] * 2
    train, _ = split_particles(snapshots_from_arrays(arrays, weights=weights), 0.5, KEY)
    for points, w in zip(train.arrays(), train.array_weights(), strict=True):
        expected = points[:, 0] + 1
        np.testing.assert_allclose(w, expected / expected.sum(), rtol=1e-6)


def test_times_are_kept():
    train, test = split_population(labelled([9, 9, 9], [0.0, 0.5, 2.0]), 0.4, KEY)
    assert np.asarray(train.times).tolist() == np.asarray(test.times).tolist() == [0, 0.5, 2]


@pytest.mark.parametrize("split", [split_particles, split_population])
def test_the_key_decides(split):
    snapshots = labelled([40, 40])
    first, again = split(snapshots, 0.4, KEY), split(snapshots, 0.4, KEY)
    other = split(snapshots, 0.4, jax.random.key(4))
    assert rows(first[1]) == rows(again[1])
    assert rows(first[1]) != rows(other[1])


@pytest.mark.parametrize("split", [split_particles, split_population])
def test_ratios(split):
    snapshots = labelled([10, 10])
    train, test = split(snapshots, 0.0, KEY)
    assert rows(train) == rows(test) == [list(range(10))] * 2
    for ratio in (-0.1, 1.0, 1.5, float("nan")):
        with pytest.raises(ValueError, match=r"test_ratio must lie in \[0, 1\), got"):
            split(snapshots, ratio, KEY)
    for ratio in (0.01, 0.99):
        with pytest.raises(ValueError, match="both need at least one"):
            split(snapshots, ratio, KEY)


def test_unequal_counts_cannot_be_followed():
    with pytest.raises(ValueError, match="5 to 9 particles.*--split-population"):
        split_particles(labelled([5, 9]), 0.4, KEY)


def test_leaving_one_out_lengthens_the_step():
    left = leave_one_out(labelled([3, 5, 4, 6], [0.0, 1.0, 3.0, 4.0]), 1)
    assert [int(p[0, 0]) for p in left.arrays()] == [0, 2, 3]
    assert np.asarray(left.dt).tolist() == [3.0, 1.0]


@pytest.mark.parametrize("index", [0, 3, -1, 7])
def test_only_inner_snapshots_can_be_left_out(index):
    with pytest.raises(ValueError, match=f"inner snapshot, 1 to 2, got {index}"):
        leave_one_out(labelled([3] * 4), index)


def test_two_snapshots_have_no_inner_one():
    with pytest.raises(ValueError, match="at least three snapshots, got 2"):
        leave_one_out(labelled([3] * 2), 1)
