"""Sums over blocks of rows are those over all rows."""

import numpy as np
import pytest

from jkonet_star import spread
from jkonet_star.spread import squared_norms


@pytest.mark.parametrize("count", [1, 7, 20])
def test_squared_norms_are_taken_some_rows_at_a_time(monkeypatch, count):
    monkeypatch.setattr(spread, "ROWS_AT_ONCE", 7)
    rows = np.random.default_rng(0).normal(size=(count, 3))
    asked = []

    def some(own):
        asked.append(len(rows[own]))
        return rows[own]

    np.testing.assert_array_equal(squared_norms(some, count), np.sum(rows**2, axis=1))
    assert max(asked) <= 7
    assert sum(asked) == count
