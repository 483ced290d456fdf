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
k nearest other x, with weights tau sum_j p_ji, which r's variance is inverse to, and the tricube kernel
(Cleveland, Robust locally weighted regression, 1979). h_i is tau times the sum of the squares of its
coefficients over those weights: r's own noise, which passes into s. theta is what explains most of the
whole displacement: the maximisation step (5) of `paired_likelihood` for responsibilities p, without s.

A drift so flexible follows noise, too. Targets are therefore divided into folds: each has the s of the
targets of the others, to which its own responsibilities are due, and

    beta = sum_kj sum_i w_ji |y_j - z_i|^2 / (1 + h_i) / tau_k / (2 d sum_kj sum_i w_ji),           (3)

w the responsibilities of the narrow component, is taken over targets that s has not seen. So is the
likelihood, but for theta, which has seen all targets: by the coefficients that they determine at a
narrower noise, and do not at the wider one, it gains

    (f(beta) - f(beta before)) / targets                                                           (4)

by chance. (1) is taken where beta is less and the targets are more likely than under
`paired_likelihood`, by more than (4), chance and a trifle, and where theta takes at most a third of
the targets' coordinates: more of them would explain anything. Of several k the likeliest is taken, but
the first that leaves next to nothing of beta is as good.

What (1) cannot tell from misfit is noise that is not Gaussian, or not the same for all particles: beta
is then that of the quiet ones, and eps the share of the others, which is to be reported; it is kept
below a half, and omega above beta. Nor is beta any better than the regression: 3 to 20 % of it are what
that leaves of kinks and ripples, counted in its standard error by `MISFIT_LEFT`. theta stays after
`THETA_ROUNDS`, where an s goes on.
"""

from typing import NamedTuple

import numpy as np
from scipy.spatial import cKDTree
from scipy.special import chdtri

from diffusions.typing import Float
from jkonet_star.internal_energy.euler_steps import Steps
from jkonet_star.internal_energy.paired_likelihood import (
    PairedFit,
    Pull,
    candidates,
    coefficients,
    effective_parameters,
    kept_neighbours,
    thinned,
)

FOLDS = 4
FEWEST_ROUNDS, ROUNDS = 3, 24
TOLERANCE, LIKELIHOOD_TOLERANCE = 0.01, 1e-3
"""Of beta, and of the mean log likelihood, between rounds."""
THETA_ROUNDS = 6
"""After which theta stays where there is an s, which goes on: most of a round is theta's."""
NOISE_ROUNDS, NOISE_TOLERANCE = 30, 1e-3
"""Of the noise, whose step is repeated while everything else stays."""
SHARE, WIDER = 0.1, 10.0
"""eps, and omega over beta, to start with."""
CLOSER, CLOSER_SHARE = 0.3, 0.3
"""The nearest z lie closer than beta says, by this factor: a few targets, or many sources, make it."""
LEAST_SHARE, MOST_SHARE = 1e-4, 0.5
PER_UNKNOWN = (5, 20)
"""Neighbours k of the local regressions tried, for each of its d + 1 unknowns."""
LARGEST_DIMENSION = 4
"""In which neighbours are near."""
POINTS_PER_NEIGHBOUR = 4
MOST_DESIGN_BYTES = 200_000_000
"""Of one local regression; beyond, it is left out."""
FEWEST_TARGETS = 100
"""Of which the likelihood tells one law from another."""
LOCAL_RIDGE = 1e-3
MOST_PASSED = 10.0
"""At most, of h: nobody near has a successor among the targets of the other folds."""
FEWEST_CANDIDATES = 8
SIGNIFICANT = 3.0
"""Standard errors of the mean gain."""
LEAST_GAIN = 0.005
MOST_GAIN = 5.0
"""Of one target: whatever one particle gains alone proves nothing."""
PER_COEFFICIENT = 3.0
"""Coordinates of targets for each that they determine, at least."""
HOPELESS_AFTER = 3
"""Rounds after which a k that has gained nothing is given up."""
PLAIN_TO_SEE = 0.05
"""Of the beta to start with: where one k leaves less, no other is tried."""
EXPLAINED, NEARLY_NOTHING = 0.01, 1e-3
"""Of the beta to start with: less that has not settled is as good as none, and its own error; and from
where on it is left so."""
LOG_DIFFERENCE = 0.05
"""Of beta, over which the likelihood is differenced twice."""
MISFIT_LEFT = 0.15
"""Of beta: standard error for what the regression does not follow."""


class UnexplainedFit(NamedTuple):
    """A fit of (1).

    Attributes:
        theta: of the features.
        beta: of (3), the coefficients of theta taken from the number of targets.
        standard_error: of it, by the curvature of the likelihood in log beta and `MISFIT_LEFT`.
        log_likelihood: of every target, by the s of the other folds.
        share: eps, never less than `LEAST_SHARE`.
        whole: beta + eps omega, which is beta with the few counted.
        used: coefficients that the targets determine.
        iterations: rounds.
        converged: whether beta and the likelihood have settled, or next to nothing is left.
    """

    theta: Float[np.ndarray, "f"]
    beta: float
    standard_error: float
    log_likelihood: Float[np.ndarray, "targets"]
    share: float
    whole: float
    used: float
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
        """Values at the points, and their variance where those given have one over the weights."""
        own = weights[self.nearest]
        weighted = self.design * (self.kernel * own)[..., None]
        gram = weighted.transpose(0, 2, 1) @ self.design
        ridge = LOCAL_RIDGE * gram[:, 0, 0] + np.finfo(np.float64).tiny
        gram += ridge[:, None, None] * np.eye(gram.shape[-1])
        first = np.zeros((len(gram), gram.shape[-1], 1))
        first[:, 0] = 1.0
        coefficients = (weighted @ np.linalg.solve(gram, first))[..., 0]
        variance = (coefficients**2 / np.where(own > 0, own, 1.0)).sum(axis=1)
        return (coefficients[..., None] * values[self.nearest]).sum(axis=1), variance


class _Fold(NamedTuple):
    """Values s and h of one fold at the sources of every step."""

    s: list[np.ndarray]
    h: list[np.ndarray]


class _Distances(NamedTuple):
    """Of the targets of a step to their candidates: what (1) needs beside the noise."""

    away: np.ndarray  # (m, q), |y - z|^2 / (4 tau (1 + h))
    spread: np.ndarray  # (m, q), log of the rest of the density

    def responsibilities(self, noise: _Noise, d: int) -> tuple[np.ndarray, np.ndarray]:
        """Of (component, target, candidate), and the log likelihood of every target."""
        logs = np.stack(
            [
                np.log(share) - d / 2 * np.log(beta) + self.spread - self.away / beta
                for share, beta in noise.parts
            ]
        )
        highest = logs.max(axis=(0, 2))
        w = np.exp(logs - highest[:, None])
        total = w.sum(axis=(0, 2))
        return w / total[:, None], highest + np.log(total)


class _Mixture:
    """(1) on the same targets and folds for every k."""

    def __init__(self, steps: Steps, start: PairedFit, precision: np.ndarray, seed: int):
        self.most = kept_neighbours(steps, steps.transported(start.theta), start.beta)
        self.steps, self.kept = thinned(steps, self.most)
        self.precision = self.kept * precision
        self.d = steps.sources[0].shape[1]
        generator = np.random.default_rng(seed)
        self.folds = [generator.permutation(len(y)) % FOLDS for y in self.steps.targets]
        self.information = self.steps.information()
        self.cuts = np.cumsum([len(x) for x in steps.sources])[:-1]
        self.flat = _Fold(
            [np.zeros_like(x) for x in steps.sources], [np.zeros(len(x)) for x in steps.sources]
        )

    def rows(
        self, z: list[np.ndarray], folds: list[_Fold], noise: _Noise | None
    ) -> list[np.ndarray]:
        """Of the sources that may have sent every target; as many for every law without a noise."""
        mean = [
            own + tau * np.mean([fold.s[k] for fold in folds], axis=0)
            for k, (own, tau) in enumerate(zip(z, self.steps.tau, strict=True))
        ]
        q = self.most
        if noise is not None:
            widest = noise.parts[-1][1]
            q = kept_neighbours(self.steps, mean, widest, fewest=FEWEST_CANDIDATES, most=self.most)
        return candidates(mean, self.steps.targets, q)

    def distances(
        self,
        y: np.ndarray,
        z: np.ndarray,
        rows: np.ndarray,
        s: np.ndarray,
        h: np.ndarray,
        tau: float,
    ) -> _Distances:
        """Of targets to their candidates, which have this s and h."""
        scale = 4.0 * tau * (1.0 + h)
        away = np.zeros(rows.shape)
        for axis in range(self.d):
            away += (y[:, axis, None] - z[rows, axis] - tau * s[..., axis]) ** 2
        return _Distances(away / scale, -self.d / 2 * np.log(np.pi * scale) - np.log(len(z)))

    def unseen(
        self, z: list[np.ndarray], folds: list[_Fold], rows: list[np.ndarray]
    ) -> list[_Distances]:
        """Of every target by the s of the other folds."""
        found = []
        for k, (own, fold) in enumerate(zip(rows, self.folds, strict=True)):
            s = np.stack([one.s[k] for one in folds])[fold[:, None], own]
            h = np.stack([one.h[k] for one in folds])[fold[:, None], own]
            y, tau = self.steps.targets[k], self.steps.tau[k]
            found.append(self.distances(y, z[k], own, s, h, tau))
        return found

    def log_likelihood(self, unseen: list[_Distances], noise: _Noise) -> np.ndarray:
        """Of every target."""
        return np.concatenate([own.responsibilities(noise, self.d)[1] for own in unseen])

    def settled_noise(self, unseen: list[_Distances], noise: _Noise, lowest: float) -> _Noise:
        """(3), and its like for eps and omega, repeated for the distances as they are."""
        for _ in range(NOISE_ROUNDS):
            squares, counts = np.zeros(len(noise.parts)), np.zeros(len(noise.parts))
            for own in unseen:
                w, _ = own.responsibilities(noise, self.d)
                squares += 2.0 * (w * own.away).sum(axis=(1, 2))
                counts += w.sum(axis=(1, 2))
            betas = squares / (self.d * np.maximum(counts, 1e-300))
            before, beta = noise, max(float(betas[0]), lowest)
            noise = _Noise(beta)
            if before.share:
                share = float(np.clip(counts[1] / counts.sum(), LEAST_SHARE, MOST_SHARE))
                noise = _Noise(beta, share, max(float(betas[1]) - beta, beta))
            if abs(noise.beta - before.beta) < NOISE_TOLERANCE * noise.beta:
                break
        return noise

    def pulls(
        self,
        z: list[np.ndarray],
        folds: list[_Fold],
        noise: _Noise,
        rows: list[np.ndarray],
        unseen: list[_Distances],
    ) -> tuple[list[Pull], list[list[Pull]]]:
        """Of all targets by `unseen`; and, of each fold, those of the others by its own s."""
        narrowing = np.array([noise.beta / beta for _, beta in noise.parts])

        def p(own: _Distances) -> np.ndarray:
            return np.tensordot(narrowing, own.responsibilities(noise, self.d)[0], 1)

        whole: list[Pull] = []
        learned: list[list[Pull]] = [[] for _ in folds]
        for k, (y, every) in enumerate(zip(self.steps.targets, rows, strict=True)):
            n, tau = len(z[k]), self.steps.tau[k]
            whole.append(Pull.of(every, p(unseen[k]), y, n))
            for f, fold in enumerate(folds):
                others = self.folds[k] != f
                to, own = y[others], every[others]
                distances = self.distances(to, z[k], own, fold.s[k][own], fold.h[k][own], tau)
                learned[f].append(Pull.of(own, p(distances), to, n))
        return whole, learned

    def used(self, beta: float) -> float:
        """Coefficients that the targets determine."""
        # Of as many targets as sources, whose information it is.
        own = self.precision / self.kept
        return effective_parameters(self.information, max(beta, np.finfo(float).tiny), own)

    def corrected(self, beta: float, used: float) -> float:
        """Beta for the coordinates that so many coefficients leave."""
        n = self.steps.n_residuals
        return beta * n / max(n - used, 1.0)

    def smoothed(self, local: _Local, pulls: list[Pull], z: list[np.ndarray]) -> _Fold:
        """(2), and its regression."""
        tau = self.steps.tau
        residuals = [
            (pull.target / np.where(pull.load > 0, pull.load, np.inf)[:, None] - own)
            * (pull.load > 0)[:, None]
            / t
            for pull, own, t in zip(pulls, z, tau, strict=True)
        ]
        weights = np.concatenate([t * pull.load for pull, t in zip(pulls, tau, strict=True)])
        s, variance = local(np.concatenate(residuals), weights)
        h = [
            np.minimum(t * own, MOST_PASSED)
            for own, t in zip(np.split(variance, self.cuts), tau, strict=True)
        ]
        return _Fold(np.split(s, self.cuts), h)

    def initial(self, start: PairedFit, lowest: float) -> tuple[np.ndarray, _Noise]:
        """Where to begin: theta and noise of `start`, or what the nearest z say."""
        beta, theta = start.beta, start.theta
        for tried in (start.theta, np.zeros_like(start.theta)):
            squares = [
                cKDTree(z).query(y)[0] ** 2 / (2.0 * tau)
                for z, y, tau in zip(
                    self.steps.transported(tried), self.steps.targets, self.steps.tau, strict=True
                )
            ]
            nearest = float(np.median(np.concatenate(squares))) / chdtri(self.d, 0.5)
            if nearest < beta:
                beta, theta = nearest, tried
        if beta < CLOSER * start.beta:
            return theta, _Noise(max(beta, lowest), CLOSER_SHARE, WIDER * start.beta)
        return start.theta, _Noise(start.beta, SHARE, WIDER * start.beta)

    def of_features(self, start: PairedFit) -> np.ndarray:
        """The log likelihood of every target without eps and s."""
        z, folds = self.steps.transported(start.theta), [self.flat] * FOLDS
        rows = self.rows(z, folds, None)
        return self.log_likelihood(self.unseen(z, folds, rows), _Noise(start.beta))

    def fit(
        self,
        theta: np.ndarray,
        noise: _Noise,
        local: _Local | None,
        *,
        least: float,
        lowest: float,
    ) -> UnexplainedFit | None:
        """Alternates between the responsibilities and what is due to them.

        None where the mean log likelihood stays below `least`.
        """
        folds, z, first = [self.flat] * FOLDS, self.steps.transported(theta), noise.beta
        rounds, done, value = 0, False, -np.inf
        while rounds < ROUNDS and not done and noise.beta > NEARLY_NOTHING * first:
            rounds += 1
            rows = self.rows(z, folds, noise)
            unseen = self.unseen(z, folds, rows)
            before, noise = noise, self.settled_noise(unseen, noise, lowest)
            reached, value = value, float(self.log_likelihood(unseen, noise).mean())
            if rounds > HOPELESS_AFTER and value < least:
                return None
            whole, learned = self.pulls(z, folds, noise, rows, unseen)
            if local is None or rounds <= THETA_ROUNDS:
                theta = coefficients(self.steps, whole, noise.beta, self.precision)
                z = self.steps.transported(theta)
            if local is not None:
                folds = [self.smoothed(local, pulls, z) for pulls in learned]
            settled = abs(noise.beta - before.beta) < TOLERANCE * noise.beta
            likely = abs(value - reached) < LIKELIHOOD_TOLERANCE
            done = (rounds >= FEWEST_ROUNDS and settled and likely) or noise.beta <= lowest
        unseen = self.unseen(z, folds, self.rows(z, folds, None))
        one = np.exp(LOG_DIFFERENCE)
        low, here, high = (
            self.log_likelihood(unseen, noise._replace(beta=noise.beta * factor))
            for factor in (1 / one, 1.0, one)
        )
        curvature = float((2.0 * here - low - high).sum()) / LOG_DIFFERENCE**2
        relative = 1.0 / np.sqrt(curvature) if curvature > 0 else np.inf
        used = self.used(noise.beta)
        beta = noise.beta if noise.beta <= lowest else self.corrected(noise.beta, used)
        return UnexplainedFit(
            theta=theta,
            beta=beta,
            standard_error=beta * float(np.hypot(relative, MISFIT_LEFT if done else 1.0)),
            log_likelihood=here,
            share=noise.share,
            used=used,
            whole=noise.beta + noise.share * noise.wider,
            iterations=rounds,
            converged=bool(done or beta < EXPLAINED * first),
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
    n_targets = sum(len(y) for y in steps.targets)
    if n_targets < FEWEST_TARGETS:
        return None
    mixture = _Mixture(steps, start, precision, seed)
    plain = mixture.of_features(start)
    theta, noise = mixture.initial(start, lowest_beta)
    used = mixture.used(start.beta)
    alone = mixture.corrected(start.beta, used)
    best, most = None, 0.0
    for k in _neighbours(steps):
        found = mixture.fit(
            theta,
            noise,
            _Local(np.concatenate(steps.sources), k) if k else None,
            least=float(plain.mean()),
            lowest=lowest_beta,
        )
        if found is None or found.beta >= alone:
            continue
        if not k and found.share <= 2 * LEAST_SHARE:  # nothing was found
            continue
        if PER_COEFFICIENT * found.used > mixture.steps.n_residuals:
            continue
        gain = np.minimum(found.log_likelihood - plain, MOST_GAIN)
        by_chance = (found.used - used) / len(gain)  # (4)
        error = float(gain.std()) / np.sqrt(len(gain))
        if gain.mean() <= LEAST_GAIN + by_chance + SIGNIFICANT * error:
            continue
        if best is None or gain.mean() - by_chance > most:
            best, most = found, float(gain.mean()) - by_chance
        if found.beta < PLAIN_TO_SEE * noise.beta:
            break
    return best


def _neighbours(steps: Steps) -> list[int]:
    """The k of (2) to try, 0 for none: the fewest first, which explain the most."""
    d, n = steps.sources[0].shape[1], sum(len(x) for x in steps.sources)
    tried = [factor * (d + 1) for factor in PER_UNKNOWN if d <= LARGEST_DIMENSION]
    tried = [
        k
        for k in tried
        if n >= POINTS_PER_NEIGHBOUR * k and 8 * n * k * (d + 1) <= MOST_DESIGN_BYTES
    ]
    return [*tried[:1], 0, *tried[1:]]
