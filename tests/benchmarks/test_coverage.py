"""Intervals hold the truth about as often as they say: a few data sets of the benchmark."""

import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parents[2]
sys.path.append(str(ROOT))  # the benchmarks are no installed package

from benchmarks.coverage import Case, coverage, simulated  # noqa: E402

DIFFERENT = Case(name="few", dimension=2, particles=100)
SAME = Case(
    name="few",
    dimension=2,
    particles=50,
    noise=2e-4,
    paired=True,
    methods=("sandwich", "corrected"),
)


@pytest.mark.parametrize("case", [DIFFERENT, SAME], ids=["different", "same"])
def test_intervals_hold_the_truth_and_are_no_longer_than_they_must_be(case):
    for row in coverage(case, sets=6, replicates=19):
        if (
            row["method"] == "percentile"
        ):  # counts the couplings' bias twice, and may hold too seldom
            continue
        assert row["coverage"] >= 0.7, row
        # Of the estimates, in units of what was promised.
        assert 0.5 < row["spread"] < 1.7, row


def test_the_simulation_is_what_it_is_said_to_be():
    x = simulated(Case(name="one", dimension=1, particles=20_000, noise=0.1, paired=True), 0)
    np.testing.assert_allclose([x[0].mean(), x[0].var()], 1.0, atol=0.02)
    kick = x[1] - 0.8 * x[0]
    np.testing.assert_allclose([kick.mean(), kick.var()], [0.0, 0.04], atol=0.003)
    apart = simulated(DIFFERENT, 0)
    assert abs(np.corrcoef(apart[0][:, 0], apart[1][:, 0])[0, 1]) < 0.5
