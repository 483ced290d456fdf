"""What any prediction of a population is to be compared with.

no change          W_p(mu_k, mu_{k+1}): the last snapshot, as it was observed
sampling floor     W_p(sample of the target's training particles, the target's test particles): what
                   even the true law would score, from as many particles as are predicted
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from data_generation.formats.json_file import read_json
from data_generation.populations.datasets import load_dataset
from data_generation.scripts.files import write_json
from diffusions.checks import NotNegative, conform
from experiments.populations.datasets import population
from experiments.run.tables import Row
from experiments.sweeps.folder import SweepFolder
from experiments.sweeps.settings import Cell
from jkonet_star.evaluation import earth_movers_distances
from jkonet_star.snapshots import Snapshots
from jkonet_star.transport.exact import wasserstein


def no_change(snapshots: Snapshots, order: int) -> np.ndarray:
    """The distance of every snapshot from the one before."""
    weights = np.asarray(snapshots.weights)[:-1]
    still = np.asarray(snapshots.points)[None, :-1]
    return earth_movers_distances(still, snapshots, weights, order=order)[0]


def sampling_floor(train: Snapshots, test: Snapshots, order: int) -> np.ndarray:
    """The distance of training particles from the test particles, at every snapshot but the first."""
    generator = np.random.default_rng(0)
    found = []
    predicted = [len(points) for points in test.arrays()[:-1]]
    for known, held_out, n in zip(train.arrays()[1:], test.arrays()[1:], predicted, strict=True):
        sample = generator.permutation(known)[:n]
        found.append(wasserstein(sample, held_out, order=order))
    return np.array(found)


def relative_to_no_change(
    rows: Sequence[Row], runs: Sequence[Cell], folder: SweepFolder
) -> dict[str, float]:
    """Adds `relative`, the EMD over that of no change, to every row; returns the latter by dataset."""
    scores = no_change_scores(runs, folder)
    for row in rows:
        scale = scores.get(row["dataset"], 0.0)
        row["relative"] = row["emd"] / scale if row["emd"] is not None and scale > 0 else None
    return scores


def _read_scores(file: Path) -> dict[str, float]:
    if not file.exists():
        return {}
    try:
        return conform(read_json(file), dict[str, NotNegative], "it")
    except ValueError as error:
        raise ValueError(f"{file} is damaged: {error}") from error


def no_change_scores(runs: Sequence[Cell], folder: SweepFolder) -> dict[str, float]:
    """Mean distance from one snapshot to the next of every dataset, computed once per sweep."""
    file = folder.path / "no_change.json"
    scores: dict[str, float] = _read_scores(file)
    execution = folder.execution
    for cell in runs:
        if cell.dataset_name not in scores and folder.run(cell).finished:
            dataset = load_dataset(cell.dataset_path)
            snapshots = population(dataset, execution.eval)
            distances = no_change(snapshots, execution.wasserstein_order)
            scores[cell.dataset_name] = float(distances.mean())
    write_json(file, scores)
    return scores
