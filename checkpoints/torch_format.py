"""State dicts of PyTorch as NumPy arrays, without PyTorch and without trusting the file.

    .pth, .pt, .bin   zip archive: `<name>/data.pkl`, a pickled dict of tensors whose bytes are the
                      entries `<name>/data/<key>` (PyTorch 1.6 and newer)
    .safetensors      8 bytes of length, a JSON header of names, types, shapes and places, the bytes

A pickle can call whatever it names. This reader knows the few names that a dict of tensors needs, binds
each to a stand-in of its own, and refuses all others; every size, stride and offset is checked against
the bytes that are there before an array is made. bfloat16, which NumPy lacks, becomes float32.
"""

import collections
import io
import json
import math
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

_BFLOAT16 = "bfloat16"
_STORAGES = {
    "DoubleStorage": "<f8",
    "FloatStorage": "<f4",
    "HalfStorage": "<f2",
    "BFloat16Storage": _BFLOAT16,
    "LongStorage": "<i8",
    "IntStorage": "<i4",
    "ShortStorage": "<i2",
    "CharStorage": "i1",
    "ByteStorage": "u1",
    "BoolStorage": "?",
}
_SAFETENSORS = {
    "F64": "<f8",
    "F32": "<f4",
    "F16": "<f2",
    "BF16": _BFLOAT16,
    "I64": "<i8",
    "I32": "<i4",
    "I16": "<i2",
    "I8": "i1",
    "U8": "u1",
    "BOOL": "?",
}
_WRAPPERS = ("state_dict", "model_state_dict", "model")
_MOST_DESCRIPTION = 100 << 20  # bytes of a pickle or header; those of large networks have one


def read_state_dict(file: str | Path) -> dict[str, np.ndarray]:
    """Reads the tensors of a file in either format; which one, its content says.

    Args:
        file: a state dict, or a dict that holds one as `state_dict`, `model_state_dict` or `model`.

    Returns:
        Name -> array, in the file's order.

    Raises:
        ValueError: the file is missing, damaged, of another format, or holds anything but tensors.
    """
    file = Path(file)
    try:
        content = file.read_bytes()
    except FileNotFoundError:
        raise ValueError(f"no file {file}") from None
    except OSError as error:
        raise ValueError(f"cannot read {file}: {error.strerror or error}") from error
    try:
        if content.startswith(b"PK"):
            return _read_zip(content)
        return _read_safetensors(content)
    except (ValueError, pickle.UnpicklingError, zipfile.BadZipFile) as error:
        reason = " ".join(str(error).split())[:200]
        raise ValueError(f"cannot read the weights in {file}: {reason}") from error


class _StorageType(NamedTuple):
    dtype: str


class _Storage(NamedTuple):
    key: str
    dtype: str
    n_elements: int


class _Tensor(NamedTuple):
    storage: _Storage
    offset: int
    shape: tuple
    strides: tuple


def _rebuild_tensor(storage: Any, offset: Any, shape: Any, strides: Any, *_: Any) -> _Tensor:
    """What torch._utils._rebuild_tensor_v2 is told, checked."""
    numbers = (offset, *shape, *strides)
    if not isinstance(storage, _Storage) or any(type(n) is not int or n < 0 for n in numbers):
        raise pickle.UnpicklingError("a tensor is not described by a storage and whole numbers")
    if len(shape) != len(strides):
        raise pickle.UnpicklingError(f"a tensor has {len(shape)} sizes and {len(strides)} strides")
    last = offset + sum((n - 1) * stride for n, stride in zip(shape, strides, strict=True))
    if math.prod(shape) and last >= storage.n_elements:
        raise pickle.UnpicklingError(
            f"a tensor of shape {shape} does not fit into its storage of {storage.n_elements}"
        )
    return _Tensor(storage, offset, tuple(shape), tuple(strides))


def _rebuild_parameter(tensor: Any, *_: Any) -> Any:
    return tensor


_STAND_INS: dict[tuple[str, str], Any] = {
    # An OrderedDict calls nothing, whatever is stored in it.
    ("collections", "OrderedDict"): collections.OrderedDict,
    ("torch._utils", "_rebuild_tensor_v2"): _rebuild_tensor,
    ("torch._utils", "_rebuild_parameter"): _rebuild_parameter,
    **{("torch", name): _StorageType(dtype) for name, dtype in _STORAGES.items()},
}


class _StateDictUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        try:
            return _STAND_INS[module, name]
        except KeyError:
            raise pickle.UnpicklingError(
                f"it asks for {module}.{name}; a state dict of plain tensors does not"
            ) from None

    def persistent_load(self, description: Any) -> _Storage:
        if isinstance(description, tuple) and len(description) == 5:
            kind, storage_type, key, _, n_elements = description
            if (
                kind == "storage"
                and isinstance(storage_type, _StorageType)
                and isinstance(key, str)
                and type(n_elements) is int
                and n_elements >= 0
            ):
                return _Storage(key, storage_type.dtype, n_elements)
        raise pickle.UnpicklingError("a storage is not described as PyTorch does")


def _read_zip(content: bytes) -> dict[str, np.ndarray]:
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        entries = {info.filename: info for info in archive.infolist()}
        found = [name for name in entries if name.endswith("/data.pkl")]
        if len(found) != 1:
            raise ValueError("it is a zip archive, but none that PyTorch wrote (no data.pkl)")
        prefix = found[0].removesuffix("data.pkl")

        def read(name: str, n_bytes: int) -> bytes:
            info = entries.get(prefix + name)
            # Checked before anything is decompressed.
            if info is None or info.file_size != n_bytes:
                size = "missing" if info is None else f"{info.file_size} bytes"
                raise ValueError(f"its entry {name} is {size}, expected {n_bytes} bytes")
            return archive.read(info)

        if prefix + "byteorder" in entries:
            size = min(entries[prefix + "byteorder"].file_size, len("little"))
            if read("byteorder", size) != b"little":
                raise ValueError("its numbers are not little-endian")
        size = entries[found[0]].file_size
        if size > _MOST_DESCRIPTION:
            raise ValueError(f"its description takes {size} bytes")
        try:
            state = _StateDictUnpickler(io.BytesIO(read("data.pkl", size))).load()
        except pickle.UnpicklingError:
            raise
        except Exception as error:  # whatever a damaged or hostile stream provokes
            raise ValueError(f"its description is damaged: {error}") from error
        storages: dict[str, np.ndarray] = {}

        def array(tensor: _Tensor) -> np.ndarray:
            key, dtype, n_elements = tensor.storage
            if key not in storages:
                n_bytes = n_elements * _item_size(dtype)
                storages[key] = _numbers(read(f"data/{key}", n_bytes), dtype)
            numbers = storages[key]
            if len(numbers) != n_elements:
                raise ValueError(f"its storage {key} is described twice, differently")
            strides = tuple(n * numbers.itemsize for n in tensor.strides)
            view = np.lib.stride_tricks.as_strided(
                numbers[tensor.offset :], tensor.shape, strides, writeable=False
            )
            return np.ascontiguousarray(view).reshape(tensor.shape)

        return _named_arrays(state, array)


def _named_arrays(state: Any, array: Callable[[_Tensor], np.ndarray]) -> dict[str, np.ndarray]:
    if isinstance(state, dict):
        for wrapper in _WRAPPERS:
            if isinstance(state.get(wrapper), dict):
                state = state[wrapper]
                break
    if not isinstance(state, dict) or not state:
        raise ValueError("it holds no state dict")
    for name, value in state.items():
        if not isinstance(name, str) or not isinstance(value, _Tensor):
            raise ValueError(f"its entry {name!r} is no tensor")
    return {name: array(tensor) for name, tensor in state.items()}


def _read_safetensors(content: bytes) -> dict[str, np.ndarray]:
    size = int.from_bytes(content[:8], "little")
    start = 8 + size
    if len(content) < 8 or size > min(_MOST_DESCRIPTION, len(content) - 8):
        raise ValueError(
            "it is neither a zip archive of PyTorch (1.6 or newer) nor a complete safetensors file"
        )
    try:
        header = json.loads(content[8:start])
    except (UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
        raise ValueError(f"its header is damaged: {error}") from error
    if not isinstance(header, dict):
        raise ValueError("its header is no JSON object")
    header.pop("__metadata__", None)
    if not header:
        raise ValueError("it holds no tensors")
    arrays, places = {}, []
    for name, entry in header.items():
        try:
            dtype = _SAFETENSORS[entry["dtype"]]
            shape, (first, end) = tuple(entry["shape"]), entry["data_offsets"]
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"its entry {name!r} is of an unknown type, or damaged") from error
        if any(type(n) is not int or n < 0 for n in (*shape, first, end)):
            raise ValueError(f"its entry {name!r} is not described by whole numbers")
        if end - first != math.prod(shape) * _item_size(dtype) or start + end > len(content):
            raise ValueError(f"its entry {name!r} does not fit: {shape} in bytes {first} to {end}")
        places.append((first, end))
        arrays[name] = _numbers(content[start + first : start + end], dtype).reshape(shape)
    # The format leaves no gaps, and nothing twice: else bytes could hide in it.
    expected = 0
    for first, end in sorted(places):
        if first != expected:
            raise ValueError(f"its bytes from {expected} on are used twice or never")
        expected = end
    if start + expected != len(content):
        raise ValueError(f"{len(content) - start - expected} of its bytes belong to nothing")
    return arrays


def _item_size(dtype: str) -> int:
    return 2 if dtype == _BFLOAT16 else np.dtype(dtype).itemsize


def _numbers(content: bytes, dtype: str) -> np.ndarray:
    if dtype == _BFLOAT16:
        # The upper half of a float32.
        return (np.frombuffer(content, "<u2").astype(np.uint32) << 16).view(np.float32)
    return np.frombuffer(content, dtype)
