"""The datasets of a sweep and what solvers make of them, each made once while it is needed."""

import dataclasses
from typing import Any

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
        self._yardsticks: dict[tuple, Yardsticks] = {}

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

    def problem(self, cell: Cell) -> Problem:
        """The cell's coupled snapshots; solvers that learn the same terms share them."""
        # The data of (1) do not know how an energy is represented.
        terms = SOLVERS[cell.solver_name].terms
        learning = cell.learning
        internal = (learning.internal, learning.features) if terms.internal else None
        shared = dataclasses.replace(terms, time_varying=False)
        # Couplings are made anew along a circulation, by the features.
        turned = learning.features if learning.circulation.circulation else None
        key: tuple[Any, ...] = (cell.dataset_name, cell.scheme, shared, internal, turned)
        if key not in self._problems:
            self._problems[key] = prepare_problem(
                cell.solver_name, cell.scheme, cell.seed, learning, self.dataset(cell)
            )
        return dataclasses.replace(self._problems[key], terms=terms)
