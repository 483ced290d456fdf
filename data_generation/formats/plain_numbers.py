"""Numbers as people write them in tables, flags and grids.

Python's own `float` and `int` also take `1_0` for ten and the digits of every script, which in data are
slips or damage.
"""

import re

_WHOLE = re.compile(r"[+-]?[0-9]+", re.ASCII)
_NUMBER = re.compile(
    r"[+-]?(?:(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:e[+-]?[0-9]+)?|nan|inf(?:inity)?)",
    re.ASCII | re.IGNORECASE,
)
_MOST_DIGITS = 400
"""More than any number that is meant has; far fewer than take noticeable time."""


def plain_float(text: str) -> float:
    """The number that a text spells; NaN and infinities are for the caller to judge.

    Raises:
        ValueError: it spells none.
    """
    stripped = text.strip(" \t\r\n")
    if len(stripped) > _MOST_DIGITS or not _NUMBER.fullmatch(stripped):
        raise ValueError(f"{text[:40]!r} is not a number")
    return float(stripped)


def pairs(text: str | None, name: str) -> dict[str, float] | None:
    """Word -> number, of a text such as `early=0,late=2.5`; None of None.

    Args:
        text: the text.
        name: of it, for the message.

    Raises:
        ValueError: it is none.
    """
    if text is None:
        return None
    found = {}
    for pair in text.split(","):
        word, equals, number = pair.rpartition("=")
        try:
            found[word.strip()] = plain_float(number)
        except ValueError:
            equals = ""
        if not equals:
            raise ValueError(f"{name} must be like early=0,late=2.5, got {text[:100]!r}")
    return found


def plain_int(text: str) -> int:
    """The whole number that a text spells.

    Raises:
        ValueError: it spells none.
    """
    stripped = text.strip(" \t\r\n")
    if len(stripped) > _MOST_DIGITS or not _WHOLE.fullmatch(stripped):
        raise ValueError(f"{text[:40]!r} is not a whole number")
    return int(stripped)
