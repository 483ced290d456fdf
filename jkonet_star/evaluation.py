"""How well a learned energy predicts a population, and how close it is to a known truth.

With mu_k the observed snapshots and hat mu_{k+1} the prediction from mu_k (one step ahead) or from
mu_0 (cumulative), noise included where beta > 0:

    EMD_k = W_p(hat mu_{k+1}, mu_{k+1}),  p = 1 or 2, exact optimal transport                        (1)

Against a known truth, over the particles of every snapshot but the last,

    relative L2 error    |f - f*| / |f*|  in L2(mu)  of the drift and of each term                   (2)
    L2-UVP   100 sum_k E|T_k(x) - T*_k(x)|^2 / sum_k Var(mu_{k+1}),  T(x) = x + tau drift(x)         (3)
    BW2-UVP  100 sum_k BW^2(hat mu_{k+1}, mu_{k+1}) / (sum_k Var(mu_{k+1}) / 2)                      (4)

with BW the Wasserstein-2 distance of the Gaussians of equal mean and covariance (Korotin et al.,
ICLR 2021, for both percentages of unexplained variance).
"""

import functools
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from diffusions.arguments import checked
from diffusions.short_repr import short_repr
from diffusions.typing import Array, Bool, Float, Key
from jkonet_star.dynamics import Step, scheme_time
from jkonet_star.energies.interactions import interaction_drift
from jkonet_star.fitted import FittedEnergy
from jkonet_star.law import judge_law
from jkonet_star.snapshots import Snapshots
from jkonet_star.transport.couplings import Couplings
from jkonet_star.transport.exact import wasserstein
from jkonet_star.yardsticks import measure_yardsticks

MOST_POINTS = 3000
"""Exact transport is cubic: larger populations are compared on this many random particles."""
MOST_PREDICTED = 100_000
"""Particles of a held-out snapshot that are predicted, at random; more tell no more of a law."""


class Predictions(NamedTuple):
    """What every seed predicts for every step, s seeds and t steps."""

    one_step: Float[Array, "s t n d"]
    cumulative: Float[Array, "s t n d"]
    converged: Bool[Array, "s"]  # all particles of all steps solved
    one_step_weights: Float[Array, "s t n"]  # of the predicted particles: the observed ones, grown
    cumulative_weights: Float[Array, "s t n"]
    # Grad V and grad U * mu of the observed particles, where the scheme evaluates them there.
    slope: Float[Array, "s t n d"] | None = None
    pull: Float[Array, "s t n d"] | None = None

    def __repr__(self) -> str:
        return short_repr(self)


class KnownEnergy(NamedTuple):
    """The truth, where the data are simulated."""

    potential: Callable[[Array], Array] | None
    interaction: Callable[[Array], Array] | None
    beta: float


@checked
@jax.jit
def predict_snapshots(energies: FittedEnergy, snapshots: Snapshots, key: Key) -> Predictions:
    """One-step-ahead and cumulative predictions of a stack of energies, relative to the origin.

    Args:
        energies: every leaf with a leading seed axis.
        snapshots: the observed population.
        key: of the noise; the same for every seed.
    """
    _check_stack(energies, snapshots)
    energies = energies.seen_from(snapshots)

    def one(energy: FittedEnergy) -> Predictions:
        def advance(carry: tuple[Array, Array], row: tuple) -> tuple[tuple[Array, Array], tuple]:
            observed, weights, t, tau, own = row
            # Both populations in one call: the step is compiled once.
            points = jnp.stack([observed, carry[0]])
            before = jnp.stack([weights, carry[1]])
            both, after = jax.vmap(lambda x, w: _advanced(energy, x, w, t, tau, own))(
                points, before
            )
            gradients = jax.tree.map(lambda leaf: leaf[0], (both.slope, both.pull))
            seen = (both.points, after, both.converged.all(), gradients)
            return (both.points[1], after[1]), seen

        start = (snapshots.points[0], snapshots.weights[0])
        _, seen = jax.lax.scan(advance, start, _starts(snapshots, key))
        points, after, solved, (slope, pull) = seen
        return Predictions(
            one_step=points[:, 0],
            cumulative=points[:, 1],
            converged=solved.all(),
            one_step_weights=after[:, 0],
            cumulative_weights=after[:, 1],
            slope=slope,
            pull=pull,
        )

    return jax.vmap(one)(energies)


@checked
@jax.jit
def predict_one_step_ahead(
    energies: FittedEnergy, snapshots: Snapshots, key: Key
) -> tuple[Float[Array, "s t n d"], Float[Array, "s t n"]]:
    """The one-step-ahead predictions of `predict_snapshots` and their weights, for half of the work.

    Args:
        energies: every leaf with a leading seed axis.
        snapshots: the observed population.
        key: of the noise.
    """
    _check_stack(energies, snapshots)
    energies = energies.seen_from(snapshots)

    def one(energy: FittedEnergy) -> tuple[Array, Array]:
        def ahead(row: tuple) -> tuple[Array, Array]:
            step, after = _advanced(energy, *row)
            return step.points, after

        return jax.lax.map(ahead, _starts(snapshots, key))

    return jax.vmap(one)(energies)


def _starts(snapshots: Snapshots, key: Key) -> tuple:
    """Of every step: population, weights, time, length and key."""
    keys = jax.random.split(key, snapshots.n_steps)
    return (
        *(snapshots.points[:-1], snapshots.weights[:-1], snapshots.times[:-1], snapshots.dt),
        keys,
    )


def _check_dimension(energies: FittedEnergy, snapshots: Snapshots) -> None:
    if energies.dimension != snapshots.dimension:
        raise ValueError(
            f"the energy was learned in dimension {energies.dimension}, "
            f"the snapshots have dimension {snapshots.dimension}"
        )


def _check_stack(energies: FittedEnergy, snapshots: Snapshots) -> None:
    if energies.times.ndim != 2:
        raise ValueError(
            f"energies must be a stack, every leaf with one leading axis; their times have shape "
            f"{energies.times.shape}"
        )
    _check_dimension(energies, snapshots)


def _advanced(
    energy: FittedEnergy, points: Array, weights: Array, t: Array, tau: Array, key: Key
) -> tuple[Step, Array]:
    noisy = energy.model.internal != "none"
    return energy.advanced(points, weights, t, tau, key=key if noisy else None)


def _thinned(points: np.ndarray, weights: np.ndarray, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Particles of positive weight, at most `MOST_POINTS` of them."""
    kept = np.flatnonzero(weights > 0)
    if len(kept) > MOST_POINTS:
        kept = np.sort(np.random.default_rng(seed).choice(kept, MOST_POINTS, replace=False))
    return points[kept], weights[kept] / weights[kept].sum()


@checked
def earth_movers_distances(
    predicted: Float[np.ndarray, "s t n d"],
    snapshots: Snapshots,
    weights: Float[np.ndarray, "t n"] | Float[np.ndarray, "s t n"],
    *,
    order: int = 1,
) -> Float[np.ndarray, "s t"]:
    """Equation (1) for every seed and step; infinite where a prediction is not finite.

    Args:
        predicted: populations at the ends of the steps.
        snapshots: the observed ones.
        weights: of the predicted particles, one row per step; with a leading axis, of every seed.
        order: p.
    """
    observed, observed_weights = np.asarray(snapshots.points), np.asarray(snapshots.weights)
    predicted = np.asarray(predicted)
    n_seeds, n_steps = predicted.shape[:2]
    mass = np.broadcast_to(weights, predicted.shape[:3])

    def distance(seed: int, step: int) -> float:
        x, a = _thinned(predicted[seed, step], mass[seed, step], step)
        y, b = _thinned(observed[step + 1], observed_weights[step + 1], step + 1)
        if not np.isfinite(x).all():
            return float("inf")
        return wasserstein(x, y, a, b, order=order)

    # The solvers release the interpreter's lock.
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        pending = [pool.submit(distance, s, k) for s in range(n_seeds) for k in range(n_steps)]
        values = [p.result() for p in pending]
    return np.reshape(values, (n_seeds, n_steps))


def summarise(distances: Float[np.ndarray, "s t"]) -> dict[str, Any]:
    """Mean over steps and seeds, deviation over seeds, and the parts, as plain numbers."""
    per_seed = distances.mean(axis=1)
    return {
        "mean": float(per_seed.mean()),
        "std": float(per_seed.std()) if np.isfinite(per_seed).all() else float("nan"),
        "per_step": distances.mean(axis=0).tolist(),
        "per_seed": per_seed.tolist(),
    }


@checked
def evaluate_predictions(
    predictions: Predictions, snapshots: Snapshots, *, order: int = 1
) -> dict[str, Any]:
    """`emd_one_step_ahead` and `emd_cumulative`, with `converged`, as plain numbers."""
    ahead, onward = (
        earth_movers_distances(np.asarray(points), snapshots, np.asarray(weights), order=order)
        for points, weights in (
            (predictions.one_step, predictions.one_step_weights),
            (predictions.cumulative, predictions.cumulative_weights),
        )
    )
    return {
        "emd_one_step_ahead": summarise(ahead),
        "emd_cumulative": summarise(onward),
        "converged": bool(np.asarray(predictions.converged).all()),
    }


@checked
def evaluate(
    energy: FittedEnergy,
    snapshots: Snapshots,
    *,
    key: Key,
    order: int = 1,
    learned_from: Snapshots | None = None,
    couplings: Couplings | None = None,
) -> dict[str, Any]:
    """How far one energy's predictions are from held-out snapshots: equation (1), and `law`.

    `law` holds the scores of `jkonet_star.law`, each beside its yardsticks, and a `verdict` in words.

    Args:
        energy: a single one, without a seed axis.
        snapshots: held-out.
        key: of the noise.
        order: p.
        learned_from: the snapshots of the fit, for the yardsticks that know them.
        couplings: of `learned_from`, for the lookups: `couple(learned_from, key=key)[0]`.

    Raises:
        ValueError: the energy is a stack, or differs from the snapshots in dimension; couplings that
            are not of `learned_from`.
    """
    energy.check_single()
    _check_dimension(energy, snapshots)
    beside = measure_yardsticks(
        snapshots, learned_from=learned_from, couplings=couplings, order=order
    )
    stacked = jax.tree.map(lambda leaf: leaf[None], energy)
    predictions = predict_snapshots(stacked, snapshots, key)
    law = judge_law(
        np.asarray(predictions.one_step),
        snapshots,
        weights=np.asarray(predictions.one_step_weights),
        beside=beside,
    )
    return evaluate_predictions(predictions, snapshots, order=order) | {"law": law.as_dict()}


def _bures_wasserstein(x: np.ndarray, a: np.ndarray, y: np.ndarray, b: np.ndarray) -> float:
    """Squared Wasserstein-2 distance of the Gaussians fitted to two weighted populations."""
    mean_x, mean_y = a @ x, b @ y
    cov_x = (x - mean_x).T @ (a[:, None] * (x - mean_x))
    cov_y = (y - mean_y).T @ (b[:, None] * (y - mean_y))
    values, basis = np.linalg.eigh(cov_x)
    root = basis @ np.diag(np.sqrt(np.maximum(values, 0.0))) @ basis.T
    cross = np.sqrt(np.maximum(np.linalg.eigvalsh(root @ cov_y @ root), 0.0)).sum()
    return float(np.sum((mean_x - mean_y) ** 2) + np.trace(cov_x) + np.trace(cov_y) - 2.0 * cross)


@checked
def field_errors(
    energies: FittedEnergy, truth: KnownEnergy, snapshots: Snapshots, predictions: Predictions
) -> dict[str, Any]:
    """Equations (2) to (4) and |beta - beta*|, a list per seed each.

    `absolute` stands beside each relative error: where the truth is zero, it is the only one.

    Args:
        energies: every leaf with a leading seed axis.
        truth: what the data were simulated with.
        snapshots: the particles over which errors are averaged.
        predictions: of these energies for these snapshots.
    """
    _check_stack(energies, snapshots)
    terms = _field_terms(energies, truth, snapshots, predictions)
    weights = np.asarray(snapshots.weights)[:-1].astype(np.float64)
    result: dict[str, Any] = {}
    for name, (learned, true) in terms.items():
        square = np.einsum("tn,stnd->s", weights, (learned - true[None]) ** 2)
        reference = float(np.einsum("tn,tnd->", weights, true**2))
        result[name] = {
            "relative": np.sqrt(square / reference).tolist() if reference > 0 else None,
            "absolute": np.sqrt(square / len(weights)).tolist(),
        }
    points = np.asarray(snapshots.points, np.float64)
    all_weights = np.asarray(snapshots.weights, np.float64)
    means = np.einsum("tn,tnd->td", all_weights, points)
    variances = np.einsum("tn,tnd->t", all_weights, (points - means[:, None]) ** 2)[1:]
    learned, true = terms["drift"]
    tau = np.diff(np.asarray(snapshots.times)).astype(np.float64)
    moved = np.einsum("t,tn,stnd->s", tau**2, weights, (learned - true[None]) ** 2)
    result["l2_uvp"] = (100.0 * moved / variances.sum()).tolist()
    one_step = np.asarray(predictions.one_step, np.float64)
    result["bw2_uvp"] = [
        100.0
        * sum(
            _bures_wasserstein(one_step[s, k], all_weights[k], points[k + 1], all_weights[k + 1])
            for k in range(len(weights))
        )
        / (0.5 * variances.sum())
        if np.isfinite(one_step[s]).all()
        else float("inf")
        for s in range(len(one_step))
    ]
    beta = np.asarray(jax.vmap(lambda e: e.beta)(energies), np.float64)
    result["beta"] = np.abs(beta - truth.beta).tolist()
    return result


def _field_terms(
    energies: FittedEnergy, truth: KnownEnergy, snapshots: Snapshots, predictions: Predictions
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Learned, (s, t, n, d), and true, (t, n, d), fields at the start of every step."""
    # On the host: each of these few operations would be a program of its own.
    times = np.asarray(snapshots.times)
    rows = (
        np.asarray(snapshots.points)[:-1],
        np.asarray(snapshots.weights)[:-1],
        scheme_time(energies.scheme, times[:-1], np.diff(times)),
    )
    absolute = rows
    if snapshots.origin is not None:
        absolute = (rows[0] + np.asarray(snapshots.origin), *rows[1:])
    slope, pull = predictions.slope, predictions.pull
    if slope is None:
        learned = _learned_fields(energies.seen_from(snapshots), rows)
    else:  # an explicit step begins with them, and with an interaction they are most of its work
        learned = slope, np.zeros(slope.shape) if pull is None else pull
    fields = (*_true_fields(absolute, truth), *learned)
    host = [np.asarray(f, np.float64) for f in fields]
    terms = {"drift": (-(host[2] + host[3]), -(host[0] + host[1]))}
    if energies.model.has_potential or truth.potential is not None:
        terms["potential_gradient"] = (host[2], host[0])
    if energies.model.has_interaction or truth.interaction is not None:
        terms["interaction_gradient"] = (host[3], host[1])
    return terms


@functools.partial(jax.jit, static_argnames=("truth",))
def _true_fields(rows: tuple[Array, Array, Array], truth: KnownEnergy) -> tuple[Array, Array]:
    """True grad V and grad U * mu; compiled once per truth, whatever is compared with it."""

    def one(row: tuple) -> tuple[Array, Array]:
        points, weights, _ = row
        slope = jnp.zeros_like(points)
        pull = jnp.zeros_like(points)
        if truth.potential is not None:
            slope = jax.vmap(jax.grad(truth.potential))(points)
        if truth.interaction is not None:
            pull = interaction_drift(jax.grad(truth.interaction), points, points, weights)
        return slope, pull

    return jax.lax.map(one, rows)


@jax.jit
def _learned_fields(
    energies: FittedEnergy, rows: tuple[Array, Array, Array]
) -> tuple[Array, Array]:
    """Learned grad V and grad U * mu of every seed; compiled once per model, whatever the truth."""

    def learned_terms(energy: FittedEnergy) -> tuple[Array, Array]:

        def one(row: tuple) -> tuple[Array, Array]:
            points, weights, t = row
            return energy.gradients(points, weights, t)

        return jax.lax.map(one, rows)

    return jax.vmap(learned_terms)(energies)
