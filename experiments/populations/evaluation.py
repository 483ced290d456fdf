"""A finished run evaluated again: distances, errors of the field, figures, in a file of their own."""

import contextlib
import time
from pathlib import Path

from data_generation.populations.dataset_metadata import identity
from data_generation.populations.datasets import load_dataset
from data_generation.scripts.command_line import say
from data_generation.scripts.figures import add_pictures
from data_generation.scripts.files import check_writable, write_json
from diffusions.files import made_parents, naming, new_folder
from experiments.populations.assessment import assess, draw, print_table, say_verdict
from experiments.populations.datasets import known_energy, population, yardsticks
from experiments.populations.finished_run import finished_run
from experiments.populations.settings import EvaluateSettings
from experiments.run.folder import SCHEMA_VERSION
from experiments.run.outputs import check_figures, check_output, is_evaluation


def evaluate_run(settings: EvaluateSettings, start: float) -> None:
    """Evaluates the run of the settings and writes the result.

    Args:
        settings: of the flags.
        start: when the script began, by `time.perf_counter`.

    Raises:
        ValueError: the run is unfinished or damaged, its data are gone or others, or the result has no
            place.
    """
    run, trained, energies = finished_run(str(settings.run))
    dataset = load_dataset(settings.dataset or trained.dataset, settings.data_dir)
    if settings.dataset is None:
        try:
            run.check_data(identity(dataset.metadata))
        except ValueError as error:
            raise ValueError(
                f"{error}; --dataset={dataset.path} takes them as another dataset"
            ) from None
    snapshots = population(dataset, settings.eval)
    if energies.dimension != snapshots.dimension:
        raise ValueError(
            f"{run.path} was learned in dimension {energies.dimension}, the dataset "
            f"{dataset.name} has dimension {snapshots.dimension}"
        )
    output = Path(settings.output) if settings.output else run.path / "evaluation.json"
    check_writable(output.parent)
    check_output(output, is_evaluation, "a result of experiments.evaluate")
    plots = output.with_name(f"{output.stem}_plots")
    if settings.plots:
        check_figures(plots, output)
    say("  evaluating ...")
    truth = known_energy(dataset)
    order = settings.wasserstein_order
    beside = yardsticks(dataset, settings.eval, order, learned=settings.dataset is None)
    result, predictions = assess(energies, snapshots, truth, order, beside)
    say(f"{run.path} ({trained.solver}, {energies.scheme}) on {dataset.name}, {settings.eval}")
    print_table(result, snapshots.time_values().tolist(), truth)
    content = {
        "schema_version": SCHEMA_VERSION,
        "run": str(run.path),
        "solver": trained.solver,
        "dataset": dataset.name,
        "eval": settings.eval,
        **result,
        "seconds": time.perf_counter() - start,
    }
    with made_parents(output), contextlib.ExitStack() as drawn:
        if settings.plots:
            folder = drawn.enter_context(new_folder(plots, move=add_pictures))
            with naming(plots):
                draw(folder, energies, truth, snapshots, predictions, result["law"])
        # Before the figures have their place: by the result they are known as ours.
        write_json(output, content)
    say(f"  {output}")
    say_verdict(result)
