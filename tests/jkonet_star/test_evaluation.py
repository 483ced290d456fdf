"""Predictions of a stack of energies: one step ahead alone, and with the cumulative ones."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jkonet_star.energies.models import NetworkEnergy, Units
from jkonet_star.evaluation import (
    KnownEnergy,
    field_errors,
    predict_one_step_ahead,
    predict_snapshots,
)
from jkonet_star.fitted import FittedEnergy
from jkonet_star.snapshots import snapshots_from_arrays


def stack_of(n, snapshots, **terms):
    """Energies with random parameters."""
    model = NetworkEnergy(dimension=2, hidden=(8,), **terms)
    one = jnp.ones(())
    units = Units(
        center=jnp.zeros(2),
        length=one,
        speed=one,
        time_start=0 * one,
        time_step=one,
        noise=one,
        beta=0.3 * one if terms.get("internal") == "given" else 0 * one,
    )

    def energy(key):
        return FittedEnergy(
            model=model,
            scheme="explicit",
            params=model.init(key),
            constants=units,
            times=snapshots.times,
        )

    return jax.vmap(energy)(jax.random.split(jax.random.key(0), n))


@pytest.mark.parametrize("terms", [{}, {"has_interaction": True, "internal": "given"}])
def test_one_step_ahead_alone_is_that_of_both(terms):
    rng = np.random.default_rng(0)
    snapshots = snapshots_from_arrays(
        [rng.normal(size=(n, 2)).astype(np.float32) for n in (9, 7, 8)], times=[0.0, 0.5, 2.0]
    )
    energies, key = stack_of(3, snapshots, **terms), jax.random.key(1)
    both = predict_snapshots(energies, snapshots, key)
    alone, weights = predict_one_step_ahead(energies, snapshots, key)
    assert alone.shape == (3, 2, 9, 2)
    np.testing.assert_allclose(alone, both.one_step, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(weights, both.one_step_weights)
    # The first step starts from the same population, the second one does not.
    np.testing.assert_allclose(both.one_step[:, 0], both.cumulative[:, 0], rtol=1e-5, atol=1e-6)
    assert abs(both.one_step[:, 1] - both.cumulative[:, 1]).max() > 0.1
    other, _ = predict_one_step_ahead(energies, snapshots, jax.random.key(2))
    assert abs(alone - other).max() > (0.1 if terms else -1)


@pytest.mark.parametrize("terms", [{}, {"has_interaction": True, "internal": "given"}])
@pytest.mark.parametrize("scheme", ["explicit", "midpoint"])
def test_errors_of_fields_are_the_same_by_the_gradients_of_the_predictions(terms, scheme):
    """An explicit step has them where it begins; of the others they are computed."""
    rng = np.random.default_rng(0)
    snapshots = snapshots_from_arrays(
        [rng.normal(size=(n, 2)).astype(np.float32) for n in (9, 7, 8)], times=[0.0, 0.1, 0.3]
    )
    energies = stack_of(3, snapshots, **terms).replace(scheme=scheme)
    predictions = predict_snapshots(energies, snapshots, jax.random.key(1))
    assert (predictions.slope is None) == (scheme != "explicit")
    assert (predictions.pull is None) == (scheme != "explicit" or not terms)
    truth = KnownEnergy(lambda x: jnp.sum(x**2), lambda z: jnp.sum(jnp.cos(z)), 0.1)
    found = field_errors(energies, truth, snapshots, predictions)
    without = predictions._replace(slope=None, pull=None)
    expected = field_errors(energies, truth, snapshots, without)
    assert found.keys() == expected.keys() >= {"drift", "potential_gradient", "l2_uvp"}
    assert min(found["drift"]["relative"]) > 0.1
    for name in ("drift", "potential_gradient", "interaction_gradient"):
        for kind in ("relative", "absolute"):
            np.testing.assert_allclose(found[name][kind], expected[name][kind], rtol=1e-5)
