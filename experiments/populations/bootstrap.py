"""The bootstrap of a run: energies of resampled particles, in its folder, and what they tell.

The folder `bootstrap` of the run has the rows of their training, and its checkpoint; the energies are
beside the one of all particles, in `energy`: its `replicates`.
"""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from data_generation.populations.settings import DataSettings
from data_generation.scripts.command_line import say
from data_generation.scripts.device import division
from diffusions.checks import record
from diffusions.devices import Members
from diffusions.typing import Array
from experiments.populations.learning_settings import LearningSettings
from experiments.populations.settings import TrainSettings
from experiments.run.folder import RunFolder
from experiments.run.training import train_in_chunks
from jkonet_star.fit_report import BootstrapReport
from jkonet_star.fitted import FittedEnergy
from jkonet_star.settings import RefinementSettings
from jkonet_star.snapshots import Snapshots
from jkonet_star.solvers.bootstrap import replicate_keys, resampled_problems, solved_replicates
from jkonet_star.solvers.choice import SolverChoice, with_room
from jkonet_star.solvers.divergence import first_unsound
from jkonet_star.solvers.interface import Solver
from jkonet_star.solvers.linear import Linear
from jkonet_star.solvers.problem import Problem, prepare
from jkonet_star.solvers.refinement import Refining
from jkonet_star.solvers.side_by_side import SideBySide

FOLDER = "bootstrap"
REFINEMENT = "refinement"
"""Inside of it."""
LEVEL = 0.9


def bootstrapped(
    run: RunFolder,
    solver: Solver,
    problem: Problem,
    energies: FittedEnergy,
    settings: TrainSettings,
    learning: LearningSettings,
    metadata: dict[str, Any],
    *,
    refinement: RefinementSettings,
    choice: SolverChoice | None,
) -> tuple[FittedEnergy, dict[str, Any]]:
    """The energies with replicates, and more for the summary.

    Args:
        run: the folder.
        solver: of the run.
        problem: of all particles.
        energies: a stack of one, with its report.
        settings: of the run.
        learning: of the solver.
        metadata: of the dataset, which says how it was coupled.
        refinement: of the energies.
        choice: of `auto`.

    Raises:
        ValueError: trajectories are asked for, and the couplings tell none.
    """
    data = record(DataSettings, metadata["arguments"], more=True)
    again = functools.partial(
        prepare,
        solver=solver,
        scheme=settings.scheme,
        features=learning.features,
        coupling_settings=data.coupling_settings,
        density_settings=data.density_settings,
        growth=learning.growth.chosen,
        masses=learning.masses_of(metadata),
    )
    energy, key = energies.member(0), jax.random.key(settings.seeds[0])
    kind, problems = resampled_problems(learning.bootstrap, problem, energy, again, key=key)
    work = f"{len(problems)} energies of resampled {kind}"
    divided = None if isinstance(solver, Linear) else division(work, Members.of(len(problems)))
    say(f"  bootstrap: {divided or work}")
    diverged, report = 0, energies.report
    assert report is not None
    if isinstance(solver, Linear):
        found = solved_replicates(energy, problems, report.closed_form)
    else:
        found, diverged = _learned(run, solver, problems, key, settings, refinement, choice)
    told = BootstrapReport(replicates=len(problems), resampled=kind, diverged=diverged)
    energies = energies.with_report(dataclasses.replace(report, bootstrap=told))
    energies = energies.with_replicates(found)
    details = {
        "level": LEVEL,
        **dataclasses.asdict(told),
        **bands(energies.member(0), problem.snapshots),
    }
    for line in lines(details):
        say(f"  {line}")
    return energies, details


def _learned(
    run: RunFolder,
    solver: Solver,
    problems: list[Problem],
    key: Array,
    settings: TrainSettings,
    refinement: RefinementSettings,
    choice: SolverChoice | None,
) -> tuple[FittedEnergy, int]:
    """The networks as all particles had theirs learned, and how many diverged."""
    folder = RunFolder(run.path / FOLDER)
    if choice is None:
        energies, diverged = _trained(folder, SideBySide(solver, problems), key, settings)
        if refinement.refine:
            refining = Refining(refinement, problems, energies)
            energies, _ = _trained(RunFolder(folder.path / REFINEMENT), refining, key, settings)
        return energies, diverged
    wide = [with_room(own) for own in problems]
    energies, diverged = _trained(folder, choice.candidate.training(wide), key, settings)
    refining = choice.candidate.refining(refinement, wide, energies)
    energies, _ = _trained(RunFolder(folder.path / REFINEMENT), refining, key, settings)
    return choice.candidate.plain(energies, problems), diverged


def _trained(
    folder: RunFolder, training: SideBySide, key: Array, settings: TrainSettings
) -> tuple[FittedEnergy, int]:
    """Energies, from the newest checkpoint where there is one, and how many diverged."""
    folder.path.mkdir(exist_ok=True)
    keys = replicate_keys(key, len(training.facts))
    state = training.initial(keys)
    state = train_in_chunks(
        folder,
        state,
        lambda state, n_epochs: training.program(state, keys, n_epochs),
        epochs=training.solver.epochs,
        every=settings.eval_every,
        seconds={},  # all of it is the bootstrap's
        ended=lambda state: bool(training.diverged(state).all()),
        placement=training.members,
    )
    losses = [row["loss"] for row in folder.rows() if "loss" in row]
    ended = [first_unsound(own, absurd=training.solver.absurd) for own in zip(*losses, strict=True)]
    return training.energies(state), sum(epoch is not None for epoch in ended)


def bands(energy: FittedEnergy, snapshots: Snapshots) -> dict[str, Any]:
    """Bounds of beta, and of the drift's mean norm over the particles of every step.

    Args:
        energy: with replicates.
        snapshots: that it was learned from.
    """
    # As the snapshots store points and times.
    energy, replicates = (
        own.replace(origin=None, start=None)  # type: ignore[union-attr]
        for own in (energy, energy.replicates)
    )
    energy = energy.with_replicates(replicates)

    def function(energy: FittedEnergy) -> dict[str, Array]:
        def norm(points: Array, weights: Array, t: Array) -> Array:
            drift = energy.drift(points, weights=weights, t=t)
            return jnp.sum(weights * jnp.linalg.norm(drift, axis=-1))

        norms = jax.vmap(norm)(snapshots.points[:-1], snapshots.weights[:-1], snapshots.times[:-1])
        return {"beta": energy.beta, "drift_norm": norms}

    values: Any = jax.jit(function)(energy)
    bounds = energy.interval(function, LEVEL)
    # Neither is below zero, whatever bias was taken out of the bound.
    bounds = jax.tree.map(lambda bound: np.maximum(bound, 0.0), bounds)
    return {
        name: {
            "value": np.asarray(values[name], np.float64).tolist(),
            "lower": bounds.lower[name].tolist(),
            "upper": bounds.upper[name].tolist(),
        }
        for name in ("beta", "drift_norm")
    }


def lines(details: dict[str, Any]) -> list[str]:
    """The bands for people."""
    found = []
    beta, norm = details["beta"], details["drift_norm"]
    share = f"{details['level']:.0%}"
    if beta["upper"] > 0:
        found.append(
            f"beta {beta['value']:.4g}, {share} interval {beta['lower']:.4g} to {beta['upper']:.4g}"
        )
    if norm["value"]:
        spread = " ".join(
            f"{value:.3g} ({low:.3g} to {high:.3g})"
            for value, low, high in zip(norm["value"], norm["lower"], norm["upper"], strict=True)
        )
        found.append(f"mean norm of the drift by step, {share}: {spread}")
    if details["diverged"]:
        found.append(f"warning: {details['diverged']} of the replicates diverged")
    return found
