"""NumPy's files, written whole, read without unpickling and without trusting their headers.

    .npy    a header of type and shape, then exactly as many bytes as these make
    .npz    a zip archive of them

The messages do not name the file: the caller does.
"""

import contextlib
import math
import os
import zipfile
import zlib
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import IO, Any

import numpy as np

from data_generation.formats.bounded_reading import MOST_FILE_BYTES, most_unpacked
from diffusions.alignment import aligned_empty
from diffusions.checks import shown
from diffusions.files import naming, new_file

_MAGIC = b"\x93NUMPY"
_PIECE = 1 << 20
_MOST_AXES = 32
_HEADERS: dict[tuple[int, int], Any] = {
    (1, 0): np.lib.format.read_array_header_1_0,
    (2, 0): np.lib.format.read_array_header_2_0,
}
# What zip archives raise of damage, of encryption, and of other compression than NumPy's.
_DAMAGE = (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError, OSError)


def write_npz(file: Path, arrays: Mapping[str, np.ndarray], *, compressed: bool = False) -> None:
    """Writes what `numpy.savez` does, without pickles; an older file is replaced by a whole one.

    Raises:
        ValueError: an array holds Python objects.
        OSError: there is no room, or no permission.
    """
    # Not by NumPy: on a full disk its archive tries again, and complains, when it is collected; and the
    # argument that refuses pickles is younger than NumPy 2.0.
    method = zipfile.ZIP_DEFLATED if compressed else zipfile.ZIP_STORED
    with (
        new_file(file) as temporary,
        naming(file),
        zipfile.ZipFile(temporary, "w", method) as archive,
    ):
        for name, array in arrays.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                np.lib.format.write_array(member, np.asanyarray(array), allow_pickle=False)


def read_npy(file: Path) -> np.ndarray:
    """The array of an .npy file.

    Raises:
        ValueError: it is no such file, is damaged, or holds Python objects.
    """
    with _told(), file.open("rb") as stream:
        return _array(stream, os.fstat(stream.fileno()).st_size)


def npz_names(file: Path) -> list[str]:
    """The names of the arrays of an .npz file.

    Raises:
        ValueError: as `read_npz`.
    """
    with _archive(file) as (_, entries):
        return list(entries)


def read_npz(file: Path, names: Collection[str] | None = None) -> dict[str, np.ndarray]:
    """The arrays of an .npz file.

    Args:
        file: the file.
        names: of those to be read; all when absent.

    Raises:
        ValueError: it is no such file, is damaged, would unpack to more than `most_unpacked`, lacks
            a name, or what is read holds Python objects.
    """
    with _archive(file) as (archive, entries):
        arrays = {}
        for name in entries if names is None else names:
            if name not in entries:
                raise ValueError(f"holds no array {shown(name)}")
            with archive.open(entries[name]) as stream:
                arrays[name] = _array(stream, entries[name].file_size)
        return arrays


@contextlib.contextmanager
def _told() -> Iterator[None]:
    try:
        yield
    except MemoryError:
        raise ValueError("holds more data than memory does") from None
    except _DAMAGE as error:
        reason = getattr(error, "strerror", None) or " ".join(str(error).split())
        raise ValueError(f"damaged or truncated ({reason or type(error).__name__})") from error


@contextlib.contextmanager
def _archive(file: Path) -> Iterator[tuple[zipfile.ZipFile, dict[str, zipfile.ZipInfo]]]:
    with _told(), file.open("rb") as stream:
        if stream.read(2) != b"PK":
            raise ValueError("not a NumPy archive")
        with zipfile.ZipFile(stream) as archive:
            infos = archive.infolist()
            entries = {info.filename.removesuffix(".npy"): info for info in infos}
            if len(entries) < len(infos):
                raise ValueError("damaged: it names an array twice")
            most = most_unpacked(os.fstat(stream.fileno()).st_size)
            if sum(info.file_size for info in infos) > most:
                raise ValueError(f"would unpack to more than {most} bytes")
            yield archive, entries


def _array(stream: IO[bytes], size: int) -> np.ndarray:
    """The array at the start of a stream of so many bytes."""
    if size > MOST_FILE_BYTES:
        raise ValueError(f"has {size} bytes, at most {MOST_FILE_BYTES} are read")
    if stream.read(len(_MAGIC)) != _MAGIC:
        raise ValueError("not a NumPy array file")
    try:
        read_header = _HEADERS[tuple(stream.read(2))]  # type: ignore[index]
        shape, column_major, dtype = read_header(stream)
    except Exception as error:  # the header is a text that Python parses, with whatever that raises
        reason = " ".join(str(error).split())[:120]
        raise ValueError(f"damaged: its header cannot be read ({reason})") from error
    if dtype.hasobject:
        raise ValueError("holds Python objects, which would have to be unpickled")
    if not dtype.itemsize or len(shape) > _MOST_AXES or any(n < 0 for n in shape):
        raise ValueError(f"damaged: its header announces {shown(shape)} of {shown(str(dtype))}")
    wanted, there = math.prod(shape) * dtype.itemsize, size - stream.tell()
    if wanted != there:
        raise ValueError(
            f"damaged or truncated: its header announces {shown(shape)} of {dtype}, which are not "
            f"the {there} bytes that follow"
        )
    flat = aligned_empty((math.prod(shape),), dtype)
    # In pieces: an archive's stream unpacks as much as is asked for before it hands it over.
    content, found = flat.view(np.uint8).data, 0
    while piece := stream.read(min(_PIECE, wanted - found)):
        content[found : found + len(piece)] = piece
        found += len(piece)
    if found != wanted:
        raise ValueError(f"truncated: {found} of {wanted} bytes are there")
    return flat.reshape(shape[::-1]).T if column_major else flat.reshape(shape)
