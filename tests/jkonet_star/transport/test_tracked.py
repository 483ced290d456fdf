"""Pairs of followed particles, whatever their order, and with tracks that begin and end."""

import numpy as np
import pytest

from jkonet_star import fit, snapshots_from_arrays, tracked_couplings
from jkonet_star.settings import FeatureSettings

NAMES = [["a", "b", "c"], ["c", "a"], ["d", "a", "b", "c"]]


class Unknown:
    """As pandas' NA: neither equal to itself nor not."""

    __hash__ = object.__hash__

    def __eq__(self, other):
        return self

    def __repr__(self):
        return "<NA>"


def places(names):
    """Snapshots of as many particles as there are names."""
    return snapshots_from_arrays([np.arange(len(own))[:, None] for own in names])


@pytest.mark.parametrize(
    "kind",
    [
        str,
        ord,
        lambda name: (1, name),  # of which NumPy would make an axis
        lambda name: {"a": 7, "b": "7"}.get(name, name),  # which NumPy would take for the same
    ],
)
def test_every_particle_goes_with_itself(kind):
    found = tracked_couplings([[kind(name) for name in own] for own in NAMES], places(NAMES))
    pairs = [
        (int(k), NAMES[k][i], NAMES[k + 1][j])
        for k, i, j in zip(found.step, found.source, found.target, strict=True)
    ]
    assert pairs == [(0, "a", "a"), (0, "c", "c"), (1, "c", "c"), (1, "a", "a")]
    np.testing.assert_array_equal(found.weight, 0.5)


def test_names_may_be_an_array_with_a_row_for_each_snapshot():
    names = np.array([[3, 1, 2], [2, 3, 1]])
    found = tracked_couplings(names, places(names))
    np.testing.assert_array_equal(found.source, [0, 1, 2])
    np.testing.assert_array_equal(found.target, [1, 2, 0])


def test_tracks_tell_what_transport_cannot():
    """With noise that makes particles pass each other the fit is least squares along the tracks."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(80, 1))
    points, order = [x], np.arange(80)
    names = [order]
    for _ in range(3):  # V = |x|^2 / 2
        step = -0.1 * points[-1] + np.sqrt(0.2) * rng.normal(size=x.shape)
        order = rng.permutation(80)
        moved = (points[-1] + step)[order]
        names.append(names[-1][order])
        points.append(moved)
    snapshots = snapshots_from_arrays(points, dt=0.1)
    features = FeatureSettings(degree=2, radial="none", regularization=1e-9)
    energy = fit(
        snapshots,
        "jkonet-star-linear-potential",
        key=0,
        couplings=tracked_couplings(names, snapshots),
        features=features,
    )
    before = np.concatenate(
        [p[np.argsort(n)] for p, n in zip(points[:-1], names[:-1], strict=True)]
    )
    after = np.concatenate([p[np.argsort(n)] for p, n in zip(points[1:], names[1:], strict=True)])
    design = np.concatenate([np.ones_like(before), before], axis=1)
    wanted = np.linalg.lstsq(design, (after - before) / 0.1, rcond=None)[0]
    at = np.array([[0.0], [1.0]])
    expected = np.array([wanted[0], wanted[0] + wanted[1]])
    np.testing.assert_allclose(energy.drift(at), expected, rtol=2e-3, atol=2e-3)


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (5, "names must be a list with the names of each snapshot"),
        ([[1, 2]], "2 snapshots need as many lists of names, got 1"),
        ([[1, 2], [2, 2]], "snapshot 1 has the particle 2 more than once"),
        ([[1, 2], [3, 4]], "snapshots 0 and 1 have no particle in common"),
        ([[1, 2], [1]], "snapshot 1 has 2 particles and 1 names: give each of its points one"),
        ([[1, 2], [1, 2, 3]], "snapshot 1 has 2 particles and 3 names"),
        ([np.ones((2, 1)), [1, 2]], r"names of snapshot 0 must be a list, got shape \(2, 1\)"),
        (["ab", "ab"], r"names of snapshot 0 must be a list, got shape \(\)"),
        ("ab", "names must be a list with the names of each snapshot"),
        ([[1, (2, [])], [1, 2]], r"got \(2, \[\]\) in row 1"),
        ([[[1], [2]], [1, 2]], r"must be numbers, text or tuples of them, got \[1\] in row 0"),
        ([[1, 2], [1, None]], r"row 1 of snapshot 1 has no name \(None\): leave the point out"),
        (np.array([[1, 2], [1, np.nan]]), r"row 1 of snapshot 1 has no name \(nan\)"),
        ([[1, 2], [Unknown(), 1]], r"row 0 of snapshot 1 has no name \(<NA>\)"),
    ],
)
def test_what_are_no_tracks_is_refused(names, message):
    with pytest.raises(ValueError, match=message):
        tracked_couplings(names, places([[1, 2], [1, 2]]))


def test_names_alone_are_not_enough():
    with pytest.raises(ValueError, match="snapshots must be of Snapshots, got list"):
        tracked_couplings(NAMES, NAMES)
