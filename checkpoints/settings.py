"""What an import of weights needs to be told. Imports no JAX."""

import dataclasses
from typing import Literal

from diffusions.checks import Count, PathText, check_fields

ImportKind = Literal["message-passing", "ddpm-unet"]

_PUBLISHED_N, _PUBLISHED_K = 350, 20


@dataclasses.dataclass(frozen=True, kw_only=True)
class ImportSettings:
    """One import.

    Attributes:
        kind: `message-passing` is the denoiser of sparse rank-one matrices; `ddpm-unet` the U-Net of
            DDPM, as the diffusers library saves it.
        weights: state dict to read (.pth, .pt, .bin of PyTorch 1.6 or newer, or .safetensors).
        out: folder to write; it must not exist.
        n: dimension that message-passing weights were trained for (350 when absent).
        k: non-zero entries that they were trained for (20 when absent).
    """

    kind: ImportKind | None = None
    weights: str | None = None
    out: PathText | None = None
    n: Count | None = None
    k: Count | None = None

    def __post_init__(self):
        for name in ("kind", "weights", "out"):
            if not getattr(self, name):
                raise ValueError(f"--{name} is missing")
        check_fields(self)
        for name in ("n", "k"):
            if getattr(self, name) is not None and self.kind != "message-passing":
                raise ValueError(f"--{name} needs --kind=message-passing")

    @property
    def problem(self) -> tuple[int, int]:
        """The n and k of message-passing weights."""
        n = _PUBLISHED_N if self.n is None else self.n
        return n, _PUBLISHED_K if self.k is None else self.k
