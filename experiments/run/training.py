"""Training in a run folder: chunks of epochs, each one compiled program, logged and checkpointed.

A chunk ends where an evaluation is due. What an interrupted run repeats is cut in the same places, and
everything random is drawn by epoch, so that the result has the same bits. While the device is at the
next chunk, the host finishes the evaluation of the last one and writes the checkpoint. The device is
given a chunk in parts, of one length and program where it has any, so that one sees where it is.
"""

import time
from collections.abc import Callable
from typing import Any, Protocol, TypeVar

import jax
import numpy as np

from checkpoints import latest_step, restore_state, save_state
from data_generation.scripts.command_line import say
from data_generation.scripts.progress import progress_bar, watched
from diffusions.devices import Members, Replicated
from diffusions.training import TrainingState, advance_in_chunks
from diffusions.typing import Array, HostArray
from experiments.run.folder import RunFolder

PARTS = 10
CHUNKS = 10
FEW_CHUNKS = 2
"""Where an evaluation takes as long as a part of the training."""
SECONDS_BETWEEN_LINES = 20.0
"""In a file, where no bar is."""
StateT = TypeVar("StateT")

Program = Callable[[Any], tuple[Any, dict[str, Array]]]
"""A compiled chunk: the next state, and scalars of every epoch along the last axis. It consumes."""


class Train(Protocol):
    """`train_epochs` with all but the state and the length filled in; pure."""

    def __call__(
        self, state: TrainingState, *, n_epochs: int
    ) -> tuple[TrainingState, dict[str, Any]]:
        """The next state, and the mean scalars of every epoch."""


def train_batches(
    run: RunFolder,
    state: StateT,
    train: Train,
    devices: Replicated,
    *,
    evaluate: Callable[[StateT, int], Any] = lambda state, done: {},
    **options: Any,
) -> StateT:
    """`train_in_chunks` of a pure function, whose batches are divided among devices.

    Args:
        run: as there.
        state: before the first epoch.
        train: all but the state and the length filled in.
        devices: that `train` divides its batches among.
        evaluate: as there; its state is on this process's first device.
        **options: as there.

    Returns:
        The state after the last epoch, likewise.
    """
    jitted = devices.jit(train, static_argnames="n_epochs", donate_argnums=0)
    state = train_in_chunks(
        run,
        devices.placed(state),
        lambda state, n_epochs: jitted.lower(state, n_epochs=n_epochs).compile(),
        evaluate=lambda state, done: evaluate(devices.own(state), done),
        placement=devices,
        **options,
    )
    return devices.own(state)


def chunk_lengths(done: int, epochs: int, size: int) -> list[int]:
    """Lengths of the chunks that are left; the same cuts, wherever a run was interrupted.

    One that was cut otherwise goes on to the next of these cuts.

    Raises:
        ValueError: more epochs are done than there are.
    """
    if done > epochs:
        raise ValueError(f"the checkpoint is of epoch {done}, and the run has {epochs}")
    ends = [*range(size, epochs, size), epochs] if epochs else []
    return np.diff([done, *(end for end in ends if end > done)]).tolist()


def usual_chunk(epochs: int, chunks: int = CHUNKS) -> int:
    """Such a part of the epochs, or more where all chunks are then of one length: one program."""
    part = max(1, -(-epochs // chunks))
    return next((n for n in range(part, min(2 * part, epochs)) if epochs % n == 0), part)


def part_lengths(size: int) -> list[int]:
    """Epochs of the parts of a chunk: of equal ones, about ten.

    Some lengths have none, such as a prime number, or one that is twice as large as a prime. There the
    last part is longer than the others, which is a second program; not worth it for a chunk that is
    short. A part of a single epoch would be no loop, and XLA might compute it with other last bits.
    """
    divisors = (n for n in range(2, size + 1) if size % n == 0)
    length = min(divisors, key=lambda n: abs(n - size / PARTS), default=size)
    if size < 2 * PARTS or 1 < size // length <= 2 * PARTS:
        return [length] * (size // length)
    length = size // PARTS
    before = size // length - 1
    return [length] * before + [size - before * length]


def train_in_chunks(
    run: RunFolder,
    state: StateT,
    program: Callable[[StateT, int], Program],
    *,
    epochs: int,
    every: int | None,
    seconds: dict[str, float],
    evaluate: Callable[[StateT, int], Any] = lambda state, done: {},
    finish: Callable[[Any], dict[str, Any]] = dict,
    ended: Callable[[StateT], bool] = lambda state: False,
    placement: Replicated | Members = Replicated(),  # noqa: B008 (frozen)
) -> StateT:
    """Trains from the newest checkpoint, or from `state` where there is none.

    Args:
        run: the folder; losses per epoch and evaluations go to its metrics.
        state: before the first epoch; any pytree of arrays.
        program: of a chunk: (state like the ones it is to advance, epochs) -> the program.
        epochs: in all.
        every: epochs between evaluations, each followed by a checkpoint; absent, a tenth of all.
        seconds: `compile`, `train` and `evaluate` are added to.
        evaluate: (state, epochs done) -> what is known of it; called at the end of every chunk, may
            draw figures, and must not keep the state.
        finish: of what `evaluate` gave to what is logged, on the host while the device goes on.
        ended: whether the training is over before its time.
        placement: of the state. A checkpoint knows nothing of it, and is restored on other devices.

    Returns:
        The state after the last epoch.

    Raises:
        ValueError: the checkpoint is damaged or belongs to another network.
    """
    done = latest_step(run.checkpoints) or 0
    if done:
        state = placement.placed(restore_state(run.checkpoints, done, placement.own(state)))
    run.keep_rows(done)
    size = every or usual_chunk(epochs)
    chunks = [] if done and ended(state) else chunk_lengths(done, epochs, size)
    clock = _Clock(seconds)
    lengths = sorted({part for n in chunks for part in part_lengths(n)})
    if lengths:
        say("  compiling ...")
    programs = {n: program(state, n) for n in lengths}
    clock.give("compile")

    def keep(state: StateT) -> tuple[Any, Any]:
        host_state = jax.device_get(placement.own(state))
        clock.give("train")
        kept = evaluate(state, done + sum(trained) + chunks[len(trained)])
        clock.give("evaluate")
        return host_state, kept

    def advance(state: Any, size: int) -> tuple[Any, list[dict[str, Array]]]:
        found = []
        for length in part_lengths(size):
            state, scalars = programs[length](state)
            parts.expect(length, scalars["loss"])
            found.append(scalars)
        return state, found

    def each(size: int, found_in_parts: list[dict[str, HostArray]], kept: tuple[Any, Any]) -> None:
        host_state, found = kept
        scalars = {
            name: np.concatenate([part[name] for part in found_in_parts], axis=-1)
            for name in found_in_parts[0]
        }
        trained.append(size)
        now = done + sum(trained)
        rows: list[dict[str, Any]] = [
            {"epoch": now - size + 1 + e, **{k: v[..., e].tolist() for k, v in scalars.items()}}
            for e in range(size)
        ]
        evaluation = finish(found)
        if evaluation:
            rows.append({"epoch": now, **evaluation})
        run.log(rows)
        save_state(run.checkpoints, now, host_state)
        loss = {"loss": scalars["loss"][..., -1]}
        shown = {name: f"{np.mean(value):.4g}" for name, value in {**loss, **evaluation}.items()}
        progress.set_postfix(shown)
        if progress.disable and time.monotonic() > told[-1] + SECONDS_BETWEEN_LINES:
            told.append(time.monotonic())
            line = ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in shown.items())
            say(f"  epoch {now} of {epochs}: {line}")

    trained: list[int] = []
    told = [time.monotonic()]
    with (
        progress_bar(total=epochs, initial=done, unit="epoch", desc="training") as progress,
        watched(progress) as parts,
    ):
        state = advance_in_chunks(
            state,
            advance,
            chunks,
            keep=keep,
            each=each,
            ended=ended,
        )
    clock.give("evaluate")
    return state


class _Clock:
    """Gives the time since the last call to an activity."""

    def __init__(self, seconds: dict[str, float]):
        self.seconds, self.last = seconds, time.perf_counter()

    def give(self, activity: str) -> None:
        now = time.perf_counter()
        self.seconds[activity] = self.seconds.get(activity, 0.0) + now - self.last
        self.last = now
