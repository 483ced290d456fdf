"""A process that is asked to end ends, wherever it is just then."""

import contextlib
import gc
import signal
import threading
import time

import pytest
from absl import flags

from data_generation.scripts import command_line
from data_generation.scripts.termination import MOMENT, Terminated, termination_raised


@pytest.mark.parametrize(
    ("asked", "raised"), [(signal.SIGINT, KeyboardInterrupt), (signal.SIGTERM, Terminated)]
)
def test_an_interrupt_in_a_callback_of_the_garbage_collector_is_not_lost(asked, raised, capfd):
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a test's worker ignores it
    left = [asked]

    def callback(phase, info):
        if phase == "start" and left:
            signal.raise_signal(left.pop())

    def work():
        with termination_raised():
            gc.callbacks.append(callback)  # not before: any collection would call it
            gc.collect()
            assert not left
            time.sleep(10)  # a moment is enough

    try:
        with pytest.raises(raised) as caught:
            work()
    finally:
        gc.callbacks.remove(callback)
        signal.signal(signal.SIGINT, before)
    assert caught.type is raised
    assert capfd.readouterr().err == ""


def test_an_interrupt_is_not_raised_anew_while_the_first_is_being_told(monkeypatch):
    """A thread that takes long to start keeps the main thread in the hook: there it would be lost."""
    start = threading.Timer.start

    def slow(timer):
        start(timer)
        time.sleep(10 * MOMENT)

    monkeypatch.setattr(threading.Timer, "start", slow)

    class Interrupted:
        def __del__(self):
            raise Terminated

    def work():
        with termination_raised():
            interrupted = Interrupted()
            del interrupted
            time.sleep(10)

    with pytest.raises(Terminated):
        work()


def test_another_exception_in_a_finaliser_is_told_as_it_was(capfd, monkeypatch):
    told = []
    monkeypatch.setattr("sys.unraisablehook", lambda lost: told.append(lost.exc_type))

    class Fails:
        def __del__(self):
            raise RuntimeError

    with termination_raised():
        failing = Fails()
        del failing
    assert told == [RuntimeError]


@pytest.mark.parametrize("moment", ["before", "after"])
@pytest.mark.parametrize(
    ("error", "status", "said"),
    [(KeyboardInterrupt, 130, "interrupted\n"), (Terminated, 143, "terminated\n")],
)
def test_an_interrupt_beside_the_work_is_told_like_one_within(
    moment, error, status, said, capsys, monkeypatch
):
    done = []

    @contextlib.contextmanager
    def interrupted():
        if moment == "before":
            raise error
        yield
        raise error

    monkeypatch.setattr(command_line, "termination_raised", interrupted)
    values = flags.FlagValues()
    assert command_line.run_script(lambda: done.append(1), values, argv=[]) == status
    assert capsys.readouterr().err == said
    assert done == [1] * (moment == "after")
