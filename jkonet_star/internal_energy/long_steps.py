r"""Noise and drift of independent snapshots that lie far apart, by moments after many short steps.

`weak_form` takes one Euler step from a snapshot to the next. Where the drift changes within it, no
coefficients explain the snapshots. Here m steps of Heun's method do, of weak order two (Kloeden and
Platen, Numerical Solution of Stochastic Differential Equations, 1992, section 14.2),

    e = z - h c(z) + sqrt(2 beta h) xi,   z' = z - h (c(z) + c(e)) / 2 + sqrt(2 beta h) xi,         (1)
    c = b / sqrt(1 + |h b|^2),   h = tau / m,                                                       (2)

the last one an Euler step, whose noise the test functions average exactly. (2) changes the drift in the
order of the method, and holds particles that a trial drift would throw out. With the same xi for all
trials, and xi and -xi for each particle, moments are smooth functions of eta = (beta, theta), with the
derivative S = dz / d eta carried along,

    S' = S - h d(c(z) + c(e)) / 2 + xi d sqrt(2 beta h),                                            (3)

and eta minimises the misfit of all tests, by Levenberg and Marquardt's method,

    chi^2 = n g^T Omega^{-1} g,   Omega of `weak_form`, equation (3), at the last accepted eta.     (4)

first with few steps, to find it and the features that the data ask for, then with enough. At the
minimum it is about its degrees of freedom for a drift that suffices. There may be several minima: near
equilibrium a common factor of eta changes little. Two starts tell. B, g and Omega are of the same
particles, without the parts of `weak_form`, equation (4): tests are few, and steps so long that noise
does not rule them. The covariance of eta is (B^T Omega^{-1} B)^{-1} / n.
"""

import dataclasses
import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from diffusions.precision import double_precision
from diffusions.typing import Array, Float, PyTree
from jkonet_star.energies.features import Features
from jkonet_star.energies.models import LinearEnergy
from jkonet_star.internal_energy.euler_steps import Steps
from jkonet_star.internal_energy.moments import potential_tests
from jkonet_star.internal_energy.weak_form import FOLDS, BlockTridiagonal, WeakForm
from jkonet_star.internal_energy.weak_form_drift import WeakFormDrift, feature_sets, select

FEW = 8
ENOUGH = 24
"""Steps: m of (1), to search and to end with."""
MOST_MOVED = 2000
"""Of a snapshot: every one is moved, with its derivatives, in each iteration."""
BUMPS = 10
"""Along each direction. With four times as many, beside monomials of the highest degrees, chi^2 follows
the chance in Omega: beta then errs by several of its standard errors."""
ITERATIONS = 25
WEIGHTINGS = 8
"""Iterations after which Omega stays: it follows the estimate, and the estimate it."""
SELECTIONS = 2
STARTS = (1.0, 3.0)
"""Of beta and theta together: the factor that snapshots near equilibrium tell least."""
DAMPING = 1e-2
"""Of the scaled normal equations, to begin with."""
DAMPING_FACTOR = 10.0
MOST_DAMPING = 1e6
SETTLED = 0.05
"""Of chi^2, by which an iteration still lowers it at convergence: far less than one."""
LARGEST_DIMENSION = 2
"""Derivatives by all unknowns are carried for every particle and step: in more dimensions they take
minutes and gigabytes, and none of what is known of this estimate was measured there."""
LEAST_RELATIVE_BETA = 1e-4
"""Of the noise that would cross a bump in one step: the derivative of its root is infinite at zero."""
RIDGE = 1e-9


@functools.partial(jax.jit, static_argnames="features")
def _moved(
    features: Features,
    centers: Float[Array, "c d"],
    points: Float[Array, "n d"],
    h: Float[Array, "n"],
    noise: Float[Array, "m n d"],
    estimate: Float[Array, "f1"],
) -> tuple[Float[Array, "n d"], Float[Array, "n d f1"]]:
    """Where (1) takes each point, up to the noise of the last step, and (3)."""
    beta, theta = estimate[0], estimate[1:]

    def bounded(b: Array, h: Array) -> Array:
        return b / jnp.sqrt(1.0 + h**2 * (b @ b))

    def drift(z: Array, s: Array, h: Array) -> tuple[Array, Array]:
        """The c of (2) and its derivative by eta."""
        own = features.jacobian(centers, z).T
        b, hessian = own @ theta, jax.jacfwd(lambda y: features.jacobian(centers, y).T @ theta)(z)
        by_eta = hessian @ s + jnp.pad(own, ((0, 0), (1, 0)))
        return bounded(b, h), jax.jacfwd(bounded)(b, h) @ by_eta

    def heun(z: Array, s: Array, h: Array, xi: Array) -> tuple[Array, Array]:
        kick = jnp.sqrt(2.0 * beta * h) * xi
        by_beta = jnp.zeros_like(s).at[:, 0].set(jnp.sqrt(h / (2.0 * beta)) * xi)
        c, dc = drift(z, s, h)
        c_end, dc_end = drift(z - h * c + kick, s - h * dc + by_beta, h)
        return z - h * (c + c_end) / 2 + kick, s - h * (dc + dc_end) / 2 + by_beta

    def step(carry: tuple, xi: Array) -> tuple[tuple, None]:
        z, s = carry
        return jax.vmap(heun)(z, s, h, xi), None

    start = points, jnp.zeros((*points.shape, estimate.shape[0]))
    (z, s), _ = jax.lax.scan(step, start, noise)
    c, dc = jax.vmap(drift)(z, s, h)
    return z - h[:, None] * c, s - h[:, None, None] * dc


class _Linearised(NamedTuple):
    """B and g of every step, and what each particle adds where its step begins."""

    slopes: np.ndarray  # (steps, j, 1 + f)
    gaps: np.ndarray  # (steps, j)
    smoothed: list[np.ndarray]


class _LongSteps:
    """The sums of equation (4)."""

    def __init__(
        self,
        form: WeakForm,
        features: Features,
        centers: np.ndarray,
        substeps: int,
        seed: int,
    ):
        self.form, self.substeps = form, substeps
        self.steps = steps = form.steps
        self.features, self.centers = features, centers
        self.sizes = [len(x) for x in steps.sources]
        widths = form.bumps.widths
        self.least = LEAST_RELATIVE_BETA * float((widths**2).min() / steps.tau.max())
        points = np.concatenate(steps.sources)
        noise = np.random.default_rng(seed).normal(size=(substeps - 1, *points.shape))
        self.points = np.concatenate([points, points])
        self.noise = np.concatenate([noise, -noise], axis=1)
        self.h = np.tile(np.repeat(steps.tau / substeps, self.sizes), 2)
        self.means = [fold.weights @ f for fold, f in zip(form.folds, form.observed, strict=True)]

    def linearise(self, estimate: np.ndarray) -> _Linearised:
        """At (beta, theta)."""
        form, cuts = self.form, np.cumsum(self.sizes + self.sizes)[:-1]
        with double_precision():
            inside = self.centers, self.points, self.h, self.noise, estimate
            moved = _moved(self.features, *(jnp.asarray(v, jnp.float64) for v in inside))
        ends, by_eta = (np.split(np.asarray(v), cuts) for v in moved)
        slopes, gaps, smoothed = [], [], []
        for k, tau in enumerate(self.steps.tau):
            h, w = tau / self.substeps, form.folds[k].weights
            images, by_unknown = [], []
            for own in (k, k + len(self.sizes)):
                blocks = form.values(ends[own], h * estimate[0])
                images.append(np.hstack([b[0] for b in blocks]))
                rows = [
                    (block[1] * w[:, None]).T @ np.tensordot(by_eta[own], along, (1, 0))
                    for block, along in zip(blocks, form.bumps.directions, strict=False)
                ]
                rows.append(
                    np.einsum("inq,n,nif->qf", blocks[-1][1], w, by_eta[own], optimize=True)
                )
                by_unknown.append(np.vstack(rows))
                by_unknown[-1][:, 0] += h * (w @ np.hstack([b[2] for b in blocks]))
            smoothed.append((np.mean(images, axis=0) - form.mean) @ form.projection)
            slopes.append(form.projection.T @ np.mean(by_unknown, axis=0))
            gaps.append(self.means[k + 1] - w @ smoothed[-1])
        return _Linearised(np.stack(slopes), np.stack(gaps), smoothed)

    def weighing(self, at: _Linearised) -> BlockTridiagonal:
        """Omega."""
        return BlockTridiagonal(*self.form.sums(at.smoothed).covariance(range(FOLDS)))

    def normal(
        self, at: _Linearised, omega: BlockTridiagonal
    ) -> tuple[np.ndarray, np.ndarray, float]:
        """The sums n B^T Omega^{-1} B, n B^T Omega^{-1} g and (4)."""
        both = np.concatenate([at.slopes, at.gaps[..., None]], axis=-1)
        solved = np.stack(omega.solve(list(both)))
        total = self.form.count * np.einsum("kjf,kjg->fg", both, solved)
        return total[:-1, :-1], total[:-1, -1], float(total[-1, -1])


class LongStepsFit(NamedTuple):
    """The minimum of (4) as a drift, and by how much its beta differs from that of another start."""

    drift: WeakFormDrift
    doubt: float


class _Minimum(NamedTuple):
    estimate: np.ndarray
    matrix: np.ndarray  # n B^T Omega^{-1} B
    right: np.ndarray  # n B^T Omega^{-1} g
    misfit: float  # chi^2 beyond its degrees of freedom, over its standard deviation
    deviance: float
    iterations: int
    converged: bool


def _minimise(problem: _LongSteps, estimate: np.ndarray, rows: np.ndarray) -> _Minimum:
    """Of (4), over the unknowns at `rows`; the others stay."""
    damping, converged, iteration = DAMPING, False, 0
    at = problem.linearise(estimate)
    while not converged and iteration < ITERATIONS:
        iteration += 1
        if iteration <= WEIGHTINGS:
            omega = problem.weighing(at)
        matrix, right, chi_square = problem.normal(at, omega)
        lowered = None
        while lowered is None and damping <= MOST_DAMPING:
            trial = estimate.copy()
            trial[rows] += _damped(matrix[np.ix_(rows, rows)], right[rows], damping)
            trial[0] = np.clip(trial[0], problem.least, 4.0 * estimate[0])
            there = problem.linearise(trial)
            value = problem.normal(there, omega)[2] if _finite(there) else np.inf
            if value <= chi_square:
                lowered = chi_square - value
                estimate, at = trial, there
                damping = max(damping / DAMPING_FACTOR, DAMPING / 1e6)
            else:
                damping *= DAMPING_FACTOR
        if lowered is None:  # at a minimum nothing lowers it, nor should anything
            left = right[rows] @ _damped(matrix[np.ix_(rows, rows)], right[rows], 0.0)
            converged = bool(left < SETTLED)
            break
        converged = lowered < SETTLED
    matrix, right, chi_square = problem.normal(at, problem.weighing(at))
    freedom = at.gaps.size - len(rows)
    return _Minimum(
        estimate,
        matrix,
        right,
        (chi_square - freedom) / float(np.sqrt(2.0 * freedom)) if freedom > 0 else np.inf,
        problem.form.deviance(at.gaps, at.smoothed, problem.form.observed),
        iteration,
        converged,
    )


def _finite(at: _Linearised) -> bool:
    return bool(np.isfinite(at.gaps).all() and np.isfinite(at.slopes).all())


def _damped(matrix: np.ndarray, right: np.ndarray, damping: float) -> np.ndarray:
    """The step of Levenberg and Marquardt, at unit diagonal."""
    scale = 1.0 / np.sqrt(np.maximum(np.diag(matrix), 1e-300))
    scaled = matrix * scale * scale[:, None] + (damping + RIDGE) * np.eye(len(scale))
    return scale * np.linalg.solve(scaled, scale * right)


def fit_long_steps(
    model: LinearEnergy,
    constants: PyTree,
    steps: Steps,
    weights: list[np.ndarray],
    theta: Float[np.ndarray, "f"],
    beta: float,
    *,
    most_misfit: float,
    seed: int = 0,
) -> LongStepsFit | None:
    """The minimum of (4), with the features that the data ask for (`weak_form_drift`, equation (1)).

    None where the features do not explain the snapshots, where no minimum is found, and where there are
    fewer than twice as many tests as unknowns, some of which would explain anything.

    Args:
        model: of a potential alone, whose features these are.
        constants: their radial centres.
        steps: the data, as in `fit_weak_form`.
        weights: of the particles, one array per snapshot.
        theta: where to start.
        beta: likewise.
        most_misfit: standard deviations of chi^2 beyond its degrees of freedom, up to which features
            explain the snapshots.
        seed: of the noise.
    """
    features = model.potential_features
    assert features is not None
    centers = np.asarray(constants["potential"])[: features.n_centers]
    total = np.sum(features.exponents, axis=1)
    low = [
        e for e, q in zip(features.exponents, total, strict=True) if q <= np.max(features.exponents)
    ]
    tests = potential_tests(dataclasses.replace(features, exponents=tuple(low)), centers)
    form = WeakForm(steps, weights, tests, BUMPS)
    if form.projection.shape[1] * len(steps.tau) < 2 * (len(theta) + 1):
        return None
    sets = feature_sets(features, 0)
    problem = _LongSteps(form, features, centers, FEW, seed)
    rows, first = np.arange(len(theta) + 1), np.append(max(beta, problem.least), theta)
    minima = [_minimise(problem, factor * first, rows) for factor in STARTS]
    found = min(minima, key=lambda own: own.deviance)
    doubt = float(np.ptp([own.estimate[0] for own in minima]))
    iterations = sum(own.iterations for own in minima)
    for _ in range(SELECTIONS):
        if not found.misfit <= most_misfit:
            return None
        right = found.right + found.matrix @ found.estimate
        chosen = select(found.matrix, right, RIDGE, form.count, [sets])
        if np.array_equal(chosen, rows):
            break
        rows = chosen
        found = _minimise(problem, _restricted(steps, found.estimate, rows), rows)
        iterations += found.iterations
    problem = _LongSteps(form, features, centers, ENOUGH, seed)
    found = _minimise(problem, found.estimate, rows)
    if not (found.misfit <= most_misfit and found.converged):
        return None
    drift = WeakFormDrift(
        theta=found.estimate[1:],
        beta=float(found.estimate[0]),
        kept=rows[1:] - 1,
        covariance=np.linalg.inv(found.matrix[np.ix_(rows, rows)]),
        attraction=0.0,
        misfit=found.misfit,
        iterations=iterations + found.iterations,
        converged=True,
        criterion=found.deviance + np.log(form.count) * len(rows),
    )
    return LongStepsFit(drift, doubt)


def _restricted(steps: Steps, estimate: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """The nearest drift, at the particles, of fewer features."""
    own = rows[1:] - 1
    information = steps.information()
    least = RIDGE * np.trace(information) / len(information) * np.eye(len(own))
    nearest = np.linalg.solve(
        information[np.ix_(own, own)] + least, information[own] @ estimate[1:]
    )
    restricted = np.zeros(len(estimate))
    restricted[0], restricted[rows[1:]] = estimate[0], nearest
    return restricted
