"""Interrupts wait for what is being written.

Orbax writes in threads of its own. Interrupted in the middle they go on while the interpreter ends,
fail one after the other, and print a page of tracebacks.
"""

import contextlib
import signal
import threading
from collections.abc import Iterator
from typing import Any


@contextlib.contextmanager
def interrupts_wait() -> Iterator[None]:
    """Ctrl-C is answered at the end of the block; given again, at once."""
    if threading.current_thread() is not threading.main_thread():
        yield  # only the main thread is interrupted, and only it may say how
        return
    before = signal.getsignal(signal.SIGINT)
    if not callable(before):
        yield  # ignored, or nobody's in Python
        return
    waiting: list[Any] = []

    def later(number: int, frame: Any) -> None:
        waiting.append(number)
        if len(waiting) > 1:
            before(number, frame)

    signal.signal(signal.SIGINT, later)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
    if waiting:
        before(waiting[0], None)
