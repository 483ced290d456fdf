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

(`paired_likelihood`, equation (7)), the second term being what f coefficients gain by chance, and their
beta is one that the narrowest direction of the snapshots allows (`limits`). What the features do not
explain of their drift is told from noise by `unexplained_drift`.

Idle features cost precision, and hundreds of them with little data can make any beta fit. Of
independent snapshots `weak_form_drift` takes the monomials that the data ask for, and looks at the
radial functions where its misfit says that they do not suffice; its drift is far better than that of
couplings. Before that `long_steps` tries monomials of a potential by many short steps: one Euler step
does not describe snapshots between which the drift changes. Where none suffices, the weak form takes a
drift to be absent unless its misfit contradicts that. A weak drift that the marginals cannot tell from
less noise is then read as less noise. If the misfit contradicts the prior, too, two other ones are
tried, and the least misfit decides.
"""

import dataclasses
import logging
from typing import Literal, NamedTuple

import numpy as np

from diffusions.checks import one_of
from diffusions.short_repr import short_repr
from diffusions.typing import PyTree
from jkonet_star.energies.models import LinearEnergy, Units
from jkonet_star.internal_energy.displacement_regression import (
    SHRINKAGES,
    NormalEquations,
    Start,
    choose_shrinkages,
    feature_groups,
    start_from,
    transport_sums,
)
from jkonet_star.internal_energy.euler_steps import Steps, drift_features
from jkonet_star.internal_energy.limits import most_beta, one_law, several_betas, too_much_noise
from jkonet_star.internal_energy.long_steps import (
    ENOUGH,
    LARGEST_DIMENSION,
    MOST_MOVED,
    fit_long_steps,
)
from jkonet_star.internal_energy.moments import Tests, potential_tests
from jkonet_star.internal_energy.paired_likelihood import (
    PairedFit,
    effective_parameters,
    fit_paired,
    mean_log_likelihood,
    needed_neighbours,
    self_log_likelihood,
    standard_error,
)
from jkonet_star.internal_energy.representatives import representatives
from jkonet_star.internal_energy.unexplained_drift import fit_unexplained
from jkonet_star.internal_energy.weak_form import FOLDS, WeakFormFit, fit_weak_form
from jkonet_star.internal_energy.weak_form_drift import (
    WeakFormDrift,
    fit_weak_form_drift,
    spread_out,
)
from jkonet_star.snapshots import Snapshots
from jkonet_star.units import population_units

logger = logging.getLogger(__name__)

Regime = Literal["auto", "paired", "unpaired"]

MOST_PARTICLES = 10_000
MOST_FEATURE_BYTES = 500_000_000
WHOLE_POPULATION_UP_TO = 5000
POPULATION_SAMPLE = 2000
MOST_POTENTIAL_TESTS = 600
MOST_MISFIT = 2.5
"""Standard deviations of the weak form's residuals up to which a drift is taken to be absent."""
ACCEPTED_MISFIT = 6.0
"""Likewise, up to which a fitted drift is taken as sufficient."""
ACCEPTED_DRIFT_MISFIT = 3.0
"""Likewise, of `weak_form_drift`."""
LEAST_MISFIT = -20.0
"""A drift fitted to the same residuals makes them smaller than chance; below, it has diverged."""
FREE_SHRINKAGE = 1e-2
FIXED_PRECISION = 1e6
LEAST_SAMPLE = 200
DETECTION_ROUNDS = 2
MOST_COMPETITORS = 2000
"""Particles that may have become one and the same: among more, pairs tell next to nothing."""
MOST_ROUNDS = 20
PAIRED_GAIN = 0.05
GAIN_PER_COEFFICIENT = 1.0
MEDIAN_SQUARE = 0.4549
"""Median of the square of a standard normal number."""
MOST_UNEXPLAINED = 0.25
"""Of the particles: where more move as neither the features nor one noise explain, beta is unknown."""
MATTERS = 0.2
"""Of the beta of features alone: where these particles make less of it, it is an error bar of beta."""
LOWEST_RELATIVE_BETA = 1e-10
"""Of the value at which noise would cross the population in one step; below, beta is zero."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class InternalEstimate:
    """The noise of a population, and the drift that goes with it.

    Attributes:
        beta: diffusion coefficient of equation (1), not negative.
        standard_error: of beta, for a model that holds: of the likelihood's maximum by its curvature,
            of the weak form by its equation (6); 0 at a beta of 0, infinite where the data do not tell.
        paired: whether the snapshots were taken to show the same particles.
        gain: log likelihood per particle that speaks for it, see (2); zero where the regime was
            given or follows from unequal counts.
        drift_coefficients: theta of `energies`, equation (3), at the speed of one length per mean
            step; potential features first (`closed_form.split_coefficients`).
        iterations: of the estimator used.
        converged: whether it met its tolerance and the residuals do not contradict it.
        drift: of independent snapshots that the features explain, at unit scale; its theta are the
            `drift_coefficients`.
        substeps: explicit steps from each snapshot to the next, by which they do.
        unknown: why the data do not determine beta, whatever its standard error, in words; see
            `limits`, and `MOST_UNEXPLAINED`.
        unexplained: share of the particles that move as neither the features nor noise of this beta
            explain (`unexplained_drift`, eps); 0 where the features suffice. Where noise is not
            Gaussian, or not the same everywhere, beta is that of the other particles.
    """

    beta: float
    standard_error: float
    paired: bool
    gain: float
    drift_coefficients: np.ndarray
    iterations: int
    converged: bool
    drift: WeakFormDrift | None = None
    substeps: int = 1
    unknown: str | None = None
    unexplained: float = 0.0

    __repr__ = short_repr


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

    def thinned(self, n: int) -> "_Population":
        """At most n particles of every snapshot; the rows are in random order."""
        if max(len(x) for x in self.points) <= n:
            return self
        weights = [w[:n] / w[:n].sum() for w in self.weights]
        return _Population([x[:n] for x in self.points], weights, self.tau)

    def first(self, n_steps: int) -> "_Population":
        """The first steps."""
        if n_steps >= len(self.tau):
            return self
        last = n_steps + 1
        return _Population(self.points[:last], self.weights[:last], self.tau[:n_steps])


@dataclasses.dataclass(frozen=True)
class _Problem:
    """What both estimators start from."""

    steps: Steps
    weights: list[np.ndarray]
    sums: NormalEquations
    groups: list[slice]
    start: Start

    @property
    def size(self) -> float:
        """Particles per snapshot."""
        return self.steps.n_residuals / (len(self.steps.tau) * self.steps.targets[0].shape[1])

    def shrunk(self, shrinkage: np.ndarray) -> Start:
        """The start for another shrinkage."""
        steps = self.steps
        d = steps.targets[0].shape[1]
        return start_from(self.sums, shrinkage, self.groups, len(steps.tau), d)


def _problem(
    own: _Population,
    whole: _Population,
    model: LinearEnergy,
    constants: PyTree,
    rng: np.random.Generator,
    *,
    independent: bool = False,
) -> _Problem:
    """Couples a part of the population; the interaction is a mean over the whole of it.

    Of independent snapshots it is the mean over `representatives`, where they are many: the chance of
    a sample would move all particles.
    """
    others, weights = [], []
    for y, w in zip(whole.points[: len(own.tau)], whole.weights, strict=False):
        if independent and len(y) > WHOLE_POPULATION_UP_TO:
            one, mass = representatives(y, w, POPULATION_SAMPLE)
            others.append(one)
            weights.append(mass)
            continue
        m = len(y) if len(y) <= WHOLE_POPULATION_UP_TO else POPULATION_SAMPLE
        others.append(y[:m])
        weights.append(w[:m] / w[:m].sum())
    features = drift_features(model, constants, own.points[:-1], others, weights)
    steps = Steps(own.points[:-1], own.points[1:], features, own.tau)
    sums = transport_sums(steps, own.weights, rng)
    groups = feature_groups(model)
    shrinkage = choose_shrinkages(sums, groups)
    start = start_from(sums, shrinkage, groups, len(own.tau), model.dimension)
    return _Problem(steps, own.weights, sums, groups, start)


def _population(snapshots: Snapshots, units: Units, rng: np.random.Generator) -> _Population:
    """Snapshots at unit scale: lengths in l about c, times in mean steps (see `energies`)."""
    points, weights = [], []
    center, length = np.asarray(units.center, np.float64), float(units.length)
    for x, w in zip(np.asarray(snapshots.points), np.asarray(snapshots.weights), strict=True):
        present = w > 0
        z, w = (x[present].astype(np.float64) - center) / length, w[present]
        order = np.lexsort(z.T)[rng.permutation(len(z))]
        points.append(z[order])
        uniform = np.ptp(w) <= 1e-5 * w.mean()
        exact = np.full(len(z), 1.0) if uniform else w[order].astype(np.float64)
        weights.append(exact / len(z) if uniform else exact / exact.sum())
    tau = np.diff(np.asarray(snapshots.times, np.float64)) / float(units.time_step)
    return _Population(points, weights, tau)


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
        constants: their radial centres, and the data's units; the population's own where these are
            not given.
        snapshots: the population; the order of rows does not matter.
        seed: of subsamples and folds.
        regime: whether the snapshots show the same particles; `auto` finds out.

    Returns:
        The estimate. Snapshots of unequal counts or weights do not show the same particles.

    Raises:
        ValueError: an unknown regime, or `paired` with unequal counts or weights.
    """
    one_of("regime", regime, ("auto", "paired", "unpaired"))
    units: Units = constants.get("units") or population_units(snapshots)
    # A square of one length may leave double precision where beta does not.
    unit = float(units.length), float(units.length), float(units.time_step)
    most = most_beta(snapshots)
    at_unit_scale = most / unit[0] / unit[1] * unit[2]
    estimate = _at_unit_scale(model, constants, snapshots, units, seed, regime, at_unit_scale)
    beta, error = (
        x * unit[0] * unit[1] / unit[2] for x in (estimate.beta, estimate.standard_error)
    )
    unknown = estimate.unknown
    if estimate.substeps == 1:  # within many, drift takes back what noise spreads
        unknown = unknown or too_much_noise(most, beta, error)
    if not estimate.paired and estimate.drift_coefficients.size:  # without a drift beta is zero
        unknown = one_law(snapshots) or unknown
    return dataclasses.replace(estimate, beta=beta, standard_error=error, unknown=unknown)


def _at_unit_scale(
    model: LinearEnergy,
    constants: PyTree,
    snapshots: Snapshots,
    units: Units,
    seed: int,
    regime: Regime,
    most: float,
) -> InternalEstimate:
    """The estimate, beta in squared lengths l over mean steps, as is the most it can be."""
    rng = np.random.default_rng(seed)
    whole = _population(snapshots, units, rng)
    if regime == "paired" and not whole.even:
        raise ValueError("snapshots of unequal counts or weights cannot show the same particles")
    groups = feature_groups(model)
    f = groups[-1].stop if groups else 0
    if whole.still():
        return InternalEstimate(
            beta=0.0,
            standard_error=0.0,
            paired=whole.even and regime != "unpaired",
            gain=0.0,
            drift_coefficients=np.zeros(f),
            iterations=0,
            converged=True,
        )
    n = max(len(x) for x in whole.points)
    n_steps = len(whole.tau)
    rows = MOST_FEATURE_BYTES // (8 * max(f, 1) * model.dimension)
    few = min(len(x) for x in whole.points) < 4 * FOLDS
    gain, part, problem = 0.0, None, None
    given = few or regime == "paired"
    if few or (whole.even and regime != "unpaired"):
        affordable = min(n_steps, min(rows, MOST_PARTICLES * n_steps) // n)
        if affordable:
            part = whole.first(affordable)
            problem = _problem(part, whole, model, constants, rng)
            pairs = _paired(problem, decided=given, seed=seed)
            fit, gain = pairs.fit, pairs.gain
            if fit is not None and (
                given or not too_much_noise(most, pairs.alone, pairs.alone_error)
            ):
                return InternalEstimate(
                    beta=fit.beta,
                    standard_error=pairs.error,
                    paired=True,
                    gain=gain,
                    drift_coefficients=fit.theta,
                    iterations=fit.iterations,
                    converged=fit.converged,
                    unexplained=pairs.unexplained,
                    unknown=pairs.unknown,
                )
        elif regime == "paired":
            logger.warning("%d particles are too many to tell apart: taken as independent", n)
    sample = whole.thinned(int(np.clip(rows // n_steps, LEAST_SAMPLE, MOST_PARTICLES)))
    drift, doubt = _drift(sample, whole, model, constants, rng)
    if drift is not None:
        error = float(np.sqrt(drift.covariance[0, 0]))
        return InternalEstimate(
            beta=drift.beta,
            standard_error=float(np.hypot(error, doubt or 0.0)),
            paired=False,
            gain=gain,
            drift_coefficients=drift.theta,
            iterations=drift.iterations,
            converged=True,
            drift=drift,
            substeps=1 if doubt is None else ENOUGH,
            unknown=None if doubt is None else several_betas(doubt, error),
        )
    if problem is None or sample is not part:
        problem = _problem(sample, whole, model, constants, rng, independent=True)
    solution, theta = _unpaired(problem, model, constants)
    return InternalEstimate(
        beta=solution.beta,
        standard_error=solution.standard_error,
        paired=False,
        gain=gain,
        drift_coefficients=theta,
        iterations=solution.iterations,
        converged=solution.converged and solution.misfit < ACCEPTED_MISFIT,
        unknown=_unmatched(solution),
    )


def _unmatched(solution: WeakFormFit) -> str | None:
    """Why the beta of what is left when no drift was found means little; None where it explains."""
    if not solution.misfit < ACCEPTED_MISFIT:
        return (
            "nothing was found by which these features and one Gaussian noise explain how the laws "
            f"change (misfit {solution.misfit:.2g} standard deviations)"
        )
    return None if solution.converged else "the search for it did not settle"


def _unexplained(share: float) -> str:
    """Why beta is not known where many particles move as nothing explains."""
    return (
        f"{share:.0%} of the particles move as neither the features nor one Gaussian noise explain; "
        "it is that of the others"
    )


def _drift(
    sample: _Population,
    whole: _Population,
    model: LinearEnergy,
    constants: PyTree,
    rng: np.random.Generator,
) -> tuple[WeakFormDrift | None, float | None]:
    """Of the monomials, or of all features where those do not suffice; None where neither does.

    Beside it what `long_steps` doubts of beta, where it was found by many steps.
    """
    best, least = None, ACCEPTED_DRIFT_MISFIT
    for number, features in enumerate(_trials(model)):
        problem = _problem(sample, whole, features, constants, rng, independent=True)
        try:
            found = fit_weak_form_drift(
                features,
                problem.steps,
                problem.weights,
                _tests(features, constants),
                problem.start.theta,
                problem.start.beta,
            )
        except np.linalg.LinAlgError:  # tests of which a few particles decide all
            continue
        if found.converged and LEAST_MISFIT < found.misfit < least:
            best, least = spread_out(found, features, model), found.misfit
        if least < MOST_MISFIT:
            break
        if (
            best is None
            and not number
            and not features.has_interaction
            and features.dimension <= LARGEST_DIMENSION
        ):
            few = sample.thinned(MOST_MOVED)
            if few is not sample:
                problem = _problem(few, whole, features, constants, rng, independent=True)
            try:
                long = fit_long_steps(
                    features,
                    constants,
                    problem.steps,
                    problem.weights,
                    problem.start.theta,
                    problem.start.beta,
                    most_misfit=ACCEPTED_DRIFT_MISFIT,
                )
            except np.linalg.LinAlgError:  # unknowns that no test tells apart
                long = None
            if long is not None:
                return spread_out(long.drift, features, model), long.doubt
    return best, None


def _trials(model: LinearEnergy) -> list[LinearEnergy]:
    """The energies to try: without radial functions, and with them."""
    pair = (model.potential_features, model.interaction_features)
    if all(features is None for features in pair):
        return []
    present = [features for features in pair if features is not None]
    if not any(features.n_centers for features in present):
        return [model]
    plain = [
        None if features is None else dataclasses.replace(features, radial="none", n_centers=0)
        for features in pair
    ]
    if not all(features.n_features for features in plain if features is not None):
        return [model]
    monomials = dataclasses.replace(
        model, potential_features=plain[0], interaction_features=plain[1]
    )
    return [monomials, model]


def _tests(model: LinearEnergy, constants: PyTree) -> Tests | None:
    potential = model.potential_features
    if potential is None or potential.n_features > MOST_POTENTIAL_TESTS:
        return None
    return potential_tests(potential, np.asarray(constants["potential"])[: potential.n_centers])


class _Paired(NamedTuple):
    """The likelihood's maximum, the gain (2), and what is known of beta.

    There is no maximum where the gain is too small and nobody has decided. `alone` and its error are
    those of the features without what they do not explain: whether the snapshots are paired is theirs
    to decide.
    """

    fit: PairedFit | None
    gain: float
    error: float = 0.0
    alone: float = 0.0
    alone_error: float = 0.0
    unexplained: float = 0.0
    unknown: str | None = None


def _paired(problem: _Problem, *, decided: bool, seed: int) -> _Paired:
    steps = problem.steps
    spread = _spread(np.concatenate(steps.targets))
    lowest = LOWEST_RELATIVE_BETA * max(spread, np.finfo(np.float64).tiny) / float(steps.tau.max())
    theta, beta, gain = problem.start.theta, max(problem.start.beta, lowest), 0.0
    precision = problem.size * problem.start.precision * (problem.start.beta / beta)
    first = PairedFit(theta, beta, 0, True)
    if beta > lowest:
        first = fit_paired(
            steps, theta, beta, precision, rounds=DETECTION_ROUNDS, lowest_beta=lowest
        )
    if not decided:
        z = steps.transported(first.theta)
        if needed_neighbours(steps, z, max(first.beta, lowest)) > MOST_COMPETITORS:
            return _Paired(None, gain)
        n_targets = sum(len(y) for y in steps.targets)
        fitted, neighbours = mean_log_likelihood(steps, first.theta, max(first.beta, lowest))
        gain = fitted - self_log_likelihood(steps.targets, neighbours)
        if gain <= PAIRED_GAIN + GAIN_PER_COEFFICIENT * steps.n_features / n_targets:
            return _Paired(None, gain)
    fit = first
    if not first.converged:
        fit = fit_paired(
            steps, first.theta, first.beta, precision, rounds=MOST_ROUNDS, lowest_beta=lowest
        )
    if fit.beta <= lowest:
        return _Paired(fit._replace(beta=0.0), gain)
    used = effective_parameters(steps.information(), fit.beta, precision)
    alone = fit.beta * steps.n_residuals / max(steps.n_residuals - used, 1.0)
    iterations = fit.iterations + (first.iterations if fit is not first else 0)
    error = standard_error(steps, fit.theta, fit.beta) * alone / fit.beta
    found = fit_unexplained(steps, fit, precision, lowest_beta=lowest, seed=seed)
    if found is None:
        own = fit._replace(beta=alone, iterations=iterations)
        return _Paired(own, gain, error, alone, error)
    beta = found.beta if found.beta > lowest else 0.0
    own = PairedFit(found.theta, beta, iterations + found.iterations, found.converged)
    known, unknown = found.standard_error if beta else 0.0, None
    if found.share > MOST_UNEXPLAINED:
        if found.whole > MATTERS * fit.beta:
            unknown = _unexplained(found.share)
        else:  # misfit, most likely, of which this is all that is left
            known = float(np.hypot(known, found.whole - found.beta))
    return _Paired(own, gain, known, alone, error, found.share, unknown)


def _spread(points: np.ndarray) -> float:
    """The variance of a coordinate, or less where a few particles far away make most of it."""
    middle = np.median((points - np.median(points, axis=0)) ** 2, axis=0)
    variance = points.var(axis=0)
    return float(
        np.where(middle > 0, np.minimum(variance, middle / MEDIAN_SQUARE), variance).mean()
    )


def _unpaired(
    problem: _Problem, model: LinearEnergy, constants: PyTree
) -> tuple[WeakFormFit, np.ndarray]:
    """The weak form's solution with the least drift that its residuals allow, and theta."""
    steps, start = problem.steps, problem.start
    f, none = steps.n_features, np.zeros(0)
    still = dataclasses.replace(steps, features=[g[..., :0] for g in steps.features])
    absent = fit_weak_form(still, problem.weights, None, none, start.beta, none)
    if not f or absent.misfit < MOST_MISFIT:
        return absent, np.zeros(f)
    best = absent._replace(misfit=np.inf)
    tests = _tests(model, constants)
    smooth = np.full(f, SHRINKAGES[-1])
    for group in problem.groups[::2]:
        smooth[group] = FREE_SHRINKAGE
    trials = [start, problem.shrunk(smooth), problem.shrunk(np.full(f, FREE_SHRINKAGE))]
    # The last resort keeps the drift of the couplings.
    trials.append(start._replace(precision=start.precision * FIXED_PRECISION))
    for trial in trials:
        precision = problem.size * trial.precision
        found = fit_weak_form(steps, problem.weights, tests, trial.theta, trial.beta, precision)
        if LEAST_MISFIT < found.misfit < best.misfit:
            best = found
        if best.misfit < ACCEPTED_MISFIT:
            break
    return best, best.theta
