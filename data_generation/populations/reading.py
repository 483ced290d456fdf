"""Snapshots from files.

    .npy    (T, N, d) floats, one snapshot per first index.
    .npz    `points` (n, d) with `times` or `labels` (n,): the rows of one time are one snapshot.
            `pcs` (n, k) with `sample_labels` (n,), TrajectoryNet's layout: the leading components,
            each standardised over all cells.
            `points`, `train` or `snapshots` (T, N, d), with `times` (T,) or a scalar `dt` if there;
            `test`, of the same rank, is the held-out population.
            See `npz_layouts`.
    .csv    a header, a column of times, and one column per coordinate; see `csv_table`.
    .tsv    the same, with tabs.
    .h5ad   AnnData: times in `obs`, coordinates in `obsm`.

Fewer coordinates than a file has are its leading ones where its columns are components already (`pcs`,
columns PC1, PC2, ..., an entry X_pca); of any other columns they are principal components, of all
particles of the file, because the first of many genes say nothing of the others.

Nothing is unpickled, and whatever is wrong with a file is one ValueError that names it.
"""

import csv
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from data_generation.formats.array_files import read_npy
from data_generation.populations.cell_flags import with_flags
from data_generation.populations.cells import read_cells
from data_generation.populations.csv_table import SEPARATORS, read_csv
from data_generation.populations.dataset_place import check_source
from data_generation.populations.npz_layouts import read_layouts
from data_generation.populations.principal_components import (
    Projection,
    named_as_components,
    principal_components,
)
from data_generation.populations.raw_populations import Population, Raw, dense, grouped
from jkonet_star.cells.masses import cell_masses
from jkonet_star.cells.representation import (
    REPRESENTATION,
    in_order,
    leading_coordinates,
    remarks,
)
from jkonet_star.cells.times import TIME_KEY, cell_times
from jkonet_star.snapshots import Snapshots, snapshots_from_arrays

ACCEPTED_SUFFIXES = (".npy", ".npz", *SEPARATORS, ".h5ad")


class FileContent(NamedTuple):
    """What a file holds.

    Attributes:
        train: its snapshots.
        held_out: those of its own held-out population, or None.
        projection: that gave the coordinates, where the file's own columns were reduced, or None.
        unit: of time; empty where the file does not say.
        masses: of the whole population at each time, or None.
    """

    train: Snapshots
    held_out: Snapshots | None
    projection: Projection | None
    unit: str
    masses: np.ndarray | None


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
    time_map: Mapping[str, float] | None = None,
    mass_key: str | None = None,
) -> FileContent:
    """Reads a file of the formats above.

    Args:
        path: the file; its suffix says the format.
        dt: time between snapshots where the file holds no times.
        time_key: column (.csv, .tsv) or entry of `obs` (.h5ad) with the times.
        representation: entry of `obsm` (.h5ad).
        n_components: coordinates to keep: the leading components, or principal components.
        time_map: label -> time, for labels that say none by themselves.
        mass_key: array (.npz), column (.csv, .tsv) or entry of `obs` or `uns` (.h5ad) with the number
            of the whole population at each time.

    Raises:
        ValueError: a file that is missing, empty, truncated, or not what its suffix says; one
            without times, or with about as many times as particles; one snapshot only; NaN or
            infinite entries. The message names the file.
        ImportError: .h5ad without the `bio` extra.
        UserWarning: what was taken for a coordinate or left out, where that may be a mistake.
    """
    path = Path(path)
    check_source(path)
    try:
        raw = _read(path, time_key, representation, n_components, time_map, mass_key)
        populations, projection = _reduced(raw, n_components)
        packed = [
            snapshots_from_arrays(p.points, p.times, dt=dt if p.times is None else None)
            for p in populations
        ]
    except ImportError:
        raise
    except (ValueError, OSError, MemoryError, csv.Error) as error:
        raise ValueError(f"{path}: {with_flags(_reason(error))}") from error
    held_out = packed[1] if len(packed) == 2 else None
    return FileContent(packed[0], held_out, projection, raw.unit, raw.masses)


def _read(
    path: Path,
    time_key: str | None,
    representation: str | None,
    n_components: int | None,
    time_map: Mapping[str, float] | None,
    mass_key: str | None,
) -> Raw:
    match path.suffix.lower():
        case ".npy":
            if mass_key is not None or time_map is not None:
                named = "mass_key" if mass_key is not None else "time_map"
                raise ValueError(f"{named} is for files that hold more than one array")
            return Raw([Population(dense(read_npy(path), "the array"), None)], False)
        case ".npz":
            return read_layouts(path, n_components, time_map=time_map, mass_key=mass_key)
        case ".csv" | ".tsv":
            table = read_csv(path, time_key, time_map=time_map, mass_key=mass_key)
            return grouped(
                table.points,
                table.times,
                f"entries of {table.time_name!r}",
                components=named_as_components(table.names),
                masses=table.masses,
            )
        case ".h5ad":
            return _read_h5ad(path, time_key, representation, n_components, time_map, mass_key)
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


def _reduced(raw: Raw, n_components: int | None) -> tuple[Sequence[Population], Projection | None]:
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


def _read_h5ad(
    path: Path,
    time_key: str | None,
    representation: str | None,
    n_components: int | None,
    time_map: Mapping[str, float] | None,
    mass_key: str | None,
) -> Raw:
    data = read_cells(path, backed=True)
    name = representation or REPRESENTATION
    try:
        times = cell_times(data, time_key, time_map=time_map)
        # Not reduced here: cells are annotated in the coordinates that were learned in, which the
        # file must hold for that.
        points = leading_coordinates(data, name, n_components if in_order(name) else None)
        masses = None
        if mass_key is not None:
            masses = cell_masses(data, mass_key, times, time_map=time_map)
    finally:
        data.file.close()
    if n_components is not None and points.shape[1] > n_components:
        raise ValueError(
            f"the first {n_components} of {points.shape[1]} columns of obsm[{name!r}] are not its "
            "leading ones, because they are no principal components: leave out n_components, or "
            "reduce them (scanpy.pp.pca) and name the result with use_rep"
        )
    what, ordered = f"obs[{time_key or TIME_KEY!r}]", in_order(name)
    found = grouped(points, times, what, components=ordered, masses=masses, noun="cell")
    counts = np.array([len(snapshot) for snapshot in found.populations[0].points])
    for line in remarks(points, counts, f"obsm[{name!r}]"):
        warnings.warn(with_flags(line), UserWarning, stacklevel=4)
    return found
