"""One computation on several devices, and in several processes: the tests of `several_devices`."""

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import jax
import pytest

from checkpoints import latest_step
from data_generation import __main__ as data_generation
from data_generation.scripts.device import SAME_BATCHES

QUICK = (
    *("--dataset=d", "--seeds=0,1", "--epochs=800", "--eval-every=20", "--batch-size=60"),
    *("--hidden=8", "--noplots"),
)
same_numbers = pytest.mark.skipif(
    jax.__version_info__ < SAME_BATCHES, reason="this JAX shuffles otherwise on every device"
)
SECONDS = 120
"""That anything may take here, on a machine that has more to do."""
ROOT = Path(__file__).parents[1]
FOLDER = Path(__file__).parent / "several_devices"
SCRIPTS = "test_scripts.py"


def start(file, **environment):
    """The tests of a file in a process of their own."""
    options = ("-q", "-x", "--noconftest", "-s", "-p", "no:cacheprovider")
    return subprocess.Popen(
        [sys.executable, "-m", "pytest", *options, file],
        cwd=FOLDER,
        env=dict(
            os.environ,
            **environment,
            JAX_PLATFORMS="cpu",
            JAX_DISABLE_MOST_OPTIMIZATIONS="true",
            PYTHONPATH=str(ROOT),
        ),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def check(process):
    said, _ = process.communicate(timeout=600)
    assert process.returncode == 0, said[-8000:]


@pytest.fixture(scope="module")
def numbers(tmp_path_factory):
    """What every system measures on one device and on four."""
    folder = tmp_path_factory.mktemp("numbers")
    check(start(SCRIPTS, JAX_NUM_CPU_DEVICES="4", NUMBERS=str(folder)))
    return folder


@same_numbers
@pytest.mark.slow
def test_members_are_divided_among_devices():
    check(start("test_members.py", JAX_NUM_CPU_DEVICES="4"))


@same_numbers
@pytest.mark.slow
def test_every_system_measures_the_same_on_several_devices(numbers):
    assert len(list(numbers.iterdir())) == 8


def free_port():
    with socket.create_server(("localhost", 0)) as free:
        return free.getsockname()[1]


@same_numbers
@pytest.mark.slow
def test_two_processes_of_two_devices_measure_the_same(numbers):
    coordinator = f"localhost:{free_port()}"
    both = [
        start(
            SCRIPTS,
            JAX_NUM_CPU_DEVICES="2",
            NUMBERS=str(numbers),
            COORDINATOR=coordinator,
            PROCESS=str(i),
        )
        for i in range(2)
    ]
    for process in both:
        check(process)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    place = tmp_path_factory.mktemp("processes")
    flags = ("--dataset-name=d", "--n-particles=60", "--n-timesteps=2", "--n-gmm-components=0")
    assert data_generation.run([*flags, f"--data-dir={place}/data"]) == 0
    return place


def script(place, name, *flags, devices=1):
    """`experiments.train` in a process of its own."""
    return subprocess.Popen(
        [sys.executable, "-m", "experiments.train", *QUICK, f"--run-name={name}", *flags],
        cwd=place,
        env=dict(
            os.environ,
            JAX_NUM_CPU_DEVICES=str(devices),
            JAX_PLATFORMS="cpu",
            JAX_DISABLE_MOST_OPTIMIZATIONS="true",
            PYTHONPATH=str(ROOT),
            TMPDIR=str(place),
        ),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def pair(place, name, *flags):
    where = (f"--coordinator=localhost:{free_port()}", "--processes=2")
    return [script(place, name, *where, f"--process={i}", *flags) for i in range(2)]


def newest(place):
    return latest_step(place / "runs/killed/checkpoint") or 0


@pytest.mark.slow
def test_a_process_that_is_killed_ends_all_and_the_run_goes_on(place):
    for killed, flags in ((0, ()), (1, ("--resume",))):
        before, end = newest(place), time.monotonic() + SECONDS
        both = pair(place, "killed", *flags)
        while newest(place) <= before:
            assert time.monotonic() < end
            time.sleep(0.02)
        both[killed].send_signal(signal.SIGKILL)
        left = both[1 - killed]
        said, wrong = left.communicate(timeout=SECONDS)
        assert left.returncode not in (0, None)
        assert "has ended" in wrong
        assert killed == 1 or said == ""  # the second one shows errors only
        assert "has ended before its time" in both[killed].communicate(timeout=SECONDS)[1]
    both = pair(place, "killed", "--resume")
    for number, process in enumerate(both):
        said, wrong = process.communicate(timeout=SECONDS)
        assert process.returncode == 0, wrong
        assert ("2 seeds on 2 devices of 2 processes" in said) == (number == 0)
    whole = script(place, "whole", devices=2)
    _, wrong = whole.communicate(timeout=SECONDS)
    assert whole.returncode == 0, wrong
    rows = [(place / "runs" / name / "metrics.jsonl").read_text() for name in ("killed", "whole")]
    assert rows[0] == rows[1]
    assert not list(place.glob("jkonet-process-*"))


@pytest.mark.slow
def test_a_process_with_other_flags_ends_both(place):
    where = (f"--coordinator=localhost:{free_port()}", "--processes=2")
    both = [
        script(place, "differs", *where, f"--process={i}", f"--learning-rate={rate}")
        for i, rate in enumerate(("0.1", "0.2"))
    ]
    wrong = [process.communicate(timeout=SECONDS)[1] for process in both]
    assert [process.returncode for process in both] == [2, 2]
    assert "--learning-rate is 0.2 here and 0.1 there" in wrong[1]
    assert "need the same flags" in wrong[0]
    assert not (place / "runs/differs").exists()
