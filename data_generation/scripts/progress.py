"""What is said while one waits: a bar on a terminal, none in a file, and a line before what lasts.

A program on a device cannot be asked how far it is. What it is given in parts can: a thread looks which
of the parts' results have come, and moves the bar; the work itself waits for nothing.
"""

import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from tqdm import tqdm

from data_generation.scripts.processes import is_follower

_SECONDS_BETWEEN_LOOKS = 0.2


def progress_bar(**options: Any) -> tqdm:
    """A bar on a terminal, which is gone when its work is done; nothing where output goes to a file."""
    # Without an argument tqdm writes bars into files, too.
    return tqdm(**{"leave": False, "disable": True if is_follower() else None, **options})


class Parts:
    """Moves a bar as parts of a work come to their end, in their order."""

    def __init__(self, bar: tqdm):
        self._bar = bar
        self._pending: deque[tuple[int, Any]] = deque()

    def expect(self, size: int, result: Any) -> None:
        """Takes a part that has been started, and an array of JAX that it ends with."""
        self._pending.append((size, result))

    def look(self) -> None:
        """Moves the bar to where the work is."""
        while self._pending and self._pending[0][1].is_ready():
            self._bar.update(self._pending.popleft()[0])


@contextmanager
def watched(bar: tqdm) -> Iterator[Parts]:
    """Parts whose bar moves by itself while they are computed."""
    parts, over = Parts(bar), threading.Event()

    def watch() -> None:
        while not over.wait(_SECONDS_BETWEEN_LOOKS):
            parts.look()

    thread = threading.Thread(target=watch, daemon=True)
    if not bar.disable:
        thread.start()
    try:
        yield parts
    finally:
        over.set()
        if not bar.disable:
            thread.join()
            parts.look()
