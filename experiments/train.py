"""Trains a JKOnet* solver on a dataset, evaluates it, and writes a run folder.

Without --dataset it makes the Styblinski-Tang demonstration first.
"""

import time
from collections.abc import Sequence
from typing import Any

from data_generation.scripts.command_line import define_flags, run_script, say, settings_from_flags
from experiments.learning_settings import (
    LearningSettings,
    define_learning_flags,
    learning_from_flags,
)
from experiments.run.replaced import keeps_replaced
from experiments.run.settings import TrainSettings
from jkonet_star.settings import InternalSettings
from jkonet_star.solvers.registry import SOLVERS

FLAGS = define_learning_flags(define_flags(TrainSettings))

EXAMPLE = """
python -m experiments.train --solver=jkonet-star-potential
python -m experiments.train --solver=jkonet-star-linear --dataset=NAME --scheme=explicit
python -m experiments.train --solver=jkonet --epochs=20 --eval-every=5
python -m experiments.train --solver=jkonet-star-time-potential --dataset=cells --seeds=0,1,2,3,4
"""


def main() -> None:
    """Runs the experiment of the flags."""
    train(settings_from_flags(TrainSettings, FLAGS), learning_from_flags(FLAGS))


@keeps_replaced
def train(settings: TrainSettings, learning: LearningSettings) -> None:
    """One run, from the dataset to the finished folder.

    Args:
        settings: of the run.
        learning: of the solver.

    Raises:
        ValueError: as the folder, the dataset and the solver do.
    """
    begin = time.perf_counter()
    # Only now: `--help` and a mistyped flag need none of it.
    from data_generation.scripts.device import device_name, precision
    from experiments.datasets import known_energy, open_dataset, population
    from experiments.network_training import learn
    from experiments.reporting import assess, draw, judge, print_table, reported
    from experiments.run.folder import start_run
    from experiments.run.session import check_settings, conclude
    from jkonet_star.solvers.side_by_side import SideBySide

    check_settings(settings)
    dataset = open_dataset(settings.dataset, settings.data_dir)
    seconds = {"data": time.perf_counter() - begin, "compile": 0.0, "train": 0.0, "evaluate": 0.0}
    solver = learning.solver(settings.solver)
    start = time.perf_counter()
    problem = prepare_problem(
        settings.solver, settings.scheme, settings.seeds[0], learning.internal, dataset
    )
    seconds["train"] += time.perf_counter() - start
    solver.check(dataset.train.dimension)
    run = start_run(
        settings,
        "experiments.train",
        f"{settings.solver}__{dataset.name}",
        *learning.of(settings.solver),
        data=dataset.metadata["checksums"],
        dataset=str(dataset.path),
    )
    if run.finished:
        say(f"{run.path} is already finished")
        return
    say(
        f"{settings.solver} ({settings.scheme}) on {dataset.name}: "
        f"{problem.conditions.point.shape[0]} couplings in dimension {dataset.train.dimension}"
    )
    say(
        f"  {device_name()}, {precision()}, seeds "
        f"{','.join(map(str, settings.seeds))}; results in {run.path}"
    )
    truth = known_energy(dataset)
    snapshots = population(dataset, settings.eval)
    cut = solver.remark(problem)
    if cut is not None:
        say(f"  {cut}")
    start = time.perf_counter()
    training = SideBySide(solver, problem)
    seconds["train"] += time.perf_counter() - start
    if not solver.epochs:
        say_solved(training.facts[0], len(settings.seeds))
    energies, details = learn(run, training, settings, snapshots, seconds)
    if problem.internal is not None:
        details["beta_estimate"] = beta_details(problem.internal)
    details |= judge(problem, energies)
    if cut is not None:
        details["warnings"].insert(0, cut)
    energies = reported(problem, energies, settings.solver, run.rows(), details)
    start = time.perf_counter()
    result, predictions = assess(energies, snapshots, truth, settings.wasserstein_order)
    seconds["evaluate"] += time.perf_counter() - start
    times = snapshots.time_values().tolist()
    print_table(result, times, truth)
    from checkpoints import save_energy

    if not run.energy.exists():
        save_energy(run.energy, energies)
    if settings.plots:
        from experiments.plots import plot_training

        draw(run.plots, energies, truth, snapshots, predictions)
        if solver.epochs:
            plot_training(run.plots / "training.png", run.rows())
    seconds["total"] = time.perf_counter() - begin
    results = {
        "solver": settings.solver,
        "dataset": dataset.name,
        "scheme": settings.scheme,
        "seeds": list(settings.seeds),
        "eval": settings.eval,
        **result,
        **details,
    }
    conclude(run, settings, results, seconds)


def prepare_problem(
    solver: str, scheme: str, seed: int, internal: InternalSettings, dataset: Any
) -> Any:
    """What `jkonet_star.solvers.problem.prepare` makes of a dataset's training population.

    Raises:
        ValueError: an internal energy is to be learned, and the dataset has no densities.
    """
    import jax

    from diffusions.checks import record
    from jkonet_star.solvers.problem import prepare
    from jkonet_star.transport.couplings import CouplingReport

    if SOLVERS[solver].terms.internal and dataset.densities is None:
        raise ValueError(
            f"solver {solver!r} learns an internal energy, but the dataset "
            f"{dataset.name} was made with --n-gmm-components=0"
        )
    return prepare(
        dataset.train,
        solver,
        scheme=scheme,
        key=jax.random.key(seed),
        couplings=dataset.couplings,
        densities=dataset.densities,
        internal=internal,
        coupling_reports=[record(CouplingReport, row) for row in dataset.metadata["couplings"]],
    )


def beta_details(estimate: Any) -> dict[str, Any]:
    """The estimate of beta for the summary, said on the way."""
    regime = "the same particles" if estimate.paired else "different particles"
    say(f"  beta {estimate.beta:.4g}, estimated for snapshots of {regime}")
    return {
        "beta": estimate.beta,
        "standard_error": estimate.standard_error,
        "paired": estimate.paired,
        "gain": estimate.gain,
        "converged": estimate.converged,
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


def run(argv: Sequence[str] | None = None) -> int:
    """The script."""
    return run_script(main, FLAGS, argv=argv, description=__doc__, example=EXAMPLE)


if __name__ == "__main__":
    raise SystemExit(run())
