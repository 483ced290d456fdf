"""Coordinates and times of the cells of an AnnData object, for learning and for annotating alike."""

import errno
import math
import os
import shutil
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from data_generation.formats.bounded_reading import most_unpacked
from data_generation.formats.plain_numbers import plain_float
from diffusions.checks import shown
from diffusions.late_imports import import_extra

TIME_KEY = "time"
REPRESENTATION = "X_pca"
_MOST_DENSE_BYTES = 1 << 30
_LEAST_H5AD_BYTES = 1 << 18  # of an object without cells


def read_cells(path: Path, *, backed: bool = False) -> Any:
    """The AnnData object of an .h5ad file, of which nothing is believed about its size.

    Args:
        path: the file.
        backed: leaves the expression matrix on disk.

    Raises:
        ValueError: it is no such file, is damaged, refers to other files, or would unpack to more
            than `most_unpacked`; without the file's name.
        ImportError: AnnData is not installed.
    """
    anndata = import_extra("anndata", str(path))
    try:
        _check_size(path, ("X", "raw") if backed else ())
        return anndata.read_h5ad(path, backed="r" if backed else None)
    except Exception as error:  # h5py and anndata raise whatever the damage provokes
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise ValueError(f"not an AnnData file, or damaged ({reason})") from error


def write_cells(data: Any, path: Path) -> None:
    """Writes an AnnData object.

    Where a disk is full HDF5 ends with tracebacks of its own, and at times with the process: the room
    is looked for before.

    Raises:
        OSError: there is no room, or it cannot be written.
    """
    data = data.copy() if data.is_view else data  # a view does not know its size
    if shutil.disk_usage(path.parent).free < sys.getsizeof(data) + _LEAST_H5AD_BYTES:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
    data.write_h5ad(path)


def _check_size(path: Path, left_on_disk: tuple[str, ...]) -> None:
    """Raises ValueError where arrays that are not there would be made, or other files be read."""
    h5py = import_extra("h5py", str(path))

    with h5py.File(path, "r") as file:
        total, seen, waiting = 0, set(), [file]
        while waiting:
            group = waiting.pop()
            for name in group:
                link = group.get(name, getlink=True)
                if not isinstance(link, h5py.HardLink):
                    raise ValueError(f"{shown(name)} is a link to elsewhere")
                if group is file and name in left_on_disk:
                    continue
                item = group[name]
                place = h5py.h5o.get_info(item.id).addr
                if place in seen:
                    continue
                seen.add(place)
                if isinstance(item, h5py.Group):
                    waiting.append(item)
                elif isinstance(item, h5py.Dataset) and item.shape is not None:
                    if item.external or item.is_virtual:
                        raise ValueError(f"{shown(name)} is kept in another file")
                    total += math.prod(item.shape) * item.dtype.itemsize
    most = most_unpacked(path.stat().st_size)
    if total > most:
        raise ValueError(f"it would unpack to {total} bytes, at most {most} are read")


def cell_times(data: Any, time_key: str | None = None) -> np.ndarray:
    """Time of every cell, (n,); numbers, or text and categories that spell numbers.

    Args:
        data: AnnData.
        time_key: entry of `obs`.

    Raises:
        ValueError: there is no such entry, or it holds no numbers.
    """
    time_key = time_key or TIME_KEY
    if time_key not in data.obs:
        raise ValueError(
            f"no {time_key!r} in obs (--time-key); available: {_listed(data.obs.columns)}"
        )
    return times_from_text(data.obs[time_key], f"obs[{time_key!r}]")


def cell_coordinates(data: Any, representation: str | None = None) -> np.ndarray:
    """Coordinates of every cell, (n, d); of a sparse matrix or a table of numbers as of an array.

    Args:
        data: AnnData.
        representation: entry of `obsm`.

    Raises:
        ValueError: there is no such entry, it holds anything but real numbers, or is a sparse matrix
            that would be too large as an array.
    """
    representation = representation or REPRESENTATION
    if representation not in data.obsm:
        raise ValueError(
            f"no {representation!r} in obsm (--representation); available: "
            f"{_listed(data.obsm.keys())}"
        )
    found, name = data.obsm[representation], f"obsm[{representation!r}]"
    if hasattr(found, "columns"):  # a data frame
        texts = [c for c, kind in found.dtypes.items() if getattr(kind, "kind", "O") not in "fiu"]
        if texts:
            raise ValueError(
                f"{name} has columns that are no numbers: {_listed(texts)}; remove them, or name "
                f"another entry with --representation (available: {_listed(data.obsm.keys())})"
            )
        found = found.to_numpy()
    elif hasattr(found, "toarray"):  # a sparse matrix
        n_bytes = math.prod(found.shape) * 8
        if n_bytes > _MOST_DENSE_BYTES:
            raise ValueError(
                f"{name} is a sparse matrix of shape {found.shape}, which would take "
                f"{n_bytes / 2**30:.3g} GiB as an array: reduce it first, as scanpy.pp.pca does, and "
                "name the result with --representation"
            )
        found = found.toarray()
    points = np.asarray(found)
    if points.dtype.kind not in "fiu":
        raise ValueError(
            f"{name} must hold real numbers, got {points.dtype}; another entry is named by "
            f"--representation (available: {_listed(data.obsm.keys())})"
        )
    return points


def _listed(names: Iterable[object]) -> str:
    texts = [name if (name := str(n)).isprintable() else shown(name) for n in names]
    return ", ".join(texts[:20]) + (", ..." if len(texts) > 20 else "") or "none"


def times_from_text(values: Iterable[object], what: str) -> np.ndarray:
    """Numbers from labels that may be strings or categories.

    Raises:
        ValueError: one of them is no number.
    """
    texts = [str(v) for v in values]
    try:
        return np.array([plain_float(t) for t in texts])
    except ValueError:
        distinct = sorted(set(texts))
        named = ", ".join(shown(t) for t in distinct[:5]) + (", ..." if len(distinct) > 5 else "")
        raise ValueError(f"{what} must be numbers to be times, got {named}") from None
