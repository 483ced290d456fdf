"""Dataset folders on disk: written whole or not at all, and checked when read.

train.npz, test.npz   points (t, n, d), weights (t, n), times (t,); from schema 2 on origin (d,)
                      and start (), where points and times are relative to them
couplings.npz         step, source, target, weight, each (c,)
densities.npz         as `jkonet_star.densities.to_arrays` has it, in folders of older releases only:
                      densities are fitted when they are needed
projection.npz        mean, loadings, explained: as `principal_components.Projection` has them, of data
                      whose columns were reduced when they were read
snapshots.png         the picture, and snapshots.pdf where it was asked for
metadata.json         schema version, arguments, shapes and checksums of the archives
"""

import errno
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from data_generation.formats.array_files import read_npz, write_npz
from data_generation.formats.json_file import read_json
from data_generation.populations.dataset_checks import OPTIONAL, REQUIRED
from data_generation.populations.dataset_metadata import check_metadata
from data_generation.populations.dataset_place import METADATA, is_dataset
from data_generation.scripts.files import sha256
from diffusions.files import made_parents, new_folder, replace_folder, write_text

SCHEMA_VERSION = 2
PICTURE = "snapshots.png"

_FILES = {METADATA, PICTURE, "snapshots.pdf", *(f"{name}.npz" for name in (*REQUIRED, *OPTIONAL))}

Archives = dict[str, dict[str, np.ndarray]]


def write_folder(
    folder: Path,
    archives: Mapping[str, Mapping[str, np.ndarray]],
    metadata: dict[str, Any],
    *,
    replace: bool,
    draw: Callable[[Path], None] | None = None,
) -> dict[str, Any]:
    """Writes a dataset beside its place and renames it.

    Args:
        folder: where it goes.
        archives: name -> arrays, each written to `<name>.npz`.
        metadata: completed with the schema version, shapes and checksums.
        replace: whether a folder already there is replaced.
        draw: adds pictures to the folder given.

    Returns:
        The completed metadata.

    Raises:
        ValueError: `folder` cannot be written, appeared in the meantime, or is to be replaced and
            holds what is no dataset's.
    """
    move = _replace if replace and folder.exists() else None
    try:
        with made_parents(folder), new_folder(folder, move=move) as new:
            for name, arrays in archives.items():
                write_npz(new / f"{name}.npz", arrays)
            metadata = {
                "schema_version": SCHEMA_VERSION,
                **metadata,
                "shapes": {
                    name: {key: list(np.shape(array)) for key, array in arrays.items()}
                    for name, arrays in archives.items()
                },
                "checksums": {f"{name}.npz": sha256(new / f"{name}.npz") for name in archives},
            }
            if draw is not None:
                draw(new)
            text = json.dumps(metadata, indent=2, allow_nan=False) + "\n"
            write_text(new / METADATA, text)
    except OSError as error:
        if error.errno in (errno.ENOTEMPTY, errno.EEXIST):
            raise ValueError(f"{folder} was made by another process in the meantime") from error
        raise ValueError(f"cannot write {folder}: {error.strerror or error}") from error
    return metadata


def _replace(folder: Path, new: Path) -> None:
    check_replaceable(folder)  # something may have come into it since the work began
    replace_folder(folder, new)


def check_replaceable(folder: Path) -> None:
    """Raises ValueError, naming what is foreign, unless a folder is a dataset and nothing else."""
    if folder.is_symlink() or not is_dataset(folder):
        raise ValueError(
            f"{folder} exists and is not a dataset folder, so --overwrite leaves it alone"
        )
    try:
        metadata = read_json(folder / METADATA)
    except ValueError as error:
        raise ValueError(f"{error}, so --overwrite leaves {folder} alone") from error
    # Damaged, or of a newer release, it is still ours.
    if not (
        isinstance(metadata, dict)
        and type(metadata.get("schema_version")) is int
        and all(isinstance(metadata.get(name), dict) for name in ("arguments", "checksums"))
    ):
        raise ValueError(
            f"{folder / METADATA} is not a dataset's metadata, so --overwrite leaves {folder} alone"
        )
    foreign = sorted(p.name for p in folder.iterdir() if p.name not in _FILES or not p.is_file())
    if foreign:
        raise ValueError(
            f"{folder} also holds {', '.join(foreign[:5])}, which no dataset has, so --overwrite "
            "leaves it alone; move that elsewhere"
        )


def read_metadata(folder: Path) -> dict[str, Any]:
    """The metadata of a dataset folder.

    Raises:
        ValueError: not a dataset folder, damaged metadata, or a newer schema.
    """
    if not (folder / METADATA).exists():
        raise ValueError(f"{folder} is not a dataset folder: it has no {METADATA}")
    metadata = read_json(folder / METADATA)
    version = metadata.get("schema_version") if isinstance(metadata, dict) else None
    if not isinstance(version, int) or isinstance(version, bool) or version < 1:
        raise ValueError(f"{folder / METADATA} is not a dataset's metadata: no schema_version")
    if version > SCHEMA_VERSION:
        raise ValueError(
            f"{folder} has schema version {version}; this release reads up to {SCHEMA_VERSION}"
        )
    try:
        check_metadata(metadata)
    except ValueError as error:
        raise ValueError(f"{folder / METADATA} is damaged: {error}") from error
    return metadata


def check_archives(folder: Path, metadata: dict[str, Any]) -> None:
    """Raises ValueError unless every archive is there with the checksum that was recorded."""
    for name, checksum in metadata["checksums"].items():
        file = folder / name
        if not file.is_file():
            raise ValueError(f"{folder} is incomplete: {name} is missing")
        if sha256(file) != checksum:
            raise ValueError(f"{file} is damaged: its checksum is not the one in {METADATA}")


def read_archives(folder: Path, metadata: dict[str, Any]) -> Archives:
    """The arrays of every archive, checked against the metadata's checksums and shapes.

    Raises:
        ValueError: a missing or damaged archive.
    """
    check_archives(folder, metadata)
    archives: Archives = {}
    for name, shapes in metadata["shapes"].items():
        file = folder / f"{name}.npz"
        try:
            arrays = read_npz(file)
        except ValueError as error:
            raise ValueError(f"{file} cannot be read: {error}") from error
        found = {key: list(array.shape) for key, array in arrays.items()}
        if found != shapes:
            raise ValueError(f"{file} holds {found}, {METADATA} says {shapes}")
        archives[name] = arrays
    return archives
