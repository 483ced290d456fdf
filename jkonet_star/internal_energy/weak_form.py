"""Noise and drift from independent snapshots, by moments of test functions.

For a test function f and one Euler step of noise 2 beta tau, with z = x - tau b_theta(x) and
b_theta = sum_l theta_l G_l,

    E f(y) = E (P f)(z),   (P f)(z) = E f(z + sqrt(2 beta tau) xi),                                 (1)

exactly, whatever the pairing of x and y. The tests f are those of `weak_form_tests`, standardised.
For the residual
g_k = mean f(y) - mean (P f)(z) and its derivative B_k by (beta, theta),

    B_k = tau [mean lap P f, -mean G . grad P f],                                                   (2)

generalised least squares weighs by the inverse of the residuals' covariance. A snapshot ends one
step and begins the next, so that this is block-tridiagonal,

    Omega_kk = Cov(f(y_k))/m + Cov(P f(z_k))/n,   Omega_{k,k+1} = -Cov(f(x_{k+1}), P f(z_{k+1}))/n. (3)

B, g and Omega from the same particles would be correlated, and the estimate attenuated. Each
snapshot is split in `FOLDS` parts, and for every two parts a, c the normal equations take B from
one, g from the other and W = Omega^{-1} from all the rest,

    sum_{a<c} B_a^T W B_c (step) = sum_{a<c} (B_a^T W g_c + B_c^T W g_a) / 2 - prior,               (4)

so that no product has a bias of the order of its noise. Likewise, of the residuals at the solution

    misfit = sum_{a<c} g_a^T W g_c / its standard deviation                                         (5)

is about zero for a true model, give or take one, and large where the drift is not what it was taken
for. With beta_a the solution of (4) without the terms of part a, to first order,

    (standard error of beta)^2 = (FOLDS - 1) mean_a (beta_a - mean_b beta_b)^2,                     (6)

where the inverse of the matrix in (4) would promise a third of the true error, at 200 particles.
Tests are first projected on the leading eigenvectors of their pooled covariance; what is left out has
variance below that of `RIDGE`.
"""

import dataclasses
import itertools
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
from scipy.linalg import solve_triangular

from diffusions.typing import Float
from jkonet_star.internal_energy.euler_steps import Steps
from jkonet_star.internal_energy.moments import MOST_BUMPS, Tests, make_bumps

FOLDS = 6
RIDGE = 0.01
"""Added to the covariance of the standardised tests."""
RIDGE_PARTICLES = 10.0
"""Over their number, where that is larger: the covariance of few particles is hardly known."""
SMALLEST_VARIANCE = 1e-3
TRUNCATION = 0.05
"""Eigenvalues of the scaled normal equations below are not resolved and left out."""
MOST_MOVE = 2.0
"""Of a bump's width: how far an iteration may move particles, in the root mean square."""
ITERATIONS = 15
WEIGHT_ITERATIONS = 3
"""Iterations after which B and Omega stay fixed."""


Instruments = list[tuple[int, int, np.ndarray, np.ndarray]]
"""Two parts a, c with W B_a and W B_c, (steps j, columns) each."""
Covariance = tuple[list[np.ndarray], list[np.ndarray]]
"""The blocks of (3) on the diagonal and above it."""


class WeakFormFit(NamedTuple):
    """A root of equation (4)."""

    theta: np.ndarray
    beta: float
    iterations: int
    converged: bool
    misfit: float  # of equation (5)
    standard_error: float  # of beta, by equation (6)


class BlockTridiagonal:
    """A symmetric block-tridiagonal matrix, factorised by blocks.

    By Cholesky's method, in half of the time of any other. Covariances are positive definite but for
    rounding: where a trial drift throws particles far away it is larger than all that a ridge adds, and
    inverses of the pivots carry on, so that a search finds its way back.

    Args:
        diagonal: blocks (k, k).
        upper: blocks (k, k + 1).

    Raises:
        LinAlgError: a pivot has no inverse.
    """

    def __init__(self, diagonal: list[np.ndarray], upper: list[np.ndarray]):
        self._solver: _Cholesky | _Elimination
        try:
            self._solver = _Cholesky(diagonal, upper)
        except np.linalg.LinAlgError:
            self._solver = _Elimination(diagonal, upper)

    def solve(self, right: Sequence[np.ndarray]) -> list[np.ndarray]:
        """The solution for right-hand sides, one (rows, columns) block per diagonal block."""
        return self._solver.solve(right)

    def log_determinant(self) -> float:
        """Of the absolute value of the whole determinant."""
        return self._solver.log_determinant()


class _Cholesky:
    """By lower factors of the pivots; LinAlgError where one is not positive definite."""

    def __init__(self, diagonal: list[np.ndarray], upper: list[np.ndarray]):
        self.factors, self.above = [np.linalg.cholesky(diagonal[0])], []
        for pivot, above in zip(diagonal[1:], upper, strict=True):
            self.above.append(_forward(self.factors[-1], above))
            # Of one array with itself a product takes half the work.
            self.factors.append(np.linalg.cholesky(pivot - self.above[-1].T @ self.above[-1]))

    def solve(self, right: Sequence[np.ndarray]) -> list[np.ndarray]:
        reduced: list[np.ndarray] = []
        for k, (factor, value) in enumerate(zip(self.factors, right, strict=True)):
            reduced.append(
                _forward(factor, value - self.above[k - 1].T @ reduced[-1] if k else value)
            )
        solution: list[np.ndarray] = []
        for k, factor in reversed(list(enumerate(self.factors))):
            value = reduced[k] - self.above[k] @ solution[-1] if solution else reduced[k]
            solution.append(
                solve_triangular(factor, value, lower=True, trans=1, check_finite=False)
            )
        return solution[::-1]

    def log_determinant(self) -> float:
        return 2.0 * sum(float(np.log(np.diag(factor)).sum()) for factor in self.factors)


def _forward(factor: np.ndarray, right: np.ndarray) -> np.ndarray:
    return solve_triangular(factor, right, lower=True, check_finite=False)


class _Elimination:
    """By inverses of the pivots."""

    def __init__(self, diagonal: list[np.ndarray], upper: list[np.ndarray]):
        self.upper, self.pivots = upper, [diagonal[0]]
        self.inverses = [np.linalg.inv(diagonal[0])]
        for block, above in zip(diagonal[1:], upper, strict=True):
            pivot = block - above.T @ self.inverses[-1] @ above
            self.pivots.append(0.5 * (pivot + pivot.T))
            self.inverses.append(np.linalg.inv(self.pivots[-1]))

    def solve(self, right: Sequence[np.ndarray]) -> list[np.ndarray]:
        reduced: list[np.ndarray] = [right[0]]
        for k, value in enumerate(right[1:]):
            reduced.append(value - self.upper[k].T @ (self.inverses[k] @ reduced[-1]))
        solution = [self.inverses[-1] @ reduced[-1]]
        for k in range(len(self.upper) - 1, -1, -1):
            solution.append(self.inverses[k] @ (reduced[k] - self.upper[k] @ solution[-1]))
        return solution[::-1]

    def log_determinant(self) -> float:
        return sum(float(np.linalg.slogdet(pivot)[1]) for pivot in self.pivots)


class Folds:
    """Weighted sums over the parts of one snapshot, whose rows are sorted by part."""

    def __init__(self, weights: np.ndarray):
        n = len(weights)
        bounds = np.linspace(0, n, FOLDS + 1).astype(int)
        self.parts = [slice(a, b) for a, b in itertools.pairwise(bounds)]
        self.weights = weights
        self.mass = np.array([weights[p].sum() for p in self.parts])
        self.count = 1.0 / float((weights**2).sum())  # effective, of weights that sum to 1

    def means(self, values: np.ndarray) -> np.ndarray:
        """(FOLDS, columns) means."""
        sums = [self.weights[p] @ values[p] for p in self.parts]
        return np.stack(sums) / self.mass[:, None]

    def products(self, left: np.ndarray, right: np.ndarray) -> np.ndarray:
        """(FOLDS, columns, columns) sums of outer products."""
        return np.stack([(left[p] * self.weights[p, None]).T @ right[p] for p in self.parts])

    def squares(self, values: np.ndarray) -> np.ndarray:
        """Those of values with themselves, in half the time."""
        rooted = values * np.sqrt(self.weights)[:, None]
        return np.stack([rooted[p].T @ rooted[p] for p in self.parts])


def fit_weak_form(
    steps: Steps,
    weights: list[np.ndarray],
    tests: Tests | None,
    theta: Float[np.ndarray, "f"],
    beta: float,
    precision: Float[np.ndarray, "f"],
) -> WeakFormFit:
    """Solves equation (4) for beta and theta.

    Args:
        steps: the data; rows in random order. Target k and source k + 1 are the same array.
        weights: of the particles, one array per snapshot.
        tests: further test functions.
        theta: where to start, and the mean of the prior.
        beta: likewise.
        precision: of the prior.
    """
    problem = WeakForm(steps, weights, tests)
    f = steps.n_features
    prior = np.append(0.0, precision)
    estimate = centre = np.append(beta, theta)
    converged, iteration = False, 0
    smallest = float((problem.bumps.widths**2).min() / steps.tau.max())
    instruments: list = []
    curvature = np.zeros((f + 1, f + 1))
    for iteration in range(1, ITERATIONS + 1):
        fresh = iteration <= WEIGHT_ITERATIONS
        slopes, gaps, smoothed = problem.linearise(estimate, derivatives=fresh)
        if fresh:
            instruments, curvature = problem.instruments(slopes, smoothed)
        moment = problem.moment(instruments, gaps)
        scale = np.sqrt(np.maximum(np.abs(np.diag(curvature)) + prior, 1e-300))
        values, basis = np.linalg.eigh((curvature + np.diag(prior)) / scale / scale[:, None])
        inverse = np.where(values > TRUNCATION, 1.0 / np.where(values > TRUNCATION, values, 1), 0)
        slope = (moment - prior * (estimate - centre)) / scale
        step = basis @ (inverse * (basis.T @ slope)) / scale
        # Linearisation holds while particles stay on the bumps that they are on.
        farthest = problem.distance(step[1:])
        step[1:] *= min(1.0, MOST_MOVE * float(problem.bumps.widths.max()) / max(farthest, 1e-300))
        updated = estimate + step
        updated[0] = np.clip(updated[0], 0.0, max(4.0 * estimate[0], 0.005 * smallest))
        change = abs(updated[0] - estimate[0])
        estimate = updated
        if iteration > WEIGHT_ITERATIONS and change <= 1e-3 * max(estimate[0], 2e-4 * smallest):
            converged = True
            break
    _, gaps, smoothed = problem.linearise(estimate, derivatives=False)
    moved = []  # beta_a of equation (6), less beta
    for part in range(FOLDS):
        without = problem.moment(instruments, gaps, without=part)
        slope = (without - prior * (estimate - centre)) / scale
        moved.append(float(basis[0] @ (inverse * (basis.T @ slope)) / scale[0]))
    return WeakFormFit(
        estimate[1:],
        float(estimate[0]),
        iteration,
        converged,
        problem.misfit(gaps, smoothed),
        float(np.sqrt((FOLDS - 1) * np.var(moved))),
    )


class WeakForm:
    """The sums of equation (4).

    Attributes:
        steps: the data, as in `fit_weak_form`.
        folds: of every snapshot.
        count: effective particles per snapshot.
        bumps: test functions, with `tests` behind them.
    """

    def __init__(
        self,
        steps: Steps,
        weights: list[np.ndarray],
        tests: Tests | None,
        most_bumps: int = MOST_BUMPS,
    ):
        self.steps, self.tests = steps, tests
        snapshots = [*steps.sources, steps.targets[-1]]
        pool = np.concatenate(snapshots)
        self.bumps = make_bumps(pool, len(pool) // len(snapshots), most_bumps)
        self.folds = [Folds(w / w.sum()) for w in weights]
        self.count = float(np.mean([f.count for f in self.folds]))
        raw = np.split(
            np.hstack([v for v, _, _ in self.values(pool, 0.0)]),
            np.cumsum([len(x) for x in snapshots])[:-1],
        )
        stacked = np.concatenate(raw)
        mean, deviation = stacked.mean(axis=0), stacked.std(axis=0)
        self.inverse_deviation = np.where(deviation > 1e-12, 1.0 / np.maximum(deviation, 1e-12), 0)
        standard = (stacked - mean) * self.inverse_deviation
        values, vectors = np.linalg.eigh(standard.T @ standard / len(standard))
        kept = values > SMALLEST_VARIANCE
        # Values are centred before any sum: constants have no slope, only rounding.
        self.mean = mean
        self.projection = self.inverse_deviation[:, None] * vectors[:, kept]
        self.observed = [(r - mean) @ self.projection for r in raw]
        # One product of the observed with themselves per snapshot serves all iterations.
        self.observed_products = [
            fold.squares(f) for fold, f in zip(self.folds, self.observed, strict=True)
        ]
        self.observed_means = [
            fold.means(f) for fold, f in zip(self.folds, self.observed, strict=True)
        ]
        # Slopes along a direction act on the drift's features along that direction.
        self.along = [[_along(g, w) for w in self.bumps.directions] for g in steps.features]

    def values(self, z: np.ndarray, heat: float) -> list:
        """Blocks of (values, slopes, Laplacians) of all tests; slopes of `tests` are (d, n, q)."""
        blocks: list = list(self.bumps.smoothed(z, heat))
        if self.tests is not None:
            value, gradient, laplacian = self.tests(z)
            blocks.append((value + heat * laplacian, gradient, laplacian))
        return blocks

    def distance(self, theta: np.ndarray) -> float:
        """Root mean square of the way that a change of theta moves particles, the largest step's."""
        pairs = zip(self.steps.transported(theta), self.steps.sources, strict=True)
        return max(float(np.sqrt(((z - x) ** 2).sum(axis=1).mean())) for z, x in pairs)

    def linearise(
        self, estimate: np.ndarray, *, derivatives: bool
    ) -> tuple[np.ndarray, np.ndarray, list[np.ndarray]]:
        """B (folds, steps, j, 1 + f), g (folds, steps, j) and P f(z) of every step."""
        steps, f = self.steps, self.steps.n_features
        z = steps.transported(estimate[1:])
        j = self.projection.shape[1]
        slopes = np.zeros((FOLDS, steps_count := len(z), j, f + 1))
        gaps = np.zeros((FOLDS, steps_count, j))
        smoothed = []
        for k, tau in enumerate(steps.tau):
            blocks = self.values(z[k], tau * float(estimate[0]))
            fold = self.folds[k]
            image = (np.hstack([b[0] for b in blocks]) - self.mean) @ self.projection
            smoothed.append(image)
            gaps[:, k] = self.observed_means[k + 1] - fold.means(image)
            if not derivatives:
                continue
            laplacian = np.hstack([b[2] for b in blocks]) @ self.projection
            slopes[:, k, :, 0] = tau * fold.means(laplacian)
            if f:
                for a, part in enumerate(fold.parts):
                    own = self._drift_slopes(blocks, k, part) / fold.mass[a]
                    slopes[a, k, :, 1:] = -tau * self.projection.T @ own
        return slopes, gaps, smoothed

    def mean_gradients(self, k: int, points: np.ndarray, heat: float) -> np.ndarray:
        """Means of grad P f over points with the weights of snapshot k, (j, d)."""
        w = self.folds[k].weights
        blocks = self.values(points, heat)
        rows = [
            np.outer(w @ block[1], direction)
            for block, direction in zip(blocks, self.bumps.directions, strict=False)
        ]
        if self.tests is not None:
            rows.append(np.stack([w @ slope for slope in blocks[-1][1]], axis=1))
        return self.projection.T @ np.vstack(rows)

    def _drift_slopes(self, blocks: list, k: int, part: slice) -> np.ndarray:
        """Weighted sums of G . grad P f over one part, (tests, f)."""
        w = self.folds[k].weights[part, None]
        n_directions = len(self.bumps.directions)
        rows = [(blocks[q][1][part] * w).T @ self.along[k][q][part] for q in range(n_directions)]
        if self.tests is not None:
            gradient, g = blocks[-1][1], self.steps.features[k]
            rows.append(sum((gradient[i][part] * w).T @ g[i][part] for i in range(len(g))))
        return np.vstack(rows)

    def moment(
        self, instruments: Instruments, gaps: np.ndarray, *, without: int | None = None
    ) -> np.ndarray:
        """The right-hand side of equation (4), less the prior; without the terms of one part."""
        kept = [row for row in instruments if without not in row[:2]]
        total = sum(gaps[c].ravel() @ wa + gaps[a].ravel() @ wc for a, c, wa, wc in kept)
        return self.count * total / (2 * len(kept))

    def sums(self, smoothed: list[np.ndarray], observed: list[np.ndarray] | None = None) -> "Sums":
        """What covariances are made of.

        Args:
            smoothed: what a particle adds to the residual of the step that it begins, P f(z) of (3).
            observed: likewise of the step that it ends; f(y) where not given.
        """
        folds, own, means = self.folds, self.observed_products, self.observed_means
        if observed is None:
            observed = self.observed
        elif observed is not self.observed:
            own = [q.squares(o) for q, o in zip(folds, observed, strict=True)]
            means = [q.means(o) for q, o in zip(folds, observed, strict=True)]
        return Sums(
            folds,
            self.count,
            own,
            means,
            [folds[k].squares(s) for k, s in enumerate(smoothed)],
            [folds[k].means(s) for k, s in enumerate(smoothed)],
            # The first snapshot ends no step.
            [folds[k].products(observed[k], s) for k, s in enumerate(smoothed) if k],
        )

    def deviance(
        self, residual: np.ndarray, smoothed: list[np.ndarray], observed: list[np.ndarray]
    ) -> float:
        """Minus twice the Gaussian log likelihood of mean residuals (steps, j), but for a constant.

        Other arguments as of `sums`; the covariance (3) is that of all parts.
        """
        omega = BlockTridiagonal(*self.sums(smoothed, observed).covariance(range(FOLDS)))
        solved = omega.solve(list(residual[..., None]))
        total = self.count * float(np.sum(np.stack(solved)[..., 0] * residual))
        return total + omega.log_determinant()

    def instruments(
        self,
        slopes: np.ndarray,
        smoothed: list[np.ndarray],
        observed: list[np.ndarray] | None = None,
    ) -> tuple[Instruments, np.ndarray]:
        """(a, c, W B_a, W B_c) for every two parts, and the matrix of equation (4).

        Args:
            slopes: B.
            smoothed: as of `sums`.
            observed: likewise.
        """
        f1 = slopes.shape[-1]
        found, curvature = [], np.zeros((f1, f1))
        pairs = list(itertools.combinations(range(FOLDS), 2))
        sums = self.sums(smoothed, observed)

        def solved(pair: tuple[int, int]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
            a, c = pair
            omega = BlockTridiagonal(*sums.covariance([q for q in range(FOLDS) if q not in pair]))
            both = np.concatenate(
                omega.solve(list(np.concatenate([slopes[a], slopes[c]], axis=-1)))
            )
            wa, wc = (np.ascontiguousarray(own) for own in (both[:, :f1], both[:, f1:]))
            return wa, wc, wa.T @ slopes[c].reshape(-1, f1)

        # NumPy's products let go of the interpreter.
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            for (a, c), (wa, wc, product) in zip(pairs, pool.map(solved, pairs), strict=True):
                found.append((a, c, wa, wc))
                curvature += product
        curvature = self.count * (curvature + curvature.T) / (FOLDS * (FOLDS - 1))
        return found, curvature

    def misfit(
        self,
        gaps: np.ndarray,
        smoothed: list[np.ndarray],
        observed: list[np.ndarray] | None = None,
    ) -> float:
        """The sum over a < c of g_a^T W g_c, over its standard deviation for a true model."""
        found, _ = self.instruments(gaps[..., None], smoothed, observed)
        total = sum(float(gaps[c].ravel() @ own[:, 0]) for a, c, own, _ in found)
        total *= 2.0 * self.count / (FOLDS * (FOLDS - 1))
        dimensions = gaps.shape[1] * gaps.shape[2]
        return total / float(np.sqrt(2.0 * dimensions * FOLDS / (FOLDS - 1)))


@dataclasses.dataclass(frozen=True)
class Sums:
    """Sums over the parts of every snapshot, of which (3) is made for any of them."""

    folds: list[Folds]
    count: float
    observed_squares: list[np.ndarray]  # each (FOLDS, j, j)
    observed_means: list[np.ndarray]  # each (FOLDS, j)
    smoothed_squares: list[np.ndarray]
    smoothed_means: list[np.ndarray]
    products: list[np.ndarray]  # of observed and smoothed, from the second snapshot on

    def covariance(self, parts: Sequence[int]) -> Covariance:
        """(3) from some parts."""
        n_steps, parts = len(self.smoothed_means), list(parts)
        ridge = max(RIDGE, RIDGE_PARTICLES / self.count) * np.eye(self.smoothed_means[0].shape[1])

        def of(
            k: int, sums: np.ndarray, left: list[np.ndarray], right: list[np.ndarray]
        ) -> np.ndarray:
            fold = self.folds[k]
            mass = fold.mass[parts]
            total = mass.sum()
            one, two = mass @ left[k][parts] / total, mass @ right[k][parts] / total
            found = sums[parts[0]] / total
            for part in parts[1:]:
                found += sums[part] / total
            found -= np.outer(one, two)
            found *= self.count / fold.count
            return found

        ends, begins = self.observed_means, self.smoothed_means
        diagonal = [
            of(k + 1, self.observed_squares[k + 1], ends, ends)
            + of(k, self.smoothed_squares[k], begins, begins)
            + 2 * ridge
            for k in range(n_steps)
        ]
        upper = [-of(k, self.products[k - 1], ends, begins) - ridge for k in range(1, n_steps)]
        return diagonal, upper


def _along(features: Float[np.ndarray, "d n f"], w: Float[np.ndarray, "d"]) -> np.ndarray:
    """Features along w, without a copy where w is a coordinate."""
    axis = int(np.argmax(w))
    if w[axis] == 1.0:
        return features[axis]
    return np.tensordot(w, features, axes=1)
