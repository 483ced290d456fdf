"""Is the predicted law the observed one? Four scores, each beside yardsticks that learn nothing.

A step predicts hat mu_{k+1} from mu_k, and the observed mu_{k+1} judges it by

    W_1(hat mu_{k+1}, mu_{k+1})   (`transport.exact`), and W_2 on request,                         (1)

the energy distance, the accuracy of a two-sample test (C2ST) and the variance ratio
(`two_samples`). W_1 alone rewards shrinkage: the mean of where a particle may go is nearer to all
of these places than any one of them. What a score is worth is told by the `yardsticks`, measured
against the same particles.
"""

import dataclasses
import os
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from scipy.special import stdtrit

from diffusions.arguments import checked
from diffusions.short_repr import short_repr
from diffusions.typing import Bool, Float, HostArray, Key
from jkonet_star.snapshots import Snapshots
from jkonet_star.transport.couplings import Couplings
from jkonet_star.yardsticks import (
    MOST_TRANSPORTED,
    YARDSTICKS,
    Found,
    Yardsticks,
    measure_yardsticks,
    sample_of,
    scores_of,
)

CHANCE = 0.05
"""That of equal laws being told apart, in any of the scores and by any of the yardsticks."""
SCORES = {
    "energy_distance": "energy distance",
    "c2st": "C2ST",
    "variance_ratio": "variance ratio",
    "w1": "W1",
    "w2": "W2",
}
"""In words."""
_RIVALS = {"no_motion": "no motion", "lookup": "the lookup", "lookup_mean": "the lookup's mean"}
# What rounding leaves of equal scores.
_EQUAL = 1e-6


@dataclasses.dataclass(frozen=True, kw_only=True)
class Score:
    """One score of a prediction, beside its yardsticks. None: not measured, or not at every step.

    Attributes:
        mean: over steps and seeds.
        per_step: mean over seeds.
        per_seed: mean over steps.
        no_motion: mean over steps of the yardstick (1) of `yardsticks`.
        floor: of (2).
        lookup: of (3).
        lookup_mean: of (4).
        per_step_yardsticks: of each yardstick, by step.
    """

    mean: float | None
    per_step: list[float | None]
    per_seed: list[float | None]
    no_motion: float | None
    floor: float | None
    lookup: float | None
    lookup_mean: float | None
    per_step_yardsticks: dict[str, list[float | None]]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Law:
    """How a predicted law compares with the observed one.

    Attributes:
        energy_distance: in the units of the points; zero for equal laws, up to chance.
        c2st: 0.5 for equal laws, 1 for laws apart.
        variance_ratio: 1 for equal laws, less where the prediction has shrunk.
        w1: in the units of the points; compare it with the floor, since it is never zero.
        w2: likewise, where it was asked for.
        n_compared: particles a side, by step.
        n_transported: those of `w1` and `w2`.
        halved: whether one half of the particles judged the other, because these were learned from.
    """

    energy_distance: Score
    c2st: Score
    variance_ratio: Score
    w1: Score
    w2: Score | None = None
    n_compared: list[int]
    n_transported: list[int]
    halved: bool

    __repr__ = short_repr

    def scores(self) -> dict[str, Score]:
        """The scores that were measured, by name."""
        found = {name: getattr(self, name) for name in SCORES}
        return {name: score for name, score in found.items() if score is not None}

    def behind(self) -> dict[str, dict[str, bool]]:
        """Yardstick -> score in which it is the better one -> whether by more than chance.

        Compared are the steps that have both. By chance is what Student's t over these steps does
        not tell from zero at the level `CHANCE`, divided by the number of comparisons. One step
        alone tells nothing; what is infinitely far is no chance.
        """
        compared = {
            (rival, name): self._costs(name, rival) for rival in _RIVALS for name in self.scores()
        }
        tests = sum(len(own) > 1 for own, _ in compared.values())
        found: dict[str, dict[str, bool]] = {rival: {} for rival in _RIVALS}
        for (rival, name), costs in compared.items():
            clear = _behind(*costs, CHANCE / max(tests, 1))
            if clear is not None:
                found[rival][name] = clear
        return found

    def verdict(self) -> str:
        """In words: what beats the prediction, in which scores."""
        said = []
        for rival, names in self.behind().items():
            beats, level = (
                _listed([self._against(n, rival) for n, c in names.items() if c is clear])
                for clear in (True, False)
            )
            verbs = [f"beats this energy in {beats}"] if beats else []
            if level:
                verbs.append(f"is level with {'it' if beats else 'this energy'} in {level}")
            if verbs:
                said.append(f"{_RIVALS[rival]} {' and '.join(verbs)}")
        if said:
            return "; ".join(said)
        known = [rival for rival in _RIVALS if self._both("w1", rival).any()]
        told = [
            name
            for name, score in self.scores().items()
            if score.mean is not None and all(self._both(name, rival).any() for rival in known)
        ]
        if "energy_distance" not in told or not known:
            return "too few particles to judge"
        where = "every score"
        if len(told) < len(self.scores()):
            where = _listed([SCORES[name] for name in told])
        rivals = _listed([_RIVALS[rival] + self._some_steps("w1", rival) for rival in known])
        return f"the energy is better than {rivals} in {where}"

    def as_dict(self) -> dict[str, Any]:
        """Everything as plain numbers, with `beaten`, by more than chance, and `verdict`."""
        plain = {name: dataclasses.asdict(score) for name, score in self.scores().items()}
        return {
            **plain,
            "n_compared": self.n_compared,
            "n_transported": self.n_transported,
            "halved": self.halved,
            "beaten": any(any(names.values()) for names in self.behind().values()),
            "verdict": self.verdict(),
        }

    def _both(self, name: str, rival: str) -> Bool[np.ndarray, "t"]:
        """The steps that have a score of the prediction and of a yardstick."""
        score = getattr(self, name)
        own, other = _numbers(score.per_step), _numbers(score.per_step_yardsticks[rival])
        return ~np.isnan(own) & np.isfinite(other)

    def _costs(self, name: str, rival: str) -> tuple[HostArray, HostArray]:
        """By how much the prediction and a yardstick are off, at the steps that have both."""
        score, both = getattr(self, name), self._both(name, rival)
        own, other = (_cost(name, v) for v in (score.per_step, score.per_step_yardsticks[rival]))
        return own[both], other[both]

    def _some_steps(self, name: str, rival: str) -> str:
        both = self._both(name, rival)
        return "" if both.all() else f" on {np.count_nonzero(both)} of {len(both)} steps"

    def _against(self, name: str, rival: str) -> str:
        score, both = getattr(self, name), self._both(name, rival)
        own, other = (
            _numbers(v)[both].mean() for v in (score.per_step, score.per_step_yardsticks[rival])
        )
        steps = self._some_steps(name, rival)
        return f"{SCORES[name]} ({other:.3g} against {own:.3g}{steps})"


@checked
def judge_law(
    predicted: Float[np.ndarray, "s t n d"] | Float[np.ndarray, "t n d"],
    snapshots: Snapshots,
    *,
    learned_from: Snapshots | None = None,
    couplings: Couplings | None = None,
    weights: Float[np.ndarray, "t n"] | Float[np.ndarray, "s t n"] | None = None,
    order: int = 1,
    key: Key | None = None,
    beside: Yardsticks | None = None,
) -> Law:
    """The four scores of predictions, beside their yardsticks.

    Args:
        predicted: of every step, the particles of its first snapshot one step ahead, relative to the
            snapshots' origin; with a leading axis, of several seeds.
        snapshots: the observed population.
        learned_from: that of the fit; without it, only `no_motion` is there.
        couplings: of `learned_from`; without them, there are no lookups.
        weights: of the predicted particles, with a leading axis of every seed; those of the snapshots
            where absent.
        order: 2 for W_2 beside W_1.
        key: of the choice of particles; one and the same where absent.
        beside: `measure_yardsticks` of the same snapshots, in place of the last five.

    Raises:
        ValueError: as `measure_yardsticks`; predictions of another shape than the snapshots.
    """
    points = np.asarray(predicted)
    points = points[None] if points.ndim == 3 else points
    expected = (snapshots.n_steps, *snapshots.points.shape[1:])
    if points.shape[1:] != expected:
        raise ValueError(f"predictions must have shape {expected}, got {points.shape[1:]}")
    mass = np.asarray(snapshots.weights[:-1] if weights is None else weights, np.float64)
    if mass.shape not in (expected[:2], points.shape[:3]):
        raise ValueError(f"weights must have shape {expected[:2]}, got {mass.shape}")
    mass = np.broadcast_to(mass, points.shape[:3])
    if beside is None:
        beside = measure_yardsticks(
            snapshots, learned_from=learned_from, couplings=couplings, order=order, key=key
        )
    orders = beside.orders

    def one(s: int, k: int) -> Found:
        step = beside.steps[k]
        sample = sample_of(points[s, k], mass[s, k], step.rows)
        return scores_of(sample, step.observed, orders, step.entropy)

    # The solvers release the interpreter's lock.
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        pending = [
            [pool.submit(one, s, k) for k in range(len(beside.steps))] for s in range(len(points))
        ]
        found = [[step.result() for step in seed] for seed in pending]
    sizes = [len(step.rows) for step in beside.steps]
    return Law(
        **{name: _summary(name, found, beside) for name in _names(orders)},
        n_compared=sizes,
        n_transported=[min(n, MOST_TRANSPORTED) for n in sizes],
        halved=beside.halved,
    )


def _names(orders: tuple[int, ...]) -> tuple[str, ...]:
    return (*list(SCORES)[:3], *(f"w{p}" for p in orders))


def _summary(name: str, found: list[list[Found]], beside: Yardsticks) -> Score:
    """One score of all seeds and steps."""
    values = np.array([[step[name] for step in seed] for seed in found])
    rulers = {
        ruler: np.array([s.yardsticks.get(ruler, {}).get(name, np.nan) for s in beside.steps])
        for ruler in YARDSTICKS
    }
    return Score(
        mean=_plain(values.mean()),
        per_step=[_plain(v) for v in values.mean(axis=0)],
        per_seed=[_plain(v) for v in values.mean(axis=1)],
        **{ruler: _plain(v.mean()) for ruler, v in rulers.items()},
        per_step_yardsticks={ruler: [_plain(x) for x in v] for ruler, v in rulers.items()},
    )


def _plain(value: float) -> float | None:
    return None if np.isnan(value) else float(value)


def _numbers(values: list[float | None]) -> Float[np.ndarray, "t"]:
    return np.array([np.nan if v is None else v for v in values], np.float64)


def _cost(name: str, values: list[float | None]) -> Float[np.ndarray, "t"]:
    """By how much a score is off: less is better."""
    numbers = _numbers(values)
    if name == "c2st":
        return np.maximum(numbers, 0.5)
    return np.abs(np.log(np.maximum(numbers, 1e-300))) if name == "variance_ratio" else numbers


def _behind(
    own: Float[np.ndarray, "s"], other: Float[np.ndarray, "s"], level: float
) -> bool | None:
    """Whether a yardstick is better by more than chance; None where it is not better.

    Args:
        own: costs of the prediction, by step.
        other: those of the yardstick.
        level: of the test.
    """
    if not len(own):
        return None
    if not np.isfinite(own).all():
        return True
    excess = own - other
    if excess.mean() <= _EQUAL * max(np.abs(other).max(), np.abs(own).max()):
        return None
    if len(excess) < 2:
        return False
    error = excess.std(ddof=1) / np.sqrt(len(excess))
    return bool(excess.mean() > stdtrit(len(excess) - 1, 1.0 - level) * error)


def _listed(words: list[str]) -> str:
    return " and ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)
