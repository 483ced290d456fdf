"""Which pixels of an image are told to a network, and which are asked of it. Imports no JAX."""

import dataclasses
from typing import Literal

from diffusions.checks import Count, Share, check_fields

MaskMode = Literal["random_epoch", "random", "fixed"]
MaskPattern = Literal["random", "block", "grid", "random_walk"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class MaskSettings:
    """Two disjoint masks per image.

    Attributes:
        conditioning: fraction of the pixels that the network is told, in [0, 1].
        target: fraction of the pixels, others, that the loss is taken on, in [0, 1]; both together are
            at most 1.
        mask_mode: `random_epoch` keeps an image's masks for an epoch, `random` draws them at every use,
            `fixed` keeps them for good, so that most pixels of an image are never seen.
        mask_pattern: `random` pixels, random square `block`s, a regular `grid` randomly shifted, or the
            path of a `random_walk`.
        block_size: side of a block in pixels.
        per_channel: masks the channels independently instead of whole pixels.
    """

    conditioning: Share = 0.2
    target: Share = 0.2
    mask_mode: MaskMode = "random_epoch"
    mask_pattern: MaskPattern = "random"
    block_size: Count = 4
    per_channel: bool = False

    def __post_init__(self):
        check_fields(self)
        if self.conditioning + self.target > 1 + 1e-9:
            raise ValueError(
                f"conditioning {self.conditioning} and target {self.target} are disjoint, so "
                "together they are at most 1"
            )

    def counts(self, n_pixels: int) -> tuple[int, int]:
        """Pixels of the conditioning mask and of the target mask, rounded down (204 of 1024 at 0.2)."""
        conditioning, target = (
            int(fraction * n_pixels + 1e-6) for fraction in (self.conditioning, self.target)
        )
        return conditioning, min(target, n_pixels - conditioning)
