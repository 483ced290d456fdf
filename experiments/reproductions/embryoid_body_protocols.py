"""The embryoid body's protocols, each to its numbers; see `embryoid_body` for what they are."""

import dataclasses
import functools
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from data_generation.formats.json_file import read_record
from data_generation.populations.datasets import load_dataset
from data_generation.populations.reading import read_snapshots
from data_generation.scripts.files import write_json
from data_generation.scripts.progress import progress_bar
from diffusions.typing import Array
from experiments.reproductions.baselines import no_change, sampling_floor
from experiments.reproductions.embryoid_body_methods import (
    SOLVER,
    label,
    methods_of,
    network_of,
    seeds_of,
)
from experiments.reproductions.settings import ReproduceSettings
from experiments.run.records import Number
from experiments.run.tables import Row
from experiments.sweeps.folder import SweepFolder
from experiments.sweeps.settings import Cell
from experiments.sweeps.table import LAW
from jkonet_star.dynamics import scheme_time
from jkonet_star.fitted import FittedEnergy
from jkonet_star.fitting import fit
from jkonet_star.settings import CouplingSettings
from jkonet_star.snapshots import Snapshots, snapshots_from_arrays
from jkonet_star.transport.couplings import Couplings, couple
from jkonet_star.transport.exact import wasserstein

INNER_DAYS = (1, 2, 3)
LAW_YARDSTICKS = {"no_motion": "no change", "floor": "sampling floor", "lookup": "lookup"}
"""Of a run's summary, and what they are called here."""


@dataclasses.dataclass(frozen=True)
class Protocol:
    """A question, and what every method answers.

    Attributes:
        name: of the protocol, with the day where days are told apart.
        metric: W1 or W2.
        scores: a method's value for every seed.
        no_change: of the population that is predicted from.
        floor: of cells of the target day itself.
        published: of other methods, by name.
        law: further scores of the predicted populations, by method or yardstick; a value for every
            seed. Empty where there are none.
    """

    name: str
    metric: str
    scores: dict[str, list[float]]
    no_change: float
    floor: float
    published: dict[str, float]
    law: dict[str, dict[str, list[float]]] = dataclasses.field(default_factory=dict)


def one_step_ahead(rows: Sequence[Row], runs: Sequence[Cell], folder: SweepFolder) -> Protocol:
    """The protocol of the sweep's own runs."""
    dataset = load_dataset(runs[0].dataset_path)
    scores: dict[str, list[float]] = {}
    for row in rows:
        if row["emd"] is not None:
            name = label(row["scheme"], row["variant"], row["solver"])
            scores.setdefault(name, []).append(row["emd"])
    order = folder.execution.wasserstein_order
    return Protocol(
        name="one step ahead",
        metric=f"W{order}",
        scores=scores,
        no_change=float(no_change(dataset.test, order).mean()),
        floor=float(sampling_floor(dataset.train, dataset.test, order).mean()),
        published={"JKOnet* (Terpin et al.)": 0.623} if order == 1 else {},
        law=_laws(runs, folder),
    )


def _laws(runs: Sequence[Cell], folder: SweepFolder) -> dict[str, dict[str, list[float]]]:
    """Scores of the summaries, and of the yardsticks that any of them has."""
    found: dict[str, dict[str, list[float]]] = {}
    for cell in runs:
        law = folder.run(cell).summary().get("law") or {}
        for name in (*LAW, "w1") if law else ():
            score = law[name]
            values = {label(cell.scheme, cell.variant, cell.solver_name): score["mean"]}
            values |= {shown: score[field] for field, shown in LAW_YARDSTICKS.items()}
            for method, value in values.items():
                if value is not None:
                    found.setdefault(method, {}).setdefault(name, []).append(value)
    return found


def leave_one_out(folder: SweepFolder, settings: ReproduceSettings) -> Protocol:
    """Each inner day in turn, from the day before."""
    days = _all_cells(settings)
    found = [_left_out(days, (day,), 1, folder, settings) for day in INNER_DAYS]
    names = found[0]["scores"]
    return Protocol(
        name="leave one out",
        metric="W1",
        scores={n: np.mean([f["scores"][n] for f in found], axis=(0, 1)).tolist() for n in names},
        no_change=float(np.mean([f["no_change"] for f in found])),
        floor=float(np.mean([f["floor"] for f in found])),
        published={"OT-CFM": 0.790, "TrajectoryNet": 0.848, "OT-MFM": 0.713},
    )


def leave_two_out(folder: SweepFolder, settings: ReproduceSettings) -> list[Protocol]:
    """Days 1 and 3, each from the day before, and day 3 also from the predicted day 2."""
    found = _left_out(_all_cells(settings), (1, 3), 2, folder, settings)
    published = {
        1: {"JKOnet* (in iJKOnet's paper)": 1.361, "iJKOnet": 0.983},
        3: {"JKOnet* (in iJKOnet's paper)": 2.557, "iJKOnet": 0.849},
    }
    return [
        Protocol(
            name=f"leave two out, day {day} from day {start}",
            metric="W2",
            scores={n: values[k] for n, values in found["scores"].items()},
            no_change=found["no_change"][k],
            floor=found["floor"][k],
            published=published[day],
        )
        for k, (start, day) in enumerate(_questions((1, 3)))
    ]


def _questions(left_out: tuple[int, ...]) -> list[tuple[int, int]]:
    """First and last day of the predictions: from the day before, and the last from the first."""
    near = [(day - 1, day) for day in left_out]
    return near if len(left_out) == 1 else [*near, (0, left_out[-1])]


def _all_cells(settings: ReproduceSettings) -> list[np.ndarray]:
    """The cells of every day."""
    days = read_snapshots(Path(str(settings.embryoid_body))).arrays()
    if len(days) != 5:
        raise ValueError(f"{settings.embryoid_body} holds {len(days)} days, the protocols want 5")
    return days


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Scores:
    """What is kept of a protocol: lists with an entry per prediction."""

    config: dict[str, Any]
    scores: dict[str, list[list[Number]]]
    no_change: list[float]
    floor: list[float]


def _read_scores(file: Path) -> dict[str, Any]:
    return dataclasses.asdict(read_record(file, _Scores)) if file.is_file() else {}


def _left_out(
    days: Sequence[np.ndarray],
    left_out: tuple[int, ...],
    order: int,
    folder: SweepFolder,
    settings: ReproduceSettings,
) -> dict[str, Any]:
    """Scores of every scheme and variant; what was computed before is read.

    Returns:
        Lists with an entry per prediction (`_questions`): `scores`, by method a value per seed;
        `no_change`; `floor`.
    """
    file = folder.path / f"leave_{'_'.join(map(str, left_out))}_out.json"
    seeds = seeds_of(settings)
    config = {"seeds": list(seeds), "epochs": network_of(settings, "").epochs}
    found: dict[str, Any] = _read_scores(file)
    if found.get("config") != config:
        found = {"config": config, "scores": {}}
        asked = _questions(left_out)
        found["no_change"] = [wasserstein(days[a], days[b], order=order) for a, b in asked]
        found["floor"] = [_halves(days[b], order) for _, b in asked]
    kept = [k for k in range(len(days)) if k not in left_out]
    snapshots = snapshots_from_arrays([days[k] for k in kept], times=[float(k) for k in kept])
    todo = [
        (scheme, variant)
        for scheme, variant in methods_of(settings)
        if label(scheme, variant) not in found["scores"]
    ]
    if not todo:
        return found
    couplings = couple(snapshots, CouplingSettings(batch_size=-1), key=jax.random.key(0))[0]
    for scheme, variant in progress_bar(
        iterable=todo, desc=f"days {left_out} left out", unit="fit"
    ):
        energies = _fit(snapshots, couplings, scheme, variant, settings)
        predictions = _predictions(energies, days, left_out)
        with ThreadPoolExecutor() as pool:
            pending = [
                [pool.submit(_distance, p, days[day], order) for p in np.asarray(predicted)]
                for day, predicted in predictions
            ]
            scores = [[value.result() for value in values] for values in pending]
        found["scores"][label(scheme, variant)] = scores
        folder.path.mkdir(parents=True, exist_ok=True)
        write_json(file, found)
    return found


def _distance(x: np.ndarray, y: np.ndarray, order: int) -> float:
    return wasserstein(x, y, order=order) if np.isfinite(x).all() else float("inf")


def _halves(cells: np.ndarray, order: int) -> float:
    """One random half of a day's cells against the other."""
    shuffled = np.random.default_rng(0).permutation(cells)
    half = len(cells) // 2
    return wasserstein(shuffled[:half], shuffled[half : 2 * half], order=order)


def _fit(
    snapshots: Snapshots,
    couplings: Couplings,
    scheme: str,
    variant: str,
    settings: ReproduceSettings,
) -> FittedEnergy:
    keys = jax.vmap(jax.random.key)(jnp.asarray(seeds_of(settings), jnp.uint32))
    network = network_of(settings, variant)
    return fit(snapshots, SOLVER, key=keys, scheme=scheme, couplings=couplings, network=network)


def _predictions(
    energies: FittedEnergy, days: Sequence[np.ndarray], left_out: tuple[int, ...]
) -> list[tuple[int, Array]]:
    """Days, and what every seed predicts for them, as `_questions` asks."""
    found = []
    for start, day in _questions(left_out):
        points = jnp.asarray(days[start])
        if start < day - 1:
            # By a whole step of training to the day before.
            points = _stepped(energies, points, start, float(day - 1 - start))
        found.append((day, _stepped(energies, points, day - 1, 1.0)))
    return found


@functools.partial(jax.jit, static_argnames=("start", "length"))
def _stepped(energies: FittedEnergy, points: Array, start: int, length: float) -> Array:
    """A population, (n, d) or one per seed, after a step that ends before the one of training does."""

    def one(energy: FittedEnergy, points: Array) -> Array:
        weights = jnp.full(len(points), 1.0 / len(points))
        index = jnp.searchsorted(energy.times, start)
        trained = energy.times[index + 1] - energy.times[index]
        # The energy was only ever seen at the time at which the scheme evaluated the whole step.
        seen = scheme_time(energy.scheme, jnp.asarray(float(start)), trained)
        t = seen - scheme_time(energy.scheme, jnp.zeros(()), jnp.asarray(length))
        return energy.step(points, weights, t, jnp.asarray(length)).points

    return jax.vmap(one, in_axes=(0, None if points.ndim == 2 else 0))(energies, points)
