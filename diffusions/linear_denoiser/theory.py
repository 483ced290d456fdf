r"""The solvable linear denoiser as n and d grow together: its distances to the truth as curves over n.

Given z, the training pairs of `diffusions.linear_denoiser.model` are x = b z + const + tau xi, with

    b = e^T s^2 / (s^2 + eta),   tau^2 = s^2 eta / (s^2 + eta),   Var z = v = e^{-2T} (s^2 + eta).  (1)

With C the scatter of the n centred z, a Wishart matrix with n - 1 degrees of freedom and G a matrix of
standard normals, least squares gives

    B^T = b I + tau C^{-1/2} G                        for n - 1 >= d,                               (2)
    E tr B B^T / d = b^2 + tau^2 d / (v (n - d - 2))              for n > d + 2,                    (3)
    E tr B B^T / d = (n - 1) / d (b^2 + tau^2 d / (v (d - n)))    for n < d,  exactly;              (4)

at n = d, d + 1 and d + 2 the expectation is infinite: the double-descent spike. Given C, (2) is a
diagonal matrix plus independent noise of row variances tau^2 / c_k, over the eigenvalues c_k of C,
which follow the law of Marchenko and Pastur. With <.> the mean over that law and D = d tau^2 / c,
(Hachem, Loubaton and Najim, "Deterministic equivalents for certain functionals of large random
matrices", 2007)

    delta = <D / (rho (1 + delta' D) + b^2 / (1 + delta))>,
    delta' = <(1 + delta' D) / (rho (1 + delta) (1 + delta' D) + b^2)>,                             (5)
    1/d log det(I + B B^T / rho) -> <log(1 + delta' D + b^2 / (rho (1 + delta)))> + log(1 + delta)
                                    - rho delta delta',                                             (6)
    1/d tr (B B^T + rho)^{-1} -> <1 / (rho (1 + delta' D) + b^2 / (1 + delta))>,                    (7)
    1/d log det B B^T -> <log(q D + b^2)> - q,   <D / (q D + b^2)> = 1, or q = 0 if <D> < b^2.      (8)

The mean error mu - m is Gaussian given B, with covariance (s^2 I + e^{-2T} eta B B^T) / n. The curves
are the expectation of KL, with (3) exact and (8) of leading order, and the typical H^2, of the expected
log. They are no expectations at finite n, which `diffusions.linear_denoiser.expectation` has: KL is too
small, at the defaults by 4 % at d = 25 and n = 40, and by 3 % at d = 100 and n = 200, less on both
sides.
"""

from typing import NamedTuple

import numpy as np
from scipy.optimize import brentq

from diffusions.linear_denoiser.model import OneStepModel
from diffusions.typing import HostArray

NODES = 20_000
MOST_ITERATIONS = 20_000


class LeadingOrder(NamedTuple):
    """Predictions for each number of training points, as n and d grow together."""

    kl: HostArray
    hellinger_squared: HostArray
    log_affinity: HostArray
    mean_variance: HostArray


def leading_order(model: OneStepModel, n_train: HostArray) -> LeadingOrder:
    """What is expected of the linear denoiser, as data and dimension grow together.

    Args:
        model: the data and the step.
        n_train: numbers of training points, each at least 2.
    """
    rows = np.array([_leading_order(model, int(n)) for n in n_train]).reshape(-1, 3)
    kl, affinity, variance = rows.T
    return LeadingOrder(
        kl=kl, hellinger_squared=-np.expm1(affinity), log_affinity=affinity, mean_variance=variance
    )


def regression(model: OneStepModel) -> tuple[float, float, float]:
    """The b^2, tau^2 and v of equation (1)."""
    s2, eta, shrinkage2 = model.std**2, model.noise_variance, model.shrinkage**2
    return (
        (s2 / (s2 + eta)) ** 2 / shrinkage2,
        s2 * eta / (s2 + eta),
        shrinkage2 * (s2 + eta),
    )


def _leading_order(model: OneStepModel, n: int) -> tuple[float, float, float]:
    """Expected KL, expected log affinity, expected mean variance."""
    d, s2, eta = model.dimension, model.std**2, model.noise_variance
    shrinkage = model.shrinkage
    b2, tau2, v = regression(model)
    sigma2 = shrinkage**2 * (s2 * (1.0 - 1.0 / n) + eta)
    # Without noise the fit is exact, and nothing diverges.
    if n <= d:
        spread = tau2 * d / (v * (d - n)) if n < d else np.inf if tau2 else 0.0
        return np.inf, -np.inf, sigma2 * (n - 1) / d * (b2 + spread)
    spread = tau2 * d / (v * (n - d - 2)) if n > d + 2 else np.inf if tau2 else 0.0
    trace = b2 + spread
    weights, eigenvalues = _marchenko_pastur(d / (n - 1))
    noise = d * tau2 / (v * (n - 1) * eigenvalues)

    log_determinant = d * (_log_determinant(weights, noise, b2) + np.log(sigma2 / s2))
    smoothed, resolvent = _regularised(weights, noise, b2, s2 / sigma2)
    # Traces of (S + s^2)^{-1} s^2 and of (S + s^2)^{-1} S, each over d.
    outside = s2 / sigma2 * resolvent
    inside = 1.0 - outside
    mean_error = d / n * (outside + shrinkage**2 * eta / sigma2 * inside)
    log_affinity = (
        0.5 * d * np.log(2.0) + 0.25 * log_determinant - 0.5 * d * smoothed - 0.25 * mean_error
    )
    shift = d / n * (1.0 + shrinkage**2 * eta * trace / s2 if eta else 1.0)
    kl = 0.5 * (d * sigma2 * trace / s2 - d - log_determinant + shift)
    return kl, log_affinity, sigma2 * trace


def _marchenko_pastur(ratio: float) -> tuple[HostArray, HostArray]:
    """Weights and nodes of the mean over eigenvalues of a Wishart matrix over its degrees of freedom.

    Args:
        ratio: dimension over degrees of freedom, at most 1.
    """
    # lambda = 1 + ratio + 2 sqrt(ratio) cos(angle) takes the square-root edges away.
    angles = (np.arange(NODES) + 0.5) * np.pi / NODES
    eigenvalues = 1.0 + ratio + 2.0 * np.sqrt(ratio) * np.cos(angles)
    return 2.0 * np.sin(angles) ** 2 / (NODES * eigenvalues), eigenvalues


def _log_determinant(weights: HostArray, noise: HostArray, signal: float) -> float:
    """Equation (8)."""

    def excess(q: float) -> float:
        return float(weights @ (noise / (q * noise + signal))) - 1.0

    # <D / (q D + b^2)> < 1 / q, so that the root lies below 1.
    q = brentq(excess, 0.0, 1.0, xtol=1e-14) if excess(0.0) > 0.0 else 0.0
    return float(weights @ np.log(q * noise + signal)) - q


def _regularised(
    weights: HostArray, noise: HostArray, signal: float, rho: float
) -> tuple[float, float]:
    """Equations (6) and (7), with (5) solved by iteration."""
    delta = delta_dual = 1.0
    for _ in range(MOST_ITERATIONS):
        resolvent = 1.0 / (rho * (1.0 + delta_dual * noise) + signal / (1.0 + delta))
        new = float(weights @ (noise * resolvent))
        dual = 1.0 / (rho * (1.0 + new) + signal / (1.0 + delta_dual * noise))
        new_dual = float(weights @ dual)
        change = abs(new - delta) / (1.0 + new) + abs(new_dual - delta_dual) / (1.0 + new_dual)
        delta, delta_dual = new, new_dual
        if change < 1e-13:
            break
    resolvent = 1.0 / (rho * (1.0 + delta_dual * noise) + signal / (1.0 + delta))
    logs = np.log1p(delta_dual * noise + signal / (rho * (1.0 + delta)))
    value = weights @ logs + np.log1p(delta) - rho * delta * delta_dual
    return float(value), float(weights @ resolvent)
