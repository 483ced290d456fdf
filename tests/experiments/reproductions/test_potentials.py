"""The figure of the potentials, of one solver and of all."""

import numpy as np
import pytest

from experiments.reproductions.potentials import FULL, draw_potentials


@pytest.mark.parametrize("solvers", [FULL[:1], FULL])
@pytest.mark.parametrize(("least", "spread"), [(0.01, 1.0), (0.0234, 1.2), (0.99, 400.0)])
def test_seconds_stand_between_two_numbers_of_their_axis(solvers, least, spread):
    rows = [
        {"potential": potential, "solver": solver, "relative": 0.1, "cost": seconds}
        for solver in solvers
        for potential, seconds in (("sphere", least), ("moon", least * spread))
    ]
    figure = draw_potentials(rows, ("sphere", "moon"), solvers, dict.fromkeys(solvers))
    figure.draw_without_rendering()
    axes = figure.axes[-1]
    low, high = axes.get_xlim()
    labelled = [
        label.get_position()[0]
        for label in axes.get_xticklabels()
        if label.get_text() and low <= label.get_position()[0] <= high
    ]
    assert min(labelled) < least
    assert max(labelled) > least * spread
    drawn = np.concatenate([points.get_offsets()[:, 0] for points in axes.collections])
    assert np.allclose(np.sort(drawn), sorted([least, least * spread] * len(solvers)))
    assert [label.get_text() for label in axes.get_yticklabels()] == list(solvers)
