"""Whether held-out cells tell that cells grow: what `auto` would gain by candidates with growth.

    python -m benchmarks.growth_choice [--seeds=0,1,2,3] [--file=eb_velocity_v5.npz]

Of every snapshot a quarter of the cells is held out; V(x, t) is learned from the others, without growth
and with it, and refined. Per seed one line: the energy distance of what each predicts from held-out
cells to those of the next snapshot, mean of the steps, the difference with its standard error
(`jkonet_star.solvers.choice`, equation (2)), and processor seconds of both. Of the branching course
with growth and with none (`data_generation.populations.branching`), or of the cells of a file.
"""

import argparse
import itertools
import time

import jax
import numpy as np

from data_generation.populations import branching
from data_generation.populations.reading import read_snapshots
from jkonet_star import NetworkSettings, RefinementSettings, fit, snapshots_from_arrays
from jkonet_star.two_samples import contributions, variance_of_difference

HELD_OUT = 0.25
GAMMAS = (0.8, 0.0)
N_CELLS = 800
TIMES = (0.0, 1.0, 2.0, 3.0)


def compared(points, times, seed):
    """Both distances, the standard error of their difference, and the seconds of each."""
    rng = np.random.default_rng(seed)
    parts = [np.split(rng.permutation(x), [int(HELD_OUT * len(x))]) for x in points]
    held, learned = zip(*parts, strict=True)
    found, seconds = [], []
    for growth in (False, True):
        began = time.process_time()
        energy = fit(
            snapshots_from_arrays(list(learned), times=times),
            "jkonet-star-time-potential",
            key=jax.random.key(seed),
            growth=growth,
            network=NetworkSettings(epochs=100, optimizer="adam"),
            refinement=RefinementSettings(refine=300),
        )
        seconds.append(time.process_time() - began)
        found.append([step(energy, k, x, y) for k, (x, y) in enumerate(itertools.pairwise(held))])
    pairs = list(zip(*found, strict=True))
    variance = sum(variance_of_difference(a, b, *weights) for (a, weights), (b, _) in pairs)
    means = [np.mean([own.distance for own, _ in side]) for side in found]
    return means, float(np.sqrt(variance)) / len(pairs), seconds


def step(energy, k, x, y):
    """What each particle adds to the distance of one step, and the weights before it."""
    path = energy.predict_weighted(x, 1, start=k)
    weights = np.asarray(path.weights[-1], np.float64)
    equal = np.full(len(y), 1 / len(y))
    own = contributions(np.asarray(path.points[-1], np.float64), y, weights / weights.sum(), equal)
    return own, (np.full(len(x), 1 / len(x)), equal)


def main():
    """Prints the figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--seeds", default="0,1,2,3", help="of the simulated data, and of the split"
    )
    parser.add_argument("--file", help="snapshots to read instead of simulating")
    settings = parser.parse_args()
    for seed in map(int, settings.seeds.split(",")):
        for gamma in (None,) if settings.file else GAMMAS:
            if gamma is None:
                read = read_snapshots(settings.file)
                points, times, name = read.arrays(), read.times.tolist(), settings.file
            else:
                course = branching.branching_course(
                    jax.random.key(seed), n_cells=N_CELLS, times=TIMES, gamma=gamma
                )
                points, times, name = course.snapshots, course.times, f"growth {gamma:g}"
            (still, grown), error, seconds = compared(points, list(times), seed)
            print(
                f"seed {seed}, {name}: {still:.5f} without growth, {grown:.5f} with it, "
                f"{still - grown:+.5f} +- {error:.5f}; CPU s {seconds[0]:.0f} and {seconds[1]:.0f}",
                flush=True,
            )


if __name__ == "__main__":
    main()
