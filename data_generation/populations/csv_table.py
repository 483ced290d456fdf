"""Tables of values separated by commas or tabs: a column of times, and columns of coordinates.

Lines end as they like, may be blank, and quotes may enclose fields. Columns without a number in them,
and a nameless first one, are passed over; so are numbers that name the rows. Whatever else might be no
coordinate is kept and said.
"""

import array
import codecs
import csv
import math
import re
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np

from data_generation.formats.bounded_reading import MOST_FILE_BYTES
from data_generation.formats.plain_numbers import plain_float
from diffusions.checks import shown
from jkonet_star.cells.representation import absent, listed
from jkonet_star.cells.times import CellTimes, parse_times

_TIME_NAMES = ("time", "t")
_NAMES_OF_ROWS = re.compile(
    r"(?:unnamed: ?\d+|(?:obs|row|cell|sample)[ _.]?(?:names?|ids?|index|nr|no|number)?|ids?|index|"
    r"(?:cell[ _.]?)?barcodes?|particles?|cluster|batch|replicate|plate|donor)",
    re.IGNORECASE,
)
SEPARATORS = {".csv": ",", ".tsv": "\t"}
_UTF_16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
_BARCODE = re.compile(r".{0,20}?[ACGT]{8,}(?:-[0-9]+)?", re.ASCII)
_TURN = "cells must be the rows: pandas.read_csv(FILE, index_col=0).T.to_csv(NEW) turns the table"
# Fewer rows than this are numbered by accident: 1, 2, 3 may be coordinates.
_WORTH_A_WORD = 10


class Table(NamedTuple):
    """What a file holds.

    Attributes:
        times: of the n rows, and their unit.
        points: (n, d).
        names: of the d columns.
        time_name: of the column of times.
        masses: the column of the whole population's number, (n,), or None.
    """

    times: CellTimes
    points: np.ndarray
    names: tuple[str, ...]
    time_name: str
    masses: np.ndarray | None


def read_csv(
    path: Path,
    time_key: str | None = None,
    *,
    time_map: Mapping[str, float] | None = None,
    mass_key: str | None = None,
) -> Table:
    """Reads a table.

    Args:
        path: the file, whose suffix says what separates its columns.
        time_key: name of the column of times; `time` or `t` when absent.
        time_map: label -> time, for labels that say none by themselves.
        mass_key: name of the column with the number of the whole population at the time of the row.

    Raises:
        ValueError: what is wrong, with the line; without the file's name.
        UserWarning: of a column that may be no coordinate.
    """
    if path.stat().st_size > MOST_FILE_BYTES:
        raise ValueError(f"has more than {MOST_FILE_BYTES} bytes")
    separator = SEPARATORS[path.suffix.lower()]
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            rows = _rows(csv.reader(file, delimiter=separator, strict=True))
            return _table(rows, separator, time_key, time_map, mass_key)
    except UnicodeDecodeError:
        with path.open("rb") as stream:
            if stream.read(2) in _UTF_16:
                raise ValueError("is a text in UTF-16: save it as UTF-8") from None
        raise ValueError("not a text file") from None


def _rows(reader) -> Iterator[tuple[int, list[str]]]:  # csv has no public name for its readers
    """The rows that are not blank, each with the line that it ends in."""
    begins = 1
    try:
        for row in reader:
            begins = reader.line_num + 1
            if any(text.strip() for text in row):
                yield reader.line_num, row
    except csv.Error as error:
        raise ValueError(f"line {begins}: {error}; is a quote left open?") from None


def _table(
    rows: Iterator[tuple[int, list[str]]],
    separator: str,
    time_key: str | None,
    time_map: Mapping[str, float] | None,
    mass_key: str | None,
) -> Table:
    first = next(rows, None)
    if first is None:
        raise ValueError("the file is empty")
    header = [name.strip() for name in first[1]]
    _check_header(header, separator)
    wanted = _TIME_NAMES if time_key is None else (time_key,)
    key = next((name for name in wanted if name in header), None)
    if key is None:
        raise ValueError(
            f"no column {' or '.join(repr(w) for w in wanted)} (time_key); the columns are "
            f"{listed(header)}{_turned(header, rows, wanted)}"
        )
    if mass_key is not None and (mass_key not in header or mass_key == key):
        raise ValueError(absent("the columns", mass_key, header, "mass_key"))
    at = header.index(key)
    columns = [_Column(name) for i, name in enumerate(header) if i != at]
    times: list[str] = []
    lines = array.array("q")
    for line, row in rows:
        if len(row) != len(header):
            raise ValueError(f"line {line} has {len(row)} fields, the header has {len(header)}")
        times.append(row.pop(at))
        lines.append(line)
        for column, text in zip(columns, row, strict=True):
            column.add(text, line)
    if not times:
        raise ValueError("there are no particles in it")
    found = _times(times, lines, key, time_map)
    # The index that data frames write has no name.
    numbers = [c for c in columns if c.name and c.holds_numbers()]
    masses = next((np.frombuffer(c.values) for c in numbers if c.name == mass_key), None)
    if mass_key is not None and masses is None:
        raise ValueError(f"column {mass_key!r} (mass_key) holds no numbers")
    kept = _coordinates([c for c in numbers if c.name != mass_key])
    if not kept:
        raise ValueError(f"no numeric column beside {key!r}")
    for column in kept:
        column.check_finite()
    points = np.stack([np.frombuffer(c.values) for c in kept], axis=1)
    return Table(found, points, tuple(c.name for c in kept), key, masses)


def _times(
    labels: list[str], lines: array.array, key: str, time_map: Mapping[str, float] | None
) -> CellTimes:
    what = f"column {key!r}"
    try:
        return parse_times(labels, what, time_map=time_map)
    except ValueError as error:
        seen: set[str] = set()
        for label, line in zip(labels, lines, strict=True):
            if label not in seen:
                seen.add(label)
                try:
                    parse_times([label], what, time_map=time_map)
                except ValueError:
                    raise ValueError(f"line {line}: {error}") from None
        raise  # each is a time, but they do not go together


def _turned(
    header: list[str], rows: Iterator[tuple[int, list[str]]], wanted: tuple[str, ...]
) -> str:
    """What to say of a table whose rows are genes and whose columns are cells; nothing of others."""
    for line, row in rows:
        if row[0].strip() in wanted:
            return f"; line {line} begins with {row[0].strip()!r}, as if rows were genes: {_TURN}"
    if len(header) > 2 and all(_BARCODE.fullmatch(name) for name in header[1:]):
        return f"; these are barcodes of cells, and the rows seem to be genes: {_TURN}"
    return ""


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


def _check_header(header: list[str], separator: str) -> None:
    others = [mark for mark in (",", ";", "\t") if mark != separator and mark in header[0]]
    if len(header) == 1 and others:
        raise ValueError(
            f"its columns are separated by {others[0]!r}: write them with commas as .csv, or with tabs "
            "as .tsv, and numbers with points"
        )
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
        self.first_not_finite: tuple[int, str] | None = None

    def add(self, text: str, line: int) -> None:
        try:
            self.values.append(plain_float(text))
            if not math.isfinite(self.values[-1]):
                self.first_not_finite = self.first_not_finite or (line, text)
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

    def check_finite(self) -> None:
        """Raises ValueError where a number is NaN or infinite."""
        if self.first_not_finite is not None:
            line, text = self.first_not_finite
            raise ValueError(f"line {line}: {shown(text)} in column {self.name!r} is not finite")

    def is_distinct(self) -> bool:
        """Whether it holds whole numbers, each once."""
        values = np.frombuffer(self.values)
        whole = bool(np.isfinite(values).all() and (values == np.round(values)).all())
        return whole and len(np.unique(values)) == len(values)

    def is_consecutive(self) -> bool:
        """Whether these have no gaps."""
        return self.is_distinct() and np.ptp(np.frombuffer(self.values)) == len(self.values) - 1
