"""What the first seconds of a script go to, on a terminal: JAX is said to be loaded when it is.

Which script needs JAX, and when, only its imports know. So the import itself is watched: a finder that
finds nothing, before all others.
"""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.abc import MetaPathFinder
from typing import Any


@contextmanager
def loading_said(say: Callable[[str], None]) -> Iterator[None]:
    """Inside, the first import of JAX is said, but not into a file.

    Args:
        say: writes a line to standard output.
    """
    watch = _Watch(say)
    if sys.stdout.isatty():
        sys.meta_path.insert(0, watch)
    try:
        yield
    finally:
        watch.end()


class _Watch(MetaPathFinder):
    """Says it once."""

    def __init__(self, say: Callable[[str], None]):
        self._say = say

    def find_spec(self, name: str, *place: Any) -> None:
        """Of no module."""
        if name == "jax":
            self.end()
            self._say("loading JAX ...")

    def end(self) -> None:
        """Looks no longer."""
        if self in sys.meta_path:
            sys.meta_path.remove(self)
