"""A solver in a run folder: chunks of epochs, evaluated and checkpointed; what is solved has none.

A chunk is one compiled program. While the device trains the next chunk, the host computes the exact
transport distances of the last one and writes the checkpoint, so that evaluation costs almost no time
of its own on more than one core, and none on a GPU.
"""

import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from tqdm import tqdm

from checkpoints import latest_step, restore_state, save_state
from data_generation.scripts.command_line import say
from diffusions.typing import Keys, PyTree
from experiments.reporting import evaluation_key
from experiments.run.folder import RunFolder
from experiments.run.settings import TrainSettings
from experiments.run.training import chunk_lengths
from jkonet_star.divergence import first_unsound
from jkonet_star.evaluation import earth_movers_distances, predict_snapshots
from jkonet_star.fitted import FittedEnergy
from jkonet_star.snapshots import Snapshots
from jkonet_star.solvers.interface import Solver
from jkonet_star.solvers.side_by_side import SideBySide


def learn(
    run: RunFolder,
    training: SideBySide,
    settings: TrainSettings,
    snapshots: Snapshots,
    seconds: dict[str, float],
) -> tuple[FittedEnergy, dict[str, Any]]:
    """The energies of all seeds, from the newest checkpoint where there is one.

    Args:
        run: the folder.
        training: the solver and its data.
        settings: of the run.
        snapshots: the population of the evaluations.
        seconds: compile, train and evaluate are added to.

    Returns:
        The energies, and more for the summary: the facts of the preparation, and `diverged`, the epoch
        in which each seed did, where any has.
    """
    keys = jax.vmap(jax.random.key)(jnp.asarray(settings.seeds, jnp.uint32))
    weights = np.asarray(snapshots.weights)[:-1]
    details = dict(training.facts[0])
    if not training.solver.epochs:
        return training.energies(training.initial(keys)), details
    energies = train_side_by_side(
        run,
        training,
        keys,
        predict=lambda e: predict_snapshots(e, snapshots, evaluation_key()).one_step,
        distances=lambda predicted: earth_movers_distances(
            predicted, snapshots, weights, order=settings.wasserstein_order
        ),
        every=settings.eval_every,
        seconds=seconds,
    )
    diverged = divergences(run.rows(), training.solver)
    for seed, epoch in zip(settings.seeds, diverged, strict=True):
        if epoch is not None:
            say(
                f"  warning: seed {seed} diverged in epoch {epoch}; its energy is that of the last "
                "sound epoch, and means little"
            )
            details["diverged"] = diverged
    return energies, details


def divergences(rows: list[dict[str, Any]], solver: Solver) -> list[int | None]:
    """The epoch in which each seed diverged (see `jkonet_star.divergence`).

    Args:
        rows: of the run's metrics.
        solver: that made them.

    Raises:
        ValueError: they are of another number of seeds in every epoch, or of one that has no list.
    """
    found = [row["loss"] for row in rows if "loss" in row]
    if not all(
        isinstance(row, list) and not any(isinstance(x, list) for x in row) for row in found
    ):
        raise ValueError("the run's metrics.jsonl is damaged: a loss is no list of one per seed")
    losses = [[float(loss) for loss in row] for row in found]
    return [first_unsound(own, absurd=solver.absurd) for own in zip(*losses, strict=True)]


def train_side_by_side(
    run: RunFolder,
    training: SideBySide,
    keys: Keys,
    *,
    predict: Callable[[FittedEnergy], PyTree],
    distances: Callable[[PyTree], np.ndarray],
    every: int,
    seconds: dict[str, float],
) -> FittedEnergy:
    """Trains a network per key, from the newest checkpoint where there is one.

    It ends early where every network has diverged.

    Args:
        run: the folder.
        training: the solver and its data.
        keys: of the networks.
        predict: populations one step ahead, in any arrays, on the device.
        distances: (networks, steps) of the same arrays on the host.
        every: epochs between evaluations.
        seconds: compile, train and evaluate are added to.

    Returns:
        The energies, stacked.
    """
    epochs = training.solver.epochs
    start = time.perf_counter()
    state = training.initial(keys)
    done = latest_step(run.checkpoints) or 0
    if done:
        state = restore_state(run.checkpoints, done, state)
    run.keep_rows(done)
    chunks = chunk_lengths(done, epochs, every)
    if done and training.diverged(state).all():
        chunks = []
    for size in sorted(set(chunks)):
        training.compile(state, keys, size)
    energies = training.energies(state)
    jax.block_until_ready(predict(energies))
    seconds["compile"] += time.perf_counter() - start

    start = time.perf_counter()
    waited = 0.0
    progress = tqdm(total=epochs, initial=done, unit="epoch", desc="training", leave=False)
    with progress:
        pending = training.advance(state, keys, chunks[0]) if chunks else None
        for number, size in enumerate(chunks):
            assert pending is not None
            state, scalars = pending
            host_state = jax.device_get(state)
            done += size
            energies = training.energies(state)
            one_step = jax.device_get(predict(energies))
            losses = np.asarray(scalars["loss"])
            last = number + 1 == len(chunks) or bool(training.diverged(state).all())
            # The next chunk consumes `state`; from here on the device and the host work side by side.
            if not last:
                pending = training.advance(state, keys, chunks[number + 1])
            before = time.perf_counter()
            found = distances(one_step)
            rows = [
                {"epoch": done - size + 1 + e, "loss": losses[:, e].tolist()} for e in range(size)
            ]
            rows.append({"epoch": done, "emd_one_step_ahead": found.mean(axis=1).tolist()})
            run.log(rows)
            save_state(run.checkpoints, done, host_state)
            progress.update(size)
            progress.set_postfix(loss=f"{losses[:, -1].mean():.2e}", emd=f"{found.mean():.4f}")
            if last:
                waited += time.perf_counter() - before
                break
    seconds["train"] += time.perf_counter() - start - waited
    seconds["evaluate"] += waited
    return energies
