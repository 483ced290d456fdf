"""The folder of a sweep.

    runs/NAME/       a run folder per run, as `experiments.train` writes it
    batches/         training states of networks side by side, while they are trained
    failures/        NAME.json per run that failed: why, and how often
    logs/NAME.txt    what a run that was carried out by itself said
    table.csv, table.md, plots/

A run is finished when its folder holds a summary. Nothing else is remembered, so that a sweep that is
killed, or shared by the jobs of a cluster, continues from what is there.
"""

import dataclasses
import hashlib
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from data_generation.populations.dataset_folder import read_metadata
from data_generation.populations.dataset_metadata import identity
from data_generation.populations.dataset_place import is_dataset
from data_generation.scripts.files import check_writable, write_json
from experiments.populations.settings import TrainSettings
from experiments.run.folder import RunFolder, open_run, start_run
from experiments.run.place import TRAINING
from experiments.run.records import Failure, Summary, TrainSummary, read_entries
from experiments.sweeps.settings import Cell, ExecutionSettings

_BATCH = re.compile("[0-9a-f]{16}")


class SweepFolder:
    """Where a sweep's runs are, and which of them are there."""

    def __init__(self, path: Path, execution: ExecutionSettings):
        check_writable(path)
        self.path = path
        self.execution = execution

    def run(self, cell: Cell) -> RunFolder:
        """The folder of one run."""
        return RunFolder(self.path / "runs" / cell.name)

    def train_settings(self, cell: Cell, **more: Any) -> TrainSettings:
        """What `experiments.train` would be told."""
        return TrainSettings(
            solver=cell.solver_name,
            dataset=str(cell.dataset_path),
            data_dir=cell.data_dir,
            scheme=cell.scheme,  # type: ignore[arg-type]
            seeds=(cell.seed,),
            eval=self.execution.eval,
            eval_every=self.execution.eval_every,
            wasserstein_order=self.execution.wasserstein_order,
            run_name=cell.name,
            runs_dir=str(self.path / "runs"),
            plots=False,
            devices=self.execution.devices,
            **more,
        )

    def open(self, cell: Cell, *, resume: bool = False) -> RunFolder:
        """The folder of a run: a new one in place of what an interrupted run left, or a finished one.

        Raises:
            ValueError: the run that is to be resumed has other settings.
        """
        replace = not resume and self.run(cell).path.exists()
        return start_run(
            self.train_settings(cell, resume=resume, overwrite=replace),
            TRAINING,
            cell.name,
            *cell.learning.of(cell.solver_name),
            data=self._data(cell),
            dataset=str(cell.dataset_path),
        )

    def forget_batches(self) -> None:
        """Removes what is left of batches whose runs are finished: a kill came while they went."""
        for path in sorted((self.path / "batches").glob("*")):
            if not _BATCH.fullmatch(path.name):
                continue  # none of ours
            left = RunFolder(path)
            try:
                runs = left.config()["settings"]["runs"]
                needed = any(not RunFolder(self.path / "runs" / name).finished for name in runs)
            except (KeyError, TypeError, ValueError):
                needed = False  # half gone: nobody can go on from it
            if not needed and left.path.is_dir():
                left.remove()

    def _data(self, cell: Cell) -> dict[str, str] | None:
        """Checksums of a run's data, while they are there."""
        try:
            return identity(read_metadata(cell.dataset_path))
        except ValueError:  # what is wrong with them is said when they are used
            return None

    def finished(self, cell: Cell) -> bool:
        """Whether there is nothing left to do.

        Raises:
            ValueError: a run of this name is there with other settings or data.
        """
        if cell.solver is None:
            return is_dataset(cell.dataset_path)
        if not self.run(cell).finished:
            return False
        try:
            self.open(cell, resume=True)
        except ValueError as error:
            raise ValueError(f"{error}; give another --sweep-name") from error
        return True

    def summary(self, cell: Cell) -> dict[str, Any]:
        """The results of a finished run."""
        return read_entries(self.run(cell).path / "summary.json", Summary, TrainSummary)

    def started(self) -> bool:
        """Whether a sweep was here before."""
        return (self.path / "runs").is_dir()

    def _failure(self, cell: Cell) -> Path:
        return self.path / "failures" / f"{cell.name}.json"

    def fail(self, cell: Cell, reason: str, details: str = "") -> None:
        """Records that a run failed, and why."""
        before = self.failure(cell)
        self._failure(cell).parent.mkdir(parents=True, exist_ok=True)
        attempts = 1 + (0 if before is None else before["attempts"])
        record = {"attempts": attempts, "reason": reason, "details": details}
        write_json(self._failure(cell), record)

    def failure(self, cell: Cell) -> dict[str, Any] | None:
        """Attempts and reason of a run that failed."""
        file = self._failure(cell)
        return read_entries(file, Failure) if file.is_file() else None

    def forget_failure(self, cell: Cell) -> None:
        """A run that comes to its end after all has not failed."""
        self._failure(cell).unlink(missing_ok=True)

    def batch(self, cells: Sequence[Cell]) -> RunFolder:
        """The folder in which these runs are trained side by side; an interrupted one is found."""
        names = [cell.name for cell in cells]
        name = hashlib.sha256("\n".join(names).encode()).hexdigest()[:16]
        config: dict[str, Any] = {"runs": names, "eval_every": self.execution.eval_every}
        for part in cells[0].learning.of(str(cells[0].solver)):
            config |= dataclasses.asdict(part)
        batches = self.path / "batches"
        data = {
            f"{cell.dataset_name}/{file}": checksum
            for cell in cells
            for file, checksum in (self._data(cell) or {}).items()
        }
        there = (batches / name / "config.json").is_file()
        try:
            return open_run(
                str(batches), name, "", config, resume=there, overwrite=False, data=data
            )
        except ValueError:
            # Of other settings or data: nothing of it can be used.
            return open_run(str(batches), name, "", config, resume=False, overwrite=True, data=data)
