"""Points in the plane whose law is known: what a density model is judged by.

    dino     a point of the Datasaurus plus N(0, 0.15^2 I), in the units of its drawing
    moons    (cos t, sin t) or (1 - cos t, 1/2 - sin t), t uniform on [0, pi], plus N(0, 0.03^2 I)
    line     uniform on [-1/2, 1/2] x [-1, 1]
    circle   the square rounded to {-0.4, -0.2, 0, 0.2, 0.4}^2, projected on the unit circle (the origin
             stays), moved by r (cos f, sin f), r uniform on [0, 0.03], f uniform
    scg      N(0, [[1, c], [c, 1]]), c = -0.495 / 0.505: a strongly correlated Gaussian

Each coordinate is then standardised by the mean and standard deviation of the sample, which changes the
log density by the sum of the log deviations. The Datasaurus is due to Matejka and Fitzmaurice, Same
stats, different graphs (CHI 2017), after a drawing by Alberto Cairo; its 142 points are public data.
"""

import dataclasses
from collections.abc import Callable
from importlib import resources

import numpy as np
from scipy.special import logsumexp

from diffusions.short_repr import short_repr
from diffusions.typing import Float

DINO_NOISE = 0.15
MOONS_NOISE = 0.03
CIRCLE_REACH = 0.03
SCG_CORRELATION = -0.495 / 0.505
LATTICE = np.linspace(-0.4, 0.4, 5)
MOON_NODES = 4001
ENTROPY_SAMPLE = 20_000
"""Points that the entropy of a law without a closed form is averaged over; its error is below 0.01."""

Generator = np.random.Generator


@dataclasses.dataclass(frozen=True)
class PlanarLaw:
    """A law in the plane, before standardisation.

    Attributes:
        sample: (generator, n) -> (n, 2).
        log_density: (n, 2) -> (n,); -inf outside the support.
        entropy: in nats, where there is a closed form.
        default_size: number of points of the dataset.
    """

    sample: Callable[[Generator, int], np.ndarray]
    log_density: Callable[[np.ndarray], np.ndarray]
    entropy: float | None = None
    default_size: int = 8000


@dataclasses.dataclass(frozen=True)
class PlanarData:
    """A standardised sample, split in two, and its exact density.

    Attributes:
        train: (n, 2).
        validation: (m, 2).
        mean: of the sample before it was standardised.
        deviation: likewise.
        law: before it was standardised.
    """

    train: Float[np.ndarray, "n 2"]
    validation: Float[np.ndarray, "m 2"]
    mean: Float[np.ndarray, "2"]
    deviation: Float[np.ndarray, "2"]
    law: PlanarLaw

    __repr__ = short_repr

    def log_density(self, x: Float[np.ndarray, "n 2"]) -> Float[np.ndarray, "n"]:
        """Exact log density at standardised points, in nats."""
        original = np.asarray(x, np.float64) * self.deviation + self.mean
        return self.law.log_density(original) + float(np.log(self.deviation).sum())

    def entropy(self) -> float:
        """Of the standardised law, in nats; by Monte Carlo where there is no closed form."""
        known = self.law.entropy
        if known is None:
            points = self.law.sample(np.random.default_rng(1), ENTROPY_SAMPLE)
            known = -float(np.mean(self.law.log_density(points)))
        return known - float(np.log(self.deviation).sum())


def _gaussian_kernels(x: np.ndarray, centers: np.ndarray, noise: float) -> np.ndarray:
    """Log of the mean of isotropic Gaussians, in blocks of points."""
    found = []
    for block in np.array_split(x, max(1, len(x) // 500)):
        squared = ((block[:, None] - centers) ** 2).sum(axis=-1)
        found.append(logsumexp(-0.5 * squared / noise**2, axis=1))
    return np.concatenate(found) - np.log(len(centers) * 2 * np.pi * noise**2)


def dino_points() -> Float[np.ndarray, "142 2"]:
    """The Datasaurus."""
    text = (resources.files("data_generation") / "datasaurus_dino.csv").read_text("utf-8")
    return np.array([[float(v) for v in line.split(",")] for line in text.split()[1:]])


def _dino() -> PlanarLaw:
    points = dino_points()

    def sample(generator: Generator, n: int) -> np.ndarray:
        chosen = points[generator.integers(len(points), size=n)]
        return chosen + DINO_NOISE * generator.standard_normal((n, 2))

    return PlanarLaw(sample, lambda x: _gaussian_kernels(x, points, DINO_NOISE))


def _arcs(t: np.ndarray, lower: np.ndarray) -> np.ndarray:
    upper_arc = np.stack([np.cos(t), np.sin(t)], axis=-1)
    lower_arc = np.stack([1.0 - np.cos(t), 0.5 - np.sin(t)], axis=-1)
    return np.where(lower[:, None], lower_arc, upper_arc)


def _moons() -> PlanarLaw:
    # Nodes a tenth of the noise apart: the sum over them is the integral to rounding.
    t = (np.arange(MOON_NODES) + 0.5) * np.pi / MOON_NODES
    nodes = np.concatenate([_arcs(t, np.full(MOON_NODES, side)) for side in (False, True)])

    def sample(generator: Generator, n: int) -> np.ndarray:
        t = generator.uniform(0.0, np.pi, n)
        clean = _arcs(t, np.arange(n) % 2 == 1)
        return clean + MOONS_NOISE * generator.standard_normal((n, 2))

    return PlanarLaw(sample, lambda x: _gaussian_kernels(x, nodes, MOONS_NOISE))


def _line() -> PlanarLaw:
    half = np.array([0.5, 1.0])

    def sample(generator: Generator, n: int) -> np.ndarray:
        return generator.uniform(-half, half, (n, 2))

    def log_density(x: np.ndarray) -> np.ndarray:
        return np.where((np.abs(x) <= half).all(axis=1), -np.log(2.0), -np.inf)

    return PlanarLaw(sample, log_density, float(np.log(2.0)))


def _circle() -> PlanarLaw:
    lattice = np.stack(np.meshgrid(LATTICE, LATTICE), axis=-1).reshape(-1, 2)
    norms = np.linalg.norm(lattice, axis=1, keepdims=True)
    projected = np.round(lattice / np.where(norms > 1e-9, norms, 1.0), 12)
    centers, counts = np.unique(projected, axis=0, return_counts=True)
    shares = counts / counts.sum()
    # The discs do not touch: the entropy is that of the centre plus that of the disc.
    disc = np.log(2 * np.pi * CIRCLE_REACH) + np.log(CIRCLE_REACH) - 1.0
    entropy = float(disc - (shares * np.log(shares)).sum())

    def sample(generator: Generator, n: int) -> np.ndarray:
        center = centers[generator.choice(len(centers), n, p=shares)]
        angle = generator.uniform(0.0, 2 * np.pi, n)
        radius = generator.uniform(0.0, CIRCLE_REACH, n)
        return center + radius[:, None] * np.stack([np.cos(angle), np.sin(angle)], axis=-1)

    def log_density(x: np.ndarray) -> np.ndarray:
        distance = np.linalg.norm(x[:, None] - centers, axis=-1)
        nearest = distance.argmin(axis=1)
        r = distance[np.arange(len(x)), nearest]
        inside = np.log(shares[nearest]) - np.log(2 * np.pi * np.maximum(r, 1e-300) * CIRCLE_REACH)
        return np.where(r <= CIRCLE_REACH * (1 + 1e-6), inside, -np.inf)

    return PlanarLaw(sample, log_density, entropy)


def _scg() -> PlanarLaw:
    c = SCG_CORRELATION
    factor = np.array([[1.0, 0.0], [c, np.sqrt(1.0 - c * c)]])

    def sample(generator: Generator, n: int) -> np.ndarray:
        return generator.standard_normal((n, 2)) @ factor.T

    def log_density(x: np.ndarray) -> np.ndarray:
        white = np.linalg.solve(factor, x.T)
        return -0.5 * (white**2).sum(axis=0) - np.log(2 * np.pi * factor[1, 1])

    entropy = float(np.log(2 * np.pi * np.e * factor[1, 1]))
    return PlanarLaw(sample, log_density, entropy, default_size=20_000)


LAWS: dict[str, Callable[[], PlanarLaw]] = {
    "dino": _dino,
    "moons": _moons,
    "scg": _scg,
    "line": _line,
    "circle": _circle,
}


def planar_law(name: str) -> PlanarLaw:
    """A law by name.

    Raises:
        ValueError: unknown name.
    """
    if name not in LAWS:
        raise ValueError(f"planar dataset must be one of {', '.join(LAWS)}, got {name!r}")
    return LAWS[name]()


def planar_data(
    name: str, seed: int, *, n_points: int | None = None, validation_ratio: float = 0.1
) -> PlanarData:
    """A standardised sample of a law, split at random.

    Args:
        name: of the law.
        seed: of the sample and of the split.
        n_points: in all; absent, the law's default.
        validation_ratio: share that is held out.

    Raises:
        ValueError: unknown name, a ratio outside (0, 1), or too few points to split.
    """
    law = planar_law(name)
    n = law.default_size if n_points is None else n_points
    if not 0.0 < validation_ratio < 1.0:
        raise ValueError(f"validation_ratio must be in (0, 1), got {validation_ratio}")
    held_out = int(round(n * validation_ratio))
    if n < 10 or not 1 <= held_out < n - 1:
        raise ValueError(
            f"{n} points cannot be split with {validation_ratio:g} held out: give at least 10"
        )
    generator = np.random.default_rng([seed, list(LAWS).index(name)])
    points = law.sample(generator, n)
    points = points[generator.permutation(n)]
    mean, deviation = points.mean(axis=0), points.std(axis=0)
    standard = ((points - mean) / deviation).astype(np.float32)
    return PlanarData(standard[held_out:], standard[:held_out], mean, deviation, law)
