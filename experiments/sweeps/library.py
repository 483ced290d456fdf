"""The datasets of a sweep and what solvers make of them, each made once while it is needed."""

import contextlib
import dataclasses
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from threadpoolctl import threadpool_limits

from data_generation.populations.datasets import Dataset, generate_dataset, load_dataset
from data_generation.populations.settings import DataSettings
from data_generation.scripts.processes import first_before_others
from experiments.populations.datasets import known_energy, yardsticks
from experiments.populations.training import prepare_problem
from experiments.sweeps.settings import Cell
from jkonet_star.evaluation import KnownEnergy
from jkonet_star.solvers.problem import Problem
from jkonet_star.solvers.registry import SOLVERS
from jkonet_star.yardsticks import Yardsticks


class Library:
    """Datasets and prepared problems; forget it, and their memory is free."""

    def __init__(self) -> None:
        self._datasets: dict[str, Dataset] = {}
        self._truths: dict[str, KnownEnergy | None] = {}
        self._problems: dict[tuple, Problem] = {}
        self._seconds: dict[tuple, float] = {}
        self._yardsticks: dict[tuple, Yardsticks] = {}
        self._failed: set[tuple] = set()

    def dataset(self, cell: Cell) -> Dataset:
        """The cell's dataset, generated where it is missing."""
        name = cell.dataset_name
        if name not in self._datasets:
            with first_before_others():
                self._datasets[name] = (
                    generate_dataset(cell.data)
                    if isinstance(cell.data, DataSettings)
                    else load_dataset(cell.data, cell.data_dir)
                )
        return self._datasets[name]

    def truth(self, cell: Cell) -> KnownEnergy | None:
        """What the cell's data were simulated with, where that is known."""
        name = cell.dataset_name
        if name not in self._truths:
            self._truths[name] = known_energy(self.dataset(cell))
        return self._truths[name]

    def yardsticks(self, cell: Cell, which: str, order: int) -> Yardsticks:
        """What predictions of the cell's data are judged by."""
        key = (cell.dataset_name, which, order)
        if key not in self._yardsticks:
            self._yardsticks[key] = yardsticks(self.dataset(cell), which, order)
        return self._yardsticks[key]

    def prepare(self, cells: Sequence[Cell], *, at_once: int) -> None:
        """Makes the problems of cells, several at a time: most of it is one thread's work each.

        What goes wrong is left to whoever asks for the problem, and goes wrong again there, but is not
        tried twice here.
        """
        missing: dict[tuple, Cell] = {}
        for cell in cells:
            key = self._key(cell)
            if key not in self._problems and key not in self._failed:
                with contextlib.suppress(Exception):
                    self.dataset(cell)
                    missing.setdefault(key, cell)

        def make(cell: Cell) -> None:
            try:
                self.problem(cell)
            except Exception:  # noqa: BLE001 (whatever it is, it is said where it is asked for)
                self._failed.add(self._key(cell))

        # A limit that is set and lifted in several threads is lifted last by whoever knew it set.
        with (
            threadpool_limits(1, user_api="blas"),
            ThreadPoolExecutor(at_once) as pool,
        ):
            list(pool.map(make, missing.values()))

    def problem(self, cell: Cell) -> Problem:
        """The cell's coupled snapshots; solvers that learn the same terms share them."""
        key = self._key(cell)
        if key not in self._problems:
            dataset, start = self.dataset(cell), time.perf_counter()
            self._problems[key] = prepare_problem(
                cell.solver_name, cell.scheme, cell.seed, cell.learning, dataset
            )
            self._seconds[key] = time.perf_counter() - start
        return dataclasses.replace(self._problems[key], terms=SOLVERS[cell.solver_name].terms)

    def taken(self, cell: Cell) -> float:
        """Seconds in which the cell's problem was made; none for whoever asks again."""
        return self._seconds.pop(self._key(cell), 0.0)

    @staticmethod
    def _key(cell: Cell) -> tuple[Any, ...]:
        """Equal for cells of one problem."""
        # The data of (1) do not know how an energy is represented.
        terms = SOLVERS[cell.solver_name].terms
        learning = cell.learning
        internal = (learning.internal, learning.features) if terms.internal else None
        shared = dataclasses.replace(terms, time_varying=False)
        # Couplings are made anew along a circulation, by the features.
        turned = learning.features if learning.circulation.circulation else None
        return cell.dataset_name, cell.scheme, shared, internal, turned
