"""A sweep in its folder: what is not finished is carried out, here or in jobs."""

from collections.abc import Collection, Sequence
from pathlib import Path

from data_generation.populations.settings import DataSettings
from data_generation.scripts.command_line import Hint, Incomplete, say
from data_generation.scripts.processes import Group, first_alone, share_folder
from diffusions.late_imports import import_extra
from diffusions.memory import check_memory
from experiments.run.lock import LOCK, held, hold, release_all_but
from experiments.run.outputs import check_sweep_folder
from experiments.run.settings import without_effect
from experiments.run.tables import Row
from experiments.sweeps.folder import SweepFolder
from experiments.sweeps.progress import Progress
from experiments.sweeps.settings import Cell, ExecutionSettings


def run_sweep(
    cells: Sequence[Cell], name: str, execution: ExecutionSettings, *, unused: Collection[str] = ()
) -> list[Row]:
    """Carries out what is not finished of some runs, and writes the table and the figure.

    The folder is locked meanwhile.

    Args:
        cells: the runs.
        name: of the sweep's folder.
        execution: where and how.
        unused: names of settings that were given and are without effect.

    Returns:
        A row of the table for every run.

    Raises:
        ImportError: an extra is needed and not installed.
        ValueError: several processes would send the same jobs; what a run's data need does not fit
            into memory, the folder cannot be written, or another process carries out a sweep in it.
    """
    for cell in cells:
        if isinstance(cell.data, DataSettings):
            check_memory(cell.data.memory_needs)

    if Group.current is not None and execution.executor != "local":
        raise ValueError(
            f"--executor={execution.executor} sends jobs from one process: leave --coordinator out"
        )
    _check_extras(cells, execution)
    folder = SweepFolder(Path(execution.runs_dir) / name, execution)
    first_alone(lambda: check_sweep_folder(folder.path))
    share_folder(folder.path, left_out=LOCK)
    folder.path.mkdir(parents=True, exist_ok=True)
    # The jobs of a sweep share its folder; two sweeps would train the same runs.
    before = held()
    hold(folder.path)
    try:
        return _carry_out(cells, folder, title=name, remark=without_effect(unused))
    except KeyboardInterrupt as error:
        error.add_note(Hint("the same command goes on from what is finished"))
        raise
    finally:
        release_all_but(before)


def _carry_out(
    cells: Sequence[Cell], folder: SweepFolder, *, title: str, remark: str | None
) -> list[Row]:
    """`run_sweep` in a folder that is locked."""
    execution = folder.execution
    progress = Progress(cells, folder, title=title)
    left = progress.unfinished
    say(f"{title}: {len(cells)} runs, {len(cells) - len(left)} finished; results in {folder.path}")
    if remark is not None:
        say(f"  {remark}")
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


def check_complete(rows: Sequence[Row]) -> None:
    """What a script ends with, whose sweep it was: without it a shell would take failures for done.

    Raises:
        Incomplete: runs failed, in all processes. One that diverged has a result, and says so.
    """
    failed = sum(row["status"] in ("failed", "missing") for row in rows)
    group = Group.current
    if group is not None and group.anywhere(bool(failed)):
        group.ends_as_one = True
        failed = max(failed, 1)
    if failed:
        raise Incomplete(f"{failed} of {len(rows)} runs failed; the same command tries them again")


def _check_extras(cells: Sequence[Cell], execution: ExecutionSettings) -> None:
    """Before anything is touched: what jobs and files of cells need."""
    if execution.executor != "local":
        import_extra("submitit", f"--executor={execution.executor}")
    for cell in cells:
        file = None if isinstance(cell.data, str) else cell.data.load_from_file
        if file is not None and file.lower().endswith(".h5ad"):
            import_extra("anndata", file)
