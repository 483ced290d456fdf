"""A reproduction: its runs by a sweep, then its table and figure."""

import importlib
from pathlib import Path

from data_generation.scripts.command_line import say
from experiments.reproductions.settings import ReproduceSettings
from experiments.sweeps.folder import SweepFolder
from experiments.sweeps.running import check_complete, run_sweep
from experiments.sweeps.settings import ExecutionSettings


def reproduce(settings: ReproduceSettings, execution: ExecutionSettings) -> None:
    """Carries out the experiment of the settings."""
    settings.check_inputs()
    module = str(settings.experiment).replace("-", "_")
    experiment = importlib.import_module(f"experiments.reproductions.{module}")
    cells = experiment.cells(settings)
    rows = run_sweep(cells, settings.name, execution)
    folder = SweepFolder(Path(execution.runs_dir) / settings.name, execution)
    if any(row["status"] != "missing" for row in rows):
        experiment.report(rows, cells, folder, settings)
        say(f"  {folder.path / f'{settings.experiment}.md'}")
        say(f"  {folder.path / 'plots' / f'{settings.experiment}.png'}")
    check_complete(rows)
