r"""Noise of one population seen repeatedly, where the features do not explain its drift.

`paired_likelihood` takes for noise whatever its features leave over: kinks, ripples, the few particles
that a steep corner throws out. Noise is the same for all particles and knows nothing of its neighbours;
what features leave over is not, and does. Both, N_i(beta) being N(z_i, 2 beta tau (1 + h_i) I):

    y_j ~ (1/n) sum_i [(1 - eps) N_i(beta) + eps N_i(beta + omega)],
    z_i = x_i - tau b_theta(x_i) + tau s(x_i).                                                     (1)

omega is the spread of the few that nothing explains (a contaminated normal law: Tukey, A survey of
sampling from contaminated distributions, 1960). s is what the others have in common with their
neighbours in all steps: of the residuals

    r_i = (sum_j p_ji y_j / sum_j p_ji - x_i) / tau + b_theta(x_i),                                (2)

p the responsibilities, those of omega times beta / (beta + omega), the local linear regression over the
k nearest other x, with weights sum_j p_ji and the tricube kernel (Cleveland, Robust locally weighted
regression, 1979). h_i is the sum of the squares of its coefficients over those weights: r's own noise,
which passes into s. theta is the maximisation step (5) of `paired_likelihood` for responsibilities p.

A drift so flexible follows noise, too. Targets are therefore divided into folds: each has the s of the
targets of the others, to which its own responsibilities are due, and

    beta = sum_j sum_i w_ji |y_j - z_i|^2 / (1 + h_i) / (2 tau d sum_j sum_i w_ji),                 (3)

w the responsibilities of the narrow component, is taken over targets that s has not seen. So is the
likelihood, which decides: k, and whether (1) is taken at all, which it is where the targets are more
likely than under `paired_likelihood`, by more than chance and by more than a trifle.
"""

from typing import NamedTuple

import numpy as np
from scipy.spatial import cKDTree
from scipy.special import chdtri

from diffusions.typing import Float
from jkonet_star.internal_energy.euler_steps import Steps
from jkonet_star.internal_energy.paired_likelihood import (
    PairedFit,
    candidates,
    kept_neighbours,
    needed_neighbours,
    solve_scaled,
    thinned,
)

FOLDS = 4
FEWEST_ROUNDS, ROUNDS = 3, 12
TOLERANCE = 0.01
"""Of beta, between rounds."""
SHARE, WIDER = 0.1, 10.0
"""eps, and omega over beta, to start with."""
THROWN_OUT, THROWN_OUT_SHARE = 0.1, 0.3
"""The nearest z lie closer than beta says, by this factor: a few targets make it."""
LEAST_SHARE, MOST_SHARE = 1e-4, 0.5
PER_UNKNOWN = (5, 20)
"""Neighbours k of the local regressions tried, for each of its d + 1 unknowns."""
LARGEST_DIMENSION = 4
"""In which neighbours are near."""
POINTS_PER_NEIGHBOUR = 4
FEWEST_TARGETS = 100
"""Of which the likelihood tells one law from another."""
LOCAL_RIDGE = 1e-3
MOST_PASSED = 10.0
"""At most, of h: nobody near has a successor among the targets of the other folds."""
FEWEST_CANDIDATES = 8
SIGNIFICANT = 3.0
"""Standard errors of the mean gain."""
LEAST_GAIN = 0.005
HOPELESS_AFTER = 3
"""Rounds after which a k that has gained nothing is given up."""
EXPLAINED = 1e-3
"""Of the beta to start with: below, next to nothing is left to find."""
PLAIN_TO_SEE = 0.05
"""Likewise, where one k has found the most of it, and no other is tried."""
LOG_DIFFERENCE = 0.05
"""Of beta, over which the likelihood is differenced twice."""


class UnexplainedFit(NamedTuple):
    """A fit of (1).

    Attributes:
        theta: of the features.
        beta: of (3).
        standard_error: of it, by the curvature of the likelihood in log beta.
        log_likelihood: of every target, by the s of the other folds.
        share: eps.
        neighbours: k; 0 without s.
        iterations: rounds.
        converged: whether beta has settled, or next to nothing is left of it.
    """

    theta: Float[np.ndarray, "f"]
    beta: float
    standard_error: float
    log_likelihood: Float[np.ndarray, "targets"]
    share: float
    neighbours: int
    iterations: int
    converged: bool


class _Noise(NamedTuple):
    beta: float
    share: float = 0.0
    wider: float = 0.0

    @property
    def parts(self) -> list[tuple[float, float]]:
        """Share and beta of every component."""
        narrow = [(1.0 - self.share, self.beta)]
        return [*narrow, (self.share, self.beta + self.wider)] if self.share else narrow


class _Local:
    """Local linear regression on fixed points, none of which has a part in its own value."""

    def __init__(self, points: Float[np.ndarray, "n d"], k: int):
        self.k = k
        distances, nearest = cKDTree(points).query(points, k + 1)
        # Of points that coincide a query may name others first.
        own = nearest == np.arange(len(points))[:, None]
        own[~own.any(axis=1), -1] = True
        self.nearest = nearest[~own].reshape(-1, k)
        distances = distances[~own].reshape(-1, k)
        reach = np.maximum(distances[:, -1:] * (1 + 1e-6), np.finfo(np.float64).tiny)
        self.kernel = (1.0 - (distances / reach) ** 3) ** 3
        away = (points[self.nearest] - points[:, None]) / reach[..., None]
        self.design = np.concatenate([np.ones((*self.nearest.shape, 1)), away], axis=-1)

    def __call__(
        self, values: Float[np.ndarray, "n d"], weights: Float[np.ndarray, "n"]
    ) -> tuple[Float[np.ndarray, "n d"], Float[np.ndarray, "n"]]:
        """Values s at the points, and h."""
        own = weights[self.nearest]
        weighted = self.design * (self.kernel * own)[..., None]
        gram = weighted.transpose(0, 2, 1) @ self.design
        ridge = LOCAL_RIDGE * gram[:, 0, 0] + np.finfo(np.float64).tiny
        gram += ridge[:, None, None] * np.eye(gram.shape[-1])
        first = np.zeros((len(gram), gram.shape[-1], 1))
        first[:, 0] = 1.0
        coefficients = (weighted @ np.linalg.solve(gram, first))[..., 0]
        passed = (coefficients**2 / np.where(own > 0, own, 1.0)).sum(axis=1)
        smooth = (coefficients[..., None] * values[self.nearest]).sum(axis=1)
        return smooth, np.minimum(passed, MOST_PASSED)


class _Fold(NamedTuple):
    """s and h of one fold at the sources of every step."""

    s: list[np.ndarray]
    h: list[np.ndarray]


class _Pull(NamedTuple):
    """Per source of one step: the sums over targets of p, and of p y."""

    load: np.ndarray
    target: np.ndarray

    @classmethod
    def of(cls, rows: np.ndarray, p: np.ndarray, y: np.ndarray, n: int) -> "_Pull":
        flat = rows.ravel()
        moments = [np.bincount(flat, (p * y[:, [axis]]).ravel(), n) for axis in range(y.shape[1])]
        return cls(np.bincount(flat, p.ravel(), n), np.stack(moments, axis=1))


class _Expectation(NamedTuple):
    """Over all targets, each by the s of the other folds; `learned`, of each fold, over the others."""

    log_likelihood: np.ndarray
    squares: np.ndarray  # per component: sum w |y - z|^2 / (1 + h) / 2 tau
    counts: np.ndarray  # per component: sum w
    honest: list[_Pull]
    learned: list[list[_Pull]]


class _Mixture:
    """(1) on the same targets and folds for every k."""

    def __init__(self, steps: Steps, start: PairedFit, precision: np.ndarray, seed: int):
        self.most = kept_neighbours(steps, steps.transported(start.theta), start.beta)
        self.steps, share = thinned(steps, self.most)
        self.precision = share * precision
        self.d = steps.sources[0].shape[1]
        generator = np.random.default_rng(seed)
        self.folds = [generator.permutation(len(y)) % FOLDS for y in self.steps.targets]
        self.cuts = np.cumsum([len(x) for x in steps.sources])[:-1]
        self.flat = _Fold(
            [np.zeros_like(x) for x in steps.sources], [np.zeros(len(x)) for x in steps.sources]
        )

    def rows(self, z: list[np.ndarray], folds: list[_Fold], noise: _Noise) -> list[np.ndarray]:
        """Of the sources that may have sent every target."""
        mean = [
            own + tau * np.mean([fold.s[k] for fold in folds], axis=0)
            for k, (own, tau) in enumerate(zip(z, self.steps.tau, strict=True))
        ]
        needed = 2 ** np.ceil(np.log2(needed_neighbours(self.steps, mean, noise.parts[-1][1])))
        q = int(np.clip(needed, FEWEST_CANDIDATES, max(self.most, FEWEST_CANDIDATES)))
        return candidates(mean, self.steps.targets, q)

    def expectation(
        self, z: list[np.ndarray], folds: list[_Fold], noise: _Noise, rows: list[np.ndarray]
    ) -> _Expectation:
        n_parts = len(noise.parts)
        squares, counts, values, honest = np.zeros(n_parts), np.zeros(n_parts), [], []
        learned: list[list[_Pull]] = [[] for _ in folds]
        narrowing = np.array([noise.beta / beta for _, beta in noise.parts])
        for k, (y, tau) in enumerate(zip(self.steps.targets, self.steps.tau, strict=True)):
            n, own_rows = len(z[k]), rows[k]
            value, told = np.zeros(len(y)), np.zeros(own_rows.shape)
            for f, fold in enumerate(folds):
                moved = z[k] + tau * fold.s[k]
                scale = 4.0 * tau * (1.0 + fold.h[k])[own_rows]
                away = np.zeros(own_rows.shape)
                for axis in range(self.d):
                    away += (y[:, axis, None] - moved[own_rows, axis]) ** 2
                away /= scale
                spread = -self.d / 2 * np.log(np.pi * scale) - np.log(n)
                logs = np.stack(
                    [
                        np.log(share) - self.d / 2 * np.log(beta) + spread - away / beta
                        for share, beta in noise.parts
                    ]
                )
                highest = logs.max(axis=(0, 2))
                w = np.exp(logs - highest[:, None])
                total = w.sum(axis=(0, 2))
                w /= total[:, None]
                p = np.tensordot(narrowing, w, 1)
                held = self.folds[k] == f
                value[held] = (highest + np.log(total))[held]
                told[held] = p[held]
                squares += 2.0 * (w * away)[:, held].sum(axis=(1, 2))
                counts += w[:, held].sum(axis=(1, 2))
                learned[f].append(_Pull.of(own_rows[~held], p[~held], y[~held], n))
            values.append(value)
            honest.append(_Pull.of(own_rows, told, y, n))
        return _Expectation(np.concatenate(values), squares, counts, honest, learned)

    def noise(self, found: _Expectation, before: _Noise, lowest: float) -> _Noise:
        """(3), and its like for eps and omega."""
        betas = found.squares / (self.d * np.maximum(found.counts, 1e-300))
        beta = max(float(betas[0]), lowest)
        if not before.share:
            return _Noise(beta)
        share = float(np.clip(found.counts[1] / found.counts.sum(), LEAST_SHARE, MOST_SHARE))
        return _Noise(beta, share, max(float(betas[1]) - beta, beta))

    def theta(self, pulls: list[_Pull], beta: float) -> np.ndarray:
        """Equation (5) of `paired_likelihood`."""
        if not self.steps.n_features:
            return np.zeros(0)
        matrix = self.steps.information([pull.load for pull in pulls])
        moved = [
            pull.target - pull.load[:, None] * x
            for pull, x in zip(pulls, self.steps.sources, strict=True)
        ]
        return solve_scaled(
            matrix + 2.0 * beta * np.diag(self.precision), -self.steps.pulled_back(moved)
        )

    def smoothed(self, local: _Local, pulls: list[_Pull], z: list[np.ndarray]) -> _Fold:
        """(2), and its regression."""
        residuals = [
            (pull.target / np.where(pull.load > 0, pull.load, np.inf)[:, None] - own)
            * (pull.load > 0)[:, None]
            / tau
            for pull, own, tau in zip(pulls, z, self.steps.tau, strict=True)
        ]
        loads = np.concatenate([pull.load for pull in pulls])
        s, h = local(np.concatenate(residuals), loads)
        return _Fold(np.split(s, self.cuts), np.split(h, self.cuts))

    def start(self, start: PairedFit) -> tuple[np.ndarray, _Noise]:
        """Where to begin: theta and noise of `start`, unless a few targets have made them."""
        median = chdtri(self.d, 0.5)
        none = np.zeros_like(start.theta)
        best = start.beta, start.theta
        for theta in (start.theta, none):
            squares = [
                cKDTree(z).query(y)[0] ** 2 / (2.0 * tau)
                for z, y, tau in zip(
                    self.steps.transported(theta), self.steps.targets, self.steps.tau, strict=True
                )
            ]
            beta = float(np.median(np.concatenate(squares))) / median
            if beta < best[0]:
                best = beta, theta
        if best[0] < THROWN_OUT * start.beta:
            beta = max(best[0], np.finfo(np.float64).tiny)
            return best[1], _Noise(beta, THROWN_OUT_SHARE, WIDER * start.beta)
        return start.theta, _Noise(start.beta, SHARE, WIDER * start.beta)

    def of_features(self, start: PairedFit) -> np.ndarray:
        """The log likelihood of every target without eps and s."""
        z, folds = self.steps.transported(start.theta), [self.flat] * FOLDS
        noise = _Noise(start.beta)
        return self.expectation(z, folds, noise, self.rows(z, folds, noise)).log_likelihood

    def fit(
        self,
        theta: np.ndarray,
        noise: _Noise,
        local: _Local | None,
        *,
        least: float,
        lowest: float,
        explained: float,
    ) -> UnexplainedFit | None:
        """Alternates between the responsibilities and what is due to them.

        None where the mean log likelihood stays below `least`.
        """
        folds = [self.flat] * FOLDS
        z, rounds, converged = self.steps.transported(theta), 0, False
        while rounds < ROUNDS and not converged:
            rounds += 1
            found = self.expectation(z, folds, noise, self.rows(z, folds, noise))
            if rounds > HOPELESS_AFTER and found.log_likelihood.mean() < least:
                return None
            before, noise = noise, self.noise(found, noise, lowest)
            theta = self.theta(found.honest, before.beta)
            z = self.steps.transported(theta)
            if local is not None:
                folds = [self.smoothed(local, pulls, z) for pulls in found.learned]
            settled = abs(noise.beta - before.beta) < TOLERANCE * noise.beta
            converged = bool((settled and rounds >= FEWEST_ROUNDS) or noise.beta < explained)
        rows = self.rows(z, folds, noise)
        one = np.exp(LOG_DIFFERENCE)
        low, here, high = (
            self.expectation(z, folds, noise._replace(beta=beta), rows).log_likelihood
            for beta in (noise.beta / one, noise.beta, noise.beta * one)
        )
        curvature = float((2.0 * here - low - high).sum()) / LOG_DIFFERENCE**2
        return UnexplainedFit(
            theta=theta,
            beta=noise.beta,
            standard_error=noise.beta / float(np.sqrt(curvature)) if curvature > 0 else np.inf,
            log_likelihood=here,
            share=noise.share,
            neighbours=0 if local is None else local.k,
            iterations=rounds,
            converged=converged,
        )


def fit_unexplained(
    steps: Steps,
    start: PairedFit,
    precision: Float[np.ndarray, "f"],
    *,
    lowest_beta: float,
    seed: int = 0,
) -> UnexplainedFit | None:
    """The most likely of (1); None where the features explain the steps as well.

    Args:
        steps: the data.
        start: of `fit_paired`.
        precision: of the prior on theta, as there.
        lowest_beta: below, beta counts as zero.
        seed: of the folds.
    """
    if sum(len(y) for y in steps.targets) < FEWEST_TARGETS:
        return None
    mixture = _Mixture(steps, start, precision, seed)
    plain = mixture.of_features(start)
    theta, noise = mixture.start(start)
    best: UnexplainedFit | None = None
    for k in _neighbours(steps):
        found = mixture.fit(
            theta,
            noise,
            _Local(np.concatenate(steps.sources), k) if k else None,
            least=float(plain.mean()),
            lowest=lowest_beta,
            explained=EXPLAINED * noise.beta,
        )
        if found is None:
            continue
        gain = found.log_likelihood - plain
        error = float(gain.std()) / np.sqrt(len(gain))
        if gain.mean() <= LEAST_GAIN + SIGNIFICANT * error or found.beta >= start.beta:
            continue
        if best is None or found.log_likelihood.mean() > best.log_likelihood.mean():
            best = found
        if found.beta < PLAIN_TO_SEE * noise.beta:
            break
    return best


def _neighbours(steps: Steps) -> list[int]:
    """The k of (2) to try, 0 for none: the fewest first, which explain the most."""
    d, n = steps.sources[0].shape[1], sum(len(x) for x in steps.sources)
    tried = [factor * (d + 1) for factor in PER_UNKNOWN if d <= LARGEST_DIMENSION]
    few, *many = [k for k in tried if n >= POINTS_PER_NEIGHBOUR * k] or [0]
    return [few, *([0] if few else []), *many]
