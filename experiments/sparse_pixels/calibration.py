r"""Whether draws are draws of the posterior: what the error of their means and their spread have to be.

Given the told pixels, an image x and K draws of its posterior are independent and of one law, so that
with the posterior's mean m, in every pixel and whatever the law,

    E |mean of K draws - x|^2 = (1 + 1/K) E |m - x|^2                                                (1)
    P(x lies between the order statistics of K draws at (K + 1) (1 -+ q) / 2) = q                    (2)

By (1) a single draw has twice the squared error of m, the best estimate that there is: it *must* lie
10 log10(2) = 3.0 dB below a perfect regression, and one that does not is too smooth. (2) is exact where
the places are whole numbers; between them the statistics are interpolated. E |m - x|^2 is estimated by
the error of the mean of all draws over its factor in (1), so that the ratios say whether the error
falls as it has to, and by the variance between the draws, which needs no truth.
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
        draws: (K, n, height, width, channels).
        truth: (n, height, width, channels).
        unseen: bool, of the same shape; what counts.

    Returns:
        Of every K the mean squared error `mse`, that of (1), their `ratio`, and `psnr_unseen`, the mean
        over images. Means of K draws are taken of as many groups as there are.
    """
    sizes = [2**i for i in range(len(draws).bit_length())]

    def squared(mean: HostArray) -> HostArray:
        """Of every image, over its unseen pixels."""
        error = np.where(unseen, (mean - truth) ** 2, 0.0).sum(axis=(1, 2, 3))
        return error / np.maximum(unseen.sum(axis=(1, 2, 3)), 1)

    by_size = []
    for k in sizes:
        groups = draws[: len(draws) // k * k].reshape(-1, k, *draws.shape[1:])
        by_size.append(np.stack([squared(group.mean(axis=0)) for group in groups]))
    best = by_size[-1].mean() / (1 + 1 / sizes[-1])
    return [
        {
            "draws": k,
            "mse": float(errors.mean()),
            "expected_mse": float((1 + 1 / k) * best),
            "ratio": float(errors.mean() / ((1 + 1 / k) * best)) if best else 1.0,
            "psnr_unseen": float((10 * np.log10(4 / np.maximum(errors, ROUNDING))).mean()),
        }
        for k, errors in zip(sizes, by_size, strict=True)
    ]


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
    """(1) and (2) together, and the root of the variance between draws; see `error_by_draws`."""
    errors = error_by_draws(draws, truth, unseen)
    spread = draws.var(axis=0, ddof=1)[unseen].mean()
    return {
        "errors": errors,
        "coverage": {
            f"{level:.0%}": share for level, share in coverage(draws, truth, unseen).items()
        },
        "spread_over_error": float(spread / (errors[-1]["mse"] / (1 + 1 / errors[-1]["draws"]))),
    }
