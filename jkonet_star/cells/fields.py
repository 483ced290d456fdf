"""What a learned energy says of each cell: potential, energy and drift.

With mu_t the cells of the snapshot at time t, and x_i one of them,

    potential     V(x_i, t)                                                                         (1)
    interaction   (U * mu_t)(x_i) = mean_j U(x_i - x_j)                                             (2)
    energy        (1) + (2), the pseudo-energy: what a cell descends, its noise aside               (3)
    drift         -grad V(x_i, t) - mean_j grad U(x_i - x_j)                                        (4)

in the coordinates that the energy was learned in. A constant in each energy is arbitrary. The internal
energy beta log rho is no property of a cell alone and enters no value; beta stands beside them.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from diffusions.typing import Array, HostArray
from jkonet_star.dynamics import scheme_time
from jkonet_star.energies.interactions import interaction_drift
from jkonet_star.fitted import FittedEnergy

ROWS_AT_ONCE = 1024
"""Cells per evaluation: with an interaction, each of them meets a block of all others."""


class CellFields(NamedTuple):
    """Equations (1), (2) and (4) of every cell."""

    potential: HostArray  # [n]
    interaction: HostArray  # [n]
    drift: HostArray  # [n, d]


def write_energies(data: Any, energy: FittedEnergy, fields: CellFields, prefix: str) -> None:
    """Writes (1) to (3) into `obs`: `PREFIX_potential`, `PREFIX_interaction` and `PREFIX_energy`.

    The second only where an interaction was learned.
    """
    data.obs[f"{prefix}_potential"] = fields.potential
    data.obs[f"{prefix}_energy"] = fields.potential + fields.interaction
    if energy.model.has_interaction:
        data.obs[f"{prefix}_interaction"] = fields.interaction


def needs_times(energy: FittedEnergy) -> bool:
    """Whether a cell's snapshot matters: for its neighbours, or for the time."""
    return bool(energy.model.has_interaction or getattr(energy.model, "time_varying", False))


def cell_fields(energy: FittedEnergy, points: HostArray, times: HostArray | None) -> CellFields:
    """Equations (1), (2) and (4).

    Args:
        energy: a single one.
        points: (n, d).
        times: of the cells; cells of one time are one population. Absent, all are one, at the first
            training time.

    Raises:
        ValueError: a time is not finite.
    """
    if times is None:
        times = np.full(len(points), energy.time_values()[0])
    if not np.isfinite(times).all():
        raise ValueError("the times of the cells must be finite")
    distinct, snapshot = np.unique(times, return_inverse=True)
    # Populations of one size, padded by weight zero, and chunks of one size: compiled once.
    most = int(np.bincount(snapshot).max()) if energy.model.has_interaction else 1
    rows = min(ROWS_AT_ONCE, len(points))
    found = CellFields(
        np.empty(len(points), np.float32),
        np.zeros(len(points), np.float32),
        np.empty(points.shape, np.float32),
    )
    for k, time in enumerate(distinct):
        inside = np.flatnonzero(snapshot == k)
        population = np.resize(points[inside], (most, points.shape[1]))
        weights = np.zeros(most, np.float32)
        weights[: len(inside)] = 1.0 / len(inside)
        t = evaluation_time(energy, float(time))
        for start in range(0, len(inside), rows):
            chosen = inside[start : start + rows]
            some = _fields(
                energy, np.resize(points[chosen], (rows, points.shape[1])), population, weights, t
            )
            for whole, part in zip(found, some, strict=True):
                whole[chosen] = np.asarray(part)[: len(chosen)]
    return found


def evaluation_time(energy: FittedEnergy, time: float) -> float:
    """Where the scheme evaluates the step that starts at a time, within what it has learned."""
    times = energy.time_values()
    starts, taus = times[:-1], np.diff(times)
    step = np.clip(np.searchsorted(starts, time, side="right") - 1, 0, len(starts) - 1)
    learned = scheme_time(energy.scheme, starts, taus)
    shifted = scheme_time(energy.scheme, np.float64(time), taus[step])
    return float(np.clip(shifted, learned[0], learned[-1]))


@jax.jit
def _mean_interaction(energy: FittedEnergy, x: Array, population: Array, weights: Array) -> Array:
    def pairwise(z: Array) -> Array:
        return energy.model.interaction(energy.params, energy.constants, z)

    return interaction_drift(pairwise, x, population, weights)


def _fields(
    energy: FittedEnergy, x: HostArray, population: HostArray, weights: HostArray, t: float
) -> tuple[Array, Array, Array]:
    interaction = jnp.zeros(x.shape[0])
    if energy.model.has_interaction:
        # The same weighted mean as that of the gradients, of the energy itself.
        interaction = _mean_interaction(energy, x, population, weights)
    return energy.potential(x, t), interaction, energy.drift(x, population, weights=weights, t=t)


def share_outside(points: HostArray, training: list[HostArray]) -> float:
    """Share of cells beyond the training particles' range in some coordinate: extrapolation."""
    seen = np.concatenate(training)
    low, high = seen.min(axis=0), seen.max(axis=0)
    return float(((points < low) | (points > high)).any(axis=1).mean())
