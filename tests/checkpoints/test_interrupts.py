"""An interrupt in the middle of a save comes after it: what is being written is whole."""

import os
import signal
import threading

import numpy as np
import orbax.checkpoint as ocp
import pytest

from checkpoints import latest_step, restore_state, save_state
from checkpoints.array_folder import read_arrays, read_description, save_folder
from checkpoints.interrupts import interrupts_wait

ARRAYS = {"a": np.arange(6.0, dtype=np.float32), "b": np.zeros((2, 3), np.int32)}


@pytest.fixture(autouse=True)
def _interrupts_are_heard():
    """A shell that starts a command in the background lets it ignore them."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture
def _interrupted_saves(monkeypatch):
    """Ctrl-C as soon as Orbax has begun."""
    save = ocp.StandardCheckpointer.save

    def interrupted(self, *args, **kwargs):
        save(self, *args, **kwargs)
        os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(ocp.StandardCheckpointer, "save", interrupted)


@pytest.mark.usefixtures("_interrupted_saves")
def test_a_state_is_whole_before_the_interrupt(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        save_state(tmp_path, 4, ARRAYS)
    assert latest_step(tmp_path) == 4
    for name, array in restore_state(tmp_path, 4, ARRAYS).items():
        np.testing.assert_array_equal(array, ARRAYS[name])
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


@pytest.mark.usefixtures("_interrupted_saves")
def test_a_folder_is_absent_or_whole(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        save_folder(tmp_path / "x", "thing", 1, {}, ARRAYS)
    assert not (tmp_path / "x").exists()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "kill", lambda *args: None)
        save_folder(tmp_path / "x", "thing", 1, {}, ARRAYS)
    found = read_arrays(tmp_path / "x", read_description(tmp_path / "x", "thing", 1))
    np.testing.assert_array_equal(found["a"], ARRAYS["a"])


def test_termination_waits_as_well():
    done = []

    def end(number, frame):
        raise KeyboardInterrupt

    def terminated():
        with interrupts_wait():
            os.kill(os.getpid(), signal.SIGTERM)
            done.append("written")

    before = signal.signal(signal.SIGTERM, end)
    try:
        with pytest.raises(KeyboardInterrupt):
            terminated()
        assert signal.getsignal(signal.SIGTERM) is end
    finally:
        signal.signal(signal.SIGTERM, before)
    assert done == ["written"]


def test_the_second_interrupt_does_not_wait():
    done = []

    def impatient():
        with interrupts_wait():
            os.kill(os.getpid(), signal.SIGINT)
            done.append("after the first")
            os.kill(os.getpid(), signal.SIGINT)
            done.append("after the second")

    with pytest.raises(KeyboardInterrupt):
        impatient()
    assert done == ["after the first"]


def test_other_threads_are_left_alone():
    before, seen = signal.getsignal(signal.SIGINT), []

    def work():
        with interrupts_wait():
            seen.append(signal.getsignal(signal.SIGINT))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [before]
