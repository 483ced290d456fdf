"""Names of the image datasets that `datasets` reads, and where they are. Imports no JAX."""

from pathlib import Path
from typing import Literal

ImageDataset = Literal["cifar10", "fashion-mnist", "synthetic"]

CIFAR10_FOLDERS = ("cifar-10-batches-bin", "cifar-10-batches-py")
"""Of the binary and of the Python layout, as the archives hold them."""

_READ_FROM = {
    "cifar10": f"CIFAR-10 is read from {' or '.join(CIFAR10_FOLDERS)}",
    "fashion-mnist": "Fashion-MNIST is read from a folder of idx files",
}


def check_image_folder(dataset: ImageDataset, folder: str | Path) -> None:
    """Raises ValueError unless the folder of a dataset's files is there."""
    if not Path(folder).is_dir():
        raise ValueError(f"no folder {Path(folder)}; {_READ_FROM[dataset]}")
