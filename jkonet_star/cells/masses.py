"""How many cells the whole population has at each time, which make rates of growth absolute."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from jkonet_star.cells.representation import absent, listed, obs_column
from jkonet_star.cells.times import CellTimes, parse_times


def cell_masses(
    data: Any, mass_key: str, times: CellTimes, *, time_map: Mapping[Any, float] | None = None
) -> np.ndarray:
    """Of each of the times, in increasing order.

    Args:
        data: AnnData.
        mass_key: entry of `obs` with the number at the time of each cell, or of `uns` with one number
            per time, in increasing order, or with label -> number, a mapping or a Series.
        times: of the cells.
        time_map: as of `times.parse_times`, for the labels.

    Raises:
        ValueError: there is no such entry, or it says no positive number of some time.
    """
    if mass_key in data.obs:
        return masses_of_times(np.asarray(obs_column(data, mass_key)), times.values)
    if mass_key not in data.uns:
        raise ValueError(absent("obs or uns", mass_key, [*data.obs.columns, *data.uns], "mass_key"))
    held = data.uns[mass_key]
    if hasattr(held, "index") and hasattr(held, "to_dict") and np.ndim(held) == 1:
        # Labels in any order; those that pandas counts by itself are none.
        counted = list(held.index) == list(range(len(held)))
        held = np.asarray(held) if counted else held.to_dict()
    if not isinstance(held, Mapping):
        return masses_of_times(np.asarray(held), times.values)
    own = parse_times([*held], f"uns[{mass_key!r}]", time_map=time_map)
    if own.unit != times.unit:
        raise ValueError(
            f"uns[{mass_key!r}] (mass_key) is in {own.unit or 'no unit'}, the times are in "
            f"{times.unit or 'no unit'}: name its entries as the times are written"
        )
    number = dict(zip(own.values.tolist(), held.values(), strict=True))
    distinct = np.unique(times.values).tolist()
    missing = [f"{t:g}" for t in distinct if t not in number]
    if missing:
        raise ValueError(f"uns[{mass_key!r}] (mass_key) says nothing of {listed(missing)}")
    return masses_of_times(np.asarray([number[t] for t in distinct]), times.values)


def masses_of_times(masses: np.ndarray, times: np.ndarray) -> np.ndarray:
    """Of each of the times, in increasing order, from those of every cell or of every time.

    Args:
        masses: (n,) or (t,).
        times: of the cells, (n,).

    Raises:
        ValueError: there are others than these, some are no positive numbers, or cells of one time have
            several.
    """
    distinct, of_cell = np.unique(times, return_inverse=True)
    if masses.dtype.kind not in "fiu" or masses.shape not in (distinct.shape, times.shape):
        raise ValueError(
            f"the masses (mass_key) must be one number for each of {len(distinct)} times or "
            f"{len(times)} cells, got {masses.dtype} of shape {masses.shape}"
        )
    found = np.asarray(masses, np.float64)
    wrong = np.flatnonzero(~(np.isfinite(found) & (found > 0)))
    if wrong.size:
        at = times if found.shape == times.shape else distinct
        raise ValueError(
            f"the mass (mass_key) at {at[wrong[0]]:g} must be positive, got {found[wrong[0]]:g}"
        )
    if found.shape == times.shape:
        each = np.zeros(len(distinct))
        each[of_cell] = found
        several = np.unique(times[each[of_cell] != found])
        if several.size:
            raise ValueError(
                f"cells at {several[0]:g} have several masses (mass_key): it is one number for all "
                "cells of a time"
            )
        found = each
    return found
