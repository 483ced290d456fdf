"""Reproduces an experiment of the JKOnet* paper: runs, a table of numbers and the figure.

A reproduction is a sweep: it continues where it was killed.
"""

from collections.abc import Sequence

from data_generation.scripts.command_line import define_flags, run_script, say, settings_from_flags
from experiments.reproductions.settings import ReproduceSettings
from experiments.sweeps.settings import ExecutionSettings

FLAGS = define_flags(ReproduceSettings)
define_flags(ExecutionSettings, into=FLAGS)

EXAMPLE = """
python -m experiments.reproduce --experiment=potentials
python -m experiments.reproduce --experiment=potentials --reference=DIR --quick
python -m experiments.reproduce --experiment=embryoid-body --embryoid-body=eb_velocity_v5.npz
"""


def main() -> None:
    """Carries out the experiment of the flags."""
    settings = settings_from_flags(ReproduceSettings, FLAGS)
    execution = settings_from_flags(ExecutionSettings, FLAGS)
    import importlib
    from pathlib import Path

    from experiments.sweep import run_sweep
    from experiments.sweeps.folder import SweepFolder

    module = str(settings.experiment).replace("-", "_")
    experiment = importlib.import_module(f"experiments.reproductions.{module}")
    cells = experiment.cells(settings)
    rows = run_sweep(cells, settings.name, execution)
    folder = SweepFolder(Path(execution.runs_dir) / settings.name, execution)
    if all(row["status"] == "missing" for row in rows):
        return
    experiment.report(rows, cells, folder, settings)
    say(f"  {folder.path / f'{settings.experiment}.md'}")
    say(f"  {folder.path / 'plots' / f'{settings.experiment}.png'}")


def run(argv: Sequence[str] | None = None) -> int:
    """The script."""
    return run_script(main, FLAGS, argv=argv, description=__doc__, example=EXAMPLE)


if __name__ == "__main__":
    raise SystemExit(run())
