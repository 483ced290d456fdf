"""A small part of the campaign; `make attack` is all of it."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
LEAST = {
    "kills": {"kills": 6, "runs killed and continued": 8},
    "flags": {"flags, at the door": 2000, "flags, in full": 4},
    "files": {"files, forged": 20, "files": 250, "files, by scripts": 6},
    "environments": {},
}

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """All parts, by one process that imports once what it forks."""
    place = tmp_path_factory.mktemp("campaign")
    results = place / "results.json"
    done = subprocess.run(
        [sys.executable, str(HERE), "--bounded", f"--place={place}", f"--results={results}"],
        cwd=HERE.parents[1],
        capture_output=True,
        text=True,
        timeout=4800,
        check=False,
    )
    assert results.exists(), done.stdout + done.stderr
    return json.loads(results.read_text())


def test_nothing_is_found(results):
    assert results["faults"] == []


@pytest.mark.parametrize("part", LEAST)
def test_no_part_was_left_out(part, results):
    counts = results["trials"] | results["counts"]
    for kind, least in LEAST[part].items():
        assert counts[kind] >= least, kind
