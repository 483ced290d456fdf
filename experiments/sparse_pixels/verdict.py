"""What reconstructed images are worth, in words: beside interpolation, regression, their own spread."""

from collections.abc import Mapping
from typing import Any

from diffusions.images.interpolation import INTERPOLATIONS
from diffusions.typing import HostArray
from experiments.run.verdicts import Difference, Verdict

NOT_LEARNED = (*INTERPOLATIONS, "kriging")
_COVERAGE = 0.05
"""A share of pixels that is no further off than this is as it should be."""


def verdict(
    psnr: Mapping[str, HostArray], draws: int, calibrated: Mapping[str, Any] | None
) -> Verdict:
    """The mean of the draws beside the best that learns nothing; whether the draws spread enough.

    Args:
        psnr: of unseen pixels in decibels, by method and image.
        draws: samples of every image.
        calibrated: by `experiments.sparse_pixels.calibration`; None for a single draw.
    """
    own = psnr["sample_mean"]
    best = max(
        (name for name in NOT_LEARNED if name in psnr), key=lambda name: float(psnr[name].mean())
    )
    beside = Difference.of(own - psnr[best])
    learned = "a single sample" if draws == 1 else f"the mean of {draws} samples"
    better = beside.value > 0 and beside.clear()
    told = [
        f"{beside.words('dB')} {best.replace('_', ' ')}, the best that learns nothing"
        + ("" if beside.clear() else " (within chance)")
    ]
    if "regression" in psnr:
        regression = Difference.of(own - psnr["regression"])
        told.append(f"{regression.words('dB')} one-shot regression")
    text = f"{learned} has a PSNR of {own.mean():.3g} dB on unseen pixels, {', and '.join(told)}"
    if not better:
        text = f"no better than {best.replace('_', ' ')}: {text}"
    return Verdict("; ".join([text, *_spread(calibrated)]), beaten=not better)


def _spread(calibrated: Mapping[str, Any] | None) -> list[str]:
    """The coverage of the widest interval that the draws allow, and what it says of them."""
    if not calibrated or not calibrated["coverage"]:
        return []
    level, share = list(calibrated["coverage"].items())[-1]
    away = share - float(level.removesuffix("%")) / 100
    kind = "too narrow" if away < -_COVERAGE else "too wide" if away > _COVERAGE else "calibrated"
    return [f"the draws' {level} intervals hold {share:.0%} of those pixels ({kind})"]
