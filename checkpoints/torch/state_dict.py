"""State dicts of PyTorch as NumPy arrays, without PyTorch and without trusting the file.

    .pth, .pt, .bin   zip archive: `<name>/data.pkl`, a pickled dict of tensors whose bytes are the
                      entries `<name>/data/<key>` (PyTorch 1.6 and newer)
    .safetensors      8 bytes of length, a JSON header of names, types, shapes and places, the bytes

A pickle can call whatever it names. `data_generation.formats.pickle_reading` executes nothing; it is
told the few names that a dict of tensors needs, and a stand-in for each. Every size, stride and offset
is checked against the bytes that are there, and the arrays together against `most_unpacked`, before one
is made. bfloat16, which NumPy lacks, becomes float32.
"""

import io
import math
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from data_generation.formats.bounded_reading import MOST_FILE_BYTES, most_unpacked
from data_generation.formats.json_file import parse_json, read_bytes
from data_generation.formats.pickle_reading import read_pickle
from diffusions.checks import shown

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
_MOST_DESCRIPTION = 16 << 20  # bytes of a pickle or header; those of the largest networks have one
_MOST_NUMBER = 2**48  # of any size, stride or offset: beyond all memory, and safe to calculate with
_MOST_AXES = 32
# RuntimeError and NotImplementedError: encrypted, or compressed by other means.
_DAMAGE = (ValueError, zipfile.BadZipFile, zlib.error, EOFError, RuntimeError)


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
    content = read_bytes(file, MOST_FILE_BYTES)
    try:
        if content.startswith(b"PK"):
            return _read_zip(content)
        return _read_safetensors(content)
    except _DAMAGE as error:
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
    if not isinstance(shape, tuple) or not isinstance(strides, tuple):
        raise ValueError("a tensor's sizes and strides are no tuples")
    if len(shape) != len(strides) or len(shape) > _MOST_AXES:
        raise ValueError(f"a tensor has {len(shape)} sizes and {len(strides)} strides")
    numbers = (offset, *shape, *strides)
    if not isinstance(storage, _Storage) or any(
        type(n) is not int or not 0 <= n <= _MOST_NUMBER for n in numbers
    ):
        raise ValueError("a tensor is not described by a storage and whole numbers")
    last = offset + sum((n - 1) * stride for n, stride in zip(shape, strides, strict=True))
    if math.prod(shape) and last >= storage.n_elements:
        raise ValueError(
            f"a tensor of shape {shape} does not fit into its storage of {storage.n_elements}"
        )
    return _Tensor(storage, offset, shape, strides)


def _rebuild_parameter(tensor: Any, *_: Any) -> Any:
    return tensor


def _ordered() -> dict[str, Any]:
    # Its items come afterwards, one by one.
    return {}


_STAND_INS: dict[tuple[str, str], Any] = {
    ("collections", "OrderedDict"): _ordered,
    ("torch._utils", "_rebuild_tensor_v2"): _rebuild_tensor,
    ("torch._utils", "_rebuild_parameter"): _rebuild_parameter,
    **{("torch", name): _StorageType(dtype) for name, dtype in _STORAGES.items()},
}


def _storage(description: Any) -> _Storage:
    """What PyTorch says of the bytes behind a tensor, checked."""
    if isinstance(description, tuple) and len(description) == 5:
        kind, storage_type, key, _, n_elements = description
        if (
            kind == "storage"
            and isinstance(storage_type, _StorageType)
            and isinstance(key, str)
            and type(n_elements) is int
            and 0 <= n_elements <= _MOST_NUMBER
        ):
            return _Storage(key, storage_type.dtype, n_elements)
    raise ValueError("a storage is not described as PyTorch does")


def _read_zip(content: bytes) -> dict[str, np.ndarray]:
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        entries = {info.filename: info for info in archive.infolist()}
        most = most_unpacked(len(content))
        if sum(info.file_size for info in entries.values()) > most:
            raise ValueError(f"it would unpack to more than {most} bytes")
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
            # By the number: without one, an entry unpacks to whatever it holds.
            with archive.open(info) as stream:
                return stream.read(n_bytes)

        if prefix + "byteorder" in entries:
            size = min(entries[prefix + "byteorder"].file_size, len("little"))
            if read("byteorder", size) != b"little":
                raise ValueError("its numbers are not little-endian")
        size = entries[found[0]].file_size
        if size > _MOST_DESCRIPTION:
            raise ValueError(f"its description takes {size} bytes")
        state = read_pickle(read("data.pkl", size), _STAND_INS, persistent=_storage)
        storages: dict[str, np.ndarray] = {}

        def array(tensor: _Tensor) -> np.ndarray:
            key, dtype, n_elements = tensor.storage
            if key not in storages:
                n_bytes = n_elements * _item_size(dtype)
                storages[key] = _numbers(read(f"data/{key}", n_bytes), dtype)
            numbers = storages[key]
            if len(numbers) != n_elements:
                raise ValueError(f"its storage {key} is described twice, differently")
            strides = tuple(
                stride * numbers.itemsize if n > 1 else 0
                for n, stride in zip(tensor.shape, tensor.strides, strict=True)
            )
            view = np.lib.stride_tricks.as_strided(
                numbers[tensor.offset :], tensor.shape, strides, writeable=False
            )
            return np.ascontiguousarray(view).reshape(tensor.shape)

        return _named_arrays(state, array, most)


def _named_arrays(
    state: Any, array: Callable[[_Tensor], np.ndarray], most_bytes: int
) -> dict[str, np.ndarray]:
    if isinstance(state, dict):
        for wrapper in _WRAPPERS:
            if isinstance(state.get(wrapper), dict):
                state = state[wrapper]
                break
    if not isinstance(state, dict) or not state:
        raise ValueError("it holds no state dict")
    for name, value in state.items():
        if not isinstance(name, str) or not isinstance(value, _Tensor):
            raise ValueError(f"its entry {shown(name)} is no tensor")
    # A stride of 0 makes one number any number of numbers.
    total = sum(math.prod(t.shape) * _item_size(t.storage.dtype) for t in state.values())
    if total > most_bytes:
        raise ValueError(f"its tensors would take {total} bytes, at most {most_bytes} are read")
    return {name: array(tensor) for name, tensor in state.items()}


def _read_safetensors(content: bytes) -> dict[str, np.ndarray]:
    size = int.from_bytes(content[:8], "little")
    start = 8 + size
    if len(content) < 8 or size > min(_MOST_DESCRIPTION, len(content) - 8):
        raise ValueError(
            "it is neither a zip archive of PyTorch (1.6 or newer) nor a complete safetensors file"
        )
    try:
        header = parse_json(content[8:start])
    except ValueError as error:
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
            raise ValueError(
                f"its entry {shown(name)} is of an unknown type, or damaged"
            ) from error
        numbers = (*shape, first, end)
        if len(shape) > _MOST_AXES or any(
            type(n) is not int or not 0 <= n <= _MOST_NUMBER for n in numbers
        ):
            raise ValueError(f"its entry {shown(name)} is not described by whole numbers")
        if end - first != math.prod(shape) * _item_size(dtype) or start + end > len(content):
            raise ValueError(
                f"its entry {shown(name)} does not fit: {shape} in bytes {first} to {end}"
            )
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
