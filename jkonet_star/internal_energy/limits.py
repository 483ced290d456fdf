r"""Where snapshots do not determine beta, whatever an estimator returns.

At equilibrium rho = exp(-(V + U * rho) / beta): a common factor of V, U and beta changes nothing but
how fast particles move, which no sample of other particles shows. And noise of one explicit step
spreads the next snapshot in every direction,

    beta <= min_k lambda_min(Sigma_{k+1}) / 2 tau_k,                                               (1)

with Sigma_k the covariance of snapshot k; over long steps a steep drift takes back what noise spreads.
Of n particles in d dimensions the narrowest direction of a sample is (1 - sqrt(d / n))^2 times that of
the law (Marchenko and Pastur, 1967), by which it is divided; fewer than `FEWEST` particles per
dimension say nothing.
"""

import numpy as np
from scipy.special import ndtri

from jkonet_star.equal_laws import equal_laws
from jkonet_star.snapshots import Snapshots

LEVEL = 0.05
"""Of the p-value of equal laws, from which on they are taken to be one."""
SLACK = 2.0
"""Of (1), for the chance in the narrowest direction."""
FEWEST = 3.0
MOST_DOUBT = 3.0
"""Standard errors by which the beta of two minima may differ and be one."""
INTERVAL = float(ndtri(0.95))
"""Half a 90 % interval, in standard errors."""


def most_beta(snapshots: Snapshots) -> float:
    """The bound (1); infinite where no snapshot tells one."""
    least = [
        _narrowest(np.asarray(x, np.float64), np.asarray(w, np.float64)) / (2.0 * tau)
        for x, w, tau in zip(
            np.asarray(snapshots.points)[1:],
            np.asarray(snapshots.weights)[1:],
            np.asarray(snapshots.dt, np.float64),
            strict=True,
        )
    ]
    return max(0.0, float(min(least, default=np.inf)))


def _narrowest(points: np.ndarray, weights: np.ndarray) -> float:
    """The least variance of any direction of the law."""
    w = weights / weights.sum()
    crowd = points.shape[1] * float((w**2).sum())  # d / n
    if crowd > 1 / FEWEST:
        return np.inf
    away = points - w @ points
    least = float(np.linalg.eigvalsh((w[:, None] * away).T @ away)[0])
    return least / (1 - np.sqrt(crowd)) ** 2


def one_law(snapshots: Snapshots) -> str | None:
    """Why particles that nothing pairs do not determine beta; None where their laws differ."""
    if equal_laws(snapshots) < LEVEL:
        return None
    return (
        "the laws do not change, and nothing says which cell went where: only the energy "
        "divided by beta is determined, not how strong noise and drift are"
    )


def too_much_noise(most: float, beta: float, standard_error: float) -> str | None:
    """Why this beta cannot be; None where (1) allows it within its 90 % interval.

    Args:
        most: of `most_beta`.
        beta: in the same units.
        standard_error: of it; what is not known counts as none.
    """
    error = standard_error if np.isfinite(standard_error) else 0.0
    if beta - INTERVAL * error <= SLACK * most:
        return None
    return (
        "the estimate of beta contradicts the data, whose narrowest direction allows no more "
        f"than {most:.2g} by one explicit step, or the steps are too long for one"
    )


def several_betas(doubt: float, standard_error: float) -> str | None:
    """Why a beta of `long_steps` is not known; None where every start finds the same.

    Args:
        doubt: by how much beta differs from that of another start.
        standard_error: of it.
    """
    if doubt <= MOST_DOUBT * standard_error:
        return None
    return (
        "several potentials, each with a beta of its own, explain the snapshots: too little changes "
        "between them to tell how fast particles move; more snapshots soon after the start would tell"
    )
