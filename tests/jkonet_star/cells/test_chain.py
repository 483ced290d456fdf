"""The chain on cells: its rows, its limits, and the fates by hand."""

import numpy as np
import pytest
from scipy import sparse

from jkonet_star.cells.chain import (
    absorbed,
    along_drift,
    nearest_cells,
    step_transitions,
    terminal_fates,
)


def test_nearest_cells_are_those_of_all_distances():
    rng = np.random.default_rng(0)
    points = rng.normal(size=(300, 4)) + 1e3
    queries = rng.normal(size=(40, 4)) + 1e3
    index, square = nearest_cells(points, queries, 5)
    exact = ((queries[:, None] - points) ** 2).sum(axis=2)
    np.testing.assert_allclose(square, np.sort(exact, axis=1)[:, :5], rtol=1e-6)
    np.testing.assert_array_equal(index, np.argsort(exact, axis=1)[:, :5])
    assert nearest_cells(points[:3], queries, 5)[0].shape == (40, 3)


def test_a_step_goes_to_where_cells_are_sent():
    rng = np.random.default_rng(0)
    points = rng.normal(size=(400, 2))
    arrivals = np.stack([points, points + 0.01 * rng.normal(size=points.shape)])
    chain = step_transitions(arrivals, points, k=10)
    np.testing.assert_allclose(chain.sum(axis=1), 1.0, rtol=1e-6)
    assert (chain.data > 0).all()
    assert (np.asarray(chain.argmax(axis=1)).ravel() == np.arange(400)).mean() > 0.9
    two = step_transitions(np.stack([points, points + 50.0]), np.concatenate([points, points + 50]))
    np.testing.assert_allclose(two[:, :400].sum(axis=1), 0.5, rtol=1e-6)


def test_the_last_snapshot_goes_along_its_drift():
    line = np.stack([np.arange(50.0), np.zeros(50)], axis=1)
    index, chance = along_drift(line, np.tile([2.0, 0.0], (50, 1)), k=4)
    ahead = index > np.arange(50)[:, None]
    np.testing.assert_allclose(chance.sum(axis=1), 1.0)
    assert ((chance * ahead).sum(axis=1)[:-1] > 0.999).all()
    assert not (index == np.arange(50)[:, None]).any()
    still = along_drift(line, np.zeros((50, 2)), k=4)[1]
    np.testing.assert_allclose(still, 0.25)


def test_copies_of_a_cell_are_neighbours_and_no_cell_its_own():
    index, chance = along_drift(np.zeros((30, 2)), np.ones((30, 2)), k=5)
    assert index.shape == (30, 5)
    np.testing.assert_allclose(chance, 0.2)


def test_fates_by_hand():
    """Two steps of a chain of two cells, of which one divides."""
    first = sparse.csr_matrix([[0.5, 0.5], [0.0, 1.0]])
    second = sparse.csr_matrix([[1.0, 0.0], [0.5, 0.5]])
    none = np.zeros((2, 2))
    alone = [sparse.identity(2, format="csr")] * 2
    growth = [np.ones(2), np.array([3.0, 1.0])]
    fates = absorbed([first, second], growth, [none, none], np.eye(2), alone)
    np.testing.assert_allclose(fates[1], [[1.0, 0.0], [0.5, 0.5]])
    # The first has 3 descendants by the one way and 1 by the other, each way of chance a half.
    np.testing.assert_allclose(fates[0], [[3.5 / 4, 0.5 / 4], [0.5, 0.5]])


def test_what_is_terminal_stays():
    back = sparse.csr_matrix([[0.0, 1.0], [1.0, 0.0]])
    ends = np.array([[1.0, 0.0], [0.0, 0.0]])
    for mean, other in (([[1, 0], [0, 1]], [1.0, 0.0]), ([[1, 0], [0.5, 0.5]], [0.5, 0.5])):
        similar = [sparse.csr_matrix(np.array(mean, np.float64))]
        (found, _) = absorbed([back], [np.ones(2)], [ends], np.eye(2), similar)
        np.testing.assert_allclose(found, [[1.0, 0.0], other])


def test_cells_between_terminal_groups_have_the_fates_of_those_next_to_them():
    points = np.array([[0.0], [0.1], [1.0], [1.1], [0.05], [0.55]])
    ends = np.array([[1, 0], [1, 0], [0, 1], [0, 1], [0, 0], [0, 0]], np.float64)
    found = terminal_fates(points, ends, k=2)
    np.testing.assert_allclose(found[:4], ends[:4])
    np.testing.assert_allclose(found[4], [1.0, 0.0])
    assert found[5].sum() == pytest.approx(1.0)


def test_chains_are_the_same_for_any_order_of_cells():
    rng = np.random.default_rng(1)
    points, order = rng.normal(size=(60, 3)), rng.permutation(60)
    one = step_transitions(points[None], points, k=5).toarray()
    two = step_transitions(points[None, order], points[order], k=5).toarray()
    np.testing.assert_allclose(two, one[np.ix_(order, order)], rtol=1e-3, atol=1e-6)
