"""A run, from the dataset to the finished folder: chunks of epochs, evaluated and checkpointed.

What is solved has no epochs.

A chunk is one compiled program. While the device trains the next chunk, the host computes the exact
transport distances of the last one and writes the checkpoint, so that evaluation costs almost no time
of its own on more than one core, and none on a GPU.
"""

import dataclasses
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from checkpoints import latest_step, save_energy
from data_generation.formats.json_file import read_record
from data_generation.populations.dataset_metadata import identity
from data_generation.populations.settings import DataSettings
from data_generation.scripts.command_line import say
from data_generation.scripts.device import division
from data_generation.scripts.files import write_json
from diffusions.checks import record
from diffusions.devices import Members
from diffusions.memory import check_memory
from diffusions.typing import Keys, PyTree
from experiments.populations.assessment import (
    assess,
    draw,
    evaluation_key,
    judge,
    print_table,
    reported,
    say_verdict,
)
from experiments.populations.bootstrap import bootstrapped
from experiments.populations.datasets import (
    known_energy,
    open_dataset,
    population,
    with_judging_test,
    yardsticks,
)
from experiments.populations.figures import plot_training
from experiments.populations.learning_settings import LearningSettings
from experiments.populations.settings import TrainSettings
from experiments.run.contents import CHECKPOINT, remove_own
from experiments.run.folder import SCHEMA_VERSION, RunFolder
from experiments.run.place import TRAINING
from experiments.run.records import ChoiceRecord
from experiments.run.session import TRAINING_ACTIVITIES, Session, session
from experiments.run.settings import changed
from experiments.run.training import CHUNKS, FEW_CHUNKS, train_in_chunks, usual_chunk
from jkonet_star.evaluation import (
    earth_movers_distances,
    predict_one_step_ahead,
    predict_snapshots,
)
from jkonet_star.fitted import FittedEnergy
from jkonet_star.settings import CouplingSettings
from jkonet_star.snapshots import Snapshots
from jkonet_star.solvers.bootstrap import check_bootstrap, check_resampling
from jkonet_star.solvers.choice import Auto, SolverChoice, with_room
from jkonet_star.solvers.divergence import first_unsound, refinement_warning
from jkonet_star.solvers.interface import Solver
from jkonet_star.solvers.problem import Problem, prepare
from jkonet_star.solvers.refinement import Refining
from jkonet_star.solvers.registry import SOLVERS
from jkonet_star.solvers.side_by_side import SideBySide
from jkonet_star.transport.couplings import CouplingReport


def train(settings: TrainSettings, learning: LearningSettings, begin: float) -> None:
    """One run, from the dataset to the finished folder.

    Args:
        settings: of the run.
        learning: of the solver.
        begin: when it did, by `time.perf_counter`.

    Raises:
        ValueError: as the folder, the dataset and the solver do.
    """
    with session(settings, TRAINING, begin, activities=TRAINING_ACTIVITIES) as run:
        with run.timed("data", since=begin):
            dataset = with_judging_test(open_dataset(settings.dataset, settings.data_dir))
        solver = learning.solver(settings.solver)
        solver.check(dataset.train.dimension)
        check_memory(
            learning.refinement.memory_needs_of(dataset.train.n_steps, len(settings.seeds))
        )
        check_bootstrap(
            learning.bootstrap,
            solver,
            settings.solver,
            dataset.train,
            refinement=learning.refinement,
            n_energies=len(settings.seeds),
        )
        with run.timed("train"):
            problem = prepare_problem(
                settings.solver, settings.scheme, settings.seeds[0], learning, dataset
            )
        solver.check_problem(problem)
        check_resampling(learning.bootstrap, problem)
        cut = solver.remark(problem)
        started = run.start(
            f"{settings.solver}__{dataset.name}",
            f"{settings.solver} ({settings.scheme}) on {dataset.name}: "
            f"{problem.conditions.point.shape[0]} couplings in dimension {dataset.train.dimension}",
            *learning.of(settings.solver),
            cut=cut,
            unused=[
                *changed(settings, () if solver.epochs else ("eval_every",)),
                *learning.unused(settings.solver),
            ],
            divided=divided_seeds(len(settings.seeds)) if solver.epochs else None,
            data=identity(dataset.metadata),
            dataset=str(dataset.path),
        )
        if not started:
            return
        folder, truth = run.folder, known_energy(dataset)
        snapshots = population(dataset, settings.eval)
        energies, details = fitted(
            run, solver, problem, settings, learning, dataset.metadata, snapshots, cut=cut
        )
        # Of a million cells it is most of the memory, and what follows needs the dataset alone.
        del problem
        with run.timed("evaluate"):
            order = settings.wasserstein_order
            beside = yardsticks(dataset, settings.eval, order)
            result, predictions = assess(energies, snapshots, truth, order, beside)
        print_table(result, snapshots.time_values().tolist(), truth)
        if not folder.energy.exists():
            save_energy(folder.energy, energies)
        if settings.plots:
            draw(folder.plots, energies, truth, snapshots, predictions, result["law"])
            if solver.epochs:
                plot_training(folder.plots / "training.png", folder.rows())
        about = {
            "solver": settings.solver,
            "dataset": dataset.name,
            "scheme": settings.scheme,
            "seeds": list(settings.seeds),
            "eval": settings.eval,
        }
        run.conclude({**about, **result, **details})
        for part in ("refinement", "bootstrap", "bootstrap/refinement"):
            remove_own(folder.path / part / "checkpoint", CHECKPOINT)
        say_verdict(result)


def fitted(
    run: Session,
    solver: Solver,
    problem: Problem,
    settings: TrainSettings,
    learning: LearningSettings,
    metadata: dict[str, Any],
    snapshots: Snapshots,
    *,
    cut: str | None,
) -> tuple[FittedEnergy, dict[str, Any]]:
    """The energies of all seeds with their reports; refined, and with replicates, on request.

    Args:
        run: that has started.
        solver: of the settings.
        problem: its input.
        settings: of the run.
        learning: of the solver.
        metadata: of the dataset.
        snapshots: the population of the evaluations.
        cut: what is done less than was asked for, in words.

    Returns:
        The energies, and what the summary says of how they were made.
    """
    refinement, choice = learning.refinement, None
    with run.timed("train"):
        if isinstance(solver, Auto):
            choice = chosen(run.folder, solver, problem, settings.seeds[0], learning, metadata)
            refinement = choice.refinement
            # With the programs that have been compiled for the comparison.
            wide = with_room(problem)
            training = choice.candidate.training(wide)
        else:
            training = SideBySide(solver, problem)
    if not solver.epochs:
        say_solved(training.facts[0], len(settings.seeds))
    folder = run.folder
    energies, details = learn(folder, training, settings, snapshots, run.seconds)
    if choice is not None:
        details["choice"] = [dataclasses.asdict(row) for row in choice.compared]
    refined = None
    if refinement.refine:
        refining = (
            Refining(refinement, problem, energies)
            if choice is None
            else choice.candidate.refining(refinement, wide, energies)
        )
        energies, refined = refine(folder, refining, settings, snapshots, run.seconds)
    if choice is not None:
        energies = choice.candidate.plain(energies, problem)
    if problem.internal is not None:
        details["beta_estimate"] = beta_details(problem)
    details |= judge(problem, energies)
    if cut is not None:
        details["warnings"].insert(0, cut)
    energies = reported(
        problem,
        energies,
        settings.solver,
        folder.rows(),
        details,
        refinement_losses=refined,
        compared=() if choice is None else choice.compared,
    )
    if learning.bootstrap.bootstrap:
        with run.timed("bootstrap"):
            energies, details["uncertainty"] = bootstrapped(
                folder,
                solver,
                problem,
                energies,
                settings,
                learning,
                metadata,
                refinement=refinement,
                choice=choice,
            )
    return energies, details


def divided_seeds(count: int) -> str | None:
    """How many devices train so many seeds, in words."""
    return division(f"{count} seed{'' if count == 1 else 's'}", Members.of(count))


def chosen(
    run: RunFolder,
    solver: Auto,
    problem: Problem,
    seed: int,
    learning: LearningSettings,
    metadata: dict[str, Any],
) -> SolverChoice:
    """What `auto` chooses, from `choice.json` where the run has one; said as a table.

    Raises:
        ValueError: the file is damaged, or a snapshot has too few particles to hold some out.
    """
    file, refinement = run.path / "choice.json", learning.refinement
    if file.is_file():
        found = read_record(file, ChoiceRecord)
        refinement = dataclasses.replace(refinement, refine=refinement.refine or found.refine)
        choice = solver.chosen_before(found.compared, refinement, found.held_out)
    else:
        choice = solver.choose(
            problem,
            key=jax.random.key(seed),
            refinement=refinement,
            coupling_settings=coupling_settings(metadata),
            growth=learning.growth.chosen,
            masses=learning.masses_of(metadata),
            on_candidate=lambda name: say(f"  comparing: {name}"),
        )
        rows = [dataclasses.asdict(row) for row in choice.compared]
        about = {"held_out": choice.held_out, "refine": choice.refinement.refine}
        write_json(file, {"schema_version": SCHEMA_VERSION, **about, "compared": rows})
    for line in choice.lines():
        say(f"  {line}")
    return choice


def refine(
    run: RunFolder,
    refining: Refining,
    settings: TrainSettings,
    snapshots: Snapshots,
    seconds: dict[str, float],
) -> tuple[FittedEnergy, np.ndarray]:
    """Refines the energies of all seeds, in the folder `refinement` of the run.

    Args:
        run: the folder.
        refining: of the energies.
        settings: of the run.
        snapshots: the population of the evaluations.
        seconds: compile, train and evaluate are added to.

    Returns:
        The energies, and the losses, (seeds, steps).
    """
    folder = RunFolder(run.path / "refinement")
    folder.path.mkdir(exist_ok=True)
    energies = train_evaluated(folder, refining, settings, snapshots, seconds)
    losses = np.asarray([row["loss"] for row in folder.rows() if "loss" in row], np.float64).T
    line = refinement_warning(losses)
    if line is not None:
        say(f"  warning: {line}")
    return energies, losses


def prepare_problem(
    solver: str, scheme: str, seed: int, learning: LearningSettings, dataset: Any
) -> Problem:
    """What `jkonet_star.solvers.problem.prepare` makes of a dataset's training population.

    Raises:
        ValueError: an internal energy is to be learned, and the dataset has no densities.
    """
    # Whoever asks for the densities has them fitted.
    densities = dataset.densities if SOLVERS[solver].terms.internal else None
    if SOLVERS[solver].terms.internal and densities is None:
        raise ValueError(
            f"solver {solver!r} learns an internal energy, but the dataset "
            f"{dataset.name} was made with --n-gmm-components=0"
        )
    # With growth the couplings are its own.
    grows, reports = learning.growth.growth, dataset.metadata["couplings"]
    return prepare(
        dataset.train,
        learning.solver(solver) if learning.circulation.circulation else solver,
        scheme=scheme,
        key=jax.random.key(seed),
        couplings=None if grows else dataset.couplings,
        densities=densities,
        internal=learning.internal,
        features=learning.features,
        coupling_reports=() if grows else [record(CouplingReport, row) for row in reports],
        coupling_settings=coupling_settings(dataset.metadata),
        growth=learning.growth.chosen,
        masses=learning.masses_of(dataset.metadata),
    )


def coupling_settings(metadata: dict[str, Any]) -> CouplingSettings:
    """How a dataset was coupled."""
    return record(DataSettings, metadata["arguments"], more=True).coupling_settings


def beta_details(problem: Problem) -> dict[str, Any]:
    """The estimate of beta for the summary, and where the drift is from; said on the way."""
    estimate: Any = problem.internal
    regime = "the same particles" if estimate.paired else "different particles"
    error = "" if estimate.unknown else f" (standard error {estimate.standard_error:.2g})"
    say(f"  beta {estimate.beta:.4g}{error}, estimated for snapshots of {regime}")
    if estimate.unexplained > 0.0005:
        say(
            f"  {estimate.unexplained:.1%} of the particles move as neither the features nor this "
            "noise explain"
        )
    if problem.weak_form is not None:
        say(
            f"  drift by the weak form: {len(estimate.drift.kept)} of "
            f"{len(estimate.drift_coefficients)} features, misfit {estimate.drift.misfit:.2g} "
            "standard deviations"
        )
    return {
        "beta": estimate.beta,
        "standard_error": estimate.standard_error,
        "paired": estimate.paired,
        "gain": estimate.gain,
        "converged": estimate.converged,
        "unexplained": estimate.unexplained,
        "drift": "couplings" if problem.weak_form is None else "weak-form",
    }


def say_solved(facts: dict[str, Any], n_seeds: int) -> None:
    """What a closed form found."""
    if n_seeds > 1:
        say(f"  the closed form has no randomness: the {n_seeds} seeds give the same energy")
    report = facts.get("closed_form")
    if report is None:
        return
    ridge = f"{report['regularization']:g}"
    if report["interaction_factor"] != 1:
        ridge += f" (interaction {report['regularization'] * report['interaction_factor']:g})"
    say(
        f"  {report['n_features']} features, rank {report['rank']}, condition number "
        f"{report['condition_number']:.1e}, regularization {ridge}, "
        f"remaining residual {report['relative_residual']:.2e}"
    )


def learn(
    run: RunFolder,
    training: SideBySide,
    settings: TrainSettings,
    snapshots: Snapshots,
    seconds: dict[str, float],
) -> tuple[FittedEnergy, dict[str, Any]]:
    """The energies of all seeds, from the newest checkpoint where there is one.

    Args:
        run: the folder.
        training: the solver and its data.
        settings: of the run.
        snapshots: the population of the evaluations.
        seconds: compile, train and evaluate are added to.

    Returns:
        The energies, and more for the summary: the facts of the preparation; `diverged`, the epoch
        in which each seed did, where any has; `resumed_at`, the epoch from which seconds count, where
        the training went on from a checkpoint.
    """
    details = dict(training.facts[0])
    if not training.solver.epochs:
        return training.energies(training.initial(seed_keys(settings))), details
    begun = latest_step(run.checkpoints)
    energies = train_evaluated(run, training, settings, snapshots, seconds)
    if begun:
        details["resumed_at"] = begun
    diverged = divergences(run.rows(), training.solver)
    for seed, epoch in zip(settings.seeds, diverged, strict=True):
        if epoch is not None:
            say(
                f"  warning: seed {seed} diverged in epoch {epoch}; its energy is that of the last "
                "sound epoch, and means little"
            )
            details["diverged"] = diverged
    return energies, details


def seed_keys(settings: TrainSettings) -> Keys:
    """One key per seed."""
    return jax.vmap(jax.random.key)(jnp.asarray(settings.seeds, jnp.uint32))


def train_evaluated(
    run: RunFolder,
    training: SideBySide,
    settings: TrainSettings,
    snapshots: Snapshots,
    seconds: dict[str, float],
) -> FittedEnergy:
    """`train_side_by_side` of all seeds, by the distance of what they predict one step ahead."""

    def predict(energies: FittedEnergy) -> tuple[jax.Array, jax.Array]:
        if training.solver.terms.interaction:
            # A step takes all pairs of particles: half of the steps is worth another program.
            return predict_one_step_ahead(energies, snapshots, evaluation_key())
        found = predict_snapshots(energies, snapshots, evaluation_key())
        return found.one_step, found.one_step_weights

    return train_side_by_side(
        run,
        training,
        seed_keys(settings),
        predict=predict,
        distances=lambda predicted: earth_movers_distances(
            predicted[0], snapshots, predicted[1], order=settings.wasserstein_order
        ),
        every=settings.eval_every,
        seconds=seconds,
    )


def divergences(rows: list[dict[str, Any]], solver: Solver) -> list[int | None]:
    """The epoch in which each seed diverged (see `jkonet_star.solvers.divergence`).

    Args:
        rows: of the run's metrics.
        solver: that made them.

    Raises:
        ValueError: they are of another number of seeds in every epoch, or of one that has no list.
    """
    found = [row["loss"] for row in rows if "loss" in row]
    if not all(
        isinstance(row, list) and not any(isinstance(x, list) for x in row) for row in found
    ):
        raise ValueError("the run's metrics.jsonl is damaged: a loss is no list of one per seed")
    losses = [[float(loss) for loss in row] for row in found]
    return [first_unsound(own, absurd=solver.absurd) for own in zip(*losses, strict=True)]


def train_side_by_side(
    run: RunFolder,
    training: SideBySide,
    keys: Keys,
    *,
    predict: Callable[[FittedEnergy], PyTree],
    distances: Callable[[PyTree], np.ndarray],
    every: int | None,
    seconds: dict[str, float],
) -> FittedEnergy:
    """Trains a network per key, from the newest checkpoint where there is one.

    It ends early where every network has diverged.

    Args:
        run: the folder.
        training: the solver and its data.
        keys: of the networks.
        predict: populations one step ahead, in any arrays, on the device.
        distances: (networks, steps) of the same arrays on the host.
        every: epochs between evaluations; absent, a tenth of all, or half of them with an interaction.
        seconds: compile, train and evaluate are added to.

    Returns:
        The energies, stacked.
    """
    start = time.perf_counter()
    state = training.initial(keys)
    # With an interaction an evaluation takes all pairs: ten would take as long as the training, and one
    # that only compiles a tenth of it. Its compilation then counts as evaluation.
    dear = training.solver.terms.interaction
    if not dear:
        jax.block_until_ready(predict(training.energies(state)))  # compiles it
    seconds["compile"] += time.perf_counter() - start

    def one_step_ahead(state: PyTree, done: int) -> PyTree:
        return jax.device_get(predict(training.energies(state)))

    def finish(one_step: PyTree) -> dict[str, Any]:
        return {"emd_one_step_ahead": distances(one_step).mean(axis=1).tolist()}

    state = train_in_chunks(
        run,
        state,
        lambda state, n_epochs: training.program(state, keys, n_epochs),
        epochs=training.solver.epochs,
        every=every or usual_chunk(training.solver.epochs, FEW_CHUNKS if dear else CHUNKS),
        seconds=seconds,
        evaluate=one_step_ahead,
        finish=finish,
        ended=lambda state: bool(training.diverged(state).all()),
        placement=training.members,
    )
    return training.energies(state)
