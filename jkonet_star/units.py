"""The natural units of a population: what `energies` are learned in.

With weights of sum 1 over all n particles of all snapshots,

    c = mean of x,   l^2 = E|x - c|^2 / d,   s^2 = mean_k E_{gamma_k} |y - x|^2 / tau_k^2,           (1)

computed in double precision. What is learned in them does not depend on the units of the data.
"""

from typing import Any

import jax.numpy as jnp
import numpy as np

from diffusions.typing import Array
from jkonet_star.energies.models import Units
from jkonet_star.snapshots import Snapshots
from jkonet_star.solvers.first_order import FirstOrderConditions
from jkonet_star.spread import squared_norms

ROUNDING = 1e-7
"""Of single precision, relative."""


def data_units(snapshots: Snapshots, conditions: FirstOrderConditions, beta: float = 0.0) -> Units:
    """Centre, length, speed and noise scale of a population (see `energies`), and a given beta."""
    tau = np.asarray(conditions.tau, np.float64)
    displacement = np.asarray(conditions.displacement)
    rates = squared_norms(lambda own: displacement[own] / tau[own, None], len(tau))
    mean_square_rate = np.sum(np.asarray(conditions.weight) * rates) / snapshots.n_steps
    units = population_units(snapshots)
    noise = mean_square_rate * float(units.time_step) / (2.0 * snapshots.dimension)
    return units.replace(  # type: ignore[attr-defined]
        speed=_or_one(np.sqrt(mean_square_rate)),
        noise=_or_one(noise),
        beta=jnp.asarray(beta, jnp.float32),
    )


def population_units(snapshots: Snapshots) -> Units:
    """The units of the snapshots alone; the speed is the length per mean step."""
    points = np.asarray(snapshots.points)
    weights = np.asarray(snapshots.weights, np.float64)
    weights = weights / weights.sum()
    # One snapshot at a time: a million cells need no second copy in double precision.
    rows = list(zip(weights, points, strict=True))
    center = sum(w @ x.astype(np.float64) for w, x in rows)

    def squares(x: np.ndarray) -> np.ndarray:
        return squared_norms(lambda own: x[own] - center, len(x))

    variance = sum(float(w @ squares(x)) for w, x in rows)
    size = max(float(points.max()), -float(points.min()))
    length = _or_one(float(np.sqrt(variance / snapshots.dimension)), size)
    times = np.asarray(snapshots.times)
    mean_tau = float(np.mean(np.diff(times)))
    return Units(
        center=_single(center),
        length=length,
        speed=_single(float(length) / mean_tau),
        time_start=jnp.asarray(times[0]),
        time_step=_single(mean_tau),
        noise=_single(float(length) ** 2 / mean_tau),
        beta=_single(0.0),
    )


def _or_one(value: float, size: float = 0.0) -> Array:
    """A scale; a population that is a point, or does not move, has none of its own.

    What is left of a point in sums of numbers of some size is rounding.
    """
    return _single(value if value > ROUNDING * size else 1.0)


def _single(value: Any) -> Array:
    """In single precision; what is so on the host needs no program to convert it."""
    return jnp.asarray(np.asarray(value, np.float32))
