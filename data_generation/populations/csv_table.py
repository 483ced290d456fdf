"""Tables of comma separated values: a column of times, and columns of coordinates.

Columns without a number in them, and a nameless first one, are passed over; so are numbers that name
the rows. Whatever else might be no coordinate is kept and said.
"""

import array
import csv
import re
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from data_generation.formats.bounded_reading import MOST_FILE_BYTES
from data_generation.formats.plain_numbers import plain_float
from diffusions.checks import shown
from jkonet_star.cells.times import parse_times

_TIME_NAMES = ("time", "t")
_NAMES_OF_ROWS = re.compile(
    r"(?:unnamed: ?\d+|(?:obs|row|cell|sample)[ _.]?(?:names?|ids?|index|nr|no|number)?|ids?|index|"
    r"(?:cell[ _.]?)?barcodes?|particles?|cluster|batch|replicate|plate|donor)",
    re.IGNORECASE,
)
# Fewer rows than this are numbered by accident: 1, 2, 3 may be coordinates.
_WORTH_A_WORD = 10


class Table(NamedTuple):
    """What a file holds.

    Attributes:
        times: (n,).
        points: (n, d).
        names: of the d columns.
        time_name: of the column of times.
    """

    times: np.ndarray
    points: np.ndarray
    names: tuple[str, ...]
    time_name: str


def read_csv(path: Path, time_key: str | None = None) -> Table:
    """Reads a table.

    Args:
        path: the file.
        time_key: name of the column of times; `time` or `t` when absent.

    Raises:
        ValueError: what is wrong, with the line; without the file's name.
        UserWarning: of a column that may be no coordinate.
    """
    if path.stat().st_size > MOST_FILE_BYTES:
        raise ValueError(f"has more than {MOST_FILE_BYTES} bytes")
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            return _table(_rows(csv.reader(file)), time_key)
    except UnicodeDecodeError:
        raise ValueError("not a text file") from None


def _rows(reader) -> Iterator[tuple[int, list[str]]]:  # csv has no public name for its readers
    for row in reader:
        if row:
            yield reader.line_num, row


def _table(rows: Iterator[tuple[int, list[str]]], time_key: str | None) -> Table:
    first = next(rows, None)
    if first is None:
        raise ValueError("the file is empty")
    header = [name.strip() for name in first[1]]
    _check_header(header)
    wanted = _TIME_NAMES if time_key is None else (time_key,)
    key = next((name for name in wanted if name in header), None)
    if key is None:
        raise ValueError(
            f"no column {' or '.join(repr(w) for w in wanted)} (--time-key); the columns are "
            f"{', '.join(header)}"
        )
    at = header.index(key)
    columns = [_Column(name) for i, name in enumerate(header) if i != at]
    times: list[str] = []
    for line, row in rows:
        if len(row) != len(header):
            raise ValueError(f"line {line} has {len(row)} fields, the header has {len(header)}")
        times.append(row.pop(at))
        for column, text in zip(columns, row, strict=True):
            column.add(text, line)
    if not times:
        raise ValueError("there are no particles in it")
    host_times = parse_times(times, f"column {key!r}").values
    # The index that data frames write has no name.
    kept = _coordinates([c for c in columns if c.name and c.holds_numbers()])
    if not kept:
        raise ValueError(f"no numeric column beside {key!r}")
    points = np.stack([np.frombuffer(c.values) for c in kept], axis=1)
    return Table(host_times, points, tuple(c.name for c in kept), key)


def _coordinates(columns: list["_Column"]) -> list["_Column"]:
    """The columns without those that name the rows; says of which it is not certain."""
    passed: list[_Column] = []
    doubtful: list[_Column] = []
    counted: list[_Column] = []
    for column in columns:
        if _NAMES_OF_ROWS.fullmatch(column.name):
            (passed if column.is_distinct() else doubtful).append(column)
        elif len(column.values) >= _WORTH_A_WORD and column.is_consecutive():
            counted.append(column)
    _say(passed, "numbers the rows and is passed over")
    _say(doubtful, "is taken as a coordinate; remove it if it is none")
    _say(
        counted,
        "holds consecutive whole numbers, each once, and is taken as a coordinate; if it numbers the "
        "rows, remove it or call it 'id'",
    )
    return [column for column in columns if column not in passed]


def _say(columns: list["_Column"], what: str) -> None:
    if columns:
        others = f" (and {len(columns) - 1} other columns)" if len(columns) > 1 else ""
        warnings.warn(f"column {columns[0].name!r}{others} {what}", UserWarning, stacklevel=4)


def _check_header(header: list[str]) -> None:
    if len(set(header)) < len(header):
        twice = next(name for name in header if header.count(name) > 1)
        raise ValueError(f"column {shown(twice)} occurs twice in the header")
    for name in header:
        if not name.isprintable():
            raise ValueError(f"the name {shown(name)} of a column has control characters")


class _Column:
    """One column while it is read."""

    def __init__(self, name: str):
        self.name = name
        self.values = array.array("d")
        self.n_texts = 0
        self.first_text: tuple[int, str] | None = None

    def add(self, text: str, line: int) -> None:
        try:
            self.values.append(plain_float(text))
        except ValueError:
            self.values.append(np.nan)
            self.n_texts += 1
            self.first_text = self.first_text or (line, text)

    def holds_numbers(self) -> bool:
        """Whether it holds numbers; text in every line is no coordinate.

        Raises:
            ValueError: it holds both.
        """
        if self.first_text is None:
            return True
        if self.n_texts == len(self.values):
            return False
        line, text = self.first_text
        raise ValueError(f"line {line}: {shown(text)} in column {self.name!r} is not a number")

    def is_distinct(self) -> bool:
        """Whether it holds whole numbers, each once."""
        values = np.frombuffer(self.values)
        whole = bool(np.isfinite(values).all() and (values == np.round(values)).all())
        return whole and len(np.unique(values)) == len(values)

    def is_consecutive(self) -> bool:
        """Whether these have no gaps."""
        return self.is_distinct() and np.ptp(np.frombuffer(self.values)) == len(self.values) - 1
