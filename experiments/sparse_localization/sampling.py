"""Many samples by stochastic localization: in batches, at a cost told beforehand, and resumable.

A piece of a few Euler steps is compiled once, and is the same program for every batch and every part
of the way; the last piece is filled up with steps of no length, which change nothing. A run that was
interrupted goes on from a state between two pieces, so that it ends with the same bits.
"""

import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from checkpoints import latest_step, restore_state, save_state
from data_generation.scripts.command_line import say
from data_generation.scripts.device import division
from data_generation.scripts.progress import progress_bar
from data_generation.sparse_rank_one import sample_keys, symmetric_noise
from diffusions.devices import Members, agreed
from diffusions.sparse_estimators import rank_one
from diffusions.stochastic_localization import euler
from diffusions.typing import Array, HostArray, Key
from experiments.run.folder import RunFolder
from experiments.sparse_localization.measurement import Estimator, batch_sizes

PIECES = 400
"""Of the way of a batch: what is lost where a run is killed, and what is tried beforehand."""
SECONDS_BETWEEN_STATES = 60.0


def generate(
    key: Key,
    estimator: Estimator,
    times: HostArray,
    *,
    n: int,
    n_samples: int,
    batch_size: int = 0,
    run: RunFolder | None = None,
) -> HostArray:
    """Vectors u of samples x = u u^T = m(y_T, T) by stochastic localization.

    The state is the symmetric part of y, of which alone the estimators are functions.

    Args:
        key: of the population.
        estimator: of the posterior mean.
        times: 0, ..., T.
        n: dimension.
        n_samples: how many.
        batch_size: the most at once; 0 lets the memory decide.
        run: the folder that keeps the state, and that an interrupted one is continued from.

    Returns:
        [samples, n].

    Raises:
        ValueError: the state is damaged or of other samples.
    """
    size = _kept_size(run, n_samples, n, batch_size)
    n_batches = -(-n_samples // size)
    sampler = _Sampler(key, estimator, times, n, size)
    state: Any = {"y": jnp.zeros((size, n, n)), "u": jnp.zeros((n_batches * size, n))}
    checkpoints = None if run is None else run.checkpoints
    done = (latest_step(checkpoints) or 0) if checkpoints is not None else 0
    if done and checkpoints is not None:
        state = restore_state(checkpoints, done, state)
    y, u = sampler.members.placed(state["y"]), np.array(state["u"])
    total, pieces = n_batches * sampler.n_pieces, sampler.n_pieces
    sampler.say_cost(n_batches, total - done)
    kept = time.monotonic()
    with progress_bar(total=total, initial=done, unit="piece", desc="generating") as progress:
        for number in range(done, total):
            batch, piece = divmod(number, pieces)
            if piece == 0:
                y = sampler.start()
            y = jax.block_until_ready(sampler.advance(batch, piece, y))
            if piece == pieces - 1:
                u[batch * size : (batch + 1) * size] = sampler.final(batch, y)
            progress.update()
            if checkpoints is not None and agreed(
                time.monotonic() - kept >= SECONDS_BETWEEN_STATES
            ):
                save_state(checkpoints, number + 1, {"y": sampler.members.own(y), "u": u})
                kept = time.monotonic()
    return u[:n_samples]


def _kept_size(run: RunFolder | None, n_samples: int, n: int, batch_size: int) -> int:
    """Samples at once: those of the run that is continued, whatever memory is free by now."""
    _, size = batch_sizes(n_samples, n, batch_size)
    if run is None:
        return size
    rows = run.rows("batch_size")
    if not rows:
        rows = [{"epoch": 0, "batch_size": size}]
        run.log(rows)
    size = rows[0]["batch_size"]
    if not isinstance(size, int) or size < 1:
        raise ValueError(f"{run.path / 'metrics.jsonl'} has {size!r} as a batch_size")
    return size


class _Sampler:
    """The two programs of a batch, and which keys and times they are given."""

    def __init__(self, key: Key, estimator: Estimator, times: HostArray, n: int, size: int):
        self.key, self.n, self.size = key, n, size
        self.members = Members.of(size)
        self.n_steps = len(times) - 1
        self.length = -(-self.n_steps // PIECES)
        self.n_pieces = -(-self.n_steps // self.length)
        filled = self.n_pieces * self.length + 1
        self.times = np.concatenate([times, np.full(filled - len(times), times[-1])])
        tiny = np.finfo(np.float32).tiny

        def at(keys: Array, y: Array, t: Array) -> Array:
            return estimator(keys, y / jnp.maximum(t, tiny), jnp.broadcast_to(t, y.shape[0]))

        def advance(keys: Array, y: Array, times: Array, first: Array) -> Array:
            return euler(
                keys,
                lambda keys, y, t: rank_one(at(keys, y, t)),
                lambda keys: symmetric_noise(keys, n),
                y,
                times,
                first,
            )

        divided = self.members.divided
        jitted = jax.jit(divided(advance, (0, 0, None, None)), donate_argnums=1)
        self._advance = jitted.lower(*self._arguments(0, 0, self.start())).compile()
        self._final = jax.jit(divided(at, (0, 0, None)))

    def start(self) -> Array:
        """Y at time zero."""
        return self.members.placed(jnp.zeros((self.size, self.n, self.n)))

    def _arguments(self, batch: int, piece: int, y: Array) -> tuple[Array, Array, Array, Array]:
        first = piece * self.length
        times = self.times[first : first + self.length + 1]
        keys = self.members.placed(sample_keys(self.key, batch * self.size, self.size))
        return keys, y, *self.members.shared((jnp.asarray(times), jnp.asarray(first)))

    def advance(self, batch: int, piece: int, y: Array) -> Array:
        """Y at the end of a piece; consumes y."""
        return self._advance(*self._arguments(batch, piece, y))

    def final(self, batch: int, y: Array) -> HostArray:
        """What is sampled at the last time."""
        keys = sample_keys(self.key, batch * self.size, self.size)
        last = self.members.placed(jax.vmap(jax.random.fold_in, (0, None))(keys, self.n_steps))
        time = self.members.shared(jnp.float32(self.times[-1]))
        return np.asarray(self.members.own(self._final(last, y, time)))

    def say_cost(self, n_batches: int, pieces_left: int) -> None:
        """Memory by the compiler's account, time by a piece of steps of no length, before the first."""
        keys, y, times, first = self._arguments(0, 0, self.start())
        still = jnp.full_like(times, self.times[-1])
        clock, processor = time.perf_counter(), time.process_time()
        jax.block_until_ready(self._advance(keys, y, still, first))
        clock, processor = time.perf_counter() - clock, time.process_time() - processor
        cost = f"{pieces_left * clock / 3600:.2g} hours by the clock"
        if jax.default_backend() == "cpu":
            cost = f"{pieces_left * processor / 3600:.2g} hours of the processor, {cost}"
        analysis = self._advance.memory_analysis()
        if analysis is not None:
            needed = analysis.argument_size_in_bytes + analysis.temp_size_in_bytes
            cost = f"{needed / 1e9:.2g} GB for arrays, {cost}"
        at_once = f"{self.size} samples at once (--batch-size)"
        say(
            f"  {n_batches} x {division(at_once, self.members) or at_once}, {self.n_steps} steps each; "
            f"this takes about {cost}"
        )
