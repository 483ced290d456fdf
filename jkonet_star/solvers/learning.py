"""From a problem to energies, in memory: the first-order training, and the refinement after it."""

import dataclasses
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from diffusions.training import PROGRESS_CALLS, Progress, advance_in_chunks
from diffusions.typing import Float, HostArray, Keys
from jkonet_star.energies.models import INITIAL_NOISE, NetworkEnergy
from jkonet_star.fitted import FittedEnergy
from jkonet_star.settings import RefinementSettings
from jkonet_star.solvers.interface import Solver
from jkonet_star.solvers.problem import Problem
from jkonet_star.solvers.refinement import Refining
from jkonet_star.solvers.side_by_side import SideBySide


class Learned(NamedTuple):
    """Energies, and how they came about."""

    energies: FittedEnergy  # a stack, one per key
    losses: Float[np.ndarray, "s epochs"]
    refinement_losses: Float[np.ndarray, "s steps"]
    facts: dict[str, Any]


def learn(
    solver: Solver,
    problem: Problem | Sequence[Problem],
    keys: Keys,
    refinement: RefinementSettings,
    *,
    on_progress: Progress | None = None,
) -> Learned:
    """Trains or solves, and refines where that is asked for.

    Args:
        solver: of the first-order conditions.
        problem: its input; or one for each energy.
        keys: one per energy.
        refinement: with no steps for none.
        on_progress: called about ten times during each.
    """
    training = SideBySide(solver, problem)
    energies, losses = train(training, keys, on_progress)
    refined = np.zeros((len(keys), 0))
    if refinement.refine:
        energies, refined = train(Refining(refinement, problem, energies), keys, on_progress)
    return Learned(energies, losses, refined, training.facts[0])


def with_noise(energies: FittedEnergy, start: float | HostArray = INITIAL_NOISE) -> FittedEnergy:
    """Network energies with a beta to be learned, from some b of `energies`, equation (2), on."""
    assert isinstance(energies.model, NetworkEnergy)
    model = dataclasses.replace(energies.model, internal="learned")
    internal = jnp.broadcast_to(jnp.asarray(start, jnp.float32), energies.times.shape[:1])
    return energies.replace(  # type: ignore[attr-defined]
        model=model, params={**energies.params, "internal": internal}
    )


def train(
    training: SideBySide, keys: Keys, on_progress: Progress | None = None
) -> tuple[FittedEnergy, Float[np.ndarray, "s epochs"]]:
    """The energies, and the losses."""
    epochs = training.solver.epochs
    chunk = max(1, -(-epochs // PROGRESS_CALLS))
    if on_progress is None and epochs:
        # Chunks of one length are one program.
        chunk = next(n for n in range(chunk, epochs + 1) if epochs % n == 0)
    losses = [np.zeros((len(keys), 0))]

    def each(size: int, scalars: dict[str, HostArray], kept: None) -> None:
        losses.append(scalars["loss"])
        if on_progress is not None:
            done = sum(part.shape[1] for part in losses)
            on_progress(done, {name: float(value.mean()) for name, value in scalars.items()})

    state = advance_in_chunks(
        training.initial(keys),
        lambda state, n_epochs: training.advance(state, keys, n_epochs),
        [min(chunk, epochs - start) for start in range(0, epochs, chunk)],
        keep=lambda state: None,
        each=each,
    )
    return training.energies(state), np.concatenate(losses, axis=1)
