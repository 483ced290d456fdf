"""The runs of a sweep: which are carried out together, and how each becomes a run folder.

Networks that learn the same terms in the same scheme from data of one shape are trained side by side:
one program, with an axis of runs. A run's random numbers come from its own seed alone, so that it
gives the same result, to rounding, in any company. Closed forms are solved one after the other, their
programs compiled once; what neither describes is left to `experiments.train`, run by run.
"""

import contextlib
import dataclasses
import io
import itertools
import os
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from checkpoints import latest_step, save_energy
from data_generation.populations.settings import DataSettings
from data_generation.scripts.command_line import say
from data_generation.scripts.device import chosen_devices
from data_generation.scripts.processes import Group
from diffusions.devices import spread_over
from experiments.populations.assessment import assess, evaluation_key, judge, reported
from experiments.populations.datasets import population
from experiments.populations.training import beta_details, divergences, train, train_side_by_side
from experiments.run.session import conclude
from experiments.sweeps.folder import SweepFolder
from experiments.sweeps.library import Library
from experiments.sweeps.settings import Cell
from jkonet_star.evaluation import earth_movers_distances, predict_one_step_ahead
from jkonet_star.fitted import FittedEnergy
from jkonet_star.settings import BATCH_SIZE
from jkonet_star.solvers.interface import Solver
from jkonet_star.solvers.problem import Problem
from jkonet_star.solvers.registry import SOLVERS
from jkonet_star.solvers.side_by_side import SideBySide

GIBI = 2**30
# Arrays alive in the backward pass of a gradient step, per hidden unit and evaluation of the network;
# measured from the memory analysis of compiled programs, and rounded up.
LIVE_ARRAYS = 12
PREPARED = 1.0
"""GiB that the preparation of a problem takes at most: half of it features of all particles."""
MOST_AT_ONCE = 4
"""Preparations, each of which has threads of its own."""
PORTION = 8
"""Datasets of closed forms, for each problem that is prepared at once: what is prepared of them, for
all solvers, is lost where a sweep is killed."""
Finished = Callable[[Cell], None]
"""Called with each run that has come to its end, well or badly."""


def carry_out(cells: Sequence[Cell], folder: SweepFolder, finished: Finished) -> None:
    """Carries out runs, each failed one once more and alone.

    Args:
        cells: what is not finished yet.
        folder: of the sweep.
        finished: told of every run once.

    Raises:
        ValueError: there are fewer devices than are asked for.
    """
    failed: list[Cell] = []
    devices = chosen_devices(folder.execution.devices)
    if len(devices) > 1:
        say(f"  networks side by side are divided among {len(devices)} devices")
    with spread_over(devices):
        for chunk in _chunks(cells, folder):
            library = Library()
            for group in _by(chunk, lambda c: (c.solver, c.scheme, c.learning)):
                for portion in _portions(group, folder):
                    _prepare(portion, chunk, folder, library)
                    failed += _attempt_all(portion, folder, library, finished)
        for cell in failed:
            _attempt([cell], folder, Library())
            finished(cell)


def _by(cells: Sequence[Cell], key: Callable[[Cell], Any]) -> list[list[Cell]]:
    """Cells with the same key together, in the order of their first."""
    groups: dict[Any, list[Cell]] = {}
    for cell in cells:
        groups.setdefault(key(cell), []).append(cell)
    return list(groups.values())


def _joined(groups: Sequence[Sequence[Cell]], size: int) -> list[list[Cell]]:
    """So many groups in one, each time."""
    starts = range(0, len(groups), size)
    return [list(itertools.chain(*groups[start : start + size])) for start in starts]


def data_shape(cell: Cell) -> Any:
    """Equal for datasets that have, as far as their settings tell, arrays of one shape."""
    if isinstance(cell.data, str) or cell.data.load_from_file is not None:
        return "read"  # told when they are there
    return dataclasses.replace(
        cell.data,
        potential="none",
        interaction="none",
        internal="wiener",
        beta=0.0,
        dt=1.0,
        substeps=1,
        seed=0,
    )


def _chunks(cells: Sequence[Cell], folder: SweepFolder) -> Iterator[list[Cell]]:
    """Runs whose datasets are in memory together, all runs of one dataset in one chunk."""
    for group in _by(cells, data_shape):
        per_dataset = _by(group, lambda c: c.dataset_name)
        size = 1
        if folder.execution.batched:
            largest = max(_dataset_bytes(cells[0]) for cells in per_dataset)
            size = max(1, int(folder.execution.memory_budget * GIBI / largest))
        yield from _joined(per_dataset, size)


def _dataset_bytes(cell: Cell) -> int:
    """What a dataset and its problems take: two populations, densities, a problem per scheme."""
    data = cell.data
    if not isinstance(data, DataSettings):
        return 10 * sum(file.stat().st_size for file in cell.dataset_path.glob("*.npz")) + 1
    if data.load_from_file is not None:
        file = Path(data.load_from_file)
        return 40 * file.stat().st_size if file.is_file() else 1
    return 160 * data.n_particles * (data.n_timesteps + 1) * data.dimension


def run_bytes(problem: Problem, cell: Cell) -> int:
    """About what one network among those side by side takes: its data and a gradient step."""
    network = cell.learning.network
    data = sum(leaf.nbytes for leaf in jax.tree.leaves((problem.conditions, problem.snapshots)))
    evaluations = network.batch_size or BATCH_SIZE
    if problem.terms.interaction:
        others = network.interaction_samples or problem.conditions.population.shape[1]
        evaluations *= 1 + others
    return 4 * data + 4 * LIVE_ARRAYS * evaluations * sum(network.hidden)


def _attempt_all(
    group: Sequence[Cell], folder: SweepFolder, library: Library, finished: Finished
) -> list[Cell]:
    """Carries out runs that differ in their data and seed; returns those that failed."""
    failed: list[Cell] = []
    entry = None if group[0].solver is None else SOLVERS[group[0].solver]
    if entry is None or _alone(group[0]):
        batches = [[cell] for cell in group]
    elif not entry.trained:
        # It has no randomness: every seed gets the same energy.
        batches = _by(group, lambda c: c.dataset_name)
    else:
        prepared = []
        for cell in group:
            with _recorded([cell], folder) as outcome:
                prepared.append((cell, library.problem(cell)))
            failed += outcome
        batches = []
        shapes = _by(
            [cell for cell, _ in prepared],
            lambda c: tuple(leaf.shape for leaf in jax.tree.leaves(library.problem(c).conditions)),
        )
        for same in shapes:
            size = 1
            if folder.execution.batched:
                budget = folder.execution.memory_budget * GIBI
                size = max(1, int(budget / run_bytes(library.problem(same[0]), same[0])))
            batches += [same[i : i + size] for i in range(0, len(same), size)]
    for batch in batches:
        outcome = _attempt(batch, folder, library)
        failed += outcome
        for cell in batch:
            if cell not in outcome:
                finished(cell)
    return failed


def _prepare(
    portion: Sequence[Cell], chunk: Sequence[Cell], folder: SweepFolder, library: Library
) -> None:
    """Makes the problems of a portion, and what other solvers make of the same data, side by side.

    One may take as long as all others together: the fewer times one waits for such a one, the better.
    """
    at_once = _prepared_at_once(portion[0], folder)
    if at_once == 1:
        return
    wanted = portion
    if not SOLVERS[portion[0].solver_name].trained:  # those are all at once in any case
        names = {cell.dataset_name for cell in portion}
        wanted = [cell for cell in chunk if cell.dataset_name in names]
        wanted = [cell for cell in wanted if _prepared_at_once(cell, folder) > 1]
        wanted.sort(key=lambda cell: cell.dataset_name)
    library.prepare(wanted, at_once=at_once)


def _portions(group: Sequence[Cell], folder: SweepFolder) -> list[Sequence[Cell]]:
    """Parts of a group, of all seeds of a dataset, that are prepared before any of them is solved."""
    at_once = _prepared_at_once(group[0], folder)
    if at_once == 1 or SOLVERS[group[0].solver_name].trained:
        return [group]  # one at a time in any case, or side by side
    return [*_joined(_by(group, lambda c: c.dataset_name), PORTION * at_once)]


def _prepared_at_once(cell: Cell, folder: SweepFolder) -> int:
    """How many problems like this cell's: several where beta is estimated, most of the work then."""
    execution = folder.execution
    alone = cell.solver is None or not SOLVERS[cell.solver].terms.internal or _alone(cell)
    # Several processes would not wait for each other.
    if alone or not execution.batched or Group.current is not None:
        return 1
    return max(1, min(os.cpu_count() or 1, int(execution.memory_budget / PREPARED), MOST_AT_ONCE))


def _alone(cell: Cell) -> bool:
    """Whether `experiments.train` carries out the run: it is more than a solver's, or of its kind."""
    if cell.solver is None:
        return False
    entry = SOLVERS[cell.solver]
    learning = cell.learning
    more = learning.refinement.refine or learning.bootstrap.bootstrap or learning.growth.growth
    return bool(more) or (entry.trained and not entry.side_by_side)


def _attempt(batch: Sequence[Cell], folder: SweepFolder, library: Library) -> list[Cell]:
    """Carries out a batch; returns its runs if it failed."""
    with _recorded(batch, folder) as failed:
        solver = batch[0].solver
        if solver is None:
            library.dataset(batch[0])
        elif _alone(batch[0]):
            run_alone(batch[0], folder, library)
        elif not SOLVERS[solver].trained:
            run_solved(batch, folder, library)
        else:
            run_networks(batch, folder, library)
        for cell in batch:
            folder.forget_failure(cell)
    return failed


@contextlib.contextmanager
def _recorded(batch: Sequence[Cell], folder: SweepFolder) -> Iterator[list[Cell]]:
    """Whatever goes wrong inside is written down; the list then holds the batch."""
    failed: list[Cell] = []
    try:
        yield failed
    except Exception as error:
        # What goes wrong in one of several processes is unknown to those that wait for it.
        if Group.current is not None and not isinstance(error, ValueError):
            raise
        reason = " ".join(str(error).split()) or type(error).__name__
        for cell in batch:
            folder.fail(cell, f"{type(error).__name__}: {reason}"[:500], traceback.format_exc())
        failed += batch


def run_networks(cells: Sequence[Cell], folder: SweepFolder, library: Library) -> None:
    """Trains networks side by side and writes their run folders."""
    problems = [library.problem(cell) for cell in cells]
    observed = [population(library.dataset(cell), folder.execution.eval) for cell in cells]
    order = folder.execution.wasserstein_order
    seconds = {"compile": 0.0, "train": 0.0, "evaluate": 0.0}
    batch = folder.batch(cells)

    def predict(energies: FittedEnergy) -> list[tuple[jax.Array, jax.Array]]:
        return [
            predict_one_step_ahead(_one(energies, i), snapshots, evaluation_key())
            for i, snapshots in enumerate(observed)
        ]

    def distances(predicted: list[tuple[np.ndarray, np.ndarray]]) -> np.ndarray:
        rows = [
            earth_movers_distances(points, snapshots, weights, order=order)
            for (points, weights), snapshots in zip(predicted, observed, strict=True)
        ]
        return np.concatenate(rows)

    training = SideBySide(_solver(cells[0]), problems)
    begun = latest_step(batch.checkpoints)
    energies = train_side_by_side(
        batch,
        training,
        jax.vmap(jax.random.key)(jnp.asarray([cell.seed for cell in cells], jnp.uint32)),
        predict=predict,
        distances=distances,
        every=folder.execution.eval_every,
        seconds=seconds,
    )
    rows = batch.rows()
    share = {name: value / len(cells) for name, value in seconds.items()}
    diverged = divergences(rows, training.solver)
    for i, cell in enumerate(cells):
        own = [{k: [v[i]] if isinstance(v, list) else v for k, v in row.items()} for row in rows]
        details: dict[str, Any] = {
            **training.facts[i],
            "side_by_side": len(cells),
        }
        if begun:
            details["resumed_at"] = begun
        if diverged[i] is not None:
            details["diverged"] = [diverged[i]]
        write_run(cell, folder, library, _one(energies, i), problems[i], own, details, share)
    batch.remove()


def _one(energies: FittedEnergy, i: int) -> FittedEnergy:
    return jax.tree.map(lambda leaf: leaf[i : i + 1], energies)


def run_solved(cells: Sequence[Cell], folder: SweepFolder, library: Library) -> None:
    """Solves for an energy once and writes the run folders of all seeds."""
    problem = library.problem(cells[0])
    start = time.perf_counter()
    training = SideBySide(_solver(cells[0]), problem)
    energy = training.energies(training.initial(jax.random.key(0)[None]))
    jax.block_until_ready(energy.params)
    seconds = {"train": time.perf_counter() - start + library.taken(cells[0])}
    for cell in cells:
        write_run(cell, folder, library, energy, problem, [], training.facts[0], seconds)


def _solver(cell: Cell) -> Solver:
    return cell.learning.solver(cell.solver_name)


def run_alone(cell: Cell, folder: SweepFolder, library: Library) -> None:
    """Leaves a run to `experiments.train`, which continues it where it was interrupted."""
    library.dataset(cell)
    run = folder.run(cell)
    there = (run.path / "config.json").is_file()
    resume = there and run.continues
    log = folder.path / "logs" / f"{cell.name}.txt"
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("a", encoding="utf-8") as stream, contextlib.redirect_stdout(stream):
        train(
            folder.train_settings(cell, resume=resume, overwrite=there and not resume),
            cell.learning,
            time.perf_counter(),
        )


def write_run(
    cell: Cell,
    folder: SweepFolder,
    library: Library,
    energies: FittedEnergy,
    problem: Problem,
    rows: Sequence[dict[str, Any]],
    details: dict[str, Any],
    seconds: dict[str, float],
) -> None:
    """Evaluates a stack of one energy and writes the folder that `experiments.train` would write."""
    start = time.perf_counter()
    snapshots = population(library.dataset(cell), folder.execution.eval)
    order = folder.execution.wasserstein_order
    beside = library.yardsticks(cell, folder.execution.eval, order)
    result, _ = assess(energies, snapshots, library.truth(cell), order, beside)
    seconds = {**seconds, "evaluate": seconds.get("evaluate", 0.0) + time.perf_counter() - start}
    run = folder.open(cell)
    if rows:
        run.log(rows)
    # What these say is for one run; a sweep has too many.
    with contextlib.redirect_stdout(io.StringIO()):
        details = details | judge(problem, energies)
        if problem.internal is not None:
            details["beta_estimate"] = beta_details(problem)
    energies = reported(problem, energies, cell.solver_name, rows, details)
    save_energy(run.energy, energies)
    results = {
        "solver": cell.solver,
        "dataset": cell.dataset_name,
        "scheme": cell.scheme,
        "seeds": [cell.seed],
        "eval": folder.execution.eval,
        **result,
        **details,
    }
    with contextlib.redirect_stdout(io.StringIO()):
        conclude(
            run, folder.train_settings(cell), results, {**seconds, "total": sum(seconds.values())}
        )
