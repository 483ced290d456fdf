"""How often a 90 % interval holds the truth, over simulated data sets.

    python -m benchmarks.coverage --sets=40 --replicates=99

Particles begin at N(1, I) and take three Euler steps of .2 in V = |x|^2 / 2, which the features hold.
Asked for are the drift at three points, differences of V between them, and beta. Those that grow are
two clusters at (4, 4) and (-4, -4) that rest, of shares .5, .6 and .692: asked for is the difference
of their rates, log(1.5). A data set's numbers depend on each other, so that a share over 40 sets is
known to about .05. 'bias' and 'spread' are of the estimates over the sets, in units of the promised
deviation: the mean error, and the standard deviation, one where the interval has the right length.
"""

import argparse
import dataclasses
import time
import warnings
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from scipy.stats import norm

TAU, STEPS, LEVEL = 0.2, 3, 0.9


@dataclasses.dataclass(frozen=True, kw_only=True)
class Case:
    """Data of one kind, and how they are learned from.

    Attributes:
        name: in words.
        dimension: d.
        particles: of each snapshot.
        noise: beta of the simulation.
        paired: whether all snapshots show the same particles.
        solver: its name.
        ridge: of the features; chosen by cross-validation where it is None.
        methods: of the intervals.
        replicates: at most.
        grows: see above.
    """

    name: str
    dimension: int
    particles: int = 100
    noise: float = 0.0
    paired: bool = False
    solver: str = "jkonet-star-linear-potential"
    ridge: float | None = 1e-6
    methods: tuple[str, ...] = ("corrected", "percentile")
    replicates: int = 10_000
    grows: bool = False


CASES = (
    Case(name="different particles", dimension=1, particles=200),
    Case(name="different particles", dimension=2),
    Case(name="different particles, ridge chosen", dimension=2, ridge=None),
    Case(
        name="the same particles, little noise",
        dimension=2,
        noise=2e-4,
        paired=True,
        methods=("corrected", "percentile", "sandwich"),
    ),
    Case(
        name="the same particles, beta learned",
        dimension=2,
        particles=150,
        noise=0.05,
        paired=True,
        solver="jkonet-star-linear-potential-internal",
        replicates=19,
    ),
    Case(
        name="different particles, beta learned",
        dimension=2,
        particles=300,
        noise=0.2,
        solver="jkonet-star-linear-potential-internal",
        ridge=None,
        methods=("percentile",),
    ),
    Case(name="growth", dimension=2, ridge=1e-2, replicates=19, grows=True),
)
CENTERS, SHARES = np.array([[4.0, 4.0], [-4.0, -4.0]]), (1 / 2, 3 / 5, 9 / 13)


def simulated(case: Case, seed: int) -> list[np.ndarray]:
    """Snapshots of one data set."""
    rng = np.random.default_rng(seed)
    if case.grows:
        which = [(rng.random(case.particles) > share).astype(int) for share in SHARES]
        return [CENTERS[own] + rng.normal(size=(case.particles, 2)) for own in which]

    def path() -> list[np.ndarray]:
        points = [1 + rng.normal(size=(case.particles, case.dimension))]
        for _ in range(STEPS):
            kick = np.sqrt(2 * case.noise * TAU) * rng.normal(size=points[0].shape)
            points.append((1 - TAU) * points[-1] + kick)
        return points

    if case.paired:
        return path()
    return [path()[k] for k in range(STEPS + 1)]


def asked(case: Case) -> tuple[Callable[[Any], dict[str, Any]], dict[str, np.ndarray]]:
    """A function of an energy, and its truth."""
    if case.grows:
        return (
            lambda energy: {"growth": energy.growth(CENTERS)[:1] - energy.growth(CENTERS)[1:]},
            {"growth": np.log([1.5])},
        )
    points = np.zeros((3, case.dimension), np.float32)
    points[:, 0] = [0.0, 1.0, 2.0]

    def function(energy: Any) -> dict[str, Any]:
        values = energy.potential(points)
        found = {"V differences": values[1:] - values[0], "drift": energy.drift(points)}
        return {**found, "beta": energy.beta[None]} if case.noise > 1e-3 else found

    truth = {
        "V differences": np.array([0.5, 2.0]),
        "drift": -points,
        "beta": np.array([case.noise]),
    }
    return function, truth


def coverage(case: Case, sets: int, replicates: int) -> list[dict[str, Any]]:
    """A row per method and quantity.

    Args:
        case: the data.
        sets: how many.
        replicates: of the bootstrap.
    """
    from jkonet_star import DensitySettings, FeatureSettings, fit, snapshots_from_arrays

    function, truth = asked(case)
    rows: dict[tuple[str, str], list[tuple[np.ndarray, ...]]] = {}
    for seed in range(sets):
        energy = fit(
            snapshots_from_arrays(simulated(case, seed), dt=1.0 if case.grows else TAU),
            case.solver,
            key=jax.random.key(seed),
            features=FeatureSettings(degree=2, radial="none", regularization=case.ridge),
            density_settings=DensitySettings(n_components=2),
            bootstrap=min(replicates, case.replicates),
            growth=case.grows,
        )
        found = function(energy)
        for method in case.methods:
            lower, upper = energy.interval(function, LEVEL, method=method)
            for name, value in found.items():
                error = np.ravel(np.asarray(value, np.float64) - truth[name])
                low, high = np.ravel(lower[name]), np.ravel(upper[name])
                inside = (low <= np.ravel(truth[name])) & (np.ravel(truth[name]) <= high)
                rows.setdefault((method, name), []).append((inside, error, high - low))
    table = []
    for (method, name), own in rows.items():
        inside, error, width = (np.stack(part) for part in zip(*own, strict=True))
        deviation = width.mean(axis=0) / (2 * norm.ppf(0.5 * (1 + LEVEL)))
        table.append(
            {
                "method": method,
                "quantity": name,
                "coverage": float(inside.mean()),
                "bias": float((np.abs(error.mean(axis=0)) / deviation).mean()),
                "spread": float((error.std(axis=0) / deviation).mean()),
            }
        )
    return table


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sets", type=int, default=40)
    parser.add_argument("--replicates", type=int, default=99)
    parser.add_argument("--cases", default="", help="those whose names begin like this")
    arguments = parser.parse_args()
    warnings.filterwarnings("ignore")
    print(f"{'data':37} {'d':>2} {'N':>4}  {'interval':11} {'of':14} held  bias  spread  CPU s")
    for case in CASES:
        if not case.name.startswith(arguments.cases):
            continue
        start = time.process_time()
        for row in coverage(case, arguments.sets, arguments.replicates):
            print(
                f"{case.name:37} {case.dimension:>2} {case.particles:>4}  {row['method']:11} "
                f"{row['quantity']:14} {row['coverage']:.2f}  {row['bias']:.2f}  {row['spread']:5.2f}"
                f"  {time.process_time() - start:5.0f}",
                flush=True,
            )


if __name__ == "__main__":
    main()
