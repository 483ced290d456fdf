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
def place(tmp_path_factory):
    return tmp_path_factory.mktemp("campaign")


@pytest.mark.parametrize("part", LEAST)
def test_nothing_is_found(part, place):
    results = place / f"{part}.json"
    done = subprocess.run(
        [
            *(sys.executable, str(HERE), "--bounded", f"--part={part}", f"--place={place}"),
            f"--results={results}",
        ],
        cwd=HERE.parents[1],
        capture_output=True,
        text=True,
        timeout=1200,
        check=False,
    )
    assert results.exists(), done.stdout + done.stderr
    found = json.loads(results.read_text())
    assert found["faults"] == []
    counts = found["trials"] | found["counts"]
    for kind, least in LEAST[part].items():
        assert counts[kind] >= least, kind
