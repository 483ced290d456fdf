"""Snapshots from files.

    .npy    (T, N, d) floats, one snapshot per first index.
    .npz    `points` (n, d) with `times` or `labels` (n,): the rows of one time are one snapshot.
            `pcs` (n, k) with `sample_labels` (n,), TrajectoryNet's layout: the leading components,
            each standardised over all cells.
            `points`, `train` or `snapshots` (T, N, d), with `times` (T,) or a scalar `dt` if there;
            `test`, of the same rank, is the held-out population.
    .csv    a header, a column of times, and one column per coordinate. Columns without a number in
            them, and a nameless first one, are passed over.
    .h5ad   AnnData: times in `obs`, coordinates in `obsm`.

Nothing is unpickled, and whatever is wrong with a file is one ValueError that names it.
"""

import csv
import zipfile
import zlib
from pathlib import Path

import numpy as np

from data_generation.cells import (
    TIME_KEY,
    cell_coordinates,
    cell_times,
    times_from_text,
)
from diffusions.late_imports import import_extra
from jkonet_star.snapshots import Snapshots, snapshots_from_arrays

ACCEPTED_SUFFIXES = (".npy", ".npz", ".csv", ".h5ad")
TRAJECTORYNET_COMPONENTS = 5

Population = tuple[np.ndarray | list[np.ndarray], np.ndarray | None]
"""Snapshots, and their times where the file has them."""

_LABELS = ("times", "labels")
_DENSE = ("points", "train", "snapshots")


def read_snapshots(
    path: str | Path,
    *,
    dt: float = 1.0,
    time_key: str | None = None,
    representation: str | None = None,
    n_components: int | None = None,
) -> Snapshots:
    """The snapshots of one file; see `read_populations`, which also returns held-out ones."""
    return read_populations(
        path, dt=dt, time_key=time_key, representation=representation, n_components=n_components
    )[0]


def read_populations(
    path: str | Path,
    *,
    dt: float = 1.0,
    time_key: str | None = None,
    representation: str | None = None,
    n_components: int | None = None,
) -> tuple[Snapshots, Snapshots | None]:
    """Reads a file of the formats above.

    Args:
        path: the file; its suffix says the format.
        dt: time between snapshots where the file holds no times.
        time_key: column (.csv) or entry of `obs` (.h5ad) with the times.
        representation: entry of `obsm` (.h5ad).
        n_components: leading coordinates to keep.

    Returns:
        The snapshots, and the held-out ones of a file that has its own.

    Raises:
        ValueError: a file that is missing, empty, truncated, or not what its suffix says; one
            without times; one snapshot only; NaN or infinite entries. The message names the file.
        ImportError: .h5ad without the `bio` extra.
    """
    path = Path(path)
    populations: list[Population]
    try:
        if path.is_dir():
            raise ValueError("is a folder, not a file")
        if not path.exists():
            raise ValueError("no such file")
        if path.stat().st_size == 0:
            raise ValueError("the file is empty")
        match path.suffix.lower():
            case ".npy":
                populations = [(_read_npy(path), None)]
            case ".npz":
                populations = _read_npz(path, n_components)
            case ".csv":
                populations = [_read_csv(path, time_key)]
            case ".h5ad":
                populations = [_read_h5ad(path, time_key, representation)]
            case other:
                accepted = ", ".join(ACCEPTED_SUFFIXES)
                raise ValueError(f"unknown file type {other!r} (accepted: {accepted})")
        packed = [_pack(points, times, dt, n_components) for points, times in populations]
    except ImportError:
        raise
    except (ValueError, OSError, EOFError, MemoryError, KeyError) as error:
        raise ValueError(f"{path}: {_reason(error)}") from error
    except (zipfile.BadZipFile, zlib.error, csv.Error, NotImplementedError) as error:
        raise ValueError(f"{path}: damaged or truncated ({_reason(error)})") from error
    return packed[0], packed[1] if len(packed) == 2 else None


def _reason(error: BaseException) -> str:
    """One line of why."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    if isinstance(error, MemoryError):
        return "damaged: its header announces more data than memory holds"
    return " ".join(str(error).split()) or type(error).__name__


def _pack(
    points: np.ndarray | list[np.ndarray],
    times: np.ndarray | None,
    dt: float,
    n_components: int | None,
) -> Snapshots:
    if n_components is not None:
        d = points[0].shape[-1]
        if n_components > d:
            raise ValueError(f"n_components is {n_components}, the data have {d} coordinates")
        points = [p[..., :n_components] for p in points]
    with np.errstate(over="ignore"):  # what float32 cannot hold becomes inf, and is then named
        return snapshots_from_arrays(points, times, dt=dt)


def _numeric(array: np.ndarray, what: str) -> np.ndarray:
    if array.dtype.kind not in "fiu":
        raise ValueError(f"{what} must be real numbers, got dtype {array.dtype}")
    return array


def _grouped(
    points: np.ndarray, labels: np.ndarray, what: str
) -> tuple[list[np.ndarray], np.ndarray]:
    """The rows of each label, in increasing order of the labels."""
    points = _numeric(points, "points")
    if points.ndim != 2 or labels.shape != points.shape[:1]:
        raise ValueError(
            f"points {points.shape} and {what} {labels.shape} must be (n, d) and (n,) for one n"
        )
    if not len(points):
        raise ValueError("there are no particles in it")
    labels = _numeric(labels, what).astype(np.float64)
    bad = np.count_nonzero(~np.isfinite(labels))
    if bad:
        raise ValueError(f"{bad} of {len(labels)} {what} are NaN or inf")
    times, inverse = np.unique(labels, return_inverse=True)
    if len(times) > 1 and len(times) == len(labels):
        raise ValueError(f"every particle has its own time; a snapshot needs several ({what})")
    order = np.argsort(inverse, kind="stable")
    cuts = np.cumsum(np.bincount(inverse))[:-1]
    return np.split(points[order], cuts), times


def _dense(array: np.ndarray, what: str) -> np.ndarray:
    array = _numeric(array, what)
    if array.ndim != 3:
        raise ValueError(
            f"{what} has shape {array.shape}; it must be (snapshots, particles, dimension)"
        )
    return array


def _read_npy(path: Path) -> np.ndarray:
    with path.open("rb") as file:
        if file.read(6) != b"\x93NUMPY":
            raise ValueError("not a NumPy array file")
    return _dense(np.load(path, allow_pickle=False), "the array")


def _read_npz(path: Path, n_components: int | None) -> list[Population]:
    with path.open("rb") as file:
        if file.read(2) != b"PK":
            raise ValueError("not a NumPy archive")
    with np.load(path, allow_pickle=False) as archive:
        names = archive.files
        if "pcs" in names:
            if "sample_labels" not in names:
                raise ValueError("`pcs` needs `sample_labels` beside it")
            kept = TRAJECTORYNET_COMPONENTS if n_components is None else n_components
            return [
                _grouped(_standardised(archive["pcs"], kept), archive["sample_labels"], "labels")
            ]
        label = next((name for name in _LABELS if name in names), None)
        key = next((name for name in _DENSE if name in names), None)
        if key is None:
            raise ValueError(
                f"holds {', '.join(names) or 'nothing'}; expected `points` with `times`, `pcs` "
                "with `sample_labels`, or `train`"
            )
        points = archive[key]
        if points.ndim == 2:
            if label is None:
                raise ValueError(f"`{key}` (n, d) needs `times` (n,) beside it")
            return [_grouped(points, archive[label], label)]
        points = _dense(points, f"`{key}`")
        times: np.ndarray | None = None
        if label is not None:
            times = _numeric(archive[label], label)
        elif "dt" in names:
            step = _numeric(archive["dt"], "dt")
            if step.ndim:
                raise ValueError(f"dt must be one number, got shape {step.shape}")
            times = float(step) * np.arange(len(points))
        populations: list[Population] = [(points, times)]
        if key == "train" and "test" in names:
            test = _dense(archive["test"], "`test`")
            if (len(test), test.shape[2]) != (len(points), points.shape[2]):
                raise ValueError(f"`train` {points.shape} and `test` {test.shape} do not match")
            populations.append((test, times))
        return populations


def _standardised(components: np.ndarray, kept: int) -> np.ndarray:
    """The first `kept` components, each with mean 0 and standard deviation 1 over all cells."""
    components = _numeric(components, "`pcs`")
    if components.ndim != 2 or components.shape[1] < kept:
        raise ValueError(f"`pcs` has shape {components.shape}; {kept} components are asked for")
    components = components[:, :kept].astype(np.float64)
    if not np.isfinite(components).all():
        raise ValueError("`pcs` has NaN or inf entries")
    spread = components.std(axis=0)
    if not (spread > 0).all():
        raise ValueError(f"component {int(np.argmin(spread))} of `pcs` is constant")
    return (components - components.mean(axis=0)) / spread


def _read_csv(path: Path, time_key: str | None) -> tuple[list[np.ndarray], np.ndarray]:
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            rows = [(line.line_num, row) for line in [csv.reader(file)] for row in line if row]
    except UnicodeDecodeError:
        raise ValueError("not a text file") from None
    if not rows:
        raise ValueError("the file is empty")
    header = [name.strip() for name in rows[0][1]]
    body = rows[1:]
    if len(set(header)) < len(header):
        twice = next(name for name in header if header.count(name) > 1)
        raise ValueError(f"column {twice!r} occurs twice in the header")
    for number, row in body:
        if len(row) != len(header):
            raise ValueError(f"line {number} has {len(row)} fields, the header has {len(header)}")
    if not body:
        raise ValueError("there are no particles in it")
    wanted = ("time", "t") if time_key is None else (time_key,)
    key = next((name for name in wanted if name in header), None)
    if key is None:
        raise ValueError(
            f"no column {' or '.join(repr(w) for w in wanted)} (--time-key); the columns are "
            f"{', '.join(header)}"
        )
    columns = dict(zip(header, zip(*(row for _, row in body), strict=True), strict=True))
    times = times_from_text(columns.pop(key), f"column {key!r}")
    lines = [number for number, _ in body]
    columns.pop("", None)  # the index that data frames write
    coordinates = [c for name, v in columns.items() if (c := _column(name, v, lines)) is not None]
    if not coordinates:
        raise ValueError(f"no numeric column beside {key!r}")
    return _grouped(np.stack(coordinates, axis=1), times, f"entries of {key!r}")


def _column(name: str, values: tuple[str, ...], lines: list[int]) -> np.ndarray | None:
    """The column as numbers, or None where it has none."""
    numbers = np.empty(len(values))
    bad = []
    for i, text in enumerate(values):
        try:
            numbers[i] = float(text)
        except ValueError:
            bad.append(i)
    if len(bad) == len(values):
        return None
    if bad:
        raise ValueError(
            f"line {lines[bad[0]]}: {values[bad[0]]!r} in column {name!r} is not a number"
        )
    return numbers


def _read_h5ad(
    path: Path, time_key: str | None, representation: str | None
) -> tuple[list[np.ndarray], np.ndarray]:
    anndata = import_extra("anndata", str(path))
    try:
        data = anndata.read_h5ad(path, backed="r")  # the expression matrix stays on disk
    except Exception as error:  # h5py and anndata raise whatever the damage provokes
        raise ValueError(f"not an AnnData file, or damaged ({_reason(error)})") from error
    try:
        times = cell_times(data, time_key)
        points = cell_coordinates(data, representation)
    finally:
        data.file.close()
    return _grouped(points, times, f"entries of obs[{time_key or TIME_KEY!r}]")
