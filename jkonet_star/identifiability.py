r"""What snapshots cannot tell: four questions, each answered by a number, its error and a sentence.

**V or U?** V = a |x|^2 / 2 moves a particle by -a x, U = a |z|^2 / 2 by -a (x - m_k), m_k the mean of
snapshot k. Beside a linear V they differ by a (m_k - m) alone, m the mean of all m_k, so of the design
of both only

    s = S / (S + mean_k tr Sigma_k),   S = sum_k |m_k - m|^2 / K,                                  (1)

is left to tell them apart, and the velocity of the means tells a no better than to

    se(a) = [sum_k tau_k^2 |m_k - m|^2 / v_k]^{-1/2},   v_k the variance of m_{k+1} - m_k.      (2)

**A gradient?** A potential alone, and one beside a circulation (`energies.circulation`), are learned
from half of the particles by couplings that settle (`settled_couplings`), and judged by the other half,
and in turn: with D the unbiased energy distance to the next snapshot,

    share = (D_V - D_{V + c}) / D_V                                                                (3)

of what the potential leaves is removed by c. No gradient fits where (3) is at least `LEAST_SHARE` and
its numerator is positive at level `LEVEL`, by the variance of what each particle adds; the error of one
half stands for that of both, which are not independent. What a richer potential would explain, a poor
one leaves to c in part: hence the least share, below which neither is known. Where cells may have
multiplied in place of moving, c is learned from motion that was none, and says nothing.

**Noise or drift?** Particles of one law that nothing pairs say nothing of beta, and a beta beyond what
the narrowest direction of a snapshot allows cannot be (`internal_energy.limits`). Elsewhere beta has
the error of the estimate of the fit (`internal_energy`).

**Growth or transport?** Growth without motion and motion without growth can lead to the same laws.
With C the cost of balanced transport, growth (`growth`) saves

    (C - C_g) / (C - C_0)                                                                          (4)

of it, C_g the cost from the reweighted cells, and C_0 what samples of one law cost: that between halves
of each snapshot, mean of the two of a step, times 2^(-2 / max(2, d)) for cells twice as many. In many
dimensions C_0 is most of C, and where C is not above it, nothing is known. Where (4) is small, cells
moved; where it is large, they moved or they multiplied, and only numbers of cells or lineages can say
which. Where laws stay as they are, there may be neither, or both: div(mu grad V) = -g mu keeps mu for
any growth rate g of mean zero.
"""

import dataclasses
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from scipy.special import ndtr, ndtri
from threadpoolctl import threadpool_limits

from diffusions.arguments import checked
from diffusions.keys import named_key
from diffusions.typing import HostArray, Key
from jkonet_star.equal_laws import equal_laws, equal_means
from jkonet_star.fit_report import BetaReport
from jkonet_star.fitted import FittedEnergy
from jkonet_star.growth import estimate_growth
from jkonet_star.internal_energy.limits import (
    INTERVAL,
    LEVEL,
    most_beta,
    one_law,
    too_much_noise,
)
from jkonet_star.settings import FeatureSettings, GrowthSettings
from jkonet_star.snapshots import Snapshots
from jkonet_star.solvers.closed_form import fit_linear
from jkonet_star.solvers.first_order import first_order_conditions
from jkonet_star.solvers.linear_model import linear_model
from jkonet_star.solvers.registry import Terms
from jkonet_star.solvers.settled_couplings import RIDGE, settled_couplings
from jkonet_star.transport.couplings import Couplings, couple
from jkonet_star.two_samples import contributions, variance_of_difference

LEAST_SHARE = 0.25
GROWTH_SAVES = 0.5
"""Of (4), from which on growth is a rival of transport."""
LEAST_MOVED = 0.1
"""Of C_0 in (4), by which C must exceed it for their difference to be more than chance."""
FEWEST = 20
"""Cells of a snapshot, below which halves of it say nothing."""
NO_NOISE = 0.1
"""Of the beta with which noise alone would cross the population, below which there is none."""
MOST_CELLS = 1000
"""Of a snapshot that are looked at."""
FEATURES = FeatureSettings(degree=3, total_degree=3, radial="none")

_FEW = f"a snapshot has fewer than {FEWEST} cells, too few to judge by one half what the other says"

Question = Literal["interaction", "circulation", "noise", "growth"]
QUESTIONS: dict[Question, str] = {
    "interaction": "V or a quadratic U",
    "circulation": "gradient or circulation",
    "noise": "noise or drift",
    "growth": "growth or transport",
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Answer:
    """What the data say to one question.

    Attributes:
        question: a key of `QUESTIONS`.
        determined: whether they say anything.
        measure: what the number is.
        value: it; None where there is none.
        low: end of its 90 % interval; None where there is none.
        high: likewise.
        p_value: of the hypothesis that the verdict names; None where none is tested.
        verdict: in words.
    """

    question: Question
    determined: bool
    measure: str
    value: float | None
    low: float | None = None
    high: float | None = None
    p_value: float | None = None
    verdict: str

    def line(self) -> str:
        """For people."""
        told = "" if self.value is None else f"; {self.measure} {self.value:.3g}"
        if self.low is not None and self.high is not None:
            told += f" ({self.low:.3g} to {self.high:.3g})"
        if self.p_value is not None:
            told += f", p {self.p_value:.2g}"
        return f"{QUESTIONS[self.question]}: {self.verdict}{told}"


def _undetermined(question: Question, verdict: str, p_value: float | None = None) -> Answer:
    return Answer(
        question=question,
        determined=False,
        measure="",
        value=None,
        p_value=p_value,
        verdict=verdict,
    )


@checked
def identify(
    energy: FittedEnergy, snapshots: Snapshots, *, key: Key | None = None
) -> tuple[Answer, ...]:
    """Whether the data of an energy determine what was learned from them.

    Args:
        energy: one, and no stack.
        snapshots: that it was learned from.
        key: of the halves, and of cells where there are many; one and the same where absent.

    Raises:
        ValueError: a stack, or snapshots of another dimension.
    """
    energy.check_single()
    if energy.dimension != snapshots.dimension:
        raise ValueError(
            f"the energy has dimension {energy.dimension}, the snapshots {snapshots.dimension}"
        )
    key = jax.random.key(0) if key is None else key
    some = _some(snapshots, named_key(key, "cells"))
    with threadpool_limits(1, user_api="blas"):
        growth = ask_growth(some, key)
        return (
            ask_interaction(energy.seen_from(snapshots), some),
            ask_circulation(some, key, growth),
            ask_noise(some, None if energy.report is None else energy.report.beta),
            growth,
        )


def _some(snapshots: Snapshots, key: Key) -> Snapshots:
    """At most so many particles of every snapshot, about their own zero."""
    rng = np.random.default_rng(np.asarray(jax.random.key_data(key)).ravel())
    points, weights = np.asarray(snapshots.points), np.asarray(snapshots.weights)
    size = min(MOST_CELLS, points.shape[1])
    rows = np.empty((len(points), size), np.int64)
    for k, w in enumerate(weights):
        present = rng.permutation(np.flatnonzero(w))
        rows[k] = np.concatenate([present, np.flatnonzero(w == 0)])[:size]
    chosen = np.take_along_axis(weights, rows, axis=1)
    return dataclasses.replace(
        snapshots,
        points=jnp.asarray(np.take_along_axis(points, rows[..., None], axis=1)),
        weights=jnp.asarray(chosen / chosen.sum(axis=1, keepdims=True)),
        # The data are not asked where zero is; an energy is, as it is seen from here.
        origin=None,
        start=None,
    )


def _host(snapshots: Snapshots) -> tuple[list[HostArray], list[HostArray], HostArray]:
    """Particles, their weights, and the number of particles that these are worth."""
    points = [x.astype(np.float64) for x in snapshots.arrays()]
    weights = [w.astype(np.float64) / w.sum() for w in snapshots.array_weights()]
    return points, weights, np.array([1.0 / (w**2).sum() for w in weights])


def _too_few(snapshots: Snapshots) -> bool:
    return bool(_host(snapshots)[2].min() < FEWEST)


def ask_interaction(energy: FittedEnergy, snapshots: Snapshots) -> Answer:
    """V or U? By equations (1) and (2).

    Args:
        energy: one; its drift says which rates count.
        snapshots: relative to any origin.
    """
    points, weights, worth = _host(snapshots)
    tau = np.asarray(snapshots.dt, np.float64)
    means = np.stack([w @ x for x, w in zip(points, weights, strict=True)])
    spreads = np.array(
        [w @ ((x - m) ** 2).sum(axis=1) for x, w, m in zip(points, weights, means, strict=True)]
    )
    d = snapshots.dimension
    away = ((means - means.mean(axis=0)) ** 2).sum(axis=1)
    chance = spreads / worth
    lever = max(0.0, float((away - chance).mean()))
    share = lever / max(lever + spreads.mean(), np.finfo(float).tiny)
    noise = (chance[:-1] + chance[1:]) / d
    told = float((tau**2 * np.maximum(away - chance, 0.0)[:-1] / np.maximum(noise, 1e-300)).sum())
    error = 1.0 / np.sqrt(told) if told else float("inf")
    at_rest = equal_means(snapshots)
    rate = _contraction(energy, snapshots)
    determined = bool(at_rest < LEVEL and ndtri(0.95) * error < rate)
    if at_rest >= LEVEL:
        verdict = (
            "the mean does not move, so a quadratic U and the same in V give one drift: these data "
            "cannot tell them apart, only their sum"
        )
    elif determined:
        verdict = "the mean moves by enough to tell a quadratic U from V"
    else:
        verdict = (
            f"the mean hardly moves: a quadratic U and the same in V are told apart up to rates of "
            f"{ndtri(0.95) * error:.2g}, and the drift has {rate:.2g}"
        )
    return Answer(
        question="interaction",
        determined=determined,
        measure="share of the design that differs",
        value=float(share),
        p_value=at_rest,
        verdict=verdict,
    )


def _contraction(energy: FittedEnergy, snapshots: Snapshots) -> float:
    """|tr A| / d of the regression A x of the energy's drift, as a mean over the snapshots."""
    own = energy.seen_from(snapshots)
    rates = []
    for points, weights, t in zip(
        snapshots.points, snapshots.weights, snapshots.times, strict=True
    ):
        b = np.asarray(own.drift(points, points, weights=weights, t=t), np.float64)
        x, w = np.asarray(points, np.float64), np.asarray(weights, np.float64)
        w /= w.sum()
        z = x - w @ x
        variance = (w[:, None] * z**2).sum(axis=0)
        slopes = (w[:, None] * z * (b - w @ b)).sum(axis=0) / np.maximum(variance, 1e-300)
        rates.append(np.abs(slopes[variance > 0].mean()))
    return float(np.mean(rates))


def ask_circulation(snapshots: Snapshots, key: Key, growth: Answer | None = None) -> Answer:
    """A gradient? By equation (3).

    Args:
        snapshots: relative to no origin.
        key: of the halves.
        growth: what `ask_growth` found; None where cells are known not to multiply.
    """
    if snapshots.dimension == 1:
        return Answer(
            question="circulation",
            determined=True,
            measure="",
            value=None,
            verdict="on a line every velocity is a gradient",
        )
    if _too_few(snapshots):
        return _undetermined("circulation", _FEW)
    still = equal_laws(snapshots)
    if still >= LEVEL:
        return _undetermined(
            "circulation",
            "the laws do not change: a circulation that keeps them as they are is not seen",
            p_value=still,
        )
    if growth is not None and not growth.determined:
        return _undetermined(
            "circulation",
            "it is not known how much of the change is growth: where cells multiply and die in place "
            "of moving, couplings show turns that are none",
        )
    left, gain, error = np.mean(
        [_gain(a, b, key) for a, b in _halves(snapshots, named_key(key, "halves"))], axis=0
    )
    share = gain / left if left > 0 else 0.0
    half = ndtri(0.95) * error / left if left > 0 else None
    p_value = float(ndtr(-gain / max(error, 1e-300)))
    if p_value >= LEVEL:
        verdict = "a circulation predicts held-out cells no better than a potential alone"
    elif share < LEAST_SHARE:
        verdict = (
            f"a circulation predicts held-out cells a little better, by less than {LEAST_SHARE:.0%}: a "
            "richer potential may do so as well"
        )
    else:
        verdict = (
            "not a gradient: no potential V(x) that stays the same moves these cells as well as one "
            "with a circulation beside it (circulation=True, --circulation)"
        )
    return Answer(
        question="circulation",
        determined=bool(p_value >= LEVEL or share >= LEAST_SHARE),
        measure="share of what a potential leaves that a circulation removes",
        value=float(share),
        low=None if half is None else float(share - half),
        high=None if half is None else float(share + half),
        p_value=p_value,
        verdict=verdict,
    )


def _halves(snapshots: Snapshots, key: Key) -> list[tuple[Snapshots, Snapshots]]:
    """Both ways to learn from one half of each snapshot and to judge by the other."""
    rng = np.random.default_rng(np.asarray(jax.random.key_data(key)).ravel())
    weights = np.asarray(snapshots.weights)
    first = np.zeros_like(weights, dtype=bool)
    for k, w in enumerate(weights):
        present = rng.permutation(np.flatnonzero(w))
        first[k, present[: len(present) // 2]] = True
    parts = []
    for own in (first, ~first):
        mass = np.where(own, weights, 0)
        parts.append(
            dataclasses.replace(
                snapshots, weights=jnp.asarray(mass / mass.sum(axis=1, keepdims=True))
            )
        )
    return [(parts[0], parts[1]), (parts[1], parts[0])]


def _gain(part: Snapshots, judge: Snapshots, key: Key) -> tuple[float, float, float]:
    """What V leaves, by how much less c leaves, and the error of that; means over the steps."""
    couplings, _ = couple(part, key=named_key(key, "couplings"))
    fields = [
        _field(Terms(potential=True, circulation=turning), part, couplings, key)
        for turning in (False, True)
    ]
    points, weights, _ = _host(judge)
    found = []
    for k in range(judge.n_steps):
        own = weights[k], weights[k + 1]
        still, turned = (
            contributions(np.asarray(moved, np.float64), points[k + 1], *own)
            for moved in (
                field.predict(points[k].astype(np.float32), 1, start=k)[-1] for field in fields
            )
        )
        gain = still.distance - turned.distance
        found.append((still.distance, gain, variance_of_difference(still, turned, *own)))
    left, gain, variance = np.array(found).T
    return left.mean(), gain.mean(), np.sqrt(variance.sum()) / len(found)


def _field(terms: Terms, part: Snapshots, couplings: Couplings, key: Key) -> FittedEnergy:
    """What monomials learn from couplings that agree with them."""
    couplings, _ = settled_couplings(terms, part, couplings, FEATURES, key=key)
    model, constants = linear_model(terms, part, FEATURES)
    conditions = first_order_conditions(part, couplings, None, "explicit")
    params, _ = fit_linear(model, constants, conditions, regularization=RIDGE)
    return FittedEnergy(
        model=model, scheme="explicit", params=params, constants=constants, times=part.times
    )


def ask_noise(snapshots: Snapshots, beta: BetaReport | None = None) -> Answer:
    """Noise or drift? Beta and its error, where they mean something.

    Args:
        snapshots: relative to no origin.
        beta: the estimate of the fit; None where it made none.
    """
    still = one_law(snapshots)
    if still and not (beta and beta.paired):
        return _undetermined("noise", still, p_value=equal_laws(snapshots))
    if beta is None:
        return _undetermined(
            "noise",
            "no estimate of noise was made; where there is some, a part of it is taken for drift "
            "(a solver with an internal energy asks)",
        )
    half = None if beta.standard_error is None else INTERVAL * beta.standard_error
    wrong = too_much_noise(most_beta(snapshots), beta.value, beta.standard_error or 0.0)
    if wrong:
        return Answer(
            question="noise", determined=False, measure="beta", value=beta.value, verdict=wrong
        )
    # A beta that would not be noticed is known, too, however large its relative error.
    determined = bool(
        beta.converged
        and half is not None
        and (2.0 * half < beta.value or beta.value + half < NO_NOISE * _crossing(snapshots))
    )
    return Answer(
        question="noise",
        determined=determined,
        measure="beta",
        value=beta.value,
        low=None if half is None else max(0.0, beta.value - half),
        high=None if half is None else beta.value + half,
        verdict=(
            "the data tell noise from drift"
            if determined
            else "the data hardly tell noise from drift: a weaker drift with less noise fits as well"
        ),
    )


def _crossing(snapshots: Snapshots) -> float:
    """The beta with which noise alone would cross the population in the whole time."""
    points, weights, _ = _host(snapshots)
    square = [w @ ((x - w @ x) ** 2).sum(axis=1) for x, w in zip(points, weights, strict=True)]
    duration = float(np.ptp(np.asarray(snapshots.times, np.float64)))
    return float(np.mean(square)) / (2.0 * snapshots.dimension * duration)


def ask_growth(snapshots: Snapshots, key: Key) -> Answer:
    """Growth or transport? By equation (4).

    Args:
        snapshots: relative to no origin.
        key: of the couplings.
    """
    if _too_few(snapshots):
        return _undetermined("growth", _FEW)
    still = equal_laws(snapshots)
    if still >= LEVEL:
        return _undetermined(
            "growth",
            "the laws do not change: growth and transport may cancel, as where cells multiply in one "
            "place, move and die in another",
            p_value=still,
        )
    balanced, _ = couple(snapshots, key=named_key(key, "couplings"))
    cost, chance = _cost(snapshots, balanced), _chance(snapshots, key)
    if cost - chance <= LEAST_MOVED * chance:
        return _undetermined(
            "growth",
            "transport costs no more than between samples of one law: with so few cells in so many "
            "dimensions, what moved is not seen",
        )
    settings = GrowthSettings(growth_prices=(0.25,), growth_inducing=30)
    growth = estimate_growth(snapshots, settings, key=named_key(key, "growth"))
    # Growth follows chance, too, so that it may leave less than samples of one law cost.
    saved = min(1.0, (cost - _cost(snapshots, growth.couplings)) / (cost - chance))
    rates = np.asarray(growth.rates)[:-1][np.asarray(snapshots.weights)[:-1] > 0]
    rival = saved >= GROWTH_SAVES
    return Answer(
        question="growth",
        determined=not rival,
        measure="share of the transport that growth would save",
        value=float(saved),
        verdict=(
            f"cells moved, or they multiplied and died: growth at rates from {rates.min():.2g} to "
            f"{rates.max():.2g} about the mean leads to the same laws, and numbers of cells or "
            "lineages must tell"
            if rival
            else f"cells moved: growth would save less than {GROWTH_SAVES:.0%} of the transport"
        ),
    )


def _chance(snapshots: Snapshots, key: Key) -> float:
    """C_0 of equation (4), summed over the steps as `_cost` is."""
    (one, other), _ = _halves(snapshots, named_key(key, "chance"))
    costs = []
    for k in range(snapshots.n_snapshots):
        pair = dataclasses.replace(
            snapshots,
            points=jnp.stack([snapshots.points[k]] * 2),
            weights=jnp.stack([one.weights[k], other.weights[k]]),
            times=snapshots.times[:2],
        )
        couplings, _ = couple(pair, key=named_key(key, "chance"))
        costs.append(_cost(pair, couplings))
    middles = (np.array(costs[:-1]) + np.array(costs[1:])) / 2
    return float(middles.sum()) * 2.0 ** (-2.0 / max(2, snapshots.dimension))


def _cost(snapshots: Snapshots, couplings: Couplings) -> float:
    """Mean squared distance of the pairs of each step, summed over the steps."""
    points = np.asarray(snapshots.points, np.float64)
    step, source, target = (
        np.asarray(v) for v in (couplings.step, couplings.source, couplings.target)
    )
    squares = ((points[step, source] - points[step + 1, target]) ** 2).sum(axis=-1)
    return float(np.asarray(couplings.weight, np.float64) @ squares)
