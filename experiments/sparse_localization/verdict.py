"""What a sparse denoiser is worth, in words: beside estimators that learn nothing; by its samples."""

from collections.abc import Mapping

import numpy as np
from scipy import stats

from diffusions.typing import HostArray
from experiments.run.verdicts import FEW, LEVEL, Difference, Verdict, not_finite
from experiments.sparse_localization.measurement import SquaredErrors

RIVALS = {
    "spectral": "the spectral estimate",
    "power_iteration": "power iteration",
    "amp": "AMP",
    "amp_random_start": "AMP from a random start",
}
_ZERO = "the estimate zero"
_COLLAPSE = 0.1
"""Of the expected number of samples that are not zero: with less, the sampling has lost them."""


def errors_verdict(
    found: Mapping[str, SquaredErrors],
    networks: tuple[str, ...],
    half_way: Mapping[str, float | None],
) -> Verdict:
    """Mean squared errors over all times, beside the best estimator that learns nothing.

    Args:
        found: squared errors by estimator, on the same observations.
        networks: names of the learned ones; judged is their mean.
        half_way: by estimator, the t/n where half of the zero estimate's error is left.
    """
    own = np.mean([found[name].errors for name in networks], axis=0)
    learned = "the network" if len(networks) == 1 else f"the mean of {len(networks)} networks"
    text = f"the mean squared error of {learned} over all times is {own.mean():.3g}"
    if failed := not_finite(text, own):
        return failed
    nonzero = next(iter(found.values())).nonzero
    # |x|_F is 1 or 0: this is what the estimate zero errs.
    rivals = {_ZERO: nonzero.astype(np.float64)}
    rivals |= {words: found[name].errors for name, words in RIVALS.items() if name in found}
    best = min(rivals, key=lambda name: float(rivals[name].mean()))
    beside, beside_zero = (_over_times(own - rivals[name]) for name in (best, _ZERO))
    beaten = beside.side() == 1
    if best != _ZERO:
        several = f", the best of {len(rivals) - 1} that learn nothing" if len(rivals) > 2 else ""
        text += f", {beside.beside(f'that of {best}{several}')}"
    if beside_zero.side() in (0, 1):
        # Where nothing else finds a signal either, there may be none to find.
        begin = "collapsed: " if beaten and best != _ZERO else ""
        return Verdict(f"{begin}{text}, and no better than {_ZERO}", beaten=beaten)
    crossing = [
        f"{half_way[name]:.3g} for {words}"
        for name, words in {networks[0]: "the network", "amp": "AMP"}.items()
        if half_way.get(name) is not None
    ]
    if best == _ZERO:
        text += f", {beside_zero.beside(f'that of {_ZERO}')}"
    if crossing:
        text += f"; half of the signal is found from t/n = {' and '.join(crossing)} on"
    return Verdict(text, beaten=beaten)


def samples_verdict(norms: HostArray, zero_probability: float) -> Verdict:
    """Whether as many samples are matrices, and not zero, as in the true law.

    Args:
        norms: |u u^T|_F of every sample, 1 or 0 in the true law.
        zero_probability: of that law.
    """
    count, above = len(norms), int(np.sum(norms > 0.5))
    lost = count - int(np.sum(np.isfinite(norms)))
    if failed := not_finite(f"{lost} of {count} samples", norms):
        return failed
    wanted = 1.0 - zero_probability
    chance = stats.binomtest(above, count, wanted).pvalue >= LEVEL
    share = f"{above} of {count} samples have a norm above 1/2"
    law = f"{wanted:.3g} of the true law"
    if chance:
        agrees = "too few to tell from" if count < FEW else "which agrees with"
        return Verdict(f"{share}, {agrees} the {law}", beaten=False)
    wrong = "too many" if above > wanted * count else "too few"
    if above < _COLLAPSE * wanted * count:
        wrong = "the sampling collapses to zero"
    return Verdict(f"{wrong}: {share}, beside {wanted * count:.4g} expected ({law})", beaten=True)


def _over_times(differences: HostArray) -> Difference:
    """The mean of [times, samples]; samples of different times are independent, and as many."""
    each = [Difference.of(row) for row in differences]
    error = np.sqrt(np.sum([one.error**2 for one in each])) / len(each)
    return Difference(float(differences.mean()), float(error), differences.shape[1])
