"""The one training loop: epochs of gradient steps in a single compiled scan.

    g_i = grad loss(theta_i, batch_i),   theta_{i+1} = theta_i + optimiser(g_i),                    (1)
    ema_{i+1} = decay ema_i + (1 - decay) theta_{i+1},  ema_0 = theta_0                             (2)

Everything random in epoch e is drawn from fold_in(key, e), whatever happened before and however the
epochs are cut into calls: a resumed run repeats the uninterrupted one, and evaluation between calls
cannot shift the stream. The function is pure, so `vmap` over (state, key) trains many seeds at once.
`advance_in_chunks` drives it, or any other compiled program, from the host.
"""

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import optax

from diffusions.arguments import checked
from diffusions.short_repr import short_repr
from diffusions.typing import Array, Float, Int, Key, Params, PyTree

Batches = Callable[[Key], PyTree]
"""Key of an epoch -> its batches, stacked along the leading axis of every leaf."""

Loss = Callable[[Params, PyTree, Key], tuple[Array, dict[str, Array]]]
"""(parameters, batch, key) -> (scalar loss, scalars to report)."""

Progress = Callable[[int, dict[str, float]], None]
"""Called with the number of finished epochs, and with means of the last of them."""

PROGRESS_CALLS = 10
"""About so many during a training."""


@flax.struct.dataclass
class TrainingState:
    """All that a run carries from one epoch to the next."""

    params: Params
    optimizer_state: PyTree
    ema: Params  # equal to params where no average is asked for
    epoch: Int[Array, ""]  # epochs finished

    __repr__ = short_repr


def initial_state(params: Params, optimizer: optax.GradientTransformation) -> TrainingState:
    """The state before the first epoch."""
    # After a step nothing is weakly typed: what is so before would make a second program of it.
    params = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.result_type(leaf)), params)
    return TrainingState(
        params=params,
        optimizer_state=optimizer.init(params),
        ema=jax.tree.map(jnp.array, params),
        epoch=jnp.zeros((), jnp.int32),
    )


@checked
def train_epochs(
    state: TrainingState,
    key: Key,
    *,
    batches: Batches,
    loss: Loss,
    optimizer: optax.GradientTransformation,
    n_epochs: int,
    ema_decay: float = 0.0,
) -> tuple[TrainingState, dict[str, Float[Array, "epochs"]]]:
    """Trains for n_epochs more epochs, numbered from state.epoch, by equations (1) and (2).

    Args:
        state: as `initial_state` or an earlier call left it.
        key: the run's key, the same in every call.
        batches: draws an epoch's batches.
        loss: differentiable in its first argument.
        optimizer: any Optax transformation.
        n_epochs: static.
        ema_decay: 0 keeps the average equal to the parameters.

    Returns:
        The new state, and the mean over each epoch of `loss` and of every scalar it reports.
    """

    def gradient_step(carry: tuple, batch_and_key: tuple[PyTree, Key]) -> tuple[tuple, Any]:
        params, optimizer_state, ema = carry
        batch, step_key = batch_and_key
        (value, scalars), gradient = jax.value_and_grad(loss, has_aux=True)(params, batch, step_key)
        updates, optimizer_state = optimizer.update(gradient, optimizer_state, params)
        params = optax.apply_updates(params, updates)
        ema = optax.incremental_update(params, ema, 1.0 - ema_decay) if ema_decay else params
        return (params, optimizer_state, ema), {"loss": value, **scalars}

    def epoch(state: TrainingState, _: None) -> tuple[TrainingState, Any]:
        batch_key, loss_key = jax.random.split(jax.random.fold_in(key, state.epoch))
        epoch_batches = batches(batch_key)
        n_batches = jax.tree.leaves(epoch_batches)[0].shape[0]
        carry = (state.params, state.optimizer_state, state.ema)
        carry, scalars = jax.lax.scan(
            gradient_step, carry, (epoch_batches, jax.random.split(loss_key, n_batches))
        )
        new_state = TrainingState(
            params=carry[0], optimizer_state=carry[1], ema=carry[2], epoch=state.epoch + 1
        )
        return new_state, jax.tree.map(jnp.mean, scalars)

    return jax.lax.scan(epoch, state, None, length=n_epochs)


StateT = TypeVar("StateT")
KeptT = TypeVar("KeptT")


def advance_in_chunks(
    state: StateT,
    advance: Callable[[StateT, int], tuple[StateT, Any]],
    lengths: Sequence[int],
    *,
    keep: Callable[[StateT], KeptT],
    each: Callable[[int, Any, KeptT], None],
    ended: Callable[[StateT], bool] = lambda state: False,
) -> StateT:
    """Advances a state chunk by chunk; the device is at the next while the host sees to the last.

    Args:
        state: before the first epoch; it is consumed.
        advance: (state, epochs) -> (next state, scalars per epoch, any pytree of arrays); it may
            return before it has computed them.
        lengths: epochs of the chunks.
        keep: what is needed of a state, taken before the next chunk consumes it.
        each: called with the length of a chunk, its scalars on the host and what was kept of its
            state; where `advance` waits, only after the next chunk, and then what it keeps is a
            chunk behind.
        ended: whether a state is the last, whatever chunks are left.

    Returns:
        The last state.
    """
    pending = advance(state, lengths[0]) if lengths else None
    for number, size in enumerate(lengths):
        assert pending is not None
        state, scalars = pending
        kept = keep(state)
        found = jax.tree.map(np.asarray, scalars)
        last = number + 1 == len(lengths) or ended(state)
        try:
            pending = None if last else advance(state, lengths[number + 1])
        finally:  # what is known is seen to, also where the next chunk fails
            each(size, found, kept)
        if last:
            break
    return state


def cut_batch(batch_size: int, n_examples: int, what: str) -> str | None:
    """One line, where a batch would hold more than there is."""
    if batch_size <= n_examples:
        return None
    return (
        f"batch_size {batch_size} exceeds the {n_examples} {what}: a batch holds all {n_examples}"
    )


@checked
def shuffled_batches(key: Key, n_examples: int, batch_size: int) -> Int[Array, "batches batch"]:
    """Example indices of one epoch in random order; -1 fills the last batch.

    Every example is visited exactly once per epoch, whatever the batch size.

    Args:
        key: of the epoch.
        n_examples: static.
        batch_size: static; where there are fewer examples, the one batch holds all (`cut_batch` says
            so to a user).
    """
    batch_size = min(batch_size, n_examples)
    n_batches = -(-n_examples // batch_size)
    order = jax.random.permutation(key, n_examples)
    filler = jnp.full(n_batches * batch_size - n_examples, -1, order.dtype)
    return jnp.concatenate([order, filler]).reshape(n_batches, batch_size)
