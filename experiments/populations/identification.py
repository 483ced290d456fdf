"""What the data of a finished run can tell, said and kept in its folder."""

import dataclasses
import time

from data_generation.populations.dataset_metadata import identity
from data_generation.populations.datasets import load_dataset
from data_generation.scripts.command_line import say
from data_generation.scripts.files import check_writable, write_json
from experiments.populations.finished_run import finished_run
from experiments.populations.identification_figure import plot_answers
from experiments.populations.settings import IdentifySettings
from experiments.run.folder import SCHEMA_VERSION
from experiments.run.outputs import check_output, is_identification
from jkonet_star.identifiability import identify


def identify_run(settings: IdentifySettings, start: float) -> None:
    """Asks of the run of the settings, and writes the answers.

    Args:
        settings: of the flags.
        start: when the script began, by `time.perf_counter`.

    Raises:
        ValueError: the run is unfinished or damaged, has no such seed, or its data are gone.
    """
    run, trained, energies = finished_run(str(settings.run))
    if settings.seed_index >= len(energies.times):
        raise ValueError(
            f"seed_index must be below {len(energies.times)}, the number of seeds of {run.path}, got "
            f"{settings.seed_index}"
        )
    dataset = load_dataset(trained.dataset, settings.data_dir)
    run.check_data(identity(dataset.metadata))
    file = run.path / "identify.json"
    check_writable(run.path)
    check_output(file, is_identification, "a result of experiments.identify")
    answers = identify(energies.member(settings.seed_index), dataset.train)
    say(f"{run.path} ({trained.solver}) on {dataset.name}: what its data can tell")
    for answer in answers:
        say(f"  {'' if answer.determined else 'not determined: '}{answer.line()}")
    if settings.plots:
        plot_answers(run.plots / "identify.png", answers)
    content = {
        "schema_version": SCHEMA_VERSION,
        "run": str(run.path),
        "seed_index": settings.seed_index,
        "answers": [dataclasses.asdict(answer) for answer in answers],
        "seconds": time.perf_counter() - start,
    }
    write_json(file, content)
    say(f"  {file}")
