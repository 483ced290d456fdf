"""What is known of a sweep while it goes on: a bar with the time left, the table, the figure."""

import time
from collections.abc import Sequence
from typing import Self

from tqdm import tqdm

from data_generation.scripts.progress import progress_bar
from experiments.run.tables import Row, write_table
from experiments.sweeps.folder import SweepFolder
from experiments.sweeps.settings import Cell
from experiments.sweeps.table import COLUMNS, row_of, write_markdown

SECONDS_BETWEEN_TABLES = 10.0
SECONDS_BETWEEN_FIGURES = 60.0


class Progress:
    """The rows of a sweep's table, rewritten as runs come to their end."""

    def __init__(self, cells: Sequence[Cell], folder: SweepFolder, *, title: str):
        self.folder = folder
        self.title = title
        self._cells = {cell.name: cell for cell in cells}
        self.unfinished = [cell for cell in cells if not folder.finished(cell)]
        for cell in self.unfinished:
            # Whatever was wrong in an earlier sweep may have been put right.
            folder.forget_failure(cell)
        self._rows = {name: row_of(cell, folder) for name, cell in self._cells.items()}
        self._table_due = self._figure_due = 0.0
        self._bar: tqdm  # while it is entered

    @property
    def rows(self) -> list[Row]:
        """A row per run, in the order of the grid."""
        return list(self._rows.values())

    def __enter__(self) -> Self:
        # The average over the whole sweep: batches end all at once, and data cost before anything ends.
        self._bar = progress_bar(
            leave=True,
            total=len(self._cells),
            initial=len(self._cells) - len(self.unfinished),
            unit="run",
            desc=self.title,
            smoothing=0.0,
        )
        self.folder.path.mkdir(parents=True, exist_ok=True)
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.close()
        self._write(figure=True)

    def finished(self, cell: Cell) -> None:
        """Takes a run into the table."""
        self._rows[cell.name] = row_of(cell, self.folder)
        self._bar.update()
        now = time.monotonic()
        if now < self._table_due:
            return
        self._write(figure=now >= self._figure_due)
        self._table_due = time.monotonic() + SECONDS_BETWEEN_TABLES
        if now >= self._figure_due:
            self._figure_due = time.monotonic() + SECONDS_BETWEEN_FIGURES

    def _write(self, *, figure: bool) -> None:
        rows = self.rows
        write_table(self.folder.path / "table.csv", rows, COLUMNS)
        write_markdown(self.folder.path / "table.md", rows, self.title)
        if figure and self.folder.execution.plots:
            from experiments.sweeps.figures import plot_sweep

            plot_sweep(self.folder.path / "plots" / "errors.png", rows)
