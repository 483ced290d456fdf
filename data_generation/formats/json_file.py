"""The one door through which JSON comes in: bounded in size and depth, without what JSON has not.

Refused are NaN and infinities (they are written as text), a name given twice, integers beyond 64 bits
and numbers beyond double precision. What is inside is checked by `diffusions.checks.record`.
"""

import contextlib
import json
import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

from diffusions.checks import record

RecordT = TypeVar("RecordT")

MOST_BYTES = 16 * 2**20
MOST_LINES_BYTES = 2**30
MOST_DEPTH = 32
_MOST_INT_DIGITS = 19  # of 64 bits


def parse_json(text: str | bytes) -> Any:
    """What a JSON text says.

    Raises:
        ValueError: it is damaged, or holds what the module's header refuses.
    """
    try:
        if isinstance(text, bytes):
            text = text.decode("utf-8")
        content = json.loads(
            text,
            parse_int=_int,
            parse_float=_float,
            parse_constant=_constant,
            object_pairs_hook=_object,
        )
    except RecursionError:
        raise ValueError(_TOO_DEEP) from None
    _check_inside(content)
    return content


def read_json(file: Path, *, most_bytes: int = MOST_BYTES) -> Any:
    """Reads a JSON file.

    Args:
        file: the file.
        most_bytes: that it may have.

    Raises:
        ValueError: it is missing, too large, damaged, or holds what the module's header refuses.
    """
    try:
        return parse_json(read_bytes(file, most_bytes))
    except ValueError as error:
        if isinstance(error, FileError):
            raise
        raise ValueError(f"{file} is damaged: {error}") from error


def read_record(
    file: Path, kind: type[RecordT], *, more: bool = False, most_bytes: int = MOST_BYTES
) -> RecordT:
    """Reads a JSON file as a dataclass (`diffusions.checks.record`).

    Raises:
        ValueError: as `read_json` and `record`; it names the file.
    """
    content = read_json(file, most_bytes=most_bytes)
    try:
        return record(kind, content, more=more)
    except ValueError as error:
        raise ValueError(f"{file} is damaged: {error}") from error


def read_lines(file: Path) -> Iterator[Any]:
    """Reads a file of one JSON value per line; a last line that a kill cut off is left out.

    Raises:
        ValueError: it is missing, too large, or another line is damaged.
    """
    with _opened(file) as stream:
        size = number = 0
        while line := stream.readline(MOST_BYTES + 1):
            size, number = size + len(line), number + 1
            if size > MOST_LINES_BYTES or len(line) > MOST_BYTES:
                raise FileError(f"{file} is too large: line {number} ends beyond {size} bytes")
            try:
                value = parse_json(line)
            except ValueError as error:
                if not line.endswith(b"\n"):
                    return
                raise ValueError(f"{file} is damaged: line {number}: {error}") from error
            yield value


class FileError(ValueError):
    """A file that cannot be read at all; the message names it."""


def read_bytes(file: Path, most_bytes: int) -> bytes:
    """The bytes of a regular file of bounded size.

    Raises:
        FileError: it is missing, no file, too large, or cannot be read.
    """
    with _opened(file) as stream:
        # As many as there are: to read is to allocate.
        content = stream.read(min(most_bytes, os.fstat(stream.fileno()).st_size) + 1)
    if len(content) > most_bytes:
        raise FileError(f"{file} is too large: more than {most_bytes / 2**20:g} MiB")
    return content


def read_text(file: Path, most_bytes: int = MOST_BYTES) -> str:
    """The text of a file of bounded size.

    Raises:
        ValueError: as `read_bytes`, or it is not UTF-8.
    """
    try:
        return read_bytes(file, most_bytes).decode("utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{file} is damaged: {error}") from error


@contextlib.contextmanager
def _opened(file: Path) -> Iterator[BinaryIO]:
    try:
        _check_file(file)
        with file.open("rb") as stream:
            yield stream
    except OSError as error:
        raise FileError(f"{file} cannot be read: {error.strerror or error}") from error


def check_file(file: str | Path) -> None:
    """Raises FileError unless the file is there, and no folder, pipe or device."""
    try:
        _check_file(Path(file))
    except OSError as error:
        raise FileError(f"{Path(file)} cannot be read: {error.strerror or error}") from error


def _check_file(file: Path) -> None:
    if not file.exists():
        raise FileError(f"{file} is missing")
    if not file.is_file():  # a pipe would be waited for, and a device may have no end
        raise FileError(f"{file} is not a file")


_TOO_DEEP = f"it is nested more than {MOST_DEPTH} levels deep"


def _check_inside(content: Any) -> None:
    """Raises ValueError where something is nested too deep, or text is no Unicode."""
    level: list[Any] = [[content]]
    for _ in range(MOST_DEPTH + 1):
        inner: list[Any] = []
        for container in level:
            values = [*container, *container.values()] if isinstance(container, dict) else container
            for value in values:
                if isinstance(value, dict | list):
                    inner.append(value)
                elif isinstance(value, str) and not value.isascii() and _has_surrogates(value):
                    raise ValueError(f"it holds text that is no Unicode: {ascii(value[:40])}")
        level = inner
    if level:
        raise ValueError(_TOO_DEEP)


def _has_surrogates(text: str) -> bool:
    return any("\ud800" <= c <= "\udfff" for c in text)


def _int(digits: str) -> int:
    if len(digits.lstrip("-")) > _MOST_INT_DIGITS or not -(2**63) <= int(digits) < 2**63:
        raise ValueError(f"it holds an integer beyond 64 bits, of {len(digits)} characters")
    return int(digits)


def _float(digits: str) -> float:
    number = float(digits)
    if not math.isfinite(number):
        raise ValueError(f"it holds the number {digits[:40]}, which is beyond double precision")
    return number


def _constant(word: str) -> Any:
    raise ValueError(f"it holds {word}, which is no JSON")


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in pairs:
        if name in found:
            raise ValueError(f"it gives {name[:40]!r} twice")
        found[name] = value
    return found
