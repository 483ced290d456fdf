"""Points of a user's own: a file of numbers, one point per row, standardised and split.

.npy    (n, d) floats.
.csv    a line per point; the first one may name the columns.
"""

import csv
import dataclasses
from pathlib import Path

import numpy as np

from data_generation.formats.array_files import read_npy
from data_generation.formats.bounded_reading import MOST_FILE_BYTES
from data_generation.formats.plain_numbers import plain_float
from data_generation.points_file import check_points_file
from diffusions.short_repr import short_repr
from diffusions.typing import Float


@dataclasses.dataclass(frozen=True)
class PointData:
    """A standardised sample, split in two.

    Attributes:
        train: (n, d).
        validation: (m, d).
        mean: of the sample before it was standardised.
        deviation: likewise.
    """

    train: Float[np.ndarray, "n d"]
    validation: Float[np.ndarray, "m d"]
    mean: Float[np.ndarray, "d"]
    deviation: Float[np.ndarray, "d"]

    __repr__ = short_repr


def points_data(
    file: str | Path, seed: int, *, n_points: int | None = None, validation_ratio: float = 0.1
) -> PointData:
    """The points of a file, in random order, each coordinate standardised.

    Args:
        file: see the module header.
        seed: of the order.
        n_points: that are taken; absent, all.
        validation_ratio: share that is held out.

    Raises:
        ValueError: there is no such file, it is damaged, it holds no table of finite numbers, a column
            is constant, or there are fewer points than dimensions plus one.
    """
    path = Path(file)
    check_points_file(path)
    try:
        points = _csv(path) if path.suffix.lower() == ".csv" else _npy(path)
        _check(points)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    points = points[np.random.default_rng([seed, 0]).permutation(len(points))][:n_points]
    constant = np.ptp(points, axis=0) == 0.0
    if constant.any():
        raise ValueError(
            f"{path}: column {int(np.argmax(constant)) + 1} is the same for all {len(points)} points "
            "that are taken, and no density has a value along it: leave it out, or take more points"
        )
    held_out = max(1, round(validation_ratio * len(points)))
    if len(points) - held_out <= points.shape[1]:
        raise ValueError(
            f"{path}: {len(points)} points, of which {held_out} are held out, are too few in "
            f"{points.shape[1]} dimensions: more than {points.shape[1]} must be left"
        )
    mean, deviation = points.mean(axis=0), points.std(axis=0)
    standard = ((points - mean) / deviation).astype(np.float32)
    return PointData(standard[held_out:], standard[:held_out], mean, deviation)


def _npy(path: Path) -> np.ndarray:
    array = read_npy(path)
    if array.ndim != 2 or array.dtype.kind not in "fiu":
        raise ValueError(
            f"must hold numbers, a row per point, got {array.dtype} of shape {list(array.shape)}"
        )
    return array.astype(np.float64)


def _csv(path: Path) -> np.ndarray:
    if path.stat().st_size > MOST_FILE_BYTES:
        raise ValueError(f"has more than {MOST_FILE_BYTES} bytes")
    try:
        text = path.read_text("utf-8-sig")
        lines = [
            (number, row) for number, row in enumerate(csv.reader(text.splitlines()), 1) if row
        ]
    except (UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"is no table of text: {error}") from None
    if lines and not all(map(_is_number, lines[0][1])):
        lines = lines[1:]
    rows = []
    for number, row in lines:
        if len(row) != len(lines[0][1]):
            raise ValueError(f"line {number} has {len(row)} numbers, not {len(lines[0][1])}")
        try:
            rows.append([plain_float(entry) for entry in row])
        except ValueError as error:
            raise ValueError(f"line {number}: {error}") from None
    if not rows:
        raise ValueError("holds no points")
    return np.array(rows, np.float64)


def _is_number(text: str) -> bool:
    try:
        plain_float(text)
    except ValueError:
        return False
    return True


def _check(points: np.ndarray) -> None:
    n, d = points.shape
    if n <= d or not d:
        raise ValueError(f"holds {n} points in {d} dimensions, at least {d + 1} are needed")
    finite = np.isfinite(points).all(axis=1)
    if not finite.all():
        raise ValueError(f"point {int(np.argmin(finite)) + 1} is not finite")
