"""The same fit for resampled cells: what another sample of the population would have given.

Of different cells in every snapshot, each snapshot is drawn anew with replacement, alone, and coupled
anew. Where the snapshots show the same cells, whole trajectories are drawn: what a cell has of its own
it has at all times. The pairs of an optimal plan are optimal among themselves (its support is
cyclically monotone), whatever their weights, so that trajectories need no new coupling.

A cell's snapshots are known to be its own by the likelihood of `internal_energy.estimate`, where that
is estimated. Else, if every coupling is one to one, by what the learned energy predicts of each:

    the target of a pair is the nearest of all to its prediction, for `FOUND_AGAIN` of the pairs,   (1)

which a prediction of a cell's own motion is, and one of a mean motion is not.

A beta that is estimated beforehand has a standard error, by which it is drawn anew. Repeated cells
would not do: a likelihood of unordered cells finds a repeated one again twice as easily, and a weak
form takes repetition for a misfit. So it is with the drift of the weak form, whose covariance knows
that particles interact, as resampled cells cannot:

    (beta, theta) ~ N(estimate, covariance).                                                        (2)
"""

import dataclasses
import functools
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from scipy.spatial import cKDTree

from diffusions.keys import named_key
from diffusions.typing import Int, Key
from jkonet_star.fitted import FittedEnergy
from jkonet_star.settings import InternalSettings
from jkonet_star.snapshots import Snapshots
from jkonet_star.solvers.first_order import (
    FirstOrderConditions,
    filled_up,
    residuals,
    with_drift_of,
    with_known_beta,
)
from jkonet_star.solvers.linear_model import split_coefficients
from jkonet_star.solvers.problem import Problem, WeakFormEnergy
from jkonet_star.transport.couplings import Couplings

Resampled = Literal["trajectories", "snapshots", "coefficients"]
FOUND_AGAIN = 0.9
"""Share of the pairs in (1)."""
Again = Callable[..., Problem]
"""`prepare` of other snapshots of the same population, with all other settings filled in."""


def known_kind(problem: Problem, wanted: str) -> Resampled | None:
    """What is drawn anew; None where the learned energy has to tell.

    Args:
        problem: of the fit.
        wanted: trajectories, of `even` snapshots, snapshots or auto.

    Raises:
        ValueError: trajectories of what grows.
    """
    if problem.weak_form is not None:
        return "coefficients"
    if problem.growth is not None:
        if wanted == "trajectories":
            raise ValueError(
                "particles that multiply and die have no trajectories: resample must be 'snapshots' "
                "or 'auto'"
            )
        return "snapshots"
    if wanted == "trajectories":
        return "trajectories"
    if wanted == "snapshots" or not even(problem.snapshots):
        return "snapshots"
    if problem.internal is not None:
        return "trajectories" if problem.internal.paired else "snapshots"
    return None


def kind_of_resampling(problem: Problem, energy: FittedEnergy, wanted: str) -> Resampled:
    """`known_kind`, or what the energy learned from all cells tells by (1)."""
    kind = known_kind(problem, wanted)
    if kind is not None:
        return kind
    found = found_again(problem, energy)
    return "trajectories" if found >= FOUND_AGAIN else "snapshots"


def found_again(problem: Problem, energy: FittedEnergy) -> float:
    """The share of pairs in (1); zero where couplings are not one to one."""
    conditions, points = problem.conditions, np.asarray(problem.snapshots.points)
    if trajectories(problem.couplings, points.shape[:2]) is None:
        return 0.0
    rows = jnp.arange(conditions.point.shape[0])
    missed, _ = _residuals(energy, conditions, rows)
    step, target = np.asarray(problem.couplings.step), np.asarray(problem.couplings.target)
    found = 0
    for k in range(problem.snapshots.n_steps):
        own = step == k
        y = points[k + 1]
        _, nearest = cKDTree(y).query(y[target[own]] - np.asarray(missed)[own])
        found += int(np.count_nonzero(nearest == target[own]))
    return found / len(step)


@jax.jit
def _residuals(
    energy: FittedEnergy, conditions: FirstOrderConditions, rows: jax.Array
) -> tuple[jax.Array, jax.Array]:
    return residuals(energy.model, energy.params, energy.constants, conditions, rows)


def even(snapshots: Snapshots) -> bool:
    """Whether counts and weights allow the same cells in all snapshots."""
    weights = np.asarray(snapshots.weights)
    return bool(np.ptp(weights) <= 1e-5 * weights.mean())


def trajectories(couplings: Couplings, shape: tuple[int, ...]) -> Int[np.ndarray, "t n"] | None:
    """The rows of each cell in all snapshots; None where couplings are not one to one.

    Args:
        couplings: of the snapshots.
        shape: number of snapshots, and of rows in each.
    """
    n_snapshots, n = shape
    step, source = np.asarray(couplings.step), np.asarray(couplings.source)
    rows = np.empty(shape, int)
    rows[0] = np.arange(n)
    if not np.array_equal(
        np.bincount(step, minlength=n_snapshots - 1), np.full(n_snapshots - 1, n)
    ):
        return None
    for k in range(n_snapshots - 1):
        target = np.full(n, -1)
        target[source[step == k]] = np.asarray(couplings.target)[step == k]
        if not np.array_equal(np.sort(target), np.arange(n)):
            return None
        rows[k + 1] = target[rows[k]]
    return rows


def resampled(
    problem: Problem, again: Again, kind: Resampled, count: int, *, key: Key
) -> list[Problem]:
    """Problems of one shape, each of resampled cells, or of drawn coefficients.

    Couplings and densities are made on all cores.

    Args:
        problem: of all cells.
        again: makes another one of other snapshots.
        kind: what is drawn.
        count: of the problems.
        key: of all draws.

    Raises:
        ValueError: trajectories along couplings that are not one to one.
    """
    keys = [jax.random.fold_in(key, i) for i in range(count)]
    if kind == "coefficients":
        return [_with_coefficients(problem, _generator(own)) for own in keys]
    one = functools.partial(_resampled, problem, again, trajectory_rows(problem, kind))
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return of_one_shape(list(pool.map(one, keys)))


def trajectory_rows(problem: Problem, kind: Resampled) -> Int[np.ndarray, "t n"] | None:
    """Of each trajectory, where those are drawn; None where they are not.

    Raises:
        ValueError: the couplings are not one to one.
    """
    if kind != "trajectories":
        return None
    shape = problem.snapshots.points.shape[:2]
    rows = trajectories(problem.couplings, shape)
    if rows is None:
        raise ValueError(
            "the couplings are not one to one, and tell no trajectories: couple exactly, in blocks of "
            "whole particles, or resample snapshots"
        )
    return rows


def _generator(key: Key) -> np.random.Generator:
    # NumPy's generator needs no compilation for each new population size.
    return np.random.default_rng(np.asarray(jax.random.key_data(key)))


def _resampled(
    problem: Problem, again: Again, rows: Int[np.ndarray, "t n"] | None, key: Key
) -> Problem:
    """One problem."""
    generator = _generator(named_key(key, "cells"))
    snapshots = problem.snapshots
    if rows is not None:
        drawn = rows[:, generator.integers(rows.shape[1], size=rows.shape[1])]
        own = _taken(snapshots, drawn)
        return _again(problem, again, own, key, generator, couplings=_side_by_side(drawn.shape))
    weights = np.asarray(snapshots.weights)
    drawn = np.tile(np.arange(weights.shape[1]), (len(weights), 1))
    for k, w in enumerate(weights):
        present = np.flatnonzero(w)
        drawn[k, : len(present)] = present[generator.integers(len(present), size=len(present))]
        # What is not there repeats the first particle, with weight zero.
        drawn[k, len(present) :] = drawn[k, 0]
    own = _taken(snapshots, drawn, present=np.count_nonzero(weights, axis=1))
    return _again(problem, again, own, key, generator)


def _taken(
    snapshots: Snapshots, rows: Int[np.ndarray, "t n"], present: np.ndarray | None = None
) -> Snapshots:
    """Snapshots of some rows; those from `present` on have weight zero."""
    weights = np.take_along_axis(np.asarray(snapshots.weights), rows, axis=1)
    if present is not None:
        weights = np.where(np.arange(weights.shape[1]) < present[:, None], weights, 0.0)
    weights = weights / weights.sum(axis=1, keepdims=True)
    return snapshots.replace(  # type: ignore[attr-defined]
        points=jnp.asarray(
            np.take_along_axis(np.asarray(snapshots.points), rows[..., None], axis=1)
        ),
        weights=jnp.asarray(weights, jnp.float32),
    )


def _side_by_side(shape: tuple[int, ...]) -> Couplings:
    """Row i of every snapshot with row i of the next."""
    n_steps, n = shape[0] - 1, shape[1]
    rows = jnp.asarray(np.tile(np.arange(n), n_steps), jnp.int32)
    return Couplings(
        step=jnp.asarray(np.repeat(np.arange(n_steps), n), jnp.int32),
        source=rows,
        target=rows,
        weight=jnp.full(n * n_steps, 1.0 / n, jnp.float32),
    )


def _again(
    problem: Problem,
    again: Again,
    snapshots: Snapshots,
    key: Key,
    generator: np.random.Generator,
    *,
    couplings: Couplings | None = None,
) -> Problem:
    """The problem of other snapshots, with a beta drawn by its standard error where there is one."""
    # What is not estimated beforehand is learned by first-order conditions, or not at all.
    internal = InternalSettings(beta_estimator="first-order")
    found = again(snapshots, key=key, internal=internal, couplings=couplings)
    estimate = problem.internal
    if estimate is None:
        return found
    error = estimate.standard_error if np.isfinite(estimate.standard_error) else 0.0
    beta = max(0.0, estimate.beta + error * float(generator.standard_normal()))
    return dataclasses.replace(
        found,
        internal=dataclasses.replace(estimate, beta=beta),
        conditions=with_known_beta(
            found.conditions, beta, paired=estimate.paired, scheme=problem.scheme
        ),
    )


def _with_coefficients(problem: Problem, generator: np.random.Generator) -> Problem:
    """The problem with beta and a drift drawn by (2)."""
    estimate, own = problem.internal, problem.weak_form
    assert estimate is not None
    assert estimate.drift is not None
    assert own is not None
    drift = estimate.drift
    values, vectors = np.linalg.eigh(np.asarray(drift.covariance))
    normal = generator.standard_normal(len(values))
    moved = vectors @ (np.sqrt(np.maximum(values, 0.0)) * normal)
    theta = np.array(estimate.drift_coefficients, np.float64)
    theta[drift.kept] += moved[1:]
    # At unit scale the error of beta is the covariance's: its ratio to the reported one is the unit.
    # After many steps there is more in what is reported, and beta is never zero.
    error = float(np.sqrt(drift.covariance[0, 0]))
    unit = estimate.standard_error / error if error > 0 else 0.0
    if estimate.substeps > 1:
        unit = estimate.beta / drift.beta
    beta = max(0.0, estimate.beta + unit * float(moved[0]))
    drawn = WeakFormEnergy(
        own.model,
        {
            **split_coefficients(own.model, theta),
            "internal": jnp.asarray(beta, jnp.float32),
        },
        own.constants,
    )
    return dataclasses.replace(
        problem,
        internal=dataclasses.replace(estimate, beta=beta, drift_coefficients=theta),
        conditions=_with_drift_of(*drawn, problem.conditions),
        weak_form=drawn,
    )


_with_drift_of = jax.jit(with_drift_of, static_argnames=("model",))


def of_one_shape(problems: list[Problem]) -> list[Problem]:
    """The same problems with as many couplings, and particles in a step's population, each.

    What is added has weight zero.
    """
    pairs = max(p.conditions.point.shape[0] for p in problems)
    particles = max(p.conditions.population.shape[1] for p in problems)

    return [
        dataclasses.replace(problem, conditions=filled_up(problem.conditions, pairs, particles))
        for problem in problems
    ]
