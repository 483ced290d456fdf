"""Energies of resampled cells, all of them in one program.

What was chosen for all cells stays: the features, their ridge, the units of linear energies. A network
begins at random numbers of its own, so that the spread of the energies has the chance of the training
in it, too.
"""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from diffusions.keys import named_key
from diffusions.memory import check_memory
from diffusions.training import Progress
from diffusions.typing import Float, Key, Keys, PyTree
from jkonet_star.energies.models import LinearEnergy
from jkonet_star.fit_report import BootstrapReport, ClosedFormReport
from jkonet_star.fitted import FittedEnergy
from jkonet_star.settings import BootstrapSettings, RefinementSettings
from jkonet_star.snapshots import Snapshots
from jkonet_star.solvers.choice import Auto, SolverChoice, candidates, learn_chosen
from jkonet_star.solvers.closed_form import fit_linear
from jkonet_star.solvers.divergence import first_unsound
from jkonet_star.solvers.interface import Solver
from jkonet_star.solvers.learning import learn
from jkonet_star.solvers.linear import Linear
from jkonet_star.solvers.network import Network
from jkonet_star.solvers.problem import Problem
from jkonet_star.solvers.resampling import (
    Again,
    Resampled,
    even,
    kind_of_resampling,
    known_kind,
    resampled,
    trajectory_rows,
)


class Replicates(NamedTuple):
    """Energies of resampled cells, and how they came about."""

    energies: FittedEnergy  # a stack
    resampled: Resampled
    losses: Float[np.ndarray, "b epochs"]

    def report(self, *, absurd: float) -> BootstrapReport:
        """For people; a loss beyond `absurd` is not sound (`divergence`)."""
        ended = [first_unsound(own, absurd=absurd) for own in self.losses]
        return BootstrapReport(
            replicates=len(ended),
            resampled=self.resampled,
            diverged=sum(epoch is not None for epoch in ended),
        )


def check_bootstrap(
    settings: BootstrapSettings,
    solver: Solver,
    name: str,
    snapshots: Snapshots,
    *,
    refinement: RefinementSettings,
    n_energies: int,
) -> None:
    """Refuses what has no bootstrap, before any work.

    Raises:
        ValueError: another solver than a network's, a linear one or `auto`, several seeds, a
            refinement of a linear energy, trajectories of snapshots whose counts or weights differ,
            what does not fit into memory.
    """
    if not settings.bootstrap:
        return
    if type(solver) not in (Network, Linear, Auto):
        raise ValueError(
            f"bootstrap is of network and linear energies by first-order conditions, not of {name!r}"
        )
    if n_energies > 1:
        raise ValueError(f"bootstrap resamples the particles of one energy, got {n_energies} seeds")
    if refinement.refine and isinstance(solver, Linear):
        raise ValueError("bootstrap of a linear energy has no refinement: refine must be 0")
    if settings.resample == "trajectories" and not even(snapshots):
        raise ValueError(
            "snapshots of unequal counts or weights have no trajectories: resample must be "
            "'snapshots' or 'auto'"
        )
    check_memory(bootstrap_memory(settings, solver, snapshots))


def check_resampling(settings: BootstrapSettings, problem: Problem) -> None:
    """Refuses what is known to fail once snapshots are coupled, before anything is trained.

    Raises:
        ValueError: trajectories along couplings that are not one to one, or of what grows.
    """
    if settings.bootstrap:
        kind = known_kind(problem, settings.resample)
        if kind is not None:
            trajectory_rows(problem, kind)


def bootstrap_memory(
    settings: BootstrapSettings, solver: Solver, snapshots: Snapshots
) -> dict[str, float]:
    """Bytes of the largest arrays, at least."""
    # Of a pair: point, displacement and score, seven numbers, and as many of nu.
    pair = 4.0 * (4 * snapshots.dimension + 8)
    one = pair * snapshots.n_steps * snapshots.points.shape[1]
    needs = {"resampled populations (--bootstrap)": settings.bootstrap * one}
    if isinstance(solver, Network | Auto):
        # Each once, and once more side by side.
        needs["resampled populations (--bootstrap)"] *= 2
        widest = (
            [solver.network]
            if isinstance(solver, Network)
            else [c.network for c in candidates(solver.network)]
        )
        networks = max(sum(own.memory_needs.values()) for own in widest)
        needs["networks of resampled populations (--bootstrap, --hidden)"] = (
            settings.bootstrap * networks
        )
    return needs


def replicate(
    settings: BootstrapSettings,
    solver: Solver,
    problem: Problem,
    energy: FittedEnergy,
    again: Again,
    *,
    key: Key,
    closed_form: ClosedFormReport | None = None,
    choice: SolverChoice | None = None,
    refinement: RefinementSettings = RefinementSettings(),  # noqa: B008 (frozen)
    on_progress: Progress | None = None,
) -> Replicates:
    """Learns from resampled cells.

    Args:
        settings: how many energies, and what is drawn.
        solver: of all of them.
        problem: of all cells.
        energy: that was learned from it.
        again: as in `resampled`.
        key: of all randomness; that of the fit.
        closed_form: of a linear energy, with the ridge to be taken.
        choice: that was made for all cells, and is not made again.
        refinement: of networks.
        on_progress: called about ten times during the training.

    Raises:
        ValueError: as `resampled`.
    """
    kind, problems = resampled_problems(settings, problem, energy, again, key=key)
    if isinstance(solver, Linear):
        energies = solved_replicates(energy, problems, closed_form)
        return Replicates(energies, kind, np.zeros((len(problems), 0)))
    keys = replicate_keys(key, len(problems))
    learned = (
        learn(solver, problems, keys, refinement, on_progress=on_progress)
        if choice is None
        else learn_chosen(choice, problems, keys, on_progress=on_progress)
    )
    return Replicates(learned.energies, kind, learned.losses)


def resampled_problems(
    settings: BootstrapSettings,
    problem: Problem,
    energy: FittedEnergy,
    again: Again,
    *,
    key: Key,
) -> tuple[Resampled, list[Problem]]:
    """What is drawn, and a problem of one shape per energy; arguments as of `replicate`."""
    kind = kind_of_resampling(problem, energy, settings.resample)
    own = named_key(key, "bootstrap")
    return kind, resampled(problem, again, kind, settings.bootstrap, key=own)


def replicate_keys(key: Key, count: int) -> Keys:
    """Of the trainings."""
    return jax.random.split(named_key(key, "bootstrap training"), count)


def solved_replicates(
    energy: FittedEnergy,
    problems: Sequence[Problem],
    closed_form: ClosedFormReport | None,
) -> FittedEnergy:
    """Linear energies with the features of one, and its ridge.

    Args:
        energy: of all cells.
        problems: of resampled cells.
        closed_form: of the energy; None where its drift is that of the weak form.
    """
    assert isinstance(energy.model, LinearEnergy)
    found = []
    for own in problems:
        if closed_form is None:
            assert own.weak_form is not None
            found.append(own.weak_form.params)
            continue
        params, _ = fit_linear(
            energy.model,
            energy.constants,
            own.conditions,
            regularization=closed_form.regularization,
            interaction_factor=closed_form.interaction_factor,
        )
        if own.internal is not None:
            params = {**params, "internal": jnp.asarray(own.internal.beta, jnp.float32)}
        found.append(params)
    stacked: PyTree = jax.tree.map(lambda *leaves: jnp.stack(leaves), *found)
    # The constants, times and origin of the energy are those of every replicate; growth is its own.
    same = jax.tree.map(
        lambda leaf: jnp.asarray(np.broadcast_to(np.asarray(leaf), (len(found), *leaf.shape))),
        energy.replace(params={}, growth_rate=None),  # type: ignore[attr-defined]
    )
    rates = [own.growth.rate for own in problems if own.growth is not None]
    rate = jax.tree.map(lambda *leaves: jnp.stack(leaves), *rates) if rates else None
    return same.replace(params=stacked, growth_rate=rate)
