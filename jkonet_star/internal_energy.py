"""Diffusion coefficient and drift of a population, from snapshots without order.

    dX = -b(X) dt + sqrt(2 beta) dW,   b(x) = sum_l theta_l G_l(x),                                 (1)

where G_l is grad phi_l for features of the potential and mean_j grad phi_l(x - x_j) for features of
the interaction. First-order conditions with an estimated density cannot tell beta from the error of
the density (they return 2 to 3 for a true 0.2, at N = 1000); two estimators of the law of one Euler
step can. Where the snapshots show the same particles, unordered, beta and theta maximise the mixture
likelihood of `paired_likelihood`; where every snapshot is a sample of its own, they solve the weak
form of `weak_form`. Which it is, the likelihood tells (there, equation (7)).

Both start from exact couplings (x_i, y_i) of each step, on which

    theta_0 = -(sum_k tau_k E[G^T G] + m D)^{-1} sum_k E[G^T (y - x)],   D = diag(sum tau E[G^T G]), (2)

with the shrinkage m that predicts the displacements of left-out steps best. With independent samples
most of a displacement is chance, and m says how much; m D / (2 beta_0), with beta_0 the variance
that (2) leaves over, is therefore also the precision of the Gaussian prior on theta in what follows.
Where even the best m explains next to nothing of left-out displacements, the drift counts as absent.
"""

import dataclasses
import functools
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from diffusions.typing import Array, Float, PyTree
from jkonet_star.energies import LinearEnergy
from jkonet_star.exact_transport import exact_plan
from jkonet_star.features import POPULATION_PER_BLOCK, Features
from jkonet_star.paired_likelihood import (
    Steps,
    effective_parameters,
    fit_paired,
    log_likelihood,
    self_log_likelihood,
    solve_scaled,
)
from jkonet_star.settings import one_of
from jkonet_star.snapshots import Snapshots
from jkonet_star.weak_form import FOLDS, Tests, fit_weak_form

Regime = Literal["auto", "paired", "unpaired"]

MOST_PARTICLES = 20_000
MOST_FEATURE_BYTES = 500_000_000
WHOLE_POPULATION_UP_TO = 5000
POPULATION_SAMPLE = 2000
BLOCK_BYTES = 64_000_000
TRANSPORT_BLOCK = 1000
MOST_TRANSPORT_BLOCKS = 3
MOST_POTENTIAL_TESTS = 600
SHRINKAGES = (1e-8, *np.geomspace(1e-6, 1e3, 10))
LEAST_EXPLAINED = 0.02
"""Share of the held-out displacement that the drift must explain to be kept in the weak form."""
DETECTION_ROUNDS = 2
MOST_ROUNDS = 20
PAIRED_GAIN = 0.08
LOWEST_RELATIVE_BETA = 1e-10


@dataclasses.dataclass(frozen=True, kw_only=True)
class InternalEstimate:
    """The noise of a population, and the drift that goes with it.

    Attributes:
        beta: diffusion coefficient of equation (1), not negative.
        paired: whether the snapshots were taken to show the same particles.
        gain: log likelihood per particle by which the evidence speaks for paired ones; zero where
            the regime was given or follows from unequal counts.
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


@functools.partial(jax.jit, static_argnames=("features", "block"))
def _potential_functions(
    features: Features, centers: Array, points: Array, block: int
) -> tuple[Array, Array, Array]:
    """Values (n, f), gradients (n, f, d) and Laplacians (n, f) of features."""

    def one(x: Array) -> tuple[Array, Array, Array]:
        jacobian = functools.partial(features.jacobian, centers)
        laplacian = sum(
            jax.jvp(lambda y, i=i: jacobian(y)[:, i], (x,), (unit,))[1]
            for i, unit in enumerate(jnp.eye(features.dimension, dtype=x.dtype))
        )
        return features.values(centers, x), jacobian(x), jnp.asarray(laplacian)

    blocks = points.reshape(-1, block, points.shape[-1])
    parts = jax.lax.map(jax.vmap(one), blocks)
    return jax.tree.map(lambda leaf: leaf.reshape(len(points), *leaf.shape[2:]), parts)


@functools.partial(jax.jit, static_argnames=("features", "block"))
def _potential_gradients(features: Features, centers: Array, points: Array, block: int) -> Array:
    """Gradients (n, f, d) of features."""
    blocks = points.reshape(-1, block, points.shape[-1])
    parts = jax.lax.map(jax.vmap(functools.partial(features.jacobian, centers)), blocks)
    return parts.reshape(len(points), *parts.shape[2:])


@functools.partial(jax.jit, static_argnames=("features", "block"))
def _interaction_gradients(
    features: Features,
    centers: Array,
    points: Array,
    population: Array,
    weights: Array,
    block: int,
) -> Array:
    """Mean gradients (n, f, d) of features over a population."""
    blocks = points.reshape(-1, block, points.shape[-1])
    parts = jax.lax.map(
        lambda x: features.mean_jacobian(centers, x, population, weights), blocks
    )
    return parts.reshape(len(points), *parts.shape[2:])


def _padded(points: np.ndarray, block: int, n: int = 0) -> np.ndarray:
    """The points, repeated at the end up to a multiple of the block that is at least n."""
    rows = -(-max(len(points), n) // block) * block
    return np.concatenate([points, np.repeat(points[:1], rows - len(points), axis=0)])


def potential_tests(features: Features, centers: np.ndarray) -> Tests:
    """The potential's features as test functions of the weak form."""
    block = max(1, BLOCK_BYTES // (8 * features.n_features * (features.dimension + 2)))

    def tests(points: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        own = min(block, len(points))
        with jax.enable_x64(True):
            value, gradient, laplacian = _potential_functions(
                features,
                jnp.asarray(centers, jnp.float64),
                jnp.asarray(_padded(points, own), jnp.float64),
                own,
            )
        n = len(points)
        moved = np.moveaxis(np.asarray(gradient[:n]), 2, 0)
        return np.asarray(value)[:n], moved, np.asarray(laplacian)[:n]

    return tests


def drift_features(
    model: LinearEnergy,
    constants: PyTree,
    points: list[np.ndarray],
    populations: list[np.ndarray],
    population_weights: list[np.ndarray],
) -> list[Float[np.ndarray, "d n f"]]:
    """G of equation (1) at the points of every snapshot.

    Args:
        model: which features.
        constants: their radial centres.
        points: one array per snapshot.
        populations: over which the interaction is averaged, one array per snapshot.
        population_weights: their weights, of sum 1.
    """
    d = model.dimension
    columns: list[list[np.ndarray]] = [[] for _ in points]
    longest = max(len(x) for x in points)
    if model.potential_features is not None:
        features = model.potential_features
        block = min(max(1, BLOCK_BYTES // (8 * features.n_features * d)), longest)
        with jax.enable_x64(True):
            centers = jnp.asarray(constants["potential"], jnp.float64)
            for k, x in enumerate(points):
                padded = jnp.asarray(_padded(x, block, longest), jnp.float64)
                gradients = _potential_gradients(features, centers, padded, block)
                columns[k].append(np.asarray(gradients)[: len(x)].transpose(2, 0, 1))
    if model.interaction_features is not None:
        # Single precision: a mean over the population, whose rounding is far below any noise.
        features = model.interaction_features
        pairs = 1 if features.separable else POPULATION_PER_BLOCK
        block = min(max(1, 4 * BLOCK_BYTES // (4 * features.n_features * d * pairs)), longest)
        centers = jnp.asarray(constants["interaction"], jnp.float32)
        most = max(len(y) for y in populations)
        for k, (x, y, w) in enumerate(zip(points, populations, population_weights, strict=True)):
            mean = _interaction_gradients(
                features,
                centers,
                jnp.asarray(_padded(x, block, longest), jnp.float32),
                jnp.asarray(_padded(y, 1, most), jnp.float32),
                jnp.asarray(np.pad(w, (0, most - len(w))), jnp.float32),
                block,
            )
            columns[k].append(np.asarray(mean)[: len(x)].transpose(2, 0, 1))
    return [
        np.concatenate([*own, np.zeros((d, len(x), 0))], axis=2, dtype=np.float64)
        for own, x in zip(columns, points, strict=True)
    ]


class Start(NamedTuple):
    """Equation (2) and what it leaves over."""

    theta: np.ndarray
    beta: float  # half the variance per time that the drift leaves unexplained
    precision: np.ndarray  # of the prior, per particle
    explained: float  # share of the left-out displacements


def transport_start(
    steps: Steps, weights: list[np.ndarray], rng: np.random.Generator
) -> Start:
    """Equation (2), with m by leaving out one step after the other.

    With a single step each snapshot is halved, for two couplings of independent errors.
    """
    n_steps, f = len(steps.sources), steps.n_features
    d = steps.sources[0].shape[1]
    jobs = []
    for k in range(n_steps):
        i = rng.permutation(len(steps.sources[k]))
        j = rng.permutation(len(steps.targets[k]))
        if n_steps == 1 and min(len(i), len(j)) > 1:
            jobs += [(k, i[0::2], j[0::2]), (k, i[1::2], j[1::2])]
        else:
            jobs.append((k, i, j))
    grams, moments, squares = [], [], []
    for k, i, j in jobs:
        gram, moment, square = np.zeros((f, f)), np.zeros(f), 0.0
        n_blocks = max(1, min(MOST_TRANSPORT_BLOCKS, min(len(i), len(j)) // TRANSPORT_BLOCK))
        even = np.ptp(weights[k]) == 0 and np.ptp(weights[k + 1]) == 0
        most = min(len(i), len(j)) if even else max(len(i), len(j))
        size = min(TRANSPORT_BLOCK, most)
        for block in range(n_blocks):
            own = i[block * size : (block + 1) * size], j[block * size : (block + 1) * size]
            x, y = steps.sources[k][own[0]], steps.targets[k][own[1]]
            rows, columns, mass, _ = exact_plan(x, y, weights[k][own[0]], weights[k + 1][own[1]])
            displacement = (y[columns] - x[rows]).T
            g = steps.features[k][:, own[0][rows]].reshape(d * len(rows), f)
            scaled = g * np.tile(mass / n_blocks, d)[:, None]
            gram += steps.tau[k] * scaled.T @ g
            moment -= scaled.T @ displacement.ravel()
            square += float(mass @ (displacement**2).sum(axis=0)) / (n_blocks * steps.tau[k])
        grams.append(gram)
        moments.append(moment)
        squares.append(square)
    n_jobs = len(jobs)
    total = float(np.sum(squares))

    def loss(theta: np.ndarray, job: int) -> float:
        return squares[job] - 2 * moments[job] @ theta + theta @ grams[job] @ theta

    if not f:
        return Start(np.zeros(0), total / (2 * d * n_jobs), np.zeros(0), 0.0)
    gram, moment = sum(grams), sum(moments)
    diagonal = np.diag(gram) + np.finfo(np.float64).tiny
    explained, shrinkage = 0.0, SHRINKAGES[-1]
    if n_jobs > 1 and total > 0:
        left_out = np.zeros(len(SHRINKAGES))
        for job in range(n_jobs):
            scale = n_jobs / (n_jobs - 1)
            rest, right = (gram - grams[job]) * scale, (moment - moments[job]) * scale
            for index, m in enumerate(SHRINKAGES):
                trial = solve_scaled(rest + m * np.diag(diagonal), right)
                left_out[index] += loss(trial, job)
        shrinkage = SHRINKAGES[int(np.argmin(left_out))]
        explained = 1.0 - float(left_out.min()) / total
    theta = solve_scaled(gram + shrinkage * np.diag(diagonal), moment)
    remaining = sum(loss(theta, job) for job in range(n_jobs))
    # At rounding, the remainder must not be negative.
    beta = max(remaining, 1e-12 * total) / (2 * d * n_jobs)
    precision = shrinkage * diagonal / n_jobs * n_steps / (2 * max(beta, 1e-300))
    return Start(theta, beta, precision, explained)


def estimate_internal(
    model: LinearEnergy,
    constants: PyTree,
    snapshots: Snapshots,
    *,
    seed: int = 0,
    regime: Regime = "auto",
) -> InternalEstimate:
    """Estimates beta of equation (1), and theta with it.

    Args:
        model: whose features make up the drift; it may have none.
        constants: their radial centres.
        snapshots: the population; the order of rows does not matter.
        seed: of subsamples and folds.
        regime: whether the snapshots show the same particles; `auto` finds out.

    Returns:
        The estimate. Populations of unequal counts or weights cannot be paired.

    Raises:
        ValueError: an unknown regime, or `paired` with unequal counts or weights.
    """
    one_of("regime", regime, ("auto", "paired", "unpaired"))
    f = sum(
        features.n_features
        for features in (model.potential_features, model.interaction_features)
        if features is not None
    )
    rng = np.random.default_rng(seed)
    points, weights = [], []
    for x, w in zip(snapshots.arrays(), snapshots.array_weights(), strict=True):
        # Sorted first, so that the order of rows cannot matter.
        order = np.lexsort(x.T)[rng.permutation(len(x))]
        points.append(x[order].astype(np.float64))
        uniform = np.ptp(w) <= 1e-5 * w.mean()
        weights.append(np.full(len(x), 1 / len(x)) if uniform else w[order] / w.sum())
    counts = [len(x) for x in points]
    even = all(np.ptp(w) == 0 for w in weights) and len(set(counts)) == 1
    if regime == "paired" and not even:
        raise ValueError("snapshots of unequal counts or weights cannot show the same particles")
    spread = float(np.concatenate(points).var(axis=0).mean())
    nothing = InternalEstimate(
        beta=0.0,
        paired=regime == "paired",
        gain=0.0,
        drift_coefficients=np.zeros(f),
        iterations=0,
        converged=True,
    )
    still = even and all(np.array_equal(_sorted(x), _sorted(points[0])) for x in points)
    if spread == 0 or still:
        return nothing
    most = MOST_FEATURE_BYTES // (8 * max(f, 1) * snapshots.dimension * snapshots.n_steps)
    most = int(np.clip(most, 100, MOST_PARTICLES))
    populations = [x[: _population_size(len(x))] for x in points]
    population_weights = [
        w[: len(y)] / w[: len(y)].sum() for w, y in zip(weights, populations, strict=True)
    ]
    if max(counts) > most:
        even = even and regime == "paired"
        points = [x[:most] for x in points]
        weights = [w[:most] / w[:most].sum() for w in weights]
    tau = np.diff(np.asarray(snapshots.times, np.float64))
    steps = Steps(
        sources=points[:-1],
        targets=points[1:],
        features=drift_features(
            model, constants, points[:-1], populations[:-1], population_weights[:-1]
        ),
        tau=tau,
    )
    start = transport_start(steps, weights, rng)
    n = float(np.mean([len(x) for x in points]))
    lowest = LOWEST_RELATIVE_BETA * spread / float(tau.max())
    gain = 0.0
    few = min(len(x) for x in points) < 4 * FOLDS
    if (even and regime != "unpaired") or few:
        options = {"precision": n * start.precision, "lowest_beta": lowest}
        fit = fit_paired(
            steps, start.theta, max(start.beta, lowest), rounds=DETECTION_ROUNDS, **options
        )
        paired = regime == "paired" or few
        if not paired:
            n_targets = sum(len(y) for y in steps.targets)
            fitted = log_likelihood(steps, fit.theta, max(fit.beta, lowest)) / n_targets
            gain = fitted - self_log_likelihood(steps.targets, rng)
            paired = gain > PAIRED_GAIN
        if paired:
            iterations = fit.iterations
            if not fit.converged:
                fit = fit_paired(steps, fit.theta, fit.beta, rounds=MOST_ROUNDS, **options)
                iterations += fit.iterations
            beta = 0.0
            if fit.beta > lowest:
                used = effective_parameters(steps, fit.beta, n * start.precision)
                beta = fit.beta * steps.n_residuals / max(steps.n_residuals - used, 1.0)
            return InternalEstimate(
                beta=beta,
                paired=True,
                gain=gain,
                drift_coefficients=fit.theta,
                iterations=iterations,
                converged=fit.converged,
            )
    absent = start.explained < LEAST_EXPLAINED
    if absent:
        steps = dataclasses.replace(steps, features=[g[..., :0] for g in steps.features])
    theta = start.theta[: steps.n_features]
    tests = None
    potential = model.potential_features
    if potential is not None and not absent and potential.n_features <= MOST_POTENTIAL_TESTS:
        tests = potential_tests(potential, np.asarray(constants["potential"]))
    solution = fit_weak_form(
        steps,
        weights,
        tests,
        theta,
        start.beta,
        n * start.precision[: steps.n_features],
        np.zeros(steps.n_features),
    )
    return InternalEstimate(
        beta=solution.beta,
        paired=False,
        gain=gain,
        drift_coefficients=np.zeros(f) if absent else solution.theta,
        iterations=solution.iterations,
        converged=solution.converged,
    )


def _sorted(x: np.ndarray) -> np.ndarray:
    return x[np.lexsort(x.T)]


def _population_size(n: int) -> int:
    return n if n <= WHOLE_POPULATION_UP_TO else POPULATION_SAMPLE
