"""What reconstructed images are worth, in words: beside interpolation, regression, their own spread."""

from collections.abc import Mapping
from typing import Any

from diffusions.images.interpolation import INTERPOLATIONS
from diffusions.typing import HostArray
from experiments.run.verdicts import Difference, Verdict, not_finite

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
    learned = "a single sample" if draws == 1 else f"the mean of {draws} samples"
    has = f"{learned} has a PSNR of {own.mean():.3g} dB on unseen pixels"
    if failed := not_finite(has, own):
        return failed
    best = max(
        (name for name in NOT_LEARNED if name in psnr), key=lambda name: float(psnr[name].mean())
    )
    beside, rival = Difference.of(own - psnr[best]), best.replace("_", " ")
    told = [beside.beside(f"{rival}, the best that learns nothing", "dB")]
    if "regression" in psnr:
        told.append(Difference.of(own - psnr["regression"]).beside("one-shot regression", "dB"))
    begin = f"no better than {rival}: " if beside.side() in (-1, 0) else ""
    text = f"{begin}{has}, {', and '.join(told)}"
    return Verdict("; ".join([text, *_spread(calibrated)]), beaten=beside.side() == -1)


def _spread(calibrated: Mapping[str, Any] | None) -> list[str]:
    """The coverage of the widest interval that the draws allow, and what it says of them."""
    if not calibrated or not calibrated["coverage"]:
        return []
    level, share = list(calibrated["coverage"].items())[-1]
    away = share - float(level.removesuffix("%")) / 100
    kind = "too narrow" if away < -_COVERAGE else "too wide" if away > _COVERAGE else "calibrated"
    return [f"the draws' {level} intervals hold {share:.0%} of those pixels ({kind})"]
