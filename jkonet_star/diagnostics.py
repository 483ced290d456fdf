r"""What a fit can say of itself from its own data: is the motion explained, do few particles decide it?

A pair (x, y) of the plan ends, by an energy whose residual (`objectives`, equation (1)) is r, at

    z = x + (y - x) - r + sqrt(2 beta tau) xi,                                                      (1)

the noise where beta is a constant of the energy. With D(P, Q) = 2 E|X - Y| - E|X - X'| - E|Y - Y'| the
energy distance, unbiased, and s_k = E|Y - Y'| the size of snapshot k + 1,

    D_0 = sum_k D(mu_k, mu_{k+1}) / sum_k s_k,   D_1 = sum_k D(law of z, mu_{k+1}) / sum_k s_k      (2)

compare the next snapshot with no motion and with the energy's. Between samples of one law D_0 is zero
up to chance, a few times 1 / n, whatever the law; nothing is said below `CHANCE` / n. Above it, an
energy that removes less than half of D_0 does not explain how the population moves: the motion is no
gradient, or changes in time, or the training ended too early.

Growth that is not learned is taken for transport: where shares of places that rest change, balanced
couplings carry particles from one to the other. With r(p; S) the distance from p to its fifth neighbour
in S, a pair (x, y) of mu_k and mu_{k+1} does so if

    r((x + y) / 2; mu_k + mu_{k+1})^d > `EMPTY` max(r(x; mu_{k+1}), r(y; mu_k))^d:                  (3)

both places are taken at the other time, too, and it is emptier between them. Motion leaves the place
behind it, or moves through where particles are: on simulated motion no pair is found, where clusters
that rest have a tenth of the mass in such pairs. Chance changes shares, too, by p (1 - p) (1/n + 1/m):
said is what exceeds three standard errors of the mean over the steps at p = 1/2.

Outliers are judged by the median m of the distances |x - center| from the median point of a snapshot:
few particles, each beyond `FAR` m, that together carry more than half of the sum of squares, and so
decide a fit by least squares. Heavy tails seldom do (Student's t with three degrees of freedom: one
snapshot in a hundred); displacements are not judged, since a steep energy throws few particles far.
"""

import dataclasses
import functools
from typing import TYPE_CHECKING, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from diffusions.typing import Array, Float, HostArray, Int, Key
from jkonet_star.fitted import FittedEnergy
from jkonet_star.snapshots import Snapshots
from jkonet_star.solvers.first_order import FirstOrderConditions, residuals
from jkonet_star.two_samples import mean_distance, nearest, spread
from jkonet_star.units import ROUNDING

if TYPE_CHECKING:
    from jkonet_star.solvers.problem import Problem

MOST_PAIRS = 1000
"""Pairs of a step that are looked at, and particles of a snapshot."""
MOST_PAIRS_IN_ALL = 20_000
INTERACTION_SAMPLES = 16
CHANCE = 8.0
LEAST_EXPLAINED = 0.5
EMPTY = 4.0
NEIGHBOURS = 5
MOST_NEIGHBOURS = 3000
"""Particles of a snapshot in (3)."""
FAR = 50.0
FEW = 0.01
SAID = 3


@dataclasses.dataclass(frozen=True, kw_only=True)
class Explanation:
    """Equation (2), in plain numbers that JSON can hold.

    Attributes:
        no_motion: D_0.
        predicted: D_1 of each energy.
        chance: what D_0 and D_1 must exceed to mean anything.
    """

    no_motion: float
    predicted: list[float]
    chance: float

    def unexplained(self) -> list[int]:
        """The energies that explain less than half of the motion, or are worse than none."""
        least = max(self.chance, (1.0 - LEAST_EXPLAINED) * self.no_motion)
        # NaN compares false, so that an energy without a value is never called explained.
        return [i for i, value in enumerate(self.predicted) if not value <= least]

    def warning(self) -> str | None:
        """One line, where there is something to say."""
        bad = self.unexplained()
        if not bad:
            return None
        worst = max(self.predicted[i] for i in bad)
        if not np.isfinite(worst):
            return "the learned energy is not finite where the particles are"
        which = "" if len(bad) == len(self.predicted) else f" (of energies {bad})"
        return (
            f"the learned energy does not explain the motion{which}: its relative energy distance to "
            f"the next snapshot is {worst:.3g}, without any motion {self.no_motion:.3g}; no gradient "
            "may fit these data, or none that is the same at all times, or training ended too early"
        )


class Outliers(NamedTuple):
    """A few particles that decide a snapshot."""

    snapshot: int
    particles: int
    ratio: float  # distance of the farthest to that of the median particle


@functools.partial(jax.jit, static_argnames=("interaction_samples",))
def _residuals(
    energies: FittedEnergy,
    conditions: FirstOrderConditions,
    rows: Int[Array, "b"],
    key: Key,
    interaction_samples: int,
) -> Float[Array, "s b d"]:
    """The residuals of some pairs, of every energy of a stack."""

    def one(energy: FittedEnergy) -> Array:
        return residuals(
            energy.model,
            energy.params,
            energy.constants,
            conditions,
            rows,
            key=key,
            interaction_samples=interaction_samples,
        )[0]

    return jax.vmap(one)(energies)


def _some(rng: np.random.Generator, rows: HostArray, most: int) -> HostArray:
    return rows if len(rows) <= most else np.sort(rng.choice(rows, most, replace=False))


def explanation(problem: "Problem", energies: FittedEnergy) -> Explanation:
    """Equation (2) of a stack of energies, on the data that they were fitted to.

    Args:
        problem: of the fit.
        energies: every leaf with a leading seed axis.
    """
    rng = np.random.default_rng(0)
    conditions, snapshots = problem.conditions, problem.snapshots
    points = np.asarray(snapshots.points)
    weights = np.asarray(snapshots.weights, np.float64)
    step, mass = np.asarray(conditions.step), np.asarray(conditions.weight, np.float64)
    most = min(MOST_PAIRS, max(100, MOST_PAIRS_IN_ALL // snapshots.n_steps))
    parts = [_some(rng, np.flatnonzero(step == k), most) for k in range(snapshots.n_steps)]
    rows = np.concatenate(parts)
    x = points[step[rows], np.asarray(problem.couplings.source)[rows]].astype(np.float64)
    if energies.substeps == 1:
        ends = _by_residuals(problem, energies, rows, x, rng)
    else:  # the residuals are those of one step, by which none of these predicts
        ends = _predicted(energies, snapshots, x, step[rows], mass[rows])

    distances = np.zeros(1 + len(ends))
    size = smallest = 0.0
    stops = np.cumsum([len(part) for part in parts])
    for k, (stop, part) in enumerate(zip(stops, parts, strict=True)):
        own = slice(stop - len(part), stop)
        a = mass[part] / mass[part].sum()
        seen = _some(rng, np.flatnonzero(weights[k + 1]), most)
        y, b = points[k + 1, seen], weights[k + 1, seen] / weights[k + 1, seen].sum()
        between = spread(y, b)
        for i, z in enumerate([x[own], *ends[:, own]]):
            # A prediction beyond all bounds has no distance; it must not end the others'.
            with np.errstate(all="ignore"):
                distances[i] += 2.0 * mean_distance(z, y, a, b) - spread(z, a) - between
        size += between
        smallest = max(smallest, (a**2).sum(), (b**2).sum())
    if _is_one_point(points):
        distances[:] = 0.0  # rounding over rounding would be no number to judge by
    size = max(size, np.finfo(np.float64).tiny)
    return Explanation(
        no_motion=float(distances[0] / size),
        predicted=(distances[1:] / size).tolist(),
        # 1 / n is the sum of the squared weights; several steps vary less in their mean than one.
        chance=CHANCE * smallest / float(np.sqrt(snapshots.n_steps)),
    )


def _by_residuals(
    problem: "Problem",
    energies: FittedEnergy,
    rows: HostArray,
    x: HostArray,
    rng: np.random.Generator,
) -> Float[np.ndarray, "s m d"]:
    """Where pairs at some rows end, less what the energies do not explain of it, with their noise."""
    conditions = problem.conditions
    samples = INTERACTION_SAMPLES if energies.model.has_interaction else 0
    found = _residuals(energies, conditions, jnp.asarray(rows), jax.random.key(0), samples)
    variance = 2.0 * _constant_betas(problem, energies)[:, None] * np.asarray(conditions.tau)[rows]
    noise = np.sqrt(variance)[..., None] * rng.standard_normal(x.shape)
    shift = np.asarray(conditions.displacement)[rows].astype(np.float64) + noise
    return x + shift - np.asarray(found, np.float64)


def _predicted(
    energies: FittedEnergy, snapshots: Snapshots, x: HostArray, step: HostArray, mass: HostArray
) -> Float[np.ndarray, "s m d"]:
    """Where particles, each of its step, go by the energies' own steps."""
    seen, ends = energies.seen_from(snapshots), np.empty((len(energies.times), *x.shape))
    for k in range(snapshots.n_steps):
        own = step == k
        inside = (
            jnp.asarray(x[own], jnp.float32),
            jnp.asarray(mass[own] / mass[own].sum(), jnp.float32),
            snapshots.times[k],
            snapshots.dt[k],
        )
        key = jax.random.fold_in(jax.random.key(0), k)

        def one(energy: FittedEnergy, inside: tuple = inside, key: Key = key) -> Array:
            noise = None if energy.model.internal == "none" else key
            return energy.advanced(*inside, key=noise)[0].points

        ends[:, own] = jax.vmap(one)(seen)
    return ends


def _constant_betas(problem: "Problem", energies: FittedEnergy) -> Float[np.ndarray, "s"]:
    """Of each energy whose residual has no part of it: given beforehand, or found by a refinement."""
    if problem.internal is not None:
        return np.full(len(energies.times), problem.internal.beta)
    if energies.model.internal == "none" or problem.density is not None:
        return np.zeros(len(energies.times))
    return np.asarray(jax.vmap(lambda energy: energy.beta)(energies), np.float64)


def _is_one_point(points: HostArray) -> bool:
    low, high = (f(points, axis=(0, 1)).astype(np.float64) for f in (np.min, np.max))
    return bool((high - low).max() <= ROUNDING * max(np.abs(low).max(), np.abs(high).max()))


def point_warning(snapshots: Snapshots) -> str | None:
    """One line, where there is nothing to learn from."""
    if not _is_one_point(np.asarray(snapshots.points)):
        return None
    return "all particles of all snapshots are at one point: there is nothing to learn from"


def data_warnings(problem: "Problem", found: list[Outliers]) -> list[str]:
    """What is wrong with the data of a fit, a line each.

    Args:
        problem: of the fit.
        found: `outliers` of its snapshots.
    """
    lines = (
        point_warning(problem.snapshots),
        outlier_warning(found),
        growth_warning(problem),
        beta_warning(problem),
    )
    return [line for line in lines if line is not None]


def beta_warning(problem: "Problem") -> str | None:
    """One line, where the data do not determine beta, or growth was taken for it."""
    if problem.internal is None:
        return None
    if problem.internal.unknown:
        return f"beta {problem.internal.beta:.3g} is not determined: {problem.internal.unknown}"
    if problem.growth is None:
        return None
    return (
        f"beta {problem.internal.beta:.3g} was estimated as if nothing grew: where growth widens or "
        "narrows the population it is taken for noise; learn growth with a solver without an internal "
        "energy, or beta with beta_estimator 'first-order'"
    )


def growth_warning(problem: "Problem") -> str | None:
    """One line, where couplings without growth carry particles between places that rest."""
    if problem.growth is not None or problem.weak_form is not None:
        return None
    found, chance = carried(problem)
    if found <= chance:
        return None
    return (
        f"growth or transport? {found:.0%} of the particles go, by their couplings, from one place to "
        "another that are both taken before and after, with few in between: if particles multiply or "
        "die there, learn it with growth=True (--growth)"
    )


def carried(problem: "Problem") -> tuple[float, float]:
    """The share of the mass in pairs (3), mean over the steps, and what it must exceed."""
    rng = np.random.default_rng(0)
    couplings, snapshots = problem.couplings, problem.snapshots
    points = np.asarray(snapshots.points)
    weights = np.asarray(snapshots.weights, np.float64)
    step, mass = np.asarray(couplings.step), np.asarray(couplings.weight, np.float64)
    source, target = np.asarray(couplings.source), np.asarray(couplings.target)
    most = min(MOST_PAIRS, max(100, MOST_PAIRS_IN_ALL // snapshots.n_steps))
    shares, inverse_counts = [], []
    for k in range(snapshots.n_steps):
        own = _some(rng, np.flatnonzero((step == k) & (mass > 0)), most)
        before, after = (
            points[j, _some(rng, np.flatnonzero(weights[j]), MOST_NEIGHBOURS)].astype(np.float64)
            for j in (k, k + 1)
        )
        x = points[k, source[own]].astype(np.float64)
        y = points[k + 1, target[own]].astype(np.float64)
        between = _fifth(np.concatenate([before, after]), (x + y) / 2)
        taken = np.maximum(_fifth(after, x), _fifth(before, y))
        empty = between > EMPTY ** (1 / snapshots.dimension) * taken
        shares.append(mass[own[empty]].sum() / mass[own].sum())
        inverse_counts.append((weights[k] ** 2).sum() + (weights[k + 1] ** 2).sum())
    # The mean of |z| of a normal z, and its deviation.
    deviation = np.sqrt(0.25 * np.mean(inverse_counts))
    chance = deviation * (0.8 + 3 * 0.6 / np.sqrt(len(shares)))
    return float(np.mean(shares)), float(chance)


def _fifth(points: HostArray, queries: HostArray) -> HostArray:
    """From each query the distance to its fifth neighbour, or to the last there is."""
    last = nearest(points, queries, NEIGHBOURS)[:, -1]
    return np.linalg.norm(points[last] - queries, axis=1)


def outliers(snapshots: Snapshots) -> list[Outliers]:
    """The snapshots that a few particles decide; see the module header."""
    points, weights = np.asarray(snapshots.points), np.asarray(snapshots.weights)
    found = []
    for k, (x, w) in enumerate(zip(points, weights, strict=True)):
        there = w > 0
        w = w[there]
        square = np.zeros(len(w))
        for column in x.T:  # a million cells need no second copy in double precision
            values = column[there].astype(np.float64)
            square += (values - np.median(values)) ** 2
        length = np.sqrt(square)
        median = float(np.median(length))
        far = length > FAR * median
        n_far = int(far.sum())
        if median == 0.0 or not 0 < n_far <= max(1.0, FEW * len(w)):
            continue
        square = w * length**2
        if square[far].sum() > 0.5 * square.sum():
            found.append(Outliers(k, n_far, float(length.max() / median)))
    return found


def outlier_warning(found: list[Outliers]) -> str | None:
    """One line, where there is something to say."""
    if not found:
        return None
    said = "; ".join(
        f"{o.particles} particle{'s' * (o.particles > 1)} of snapshot {o.snapshot} up to "
        f"{o.ratio:.3g} times"
        for o in found[:SAID]
    )
    rest = f"; and in {len(found) - SAID} more snapshots" if len(found) > SAID else ""
    return f"outliers decide the fit: {said} as far from the median as the median particle{rest}"
