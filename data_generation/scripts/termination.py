"""How a process that is asked to end does so, by SIGTERM (batch systems, services) or by Ctrl-C.

At SIGTERM Python ends at once and without a word. A script shall end as it does on Ctrl-C: what it
writes is whole, what it holds is given back, one line says why.

An interrupt that falls into a callback of the garbage collector or into a finaliser (JAX has both) is
printed as a traceback and forgotten, and the script goes on as if nobody had asked: such a one is
raised anew a moment later.
"""

import contextlib
import signal
import sys
import threading
import time
import traceback
from collections.abc import Iterator
from types import FunctionType

EXIT_TERMINATED = 128 + signal.SIGTERM
MOMENT = 0.01
"""Seconds after which a lost interrupt is raised anew: the callback that swallowed it is then over."""


class Terminated(KeyboardInterrupt):
    """The process was asked to end."""


@contextlib.contextmanager
def termination_raised() -> Iterator[None]:
    """SIGTERM raises `Terminated` inside, and no interrupt is lost.

    Where somebody else answers SIGTERM already, or outside the main thread, all stays as it is.
    """
    main = threading.current_thread() is threading.main_thread()  # only that one may say how
    if not main or signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
        yield
        return
    signal.signal(signal.SIGTERM, _raise)
    try:
        with _lost_interrupts_raised():
            yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _raise(*_: object) -> None:
    raise Terminated


def _raise_after(hook: FunctionType, number: int) -> None:
    """Signals the main thread once it is out of the hook, where the interrupt would be lost for good.

    A busy machine may keep it there for longer than a moment.
    """
    main = threading.main_thread().ident
    assert main is not None
    while any(
        frame.f_code is hook.__code__
        for frame, _ in traceback.walk_stack(sys._current_frames().get(main))
    ):
        time.sleep(MOMENT)
    signal.pthread_kill(main, number)


@contextlib.contextmanager
def _lost_interrupts_raised() -> Iterator[None]:
    """An interrupt that nobody can catch where it was raised comes again a moment later."""
    others = sys.unraisablehook

    def hook(lost: "sys.UnraisableHookArgs") -> None:
        if not issubclass(lost.exc_type, KeyboardInterrupt):
            others(lost)
            return
        again = signal.SIGTERM if issubclass(lost.exc_type, Terminated) else signal.SIGINT
        threading.Timer(MOMENT, _raise_after, (hook, again)).start()

    sys.unraisablehook = hook
    try:
        yield
    finally:
        sys.unraisablehook = others
