"""Snapshots from files.

    .npy    (T, N, d) floats, one snapshot per first index.
    .npz    `points` (n, d) with `times` or `labels` (n,): the rows of one time are one snapshot.
            `pcs` (n, k) with `sample_labels` (n,), TrajectoryNet's layout: the leading components,
            each standardised over all cells.
            `points`, `train` or `snapshots` (T, N, d), with `times` (T,) or a scalar `dt` if there;
            `test`, of the same rank, is the held-out population.
    .csv    a header, a column of times, and one column per coordinate; see `csv_table`.
    .h5ad   AnnData: times in `obs`, coordinates in `obsm`.

Fewer coordinates than a file has are its leading ones where its columns are components already (`pcs`,
columns PC1, PC2, ..., an entry X_pca); of any other columns they are principal components, of all
particles of the file, because the first of many genes say nothing of the others.

Nothing is unpickled, and whatever is wrong with a file is one ValueError that names it.
"""

import csv
import re
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from data_generation.formats.array_files import npz_names, read_npy, read_npz
from data_generation.populations.cells import read_cells
from data_generation.populations.csv_table import read_csv
from data_generation.populations.principal_components import (
    Projection,
    named_as_components,
    principal_components,
)
from diffusions.checks import shown
from jkonet_star.cells.representation import REPRESENTATION, coordinates
from jkonet_star.cells.times import TIME_KEY, cell_times
from jkonet_star.snapshots import Snapshots, snapshots_from_arrays

ACCEPTED_SUFFIXES = (".npy", ".npz", ".csv", ".h5ad")
TRAJECTORYNET_COMPONENTS = 5


class FileContent(NamedTuple):
    """What a file holds.

    Attributes:
        train: its snapshots.
        held_out: those of its own held-out population, or None.
        projection: that gave the coordinates, where the file's own columns were reduced, or None.
    """

    train: Snapshots
    held_out: Snapshots | None
    projection: Projection | None


class _Population(NamedTuple):
    points: Sequence[np.ndarray] | np.ndarray  # a snapshot each, (n, d)
    times: np.ndarray | None


class _Raw(NamedTuple):
    """Before coordinates are chosen."""

    populations: list[_Population]
    components: bool  # whether the columns are components, of which the first are the leading ones


_LABELS = ("times", "labels")
_DENSE = ("points", "train", "snapshots")
# Entries of obsm whose columns are in the order of their importance.
_ORDERED = re.compile(r"(?:^|[^a-z])(?:pca?|pcs|lsi|svd|diffmap)(?:[^a-z]|$)", re.IGNORECASE)
# Snapshots are populations: with fewer particles each, many times are times of single particles.
_MANY_TIMES, _FEWEST_PARTICLES = 10, 5
_DOUBTFUL_TIMES, _DOUBTFUL_PARTICLES = 20, 10


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
    """The snapshots of one file, and its held-out ones; see `read_file`."""
    content = read_file(
        path, dt=dt, time_key=time_key, representation=representation, n_components=n_components
    )
    return content.train, content.held_out


def read_file(
    path: str | Path,
    *,
    dt: float = 1.0,
    time_key: str | None = None,
    representation: str | None = None,
    n_components: int | None = None,
) -> FileContent:
    """Reads a file of the formats above.

    Args:
        path: the file; its suffix says the format.
        dt: time between snapshots where the file holds no times.
        time_key: column (.csv) or entry of `obs` (.h5ad) with the times.
        representation: entry of `obsm` (.h5ad).
        n_components: coordinates to keep: the leading components, or principal components.

    Raises:
        ValueError: a file that is missing, empty, truncated, or not what its suffix says; one
            without times, or with about as many times as particles; one snapshot only; NaN or
            infinite entries. The message names the file.
        ImportError: .h5ad without the `bio` extra.
        UserWarning: what was taken for a coordinate or left out, where that may be a mistake.
    """
    path = Path(path)
    try:
        raw = _read(path, time_key, representation, n_components)
        populations, projection = _reduced(raw, n_components)
        packed = [
            snapshots_from_arrays(p.points, p.times, dt=dt if p.times is None else None)
            for p in populations
        ]
    except ImportError:
        raise
    except (ValueError, OSError, MemoryError, csv.Error) as error:
        raise ValueError(f"{path}: {_reason(error)}") from error
    return FileContent(packed[0], packed[1] if len(packed) == 2 else None, projection)


def _read(
    path: Path, time_key: str | None, representation: str | None, n_components: int | None
) -> _Raw:
    if path.is_dir():
        raise ValueError("is a folder, not a file")
    if not path.exists():
        raise ValueError("no such file")
    if not path.is_file():  # a pipe would be waited for, and a device may have no end
        raise ValueError("is not a file")
    if path.stat().st_size == 0:
        raise ValueError("the file is empty")
    match path.suffix.lower():
        case ".npy":
            return _Raw([_Population(_dense(read_npy(path), "the array"), None)], False)
        case ".npz":
            return _read_npz(path, n_components)
        case ".csv":
            table = read_csv(path, time_key)
            grouped = _grouped(table.points, table.times, f"entries of {table.time_name!r}")
            return _Raw([grouped], named_as_components(table.names))
        case ".h5ad":
            return _read_h5ad(path, time_key, representation, n_components)
        case other:
            accepted = ", ".join(ACCEPTED_SUFFIXES)
            raise ValueError(f"unknown file type {other!r} (accepted: {accepted})")


def _reason(error: BaseException) -> str:
    """One line of why."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    if isinstance(error, MemoryError):
        return "damaged: its header announces more data than memory holds"
    return " ".join(str(error).split()) or type(error).__name__


def _reduced(
    raw: _Raw, n_components: int | None
) -> tuple[Sequence[_Population], Projection | None]:
    """The populations in as many coordinates as are asked for."""
    d = raw.populations[0].points[0].shape[-1]
    if n_components is None or n_components == d:
        return raw.populations, None
    if n_components > d:
        raise ValueError(f"n_components is {n_components}, the data have {d} coordinates")
    if raw.components:
        return [
            p._replace(points=[x[:, :n_components] for x in p.points]) for p in raw.populations
        ], None
    everything = np.concatenate(list(raw.populations[0].points))
    bad = np.count_nonzero(~np.isfinite(everything).all(axis=1))
    if bad:
        raise ValueError(f"{bad} of {len(everything)} particles have NaN or inf")
    projection = principal_components(everything, n_components)
    warnings.warn(
        f"n_components {n_components} of {d} columns that are no components: their principal "
        f"components are taken, which explain {100 * projection.explained.sum():.3g} % of the "
        "variance; columns are neither scaled nor transformed before",
        UserWarning,
        stacklevel=3,
    )
    return [p._replace(points=[projection(x) for x in p.points]) for p in raw.populations], (
        projection
    )


def _numeric(array: np.ndarray, what: str) -> np.ndarray:
    if array.dtype.kind not in "fiu":
        raise ValueError(f"{what} must be real numbers, got dtype {array.dtype}")
    return array


def _grouped(points: np.ndarray, labels: np.ndarray, what: str) -> _Population:
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
    counts = np.bincount(inverse)
    if len(times) >= _MANY_TIMES and len(labels) < _FEWEST_PARTICLES * len(times):
        raise ValueError(
            f"{len(labels)} particles at {len(times)} distinct times ({what}): a snapshot is a "
            "population, and these look like a pseudotime or like times of single particles; group "
            "them into few times, or name the times of collection with --time-key"
        )
    alone = np.count_nonzero(counts == 1)
    if alone:
        warnings.warn(
            f"{alone} of {len(times)} times ({what}) have a single particle each, which is hardly "
            "a population",
            UserWarning,
            stacklevel=4,
        )
    median = float(np.median(counts))
    if len(times) > _DOUBTFUL_TIMES and median < _DOUBTFUL_PARTICLES:
        warnings.warn(
            f"{len(times)} distinct times ({what}) have {median:g} particles each, in the median: if "
            "they are a pseudotime or times of single particles, group them into few times, or name "
            "the times of collection with --time-key",
            UserWarning,
            stacklevel=4,
        )
    order = np.argsort(inverse, kind="stable")
    return _Population(np.split(points[order], np.cumsum(counts)[:-1]), times)


def _dense(array: np.ndarray, what: str) -> np.ndarray:
    array = _numeric(array, what)
    if array.ndim != 3:
        raise ValueError(
            f"{what} has shape {array.shape}; it must be (snapshots, particles, dimension)"
        )
    return array


def _read_npz(path: Path, n_components: int | None) -> _Raw:
    names = npz_names(path)
    if "pcs" in names:
        if "sample_labels" not in names:
            raise ValueError("`pcs` needs `sample_labels` beside it")
        kept = TRAJECTORYNET_COMPONENTS if n_components is None else n_components
        arrays = read_npz(path, ("pcs", "sample_labels"))
        points = _standardised(arrays["pcs"], kept)
        return _Raw([_grouped(points, arrays["sample_labels"], "labels")], True)
    label = next((name for name in _LABELS if name in names), None)
    key = next((name for name in _DENSE if name in names), None)
    if key is None:
        raise ValueError(
            f"holds {', '.join(map(shown, names)) or 'nothing'}; expected `points` with `times`, "
            "`pcs` with `sample_labels`, or `train`"
        )
    wanted = [name for name in (key, label, "dt", "test") if name in names]
    arrays = read_npz(path, wanted)
    points = arrays[key]
    if points.ndim == 2:
        if label is None:
            raise ValueError(f"`{key}` (n, d) needs `times` (n,) beside it")
        return _Raw([_grouped(points, arrays[label], label)], False)
    points = _dense(points, f"`{key}`")
    times: np.ndarray | None = None
    if label is not None:
        times = _numeric(arrays[label], label)
    elif "dt" in names:
        step = _numeric(arrays["dt"], "dt")
        if step.ndim:
            raise ValueError(f"dt must be one number, got shape {step.shape}")
        times = float(step) * np.arange(len(points))
    populations = [_Population(points, times)]
    if key == "train" and "test" in names:
        test = _dense(arrays["test"], "`test`")
        if (len(test), test.shape[2]) != (len(points), points.shape[2]):
            raise ValueError(f"`train` {points.shape} and `test` {test.shape} do not match")
        populations.append(_Population(test, times))
    return _Raw(populations, False)


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


def _read_h5ad(
    path: Path, time_key: str | None, representation: str | None, n_components: int | None
) -> _Raw:
    data = read_cells(path, backed=True)
    try:
        times = cell_times(data, time_key).values
        points = coordinates(data, representation)
    finally:
        data.file.close()
    name = representation or REPRESENTATION
    ordered = bool(_ORDERED.search(name))
    if n_components is not None and not ordered and points.shape[1:] > (n_components,):
        # Not reduced here: cells are annotated in the coordinates that were learned in, which the
        # file must hold for that.
        raise ValueError(
            f"the first {n_components} of {points.shape[1]} columns of obsm[{name!r}] are not its "
            "leading ones, because they are no principal components: leave out --n-components, or "
            "reduce them (scanpy.pp.pca) and name the result with --representation"
        )
    return _Raw([_grouped(points, times, f"entries of obs[{time_key or TIME_KEY!r}]")], ordered)
