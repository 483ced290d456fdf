"""Diffusion coefficient and drift of a population, from snapshots without order.

    dX = -b(X) dt + sqrt(2 beta) dW,   b(x) = sum_l theta_l G_l(x),                                 (1)

where G_l is grad phi_l for features of the potential and mean_j grad phi_l(x - x_j) for features of
the interaction. First-order conditions with an estimated density cannot tell beta from the error of
the density (they return 2 to 3 for a true 0.2, at N = 1000); the law of one Euler step can. Where
the snapshots show the same particles, unordered, beta and theta maximise the mixture likelihood of
`paired_likelihood`; where every snapshot is a sample of its own, they solve `weak_form`. Both start
from the coefficients of `displacement_regression` and share its prior. Which of the two it is, the
likelihood tells: snapshots are paired if their

    gain > PAIRED_GAIN + GAIN_PER_COEFFICIENT f / (particles of all targets),                       (2)

(`paired_likelihood`, equation (7)), the second term being what f coefficients gain by chance.

Idle features cost precision: with 124 of them and no drift the standard deviation of beta grows by
half. The weak form therefore takes a drift to be absent as long as its misfit does not contradict
it. If it contradicts the prior, too, two other ones are tried, and the least misfit decides.
"""

import dataclasses
import logging
from typing import Literal

import numpy as np

from diffusions.typing import Float, PyTree
from jkonet_star.displacement_regression import (
    SHRINKAGES,
    NormalEquations,
    Start,
    choose_shrinkages,
    feature_groups,
    start_from,
    transport_sums,
)
from jkonet_star.energies import LinearEnergy
from jkonet_star.euler_steps import Steps, drift_features
from jkonet_star.paired_likelihood import (
    PairedFit,
    effective_parameters,
    fit_paired,
    log_likelihood,
    self_log_likelihood,
)
from jkonet_star.settings import one_of
from jkonet_star.snapshots import Snapshots
from jkonet_star.weak_form import FOLDS, WeakFormFit, fit_weak_form
from jkonet_star.weak_form_tests import potential_tests

logger = logging.getLogger(__name__)

Regime = Literal["auto", "paired", "unpaired"]

MOST_PARTICLES = 20_000
MOST_FEATURE_BYTES = 500_000_000
WHOLE_POPULATION_UP_TO = 5000
POPULATION_SAMPLE = 2000
MOST_POTENTIAL_TESTS = 600
MOST_MISFIT = 3.0
"""Standard deviations of the weak form's residuals up to which a drift is taken as sufficient."""
FREE_SHRINKAGE = 1e-2
DETECTION_ROUNDS = 2
MOST_ROUNDS = 20
PAIRED_GAIN = 0.05
GAIN_PER_COEFFICIENT = 0.5
LOWEST_RELATIVE_BETA = 1e-10
"""Of the value at which noise would cross the population in one step; below, beta is zero."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class InternalEstimate:
    """The noise of a population, and the drift that goes with it.

    Attributes:
        beta: diffusion coefficient of equation (1), not negative.
        paired: whether the snapshots were taken to show the same particles.
        gain: log likelihood per particle that speaks for it, see (2); zero where the regime was
            given or follows from unequal counts.
        drift_coefficients: theta, potential features first (`closed_form.split_coefficients`).
        iterations: of the estimator used.
        converged: whether it met its tolerance.
    """

    beta: float
    paired: bool
    gain: float
    drift_coefficients: np.ndarray
    iterations: int
    converged: bool


@dataclasses.dataclass(frozen=True)
class _Population:
    """Snapshots on the host, rows sorted and then shuffled so that their order cannot matter."""

    points: list[np.ndarray]
    weights: list[np.ndarray]
    tau: np.ndarray

    @property
    def even(self) -> bool:
        """Whether counts and weights allow the same particles in all snapshots."""
        one_count = len({len(x) for x in self.points}) == 1
        return one_count and all(np.ptp(w) == 0 for w in self.weights)

    def still(self) -> bool:
        """Whether all snapshots are the same set, or all particles one point."""
        ordered = [x[np.lexsort(x.T)] for x in self.points]
        same = all(np.array_equal(x, ordered[0]) for x in ordered)
        return same or not np.concatenate(self.points).var(axis=0).any()

    def thinned(self, n: int, n_steps: int | None = None) -> "_Population":
        """The first steps, with at most n particles each."""
        last = len(self.points) if n_steps is None else n_steps + 1
        weights = [w[:n] / w[:n].sum() for w in self.weights[:last]]
        return _Population([x[:n] for x in self.points[:last]], weights, self.tau[: last - 1])

    def steps(self, model: LinearEnergy, constants: PyTree, whole: "_Population") -> Steps:
        """The steps with their drift's features, means being taken over the whole population."""
        others = [x if len(x) <= WHOLE_POPULATION_UP_TO else x[:POPULATION_SAMPLE]
                  for x in whole.points[: len(self.tau)]]  # fmt: skip
        pairs = zip(whole.weights, others, strict=False)
        weights = [w[: len(y)] / w[: len(y)].sum() for w, y in pairs]
        sources = self.points[:-1]
        features = drift_features(model, constants, sources, others, weights)
        return Steps(sources, self.points[1:], features, self.tau)


def _population(snapshots: Snapshots, rng: np.random.Generator) -> _Population:
    points, weights = [], []
    for x, w in zip(snapshots.arrays(), snapshots.array_weights(), strict=True):
        order = np.lexsort(x.T)[rng.permutation(len(x))]
        points.append(x[order].astype(np.float64))
        uniform = np.ptp(w) <= 1e-5 * w.mean()
        exact = np.full(len(x), 1.0) if uniform else w[order].astype(np.float64)
        weights.append(exact / len(x) if uniform else exact / exact.sum())
    return _Population(points, weights, np.diff(np.asarray(snapshots.times, np.float64)))


def estimate_internal(
    model: LinearEnergy,
    constants: PyTree,
    snapshots: Snapshots,
    *,
    seed: int = 0,
    regime: Regime = "auto",
) -> InternalEstimate:
    """Estimates beta of equation (1), and theta with it.

    Populations beyond `MOST_PARTICLES`, or whose features would fill `MOST_FEATURE_BYTES`, are
    thinned: unpaired ones at random, paired ones by whole steps.

    Args:
        model: whose features make up the drift; it may have none.
        constants: their radial centres.
        snapshots: the population; the order of rows does not matter.
        seed: of subsamples and folds.
        regime: whether the snapshots show the same particles; `auto` finds out.

    Returns:
        The estimate. Snapshots of unequal counts or weights do not show the same particles.

    Raises:
        ValueError: an unknown regime, or `paired` with unequal counts or weights.
    """
    one_of("regime", regime, ("auto", "paired", "unpaired"))
    rng = np.random.default_rng(seed)
    whole = _population(snapshots, rng)
    if regime == "paired" and not whole.even:
        raise ValueError("snapshots of unequal counts or weights cannot show the same particles")
    groups = feature_groups(model)
    f = groups[-1].stop if groups else 0
    if whole.still():
        return InternalEstimate(
            beta=0.0,
            paired=regime == "paired",
            gain=0.0,
            drift_coefficients=np.zeros(f),
            iterations=0,
            converged=True,
        )
    n = max(len(x) for x in whole.points)
    rows = MOST_FEATURE_BYTES // (8 * max(f, 1) * snapshots.dimension)
    few = min(len(x) for x in whole.points) < 4 * FOLDS
    gain = 0.0
    own = whole
    if few or (whole.even and regime != "unpaired"):
        n_steps = min(len(whole.tau), min(rows, MOST_PARTICLES * len(whole.tau)) // n)
        if n_steps:
            own = whole.thinned(n, n_steps)
            steps = own.steps(model, constants, whole)
            sums = transport_sums(steps, own.weights, rng)
            start = start_from(sums, choose_shrinkages(sums, groups), n_steps, own.points[0].shape[1])
            decided = few or regime == "paired"
            fit, gain = _paired(steps, start, n, decided=decided, rng=rng)
            if fit is not None:
                return InternalEstimate(
                    beta=fit.beta,
                    paired=True,
                    gain=gain,
                    drift_coefficients=fit.theta,
                    iterations=fit.iterations,
                    converged=fit.converged,
                )
        elif regime == "paired":
            logger.warning("%d particles are too many to be told apart; taken as unpaired", n)
    most = int(np.clip(rows // len(whole.tau), 200, MOST_PARTICLES))
    if n > most or own is not whole and len(own.tau) < len(whole.tau):
        own = whole.thinned(most)
        steps = own.steps(model, constants, whole)
        sums = transport_sums(steps, own.weights, rng)
        start = start_from(sums, choose_shrinkages(sums, groups), len(own.tau), snapshots.dimension)
    elif own is whole:
        steps = own.steps(model, constants, whole)
        sums = transport_sums(steps, own.weights, rng)
        start = start_from(sums, choose_shrinkages(sums, groups), len(own.tau), snapshots.dimension)
    return None
