"""Image datasets as idx files, the layout of MNIST and Fashion-MNIST (Xiao, Rasul, Vollgraf 2017).

    idx file    0, 0, type (8: unsigned byte), number of axes; one big-endian uint32 per axis; the bytes

Each split is a pair of files, `<split>-images-idx3-ubyte` and `<split>-labels-idx1-ubyte`, plain or
compressed (.gz).
"""

import gzip
import math
import struct
import zlib
from pathlib import Path
from typing import BinaryIO

import numpy as np

from data_generation.formats.bounded_reading import most_unpacked
from data_generation.images.cifar10 import Split
from data_generation.images.dataset_names import check_image_folder
from data_generation.images.downloads import check_md5, download

CLASSES = (
    "T-shirt/top",
    "trouser",
    "pullover",
    "dress",
    "coat",
    "sandal",
    "shirt",
    "sneaker",
    "bag",
    "ankle boot",
)

# The authors' own repository; their other address has no encryption.
URL = "https://raw.githubusercontent.com/zalandoresearch/fashion-mnist/master/data/fashion"

_STEMS = {"train": "train", "test": "t10k"}
_UNSIGNED_BYTE = 8
_MOST_AXES = 32
_MD5 = {
    "train-images-idx3-ubyte.gz": "8d4fb7e6c68d591d4c3dfef9ec88bf0d",
    "train-labels-idx1-ubyte.gz": "25c81989df183df01b3e8a0aad5dffbe",
    "t10k-images-idx3-ubyte.gz": "bef4ecab320f06d8554ea6380940ec79",
    "t10k-labels-idx1-ubyte.gz": "bb300cfdad3c16e7a12a480ee83cd310",
}


def read_idx(file: str | Path) -> np.ndarray:
    """Reads one idx file of unsigned bytes.

    Args:
        file: compressed where its name ends in .gz.

    Returns:
        The array, uint8, of as many axes as the file says.

    Raises:
        ValueError: the file is missing, truncated, damaged, or no idx file of bytes.
    """
    file = Path(file)
    if not file.exists():
        raise ValueError(f"no file {file}")
    if not file.is_file():  # a pipe would be waited for, and a device may have no end
        raise ValueError(f"{file} is not a file")
    try:
        with gzip.open(file) if file.suffix == ".gz" else file.open("rb") as stream:
            return _array(stream, file.stat().st_size)
    except (OSError, EOFError, zlib.error) as error:
        raise ValueError(f"cannot read {file}: {error}") from error
    except ValueError as error:
        raise ValueError(f"{file} {error}") from error


def _array(stream: BinaryIO | gzip.GzipFile, packed_bytes: int) -> np.ndarray:
    """The array of a stream, which is unpacked as far as its header says, and no further."""
    start = stream.read(4)
    if len(start) < 4 or start[:2] != b"\0\0":
        raise ValueError("is no idx file")
    kind, n_axes = start[2], start[3]
    if kind != _UNSIGNED_BYTE:
        raise ValueError(f"holds idx type {kind}, not unsigned bytes ({_UNSIGNED_BYTE})")
    axes = stream.read(4 * n_axes)
    if not 0 < n_axes <= _MOST_AXES or len(axes) < 4 * n_axes:
        raise ValueError(f"is truncated or damaged: its header says {n_axes} axes")
    shape = struct.unpack(f">{n_axes}I", axes)
    wanted = math.prod(shape)
    most = most_unpacked(packed_bytes)
    if wanted > most:
        raise ValueError(
            f"is damaged: shape {shape} would take {wanted} bytes, at most {most} are read"
        )
    content = stream.read(wanted + 1)
    if len(content) != wanted:
        there = f"{len(content)} bytes" if len(content) < wanted else "more bytes"
        raise ValueError(f"is truncated or damaged: {there} for shape {shape}")
    return np.frombuffer(content, np.uint8).reshape(shape)


def read_fashion_mnist(
    folder: str | Path, split: Split = "train", *, verify: bool = False
) -> tuple[np.ndarray, np.ndarray]:
    """Reads one split of Fashion-MNIST, or of whatever has its file names (MNIST).

    Args:
        folder: of the four files, each plain or .gz.
        split: `train` or `test`.
        verify: compares the compressed files with their published MD5 sums.

    Returns:
        Images, uint8 (n, height, width, 1), and labels, int32 (n,), in the files' order.

    Raises:
        ValueError: a file is missing, truncated, damaged, or holds something else.
    """
    arrays = []
    for content, n_axes in (("images", 3), ("labels", 1)):
        file = _file(Path(folder), f"{_STEMS[split]}-{content}-idx{n_axes}-ubyte")
        if verify:
            if file.name not in _MD5:
                raise ValueError(f"{file}: checksums are published of the .gz files only")
            check_md5(file, _MD5[file.name])
        array = read_idx(file)
        if array.ndim != n_axes:
            raise ValueError(f"{file} has {array.ndim} axes, expected {n_axes}")
        arrays.append(array)
    images, labels = arrays
    if len(images) != len(labels) or not len(images):
        raise ValueError(f"{folder}: {len(images)} images and {len(labels)} labels ({split})")
    if labels.max() >= len(CLASSES):
        raise ValueError(f"{folder}: label {labels.max()}, expected 0 to {len(CLASSES) - 1}")
    return images[..., None], labels.astype(np.int32)


def _file(folder: Path, stem: str) -> Path:
    check_image_folder("fashion-mnist", folder)
    for name in (f"{stem}.gz", stem):
        if (folder / name).is_file():
            return folder / name
    raise ValueError(f"{folder} is incomplete: neither {stem}.gz nor {stem} is there")


def download_fashion_mnist(folder: str | Path, *, url: str = URL) -> Path:
    """Fetches the four official files; those that are there with the right checksum are kept.

    Raises:
        ValueError: the network refuses, or delivers something else.
    """
    folder = Path(folder)
    for name, checksum in _MD5.items():
        file = folder / name
        if file.is_file():
            check_md5(file, checksum)
        else:
            download(f"{url}/{name}", file, checksum)
    return folder
