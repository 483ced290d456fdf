"""The features of a linear energy, laid where the particles are."""

import dataclasses

import jax.numpy as jnp
import numpy as np

from diffusions.typing import Float, Params, PyTree
from jkonet_star.energies.circulation import Planes, coordinate_planes
from jkonet_star.energies.features import Features, make_features
from jkonet_star.energies.models import LinearEnergy
from jkonet_star.settings import FeatureSettings
from jkonet_star.snapshots import Snapshots
from jkonet_star.solvers.registry import Terms
from jkonet_star.units import population_units

KMEANS_SAMPLE = 20_000
RICH_UP_TO = 3
"""Dimensions in which a circulation has all features of V."""


def linear_model(
    terms: Terms, snapshots: Snapshots, settings: FeatureSettings
) -> tuple[LinearEnergy, PyTree]:
    """The linear drift of a solver, without an internal energy; its radial centres, and the units."""
    rng = np.random.default_rng(0)
    units = population_units(snapshots)
    center, length = np.asarray(units.center, np.float64), float(units.length)
    particles = np.flatnonzero(np.asarray(snapshots.weights))
    chosen = particles[rng.permutation(len(particles))[:KMEANS_SAMPLE]]
    sample = np.asarray(snapshots.points).reshape(-1, snapshots.dimension)[chosen]
    sample = (sample.astype(np.float64) - center) / length
    differences = sample - sample[rng.permutation(len(sample))]
    features: dict[str, Features | None] = {}
    constants: dict[str, PyTree] = {"units": units}
    for name, wanted, points, middle in (
        ("potential", terms.potential, sample, center),
        ("interaction", terms.interaction, differences, 0.0),
    ):
        features[name] = None
        if wanted:
            # Differences span twice the particles' range: a grid over all of it would have four times
            # the functions, which are no use where few pairs are that far apart.
            features[name], centers = make_features(
                settings, points, center=middle, length=length, extend=name == "potential"
            )
            constants[name] = jnp.asarray(centers, jnp.float32)
    planes: Planes = ()
    circulation = None
    if terms.circulation:
        planes = coordinate_planes(snapshots.dimension)
        circulation, centers = make_features(
            _of_circulation(settings, snapshots.dimension), sample, center=center, length=length
        )
        constants["circulation"] = jnp.asarray(centers, jnp.float32)
    model = LinearEnergy(
        dimension=snapshots.dimension,
        potential_features=features["potential"],
        interaction_features=features["interaction"],
        circulation_features=circulation,
        circulation_planes=planes,
    )
    return model, constants


def _of_circulation(settings: FeatureSettings, dimension: int) -> FeatureSettings:
    """Those of V up to three dimensions; above, where every plane has its own, linear velocities."""
    if dimension <= RICH_UP_TO:
        return settings
    return dataclasses.replace(settings, degree=2, total_degree=2, radial="none")


def split_coefficients(model: LinearEnergy, theta: Float[np.ndarray, "f"]) -> Params:
    """The params of a `LinearEnergy` out of its stacked coefficients."""
    params = {}
    start = 0
    for name, features in (
        ("potential", model.potential_features),
        ("interaction", model.interaction_features),
    ):
        if features is not None:
            stop = start + features.n_features
            params[name] = jnp.asarray(theta[start:stop], jnp.float32)
            start = stop
    if model.has_circulation:
        stop = start + model.n_circulation
        params["circulation"] = jnp.asarray(theta[start:stop], jnp.float32)
        start = stop
    if model.internal == "learned":
        params["internal"] = jnp.asarray(theta[start], jnp.float32)
    return params
