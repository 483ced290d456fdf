"""What is told of followed colloids, against their truth: docs/particles.md's figures.

    python -m benchmarks.particles [--particles=300] [--frames=61] [--dense=100] [--dense-frames=801]
        [--repulsion=0.2] [--repeats=4] [--localisation=0] [--seed=0] [--picture=FILE.png]

Colloids of `data_generation.populations.simulated_colloids`: a dilute sample, by which the trap and D
are found, along the tracks and without them; and dense ones, by each of which the repulsion is. 90 %
intervals by the sandwich formula. `--localisation` is the standard deviation, um per coordinate, of an
error of each position of the dilute sample.
"""

import argparse
import time
from pathlib import Path

import numpy as np

from data_generation.populations.simulated_colloids import (
    DIFFUSION,
    FRAME,
    HEIGHT,
    WELL,
    WIDTH,
    pair_energy,
    potential,
    simulated_colloids,
)
from data_generation.scripts.figures import (
    ENERGIES,
    FAINT,
    LABEL_SIZE,
    OBSERVED,
    PREDICTED,
    TITLE_SIZE,
    TRUTH,
    colour_bar,
    new_figure,
    save_figure,
)
from jkonet_star import (
    FeatureSettings,
    Linear,
    Terms,
    fit,
    snapshots_from_arrays,
    tracked_couplings,
)

TRAP = FeatureSettings(degree=4, total_degree=4, radial="none", regularization=1e-6)
"""Monomials up to the fourth degree; a ridge so small that an interval holds."""
FORCES = FeatureSettings(
    degree=4, total_degree=4, radial_centers=3, radial_domain=(-1.5, 1.5), regularization=1e-6
)
"""For a trap and a repulsion of about a micrometre."""
DISTANCES = np.linspace(0.0, 2.5, 26)
LEVEL = 0.9


def followed(table):
    """Snapshots and couplings of a table, whatever the order of its rows, and the frames' positions."""
    times = np.unique(table.time)
    rows = [table.time == t for t in times]
    points = [table.position[own] for own in rows]
    snapshots = snapshots_from_arrays(points, times)
    return points, snapshots, tracked_couplings([table.name[own] for own in rows], snapshots)


def diffusion(points, snapshots, tracks, drift=None):
    """D by what the drift leaves of the displacements, and its standard error.

    Args:
        points: (n_k, 2) of each frame.
        snapshots: of them.
        tracks: their couplings.
        drift: (points of a frame) -> (n_k, 2); none where absent.
    """
    left = []
    for k, tau in enumerate(np.diff(snapshots.time_values())):
        own = np.asarray(tracks.step) == k
        i, j = np.asarray(tracks.source)[own], np.asarray(tracks.target)[own]
        moved = points[k + 1][j] - points[k][i]
        if drift is not None:
            moved = moved - tau * np.asarray(drift(points[k]))[i]
        left.append(moved / np.sqrt(2 * tau))
    left = np.concatenate(left)
    found = float((left**2).mean())
    return found, found * np.sqrt(2 / left.size)


def profile(energy, along, beta):
    """V along the line between the wells, in k_B T, from the middle."""
    points = np.stack([along, np.zeros_like(along)], axis=1)
    return (energy.potential(points) - energy.potential(np.zeros((1, 2)))) / beta


def repulsion_of(energy, count, beta):
    """U / (n D) over distance, averaged over directions: what is not even in r is no pair's energy."""
    angles = 2 * np.pi * np.arange(8) / 8
    around = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    values = energy.interaction((DISTANCES[:, None, None] * around).reshape(-1, 2))
    mean = values.reshape(len(DISTANCES), len(angles)).mean(axis=1)
    return (mean - mean[-1]) / (count * beta)


def compare(name, value, bounds, truth):
    """Prints a number with its interval beside the truth."""
    print(f"{name}: {value:.3g} [{bounds[0]:.3g}, {bounds[1]:.3g}], truth {truth:.3g}")


def trap(table):
    """Prints what the dilute sample tells; its energy and its D."""
    points, snapshots, couplings = followed(table)
    start = time.process_time()
    energy = fit(
        snapshots,
        "jkonet-star-linear-potential",
        key=0,
        features=TRAP,
        couplings=couplings,
        resample="trajectories",
    )
    beta, error = diffusion(points, snapshots, couplings, energy.drift)
    print(f"D: {beta:.4f} +- {error:.4f} um^2/s, truth {DIFFUSION}")
    raw, _ = diffusion(points, snapshots, couplings)
    print(f"  without the drift: {raw:.4f}")
    along = np.array([-WELL, WELL])
    deep = energy.interval(lambda e: -profile(e, along, beta).mean(), LEVEL)
    compare("barrier, k_B T", -float(profile(energy, along, beta).mean()), deep, HEIGHT)

    def stiffness(e):
        ends = np.array([[-WELL, 1.0], [-WELL, 0.0], [-WELL, -1.0]])
        v = e.potential(ends)
        return (v[0] - 2 * v[1] + v[2]) / beta

    stiff = energy.interval(stiffness, LEVEL)
    compare("stiffness across, k_B T/um^2", float(stiffness(energy)), stiff, 1 / WIDTH**2)
    print(f"  {time.process_time() - start:.0f} CPU s")
    last = points[-1]
    apart = np.linalg.norm(last[:, None] - last, axis=-1) + np.diag([np.inf] * len(last))
    print(
        f"a step is {np.sqrt(4 * raw * FRAME):.3f} um, the nearest neighbour "
        f"{np.median(apart.min(axis=1)):.3f} um away"
    )
    without = fit(snapshots, "jkonet-star-linear-potential-internal", key=0, features=TRAP)
    found = float(without.beta)
    print(
        f"without the tracks: D {found:.4f} +- {without.report.beta.standard_error:.4f}, "
        f"barrier {-float(profile(without, along, found).mean()):.3g} k_B T"
    )
    return energy, beta


def forces(table, count, repulsion):
    """Prints what the dense sample tells of the repulsion; its values and bounds."""
    points, snapshots, couplings = followed(table)
    start = time.process_time()
    energy = fit(
        snapshots,
        Linear(terms=Terms(potential=True, interaction=True), features=FORCES),
        key=0,
        couplings=couplings,
        resample="trajectories",
    )
    beta, error = diffusion(points, snapshots, couplings, lambda x: energy.drift(x, x))
    print(f"dense sample, D: {beta:.4f} +- {error:.4f} um^2/s, truth {DIFFUSION}")
    value = np.asarray(repulsion_of(energy, count, beta))
    low, high = energy.interval(lambda e: repulsion_of(e, count, beta), LEVEL)
    far = pair_energy(DISTANCES[-1], repulsion)
    compare("pair energy at contact, k_B T", value[0], (low[0], high[0]), repulsion - far)
    print(f"  {time.process_time() - start:.0f} CPU s")
    return value, low, high


def draw(file, energy, beta, table, found, repulsion):
    """The trap with some tracks, its profile, and the repulsion, beside the truth."""
    figure, ((plane, line, pair),) = new_figure(3)
    ends = np.array([2.6, 2.2])
    axis = [np.linspace(-e, e, 80) for e in ends]
    nodes = np.stack(np.meshgrid(*axis), axis=-1)
    values = np.asarray(energy.potential(nodes.reshape(-1, 2))).reshape(80, 80) / beta
    values -= values.min()
    filled = plane.contourf(
        *axis, values, levels=np.linspace(0, 6, 13), cmap=ENERGIES, extend="max"
    )
    for name in range(6):
        plane.plot(*table.position[table.name == name].T, color="white", linewidth=0.6)
    plane.set(
        xlabel="x, $\\mu$m", ylabel="y, $\\mu$m", aspect="equal", xlim=(-2.6, 2.6), ylim=(-2.2, 2.2)
    )
    plane.set_title("the trap, and six tracks", fontsize=TITLE_SIZE)
    colour_bar(filled, plane, "V / D, $k_B T$", extend="max")
    along = np.linspace(-2.3, 2.3, 60)
    low, high = energy.interval(lambda e: profile(e, along, beta), LEVEL)
    true = potential(np.stack([along, 0 * along], axis=1)) / DIFFUSION - HEIGHT
    line.fill_between(along, low, high, color=PREDICTED, alpha=0.25, linewidth=0)
    line.plot(along, profile(energy, along, beta), color=PREDICTED, label="learned, 90 %")
    line.plot(along, true, color=TRUTH, linestyle="--", label="truth")
    line.set(xlabel="x, $\\mu$m", ylabel="V(x, 0) / D, $k_B T$", ylim=(-2.5, 3))
    line.set_title("between the wells", fontsize=TITLE_SIZE)
    pair.axhline(0, color=FAINT, linewidth=0.5)
    for i, (value, low, high) in enumerate(found):
        pair.fill_between(DISTANCES, low, high, color=OBSERVED, alpha=0.15, linewidth=0)
        label = "experiments, 90 %" if i == 0 else None
        pair.plot(DISTANCES, value, color=OBSERVED, linewidth=1, label=label)
    true = pair_energy(DISTANCES, repulsion) - pair_energy(DISTANCES[-1], repulsion)
    pair.plot(DISTANCES, true, color=TRUTH, linestyle="--", label="truth")
    pair.set(xlabel="distance, $\\mu$m", ylabel="U / (n D), $k_B T$")
    pair.set_title("the energy of a pair", fontsize=TITLE_SIZE)
    for axes in (line, pair):
        axes.legend(fontsize=LABEL_SIZE, frameon=False)
    save_figure(figure, Path(file))


def main():
    """Runs both samples."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--particles", type=int, default=300)
    parser.add_argument("--frames", type=int, default=61)
    parser.add_argument("--dense", type=int, default=100)
    parser.add_argument("--dense-frames", type=int, default=801)
    parser.add_argument("--repulsion", type=float, default=0.2)
    parser.add_argument("--repeats", type=int, default=4)
    parser.add_argument("--localisation", type=float, default=0.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--picture")
    given = parser.parse_args()
    dilute = simulated_colloids(given.seed, n_particles=given.particles, n_frames=given.frames)
    error = np.random.default_rng(given.seed).normal(size=dilute.position.shape)
    dilute = dilute._replace(position=dilute.position + given.localisation * error)
    energy, beta = trap(dilute)
    found = []
    for repeat in range(1, given.repeats + 1):
        crowded = simulated_colloids(
            given.seed + repeat,
            n_particles=given.dense,
            n_frames=given.dense_frames,
            repulsion=given.repulsion,
        )
        found.append(forces(crowded, given.dense, given.repulsion))
    if given.picture:
        draw(given.picture, energy, beta, dilute, found, given.repulsion)


if __name__ == "__main__":
    main()
