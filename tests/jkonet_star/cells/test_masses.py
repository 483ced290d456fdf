"""Numbers of cells of the whole population, from wherever an AnnData object has them."""

import inspect

import numpy as np
import pandas
import pytest

from jkonet_star import cells
from jkonet_star.cells.masses import cell_masses, masses_of_times
from jkonet_star.cells.times import cell_times


def test_fit_takes_masses_by_their_name(simulated, monkeypatch):
    data = simulated.copy()
    data.uns["counted"] = dict(zip(["d0", "d2", "d4.5", "d7"], data.uns["masses"], strict=True))

    class Asked(Exception):
        pass

    def asked(snapshots, solver, *, masses, **_):
        raise Asked(list(masses))

    monkeypatch.setattr("jkonet_star.cells.model.fit_energy", asked)
    given = {"time_key": "day", "n_components": 2, "growth": True}
    with pytest.raises(Asked) as caught:
        cells.fit(data, mass_key="counted", **given)
    assert caught.value.args == (list(data.uns["masses"]),)
    times = cell_times(data, "day")
    np.testing.assert_array_equal(cell_masses(data, "counted", times), data.uns["masses"])
    with pytest.raises(ValueError, match=r"no 'count' in obs or uns \(mass_key\).*'counted'"):
        cell_masses(data, "count", times)
    with pytest.raises(ValueError, match="masses and mass_key say the same"):
        cells.fit(data, mass_key="counted", masses=data.uns["masses"], **given)


def test_masses_beside_cells_are_those_of_their_times():
    of_times = inspect.unwrap(masses_of_times)
    found = of_times(np.array([5, 3, 5, 3]), np.array([2.0, 1.0, 2.0, 1.0]))
    np.testing.assert_array_equal(found, [3, 5])
    with pytest.raises(ValueError, match="cells at 2 have several"):
        of_times(np.array([5, 3, 6, 3]), np.array([2.0, 1.0, 2.0, 1.0]))
    with pytest.raises(ValueError, match="got <U1 of shape"):
        of_times(np.array(["5", "3"]), np.array([2.0, 1.0, 2.0]))
    with pytest.raises(ValueError, match="mass .* at 2 must be positive, got nan"):
        of_times(np.array([5, 3, np.nan, 3]), np.array([2.0, 1.0, 2.0, 1.0]))


def test_a_series_is_read_by_its_labels_and_not_in_its_order(simulated):
    data, times = simulated.copy(), cell_times(simulated, "day")
    expected = np.asarray(data.uns["masses"])
    data.uns["labelled"] = pandas.Series(expected[::-1], index=["d7", "d4.5", "d2", "d0"])
    data.uns["counted"] = pandas.Series(expected)
    for name in ("labelled", "counted"):
        np.testing.assert_array_equal(cell_masses(data, name, times), expected)
    data.uns["bare"] = pandas.Series(expected, index=[0, 2, 4.5, 7])
    with pytest.raises(ValueError, match="in no unit, the times are in day: name its entries as"):
        cell_masses(data, "bare", times)
