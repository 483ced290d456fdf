"""Names of the image datasets that `datasets` reads. Imports no JAX."""

from typing import Literal

ImageDataset = Literal["cifar10", "fashion-mnist", "synthetic"]
