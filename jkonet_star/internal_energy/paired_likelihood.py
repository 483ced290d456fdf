"""Noise and drift of one population seen repeatedly, its particles in unknown order.

Every particle of snapshot k + 1 is the successor of one of snapshot k. With the order forgotten,
and b_theta(x) = sum_l theta_l G_l(x) the drift in terms of features,

    y_j ~ (1/n) sum_i N(z_i, 2 beta tau I),   z_i = x_i - tau b_theta(x_i),                        (1)

and theta and beta maximise the log likelihood of all snapshots given the first,

    L(theta, beta) = sum_k sum_j log (1/n) sum_i N(y_j; z_i, 2 beta tau_k I)
                     - sum_l p_l theta_l^2 / 2,                                                    (2)

with precisions p_l that keep undetermined coefficients at zero. Responsibilities
w_ji = N(y_j; z_i) / sum_i' N(y_j; z_i'), of which only those of the nearest z_i matter, give both

    dL/dtheta = -sum_k G^T r / (2 beta) - p theta,        r_i = sum_j w_ji (y_j - z_i),             (3)
    dL/dlog beta = sum_kj [sum_i w_ji |y_j - z_i|^2 / (4 beta tau_k) - d/2],                        (4)

and the maximisation step of the EM algorithm, in which o_i = sum_j w_ji,

    (sum_k tau_k G^T diag(o) G + 2 beta diag(p)) theta = -sum_k G^T (sum_j w_ji (y_j - x_i)),       (5)
    beta = sum_kj sum_i w_ji |y_j - z_i|^2 / (2 tau_k n d steps).                                   (6)

EM never loses likelihood but slows down where many particles could be each other's successors.
Every round therefore takes one EM step and goes on by L-BFGS on (2) in coordinates in which the
complete data's information is the identity, so that its first step is again one of EM.

Whether the snapshots repeat their particles at all shows in the likelihood itself: from independent
populations (1) is a kernel density estimate of the law of y, and fits y no better than the kernel
density estimate that y makes of itself,

    gain = [max_beta L - max_v sum_j log (1/(n-1)) sum_{j' != j} N(y_j; y_j', v I)] / particles.    (7)
"""

import dataclasses
from typing import NamedTuple

import numpy as np
import scipy.optimize
from scipy.spatial import cKDTree

from diffusions.typing import Float
from jkonet_star.internal_energy.euler_steps import Steps

FEWEST_NEIGHBOURS = 32
MOST_NEIGHBOURS = 512
NEIGHBOUR_SAMPLE = 500
REACH = 3.5
MOST_PAIRS = 1_000_000
"""Candidates of one step: beyond, fewer targets are looked at (rows are in random order)."""
SELF_BANDWIDTHS = 24
GAIN_SAMPLE = 2000
ROUND_ITERATIONS = 15
RELATIVE_TOLERANCE = 1e-3
LOG_DIFFERENCE = 0.05
"""Of beta, over which its likelihood's slope is differenced."""
MOVE_TOLERANCE = 0.02
"""Of the noise's standard deviation: successive rounds that differ less have converged."""


class Responsibilities(NamedTuple):
    """What the expectation step knows about one step k."""

    rows: np.ndarray  # (m, q) candidate sources of every target
    weights: np.ndarray  # (m, q), w
    squares: np.ndarray  # (m, q), |y - z|^2
    log_likelihood: float


def needed_neighbours(steps: Steps, z: list[np.ndarray], beta: float) -> int:
    """Sources that may have sent a particle, within `REACH` standard deviations of the noise."""
    most = 1
    for centres, y, tau in zip(z, steps.targets, steps.tau, strict=True):
        radius = REACH * float(np.sqrt(2.0 * beta * tau))
        tree = cKDTree(centres)
        counts = tree.query_ball_point(y[:NEIGHBOUR_SAMPLE], radius, return_length=True)
        most = max(most, int(np.quantile(counts, 0.9)))
    return most


def kept_neighbours(
    steps: Steps,
    z: list[np.ndarray],
    beta: float,
    *,
    fewest: int = FEWEST_NEIGHBOURS,
    most: int = MOST_NEIGHBOURS,
) -> int:
    """A power of two, so that successive rounds agree, within bounds."""
    needed = 2 ** np.ceil(np.log2(needed_neighbours(steps, z, beta)))
    return int(np.clip(needed, fewest, most))


def candidates(z: list[np.ndarray], targets: list[np.ndarray], neighbours: int) -> list[np.ndarray]:
    """Rows of the nearest z of every target, for every step."""
    found = []
    for centres, y in zip(z, targets, strict=True):
        q = min(neighbours, len(centres))
        found.append(cKDTree(centres).query(y, q)[1].reshape(len(y), q))
    return found


def thinned(steps: Steps, neighbours: int) -> tuple[Steps, float]:
    """As many of the targets as `MOST_PAIRS` allows, and their share; sources stay complete."""
    share = min(1.0, MOST_PAIRS / (neighbours * max(len(y) for y in steps.targets)))
    targets = [y[: max(1, int(share * len(y)))] for y in steps.targets]
    return dataclasses.replace(steps, targets=targets), share


def expectation(
    z: Float[np.ndarray, "n d"], y: Float[np.ndarray, "m d"], rows: np.ndarray, variance: float
) -> Responsibilities:
    """Responsibilities and log likelihood of one step, over the given candidates."""
    squares = np.zeros(rows.shape)
    for axis in range(y.shape[1]):
        squares += (y[:, axis, None] - z[rows, axis]) ** 2
    exponent = squares / (-2.0 * variance)
    highest = exponent.max(axis=1, keepdims=True)
    weights = np.exp(exponent - highest)
    total = weights.sum(axis=1, keepdims=True)
    constant = np.log(len(z)) + y.shape[1] / 2 * np.log(2 * np.pi * variance)
    log_likelihood = float((highest + np.log(total)).sum() - len(y) * constant)
    return Responsibilities(rows, weights / total, squares, log_likelihood)


class PairedFit(NamedTuple):
    """A maximum of equation (2)."""

    theta: np.ndarray
    beta: float
    iterations: int
    converged: bool


def maximisation(
    steps: Steps, own: list[Responsibilities], beta: float, precision: Float[np.ndarray, "f"]
) -> tuple[Float[np.ndarray, "f"], float]:
    """Equations (5), and (6) at the new theta."""
    pulls = [
        Pull.of(r.rows, r.weights, y, len(x))
        for r, x, y in zip(own, steps.sources, steps.targets, strict=True)
    ]
    theta = coefficients(steps, pulls, beta, precision)
    z = steps.transported(theta)
    total = 0.0
    for k, r in enumerate(own):
        squares = expectation(z[k], steps.targets[k], r.rows, 1.0).squares
        total += float((r.weights * squares).sum()) / (2.0 * steps.tau[k])
    return theta, total / steps.n_residuals


class Pull(NamedTuple):
    """Per source of one step: the sums over targets of their weights w, and of w y."""

    load: np.ndarray
    target: np.ndarray

    @classmethod
    def of(cls, rows: np.ndarray, weights: np.ndarray, y: np.ndarray, n: int) -> "Pull":
        """Sums the (m, q) weights onto the n sources at `rows`."""
        flat = rows.ravel()
        moments = [
            np.bincount(flat, (y[:, [axis]] * weights).ravel(), n) for axis in range(y.shape[1])
        ]
        return cls(np.bincount(flat, weights.ravel(), n), np.stack(moments, axis=1))

    def beyond(self, x: Float[np.ndarray, "n d"]) -> Float[np.ndarray, "n d"]:
        """The sums of w (y - x)."""
        return self.target - self.load[:, None] * x


def coefficients(
    steps: Steps, pulls: list[Pull], beta: float, precision: Float[np.ndarray, "f"]
) -> Float[np.ndarray, "f"]:
    """Equation (5)."""
    if not steps.n_features:
        return np.zeros(0)
    matrix = steps.information([pull.load for pull in pulls]) + 2.0 * beta * np.diag(precision)
    moved = [pull.beyond(x) for pull, x in zip(pulls, steps.sources, strict=True)]
    return solve_scaled(matrix, -steps.pulled_back(moved))


def solve_scaled(matrix: Float[np.ndarray, "f f"], vector: Float[np.ndarray, "f"]) -> np.ndarray:
    """The solution of a positive semi-definite system, directions within rounding left out."""
    diagonal = np.sqrt(np.maximum(np.diag(matrix), np.finfo(np.float64).tiny))
    values, basis = np.linalg.eigh(matrix / diagonal / diagonal[:, None])
    kept = values > len(values) * np.finfo(np.float64).eps * values[-1]
    inverse = np.where(kept, 1.0 / np.where(kept, values, 1.0), 0.0)
    return basis @ (inverse * (basis.T @ (vector / diagonal))) / diagonal


class _Objective:
    """Minus equation (2) per coordinate of the data, with fixed candidates, in whitened coordinates.

    The coordinates are (phi, s): theta = basis phi, log beta = log beta_0 + s sqrt(2).
    """

    def __init__(self, steps, rows, beta, precision, gram):
        self.steps, self.rows, self.beta, self.precision = steps, rows, beta, precision
        matrix = gram / (2.0 * beta) + np.diag(precision)
        scale = np.sqrt(np.maximum(np.diag(matrix), np.finfo(np.float64).tiny))
        values, vectors = np.linalg.eigh(matrix / scale / scale[:, None])
        kept = values > len(values) * np.finfo(np.float64).eps * values[-1:]
        roots = np.sqrt(steps.n_residuals / values[kept])
        # theta = basis phi makes the complete data's information n_residuals times the identity.
        self.basis = vectors[:, kept] * roots / scale[:, None]
        self.inverse = (vectors[:, kept] / roots).T * scale

    def split(self, point: np.ndarray) -> tuple[np.ndarray, float]:
        return self.basis @ point[:-1], self.beta * float(np.exp(np.sqrt(2.0) * point[-1]))

    def start(self, theta: np.ndarray) -> np.ndarray:
        return np.append(self.inverse @ theta, 0.0)

    def __call__(self, point: np.ndarray) -> tuple[float, np.ndarray]:
        theta, beta = self.split(point)
        steps = self.steps
        z = steps.transported(theta)
        value = -0.5 * float(self.precision @ theta**2)
        noise, residuals = 0.0, []
        for k, (y, tau) in enumerate(zip(steps.targets, steps.tau, strict=True)):
            r = expectation(z[k], y, self.rows[k], 2.0 * beta * tau)
            value += r.log_likelihood
            noise += float((r.weights * r.squares).sum()) / (4.0 * beta * tau) - y.size / 2.0
            if steps.n_features:
                residuals.append(Pull.of(r.rows, r.weights, y, len(z[k])).beyond(z[k]))
        slope = np.zeros(0)
        if steps.n_features:
            by_theta = -steps.pulled_back(residuals) / (2.0 * beta) - self.precision * theta
            slope = self.basis.T @ by_theta
        gradient = np.append(slope, np.sqrt(2.0) * noise)
        return -value / steps.n_residuals, -gradient / steps.n_residuals


def mean_log_likelihood(
    steps: Steps, theta: Float[np.ndarray, "f"], beta: float
) -> tuple[float, int]:
    """The first sum of equation (2) per target, and the neighbours that it took."""
    z = steps.transported(theta)
    neighbours = kept_neighbours(steps, z, beta)
    own, _ = thinned(steps, neighbours)
    rows = candidates(z, own.targets, neighbours)
    total = sum(
        expectation(z[k], y, rows[k], 2.0 * beta * steps.tau[k]).log_likelihood
        for k, y in enumerate(own.targets)
    )
    return total / sum(len(y) for y in own.targets), neighbours


def fit_paired(
    steps: Steps,
    theta: Float[np.ndarray, "f"],
    beta: float,
    precision: Float[np.ndarray, "f"],
    *,
    rounds: int,
    lowest_beta: float,
) -> PairedFit:
    """Maximises equation (2).

    Args:
        steps: the data.
        theta: where to start.
        beta: likewise.
        precision: p.
        rounds: of one EM step and up to `ROUND_ITERATIONS` of L-BFGS, at most.
        lowest_beta: below, beta counts as zero.
    """
    gram = steps.information()
    iterations, converged = 0, False
    z = steps.transported(theta)
    for _ in range(rounds):
        neighbours = kept_neighbours(steps, z, beta)
        own, share = thinned(steps, neighbours)
        rows = candidates(z, own.targets, neighbours)
        responsibilities = [
            expectation(z[k], y, rows[k], 2.0 * beta * steps.tau[k])
            for k, y in enumerate(own.targets)
        ]
        previous, before = beta, z
        theta, beta = maximisation(own, responsibilities, beta, share * precision)
        iterations += 1
        if beta > lowest_beta:
            objective = _Objective(own, rows, beta, share * precision, share * gram)
            result = scipy.optimize.minimize(
                objective,
                objective.start(theta),
                jac=True,
                method="L-BFGS-B",
                options={"maxiter": ROUND_ITERATIONS, "ftol": 1e-8, "gtol": 1e-5},
            )
            iterations += result.nit
            theta, beta = objective.split(result.x)
        z = steps.transported(theta)
        if beta <= lowest_beta:
            converged = True
            break
        moved = max(
            float(np.sqrt(((a - b) ** 2).mean() / (2.0 * beta * tau)))
            for a, b, tau in zip(z, before, steps.tau, strict=True)
        )
        if abs(beta - previous) < RELATIVE_TOLERANCE * beta and moved < MOVE_TOLERANCE:
            converged = True
            break
    return PairedFit(theta, beta, iterations, converged)


def standard_error(steps: Steps, theta: Float[np.ndarray, "f"], beta: float) -> float:
    """Of beta, by the observed information in log beta: (4) differenced, with theta as it is.

    Infinite where the likelihood has no maximum at beta.
    """
    z = steps.transported(theta)
    neighbours = kept_neighbours(steps, z, beta)
    own, share = thinned(steps, neighbours)
    rows = candidates(z, own.targets, neighbours)

    def slope(value: float) -> float:
        total = 0.0
        for k, (y, tau) in enumerate(zip(own.targets, own.tau, strict=True)):
            r = expectation(z[k], y, rows[k], 2.0 * value * tau)
            total += float((r.weights * r.squares).sum()) / (4.0 * value * tau) - y.size / 2.0
        return total / share

    low, high = beta * np.exp(-LOG_DIFFERENCE), beta * np.exp(LOG_DIFFERENCE)
    information = (slope(low) - slope(high)) / (2.0 * LOG_DIFFERENCE)
    return beta / float(np.sqrt(information)) if information > 0 else float("inf")


def effective_parameters(
    information: Float[np.ndarray, "f f"], beta: float, precision: Float[np.ndarray, "f"]
) -> float:
    """Coefficients that the data determine, trace of gram (gram + precision)^-1.

    Args:
        information: of the steps; gram is this over 2 beta.
        beta: of the noise.
        precision: of the prior.
    """
    if not len(information):
        return 0.0
    gram = information / (2.0 * beta)
    scale = 1.0 / np.sqrt(np.diag(gram) + precision + np.finfo(np.float64).tiny)
    gram = gram * scale * scale[:, None]
    rounding = len(scale) * np.finfo(np.float64).eps
    total = gram + np.diag(precision * scale**2 + rounding)
    return float(np.trace(np.linalg.solve(total, gram)))


def self_log_likelihood(targets: list[np.ndarray], neighbours: int) -> float:
    """The second term of equation (7), per particle, over at most `GAIN_SAMPLE` of each snapshot."""
    total, count = 0.0, 0
    for y in targets:
        q = min(neighbours + 1, len(y))
        spread = float(y.var(axis=0).mean())
        if q < 2 or spread <= 0:
            continue
        squares = cKDTree(y).query(y[:GAIN_SAMPLE], q)[0][:, 1:] ** 2
        best = -np.inf
        for variance in spread * np.geomspace(1e-5, 0.3, SELF_BANDWIDTHS):
            exponent = squares / (-2.0 * variance)
            highest = exponent[:, 0]
            summed = highest + np.log(np.exp(exponent - highest[:, None]).sum(axis=1))
            constant = np.log(len(y) - 1) + y.shape[1] / 2 * np.log(2 * np.pi * variance)
            best = max(best, float(summed.mean() - constant))
        total += best * len(y)
        count += len(y)
    return total / max(count, 1)
