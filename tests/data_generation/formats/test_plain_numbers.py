import math

import pytest

from data_generation.formats.plain_numbers import plain_float, plain_int


@pytest.mark.parametrize(
    ("text", "value"),
    [("1", 1), ("-2.5", -2.5), (".5", 0.5), ("3.", 3), (" 1e-3\t", 1e-3), ("+1E5", 1e5)],
)
def test_numbers(text, value):
    assert plain_float(text) == value
    if value == int(value) and set(text) <= set("+-0123456789"):
        assert plain_int(text) == value


def test_what_is_not_finite_is_left_to_the_caller():
    assert math.isnan(plain_float("NaN"))
    assert plain_float("-Infinity") == -math.inf
    assert plain_float("1e999") == math.inf


@pytest.mark.parametrize(
    "text", ["1_0", "\uff11\uff12", "\u0661", "", " ", "0x10", "1,5", "1 0", "e5", "nan0", "\x001"]
)
def test_what_python_takes_for_a_number_and_people_do_not(text):
    for read in (plain_float, plain_int):
        with pytest.raises(ValueError, match="is not a"):
            read(text)


def test_more_digits_than_anybody_means_take_no_time():
    for read in (plain_float, plain_int):
        with pytest.raises(ValueError, match="is not a"):
            read("9" * 10_000_000)
