"""Drift from the displacements of optimally coupled particles.

With (x, y) coupled exactly and D = diag(sum_k tau_k E[G^T G]),

    theta_0 = -(sum_k tau_k E[G^T G] + M D)^{-1} sum_k E[G^T (y - x)],                              (1)
    beta_0 = sum_k E|y - x + tau_k G theta_0|^2 / tau_k / (2 d steps),                              (2)

where the shrinkages M, one for the monomials and one for the radial functions of each energy, are
those that predict the displacements of left-out steps best. Between independent samples most of a
displacement is chance, of which (2) keeps the variance and M the proportion: M D / (2 beta_0) is the
precision of a Gaussian prior on theta. Two groups matter: with one M for all, what it takes to keep
a hundred radial functions quiet takes half of a drift that the monomials describe.
"""

from typing import NamedTuple

import numpy as np
import scipy.linalg

from diffusions.typing import Float
from jkonet_star.energies.models import LinearEnergy
from jkonet_star.internal_energy.euler_steps import Steps
from jkonet_star.transport.exact import exact_plan

TRANSPORT_BLOCK = 1000
MOST_TRANSPORT_BLOCKS = 3
SHRINKAGES = (1e-8, 1e-6, 1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0, 1e3)
SHRINKAGE_SWEEPS = 2
MOST_MONOMIAL_PRIOR = 1e-2
MOST_RADIAL_PRIOR = 1.0
CONDITIONING = 1e-11
"""Added to the diagonal of scaled normal equations, far below any shrinkage."""


class Start(NamedTuple):
    """Equation (1) and what it leaves over."""

    theta: np.ndarray
    beta: float  # half the variance per time that the drift leaves unexplained
    precision: np.ndarray  # of the prior, per particle


class NormalEquations(NamedTuple):
    """The sums of equation (1), per coupling, and the squared displacements over tau."""

    gram: np.ndarray  # (couplings, f, f)
    moment: np.ndarray  # (couplings, f)
    square: np.ndarray  # (couplings,)


def feature_groups(model: LinearEnergy) -> list[slice]:
    """The coefficients that share a shrinkage: monomials, then radial functions, of each energy.

    A group may be empty.
    """
    groups, start = [], 0
    for features in (model.potential_features, model.interaction_features):
        if features is not None:
            middle, stop = (
                start + features.n_features - features.n_centers,
                start + features.n_features,
            )
            groups += [slice(start, middle), slice(middle, stop)]
            start = stop
    return groups


def shrunk_solution(
    gram: Float[np.ndarray, "f f"], moment: Float[np.ndarray, "f"], penalty: Float[np.ndarray, "f"]
) -> Float[np.ndarray, "f"]:
    """(gram + diag(penalty))^{-1} moment, by Cholesky of the scaled matrix."""
    scale = 1.0 / np.sqrt(np.diag(gram) + penalty + np.finfo(np.float64).tiny)
    matrix = gram * scale * scale[:, None]
    matrix[np.diag_indices_from(matrix)] += penalty * scale**2 + CONDITIONING
    factor = scipy.linalg.cho_factor(matrix, overwrite_a=True, check_finite=False)
    return scale * scipy.linalg.cho_solve(factor, scale * moment, check_finite=False)


def choose_shrinkages(sums: NormalEquations, groups: list[slice]) -> Float[np.ndarray, "f"]:
    """M of equation (1), with the least error when one coupling after the other is left out.

    A coordinate search over `SHRINKAGES` from the better of two starts: one shrinkage for all, and
    one for the monomials with the radial functions switched off.
    """
    n_jobs, f = sums.moment.shape
    if n_jobs == 1 or not f or not sums.square.any():
        return np.full(f, SHRINKAGES[-1])
    gram, moment = sums.gram.sum(axis=0), sums.moment.sum(axis=0)
    diagonal = np.diag(gram) + np.finfo(np.float64).tiny
    scale = n_jobs / (n_jobs - 1)
    known: dict[tuple[float, ...], float] = {}

    def spread_out(values: tuple[float, ...]) -> np.ndarray:
        shrinkage = np.zeros(f)
        for group, value in zip(groups, values, strict=True):
            shrinkage[group] = value
        return shrinkage

    def left_out(values: tuple[float, ...]) -> float:
        if values not in known:
            penalty, error = spread_out(values) * diagonal, 0.0
            for own, vector, square in zip(*sums, strict=True):
                theta = shrunk_solution(scale * (gram - own), scale * (moment - vector), penalty)
                error += square - 2.0 * vector @ theta + theta @ own @ theta
            known[values] = error
        return known[values]

    starts = [(value,) * len(groups) for value in SHRINKAGES]
    filled = [q for q, group in enumerate(groups) if group.stop > group.start]
    if any(q % 2 for q in filled):
        off = SHRINKAGES[-1]
        starts += [tuple(v if q % 2 == 0 else off for q in range(len(groups))) for v in SHRINKAGES]
    best = min(starts, key=left_out)
    for _ in range(SHRINKAGE_SWEEPS):
        before = best
        for q in filled:
            trials = [(*best[:q], value, *best[q + 1 :]) for value in SHRINKAGES]
            best = min([best, *trials], key=left_out)
        if best == before:
            break
    return spread_out(best)


def transport_sums(
    steps: Steps, weights: list[np.ndarray], rng: np.random.Generator
) -> NormalEquations:
    """The sums of equation (1) over exact couplings, one per step.

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
    return NormalEquations(np.stack(grams), np.stack(moments), np.array(squares))


def start_from(
    sums: NormalEquations,
    shrinkage: Float[np.ndarray, "f"],
    groups: list[slice],
    n_steps: int,
    dimension: int,
) -> Start:
    """Equations (1) and (2) for one choice of M."""
    n_jobs = len(sums.square)
    gram, moment = sums.gram.sum(axis=0), sums.moment.sum(axis=0)
    total = float(sums.square.sum())
    penalty = shrinkage * (np.diag(gram) + np.finfo(np.float64).tiny)
    theta = shrunk_solution(gram, moment, penalty) if len(moment) else moment
    remaining = total - 2.0 * moment @ theta + theta @ gram @ theta
    # At rounding, the remainder must not be negative.
    beta = max(remaining, 1e-12 * total) / (2 * dimension * n_jobs)
    # What couplings cannot see a likelihood may: even where M rules a group out, the prior does not.
    most = np.zeros(len(moment))
    for q, group in enumerate(groups):
        most[group] = MOST_MONOMIAL_PRIOR if q % 2 == 0 else MOST_RADIAL_PRIOR
    penalty = np.minimum(penalty, most * np.diag(gram))
    return Start(theta, beta, penalty * (n_steps / n_jobs) / (2 * max(beta, 1e-300)))
