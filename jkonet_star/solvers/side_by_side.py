"""The one driver: a solver on a problem, for several seeds, or several problems, in one program.

`fit` runs it in memory, `experiments.train` in a run folder, a sweep with stacked problems, and what is
solved has no epochs. What is side by side is shared among the devices in use (`diffusions.devices`).
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from diffusions.devices import Members
from diffusions.typing import Array, Bool, Float, Keys, PyTree
from jkonet_star.fitted import FittedEnergy
from jkonet_star.solvers.interface import Solver
from jkonet_star.solvers.problem import Problem


def _init(solver: Solver, keys: Keys, data: PyTree, *, several: bool, members: Members) -> PyTree:
    return members.vmap(solver.init, (0, 0 if several else None))(keys, data)


_OF_INIT = ("solver", "several", "members")
_init_inside = jax.jit(_init, static_argnames=_OF_INIT)
"""Within another program, which has its own options."""
# It runs once, and is compiled with fewer passes in half of the time.
_init_in_haste = jax.jit(
    _init,
    static_argnames=_OF_INIT,
    compiler_options={"xla_backend_optimization_level": 1},
)


@functools.partial(
    jax.jit,
    static_argnames=("solver", "n_epochs", "several", "members"),
    donate_argnames=("state",),
)
def _advance(
    solver: Solver,
    state: PyTree,
    keys: Keys,
    data: PyTree,
    *,
    n_epochs: int,
    several: bool,
    members: Members,
) -> tuple[PyTree, dict[str, Array]]:
    advance = functools.partial(solver.advance, n_epochs=n_epochs)
    return members.vmap(advance, (0, 0, 0 if several else None))(state, keys, data)


@functools.partial(jax.jit, static_argnames=("solver", "several", "members"))
def _energies(
    solver: Solver, state: PyTree, data: PyTree, *, several: bool, members: Members
) -> FittedEnergy:
    return members.vmap(solver.energy, (0, 0 if several else None))(state, data)


@functools.partial(jax.jit, static_argnames=("solver", "members"))
def _diverged(solver: Solver, state: PyTree, *, members: Members) -> Bool[Array, "s"]:
    return members.vmap(solver.diverged, (0,))(state)


class SideBySide:
    """A solver and its data.

    Every array of a state carries a leading seed axis. Given a sequence of problems that differ in
    nothing but the numbers, each has a state of its own, and a key of its own in `initial`.

    Attributes:
        solver: the static part of every program.
        facts: of each problem's preparation.
        data: of all.
        members: how many states there are, and where; from `initial` on.
    """

    members: Members

    def __init__(self, solver: Solver, problem: Problem | Sequence[Problem]):
        self._several = not isinstance(problem, Problem)
        problems = as_problems(problem)
        self.solver = solver = solver.settled(problems[0])
        for one in problems:
            solver.check_problem(one)
        prepared = [solver.prepare(p) for p in problems]
        self.facts: list[dict[str, Any]] = [facts for _, facts in prepared]
        data = [arrays for arrays, _ in prepared]
        self.data: PyTree = stacked(data) if self._several else data[0]

    def initial(self, keys: Keys) -> PyTree:
        """States before the first epoch, one per key."""
        self._share(len(keys))
        keys = self.members.placed(keys)
        try:
            return _init_in_haste(self.solver, keys, self._data, **self._how)
        except ValueError:  # of JAX, inside of another program
            return _init_inside(self.solver, keys, self._data, **self._how)

    def _share(self, count: int) -> None:
        """Divides states, and their data, among the devices in use."""
        self.members = Members.of(count)
        place = self.members.placed if self._several else self.members.shared
        self._data = place(self.data)
        self._how: dict[str, Any] = {"several": self._several, "members": self.members}

    def program(
        self, state: PyTree, keys: Keys, n_epochs: int
    ) -> Callable[[PyTree], tuple[PyTree, dict[str, Array]]]:
        """`advance` for this many epochs, compiled for states like this one."""
        self.compile(state, keys, n_epochs)
        return lambda state: self.advance(state, keys, n_epochs)

    def compile(self, state: PyTree, keys: Keys, n_epochs: int) -> jax.stages.Compiled:
        """Makes the program of `advance` for this many epochs, without running it."""
        keys = self.members.placed(keys)
        return _advance.lower(
            self.solver, state, keys, self._data, n_epochs=n_epochs, **self._how
        ).compile()

    def advance(
        self, state: PyTree, keys: Keys, n_epochs: int
    ) -> tuple[PyTree, dict[str, Float[Array, "s epochs"]]]:
        """Trains every seed for some epochs; `state` is consumed. Returns it with the losses."""
        keys = self.members.placed(keys)
        state, scalars = _advance(
            self.solver, state, keys, self._data, n_epochs=n_epochs, **self._how
        )
        return state, self.members.own(scalars)

    def diverged(self, state: PyTree) -> np.ndarray:
        """Whether each seed's training is at its end before its time."""
        return np.asarray(self.members.own(_diverged(self.solver, state, members=self.members)))

    def energies(self, state: PyTree) -> FittedEnergy:
        """The energies of all seeds, stacked along the leading axis of every leaf."""
        return self.members.own(_energies(self.solver, state, self._data, **self._how))


def as_problems(problem: Problem | Sequence[Problem]) -> list[Problem]:
    """Those that are trained side by side, or the one."""
    return [problem] if isinstance(problem, Problem) else _common_origin(problem)


def stacked(data: Sequence[PyTree]) -> PyTree:
    """Of several problems.

    Raises:
        ValueError: they have not one shape.
    """
    if len({(jax.tree.structure(d), _shapes(d)) for d in data}) > 1:
        raise ValueError("problems that are trained side by side must have one shape")
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *data)


def _shapes(data: PyTree) -> tuple:
    return tuple(leaf.shape for leaf in jax.tree.leaves(data))


def _common_origin(problems: Sequence[Problem]) -> list[Problem]:
    """Problems of which all have an origin and a start, or none has."""
    populations = [p.snapshots for p in problems]
    far = any(s.origin is not None for s in populations)
    late = any(s.start is not None for s in populations)
    zero = jnp.zeros(populations[0].dimension)
    return [
        dataclasses.replace(
            problem,
            snapshots=dataclasses.replace(
                s,
                origin=zero if far and s.origin is None else s.origin,
                start=zero[0] if late and s.start is None else s.start,
            ),
        )
        for problem, s in zip(problems, populations, strict=True)
    ]
