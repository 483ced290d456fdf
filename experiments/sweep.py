"""Carries out a grid of runs: data, training, evaluation, a table and a figure.

Networks on data of one shape are trained side by side in one program. Runs that are finished are
skipped, so that a sweep that was killed continues; runs that fail are tried once more.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from data_generation.populations.settings import DataSettings
from data_generation.scripts.command_line import define_flags, run_script, say, settings_from_flags
from diffusions.checks import check_folder_name
from diffusions.late_imports import import_extra
from diffusions.memory import check_memory
from experiments.populations.learning_settings import define_learning_flags, learning_from_flags
from experiments.sweeps.settings import (
    Cell,
    ExecutionSettings,
    Grid,
    SimulationSettings,
    SweepSettings,
    cells_of,
    grids_from_flags,
)

if TYPE_CHECKING:
    from experiments.sweeps.folder import SweepFolder

FLAGS = define_flags(SweepSettings)
define_flags(Grid, into=FLAGS)
define_flags(SimulationSettings, into=FLAGS)
define_flags(ExecutionSettings, into=FLAGS)
define_learning_flags(FLAGS)

EXAMPLE = """
python -m experiments.sweep --potentials=sphere,moon --solvers=jkonet-star-potential --seeds=0,1,2
python -m experiments.sweep --grid=all_models --betas=0
python -m experiments.sweep --grid=FILE.yaml --executor=slurm --jobs=16
"""


def main() -> None:
    """Carries out the sweep of the flags."""
    sweep = settings_from_flags(SweepSettings, FLAGS)
    grids = grids_from_flags(FLAGS, sweep.grid)
    cells = cells_of(
        grids, settings_from_flags(SimulationSettings, FLAGS), learning_from_flags(FLAGS)
    )
    execution = settings_from_flags(ExecutionSettings, FLAGS)
    from pathlib import Path

    name = sweep.sweep_name or (Path(sweep.grid).stem if sweep.grid else "sweep")
    check_folder_name("sweep_name", name)
    run_sweep(cells, name, execution)


def run_sweep(cells: Sequence[Cell], name: str, execution: ExecutionSettings) -> list[dict]:
    """Carries out what is not finished of some runs, and writes the table and the figure.

    The folder is locked meanwhile.

    Args:
        cells: the runs.
        name: of the sweep's folder.
        execution: where and how.

    Returns:
        A row of the table for every run.

    Raises:
        ImportError: an extra is needed and not installed.
        ValueError: what a run's data need does not fit into memory, the folder cannot be written, or
            another process carries out a sweep in it.
    """
    from pathlib import Path

    for cell in cells:
        if isinstance(cell.data, DataSettings):
            check_memory(cell.data.memory_needs)

    from experiments.run.lock import held, hold, release_all_but
    from experiments.run.outputs import check_sweep_folder
    from experiments.sweeps.folder import SweepFolder

    _check_extras(cells, execution)
    folder = SweepFolder(Path(execution.runs_dir) / name, execution)
    check_sweep_folder(folder.path)
    folder.path.mkdir(parents=True, exist_ok=True)
    # The jobs of a sweep share its folder; two sweeps would train the same runs.
    before = held()
    hold(folder.path)
    try:
        return _carry_out(cells, folder, title=name)
    finally:
        release_all_but(before)


def _carry_out(cells: Sequence[Cell], folder: SweepFolder, *, title: str) -> list[dict]:
    """`run_sweep` in a folder that is locked."""
    from experiments.sweeps.progress import Progress

    execution = folder.execution
    progress = Progress(cells, folder, title=title)
    left = progress.unfinished
    say(f"{title}: {len(cells)} runs, {len(cells) - len(left)} finished; results in {folder.path}")
    with progress:
        if execution.executor == "local":
            from experiments.sweeps.runs import carry_out

            if left:
                carry_out(left, folder, progress.finished)
        else:
            from experiments.sweeps.jobs import carry_out_in_jobs

            carry_out_in_jobs(left, folder, progress.finished)
    folder.forget_batches()
    bad = [row for row in progress.rows if row["status"] != "finished"]
    say(f"  {len(cells) - len(bad)} of {len(cells)} runs finished; {folder.path / 'table.md'}")
    for row in bad[:5]:
        say(f"  {row['status']}: {row['solver']} on {row['dataset']}: {row['reason'] or ''}")
    if len(bad) > 5:
        say(f"  and {len(bad) - 5} more; see {folder.path / 'table.csv'}")
    return progress.rows


def _check_extras(cells: Sequence[Cell], execution: ExecutionSettings) -> None:
    """Before anything is touched: what jobs and files of cells need."""
    if execution.executor != "local":
        import_extra("submitit", f"--executor={execution.executor}")
    for cell in cells:
        file = None if isinstance(cell.data, str) else cell.data.load_from_file
        if file is not None and file.lower().endswith(".h5ad"):
            import_extra("anndata", file)


def run(argv: Sequence[str] | None = None) -> int:
    """The script."""
    return run_script(main, FLAGS, argv=argv, description=__doc__, example=EXAMPLE)


if __name__ == "__main__":
    raise SystemExit(run())
