"""Pairs of followed particles, whatever their order, and with tracks that begin and end."""

import numpy as np
import pytest

from jkonet_star import fit, snapshots_from_arrays, tracked_couplings
from jkonet_star.settings import FeatureSettings

NAMES = [["a", "b", "c"], ["c", "a"], ["d", "a", "b", "c"]]


def test_every_particle_goes_with_itself():
    found = tracked_couplings(NAMES)
    pairs = [
        (int(k), NAMES[k][i], NAMES[k + 1][j])
        for k, i, j in zip(found.step, found.source, found.target, strict=True)
    ]
    assert pairs == [(0, "a", "a"), (0, "c", "c"), (1, "a", "a"), (1, "c", "c")]
    np.testing.assert_array_equal(found.weight, 0.5)


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
        couplings=tracked_couplings(names),
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
        ([[1, 2]], "at least two snapshots, got 1"),
        ([[1, 2], [2, 2]], "snapshot 1 has the particle 2 more than once"),
        ([[1, 2], [3, 4]], "snapshots 0 and 1 have no particle in common"),
        ([[[1], [2]], [1, 2]], r"names of snapshot 0 must be a list, got shape \(2, 1\)"),
    ],
)
def test_what_are_no_tracks_is_refused(names, message):
    with pytest.raises(ValueError, match=message):
        tracked_couplings(names)
