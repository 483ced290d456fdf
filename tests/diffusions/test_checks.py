"""Values against their hints: what is accepted becomes what is meant, the rest is named."""

import dataclasses
import math
import sys
from fractions import Fraction
from typing import Annotated, Any, Literal

import numpy as np
import pytest

from diffusions.checks import (
    LEAST_FLOAT,
    MOST_FLOAT,
    Bounds,
    Count,
    Decay,
    Natural,
    Positive,
    Rounds,
    Seed,
    Share,
    check_fields,
    check_folder_name,
    check_path,
    conform,
    record,
    shown,
)

Word = Literal["left", "right"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Inner:
    name: str
    size: Count


@dataclasses.dataclass(frozen=True, kw_only=True)
class Outer:
    epochs: Rounds = 10
    rate: Positive = 1e-3
    widths: tuple[Count, ...] = (1,)
    inner: Inner | None = None
    word: Word | Literal["auto"] = "auto"

    def __post_init__(self):
        check_fields(self)


@pytest.mark.parametrize(
    ("value", "hint", "made"),
    [
        (3, int, 3),
        (np.int64(3), Count, 3),
        (0, Natural, 0),
        (2**32 - 1, Seed, 2**32 - 1),
        (1, float, 1.0),
        (np.float32(0.5), Share, 0.5),
        (MOST_FLOAT, Positive, MOST_FLOAT),
        (LEAST_FLOAT, Positive, LEAST_FLOAT),
        (0, Decay, 0.0),
        (-2.5, float, -2.5),
        ("x", str, "x"),
        (True, bool, True),
        (None, int | None, None),
        (None, None, None),
        ("left", Word, "left"),
        ("auto", Word | Literal["auto"], "auto"),
        ("nan", float | Literal["nan"], "nan"),
        (0.5, float | Literal["nan"], 0.5),
        ([1, 2], tuple[Count, ...], (1, 2)),
        ((1, 0.5), tuple[float, float], (1.0, 0.5)),
        ((1, 2), list[int], [1, 2]),
        ([[0, 1], [2]], tuple[tuple[int, ...], ...], ((0, 1), (2,))),
        ({"a": [1]}, dict[str, list[float]], {"a": [1.0]}),
        ({"name": "x", "size": 2}, Inner, Inner(name="x", size=2)),
        (Inner(name="x", size=2), Inner, Inner(name="x", size=2)),
        ({"any": ["thing"]}, Any, {"any": ["thing"]}),
    ],
)
def test_what_is_accepted_becomes_what_is_meant(value, hint, made):
    found = conform(value, hint, "it")
    assert found == made
    assert type(found) is type(made)


@pytest.mark.parametrize(
    ("value", "hint", "message"),
    [
        (0, Count, "it must be at least 1, got 0"),
        (-1, Natural, "it must be at least 0, got -1"),
        (2**31, Count, "it must be at most 2147483647, got 2147483648"),
        (10**23, int, "it must be at most 2147483647, got 100000000000000000000000"),
        (-(2**31) - 1, int, "it must be at least -2147483648, got"),
        (10**6 + 1, Rounds, "it must be at most 1000000, got 1000001"),
        (2**32, Seed, "it must be at most 4294967295"),
        (1.0, int, "it must be a whole number, got 1.0"),
        (True, int, "it must be a whole number, got True"),
        ("1", int, "it must be a whole number, got '1'"),
        (None, int, "it must be a whole number, got None"),
        (0.0, Positive, "it must be positive, got 0.0"),
        (math.nan, Positive, "it must be positive, got nan"),
        (math.inf, Positive, "it must be positive, got inf"),
        (math.nan, float, "it must be a number of float32, .* got nan"),
        (-math.inf, float, "it must be a number of float32, .* got -inf"),
        (1e300, Positive, "it must be a number of float32, 1.2e-38 to 3.4e.38 in size, got 1e.300"),
        (1e-300, Positive, "it must be a number of float32"),
        (Fraction(10**400), float, "it must be a number of float32"),
        (False, float, "it must be a number, got False"),
        ("nan", float, "it must be a number, got 'nan'"),
        (1.0, Decay, r"it must lie in \[0, 1\), got 1.0"),
        (math.nan, Share, r"it must lie in \[0, 1\], got nan"),
        (0.0, Annotated[float, Bounds(above=0, high=1)], r"it must lie in \(0, 1\], got 0.0"),
        (1, str, "it must be text, got 1"),
        (1, bool, "it must be true or false, got 1"),
        ("lift", Word, "unknown it 'lift'; did you mean left"),
        (["left"], Word, r"unknown it \['left'\]"),
        ("atuo", Word | Literal["auto"], r"unknown it 'atuo'.* \(accepted: left, right, auto\)"),
        ("x", float | Literal["nan"], "unknown it 'x'"),
        (5, tuple[int, ...], "it must be a list, got 5"),
        ("12", tuple[int, ...], "it must be a list, got '12'"),
        ([1, 0], tuple[Count, ...], "each of it must be at least 1, got 0"),
        ([1], tuple[float, float], r"it must have 2 entries, got \[1\]"),
        ([1], dict[str, int], r"it must be an object with names, got \[1\]"),
        ({"a": "b"}, dict[str, int], "it.a must be a whole number, got 'b'"),
        ([1], Inner, "it must be an object with names"),
        ({"name": "x"}, Inner, "it has no size"),
        ({"name": "x", "size": 1, "colour": 2}, Inner, "it has the unknown entry 'colour'"),
        ({"name": 1, "size": 1}, Inner, "name must be text, got 1"),
    ],
)
def test_what_is_not_accepted_is_named(value, hint, message):
    with pytest.raises(ValueError, match=message):
        conform(value, hint, "it")


def test_settings_are_checked_when_they_are_made():
    made = Outer(epochs=np.int32(4), rate=1, widths=[2, 3], inner={"name": "x", "size": 1})
    assert made == Outer(epochs=4, rate=1.0, widths=(2, 3), inner=Inner(name="x", size=1))
    assert type(made.epochs) is int
    hash(made)
    with pytest.raises(ValueError, match="each of widths must be at least 1, got -2"):
        Outer(widths=(1, -2))
    with pytest.raises(ValueError, match="unknown word 'up'"):
        Outer(word="up")


def test_a_record_may_hold_more_where_that_is_said():
    content = {"name": "x", "size": 1, "colour": "red"}
    assert record(Inner, content, more=True) == Inner(name="x", size=1)
    with pytest.raises(ValueError, match="the card has the unknown entry 'colour'"):
        record(Inner, content, "the card")
    assert record(Outer, {"rate": 2}) == Outer(rate=2.0)
    with pytest.raises(ValueError, match="epochs must be at least 1"):
        record(Outer, {"epochs": 0})


@pytest.mark.parametrize("name", ["demo", "a.b_c-d", "größe 2", "x" * 200, "日本"])
def test_names_of_folders(name):
    check_folder_name("run_name", name)


@pytest.mark.parametrize(
    "name",
    ["", ".", "..", ".x", "-x", "a/b", "a\\b", "a\nb", "a\x1b[1mb", "a\x00", " a", "a ", "x" * 201]
    + ["é" * 101, "a\u202eb", "a\udce9"],
)
def test_what_is_no_name_of_a_folder(name):
    with pytest.raises(ValueError, match="run_name must name one folder") as caught:
        check_folder_name("run_name", name)
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 300


def test_messages_are_short_and_printable():
    assert shown("a\nb\x1b\u202e\ud800") == r"'a\nb\x1b\u202e\ud800'"
    assert shown("é") == "'é'"
    assert len(shown("x" * 10_000)) == 80
    assert shown(10 ** (sys.get_int_max_str_digits() + 1)) == "a int too long to show"
    with pytest.raises(ValueError, match="at most 2147483647, got a int too long to show"):
        conform(10**5000, Count, "it")


@pytest.mark.parametrize("path", ["a\nb", "a/\x1b[31m", "\x7f", "\x00", "a\u0085"])
def test_paths_without_control_characters(path):
    with pytest.raises(ValueError, match="data_dir must be a path without control characters") as e:
        check_path("data_dir", path)
    assert str(e.value).isprintable()
    check_path("data_dir", "größe/mit\u00a0Raum, 'quoted'")
