"""Interrupts wait for what is being written.

Orbax writes in threads of its own. Interrupted in the middle they go on while the interpreter ends,
fail one after the other, and print a page of tracebacks.
"""

import contextlib
import signal
import threading
from collections.abc import Iterator
from typing import Any

_INTERRUPTS = (signal.SIGINT, signal.SIGTERM)


@contextlib.contextmanager
def interrupts_wait() -> Iterator[None]:
    """Ctrl-C and SIGTERM are answered at the end of the block; given again, at once."""
    if threading.current_thread() is not threading.main_thread():
        yield  # only the main thread is interrupted, and only it may say how
        return
    found = {number: signal.getsignal(number) for number in _INTERRUPTS}
    # Others are ignored, or nobody's in Python.
    answers: dict[int, Any] = {
        number: answer for number, answer in found.items() if callable(answer)
    }
    waiting: list[int] = []

    def later(number: int, frame: Any) -> None:
        waiting.append(number)
        if len(waiting) > 1:
            answers[number](number, frame)

    for number in answers:
        signal.signal(number, later)
    try:
        yield
    finally:
        for number, answer in answers.items():
            signal.signal(number, answer)
    if waiting:
        answers[waiting[0]](waiting[0], None)
