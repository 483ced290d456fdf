"""A second fit of the same shape compiles nothing, whatever the numbers."""

import logging

import jax
import numpy as np
import pytest

from jkonet_star import (
    BilevelSettings,
    DensitySettings,
    FeatureSettings,
    NetworkSettings,
    fit,
    snapshots_from_arrays,
)

pytestmark = pytest.mark.filterwarnings("ignore")


def population(scale):
    x = scale * np.random.default_rng(0).normal(size=(20, 2))
    return snapshots_from_arrays([x, 0.8 * x, 0.6 * x], dt=0.5)


def fitted(solver, scale):
    return fit(
        population(scale),
        solver,
        key=jax.random.key(1),
        # Lists are what a user may write; a program is found by the value.
        network=NetworkSettings(epochs=1, batch_size=40, hidden=[4], interaction_samples=2),  # type: ignore[arg-type]
        bilevel=BilevelSettings(map_hidden=[4], inner_steps=2, sinkhorn_iterations=5),  # type: ignore[arg-type]
        features=FeatureSettings(degree=2, radial="none"),
        density_settings=DensitySettings(n_components=2),
    )


@pytest.mark.parametrize(
    "solver", ["jkonet-star", "jkonet-star-time-potential", "jkonet-star-linear", "jkonet-vanilla"]
)
def test_the_second_fit_compiles_nothing(solver, caplog):
    first = fitted(solver, 1.0)
    with jax.log_compiles(), caplog.at_level(logging.DEBUG, logger="jax"):
        second = fitted(solver, 0.9)
    assert [r.getMessage()[:80] for r in caplog.records if "ompil" in r.getMessage()] == []
    x = np.ones((1, 2))
    assert np.abs(np.asarray(first.drift(x) - second.drift(x))).max() > 0


def test_radial_functions_that_k_means_lays_are_data_of_the_program(caplog):
    def fitted(seed):
        x = np.random.default_rng(seed).gamma(1.0, size=(30, 3))
        features = FeatureSettings(degree=1, radial_centers=4)
        snapshots = snapshots_from_arrays([x, 0.8 * x, 0.6 * x], dt=0.5)
        return fit(snapshots, "jkonet-star-linear", key=jax.random.key(1), features=features)

    first = fitted(0)
    with jax.log_compiles(), caplog.at_level(logging.DEBUG, logger="jax"):
        second = fitted(1)
    assert [r.getMessage()[:80] for r in caplog.records if "ompil" in r.getMessage()] == []
    widths = [np.asarray(energy.constants["potential"])[:, 3] for energy in (first, second)]
    assert np.ptp(widths[0]) == np.ptp(widths[1]) == 0.0
    assert widths[0][0] != widths[1][0]
