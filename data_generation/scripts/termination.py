"""SIGTERM, by which batch systems and service managers ask a process to end before they kill it.

Python ends at once and without a word. A script shall end as it does on Ctrl-C: what it writes is
whole, what it holds is given back, one line says why.
"""

import contextlib
import signal
import threading
from collections.abc import Iterator

EXIT_TERMINATED = 128 + signal.SIGTERM


class Terminated(KeyboardInterrupt):
    """The process was asked to end."""


@contextlib.contextmanager
def termination_raised() -> Iterator[None]:
    """SIGTERM raises `Terminated` inside, unless somebody else answers it already."""
    main = threading.current_thread() is threading.main_thread()  # only that one may say how
    if not main or signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
        yield
        return
    signal.signal(signal.SIGTERM, _raise)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _raise(*_: object) -> None:
    raise Terminated
