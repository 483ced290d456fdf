"""How well the coefficients of a closed form are known, by the sandwich formula.

With A(p), nu, v = (y - x) / tau and the ridge R = reg I of `closed_form`, G = sum_k E[A^T A] and theta
its solution, the pairs of one cell c, at all steps, add

    s_c = sum over its pairs of w A^T (A theta + v)                                                 (1)

to the gradient of the sum of squares. Over C cells of one sample each, whatever the noise of their
steps and however a cell's own are correlated (White 1980; Liang and Zeger 1986),

    Cov theta = (G + R)^{-1} [C / (C - 1) sum_c (s_c - mean s)(s_c - mean s)^T] (G + R)^{-1}.       (2)

nu counts as known. What the ridge does to the expectation is no error that (2) knows:

    E theta - theta_true = -(G + R)^{-1} R theta_true,   estimated at theta.                        (3)

Pairs of independent snapshots are no cells: each is matched with another one's chance, which (2) takes
for the cell's own motion. They are resampled instead (`bootstrap`).
"""

import dataclasses
import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from diffusions.precision import double_precision, einsum
from diffusions.typing import Array, Float, Int, Params, PyTree
from jkonet_star.energies.models import LinearEnergy
from jkonet_star.fit_report import ClosedFormReport
from jkonet_star.fitted import FittedEnergy
from jkonet_star.solvers.closed_form import ridge_of, solve_ridge
from jkonet_star.solvers.first_order import FirstOrderConditions
from jkonet_star.solvers.linear_model import split_coefficients
from jkonet_star.solvers.normal_equations import (
    PAIRS_PER_BLOCK,
    design_matrix,
    normal_equations,
    pair_blocks,
    population_of,
)
from jkonet_star.solvers.problem import Problem
from jkonet_star.solvers.resampling import kind_of_resampling


class CoefficientErrors(NamedTuple):
    """Of the coefficients theta of a linear energy, at unit scale, those of V first.

    Attributes:
        covariance: equation (2).
        ridge_bias: equation (3).
        cells: C.
    """

    covariance: Float[np.ndarray, "f f"]
    ridge_bias: Float[np.ndarray, "f"]
    cells: int

    @property
    def standard_errors(self) -> Float[np.ndarray, "f"]:
        """Square roots of the covariance's diagonal."""
        return np.sqrt(np.maximum(np.diag(self.covariance), 0.0))


@functools.partial(jax.jit, static_argnames=("model",))
def _scores(
    model: LinearEnergy,
    constants: PyTree,
    theta: Float[Array, "f"],
    blocks: tuple[Array, Array, Array, Array],
    population: Float[Array, "p d"],
    population_weights: Float[Array, "p"],
) -> Float[Array, "blocks b f"]:
    """The terms of (1) of one step's pairs."""

    def one(block: tuple[Array, Array, Array, Array]) -> Array:
        points, velocities, scores, weights = block
        a = design_matrix(model, constants, points, scores, population, population_weights)
        missed = einsum("bdf,f->bd", a, theta) + velocities
        return weights[:, None] * einsum("bdf,bd->bf", a, missed)

    return jax.lax.map(one, blocks)


def cell_scores(
    model: LinearEnergy,
    constants: PyTree,
    conditions: FirstOrderConditions,
    theta: Float[np.ndarray, "f"],
    cell: Int[np.ndarray, "c"],
) -> Float[np.ndarray, "cells f"]:
    """Equation (1), of every cell.

    Args:
        model: which features and terms.
        constants: radial centres, and the data's units.
        conditions: the data.
        theta: the solution.
        cell: of every pair.
    """
    host = jax.tree.map(np.asarray, conditions)
    numbers, place = np.unique(cell, return_inverse=True)
    total = np.zeros((len(numbers), len(theta)))
    steps = [np.flatnonzero(host.step == k) for k in range(host.population.shape[0])]
    n_rows = -(-max(len(own) for own in steps) // PAIRS_PER_BLOCK) * PAIRS_PER_BLOCK
    with double_precision():
        fixed = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float64), constants)
        for k, own in enumerate(steps):
            found = _scores(
                model,
                fixed,
                jnp.asarray(theta, jnp.float64),
                pair_blocks(host, constants, own, n_rows, PAIRS_PER_BLOCK),
                *(jnp.asarray(part, jnp.float64) for part in population_of(host, constants, k)),
            )
            np.add.at(total, place[own], np.asarray(found).reshape(n_rows, -1)[: len(own)])
    return total


def sandwich(
    model: LinearEnergy,
    constants: PyTree,
    conditions: FirstOrderConditions,
    params: Params,
    report: ClosedFormReport,
) -> CoefficientErrors:
    """Equations (2) and (3).

    Args:
        model: which features and terms.
        constants: radial centres, and the data's units.
        conditions: the data; the lineages are the cells.
        params: the solution.
        report: of it, with its ridge.
    """
    names = [n for n in ("potential", "interaction", "circulation", "internal") if n in params]
    if model.internal == "given":
        names.remove("internal")
    theta = np.concatenate([np.ravel(np.asarray(params[name], np.float64)) for name in names])
    gram, _, _ = normal_equations(model, constants, conditions)
    ridge = ridge_of(model, report.regularization, report.interaction_factor)
    scores = cell_scores(model, constants, conditions, theta, np.asarray(conditions.lineage))
    count = len(scores)
    centred = scores - scores.mean(axis=0)
    # Minus the inverse, column by column, in the directions that were kept of the solution.
    half = np.stack([solve_ridge(gram, column, ridge)[0] for column in centred.T @ centred])
    covariance = np.stack([solve_ridge(gram, column, ridge)[0] for column in half.T])
    return CoefficientErrors(
        covariance=0.5 * (covariance + covariance.T) * count / max(count - 1, 1),
        ridge_bias=solve_ridge(gram, ridge * theta, ridge)[0],
        cells=count,
    )


@dataclasses.dataclass(frozen=True)
class LinearErrors:
    """The errors of a closed form, computed when they are asked for first.

    Attributes:
        problem: of the fit.
        energy: its solution, with its report.
        resample: as of `fit`: whether the snapshots show the same cells.
    """

    problem: Problem
    energy: FittedEnergy
    resample: str = "auto"

    @functools.cached_property
    def found(self) -> CoefficientErrors:
        """Equations (2) and (3).

        Raises:
            ValueError: the snapshots do not show the same cells.
        """
        model, report = self.energy.model, self.energy.report
        assert isinstance(model, LinearEnergy)
        assert report is not None
        assert report.closed_form is not None
        if kind_of_resampling(self.problem, self.energy, self.resample) != "trajectories":
            raise ValueError(
                "snapshots of different particles have couplings whose errors a sandwich does not "
                "know: learn from resampled ones, fit(..., bootstrap=100); if they show the same "
                "particles, resample='trajectories' says so"
            )
        conditions = self.problem.conditions
        return sandwich(
            model, self.energy.constants, conditions, self.energy.params, report.closed_form
        )

    @functools.cached_property
    def directions(self) -> Params:
        """Params, stacked, of which the outer products add up to the covariance.

        An estimate of beta has its own standard error, independent of the others.
        """
        model, estimate = self.energy.model, self.problem.internal
        assert isinstance(model, LinearEnergy)
        values, vectors = np.linalg.eigh(self.found.covariance)
        columns = (vectors * np.sqrt(np.maximum(values, 0.0))).T
        error = 0.0
        if estimate is not None:
            columns = np.concatenate([columns, np.zeros((1, columns.shape[1]))])
            error = estimate.standard_error
        rows = [split_coefficients(model, column) for column in columns]
        stacked = {name: jnp.stack([row[name] for row in rows]) for name in rows[0]}
        if estimate is not None:
            last = np.zeros(len(rows))
            last[-1] = error if np.isfinite(error) else 0.0
            stacked["internal"] = jnp.asarray(last, jnp.float32)
        return stacked
