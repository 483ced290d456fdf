"""When training has failed: what is kept, and since when.

The losses of the first-order solvers are relative to the motion of the data: an energy that moves
nothing has a loss of one (`objectives`, equation (2)). An epoch is sound if its mean loss is at most
`ABSURD` and its parameters are finite. The energy that is returned is that of the last sound epoch, or
the initial one; a run whose last epochs are not sound has diverged, in the first of them. Training that
overshoots and recovers has not.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from diffusions.training import TrainingState
from diffusions.typing import Array, Bool

ABSURD = 100.0
"""A loss that no training recovers from as a rule, in units of the loss of no motion."""


def finite(tree: Any) -> Bool[Array, ""]:
    """Whether every number is."""
    return jnp.stack([jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(tree)]).all()


def sound_epochs(
    epoch: Callable[[TrainingState], tuple[TrainingState, dict[str, Array]]],
    state: TrainingState,
    n_epochs: int,
) -> tuple[TrainingState, dict[str, Array]]:
    """Runs epochs; what is returned of the state, `ema`, stays that of the last sound one.

    Args:
        epoch: one epoch and its scalars, each of shape (1,).
        state: before.
        n_epochs: static.

    Returns:
        The state, and the scalars per epoch; the loss is NaN where parameters ceased to be finite.
    """

    def guarded(state: TrainingState, _: None) -> tuple[TrainingState, dict[str, Array]]:
        new, scalars = epoch(state)
        scalars = {name: value[0] for name, value in scalars.items()}
        is_finite = finite((new.params, new.ema))
        sound = is_finite & (scalars["loss"] <= ABSURD)
        kept = jax.tree.map(lambda a, b: jnp.where(sound, a, b), new.ema, state.ema)
        loss = jnp.where(is_finite, scalars["loss"], jnp.nan)
        return dataclasses.replace(new, ema=kept), {**scalars, "loss": loss}

    return jax.lax.scan(guarded, state, None, length=n_epochs)


def first_unsound(losses: Sequence[float] | np.ndarray, *, absurd: float = ABSURD) -> int | None:
    """The number, from one, of the first of the last epochs that are not sound; None where none is.

    Args:
        losses: of all epochs.
        absurd: beyond which a loss is not sound.
    """
    sound = np.flatnonzero(np.asarray(losses, np.float64) <= absurd)
    last = int(sound[-1]) + 1 if len(sound) else 0
    return None if last == len(losses) else last + 1


def refinement_warning(losses: np.ndarray) -> str | None:
    """One line, where a refinement has diverged.

    Args:
        losses: (energies, steps).
    """
    ended = [first_unsound(own) for own in losses] if losses.size else []
    if not any(ended):
        return None
    steps = ", ".join("never" if step is None else str(step) for step in ended)
    return (
        f"the refinement diverged in step {steps}; the energy is that of the last sound step: take a "
        "smaller refine_learning_rate"
    )


def divergence_warning(diverged: Sequence[int | None]) -> str | None:
    """One line, where a run has diverged.

    Args:
        diverged: the epoch in which each seed did.
    """
    if not any(diverged):
        return None
    epochs = ", ".join("never" if epoch is None else str(epoch) for epoch in diverged)
    return (
        f"training diverged in epoch {epochs}; the energy is that of the last sound epoch, and means "
        "little: take a smaller learning_rate"
    )
