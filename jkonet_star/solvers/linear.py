"""JKOnet* with linear energies: the first-order conditions solved by least squares."""

import dataclasses
from typing import Any

import flax.struct
import jax.numpy as jnp

from diffusions.memory import check_memory
from diffusions.typing import Key, Params, PyTree
from jkonet_star.energies.models import LinearEnergy
from jkonet_star.fitted import FittedEnergy
from jkonet_star.settings import FeatureSettings
from jkonet_star.solvers.closed_form import ClosedFormReport, fit_linear
from jkonet_star.solvers.interface import Frame, Solver, check_kinds, frame
from jkonet_star.solvers.linear_model import linear_model
from jkonet_star.solvers.problem import Problem
from jkonet_star.solvers.registry import Terms


@flax.struct.dataclass
class LinearData:
    """The solution, and what its features are made of."""

    model: LinearEnergy = flax.struct.field(pytree_node=False)
    frame: Frame
    params: Params
    constants: PyTree


@dataclasses.dataclass(frozen=True, kw_only=True)
class Linear(Solver):
    """Linear energies, by `closed_form`.

    Attributes:
        terms: what is learned.
        features: of both energies.
    """

    terms: Terms = Terms(potential=True)
    features: FeatureSettings = FeatureSettings()

    def __post_init__(self):
        check_kinds(self, terms=(Terms,), features=(FeatureSettings,))

    @property
    def may_circulate(self) -> bool:
        """It may."""
        return True

    def check(self, dimension: int) -> None:
        """Raises ValueError for more features than fit into memory."""
        check_memory(self.features.memory_needs_in(dimension))

    def solve(self, problem: Problem) -> tuple[LinearData, ClosedFormReport | None]:
        """The solution, and how well posed it was; there is no randomness.

        The energy of the weak form is the solution as it is, and has no such report.

        Raises:
            ValueError: as `check`.
        """
        self.check(problem.snapshots.dimension)
        model, constants = linear_model(self.terms, problem.snapshots, self.features)
        model = dataclasses.replace(model, internal=problem.beta_source)
        own = problem.weak_form
        if own is not None and own.model == model:
            data = LinearData(
                model=model, frame=frame(problem), params=own.params, constants=own.constants
            )
            return data, None
        params, report = fit_linear(
            model, constants, problem.conditions, regularization=self.features.regularization
        )
        if problem.internal is not None:
            params = {**params, "internal": jnp.asarray(problem.internal.beta, jnp.float32)}
        data = LinearData(model=model, frame=frame(problem), params=params, constants=constants)
        return data, report

    def prepare(self, problem: Problem) -> tuple[LinearData, dict[str, Any]]:
        """Solves it.

        Raises:
            ValueError: as `check`.
        """
        data, report = self.solve(problem)
        return data, {} if report is None else {"closed_form": dataclasses.asdict(report)}

    def init(self, key: Key, data: LinearData) -> Params:
        """The solution."""
        del key
        return data.params

    def energy(self, state: Params, data: LinearData) -> FittedEnergy:
        """The solution, with its features."""
        return data.frame.energy(data.model, state, data.constants)


def solve_linear(
    problem: Problem, settings: FeatureSettings
) -> tuple[FittedEnergy, ClosedFormReport | None]:
    """The closed-form energy of a prepared problem.

    Raises:
        ValueError: the settings ask for more features than fit into memory.
    """
    solver = Linear(terms=problem.terms, features=settings)
    data, report = solver.solve(problem)
    return solver.energy(data.params, data), report
