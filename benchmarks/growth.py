"""How well growth is told from motion, on simulations whose rate is known: docs/growth.md's figures.

    python -m benchmarks.growth [--seeds=0,1,2,3,4] [--epochs=100]
        [--amplitude=16] [--change=0.03]

Per seed one line for the branching course (`data_generation.populations.branching`, 800 cells at
times 0, 1, 2, 3): the correlation of the rate of a step with the true one where its cells begin, both
centred step by step; the slope of the one on the other; the share of cells beyond the fork that go to
the other branch, without growth and with it. One line for two clusters at rest, of 300 points each
snapshot, whose shares go .5, .65, .8, .9: the ratio of what one grows faster by to the truth, by step,
and the mean drift in units of a cluster's deviation, zero in truth: of the closed form without growth
and with it, and of a network with it.
"""

import argparse
import functools

import jax
import jax.numpy as jnp
import numpy as np

from data_generation.populations import branching
from jkonet_star import couple, fit, snapshots_from_arrays
from jkonet_star.growth import estimate_growth
from jkonet_star.settings import GrowthSettings, NetworkSettings

TIMES = (0.0, 1.0, 2.0, 3.0)
N_CELLS = 800
GAMMA = 0.8
SHARES = (0.5, 0.65, 0.8, 0.9)
N_RESTING = 300


def branching_figures(seed, growth):
    """Correlation, slope, crossing without growth and with it."""
    course = branching.branching_course(
        jax.random.key(seed), n_cells=N_CELLS, times=TIMES, gamma=GAMMA
    )
    points = course.snapshots
    snapshots = snapshots_from_arrays(list(points), times=list(course.times))
    found = estimate_growth(snapshots, growth, key=jax.random.key(0))
    true = jax.vmap(jax.vmap(lambda x: branching.growth(x, GAMMA)))(jnp.asarray(points[:-1]))
    true, rates = (
        np.asarray(v, np.float64) - np.asarray(v, np.float64).mean(axis=1, keepdims=True)
        for v in (true, found.rates[:-1])
    )
    balanced, _ = couple(snapshots, key=jax.random.key(0))
    return (
        np.corrcoef(true.ravel(), rates.ravel())[0, 1],
        np.polyfit(true.ravel(), rates.ravel(), 1)[0],
        *(crossing(points, pairs) for pairs in (balanced, found.couplings)),
    )


def crossing(points, couplings):
    """Of the mass that begins beyond the fork, the share that ends on the other branch."""
    sides = np.stack([branching.branch(x) for x in points])
    step, source, target, weight = (
        np.asarray(getattr(couplings, name)) for name in ("step", "source", "target", "weight")
    )
    start, end = sides[step, source], sides[step + 1, target]
    return weight[start * end < 0].sum() / weight[start != 0].sum()


def resting_figures(seed, epochs, growth):
    """Estimated over true difference of the two rates by step; mean drifts per step."""
    rng = np.random.default_rng(seed)
    points = rng.normal(size=(len(SHARES), N_RESTING, 2))
    for x, share in zip(points, SHARES, strict=True):
        x[:, 0] += np.where(np.arange(N_RESTING) < round(N_RESTING * share), 4.0, -4.0)
    learn = functools.partial(
        fit,
        snapshots_from_arrays(list(points)),
        key=jax.random.key(0),
        network=NetworkSettings(epochs=epochs, optimizer="adam"),
    )
    solved = learn("jkonet-star-linear-potential", growth=growth)
    faster = []
    for k, x in enumerate(points[:-1]):
        rates = np.asarray(solved.growth(x, k + 0.5))
        faster.append(rates[x[:, 0] > 0].mean() - rates[x[:, 0] < 0].mean())
    energies = (
        learn("jkonet-star-linear-potential"),
        solved,
        learn("jkonet-star-potential", growth=growth),
    )
    drifts = [
        np.mean([np.linalg.norm(energy.drift(x), axis=1).mean() for x in points[:-1]])
        for energy in energies
    ]
    return faster / np.diff(np.log(SHARES) - np.log1p(-np.asarray(SHARES))), drifts


def main():
    """Prints the figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", default="0,1,2,3,4", help="of the simulated data")
    parser.add_argument("--epochs", type=int, default=100, help="of the network")
    default = GrowthSettings()
    parser.add_argument("--amplitude", type=float, default=default.growth_amplitude)
    parser.add_argument("--change", type=float, default=default.growth_change)
    settings = parser.parse_args()
    growth = GrowthSettings(growth_amplitude=settings.amplitude, growth_change=settings.change)
    for seed in map(int, settings.seeds.split(",")):
        correlation, slope, balanced, grown = branching_figures(seed, growth)
        print(
            f"seed {seed}: branching: correlation {correlation:.3f}, slope {slope:.2f}, to the other "
            f"branch {100 * balanced:.1f} % without growth, {100 * grown:.2f} % with it",
            flush=True,
        )
        ratios, drifts = resting_figures(seed, settings.epochs, growth)
        print(
            f"seed {seed}: clusters at rest: estimated over true rates "
            + ", ".join(f"{ratio:.2f}" for ratio in ratios)
            + "; drift {:.3f} without growth, {:.4f} with it, {:.3f} by a network".format(*drifts),
            flush=True,
        )


if __name__ == "__main__":
    main()
