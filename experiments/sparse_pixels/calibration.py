r"""Whether draws are draws of the posterior: what the error of their means and their spread have to be.

Given the told pixels, an image x and K draws of its posterior are independent and of one law, so that
with the posterior's mean m, in every pixel and whatever the law,

    E |mean of K draws - x|^2 = (1 + 1/K) E |m - x|^2                                                (1)
    P(x lies between the order statistics of K draws at (K + 1) (1 -+ q) / 2) = q                    (2)

By (1) a single draw has twice the squared error of m, the best estimate that there is: it *must* lie
10 log10(2) = 3.0 dB below a perfect regression, and one that does not is too smooth. (2) is exact where
the places are whole numbers; between them the statistics are interpolated. Of draws of any law, with
their mean mu and variance v,

    E |mean of K draws - x|^2 = |mu - x|^2 + v / K                                                   (3)

so that |m - x|^2 is estimated without bias by the error of the mean of all draws less v / K, v being
the variance between them, which needs no truth. No K fulfils (1) by construction. By (3) it holds for
all K where v is that error (`spread_over_error` is 1) and the larger K, the less can be seen of it.
"""

from typing import Any

import numpy as np

from data_generation.images.batches import GRID_STEP
from diffusions.typing import HostArray

LEVELS = (0.5, 0.8, 0.9)
"""Q of (2); a level is left out where the draws are too few for its order statistics."""
ROUNDING = GRID_STEP**2 / 12
"""Of pixels to bytes: a squared error below it counts as it."""


def error_by_draws(draws: HostArray, truth: HostArray, unseen: HostArray) -> list[dict[str, float]]:
    """The squared error of means of K = 1, 2, 4, ... draws beside (1).

    Args:
        draws: (K, n, height, width, channels), K at least 2.
        truth: (n, height, width, channels).
        unseen: bool, of the same shape; what counts.

    Returns:
        Of every K the mean squared error `mse`, that of (1), their `ratio`, its standard error over
        images (0 for one image), and `psnr_unseen`, the mean over images. Means of K draws are taken of
        as many groups as there are.

    Raises:
        ValueError: of a single draw, which has no variance.
    """
    best = _best(draws, truth, unseen)
    floor = max(float(best.mean()), ROUNDING)
    rows = []
    for k in [2**i for i in range(len(draws).bit_length())]:
        groups = draws[: len(draws) // k * k].reshape(-1, k, *draws.shape[1:])
        errors = np.stack(
            [_of_images((group.mean(axis=0) - truth) ** 2, unseen) for group in groups]
        )
        expected = (1 + 1 / k) * floor
        ratio = float(errors.mean() / expected) if errors.any() else 1.0
        # To first order: the numerator and the denominator are of the same images.
        apart = (errors.mean(axis=0) - ratio * (1 + 1 / k) * best) / expected
        error = apart.std(ddof=1) / np.sqrt(len(apart)) if len(apart) > 1 else 0.0
        rows.append(
            {
                "draws": k,
                "mse": float(errors.mean()),
                "expected_mse": expected,
                "ratio": ratio,
                "ratio_standard_error": float(error),
                "psnr_unseen": float((10 * np.log10(4 / np.maximum(errors, ROUNDING))).mean()),
            }
        )
    return rows


def _of_images(values: HostArray, unseen: HostArray) -> HostArray:
    """The mean of every image, over its unseen pixels."""
    axes = (1, 2, 3)
    return np.where(unseen, values, 0.0).sum(axis=axes) / np.maximum(unseen.sum(axis=axes), 1)


def _variance(draws: HostArray, unseen: HostArray) -> HostArray:
    """V of (3), of every image."""
    if len(draws) < 2:
        raise ValueError("a single draw has no variance: calibration needs two draws or more")
    return _of_images(draws.var(axis=0, ddof=1), unseen)


def _best(draws: HostArray, truth: HostArray, unseen: HostArray) -> HostArray:
    """|m - x|^2 of every image by (3); without bias, and so negative where noise is larger."""
    error = _of_images((draws.mean(axis=0) - truth) ** 2, unseen)
    return error - _variance(draws, unseen) / len(draws)


def coverage(draws: HostArray, truth: HostArray, unseen: HostArray) -> dict[float, float]:
    """The share of unseen pixels in the intervals (2), by their level; see `error_by_draws`."""
    found = {}
    for level in LEVELS:
        if (len(draws) + 1) * (1 - level) / 2 < 1:
            continue
        ends = (0.5 - level / 2, 0.5 + level / 2)
        low, high = np.quantile(draws, ends, axis=0, method="weibull")
        found[level] = float(((low <= truth) & (truth <= high))[unseen].mean())
    return found


def calibration(draws: HostArray, truth: HostArray, unseen: HostArray) -> dict[str, Any]:
    """(1) and (2) together, and v of (3) over the error of the mean; see `error_by_draws`."""
    errors = error_by_draws(draws, truth, unseen)
    best = errors[0]["expected_mse"] / 2  # by (1), of one draw
    return {
        "errors": errors,
        "coverage": {
            f"{level:.0%}": share for level, share in coverage(draws, truth, unseen).items()
        },
        "spread_over_error": float(_variance(draws, unseen).mean() / best),
    }
