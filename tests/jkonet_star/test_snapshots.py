"""Packing of populations, and the words for input that cannot be packed."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusions.alignment import aligned_empty
from jkonet_star.snapshots import fewer_particles, in_order, snapshots_from_arrays, taken_over


def clouds(*sizes, d=2):
    generator = np.random.default_rng(0)
    return [generator.normal(size=(n, d)).astype(np.float32) for n in sizes]


def test_unequal_populations_come_back_as_they_went_in():
    points = clouds(5, 3, 4)
    weights = [np.random.default_rng(i).uniform(0.1, 2.0, len(p)) for i, p in enumerate(points)]
    snapshots = snapshots_from_arrays(points, times=[0.0, 0.5, 2.0], weights=weights)
    for one, two in zip(points, snapshots.arrays(), strict=True):
        np.testing.assert_array_equal(one, two)
    for one, two in zip(weights, snapshots.array_weights(), strict=True):
        np.testing.assert_allclose(two, one / one.sum(), rtol=1e-6)
    np.testing.assert_allclose(snapshots.dt, [0.5, 1.5])
    assert (snapshots.n_snapshots, snapshots.n_steps, snapshots.dimension) == (3, 2, 2)
    assert snapshots.counts() == [5, 3, 4]


def test_padding_is_a_real_particle_without_weight():
    points = clouds(5, 3)
    snapshots = snapshots_from_arrays(points)
    np.testing.assert_array_equal(snapshots.points[1, 3:], np.repeat(points[1][:1], 2, axis=0))
    np.testing.assert_array_equal(snapshots.weights[1, 3:], 0.0)
    np.testing.assert_allclose(snapshots.weights.sum(axis=1), 1.0, rtol=1e-6)
    np.testing.assert_allclose(snapshots.weights[1, :3], 1 / 3, rtol=1e-6)


def test_times_are_multiples_of_dt():
    snapshots = snapshots_from_arrays(np.zeros((101, 2, 1)), dt=0.01)
    np.testing.assert_allclose(snapshots.times, 0.01 * np.arange(101), rtol=1e-7)
    np.testing.assert_allclose(snapshots_from_arrays(np.zeros((3, 2, 1))).dt, 1.0)


def test_everything_is_single_precision():
    snapshots = snapshots_from_arrays(np.zeros((2, 3, 1), np.int64), times=[0, 1])
    assert {a.dtype for a in (snapshots.points, snapshots.weights, snapshots.times)} == {
        jnp.float32.dtype
    }


A, B = clouds(3, 3)
BROKEN = A.copy()
BROKEN[1, 0] = np.nan
HIDDEN = np.ma.masked_less(B, B.max())
DAYS = np.array(["2020-01-01", "2020-01-03"], "M8[D]")


@pytest.mark.parametrize(
    ("points", "arguments", "reason"),
    [
        ([A], {}, "at least two snapshots are needed to learn a step, got 1"),
        ([], {}, "at least two snapshots are needed to learn a step, got 0"),
        ([A, B[:, 0]], {}, r"snapshot 1 has shape \(3,\)"),
        ([A, B[:0]], {}, r"snapshot 1 is empty: shape \(0, 2\)"),
        ([A[:, :0], B], {}, r"snapshot 0 is empty: shape \(3, 0\)"),
        ([A, B[:, :1]], {}, "snapshot 1 has dimension 1, snapshot 0 has 2"),
        ([A, BROKEN], {}, "snapshot 1 has 1 of 3 particles with NaN or inf"),
        ([A, np.full((3, 2), np.inf)], {}, "snapshot 1 has 3 of 3 particles with NaN or inf"),
        ([A, B + 0j], {}, "snapshot 1 must be an array .* of real numbers, got complex ones$"),
        ([A, (B + 0j).astype(object)], {}, "snapshot 1 .* of real numbers, got complex ones$"),
        ([A, HIDDEN], {}, "masked entries in snapshot 1"),
        ([A, list(HIDDEN)], {}, "masked entries in snapshot 1"),
        (
            [A, B],
            {"weights": [np.ones(3), HIDDEN[:, 0]]},
            "masked entries in weights of snapshot 1",
        ),
        ([A, B], {"weights": [np.ones(3), np.ones(3) + 1j]}, "of snapshot 1 .* got complex ones"),
        ([A, B], {"times": DAYS}, r"real numbers, got dates or durations: write \(dates - "),
        ([A, B], {"times": DAYS - DAYS[0]}, "real numbers, got dates or durations"),
        ([A, B], {"times": np.array(list(DAYS), object)}, "real numbers, got dates or durations"),
        ([A, B], {"dt": 0.0}, "dt must be positive and finite, got 0.0"),
        ([A, B], {"dt": -1.0}, "dt must be positive and finite, got -1.0"),
        ([A, B], {"dt": np.nan}, "dt must be positive and finite, got nan"),
        ([A, B], {"times": [0.0, 0.0]}, "times must be finite and strictly increasing"),
        ([A, B], {"times": [1.0, 0.0]}, "times must be finite and strictly increasing"),
        ([A, B], {"times": [0.0, np.nan]}, "times must be finite and strictly increasing"),
        ([A, B], {"times": [0.0, np.inf]}, "times must be finite and strictly increasing"),
        ([A.astype(float) * 1e300, B], {}, "points of size .* do not fit single precision"),
        (
            [A.astype(float) * 1e-300, B.astype(float) * 1e-300],
            {},
            "points of size .* do not fit single precision",
        ),
        ([A, B], {"dt": 1e-200}, "times of size 1e-200 .* do not fit single precision"),
        ([A, B, B], {"times": [0, 1, 1 + 1e-9]}, "more than single precision tells apart"),
        ([A, B], {"times": [0.0, 1.0, 2.0]}, r"2 snapshots need as many times, got \(3,\)"),
        ([A, B], {"weights": [np.ones(3), np.ones(2)]}, "snapshot 1 needs 3 positive finite"),
        ([A, B], {"weights": [np.zeros(3), np.ones(3)]}, "snapshot 0 needs 3 positive finite"),
        ([A, B], {"weights": [np.ones(3), -np.ones(3)]}, "snapshot 1 needs 3 positive finite"),
        (
            [A, B],
            {"weights": [np.ones(3), np.array([1, 1, np.nan])]},
            "snapshot 1 needs 3 positive finite",
        ),
    ],
)
def test_what_is_wrong_is_named(points, arguments, reason):
    with pytest.raises(ValueError, match=reason):
        snapshots_from_arrays(points, **arguments)


def test_points_far_from_zero_are_stored_relative_to_an_origin():
    generator = np.random.default_rng(0)
    near = [generator.normal(size=(5, 2)), generator.normal(size=(3, 2))]
    shift, start = np.array([3e7, -2e8]), 1.7e9
    far = snapshots_from_arrays([x + shift for x in near], [start, start + 1])
    for stored, x in zip(far.arrays(), near, strict=True):
        np.testing.assert_allclose(stored - shift, x, atol=1e-6)
    np.testing.assert_array_equal(far.time_values(), [start, start + 1])
    np.testing.assert_array_equal(far.dt, [1.0])
    assert np.abs(far.points).max() < 20
    close = snapshots_from_arrays([x + 20 for x in near])
    assert close.origin is None
    assert close.start is None
    np.testing.assert_array_equal(close.arrays()[0], np.float32(near[0] + 20))


def test_times_and_dt_together_are_refused():
    with pytest.raises(ValueError, match="times and dt both say when the snapshots are"):
        snapshots_from_arrays([[[0.0]], [[1.0]]], times=[0.0, 1.0], dt=1.0)


@pytest.mark.parametrize(
    ("points", "message"),
    [
        (3.0, "points must be a list of arrays"),
        (
            np.zeros((4, 2)),
            "snapshot 0 has shape \\(2,\\); each must be \\(particles, dimension\\)",
        ),
        ([[[1.0], [2.0, 3.0]], [[1.0]]], "snapshot 0 must be an array \\(particles, dimension\\)"),
        ([[["a"]], [["b"]]], "snapshot 0 must be an array .* of numbers"),
    ],
)
def test_points_that_are_no_points(points, message):
    with pytest.raises(ValueError, match=message):
        snapshots_from_arrays(points)


def test_lists_are_snapshots_and_weights():
    found = snapshots_from_arrays([[[0, 1], [2, 3]], [[4, 5]]], [0, 2], weights=[[1, 3], [1]])
    np.testing.assert_array_equal(found.points[0], [[0, 1], [2, 3]])
    np.testing.assert_array_equal(found.weights, [[0.25, 0.75], [1, 0]])
    with pytest.raises(ValueError, match="2 snapshots need as many weights, got 1"):
        snapshots_from_arrays([[[0.0]], [[1.0]]], weights=[[1.0]])


def test_what_snapshots_say_of_themselves():
    snapshots = snapshots_from_arrays(clouds(1005, 3, 4), times=[0.0, 0.5, 0.7])
    assert repr(snapshots) == "Snapshots(3 of 3 to 1,005 particles in dimension 2, times 0 to 0.7)"
    far = snapshots_from_arrays(
        [p + 1e6 for p in clouds(1, 1)], times=[1_700_000_000, 1_700_000_060]
    )
    assert repr(far) == (
        "Snapshots(2 of 1 particle in dimension 2, times 1700000000 to 1700000060)"
    )
    seen = []
    jax.jit(lambda s: seen.append(repr(s)))(far)
    jax.vmap(lambda s: seen.append(repr(s)))(jax.tree.map(lambda leaf: leaf[None], far))
    assert all(text.startswith("Snapshots(points=float32[2,1,2], ") for text in seen)
    assert len(seen) == 2
    assert repr(jax.tree.map(lambda leaf: None, far)).startswith("Snapshots(points=None, ")


def test_fewer_particles_are_a_sample_of_every_snapshot():
    """Rows of a file may be sorted: the last of a large snapshot are as likely as the first."""
    large = np.linspace(0.0, 1.0, 4000)[:, None]
    small = np.linspace(5.0, 6.0, 150)[:, None]
    snapshots = snapshots_from_arrays([large, small, large])
    fewer = fewer_particles(snapshots, 1000)
    assert fewer.points.shape == (3, 1000, 1)
    first, second, third = fewer.arrays()
    assert np.mean(first) == pytest.approx(0.5, abs=0.04)
    assert len(np.unique(first)) == 1000
    np.testing.assert_array_equal(first, third)  # a particle that is followed stays one
    np.testing.assert_allclose(np.sort(second, axis=0), small, rtol=1e-6)
    np.testing.assert_allclose(fewer.weights.sum(axis=1), 1.0, rtol=1e-5)
    assert fewer_particles(snapshots, 4000) is snapshots


def test_single_and_double_precision_are_packed_alike():
    rng = np.random.default_rng(0)
    for shift in (0.0, 1e4):
        points = [(rng.normal(size=(n, 3)) + shift).astype(np.float32) for n in (7, 5)]
        single = snapshots_from_arrays(points)
        double = snapshots_from_arrays([p.astype(np.float64) for p in points])
        jax.tree.map(np.testing.assert_array_equal, single, double)


def test_what_is_aligned_is_taken_over_without_a_copy():
    array = aligned_empty((7, 3), np.float32)
    array[:] = np.arange(21).reshape(7, 3)
    taken = taken_over(array)
    np.testing.assert_array_equal(taken, np.arange(21).reshape(7, 3))
    if jax.default_backend() == "cpu":
        assert np.shares_memory(taken, array)


def test_rows_in_order_are_the_old_ones():
    """With padding, which stays at the end, and without."""
    for sizes in ((6, 4, 6), (5, 5)):
        snapshots = snapshots_from_arrays(clouds(*sizes))
        moved, rank = in_order(snapshots)
        for k in range(len(sizes)):
            np.testing.assert_array_equal(moved.points[k][rank[k]], snapshots.points[k])
            np.testing.assert_array_equal(moved.weights[k][rank[k]], snapshots.weights[k])
            last = moved.points[k, : sizes[k], -1]
            assert (np.diff(last) >= 0).all()
