"""What no estimate of beta can be, and where there is none."""

import numpy as np
import pytest

from jkonet_star.energies.models import LinearEnergy
from jkonet_star.internal_energy.estimate import estimate_internal
from jkonet_star.internal_energy.limits import SLACK, most_beta, one_law, too_much_noise
from jkonet_star.snapshots import snapshots_from_arrays

BETA, DT, A = 0.05, 0.1, 0.3


def independent(d=30, n=500, seed=0):
    """Ornstein-Uhlenbeck, exactly, other particles in every snapshot; some directions are narrow."""
    rng = np.random.default_rng(seed)
    found = []
    for t in DT * np.arange(6):
        x = rng.normal(size=(n, d)) * np.linspace(3.0, 0.1, d) * np.exp(-A * t)
        noise = np.sqrt(BETA / A * (1 - np.exp(-2 * A * t)))
        found.append(x + noise * rng.normal(size=x.shape))
    return snapshots_from_arrays(found, dt=DT)


def test_the_bound_is_that_of_the_narrowest_direction():
    rng = np.random.default_rng(0)
    x = [rng.normal(size=(50, 2)) @ [[1.0, 0.5], [0.0, 0.1]] for _ in range(3)]
    least = min(
        np.linalg.eigvalsh(np.cov(y.T, bias=True))[0] / (2 * t) / (1 - np.sqrt(2 / 50)) ** 2
        for y, t in zip(x[1:], [0.5, 2.0], strict=True)
    )
    snapshots = snapshots_from_arrays(x, times=[0.0, 0.5, 2.5])
    assert most_beta(snapshots) == pytest.approx(least, rel=1e-4)
    assert most_beta(snapshots_from_arrays([y[:5] for y in x])) == np.inf


@pytest.mark.parametrize(("n", "d"), [(100, 30), (200, 30), (100, 20)])
def test_pairs_stay_pairs_where_particles_are_few_for_the_dimension(n, d):
    """The narrowest direction of a sample is far narrower than that of the law."""
    rng = np.random.default_rng(0)
    x = [0.05 * rng.normal(size=(n, d))]
    for _ in range(3):
        x.append(x[-1] + np.sqrt(2 * BETA * DT) * rng.normal(size=(n, d)))
    nothing = LinearEnergy(dimension=d, potential_features=None, interaction_features=None)
    found = estimate_internal(nothing, {}, snapshots_from_arrays(x, dt=DT), regime="paired")
    assert found.unknown is None
    assert found.beta == pytest.approx(BETA, rel=0.1)
    assert np.isfinite(found.standard_error)


def test_what_cannot_be_is_said_in_the_units_of_the_data():
    snapshots = independent(d=30)
    large = snapshots_from_arrays([1000 * x for x in snapshots.arrays()], dt=DT)
    nothing = LinearEnergy(dimension=30, potential_features=None, interaction_features=None)
    found = estimate_internal(nothing, {}, large, regime="paired")
    assert found.unknown
    assert f"no more than {most_beta(large):.2g} " in found.unknown
    assert most_beta(large) == pytest.approx(1e6 * most_beta(snapshots), rel=1e-3)


def test_a_beta_beyond_the_bound_is_told_unless_its_error_reaches_it():
    assert too_much_noise(0.1, SLACK * 0.1, 0.0) is None
    assert "no more than 0.1" in too_much_noise(0.1, 0.25, 0.0)
    assert "no more than 0.1" in too_much_noise(0.1, 0.25, np.inf)
    assert too_much_noise(0.1, 0.25, 0.05) is None
    assert too_much_noise(np.inf, 1e9, 0.0) is None


def test_laws_that_differ_may_tell_beta():
    assert one_law(independent(d=2)) is None
    rng = np.random.default_rng(1)
    assert "divided by beta" in one_law(snapshots_from_arrays(rng.normal(size=(4, 300, 2))))


def test_pairs_whose_noise_the_narrowest_direction_forbids_are_none():
    """In many dimensions a nearest particle is far: taken for itself, beta is 100 times too large."""
    snapshots = independent()
    nothing = LinearEnergy(dimension=30, potential_features=None, interaction_features=None)
    forced = estimate_internal(nothing, {}, snapshots, regime="paired")
    assert forced.beta > 100 * BETA
    assert forced.unknown
    found = estimate_internal(nothing, {}, snapshots)
    assert not found.paired
    assert found.beta < 100 * BETA


def test_a_drift_that_is_not_among_the_features_is_said():
    """No noise contracts a population: what is left of the search is no beta."""
    rng = np.random.default_rng(0)
    moved = snapshots_from_arrays([0.8**k * rng.normal(size=(400, 2)) for k in range(4)], dt=DT)
    nothing = LinearEnergy(dimension=2, potential_features=None, interaction_features=None)
    found = estimate_internal(nothing, {}, moved, regime="unpaired")
    assert not found.converged
    assert found.unknown.startswith("nothing was found by which these features")
