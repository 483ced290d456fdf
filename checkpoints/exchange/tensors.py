"""A model in one file that every framework reads: safetensors.

The names of the arrays are their places in the tree, `params/potential/params/Dense_0/kernel`. What is
told of the model stands in the file's own metadata, as text:

    kind          energy or network
    description   the JSON that a folder has in energy.json or network.json
    sha256        of all arrays: the format itself notices no damage
"""

import hashlib
import importlib
import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from checkpoints.place import TENSORS, is_tensor_file
from diffusions.files import kind_of, made_parents, write_bytes
from diffusions.late_imports import import_extra
from diffusions.typing import PyTree

_BETWEEN = "/"
_NEEDED_FOR = "a safetensors file"


def save_tensors(path: str | Path, kind: str, description: dict[str, Any], arrays: PyTree) -> None:
    """Writes a new file.

    Args:
        path: the file, `.safetensors`.
        kind: energy or network.
        description: JSON, with its `schema_version`.
        arrays: dictionaries of arrays, none of them empty.

    Raises:
        ImportError: the extra `exchange` is missing.
        ValueError: something is already there, or the file has another ending.
    """
    numpy = _numpy()
    path = Path(path).absolute()
    if not is_tensor_file(path):
        raise ValueError(f"{path} does not end in {TENSORS}")
    if kind_of(path) is not None:
        raise ValueError(f"{path} already exists; a saved {kind} is never overwritten")
    named = _named(arrays)
    told = {
        "kind": kind,
        "description": json.dumps(description),
        "sha256": _checksum(named),
    }
    with made_parents(path):
        write_bytes(path, numpy.save(named, metadata=told))


def read_tensor_description(path: str | Path, kind: str) -> dict[str, Any]:
    """What is told of the model in a file.

    Raises:
        ImportError: the extra `exchange` is missing.
        ValueError: the file is missing, is damaged, or holds another kind of model.
    """
    told = _metadata(Path(path))
    if told.get("kind") != kind:
        known = f"a saved {told['kind']}" if "kind" in told else "weights of another project"
        raise ValueError(f"{path} holds no saved {kind} but {known}")
    try:
        description = json.loads(told["description"])
    except (KeyError, ValueError) as error:
        raise ValueError(f"{path} is damaged: its description is no JSON ({error})") from error
    if not isinstance(description, dict):
        raise ValueError(f"{path} is damaged: its description is no JSON object")
    return description


def read_tensors(path: str | Path) -> PyTree:
    """The arrays of a file, on the device, if they are those that were saved.

    Raises:
        ImportError: the extra `exchange` is missing.
        ValueError: they are not, or the file is damaged.
    """
    numpy = _numpy()
    told = _metadata(Path(path))
    try:
        named = numpy.load(Path(path).read_bytes())
    except Exception as error:
        raise ValueError(f"{path} is damaged: {error}") from error
    if told.get("sha256") != _checksum(named):
        raise ValueError("its arrays are not those that were saved")
    return jax.tree.map(jnp.asarray, unflatten_dict(named, sep=_BETWEEN))


def _numpy() -> Any:
    import_extra("safetensors", _NEEDED_FOR)
    return importlib.import_module("safetensors.numpy")


def _metadata(path: Path) -> dict[str, str]:
    safetensors = import_extra("safetensors", _NEEDED_FOR)
    if not path.is_file():
        raise ValueError(f"{path} is not there")
    try:
        with safetensors.safe_open(path, framework="numpy") as file:
            return file.metadata() or {}
    except Exception as error:
        raise ValueError(f"{path} is no complete safetensors file: {error}") from error


def _named(arrays: PyTree) -> dict[str, np.ndarray]:
    flat = flatten_dict(arrays, sep=_BETWEEN)
    return {name: np.asarray(flat[name], order="C") for name in sorted(flat)}


def _checksum(named: dict[str, np.ndarray]) -> str:
    found = hashlib.sha256()
    for name in sorted(named):
        array = named[name]
        found.update(f"{name} {array.dtype} {array.shape}\n".encode())
        found.update(array.tobytes())
    return found.hexdigest()
