"""Labelled images of any dataset behind one interface; on the host, as bytes."""

import dataclasses
import hashlib
from pathlib import Path
from typing import get_args

import numpy as np

from data_generation.images import cifar10, idx
from data_generation.images.cifar10 import Split
from data_generation.images.dataset_names import ImageDataset
from diffusions.short_repr import short_repr

_SYNTHETIC_CLASSES = ("disc", "bar", "square", "cross")
_SYNTHETIC_SIZES = {"train": 4096, "test": 512}


@dataclasses.dataclass(frozen=True, kw_only=True)
class ImageData:
    """A split of a dataset.

    Attributes:
        images: uint8 (n, height, width, channels).
        labels: int32 (n,), below len(classes).
        classes: names of the labels.
    """

    images: np.ndarray
    labels: np.ndarray
    classes: tuple[str, ...]

    __repr__ = short_repr

    def __len__(self) -> int:
        return len(self.images)


def load_images(
    dataset: ImageDataset,
    split: Split = "train",
    *,
    path: str | Path | None = None,
    download: bool = False,
    verify: bool = False,
) -> ImageData:
    """Reads one split of a dataset.

    Args:
        dataset: `cifar10` and `fashion-mnist` are read from files; `synthetic` draws 32 x 32 colour
            images of four shapes (4096 to train, 512 to test), for trying things out without data.
        split: `train` or `test`.
        path: folder of the files.
        download: fetches the official files to `path` where they are not there.
        verify: compares the files with their published checksums.

    Raises:
        ValueError: an unknown name, no path, or files that are missing or damaged.
    """
    if split not in ("train", "test"):
        raise ValueError(f"unknown split {split!r} (accepted: train, test)")
    if dataset == "synthetic":
        # The splits share nothing: each has a stream of its own.
        return synthetic_images(_SYNTHETIC_SIZES[split], seed=("train", "test").index(split))
    accepted = get_args(ImageDataset)
    if dataset not in accepted:
        raise ValueError(f"unknown image dataset {dataset!r} (accepted: {', '.join(accepted)})")
    if path is None:
        raise ValueError(f"{dataset} needs the folder of its files")
    if dataset == "cifar10":
        if download:
            path = cifar10.download_cifar10(path)
        images, labels = cifar10.read_cifar10(path, split, verify=verify)
        classes = cifar10.CLASSES
    else:
        if download:
            path = idx.download_fashion_mnist(path)
        images, labels = idx.read_fashion_mnist(path, split, verify=verify)
        classes = idx.CLASSES
    return ImageData(images=images, labels=labels, classes=classes)


def checksums(**splits: ImageData) -> dict[str, str]:
    """Of the images and labels of splits, by name: what a run learned from."""
    found = {}
    for name, data in splits.items():
        digest = hashlib.sha256(np.ascontiguousarray(data.images).data)
        digest.update(np.ascontiguousarray(data.labels).data)
        found[f"{name} images"] = digest.hexdigest()
    return found


def subset(
    data: ImageData, n: int | None, *, seed: int = 0, classes: tuple[int, ...] = ()
) -> ImageData:
    """A random part of a split, in the split's order.

    Args:
        data: the split.
        n: images to keep; None keeps all.
        seed: of the choice.
        classes: labels to keep; all when empty.

    Raises:
        ValueError: fewer images are there, or a label is unknown.
    """
    unknown = [c for c in classes if not 0 <= c < len(data.classes)]
    if unknown:
        raise ValueError(f"no class {unknown[0]}; there are {len(data.classes)}, counted from 0")
    kept = np.arange(len(data))
    if classes:
        kept = np.flatnonzero(np.isin(data.labels, classes))
    if n is not None:
        if not 1 <= n <= len(kept):
            raise ValueError(f"a subset needs 1 to {len(kept)} images, got {n}")
        kept = np.sort(np.random.default_rng(seed).choice(kept, n, replace=False))
    return ImageData(images=data.images[kept], labels=data.labels[kept], classes=data.classes)


def padded(data: ImageData, multiple: int) -> ImageData:
    """The images with black borders, so that both sides are multiples of `multiple`.

    A U-Net of L levels needs multiples of 2^(L-1): the 28 x 28 of Fashion-MNIST become 32 x 32 for 4.
    """
    borders = [
        ((-side % multiple) // 2, (-side % multiple) - (-side % multiple) // 2)
        for side in data.images.shape[1:3]
    ]
    images = np.pad(data.images, ((0, 0), *borders, (0, 0)))
    return dataclasses.replace(data, images=images)


def synthetic_images(n: int, *, size: int = 32, channels: int = 3, seed: int = 0) -> ImageData:
    """Shapes of random colour, place and size on a shaded background, labelled by the shape.

    Args:
        n: images to draw.
        size: of a side in pixels.
        channels: of an image.
        seed: of every random choice.
    """
    rng = np.random.default_rng(seed)
    labels = rng.integers(len(_SYNTHETIC_CLASSES), size=n)
    rows, columns = (a[None] for a in np.mgrid[:size, :size] / (size - 1))

    def per_image(low: float, high: float, *shape: int) -> np.ndarray:
        return rng.uniform(low, high, (n, *(shape or (1, 1))))

    y, x = rows - per_image(0.3, 0.7), columns - per_image(0.3, 0.7)
    radius, angle = per_image(0.15, 0.3), per_image(0, np.pi)
    along = np.cos(angle) * x + np.sin(angle) * y
    across = np.cos(angle) * y - np.sin(angle) * x
    bar = (abs(along) < 1.3 * radius) & (abs(across) < 0.4 * radius)
    other_bar = (abs(across) < 1.3 * radius) & (abs(along) < 0.4 * radius)
    shapes = np.stack(
        [
            x**2 + y**2 < radius**2,
            bar,
            (abs(along) < 0.8 * radius) & (abs(across) < 0.8 * radius),
            bar | other_bar,
        ]
    )
    inside = shapes[labels, np.arange(n)][..., None]
    shade = 0.5 + per_image(-0.4, 0.4) * (rows - 0.5) + per_image(-0.4, 0.4) * (columns - 0.5)
    background = shade[..., None] * per_image(0.3, 1.0, 1, 1, channels)
    colour = per_image(0.0, 1.0, 1, 1, channels)
    images = np.where(inside, colour, background)
    return ImageData(
        images=np.round(255 * np.clip(images, 0, 1)).astype(np.uint8),
        labels=labels.astype(np.int32),
        classes=_SYNTHETIC_CLASSES,
    )
