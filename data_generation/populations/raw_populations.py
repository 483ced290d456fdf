"""What a file of snapshots holds, before coordinates are chosen: populations by their times."""

import warnings
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from data_generation.populations.cell_flags import with_flags
from jkonet_star.cells.masses import masses_of_times
from jkonet_star.cells.times import CellTimes, check_snapshots, parse_times


class Population(NamedTuple):
    """Snapshots.

    Attributes:
        points: of a snapshot each, (n, d).
        times: of the snapshots, or None.
    """

    points: Sequence[np.ndarray] | np.ndarray
    times: np.ndarray | None


class Raw(NamedTuple):
    """The content of a file.

    Attributes:
        populations: the one to learn from and, where there is one, the held-out one.
        components: whether the columns are components, of which the first are the leading ones.
        unit: of time; empty where the file does not say.
        masses: of the whole population at each time, or None.
    """

    populations: list[Population]
    components: bool
    unit: str = ""
    masses: np.ndarray | None = None


def numeric(array: np.ndarray, what: str) -> np.ndarray:
    """The array, if it holds real numbers.

    Raises:
        ValueError: it does not.
    """
    if array.dtype.kind not in "fiu":
        raise ValueError(f"{what} must be real numbers, got dtype {array.dtype}")
    return array


def dense(array: np.ndarray, what: str) -> np.ndarray:
    """The array, if it is one of snapshots of equally many particles.

    Raises:
        ValueError: it is not.
    """
    array = numeric(array, what)
    if array.ndim != 3:
        raise ValueError(
            f"{what} has shape {array.shape}; it must be (snapshots, particles, dimension)"
        )
    return array


def labelled_times(
    labels: np.ndarray, what: str, time_map: Mapping[str, float] | None = None
) -> CellTimes:
    """Times of particles from an array of numbers, of texts, or of time differences.

    Raises:
        ValueError: some are no times.
    """
    if labels.dtype.kind in "Um" or time_map is not None:
        return parse_times(labels, what, time_map=time_map)
    values = numeric(labels, what).astype(np.float64)
    bad = np.count_nonzero(~np.isfinite(values))
    if bad:
        raise ValueError(f"{bad} of {len(values)} {what} are NaN or inf")
    return CellTimes(values, "")


def grouped(
    points: np.ndarray,
    times: CellTimes,
    what: str,
    *,
    components: bool,
    masses: np.ndarray | None = None,
    noun: str = "particle",
) -> Raw:
    """The rows of each time, in increasing order of the times.

    Args:
        points: (n, d).
        times: of the rows.
        what: they are.
        components: as in `Raw`.
        masses: of the whole population at the time of each row, or at each time.
        noun: for a row.

    Raises:
        ValueError: there are no rows, or times are those of single particles.
        UserWarning: they may be.
    """
    points = numeric(points, "points")
    if not len(points):
        raise ValueError("there are no particles in it")
    distinct, inverse, counts = np.unique(times.values, return_inverse=True, return_counts=True)
    if len(distinct) > 1:
        for line in check_snapshots(times.values, what, noun=noun):
            warnings.warn(with_flags(line), UserWarning, stacklevel=5)
    if masses is not None:
        masses = masses_of_times(masses, times.values)
    order = np.argsort(inverse, kind="stable")
    population = Population(np.split(points[order], np.cumsum(counts)[:-1]), distinct)
    return Raw([population], components, times.unit, masses)
