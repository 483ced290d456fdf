"""The interface between a way of learning and everything that runs it.

    data, facts = solver.prepare(problem)                               arrays for the device
    state = solver.init(key, data)                                      pure
    state, scalars = solver.advance(state, key, data, n_epochs)         pure
    energy = solver.energy(state, data)                                 pure

A solver is a frozen dataclass, hashable by value, and holds no arrays: it is the static argument of the
programs of `side_by_side`, which are compiled once for all problems of one shape. What is solved and
not trained has no epochs: its `prepare` finds the answer, and `init` returns it.
"""

from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import flax.struct
import jax.numpy as jnp

from diffusions.checks import shown
from diffusions.typing import Array, Bool, Float, Key, Params, PyTree
from jkonet_star.energies.models import EnergyModel, Internal
from jkonet_star.fitted import FittedEnergy
from jkonet_star.growth_rate import GrowthRate
from jkonet_star.settings import Scheme
from jkonet_star.solvers.divergence import ABSURD, finite
from jkonet_star.solvers.registry import Terms

if TYPE_CHECKING:
    from jkonet_star.solvers.problem import Problem


@flax.struct.dataclass
class Frame:
    """What a learned energy keeps of its population, whatever the solver."""

    scheme: str = flax.struct.field(pytree_node=False)
    internal: Internal = flax.struct.field(pytree_node=False)
    times: Float[Array, "t"]
    origin: Float[Array, "d"] | None
    start: Float[Array, ""] | None
    growth_rate: GrowthRate | None = None
    substeps: int = flax.struct.field(pytree_node=False, default=1)

    def energy(self, model: EnergyModel, params: Params, constants: PyTree) -> FittedEnergy:
        """What is learned, seen as the population is."""
        return FittedEnergy(
            model=model,
            scheme=self.scheme,
            params=params,
            constants=constants,
            times=self.times,
            origin=self.origin,
            start=self.start,
            growth_rate=self.growth_rate,
            substeps=self.substeps,
        )


def frame(problem: "Problem") -> Frame:
    """Of a prepared problem."""
    snapshots = problem.snapshots
    return Frame(
        scheme=problem.scheme,
        internal=problem.beta_source,
        times=snapshots.times,
        origin=snapshots.origin,
        start=snapshots.start,
        growth_rate=None if problem.growth is None else problem.growth.rate,
        substeps=problem.substeps,
    )


def check_kinds(solver: Any, **kinds: tuple[type, ...]) -> None:
    """Raises ValueError, naming it, where a field of a solver is of none of its classes."""
    for name, accepted in kinds.items():
        value = getattr(solver, name)
        if not isinstance(value, accepted):
            raise ValueError(f"{name} must be a {accepted[0].__name__}, got {shown(value)}")


@runtime_checkable
class Solver(Protocol):
    """A way of learning; derive from it, and these defaults hold.

    Attributes:
        terms: what it learns; a solver with `internal` is given densities and an estimate of beta.
    """

    terms: Terms

    @property
    def may_circulate(self) -> bool:
        """Whether it learns a circulation where its terms have one."""
        return False

    @property
    def default_scheme(self) -> Scheme:
        """That the fit is made for."""
        return "explicit"

    @property
    def epochs(self) -> int:
        """Of the training; 0: solved in `prepare`."""
        return 0

    @property
    def absurd(self) -> float:
        """The loss from which on an epoch is not sound (see `divergence`)."""
        return ABSURD

    def check(self, dimension: int) -> None:
        """Raises ValueError for what cannot be made in d dimensions, before any work."""

    def check_problem(self, problem: "Problem") -> None:
        """Raises ValueError for what this cannot learn from, before a folder is made."""
        del problem

    def settled(self, problem: "Problem") -> "Solver":
        """Itself, with what is absent in its settings and depends on the data."""
        del problem
        return self

    def remark(self, problem: "Problem") -> str | None:
        """One line about what is done otherwise than asked; None where nothing is."""
        del problem
        return None

    def prepare(self, problem: "Problem") -> tuple[PyTree, dict[str, Any]]:
        """What the programs are given, and facts about it that a run writes down."""
        ...

    def init(self, key: Key, data: PyTree) -> PyTree:
        """The state before the first epoch; pure."""
        ...

    def advance(
        self, state: PyTree, key: Key, data: PyTree, n_epochs: int
    ) -> tuple[PyTree, dict[str, Array]]:
        """Some epochs; pure, `n_epochs` is static.

        Returns:
            The state, and scalars per epoch, each (n_epochs,); among them `loss`, NaN from the epoch
            on in which something ceased to be finite.
        """
        raise RuntimeError(f"{type(self).__name__} has no epochs")

    def energy(self, state: PyTree, data: PyTree) -> FittedEnergy:
        """What is learned so far; pure."""
        ...

    def diverged(self, state: PyTree) -> Bool[Array, ""]:
        """Whether no further epoch changes what is learned, because something is not finite."""
        return jnp.logical_not(finite(state))
