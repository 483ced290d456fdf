"""A sweep divided among the jobs of a cluster, by submitit.

Every job carries out whole datasets, so that none is simulated twice, and writes into the sweep's
folder, which the jobs must see under the same path. What a job leaves undone, because it was killed or
ran out of time, is given to new jobs once.
"""

import logging
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from data_generation.scripts.compilation_cache import keep_cache_from_jobs
from data_generation.scripts.vectors import vectors, vectors_wanted
from diffusions.late_imports import import_extra
from experiments.sweeps.folder import SweepFolder
from experiments.sweeps.runs import Finished, carry_out, data_shape
from experiments.sweeps.settings import Cell, ExecutionSettings

SECONDS_BETWEEN_LOOKS = 2.0


def shares(cells: Sequence[Cell], jobs: int) -> list[list[Cell]]:
    """The runs in at most `jobs` parts of about one size; a dataset's runs stay together."""
    by_dataset: dict[str, list[Cell]] = {}
    # Data of one shape next to each other: what is in one job can be trained side by side.
    shapes = list(dict.fromkeys(data_shape(cell) for cell in cells))
    for cell in sorted(cells, key=lambda c: shapes.index(data_shape(c))):
        by_dataset.setdefault(cell.dataset_name, []).append(cell)
    parts: list[list[Cell]] = [[] for _ in range(min(jobs, len(by_dataset)))]
    given = 0
    for runs in by_dataset.values():
        parts[given * len(parts) // len(cells)] += runs
        given += len(runs)
    return [part for part in parts if part]


def run_share(
    cells: Sequence[Cell], path: str, execution: ExecutionSettings, pages: bool = False
) -> None:
    """One job; its pictures get pages of vectors where whoever started it asked for them."""
    with vectors(pages):
        carry_out(cells, SweepFolder(Path(path), execution), lambda cell: None)


def carry_out_in_jobs(
    cells: Sequence[Cell],
    folder: SweepFolder,
    finished: Finished,
    *,
    cluster: str | None = None,
) -> None:
    """`sweep_runs.carry_out` in jobs; returns when all have come to their end.

    Args:
        cells: what is not finished yet.
        folder: of the sweep, on a disk that all jobs see.
        finished: told of every run once.
        cluster: of submitit; absent, the executor of the settings.

    Raises:
        ValueError: there is no such cluster here.
        ImportError: submitit is not installed.
    """
    submitit = import_extra("submitit", "--executor=slurm")
    settings = folder.execution
    # It warns at every look where a cluster keeps no accounts.
    logging.getLogger("submitit").setLevel(logging.ERROR)
    try:
        executor = submitit.AutoExecutor(
            folder=folder.path / "jobs", cluster=cluster or settings.executor
        )
    except RuntimeError as error:
        raise ValueError(f"--executor={settings.executor}: {error}") from error
    parameters: dict[str, Any] = {
        "name": folder.path.name,
        "timeout_min": settings.time_limit,
        "cpus_per_task": settings.job_cores,
        "gpus_per_node": settings.job_gpus or None,
        "mem_gb": settings.job_memory or None,
        "slurm_partition": settings.partition,
    }
    keep_cache_from_jobs()
    executor.update_parameters(**{k: v for k, v in parameters.items() if v is not None})
    told: set[str] = set()
    ended = "the job left no word"
    for _ in range(2):
        left = [cell for cell in cells if not _over(cell, folder)]
        if left:
            ended = _wait(executor, left, folder, finished, told)
    for cell in cells:
        if not _over(cell, folder):
            folder.fail(cell, f"two jobs ended before it was finished; the last: {ended}")
        if cell.name not in told:
            finished(cell)


def _over(cell: Cell, folder: SweepFolder) -> bool:
    return folder.finished(cell) or folder.failure(cell) is not None


def _wait(
    executor: Any, cells: Sequence[Cell], folder: SweepFolder, finished: Finished, told: set[str]
) -> str:
    """Submits jobs and tells of runs as they finish; returns how the jobs ended."""
    path = str(folder.path.resolve())
    with executor.batch():
        jobs = [
            executor.submit(run_share, share, path, folder.execution, vectors_wanted())
            for share in shares(cells, folder.execution.jobs)
        ]
    waiting = list(cells)
    while True:
        done = all(job.done() or _gone(job) for job in jobs)
        for cell in [c for c in waiting if folder.finished(c)]:
            waiting.remove(cell)
            told.add(cell.name)
            finished(cell)
        if done:
            return ", ".join(sorted({str(job.state) for job in jobs}))
        time.sleep(SECONDS_BETWEEN_LOOKS)


def _gone(job: Any) -> bool:
    """Whether SLURM no longer knows a job: without accounting, submitit sees no killed one."""
    if job.state != "UNKNOWN":
        return False
    try:
        queue = subprocess.run(
            ["squeue", "--noheader", f"--jobs={job.job_id}"], capture_output=True, text=True
        )
    except OSError:
        return False
    # An old job is an error, a recent one an empty line; a controller out of reach is neither.
    return "Invalid job id" in queue.stderr or (queue.returncode == 0 and not queue.stdout.strip())
