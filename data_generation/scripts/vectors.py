"""Whether a picture gets a page of vectors beside it. Imports no Matplotlib.

A page takes longer than its picture, most of it for the letters, and few of all pages are ever printed.
"""

import contextlib
import contextvars
from collections.abc import Iterator

FLAG_HELP = "Writes a PDF beside every picture that is drawn, for print."

_wanted = contextvars.ContextVar("vectors", default=False)


@contextlib.contextmanager
def vectors(wanted: bool) -> Iterator[None]:
    """Whether pictures that are drawn inside get one."""
    token = _wanted.set(wanted)
    try:
        yield
    finally:
        _wanted.reset(token)


def vectors_wanted() -> bool:
    """What the innermost `vectors` says; no where there is none."""
    return _wanted.get()
