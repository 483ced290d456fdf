"""What a value may be, declared as its type hint and checked in one place. Imports no JAX.

    @dataclasses.dataclass(frozen=True, kw_only=True)
    class Settings:
        epochs: Rounds = 1000
        hidden: tuple[Count, ...] = (64, 64)

        def __post_init__(self):
            check_fields(self)

Settings are checked against their own hints when they are made; what is read from a file is checked
against the hints of the class that it becomes (`record`). Hints are int, float, str, bool, a Literal of
words, None, Any, and unions, tuples, lists, dictionaries and dataclasses of these. Numbers may be
annotated with their `Bounds`, tuples and lists with those of their length; text that is a path is a
`PathText`. An int without bounds fits
into 32 bits, and a float is one that float32 holds, because that is what becomes of them on a device.
"""

import dataclasses
import difflib
import math
import numbers
import types
import typing
import unicodedata
from collections.abc import Callable, Mapping
from typing import Annotated, Any, Literal, TypeVar, get_args, get_origin

RecordT = TypeVar("RecordT")
SettingsT = TypeVar("SettingsT")

MOST_INT = 2**31 - 1
MOST_FLOAT = (2.0 - 2.0**-23) * 2.0**127
LEAST_FLOAT = 2.0**-126
"""The largest number of float32, and the smallest that it holds in full precision."""

_MOST_SHOWN = 80


@dataclasses.dataclass(frozen=True)
class Bounds:
    """Where a number lies.

    Attributes:
        low: the smallest.
        high: the largest.
        above: a bound below all.
        below: a bound above all.
        single: a float must be one of float32.
    """

    low: float | None = None
    high: float | None = None
    above: float | None = None
    below: float | None = None
    single: bool = True

    def contain(self, value: float) -> bool:
        """Whether a number, NaN for one, lies inside."""
        return (
            (self.low is None or value >= self.low)
            and (self.high is None or value <= self.high)
            and (self.above is None or value > self.above)
            and (self.below is None or value < self.below)
            and value == value
        )

    def wanted(self, value: float) -> str:
        """What a number outside should do."""
        low = self.above if self.low is None else self.low
        high = self.below if self.high is None else self.high
        if isinstance(value, float) and low is not None and high is not None:
            left, right = "(" if self.low is None else "[", ")" if self.high is None else "]"
            return f"lie in {left}{low:g}, {high:g}{right}"
        if self.high is not None and value > self.high:
            return f"be at most {self.high}"
        if low is None and high is None:
            return "be finite"
        if self.above is not None:
            return "be positive" if self.above == 0 else f"be above {self.above}"
        return f"be below {self.below}" if self.low is None else f"be at least {self.low}"

    def wanted_of(self, length: int) -> str:
        """What a list of a length outside should do."""
        wanted = self.wanted(length).replace("be", "have", 1)
        return f"{wanted} {'entry' if wanted.endswith(' 1') else 'entries'}"


Natural = Annotated[int, Bounds(0, MOST_INT)]
Count = Annotated[int, Bounds(1, MOST_INT)]
Rounds = Annotated[int, Bounds(1, 10**6)]
"""Of what is done one after the other and leaves a trace, such as a row of metrics per epoch."""
Layers = Annotated[int, Bounds(1, 1000)]
"""Of a network: each is compiled by itself."""
Widths = Annotated[tuple[Count, ...], Bounds(1, 100)]
"""Of the hidden layers of a network."""
Seed = Annotated[int, Bounds(0, 2**32 - 1)]
Double = Annotated[float, Bounds(single=False)]
"""Of double precision: what was computed or measured, not what a device is told."""
Positive = Annotated[float, Bounds(above=0)]
NotNegative = Annotated[float, Bounds(low=0)]
Share = Annotated[float, Bounds(0, 1)]
PositiveShare = Annotated[float, Bounds(above=0, high=1)]
InnerShare = Annotated[float, Bounds(above=0, below=1)]
Decay = Annotated[float, Bounds(low=0, below=1)]
_PATH = "path"
PathText = Annotated[str, _PATH]
"""Of what is read or written: no control characters (`check_path`)."""


def one_of(name: str, value: Any, accepted: tuple[str, ...]) -> None:
    """Raises ValueError, naming the nearest accepted words, unless `value` is one of them."""
    if value in accepted:
        return
    near = difflib.get_close_matches(str(value), accepted, n=3, cutoff=0.5)
    hint = f"; did you mean {' or '.join(near)}?" if near else ""
    raise ValueError(f"unknown {name} {shown(value)}{hint} (accepted: {', '.join(accepted)})")


def check_folder_name(field: str, name: str) -> None:
    """Raises ValueError unless a name is that of one visible folder on any machine.

    Args:
        field: what is named.
        name: the name.
    """
    # A separator would leave the parent; a dash in front is an option to whoever lists the folder;
    # a file system takes 255 bytes, of which temporary names need some.
    if (
        not name
        or name[0] in ".-"
        or name != name.strip()
        or not name.isprintable()
        or set(name) & set("/\\")
        or len(name.encode()) > 200
    ):
        raise ValueError(
            f"{field} must name one folder, got {shown(name)}: at most 200 bytes, without / and \\ "
            "and control characters, and with neither . nor - in front"
        )


def check_path(field: str, path: str) -> None:
    """Raises ValueError where a path has control characters, such as an end of line.

    Args:
        field: what is there.
        path: the path.
    """
    # Python escapes them in every text that is quoted; other spaces and letters are fine.
    if any(unicodedata.category(c) == "Cc" for c in path):
        raise ValueError(f"{field} must be a path without control characters, got {shown(path)}")


def shown(value: Any) -> str:
    """A value in one short line of printable characters, as messages have it."""
    try:
        text = repr(value)
    except ValueError:  # Python writes no integer of more than 4300 digits
        return f"a {type(value).__name__} too long to show"
    text = "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)
    return text if len(text) <= _MOST_SHOWN else f"{text[: _MOST_SHOWN - 3]}..."


def check_fields(settings: Any) -> None:
    """Checks a dataclass against its own hints; lists become tuples, and integers floats, where meant.

    Raises:
        ValueError: the field that is out of its bounds, with the value and what is accepted.
    """
    hints = _hints(type(settings))
    for field in dataclasses.fields(settings):
        value = conform(getattr(settings, field.name), hints[field.name], field.name)
        object.__setattr__(settings, field.name, value)


def part_of(kind: type, settings: Any) -> dict[str, Any]:
    """The fields of a settings class, as other settings that have them too hold them."""
    return {field.name: getattr(settings, field.name) for field in dataclasses.fields(kind)}


def resolved_as(kind: type[SettingsT], settings: Any, choices: Mapping[str, Any]) -> SettingsT:
    """Settings with every choice made.

    Args:
        kind: their class once more, with hints that leave no room for None.
        settings: with None for what is not given.
        choices: what stands in its place.

    Raises:
        ValueError: something is neither given nor chosen.
    """
    given = part_of(type(settings), settings)
    made = {name: value for name, value in choices.items() if given[name] is None}
    return kind(**given | made)


_HINTS: dict[type, dict[str, Any]] = {}


def _hints(kind: type) -> dict[str, Any]:
    if kind not in _HINTS:
        _HINTS[kind] = typing.get_type_hints(kind, include_extras=True)
    return _HINTS[kind]


def record(kind: type[RecordT], content: Any, name: str = "it", *, more: bool = False) -> RecordT:
    """The dataclass that JSON describes, checked against the hints of its fields.

    Args:
        kind: the dataclass.
        content: what was read.
        name: of the content, for messages.
        more: accept entries that are no fields, and leave them out, as does a class with a true `MORE`.

    Raises:
        ValueError: the entry that is missing, unknown, or of another type or size than it should be.
    """
    if not isinstance(content, Mapping):
        raise ValueError(f"{name} must be an object with names, got {shown(content)}")
    hints = _hints(kind)
    fields = {f.name: f for f in dataclasses.fields(kind) if f.init}  # type: ignore[arg-type]
    unknown = [key for key in content if key not in fields]
    if unknown and not (more or getattr(kind, "MORE", False)):
        raise ValueError(f"{name} has the unknown entry {shown(unknown[0])}")
    values = {}
    for key, field in fields.items():
        if key in content:
            values[key] = conform(content[key], hints[key], key)
        elif field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING:
            raise ValueError(f"{name} has no {key}")
    return kind(**values)


def conform(value: Any, hint: Any, name: str) -> Any:
    """The value as its hint has it.

    Args:
        value: any.
        hint: as the module's header lists them.
        name: of the value, for messages.

    Raises:
        ValueError: it is of another type, or out of bounds.
    """
    rule = None
    if get_origin(hint) is Annotated:
        hint, rule = get_args(hint)[:2]
    bounds = rule if isinstance(rule, Bounds) else None
    if hint is Any:
        return value
    if hint in _NUMBERS:
        return _NUMBERS[hint](value, bounds, name)
    if hint in (str, bool, types.NoneType, None):
        wanted = types.NoneType if hint is None else hint
        if not isinstance(value, wanted):
            raise ValueError(f"{name} must be {_WORDS[wanted]}, got {shown(value)}")
        if rule is _PATH and isinstance(value, str):
            check_path(name, value)
        return value
    if dataclasses.is_dataclass(hint):
        kind = typing.cast(type, hint)
        return value if isinstance(value, kind) else record(kind, value, name)
    made = _COMPOUND[get_origin(hint)](value, get_args(hint), name)
    if bounds is not None and not bounds.contain(len(made)):
        raise ValueError(f"{name} must {bounds.wanted_of(len(made))}, got {shown(value)}")
    return made


_WORDS = {str: "text", bool: "true or false", types.NoneType: "absent"}


def _int(value: Any, bounds: Bounds | None, name: str) -> int:
    if isinstance(value, bool) or not isinstance(value, numbers.Integral):
        raise ValueError(f"{name} must be a whole number, got {shown(value)}")
    number = int(value)
    bounds = bounds or Bounds(-MOST_INT - 1, MOST_INT)
    if not bounds.contain(number):
        raise ValueError(f"{name} must {bounds.wanted(number)}, got {shown(number)}")
    return number


def _float(value: Any, bounds: Bounds | None, name: str) -> float:
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise ValueError(f"{name} must be a number, got {shown(value)}")
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if bounds is not None and not (bounds.contain(number) and math.isfinite(number)):
        raise ValueError(f"{name} must {bounds.wanted(number)}, got {shown(number)}")
    single = bounds is None or bounds.single
    if single and not (number == 0 or LEAST_FLOAT <= abs(number) <= MOST_FLOAT):
        raise ValueError(
            f"{name} must be a number of float32, {LEAST_FLOAT:.2g} to {MOST_FLOAT:.2g} in size, got "
            f"{shown(number)}"
        )
    return number


def _literal(value: Any, words: tuple[Any, ...], name: str) -> Any:
    one_of(name, value, words)
    return value


def _union(value: Any, kinds: tuple[Any, ...], name: str) -> Any:
    if value is None and types.NoneType in kinds:
        return None
    *others, last = [kind for kind in kinds if kind is not types.NoneType]
    words = [
        word for kind in (*others, last) if get_origin(kind) is Literal for word in get_args(kind)
    ]
    if isinstance(value, str) and words and str not in kinds:
        return _literal(value, tuple(words), name)
    for kind in others:
        try:
            return conform(value, kind, name)
        except ValueError:
            continue
    return conform(value, last, name)


def _items(value: Any, name: str) -> list[Any]:
    if not isinstance(value, list | tuple):
        raise ValueError(f"{name} must be a list, got {shown(value)}")
    return list(value)


def _tuple(value: Any, kinds: tuple[Any, ...], name: str) -> tuple:
    items = _items(value, name)
    if kinds[-1] is ...:
        kinds = (kinds[0],) * len(items)
    if len(items) != len(kinds):
        raise ValueError(f"{name} must have {len(kinds)} entries, got {shown(value)}")
    named = f"each of {name}"
    return tuple(conform(v, kind, named) for v, kind in zip(items, kinds, strict=True))


def _list(value: Any, kinds: tuple[Any, ...], name: str) -> list:
    return [conform(v, kinds[0], f"each of {name}") for v in _items(value, name)]


def _dict(value: Any, kinds: tuple[Any, ...], name: str) -> dict:
    if not isinstance(value, Mapping):
        raise ValueError(f"{name} must be an object with names, got {shown(value)}")
    key_kind, kind = kinds
    return {
        conform(k, key_kind, f"each name in {name}"): conform(v, kind, f"{name}.{k}")
        for k, v in value.items()
    }


_NUMBERS: dict[Any, Callable[[Any, Bounds | None, str], Any]] = {int: _int, float: _float}
_COMPOUND: dict[Any, Callable[[Any, tuple[Any, ...], str], Any]] = {
    Literal: _literal,
    typing.Union: _union,
    types.UnionType: _union,
    tuple: _tuple,
    list: _list,
    dict: _dict,
}
