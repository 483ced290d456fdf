"""Times as people write them are read, and what may mean two things is refused."""

import tracemalloc
from datetime import timedelta
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from jkonet_star.cells.times import cell_times, check_snapshots, parse_times

WRITTEN = {
    "integers": ([0, 2, 4], [0, 2, 4], ""),
    "floats": (np.array([0.0, 2.5], np.float16), [0, 2.5], ""),
    "text": (["0", " 2.5", "1e1"], [0, 2.5, 10], ""),
    "days": (["d0", "d2.5", "D7"], [0, 2.5, 7], "day"),
    "days in words": (["day 0", "Day_3", "4 days"], [0, 3, 4], "day"),
    "embryos": (["E8.5", "E7", "E7.25"], [8.5, 7, 7.25], "embryonic day"),
    "after birth": (["P0", "P7"], [0, 7], "postnatal day"),
    "hours": (["2h", "2 hours", "0 hr", "12H"], [2, 2, 0, 12], "hour"),
    "two units": (["30min", "2h", "1 day"], [30, 120, 1440], "minute"),
    "points": (["t0", "T1", "timepoint 2"], [0, 1, 2], ""),
    "differences": (pd.to_timedelta([0, 60, 96], unit="h"), [0, 2.5, 4], "day"),
    "short differences": (pd.to_timedelta([0, 90], unit="min"), [0, 90], "minute"),
    "categories": (pd.Series(["d2", "d0"], dtype="category"), [2, 0], "day"),
    "ordered": (
        pd.Series(pd.Categorical(["d9", "d1"], categories=["d1", "d9"], ordered=True)),
        [9, 1],
        "day",
    ),
    "numeric categories": (pd.Series([3.5, 1.0], dtype="category"), [3.5, 1], ""),
    "nullable": (pd.Series([1, 2], dtype="Int64"), [1, 2], ""),
    "strings of pandas": (pd.Series(["1", "2"], dtype="string"), [1, 2], ""),
    "spans": (pd.Series(pd.to_timedelta(["2h", "1d"])).astype("category"), [2, 24], "hour"),
    "spans one by one": ([timedelta(hours=2), np.timedelta64(4, "D")], [1 / 12, 4], "day"),
    "spans as text": (["0 days 00:00:00", "1 days 01:30:00"], [0, 25.5], "hour"),
    "spans beside hours": (["0 days 02:00:00", "3h"], [7200, 10800], "second"),
}


@pytest.mark.parametrize("name", WRITTEN)
def test_times_as_they_are_written(name):
    labels, values, unit = WRITTEN[name]
    found = parse_times(labels, "obs['day']")
    np.testing.assert_allclose(found.values, values, rtol=1e-12)
    assert found.unit == unit


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (["nan", "1"], r"no times: 'nan'; .*time_map=\{'nan': 0"),
        (["inf", "0"], "'inf'"),
        (["1_0"], "'1_0'"),
        (["1e999"], "'1e999'"),
        (["d2_rep1", "d3"], "'d2_rep1'"),
        (["early", "late"], r"'early', 'late'; say what they are with time_map=\{'early': 0"),
        (["d1", "2"], "different kinds: 'd1', '2'"),
        (["E8.5", "d9"], "different kinds"),
        (["E8.5", "P1"], "different kinds"),
        (["2m"], "'2m'"),  # minutes, months or metres
        (["e8.5"], "'e8.5'"),
        (["", "1"], "''"),
        ([None, "1"], "a missing value; remove those cells"),
        ([0.0, np.nan], "missing or infinite for 1 of 2"),
        ([True, False], r"true and false.*time_map=\{True: 0, "),
        (pd.to_datetime(["2020-01-01"]), "dates.*subtract"),
        (pd.to_timedelta(["1h", None]), "missing for 1 of 2"),
        (pd.Series([1, None], dtype="Int64"), "missing or infinite for 1 of 2"),
        (pd.Series(["1", None], dtype="string"), "a missing value"),
        (
            pd.Series(pd.Categorical(["late 9", "x"], categories=["x", "late 9"], ordered=True)),
            "'late 9', 'x'",
        ),
        (["x" * 5000], "'xxx"),
    ],
)
def test_what_is_no_time_is_named(labels, message):
    with pytest.raises(ValueError, match=message) as caught:
        parse_times(labels, "obs['day']")
    assert len(str(caught.value)) < 600


def test_a_map_says_what_labels_mean():
    labels = pd.Series(["early", "late", "early"], dtype="category")
    found = parse_times(labels, "obs['day']", time_map={"early": 0, "late": 2.5, "never": 9})
    np.testing.assert_array_equal(found.values, [0, 2.5, 0])
    by_number = parse_times(np.array([1, 2]), "obs['day']", time_map={1: 0, 2: 4})
    np.testing.assert_array_equal(by_number.values, [0, 4])
    with pytest.raises(ValueError, match="time_map says nothing of 'late' in"):
        parse_times(labels, "obs['day']", time_map={"early": 0})
    with pytest.raises(ValueError, match="finite"):
        parse_times(labels, "obs['day']", time_map={"early": 0, "late": np.inf})


def test_a_pseudotime_is_no_time():
    assert check_snapshots(np.repeat(np.arange(20.0), 5), "obs['t']") == []
    (said,) = check_snapshots(np.repeat(np.arange(30.0), 9), "obs['t']")
    assert "30 distinct times (obs['t']) have 9 cells each, in the median" in said
    (said,) = check_snapshots(np.array([0, 0, 1, 2, 2]), "obs['t']")
    assert "1 of 3 times (obs['t']) have a single cell each" in said
    with pytest.raises(ValueError, match="80 cells at 20 distinct .* look like a pseudotime"):
        check_snapshots(np.repeat(np.arange(20.0), 4), "obs['t']")
    with pytest.raises(ValueError, match="every cell has its own time, as in a pseudotime"):
        check_snapshots(np.random.default_rng(0).uniform(size=200), "obs['t']")
    with pytest.raises(ValueError, match="has no times"):
        check_snapshots(np.zeros(0), "obs['t']")
    with pytest.raises(ValueError, match="one time, 3: at least two"):
        check_snapshots(np.full(9, 3.0), "obs['t']")


def test_times_that_are_read_later_are_read():
    later = SimpleNamespace(to_series=lambda: pd.Series(["d0", "d2"], dtype="category"))
    data = SimpleNamespace(obs={"day": later})
    assert cell_times(data, "day").values.tolist() == [0, 2]


def test_one_long_label_does_not_make_all_of_them_long():
    tracemalloc.start()
    with pytest.raises(ValueError, match="no times"):
        parse_times(["1"] * 20_000 + ["x" * 100_000], "column 'time'")
    assert tracemalloc.get_traced_memory()[1] < 20e6
    tracemalloc.stop()
