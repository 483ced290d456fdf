"""The drift of independent snapshots, by the weak form alone: which features, and with what error.

Equation (4) of `weak_form` is solved with the features that the data ask for. With F its matrix and m
its right-hand side at an estimate, t = m + F estimate, a set S of features explains

    chi^2_S = t_S^T F_S^{-1} t_S,    and the set of the largest  chi^2_S - log(n) dim S              (1)

is taken: n particles a snapshot, sets nested by the number of coordinates and the degree of their
monomials, radial functions last, those of V and of U in turn. What is left out is zero. Linearisation,
weights, sets and both unknowns are iterated until nothing moves.

Particles that interact are not independent. The drift of all of them depends on where each one is,
so that a snapshot's chance moves it as a whole: of this a few sharp edges would seem to tell far more
than they do. If every particle pulls the others by q (x - x'), t_k is the time since the first snapshot
and bar x the mean, then to first order in q t_k a particle adds to a test's mean

    f(y) + q t_k (E grad f) . (y - bar y)    where its step ends,                                    (2)
    P f(z) + q t_{k+1} (E grad P f) . (x - bar x)    where it begins,                                (3)

of which Omega is the covariance. Without these terms errors are several times those promised. The
drift hardly tells q, since V and a quadratic U can be exchanged, but the residuals do: q is the one of
the greatest likelihood,

    n g^T Omega^{-1} g + log det Omega + log(n) dim S,    least at the solution's residual g,        (4)

and it is the coefficient of |z|^2 / 2 in U, whose other features of that degree are left out. Without
a V there is nothing to exchange: the features of U are all free then, and q is of Omega alone.

The covariance of the unknowns is F_S^{-1}, times the ratio to it, where that is above one, of what
leaving out one part after the other gives, as equation (6) there.
"""

import functools
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from diffusions.typing import Float
from jkonet_star.energies.features import Features
from jkonet_star.energies.models import LinearEnergy
from jkonet_star.internal_energy.euler_steps import Steps
from jkonet_star.internal_energy.moments import Tests
from jkonet_star.internal_energy.weak_form import FOLDS, MOST_MOVE, Instruments, WeakForm

ITERATIONS = 20
SELECTIONS = 8
"""Iterations after which the set of features stays."""
WEIGHTINGS = 10
"""Iterations after which B and Omega stay."""
FIRST_SELECTIONS = 3
"""Iterations that look at small sets only: large ones follow any error of the linearisation."""
GROWTH = 2
"""Of a set, from one iteration to the next, at most."""
DOUBTFUL_MISFIT = 1.0
"""From which on all monomials are tried beside the set that was found."""
SWEEPS = 2
PULLS = (-0.5, -0.25, 0.0, 0.12, 0.25, 0.37, 0.5, 0.75, 1.0)
"""q times all the time that was observed, to begin with; then steps that halve once none is better."""
PULL_STEP = 0.2
LARGEST_PULL = 2.0
"""To first order in q t there is no more: a pull of this size is not accepted."""
LARGEST_RIDGE = 1e-2
SETTLED = 0.01
"""Of the width of a bump, by which particles still move at convergence."""


class WeakFormDrift(NamedTuple):
    """Drift and noise at unit scale.

    Attributes:
        theta: of all features; zero where they were left out.
        beta: of the noise.
        kept: which features were not.
        covariance: of beta and the coefficients of `kept`.
        attraction: q of equation (2).
        misfit: of `weak_form`, equation (5).
        iterations: that were taken.
        converged: whether nothing moved any more, and q is within its bounds.
        criterion: (4) at the solution.
    """

    theta: np.ndarray
    beta: float
    kept: np.ndarray
    covariance: np.ndarray
    attraction: float
    misfit: float
    iterations: int
    converged: bool
    criterion: float


def feature_sets(features: Features | None, start: int) -> list[np.ndarray]:
    """Sets of features of one energy, from none to all, as indices that begin at `start`."""
    sets = [np.zeros(0, int)]
    if features is None:
        return sets
    exponents = np.array(features.exponents, int).reshape(-1, features.dimension)
    total, active = exponents.sum(axis=1), (exponents > 0).sum(axis=1)
    largest = int(exponents.max(initial=0))
    masks = [(active == 1) & (total <= q) for q in range(1, largest + 1)]
    masks += [total <= q for q in range(2, int(total.max(initial=0)) + 1)]
    sets += [np.flatnonzero(mask) for mask in masks]
    n_polynomial = features.n_features - features.n_centers
    sets += [np.arange(n_polynomial), np.arange(features.n_features)]
    distinct = {tuple(own): own for own in sets}
    return [start + own for own in distinct.values()]


def _gauge(features: Features | None, own: np.ndarray) -> np.ndarray:
    """Which features of U can be exchanged for some of V, but for the chance of a snapshot's mean."""
    if features is None:
        return np.zeros(len(own), bool)
    total = np.array(features.exponents, int).reshape(-1, features.dimension).sum(axis=1)
    degree = np.concatenate([total, np.full(features.n_features - len(total), 99)])
    return degree[own] <= 2


def _squares(features: Features | None, start: int, size: int) -> np.ndarray:
    """The coefficients of |z|^2 / 2."""
    theta = np.zeros(size)
    if features is not None:
        for i, e in enumerate(features.exponents):
            if max(e) == sum(e) == 2:
                theta[start + i] = 0.5
    return theta


def simple_size(features: Features | None) -> int:
    """Of the sets from which the search starts: up to all quadratic monomials."""
    return 0 if features is None else features.dimension * (features.dimension + 3) // 2


def _solve(
    matrix: Float[np.ndarray, "k k"], right: Float[np.ndarray, "k"], ridge: float
) -> tuple[np.ndarray, np.ndarray, float]:
    """The solution with a ridge at unit diagonal for all but beta, the covariance, and its degrees."""
    scale = 1.0 / np.sqrt(np.maximum(np.abs(np.diag(matrix)), 1e-300))
    scaled = matrix * scale * scale[:, None]
    scaled[np.diag_indices(len(scale))] += np.append(0.0, np.full(len(scale) - 1, ridge))
    values, basis = np.linalg.eigh(scaled)
    resolved = values > 0.5 * ridge
    basis = basis[:, resolved]
    inverse = (basis / values[resolved]) @ basis.T
    degrees = resolved.sum() - ridge * np.trace(inverse[1:, 1:])
    covariance = inverse * scale * scale[:, None]
    return covariance @ right, covariance, float(degrees)


def select(
    matrix: np.ndarray,
    right: np.ndarray,
    ridge: float,
    count: float,
    groups: list[list[np.ndarray]],
) -> np.ndarray:
    """The set (1), as indices among beta (0) and the features (from 1)."""
    chosen = [own[0] for own in groups]
    known: dict[bytes, float] = {}

    def rows_of(sets: list[np.ndarray]) -> np.ndarray:
        return np.concatenate([np.zeros(1, int), *(1 + own for own in sets)])

    def score(sets: list[np.ndarray]) -> float:
        rows = rows_of(sets)
        name = rows.tobytes()
        if name not in known:
            solution, _, degrees = _solve(matrix[np.ix_(rows, rows)], right[rows], ridge)
            known[name] = float(right[rows] @ solution) - np.log(count) * degrees
        return known[name]

    for _ in range(SWEEPS):
        for g, own in enumerate(groups):
            trials = [[*chosen[:g], one, *chosen[g + 1 :]] for one in own]
            chosen = max(trials, key=score)
    return rows_of(chosen)


class _Influence:
    """The terms of equations (2) and (3)."""

    def __init__(self, problem: WeakForm):
        self.problem, steps = problem, problem.steps
        self.points = [*steps.sources, steps.targets[-1]]
        self.times = np.concatenate([[0.0], np.cumsum(steps.tau)]) / steps.tau.sum()
        self.centred = [x - q.weights @ x for x, q in zip(self.points, problem.folds, strict=True)]

    @functools.cached_property
    def ends(self) -> list[np.ndarray]:
        """That of (2), for all of the time."""
        return [
            t * x @ self.problem.mean_gradients(k, y, 0.0).T
            for k, (t, x, y) in enumerate(zip(self.times, self.centred, self.points, strict=True))
        ]

    def begins(self, estimate: np.ndarray) -> list[np.ndarray]:
        """That of (3), likewise."""
        steps, heat = self.problem.steps, self.problem.steps.tau * float(estimate[0])
        return [
            self.times[k + 1] * self.centred[k] @ self.problem.mean_gradients(k, z, heat[k]).T
            for k, z in enumerate(steps.transported(estimate[1:]))
        ]

    def at(
        self, estimate: np.ndarray, smoothed: list[np.ndarray]
    ) -> Callable[[float], tuple[list[np.ndarray], list[np.ndarray]]]:
        """What each particle adds where its step begins, and where it ends, for q times all time."""
        begins = functools.cache(lambda: self.begins(estimate))

        def influenced(pull: float) -> tuple[list[np.ndarray], list[np.ndarray]]:
            observed = self.problem.observed
            if not pull:
                return smoothed, observed
            return (
                [one + pull * two for one, two in zip(smoothed, begins(), strict=True)],
                [one + pull * two for one, two in zip(observed, self.ends, strict=True)],
            )

        return influenced


def fit_weak_form_drift(
    model: LinearEnergy,
    steps: Steps,
    weights: list[np.ndarray],
    tests: Tests | None,
    theta: Float[np.ndarray, "f"],
    beta: float,
) -> WeakFormDrift:
    """Equation (4) of `weak_form` with the features of (1) and the covariance of (2) and (3).

    A search that begins far from the solution may end at a set that is too small: where its misfit
    leaves a doubt, all monomials are tried, too, and the lesser (4) decides.

    Args:
        model: whose features these are.
        steps: the data; rows in random order. Target k and source k + 1 are the same array.
        weights: of the particles, one array per snapshot.
        tests: further test functions.
        theta: where to start.
        beta: likewise.
    """
    problem = WeakForm(steps, weights, tests)
    found = _search(model, problem, theta, beta, whole=False)
    features = (model.potential_features, model.interaction_features)
    radial = any(own is not None and own.n_centers for own in features)
    if radial or (found.converged and found.misfit < DOUBTFUL_MISFIT):
        return found
    other = _search(model, problem, theta, beta, whole=True)
    better = not found.converged or other.criterion < found.criterion
    return other if other.converged and better else found


def _search(
    model: LinearEnergy, problem: WeakForm, theta: np.ndarray, beta: float, *, whole: bool
) -> WeakFormDrift:
    """The solution for the set (1), or for the whole of the features."""
    steps = problem.steps
    potential = model.potential_features
    n_potential = 0 if potential is None else potential.n_features
    groups = [feature_sets(potential, 0), feature_sets(model.interaction_features, n_potential)]
    squares = np.zeros(len(theta))
    if potential is not None:
        squares = _squares(model.interaction_features, n_potential, len(theta))
        own = [s[~_gauge(model.interaction_features, s - n_potential)] for s in groups[1]]
        groups[1] = own
    most = [
        max(simple_size(potential), model.dimension * 4),
        simple_size(model.interaction_features),
    ]
    if whole:
        groups = [own[-1:] for own in groups]
        most = [len(theta), len(theta)]
    pulls = PULLS if model.has_interaction else (0.0,)
    influences = _Influence(problem)
    span = float(steps.tau.sum())
    width = float(problem.bumps.widths.max())
    smallest = float((problem.bumps.widths**2).min() / steps.tau.max())
    estimate = np.append(beta, theta)
    rows, converged, iteration = np.arange(len(estimate)), False, 0
    pull = ridge = 0.0
    pull_step = PULL_STEP
    instruments: Instruments = []
    slopes, matrix = np.zeros(0), np.zeros((0, 0))
    for iteration in range(1, ITERATIONS + 1):
        fresh = iteration <= WEIGHTINGS
        new_slopes, gaps, smoothed = problem.linearise(estimate, derivatives=fresh)
        if fresh:
            slopes = new_slopes
            influence = influences.at(estimate, smoothed)
        if iteration <= SELECTIONS:
            near = pulls if iteration == 1 or len(pulls) == 1 else _neighbours(pull, pull_step)
            if iteration > FIRST_SELECTIONS:
                sizes = [int(np.isin(own[-1], rows - 1).sum()) for own in groups]
                most = [max(a, GROWTH * b) for a, b in zip(most, sizes, strict=True)]
            small = [
                [one for one in own if len(one) <= size]
                for own, size in zip(groups, most, strict=True)
            ]
            choices = [
                _weighted(
                    problem,
                    slopes,
                    gaps + slopes @ (estimate - np.append(0.0, one / span * squares)),
                    influence(one),
                    small,
                )
                for one in near
            ]
            best = min(range(len(near)), key=lambda i: choices[i].criterion)
            if iteration > 1 and near[best] == pull:
                pull_step /= 2
            pull, rows = near[best], choices[best].rows
            instruments, matrix = choices[best].instruments, choices[best].matrix
            ridge = choices[best].ridge
        elif fresh:
            instruments, matrix = problem.instruments(slopes[..., rows], *influence(pull))
        fixed = np.append(0.0, pull / span * squares)
        right = problem.moment(instruments, gaps + slopes @ (estimate - fixed))
        target = fixed.copy()
        target[rows] = _solve(matrix, right, ridge)[0]
        step = target - estimate
        # Linearisation holds while particles stay on the bumps that they are on.
        farthest = problem.distance(step[1:])
        step[1:] *= min(1.0, MOST_MOVE * width / max(farthest, 1e-300))
        updated = estimate + step
        updated[0] = np.clip(updated[0], 0.0, max(4.0 * estimate[0], 0.005 * smallest))
        change = abs(updated[0] - estimate[0])
        estimate = updated
        still = change <= 1e-3 * max(estimate[0], 2e-4 * smallest)
        if iteration > SELECTIONS and still and farthest <= SETTLED * width:
            converged = True
            break
    _, gaps, smoothed = problem.linearise(estimate, derivatives=False)
    influenced = influences.at(estimate, smoothed)(pull)
    _, _, degrees = _solve(matrix, right, ridge)
    return WeakFormDrift(
        estimate[1:],
        float(estimate[0]),
        rows[1:] - 1,
        _covariance(problem, instruments, matrix, gaps, ridge),
        pull / float(steps.tau.sum()),
        problem.misfit(gaps, *influenced),
        iteration,
        converged and pull < LARGEST_PULL - pull_step,
        problem.deviance(gaps.mean(axis=0), *influenced) + np.log(problem.count) * degrees,
    )


def _neighbours(pull: float, step: float) -> list[float]:
    """The pull and those beside it, within bounds."""
    return sorted({pull, max(pull - step, PULLS[0]), min(pull + step, LARGEST_PULL)})


class _Weighted(NamedTuple):
    """The normal equations of the set (1) for one q, and (4)."""

    rows: np.ndarray
    instruments: Instruments
    matrix: np.ndarray
    ridge: float
    criterion: float


def _weighted(
    problem: WeakForm,
    slopes: np.ndarray,
    gaps: np.ndarray,
    influence: tuple[list[np.ndarray], list[np.ndarray]],
    groups: list[list[np.ndarray]],
) -> _Weighted:
    """Weighs by the covariance of an influence, what is in any of the sets: no more is needed.

    Args:
        problem: the sums.
        slopes: B of beta and of all features.
        gaps: g where beta and all coefficients but the fixed ones are zero.
        influence: of one q.
        groups: the sets of each energy, features counted from 0.
    """
    columns = np.unique(np.concatenate([[0], *(1 + own for sets in groups for own in sets)]))
    slopes = np.concatenate([slopes[..., columns], gaps[..., None]], axis=-1)
    instruments, matrix = problem.instruments(slopes, *influence)
    total = float(matrix[-1, -1])
    ridge = min(1.0 / max(total, 1.0), LARGEST_RIDGE)
    matrix, right = matrix[:-1, :-1], matrix[:-1, -1]
    among = [[np.searchsorted(columns, 1 + own) - 1 for own in sets] for sets in groups]
    rows = select(matrix, right, ridge, problem.count, among)
    matrix = matrix[np.ix_(rows, rows)]
    solution, _, degrees = _solve(matrix, right[rows], ridge)
    residual = (slopes[..., -1] - slopes[..., rows] @ solution).mean(axis=0)
    return _Weighted(
        columns[rows],
        [(a, c, one[..., rows], two[..., rows]) for a, c, one, two in instruments],
        matrix,
        ridge,
        problem.deviance(residual, *influence) + np.log(problem.count) * degrees,
    )


def spread_out(found: WeakFormDrift, own: LinearEnergy, whole: LinearEnergy) -> WeakFormDrift:
    """The same drift in terms of an energy with further features behind those of V and of U."""
    place, start = [], 0
    for one, all_of in (
        (own.potential_features, whole.potential_features),
        (own.interaction_features, whole.interaction_features),
    ):
        if one is not None and all_of is not None:
            place.append(start + np.arange(one.n_features))
            start += all_of.n_features
    to = np.concatenate(place)
    theta = np.zeros(start)
    theta[to] = found.theta
    return found._replace(theta=theta, kept=to[found.kept])


def _covariance(
    problem: WeakForm, instruments: Instruments, matrix: np.ndarray, gaps: np.ndarray, ridge: float
) -> np.ndarray:
    """Of the unknowns that the instruments are of."""
    right = [problem.moment(instruments, gaps, without=part) for part in range(FOLDS)]
    _, inverse, _ = _solve(matrix, right[0], ridge)
    spread = (FOLDS - 1) * np.var(np.stack(right) @ inverse, axis=0)
    promised = np.maximum(np.diag(inverse), 1e-300)
    return inverse * max(1.0, float(np.mean(spread / promised)))
