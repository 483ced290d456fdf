"""Intervals from replicates whose values are known."""

import dataclasses
import logging

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jkonet_star import FeatureSettings, FittedEnergy, fit, snapshots_from_arrays
from jkonet_star.energies.features import make_features
from jkonet_star.energies.models import LinearEnergy

SLOPES = np.concatenate([np.linspace(1.0, 3.0, 98), [9.0]])  # of V = slope x, beside 1.5


def energies(slopes):
    """V(x) = slope x, one per slope."""
    features, _ = make_features(
        FeatureSettings(degree=1, radial="none"), np.zeros((2, 1)), center=0.0, length=1.0
    )
    count = len(slopes)
    return FittedEnergy(
        model=LinearEnergy(
            dimension=1, potential_features=features, interaction_features=None, internal="none"
        ),
        scheme="explicit",
        params={"potential": jnp.asarray(slopes, jnp.float32)[:, None]},
        constants={"potential": jnp.zeros((count, 0, 1))},
        times=jnp.tile(jnp.arange(2.0), (count, 1)),
    )


def known():
    return energies([1.5]).member(0).with_replicates(energies(SLOPES))


def slope(energy):
    return -energy.drift(np.zeros((1, 1)))[0, 0]


@pytest.mark.parametrize(
    ("method", "lower", "upper"),
    [
        # Ranks 5 and 95 of 99, about the median, rank 50; the energy of all cells has 1.5.
        ("percentile", SLOPES[4], SLOPES[94]),
        ("basic", 3.0 - SLOPES[94], 3.0 - SLOPES[4]),
        ("corrected", SLOPES[4] + 3.0 - 2 * SLOPES[49], SLOPES[94] + 3.0 - 2 * SLOPES[49]),
    ],
)
def test_bounds_are_quantiles(method, lower, upper):
    found = known().interval(slope, 0.9, method=method)
    np.testing.assert_allclose(found, (lower, upper), atol=1e-6)


def test_any_tree_comes_back_with_bounds_of_every_number():
    x = np.array([[0.0], [2.0]])

    def function(energy):
        return {"drop": energy.potential(x[1]) - energy.potential(x[0]), "path": energy.predict(x)}

    lower, upper = known().interval(function, 0.9, method="percentile")
    np.testing.assert_allclose(lower["drop"], 2 * SLOPES[4], rtol=1e-6)
    np.testing.assert_allclose(upper["drop"], 2 * SLOPES[94], rtol=1e-6)
    np.testing.assert_allclose(lower["path"][1, :, 0], x[:, 0] - SLOPES[94], rtol=1e-6)
    np.testing.assert_allclose(upper["path"][0], x)


def test_a_function_that_needs_numbers_is_called_for_one_energy_after_the_other():
    def function(energy):
        return np.float64(float(slope(energy)))

    assert known().interval(function) == pytest.approx(known().interval(slope))


def test_a_function_that_was_asked_before_is_not_compiled_again(caplog):
    energy = known()
    first = energy.interval(slope)
    with jax.log_compiles(), caplog.at_level(logging.DEBUG, logger="jax"):
        again = energy.interval(slope, 0.9)
    assert [r.getMessage()[:80] for r in caplog.records if "ompil" in r.getMessage()] == []
    assert again == first


@dataclasses.dataclass
class Slope:
    """A function that has no hash."""

    factor: float

    def __call__(self, energy):
        return self.factor * slope(energy)


def test_a_function_without_a_hash_is_one_too():
    np.testing.assert_allclose(
        known().interval(Slope(2.0)), 2 * np.array(known().interval(slope)), rtol=1e-6
    )


@pytest.mark.parametrize("level", [0.0, 1.0, 90, -0.1, True, float("nan")])
def test_a_level_is_a_share(level):
    with pytest.raises(ValueError, match="level must be a share between 0 and 1"):
        known().interval(slope, level)


def test_what_cannot_be_told_is_refused():
    with pytest.raises(ValueError, match="at least 199 replicates, got 99"):
        known().interval(slope, 0.99)
    known().interval(slope, 0.98)
    with pytest.raises(ValueError, match="unknown method 'bca'"):
        known().interval(slope, method="bca")
    with pytest.raises(ValueError, match="no replicates"):
        energies([1.5]).member(0).interval(slope)
    with pytest.raises(ValueError, match="take a member"):
        energies([1.0, 2.0]).with_replicates(energies(SLOPES))
    with pytest.raises(ValueError, match=r"stack of 2 energies: take one with member\(i\)"):
        energies([1.0, 2.0]).interval(slope)
    with pytest.raises(ValueError, match="must be a stack"):
        known().with_replicates(known())


def test_replicates_go_where_the_report_goes():
    x = np.random.default_rng(0).normal(size=(20, 1))
    energy = fit(
        snapshots_from_arrays([x, x + 1]),
        "jkonet-star-linear-potential",
        key=jax.random.key(0),
        features=FeatureSettings(degree=1, radial="none"),
    ).with_replicates(energies(SLOPES))
    assert energy.report is not None
    assert energy.with_report(None).replicates is not None
    stack = jax.tree.map(lambda leaf: leaf[None], energy).with_replicates(energy.replicates)
    assert stack.member(0).replicates is energy.replicates
    # No part of the tree: programs that were compiled for the energy hold for it.
    assert len(jax.tree.leaves(energy)) == len(jax.tree.leaves(energy.with_replicates(None)))
