"""Files of cells: .h5ad, of whose size nothing is believed."""

import errno
import math
import os
import shutil
import sys
from pathlib import Path
from typing import Any

from data_generation.formats.bounded_reading import most_unpacked
from diffusions.checks import shown
from diffusions.late_imports import import_extra

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
