"""A folder that holds one thing for good: its arrays by Orbax, its description as JSON.

    NAME.json    schema version, the description, checksums of the arrays' files
    arrays/      any pytree of dictionaries of arrays

It is complete or absent, never overwritten, and opened only if it is what was saved.
"""

import hashlib
import json
import math
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from checkpoints.exchange.tensors import read_tensor_description, read_tensors
from checkpoints.orbax_arrays import checkpointer_of_this_process, write_arrays
from checkpoints.place import check_saved, is_tensor_file
from data_generation.formats.bounded_reading import most_unpacked
from data_generation.formats.json_file import read_json
from diffusions.files import kind_of, made_parents, naming, new_folder, write_text
from diffusions.typing import PyTree

_ARRAYS = "arrays"


def _checksums(path: Path) -> dict[str, str]:
    """Of every file of the arrays."""
    found = {}
    for file in _files(path):
        with file.open("rb") as stream:
            checksum = hashlib.file_digest(stream, "sha256").hexdigest()
        found[file.relative_to(path).as_posix()] = checksum
    return found


def _files(path: Path) -> list[Path]:
    return sorted(p for p in (path / _ARRAYS).rglob("*") if p.is_file())


def save_folder(
    path: str | Path, name: str, schema_version: int, description: dict[str, Any], arrays: PyTree
) -> None:
    """Writes a new folder.

    Args:
        path: the folder.
        name: what it holds, such as `energy`; names the JSON file.
        schema_version: of the description.
        description: JSON.
        arrays: dictionaries of arrays, none of them empty.

    Raises:
        ValueError: something is already there.
    """
    path = Path(path).absolute()
    if kind_of(path) is not None:
        raise ValueError(f"{path} already exists; a saved {name} is never overwritten")
    with made_parents(path), new_folder(path) as unfinished:
        with naming(path):
            write_arrays(unfinished / _ARRAYS, jax.tree.map(np.asarray, arrays))
        full = {
            "schema_version": schema_version,
            **description,
            "checksums": _checksums(unfinished),
        }
        write_text(unfinished / f"{name}.json", json.dumps(full, indent=1) + "\n")


def read_description(path: str | Path, name: str, schema_version: int) -> dict[str, Any]:
    """The description in a folder, or in a safetensors file.

    Raises:
        ImportError: it is a safetensors file, and the extra `exchange` is missing.
        ValueError: it holds nothing of that name, it is damaged, or a newer release wrote it.
    """
    path = Path(path).absolute()
    if is_tensor_file(path):
        description = read_tensor_description(path, name)
        _check_version(description, path, path, schema_version)
        return description
    check_saved(path, name)
    file = path / f"{name}.json"
    description = read_json(file)
    if not isinstance(description, dict):
        raise ValueError(f"{file} is damaged: it is no JSON object")
    _check_version(description, file, path, schema_version)
    if not isinstance(description.get("checksums"), dict):
        raise ValueError(f"{file} is damaged: it has no checksums")
    return description


def _check_version(description: dict[str, Any], file: Path, path: Path, newest: int) -> None:
    version = description.get("schema_version")
    if type(version) is not int or version < 1:
        raise ValueError(f"{file} is damaged: its schema_version is {version!r}")
    if version > newest:
        raise ValueError(
            f"{path} has schema version {version}; this release reads up to {newest}: "
            "upgrade jkonet-diffusions"
        )


def read_arrays(path: str | Path, description: dict[str, Any]) -> PyTree:
    """The arrays of a folder, or of a safetensors file, if they are those that were saved.

    Raises:
        ValueError: they are not.
        Exception: whatever Orbax raises of damaged files.
    """
    path = Path(path).absolute()
    if is_tensor_file(path):
        return read_tensors(path)
    # First, because Orbax does not notice every damage, and tells of the others at length.
    if _checksums(path) != description["checksums"]:
        raise ValueError("its arrays are not those that were saved")
    with checkpointer_of_this_process() as checkpointer:
        metadata = checkpointer.metadata(path / _ARRAYS).item_metadata
        # An array that is announced and not there would be made of zeros.
        wanted = sum(math.prod(x.shape) * x.dtype.itemsize for x in jax.tree.leaves(metadata.tree))
        most = most_unpacked(sum(file.stat().st_size for file in _files(path)))
        if wanted > most:
            raise ValueError(f"its arrays would take {wanted} bytes, at most {most} are read")
        template = jax.tree.map(
            lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), metadata.tree
        )
        arrays = checkpointer.restore(path / _ARRAYS, template)
    return jax.tree.map(jnp.asarray, arrays)
