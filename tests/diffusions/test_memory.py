"""The memory that is free, and what is said of what does not fit."""

import resource
import subprocess
import sys

import pytest

from diffusions import memory
from diffusions.memory import available_bytes, check_memory


def test_what_fits_and_what_does_not(monkeypatch):
    monkeypatch.setattr(memory, "available_bytes", lambda: 3 * 2**30)
    check_memory({"the points": 2**30, "the noise": 3 * 2**30, "a number": 4})
    message = "not enough memory: the noise would take 3.5 GiB, and 3 GiB are free"
    with pytest.raises(ValueError, match=message):
        check_memory({"the points": 2**30, "the noise": 3.5 * 2**30})
    with pytest.raises(ValueError, match=r"1e\+300|9.31e"):
        check_memory({"the points": 1e300})


def test_what_is_free_is_at_most_what_is_there():
    assert 2**20 < available_bytes() < 2**50


def test_the_limit_of_the_process_counts():
    program = "from diffusions.memory import available_bytes; print(available_bytes())"
    limit = 2**30
    done = subprocess.run(
        [sys.executable, "-c", program],
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (limit, limit)),
        capture_output=True,
        text=True,
        check=True,
    )
    assert 0 < int(done.stdout) < limit
