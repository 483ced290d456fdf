"""Which population judges."""

from pathlib import Path

import numpy as np
import pytest

from data_generation.populations.datasets import Dataset
from experiments.populations import datasets
from experiments.populations.datasets import population, with_judging_test
from jkonet_star.snapshots import snapshots_from_arrays
from jkonet_star.transport.couplings import Couplings

TRAIN, TEST = np.random.default_rng(0).standard_normal((2, 2, 8, 3), np.float32)


def dataset_of(train, test):
    nothing = np.zeros(0, np.int32)
    return Dataset(
        train=snapshots_from_arrays(train),
        test=snapshots_from_arrays(test),
        couplings=Couplings(nothing, nothing, nothing, nothing),
        metadata={},
        path=Path("nowhere"),
    )


@pytest.mark.parametrize(("test", "judging"), [(TEST, 5), (TRAIN, 8)])
def test_what_does_not_judge_is_not_kept(monkeypatch, test, judging):
    """Of other particles a sample is; those that are trained on are kept whole."""
    monkeypatch.setattr(datasets, "MOST_PREDICTED", 5)
    dataset = dataset_of(TRAIN, test)
    kept = with_judging_test(dataset)
    assert kept.test.points.shape[1] == judging
    for which in ("test_data", "train_data"):
        np.testing.assert_array_equal(
            population(kept, which).points, population(dataset, which).points
        )
