"""Standard streams that a script can rely on, whatever it was started with.

Where a stream is closed (`>&-`), the next file opened would take its number, and whatever a library
then prints would go into that file: the null device takes the place first. Standard error never stops
the work, because progress and warnings are not what it is done for. Standard output does: nobody is
left to read what was asked for.
"""

import contextlib
import os
import sys
from collections.abc import Iterator
from typing import Any, TextIO


class OutputError(Exception):
    """Standard output cannot be written."""


def write_output(text: str) -> None:
    """Writes to standard output, at once.

    Raises:
        BrokenPipeError: whoever read it went away.
        OutputError: it cannot be written otherwise.
    """
    try:
        sys.stdout.write(encodable(text, sys.stdout))
        sys.stdout.flush()
    except OSError as error:
        _to_null(sys.stdout)
        if isinstance(error, BrokenPipeError):
            raise
        raise OutputError(f"cannot write to standard output: {error.strerror}") from error


def encodable(text: str, stream: Any) -> str:
    """A text as a stream can encode it: a terminal in the C locale takes ASCII only."""
    encoding = getattr(stream, "encoding", None) or "utf-8"
    return text.encode(encoding, "backslashreplace").decode(encoding)


def escaped(text: str) -> str:
    """A text with its control characters spelled out: they could rewrite a terminal."""
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


def open_closed_streams() -> None:
    """Puts the null device where standard input, output or error is closed."""
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(number)
        except OSError:
            # The lowest free number is this one, because those below are open.
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)
        if getattr(sys, name) is None:
            mode = "r" if number == 0 else "w"
            setattr(sys, name, os.fdopen(number, mode, encoding="utf-8", closefd=False))


@contextlib.contextmanager
def lenient_errors() -> Iterator[None]:
    """Inside, what cannot be written to standard error is dropped."""
    before = sys.stderr
    sys.stderr = _Lenient(before)  # type: ignore[assignment]
    try:
        yield
    finally:
        sys.stderr = before


class _Lenient:
    """A stream whose failures are its own affair."""

    def __init__(self, stream: TextIO):
        self._stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        try:
            self._stream.write(encodable(text, self._stream))
        except OSError:
            _to_null(self._stream)
        return len(text)

    def flush(self) -> None:
        try:
            self._stream.flush()
        except OSError:
            _to_null(self._stream)


def _to_null(stream: TextIO) -> None:
    """Lets the stream's own buffer go: Python would complain of it when it ends."""
    with contextlib.suppress(OSError, ValueError):  # a stream of a test may have no number
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, stream.fileno())
        os.close(null)
