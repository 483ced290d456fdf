"""Least squares for linearly parametrised energies (Terpin et al., NeurIPS 2024, arXiv 2406.12616).

Points, displacements and scores are taken to unit scale first (`energies`, equation (3)), so that a
ridge means the same whatever the units. With A(p) = [J phi_1(p)^T, mean_{y' ~ nu} J phi_2(p - y')^T,
grad log rho(p)], a (d, f) matrix, where a circulation has the columns -S_m grad phi_3(p), the residual
of `objectives` is tau A theta + (y - x), and the minimiser of its loss with a ridge is

    theta = -(sum_k E[A^T A] + reg I)^{-1} sum_k E[A^T (y - x)] / tau_k,                            (1)

both sides weighted by the couplings. The sums are those of `normal_equations`; they are solved in the
eigenbasis of the scaled matrix

    D (sum_k E[A^T A] + reg I) D,   D = diag(.)^{-1/2},                                             (2)

whose condition number is reported; directions below rounding error are left out. Where reg is not
given it is the one of `REGULARIZATIONS` with the least residual on data held out in turn, for which
the sums of (1) are simply kept per fold: data without noise want next to none, noisy data much more
than the published 0.01. Data are held out in two ways, whose residuals are added. Whole steps (a random
fifth of the pairs where there are only one or two), because the pairs of a step share the chance of
which particles happened to be seen, and would vouch for each other; and halves of the particles,
followed from step to step, because a field that changes in time cannot be told from the other steps.

With both V and U nu is such a chance as well: V and U * nu are nearly exchangeable, and large ones
that cancel for the particles at hand do not for others. So the halves are also taken with a nu of their
own each; they choose the factor by which the ridge of phi_2 exceeds reg, out of `INTERACTION_FACTORS`,
and the larger of both choices of reg counts.
"""

import itertools
from collections.abc import Sequence

import numpy as np
import scipy.linalg
from threadpoolctl import threadpool_limits

from diffusions.typing import Float, Int, Params, PyTree
from jkonet_star.energies.models import LinearEnergy
from jkonet_star.fit_report import ClosedFormReport
from jkonet_star.solvers.first_order import FirstOrderConditions
from jkonet_star.solvers.linear_model import split_coefficients
from jkonet_star.solvers.normal_equations import NormalEquations, normal_equations

FOLDS = 5
TIE = 1e-4
"""Of the held-out residual: what differs by less is as good, and the smallest ridge is taken."""
REGULARIZATIONS = tuple(10.0**power for power in range(-10, 5, 2))
INTERACTION_FACTORS = (1.0, 1e3, 1e6, 1e9)


Ridge = float | Float[np.ndarray, "f"]
"""One for all unknowns, or one for each."""


def folds(conditions: FirstOrderConditions) -> Int[np.ndarray, "c"]:
    """A fold for every pair: its step, or with fewer than three steps a random one of `FOLDS`."""
    step = np.asarray(conditions.step)
    if step.max() >= 2:
        return step
    return np.random.default_rng(0).permutation(len(step)) % FOLDS


def halves(conditions: FirstOrderConditions) -> Int[np.ndarray, "c"]:
    """A random half of the particles for every pair, the same one in all steps."""
    numbers, place = np.unique(np.asarray(conditions.lineage), return_inverse=True)
    return np.random.default_rng(0).permutation(len(numbers))[place] % 2


def choose_regularization(
    partitions: Sequence[NormalEquations], factors: Sequence[Ridge]
) -> tuple[float, int]:
    """The value of `REGULARIZATIONS`, and the number of the factor, with the least held-out residual.

    Args:
        partitions: of the same data, each kept per fold; their residuals are added.
        factors: of the ridge, a number or one per unknown each.
    """

    def held_out(choice: tuple[float, int]) -> float:
        ridge, residual = choice[0] * factors[choice[1]], 0.0
        for sums in partitions:
            total = NormalEquations(*(s.sum(axis=0) for s in sums))
            for gram, moment, square in zip(*sums, strict=True):
                theta = _trial_solution(total.gram - gram, total.moment - moment, ridge)
                residual += theta @ gram @ theta + 2.0 * theta @ moment + square
        return residual

    choices = list(itertools.product(REGULARIZATIONS, range(len(factors))))
    errors = [held_out(choice) for choice in choices]
    best = min(errors)
    # Where V and U are exchangeable small ridges differ by rounding, which shall not choose.
    return next(c for c, e in zip(choices, errors, strict=True) if e <= best + TIE * abs(best))


def _scaled(gram: np.ndarray, ridge: Ridge) -> tuple[np.ndarray, np.ndarray]:
    """The matrix (2) and the diagonal of D; a feature that never moves keeps coefficient zero."""
    matrix = gram + ridge * np.eye(len(gram))
    diagonal = np.diag(matrix)
    scale = np.where(diagonal > 0, 1.0 / np.sqrt(np.where(diagonal > 0, diagonal, 1.0)), 0.0)
    return scale[:, None] * matrix * scale, scale


def solve_ridge(
    gram: Float[np.ndarray, "f f"], moment: Float[np.ndarray, "f"], ridge: Ridge
) -> tuple[Float[np.ndarray, "f"], int, float]:
    """Minus (gram + diag(ridge))^{-1} moment by (2); also the rank and the condition number."""
    matrix, scale = _scaled(gram, ridge)
    eigenvalues, basis = np.linalg.eigh(matrix)
    kept = eigenvalues > len(gram) * np.finfo(np.float64).eps * eigenvalues[-1]
    inverse = np.where(kept, 1.0 / np.where(kept, eigenvalues, 1.0), 0.0)
    theta = -scale * (basis @ (inverse * (basis.T @ (scale * moment))))
    smallest = max(eigenvalues[0], np.finfo(np.float64).tiny)
    with np.errstate(over="ignore"):  # infinite, where the smallest is next to nothing
        condition = float(eigenvalues[-1] / smallest)
    return theta, int(kept.sum()), condition


def _trial_solution(gram: np.ndarray, moment: np.ndarray, ridge: Ridge) -> np.ndarray:
    """`solve_ridge` by Cholesky where the matrix is safely definite: twenty times cheaper."""
    matrix, scale = _scaled(gram, ridge)
    try:
        factor = scipy.linalg.cho_factor(matrix)
    except scipy.linalg.LinAlgError:
        return solve_ridge(gram, moment, ridge)[0]
    return -scale * scipy.linalg.cho_solve(factor, scale * moment)


def fit_linear(
    model: LinearEnergy,
    constants: PyTree,
    conditions: FirstOrderConditions,
    *,
    regularization: float | None = None,
    interaction_factor: float = 1.0,
) -> tuple[Params, ClosedFormReport]:
    """Equation (1), with beta >= 0: where the free optimum has beta < 0, the constraint is active.

    Args:
        model: which features and terms.
        constants: radial centres, and the data's units.
        conditions: the data.
        regularization: reg; chosen by cross-validation where not given.
        interaction_factor: of the ridge of phi_2, over a reg that is given.

    Returns:
        The model's params in single precision, and the report.
    """
    # A few hundred unknowns: more threads than one would only wait for each other.
    with threadpool_limits(1, user_api="blas"):
        return _fit_linear(model, constants, conditions, regularization, interaction_factor)


def _fit_linear(
    model: LinearEnergy,
    constants: PyTree,
    conditions: FirstOrderConditions,
    regularization: float | None,
    factor: float,
) -> tuple[Params, ClosedFormReport]:
    if regularization is None:
        factor = 1.0
        half = halves(conditions)
        step = folds(conditions)
        cells = normal_equations(
            model, constants, conditions, fold=2 * step + half, n_folds=2 * (int(step.max()) + 1)
        )
        table = [s.reshape(-1, 2, *s.shape[1:]) for s in cells]
        by_step = NormalEquations(*(s.sum(axis=1) for s in table))
        by_half = NormalEquations(*(s.sum(axis=0) for s in table))
        several = half.min() != half.max()
        both = model.has_potential and model.has_interaction
        # Halves that share nu cannot tell V from U * nu: there they are taken apart, below.
        partitions = [by_step, by_half] if several and not both else [by_step]
        regularization, _ = choose_regularization(partitions, [1.0])
        if several and both:
            apart = normal_equations(model, constants, conditions, fold=half, apart=True)
            factors = [_per_feature(model, factor) for factor in INTERACTION_FACTORS]
            choice, number = choose_regularization([apart], factors)
            regularization, factor = max(regularization, choice), INTERACTION_FACTORS[number]
        gram, moment, square = (s.sum(axis=0) for s in by_step)
    else:
        gram, moment, square = normal_equations(model, constants, conditions)
    ridge = ridge_of(model, regularization, factor)
    theta, rank, condition = solve_ridge(gram, moment, ridge)
    if model.internal == "learned" and theta[-1] < 0:
        free, rank, condition = solve_ridge(gram[:-1, :-1], moment[:-1], ridge[:-1])
        theta = np.append(free, 0.0)
    remaining = theta @ gram @ theta + 2.0 * theta @ moment + square
    report = ClosedFormReport(
        n_features=len(theta),
        rank=rank,
        condition_number=condition,
        regularization=regularization,
        interaction_factor=factor,
        relative_residual=float(max(remaining, 0.0) / max(square, np.finfo(np.float64).tiny)),
    )
    return split_coefficients(model, theta), report


def ridge_of(
    model: LinearEnergy, regularization: float, interaction_factor: float
) -> Float[np.ndarray, "f"]:
    """What is added to the diagonal for each unknown."""
    return regularization * _per_feature(model, interaction_factor)


def _per_feature(model: LinearEnergy, factor: float) -> Float[np.ndarray, "f"]:
    """Of the ridge: `factor` at the features of U, one elsewhere."""
    parts = [
        np.full(features.n_features, value)
        for features, value in (
            (model.potential_features, 1.0),
            (model.interaction_features, factor),
        )
        if features is not None
    ]
    return np.concatenate(
        [*parts, np.ones(model.n_circulation), np.ones(int(model.internal == "learned"))]
    )
