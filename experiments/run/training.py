"""Training in a run folder: chunks of epochs, each one compiled program, logged and checkpointed.

A chunk ends where an evaluation is due. What an interrupted run repeats is cut in the same places, and
`diffusions.training` draws by epoch, so that the result has the same bits.
"""

import time
from collections.abc import Callable
from typing import Any, Protocol

import jax
import numpy as np
from tqdm import tqdm

from checkpoints import latest_step, restore_state, save_state
from diffusions.training import TrainingState
from experiments.run.folder import RunFolder


class Train(Protocol):
    """`train_epochs` with all but the state and the length filled in; pure."""

    def __call__(
        self, state: TrainingState, *, n_epochs: int
    ) -> tuple[TrainingState, dict[str, Any]]:
        """The next state, and the mean scalars of every epoch."""


Evaluate = Callable[[TrainingState, int], dict[str, Any]]
"""(state, epochs done) -> what to log; may draw figures. It must not keep the state."""


def chunk_lengths(done: int, epochs: int, size: int) -> list[int]:
    """Lengths of the chunks that are left; the same cuts, wherever a run was interrupted.

    Raises:
        ValueError: more epochs are done than there are.
    """
    if done > epochs:
        raise ValueError(f"the checkpoint is of epoch {done}, and the run has {epochs}")
    full = [size] * (epochs // size) + ([epochs % size] if epochs % size else [])
    return full[-(-done // size) :]


def train_in_chunks(
    run: RunFolder,
    state: TrainingState,
    train: Train,
    *,
    epochs: int,
    every: int,
    seconds: dict[str, float],
    evaluate: Evaluate | None = None,
) -> TrainingState:
    """Trains from the newest checkpoint, or from `state` where there is none.

    Args:
        run: the folder; losses per epoch and evaluations go to its metrics.
        state: before the first epoch.
        train: one chunk.
        epochs: in all.
        every: epochs between evaluations, each followed by a checkpoint.
        seconds: `compile`, `train` and `evaluate` are added to.
        evaluate: called at the end of every chunk.

    Returns:
        The state after the last epoch.

    Raises:
        ValueError: the checkpoint is damaged or belongs to another network.
    """
    done = latest_step(run.checkpoints) or 0
    if done:
        state = restore_state(run.checkpoints, done, state)
    run.keep_rows(done)
    chunks = chunk_lengths(done, epochs, every)
    start = time.perf_counter()
    jitted = jax.jit(train, static_argnames="n_epochs", donate_argnums=0)
    programs = {n: jitted.lower(state, n_epochs=n).compile() for n in sorted(set(chunks))}
    seconds["compile"] = seconds.get("compile", 0.0) + time.perf_counter() - start
    with tqdm(total=epochs, initial=done, unit="epoch", desc="training", leave=False) as progress:
        for size in chunks:
            start = time.perf_counter()
            state, scalars = programs[size](state)
            scalars = {name: np.asarray(value) for name, value in scalars.items()}
            done += size
            seconds["train"] = seconds.get("train", 0.0) + time.perf_counter() - start
            rows = [
                {"epoch": done - size + 1 + e, **{k: v[e].tolist() for k, v in scalars.items()}}
                for e in range(size)
            ]
            start = time.perf_counter()
            if evaluate is not None:
                rows.append({"epoch": done, **evaluate(state, done)})
            seconds["evaluate"] = seconds.get("evaluate", 0.0) + time.perf_counter() - start
            run.log(rows)
            save_state(run.checkpoints, done, jax.device_get(state))
            progress.update(size)
            progress.set_postfix(loss=f"{np.mean(scalars['loss'][-1]):.4g}")
    return state
