"""When cells were taken, from labels as people write them.

Numbers and text that spells numbers have no unit. `d2.5`, `day 3`, `E8.5`, `2h`, `2 hours` and `P7`
have one; minutes, hours, days and weeks become the smallest of them that is used. Time differences, and
the text that pandas makes of them (`0 days 02:00:00`), are in the largest of seconds, minutes, hours
and days of which the longest has two. Days of an embryo (E), of life (P) and of an experiment are
counted from different moments: they are not mixed, nor are numbers with and without a unit. What may
mean two things is refused, and a `time_map` says it.
"""

import re
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np

from diffusions.checks import shown
from jkonet_star.cells.representation import absent, obs_column

SECONDS = {"second": 1.0, "minute": 60.0, "hour": 3600.0, "day": 86400.0, "week": 604800.0}
EMBRYONIC, POSTNATAL = "embryonic day", "postnatal day"
MANY, FEWEST = 10, 5
"""Times from which on, and mean cells of a time below which, times are those of single cells."""
DOUBTFUL_MANY, DOUBTFUL_FEW = 20, 10
"""More times, and fewer cells of a time, in the median: they may be."""

_SPELLINGS = {
    "second": ("s", "sec", "secs", "second", "seconds"),
    "minute": ("min", "mins", "minute", "minutes"),
    "hour": ("h", "hr", "hrs", "hour", "hours"),
    "day": ("d", "day", "days"),
    "week": ("w", "wk", "wks", "week", "weeks"),
    "": ("t", "time", "timepoint", "time point"),
}
_UNIT_OF = {word: unit for unit, words in _SPELLINGS.items() for word in words}
_NUMBER = r"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)"
_PLAIN = re.compile(rf"{_NUMBER}(?:[eE][+-]?[0-9]+)?", re.ASCII)
_AFTER = re.compile(rf"({_NUMBER})[ _]?([a-z]+)", re.ASCII | re.IGNORECASE)
_BEFORE = re.compile(rf"([a-z]+(?: point)?)[ _]?({_NUMBER})", re.ASCII | re.IGNORECASE)
_DIFFERENCE = re.compile(
    r"([+-]?[0-9]+) days? \+?([0-9]{2}):([0-9]{2}):([0-9]{2}(?:\.[0-9]+)?)", re.ASCII
)
_MOST_LETTERS = 100
_REMOVE = "remove those cells, or give them a time"
_NAMED = 5
_KINDS = {"f": "floats", "i": "integers", "u": "integers"}


TIME_KEY = "time"


class CellTimes(NamedTuple):
    """Times of cells.

    Attributes:
        values: of every cell, (n,).
        unit: what one is, such as "day"; empty where the labels do not say.
    """

    values: np.ndarray
    unit: str


def parse_times(
    labels: Any, what: str, *, time_map: Mapping[Any, float] | None = None
) -> CellTimes:
    """Times of cells from their labels.

    Args:
        labels: of every cell: numbers, text, categories, or time differences; a column of a table.
        what: they are, such as "obs['day']".
        time_map: label -> time, for labels that say none by themselves; all of them.

    Returns:
        The times, and their unit.

    Raises:
        ValueError: a label is missing, is no time, or may mean several; units that do not go
            together; a map without some label. The labels are named.
    """
    # Of texts no array of the longest one's size.
    values = labels if hasattr(labels, "dtype") else _array([*labels])
    kind = getattr(values.dtype, "kind", "O")
    if time_map is not None:
        return _mapped(values, what, time_map)
    if kind in _KINDS:
        return CellTimes(_finite(np.asarray(values, np.float64), what), "")
    if kind == "m":
        spans = np.asarray(values, "timedelta64[ns]")
        if np.isnat(spans).any():
            missing = np.isnat(spans).sum()
            raise ValueError(f"{what} is missing for {missing} of {len(spans)} cells: {_REMOVE}")
        return _differences(spans.astype(np.int64) / 1e9)
    if kind in "Mb":
        held, remedy = ("dates", "subtract the first one")
        if kind == "b":
            held, remedy = ("true and false", "say with time_map={True: 0, ...}")
        raise ValueError(f"{what} holds {held}, which are no times since a start: {remedy}")
    distinct, of_cell = _distinct(values)
    seconds = [_seconds(label) for label in distinct]
    if seconds and None not in seconds:
        return _differences(np.asarray(seconds, np.float64)[of_cell])
    found = [_parsed(label) for label in distinct]
    wrong = [label for label, time in zip(distinct, found, strict=True) if time is None]
    if wrong:
        raise ValueError(f"{what} has entries that are no times: {_named(wrong)}; {_remedy(wrong)}")
    numbers, unit = _in_one_unit([time for time in found if time is not None], distinct, what)
    return CellTimes(np.asarray(numbers)[of_cell], unit)


def cell_times(
    data: Any, time_key: str | None = None, *, time_map: Mapping[Any, float] | None = None
) -> CellTimes:
    """When every cell of an AnnData object was taken.

    Args:
        data: AnnData.
        time_key: entry of `obs`; `time` where not given.
        time_map: as of `parse_times`.

    Raises:
        ValueError: there is no such entry, or it holds no times.
    """
    time_key = time_key or TIME_KEY
    if time_key not in data.obs:
        said = absent("obs", time_key, data.obs.columns, "time_key")
        if time_key in data.var:
            said += "; it is in var: cells must be the rows, as they are in adata.T"
        raise ValueError(said)
    return parse_times(obs_column(data, time_key), f"obs[{time_key!r}]", time_map=time_map)


def check_snapshots(times: np.ndarray, what: str, *, noun: str = "cell") -> list[str]:
    """What is odd about times of populations, a line each.

    Args:
        times: of every cell; finite.
        what: they are.
        noun: for what has them.

    Raises:
        ValueError: there are none, there is only one, or they are those of single cells, as a
            pseudotime is.
    """
    distinct, counts = np.unique(times, return_counts=True)
    if len(distinct) < 2:
        one = f"one time, {distinct[0]:g}" if len(distinct) else "no times"
        raise ValueError(f"{what} has {one}: at least two are needed")
    if len(distinct) == len(times):
        raise ValueError(
            f"every {noun} has its own time, as in a pseudotime; a snapshot needs several ({what})"
        )
    remedy = "group them into few times, or name the times of collection with time_key"
    if len(distinct) >= MANY and len(times) < FEWEST * len(distinct):
        raise ValueError(
            f"{len(times)} {noun}s at {len(distinct)} distinct times ({what}): a snapshot is a "
            f"population, and these look like a pseudotime or like times of single {noun}s; {remedy}"
        )
    found = []
    alone = np.count_nonzero(counts == 1)
    if alone:
        found.append(
            f"{alone} of {len(distinct)} times ({what}) have a single {noun} each, which is hardly "
            "a population"
        )
    median = float(np.median(counts))
    if len(distinct) > DOUBTFUL_MANY and median < DOUBTFUL_FEW:
        found.append(
            f"{len(distinct)} distinct times ({what}) have {median:g} {noun}s each, in the median: if "
            f"they are a pseudotime or times of single {noun}s, {remedy}"
        )
    return found


def _array(labels: list[Any]) -> np.ndarray:
    text = any(isinstance(label, str) for label in labels)
    return np.array(labels, object) if text else np.asarray(labels)


def _finite(values: np.ndarray, what: str) -> np.ndarray:
    bad = np.count_nonzero(~np.isfinite(values))
    if bad:
        raise ValueError(
            f"{what} is missing or infinite for {bad} of {len(values)} cells: {_REMOVE}"
        )
    return values


def _seconds(label: Any) -> float | None:
    """Of a time difference, or of the text that pandas writes for one; None of anything else."""
    if hasattr(label, "total_seconds"):
        return float(label.total_seconds())
    if isinstance(label, np.timedelta64):
        return float(label / np.timedelta64(1, "s"))
    found = _DIFFERENCE.fullmatch(label.strip()) if isinstance(label, str) else None
    if found is None:
        return None
    days, hours, minutes, seconds = (float(part) for part in found.groups())
    return 86400 * days + 3600 * hours + 60 * minutes + seconds


def _differences(seconds: np.ndarray) -> CellTimes:
    longest = float(np.abs(seconds).max(initial=0.0))
    unit = "second"
    for name in ("minute", "hour", "day"):
        if longest >= 2 * SECONDS[name]:
            unit = name
    return CellTimes(seconds / SECONDS[unit], unit)


def _distinct(values: Any) -> tuple[list[Any], np.ndarray]:
    """The labels, each once, and which one every cell has."""
    number: dict[Any, int] = {}
    of_cell = np.array([number.setdefault(_plain(v), len(number)) for v in values], np.int64)
    return list(number), of_cell


def _plain(label: Any) -> Any:
    """The label; None for every way to say that there is none."""
    # pandas' NA is neither equal to itself nor not.
    missing = label is None or str(label) in ("<NA>", "NaT") or bool(label != label)
    return None if missing else label


def _parsed(label: Any) -> tuple[float, str | None] | None:
    """Number and unit of a label, the unit None where it has none; None where it is no time."""
    if label is None or isinstance(label, bool | np.bool_):
        return None
    seconds = _seconds(label)
    if seconds is not None:  # beside labels that are none
        return seconds, "second"
    if isinstance(label, int | float | np.number):
        return (float(label), None) if np.isfinite(label) else None
    text = str(label).strip()
    if len(text) > _MOST_LETTERS:
        return None
    if _PLAIN.fullmatch(text):
        number = float(text)
        return (number, None) if np.isfinite(number) else None
    before, after = _BEFORE.fullmatch(text), _AFTER.fullmatch(text)
    if before:
        word, number = before.group(1), float(before.group(2))
        if word == "E":
            return number, EMBRYONIC
        if word == "P":
            return number, POSTNATAL
    elif after:
        word, number = after.group(2), float(after.group(1))
    else:
        return None
    unit = _UNIT_OF.get(word.lower())
    return None if unit is None else (number, unit or None)


def _in_one_unit(
    found: list[tuple[float, str | None]], labels: list[Any], what: str
) -> tuple[list[float], str]:
    units = {unit for _, unit in found}
    if len(units) == 1:
        (unit,) = units
        return [number for number, _ in found], unit or ""
    if not units <= SECONDS.keys():
        one_of_each = {unit: label for (_, unit), label in zip(found, labels, strict=True)}
        raise ValueError(
            f"{what} mixes times of different kinds: {_named(list(one_of_each.values()))}; "
            + _remedy(labels)
        )
    smallest = min(units, key=lambda unit: SECONDS[str(unit)])
    size = SECONDS[str(smallest)]
    return [number * SECONDS[str(unit)] / size for number, unit in found], str(smallest)


def _mapped(values: Any, what: str, time_map: Mapping[Any, float]) -> CellTimes:
    distinct, of_cell = _distinct(values)
    by_text = {str(label): time for label, time in time_map.items()}
    absent = [label for label in distinct if str(label) not in by_text]
    if absent:
        raise ValueError(f"time_map says nothing of {_named(absent)} in {what}")
    times = np.array([float(by_text[str(label)]) for label in distinct])
    if not np.isfinite(times).all():
        raise ValueError("the times of time_map must be finite")
    return CellTimes(times[of_cell], "")


def _named(labels: Iterable[Any]) -> str:
    texts = ["a missing value" if label is None else shown(str(label)) for label in labels]
    return ", ".join(texts[:_NAMED]) + (", ..." if len(texts) > _NAMED else "")


def _remedy(labels: list[Any]) -> str:
    if labels == [None]:
        return _REMOVE
    first = next(label for label in labels if label is not None)
    return f"say what they are with time_map={{{str(first)[:40]!r}: 0, ...}}, or remove those cells"
