"""CIFAR-10 from its official files (Krizhevsky 2009), in either layout.

    cifar-10-batches-bin/   data_batch_1.bin ... data_batch_5.bin, test_batch.bin: records of one label
                            byte and 1024 red, 1024 green, 1024 blue bytes, each plane row by row
    cifar-10-batches-py/    data_batch_1 ... data_batch_5, test_batch: pickled dicts of `data`, uint8
                            (n, 3072) in the same order, and `labels`

The pickles are read by `pickle_reading`, which knows nothing but the names they contain, each bound
to a stand-in of this module: whatever else a file asks for is refused, and NumPy sees only checked
bytes.
"""

import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import numpy as np

from data_generation.formats.json_file import read_bytes
from data_generation.formats.pickle_reading import read_pickle
from data_generation.images.dataset_names import CIFAR10_FOLDERS, check_image_folder
from data_generation.images.downloads import check_md5, download
from diffusions.checks import shown
from diffusions.files import new_folder

Split = Literal["train", "test"]

CLASSES = (
    "airplane",
    "automobile",
    "bird",
    "cat",
    "deer",
    "dog",
    "frog",
    "horse",
    "ship",
    "truck",
)
SIZE, CHANNELS = 32, 3
RECORDS_PER_FILE = 10_000
MOST_BATCH_BYTES = 256 << 20
"""Of one file; the official ones have 31 million."""

ARCHIVE_URL = "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz"
ARCHIVE_MD5 = "c32a1d4ab5d03f1284b67883e8d87530"

_PIXELS = SIZE * SIZE * CHANNELS
_STEMS = {"train": tuple(f"data_batch_{i}" for i in range(1, 6)), "test": ("test_batch",)}
_MD5 = {
    "data_batch_1.bin": "5dd7e06a14cb22eb9f671a540d1b7c25",
    "data_batch_2.bin": "5ea93a67294ea407fff1d09f752e9692",
    "data_batch_3.bin": "942cd6a4bcdd0dd3c604fbe906cb4421",
    "data_batch_4.bin": "ae636b3ba5c66a11e91e8cb52e771fcb",
    "data_batch_5.bin": "53f37980c15c3d472c316c40844f3f0d",
    "test_batch.bin": "803d5f7f4d78ea53de84dbe85f74fb6d",
    "data_batch_1": "c99cafc152244af753f735de768cd75f",
    "data_batch_2": "d4bba439e000b95fd0a9bffe97cbabec",
    "data_batch_3": "54ebc095f3ab1f0389bbae665268c751",
    "data_batch_4": "634d18415352ddfa80567beed471001a",
    "data_batch_5": "482c414d41f54cd18b22e5b47cb7c3cb",
    "test_batch": "40351d587109b95175f43aff81a1287e",
}


def read_cifar10(
    folder: str | Path,
    split: Split = "train",
    *,
    verify: bool = False,
    records: int | None = RECORDS_PER_FILE,
) -> tuple[np.ndarray, np.ndarray]:
    """Reads one split.

    Args:
        folder: the folder of the batches, of either layout, or its parent.
        split: `train` (five files) or `test` (one).
        verify: compares every file with its published MD5 sum.
        records: that each file must hold; None takes any number.

    Returns:
        Images, uint8 (n, 32, 32, 3), and labels, int32 (n,), in the files' order.

    Raises:
        ValueError: a file is missing, truncated, damaged, or no CIFAR-10 batch.
    """
    images, labels = [], []
    for file in _files(Path(folder), split):
        if verify:
            check_md5(file, _MD5[file.name])
        read = _read_binary if file.suffix == ".bin" else _read_pickle
        planes, label = read(file)
        if records is not None and len(planes) != records:
            raise ValueError(
                f"{file} is truncated or foreign: {len(planes)} images, expected {records}"
            )
        # Before NumPy sees them: a pickled number may have any size.
        foreign = next((found for found in label if not 0 <= found < len(CLASSES)), None)
        if foreign is not None:
            raise ValueError(
                f"{file} is no CIFAR-10 batch: label {shown(foreign)}, expected 0 to "
                f"{len(CLASSES) - 1}"
            )
        images.append(planes.reshape(-1, CHANNELS, SIZE, SIZE).transpose(0, 2, 3, 1))
        labels.append(np.asarray(label, np.int32))
    return np.ascontiguousarray(np.concatenate(images)), np.concatenate(labels)


def _files(folder: Path, split: Split) -> list[Path]:
    """The split's files, in order, of whichever layout is there."""
    check_image_folder("cifar10", folder)
    stems = _STEMS[split]
    places = [folder, *(folder / name for name in CIFAR10_FOLDERS)]
    for place in places:
        for suffix in (".bin", ""):
            files = [place / f"{stem}{suffix}" for stem in stems]
            found = [file for file in files if file.is_file()]
            if len(found) == len(files):
                return files
            if found:
                missing = next(file for file in files if file not in found)
                raise ValueError(f"{place} is incomplete: {missing.name} is missing")
    raise ValueError(
        f"{folder} holds no CIFAR-10: expected {stems[0]}.bin (binary layout) or {stems[0]} "
        f"(Python layout), there or in {' or '.join(CIFAR10_FOLDERS)}"
    )


def _read_binary(file: Path) -> tuple[np.ndarray, list[int]]:
    content, record = read_bytes(file, MOST_BATCH_BYTES), 1 + _PIXELS
    if not content or len(content) % record:
        raise ValueError(
            f"{file} is truncated or foreign: {len(content)} bytes are no whole number of records "
            f"of {record} bytes"
        )
    records = np.frombuffer(content, np.uint8).reshape(-1, record)
    return records[:, 1:], records[:, 0].tolist()


def _read_pickle(file: Path) -> tuple[np.ndarray, list[int]]:
    content = read_bytes(file, MOST_BATCH_BYTES)
    try:
        batch = read_pickle(content, _STAND_INS)
    except ValueError as error:
        reason = " ".join(str(error).split())[:120]
        raise ValueError(f"{file} is no CIFAR-10 batch, or damaged: {reason}") from error
    if not isinstance(batch, dict):
        raise ValueError(f"{file} is no CIFAR-10 batch: it holds no dict")
    batch = {k.decode("latin-1") if isinstance(k, bytes) else k: v for k, v in batch.items()}
    data, labels = batch.get("data"), batch.get("labels")
    if not isinstance(data, _PickledArray) or not isinstance(labels, list):
        raise ValueError(f"{file} is no CIFAR-10 batch: `data` and `labels` are not both there")
    planes = data.as_bytes_array(file)
    # Also bool is an int, and no label.
    if len(labels) != len(planes) or any(type(label) is not int for label in labels):
        raise ValueError(f"{file} is damaged: {len(labels)} labels for {len(planes)} images")
    return planes, labels


class _PickledArray:
    """What a pickle says about an array, without making it one."""

    def __init__(self, *_: Any):
        self.state: tuple = ()

    def describe(self, state: Any) -> None:
        """The five parts by which NumPy describes an array."""
        self.state = state if isinstance(state, tuple) else ()

    def as_bytes_array(self, file: Path) -> np.ndarray:
        """The array (n, 3072), after every part of its description is checked."""
        if len(self.state) == 5:
            _, shape, dtype, column_major, content = self.state
            if (
                isinstance(shape, tuple)
                and len(shape) == 2
                and shape[0] > 0
                and shape[1] == _PIXELS
                and isinstance(dtype, _PickledType)
                and dtype.code in (b"u1", "u1")
                and not column_major
                and isinstance(content, bytes)
                and len(content) == shape[0] * shape[1]
            ):
                return np.frombuffer(content, np.uint8).reshape(shape)
        raise ValueError(
            f"{file} is no CIFAR-10 batch: `data` is not uint8 of shape (n, {_PIXELS})"
        )


class _PickledType:
    """What a pickle says about an array's type."""

    def __init__(self, code: Any = None, *_: Any):
        self.code = code

    def describe(self, state: Any) -> None:
        """Byte order and alignment mean nothing for single bytes."""


def _latin1(text: Any, codec: Any) -> bytes:
    # How Python 3 spells bytes in a pickle that Python 2 can read.
    if not isinstance(text, str) or codec not in ("latin1", b"latin1"):
        raise ValueError("it encodes what is no text in Latin-1")
    return text.encode("latin-1")


def _no_bytes() -> bytes:
    # The same, of none; with an argument, `bytes` would make any number of zeros.
    return b""


_STAND_INS: dict[tuple[str, str], Callable] = {
    ("numpy.core.multiarray", "_reconstruct"): _PickledArray,
    ("numpy._core.multiarray", "_reconstruct"): _PickledArray,
    ("numpy", "ndarray"): _PickledArray,
    ("numpy", "dtype"): _PickledType,
    ("_codecs", "encode"): _latin1,
    ("__builtin__", "bytes"): _no_bytes,
}


def download_cifar10(
    parent: str | Path, *, url: str = ARCHIVE_URL, archive_md5: str = ARCHIVE_MD5
) -> Path:
    """Fetches the official binary archive and keeps its six batches.

    Args:
        parent: folder that receives `cifar-10-batches-bin`; nothing is fetched where that exists.
        url: of the archive.
        archive_md5: its published checksum.

    Returns:
        The folder of the batches.

    Raises:
        ValueError: the network refuses, or delivers something else.
    """
    parent = Path(parent)
    folder = parent / CIFAR10_FOLDERS[0]
    if folder.exists():
        return folder
    parent.mkdir(parents=True, exist_ok=True)
    with new_folder(folder) as unfinished:
        archive = unfinished / Path(url).name
        download(url, archive, archive_md5)
        with tarfile.open(archive) as members:
            for stem in (*_STEMS["train"], *_STEMS["test"]):
                # Read by name: no path of the archive decides where a file goes.
                try:
                    source = members.extractfile(f"{folder.name}/{stem}.bin")
                except KeyError:
                    source = None
                if source is None:
                    raise ValueError(f"{url} holds no {stem}.bin")
                if members.getmember(f"{folder.name}/{stem}.bin").size > MOST_BATCH_BYTES:
                    raise ValueError(
                        f"{url} holds a {stem}.bin of more than {MOST_BATCH_BYTES} bytes"
                    )
                with (unfinished / f"{stem}.bin").open("wb") as target:
                    shutil.copyfileobj(source, target)
        archive.unlink()
    return folder
