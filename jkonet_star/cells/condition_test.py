r"""Whether cells of two conditions follow one dynamics, by permutations of their labels.

With f test functions of a cell, T_j the plan of one step, from the cells of snapshot j moved by the
shared energy to those of snapshot j + 1 of all conditions together, and w_j their growth,

    F_k = f(x) at snapshot k,   N_k = 1,
    N_j F_j = w_j T_j (N_{j+1} F_{j+1}),   N_j = w_j T_j N_{j+1}                                    (1)

is what is expected of the descendants at snapshot k of every cell of the first. With labels l of 0 and
1, weights w and strata s (batches; one where there are none), a contrast is

    D v = sum_i a_i v_i,   a_i = w_i (l_i - l_s) / sum_i w_i (l_i - l_s)^2,                          (2)

l_s the weighted mean of a stratum: without strata the difference of two means. Of one dynamics

    g_k = D f(x_k) - D F_0,   m_k = D F_0                                                           (3)

is zero up to the error of (1), whatever the two populations were at first. The statistic is

    S = sum_k S_k,   S_k = g_k^T [C_k + s^2 (m_k m_k^T + |m_k|^2 I / p)]^{-1} g_k,                  (4)

p test functions, C_k the covariance of g_k, of each condition's own cells, and s = `ALLOWED` the
error that the predicted difference m_k may have, in its own size and in any direction: where cells
began alike none is predicted, and nothing is allowed.

The law of S without a difference is that under permutations of the labels within snapshot and stratum,
which change neither plans nor energy: these are of all cells together. Where the first cells are alike,
every permutation is as likely and the test exact. Where they are not, C_k makes it hold for many cells
(Chung, Romano, Ann. Stat. 41, 2013), up to errors of (1) beyond s. Clones whose cells are seen several
times count as independent cells.

Test functions are Gaussian bumps on clusters of cells and the leading coordinates, in the directions of
their covariance and scaled to variance 1, those with hardly any left out.
"""

from typing import NamedTuple

import numpy as np
from scipy import sparse

from diffusions.typing import Float, Int

ALLOWED = 0.5
"""s of (4)."""
RIDGE = 0.01
"""Of the mean variance, added to C."""
LEAST_VARIANCE = 1e-3
"""Of the largest: test functions below say nothing that others do not."""
PERMUTATIONS_AT_ONCE = 64


class Comparison(NamedTuple):
    """One condition beside another."""

    statistic: float  # S
    expected: float  # its mean under permutations
    pvalue: float
    by_time: np.ndarray  # the p-value of S_k, of each snapshot but the first


def standardised(values: Float[np.ndarray, "n q"]) -> Float[np.ndarray, "n p"]:
    """Test functions of all cells, uncorrelated and of mean 0 and variance 1."""
    away = values - values.mean(axis=0)
    deviation = away.std(axis=0)
    away = away[:, deviation > 0] / deviation[deviation > 0]
    variances, directions = np.linalg.eigh(away.T @ away / len(away))
    kept = variances > LEAST_VARIANCE * variances[-1]
    return away @ (directions[:, kept] / np.sqrt(variances[kept]))


def expected_of_first(
    values: list[np.ndarray], plans: list[sparse.csr_matrix], growth: list[np.ndarray]
) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """F_0 and N_0 of equation (1), for every snapshot but the first.

    Args:
        values: of the test functions, for each snapshot.
        plans: of each step; rows sum to 1.
        growth: of the cells that each step begins with.
    """
    expected, numbers = [], []
    for k in range(1, len(values)):
        mass, number = values[k], np.ones(len(values[k]))
        for plan, w in zip(plans[k - 1 :: -1], growth[k - 1 :: -1], strict=True):
            mass, number = w[:, None] * (plan @ mass), w * (plan @ number)
        # A cell of no pair, which an entropic plan may leave, has no weight.
        expected.append(mass / np.maximum(number, np.finfo(float).tiny)[:, None])
        numbers.append(number)
    return expected, numbers


def compare(
    values: list[np.ndarray],
    expected: list[np.ndarray],
    numbers: list[np.ndarray],
    labels: list[np.ndarray],
    strata: list[np.ndarray],
    *,
    n_permutations: int,
    rng: np.random.Generator,
) -> Comparison:
    """The test of two conditions.

    Args:
        values: of the test functions, of the cells of each snapshot.
        expected: F_0, of the cells of the first snapshot, for each later one.
        numbers: N_0, likewise.
        labels: 1 for the one condition and 0 for the other, of the cells of each snapshot; those of
            the first may be all of one, which says that both began with them.
        strata: numbers of the strata, likewise.
        n_permutations: at least 1.
        rng: of them.
    """
    each = np.empty((len(expected), n_permutations + 1))
    for start in range(0, n_permutations + 1, PERMUTATIONS_AT_ONCE):
        own = slice(start, min(start + PERMUTATIONS_AT_ONCE, n_permutations + 1))
        drawn = [
            _permuted(one, which, own.stop - own.start, rng)
            for one, which in zip(labels, strata, strict=True)
        ]
        if start == 0:  # the labels as they are come first
            for rows, one in zip(drawn, labels, strict=True):
                rows[0] = one
        for k, (f, n) in enumerate(zip(expected, numbers, strict=True)):
            seen, variance = _contrast(values[k + 1], drawn[k + 1], strata[k + 1])
            mean, more = _contrast(f, drawn[0], strata[0], n)
            each[k, own] = _statistic(seen - mean, mean, variance + more)
    total = each.sum(axis=0)
    return Comparison(
        float(total[0]),
        float(total[1:].mean()),
        _pvalue(total),
        np.array([_pvalue(one) for one in each]),
    )


def _permuted(
    labels: np.ndarray, strata: np.ndarray, count: int, rng: np.random.Generator
) -> Float[np.ndarray, "count n"]:
    found = np.tile(np.asarray(labels, np.float64), (count, 1))
    for s in np.unique(strata):
        inside = np.flatnonzero(strata == s)
        found[:, inside] = rng.permuted(found[:, inside], axis=1)
    return found


def _contrast(
    values: Float[np.ndarray, "n p"],
    labels: Float[np.ndarray, "c n"],
    strata: Int[np.ndarray, "n"],
    weights: Float[np.ndarray, "n"] | None = None,
) -> tuple[Float[np.ndarray, "c p"], Float[np.ndarray, "c p p"]]:
    """Equation (2) of rows of labels, and its covariance; zero where no stratum has both labels."""
    w = np.ones(len(values)) if weights is None else weights / weights.mean()
    away, values = np.empty_like(labels), values.copy()
    for s in np.unique(strata):
        inside = strata == s
        own = w[inside]
        away[:, inside] = labels[:, inside] - (labels[:, inside] @ own / own.sum())[:, None]
        values[inside] -= own @ values[inside] / own.sum()
    total = (away**2) @ w
    a = w * away / np.where(total > 0, total, np.inf)[:, None]
    products = (values[:, :, None] * values[:, None]).reshape(len(values), -1)
    p = values.shape[1]
    covariance = np.zeros((len(labels), p, p))
    for own in (labels, 1.0 - labels):
        share = a**2 * own
        mass = share.sum(axis=1)
        mean = share @ values / np.where(mass > 0, mass, np.inf)[:, None]
        covariance += (share @ products).reshape(-1, p, p)
        covariance -= mass[:, None, None] * mean[:, :, None] * mean[:, None]
    return a @ values, covariance


def _statistic(
    gap: Float[np.ndarray, "c p"],
    mean: Float[np.ndarray, "c p"],
    covariance: Float[np.ndarray, "c p p"],
) -> Float[np.ndarray, "c"]:
    """S_k of equation (4)."""
    p = gap.shape[1]
    scale = RIDGE * np.trace(covariance, axis1=1, axis2=2) / p
    scale += ALLOWED**2 * (mean**2).sum(axis=1) / p
    whole = covariance + ALLOWED**2 * mean[:, :, None] * mean[:, None]
    whole += scale[:, None, None] * np.eye(p)
    return np.einsum("ci,ci->c", gap, np.linalg.solve(whole, gap[..., None])[..., 0])


def _pvalue(statistics: np.ndarray) -> float:
    """The share of permutations, the labels as they are among them, that are as far."""
    return float((statistics >= statistics[0] * (1 - 1e-12)).mean())


def holm(pvalues: Float[np.ndarray, "c"]) -> Float[np.ndarray, "c"]:
    """P-values of several conditions together (Holm, Scand. J. Stat. 6, 1979)."""
    order = np.argsort(pvalues)
    steps = pvalues[order] * np.arange(len(pvalues), 0, -1)
    found = np.empty(len(pvalues))
    found[order] = np.minimum(np.maximum.accumulate(steps), 1.0)
    return found
