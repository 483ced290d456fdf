"""A disk without room: one line, nothing of what was written is lost, and the run goes on."""

import contextlib
import json
import os
import subprocess

import jax
import numpy as np
import pytest

from checkpoints import latest_step, load_energy
from experiments import evaluate, train
from experiments.run import training

TRAINING = ("--dataset=plain", "--hidden=8")


@pytest.fixture
def small_disk(tmp_path):
    """A function that makes a file system of a size, in bytes, and changes it when called again."""
    disk = tmp_path / "disk"
    disk.mkdir()

    def resize(size):
        change = "remount," if os.path.ismount(disk) else ""
        command = ["mount", "-t", "tmpfs", "-o", f"{change}size={size}", "tmpfs", str(disk)]
        try:
            subprocess.run(command, check=True, capture_output=True)
        except (OSError, subprocess.CalledProcessError) as error:
            pytest.skip(f"no file systems can be mounted here: {error}")
        return disk

    yield resize
    with contextlib.suppress(OSError):
        subprocess.run(["umount", str(disk)], capture_output=True)


def result(run):
    leaves = [np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(load_energy(run / "energy"))]
    return leaves, (run / "metrics.jsonl").read_bytes()


@pytest.fixture(scope="module")
def whole(place):
    return result(place.train("on-a-large-disk", *TRAINING))


# How much a state takes depends on how Orbax's threads meet: the disk fills up when a state is there.
@pytest.mark.parametrize("room_for", ["no state", "one state"])
@pytest.mark.filterwarnings("error::pytest.PytestUnraisableExceptionWarning")
def test_a_full_disk_is_one_line_and_the_run_goes_on(
    room_for, small_disk, place, whole, capfd, monkeypatch
):
    disk = small_disk(20_000 if room_for == "no state" else 10_000_000)
    save_state = training.save_state

    def fill_after(*state):
        save_state(*state)
        room = os.statvfs(disk)
        small_disk((room.f_blocks - room.f_bfree) * room.f_frsize + 8192)

    monkeypatch.setattr(training, "save_state", fill_after)
    arguments = [*place.training("full", *TRAINING), f"--runs-dir={disk}"]
    capfd.readouterr()
    assert train.run(arguments) == 2
    said = capfd.readouterr().err.replace("\r", "\n")
    lines = [line for line in said.split("\n") if line.strip() and not line.startswith("training")]
    assert len(lines) == 1
    assert lines[0].startswith("error: ")
    assert "No space left on device" in lines[0]
    assert latest_step(disk / "full" / "checkpoint") == {"no state": None, "one state": 2}[room_for]
    assert not list((disk / "full").rglob("*tmp*"))
    for line in (disk / "full" / "metrics.jsonl").read_text().splitlines():
        json.loads(line)
    monkeypatch.undo()
    small_disk(10_000_000)
    assert train.run([*arguments, "--resume"]) == 0
    assert result(disk / "full") == whole


def test_an_evaluation_without_room_leaves_nothing_half_made(small_disk, place, whole, capfd):
    disk = small_disk(20_000)
    flags = [f"--run={place.runs / 'on-a-large-disk'}", f"--data-dir={place.data}"]

    def refused(output):
        capfd.readouterr()
        assert evaluate.run([*flags, f"--output={output}"]) == 2
        said = capfd.readouterr().err
        assert said.startswith("error: [Errno 28] No space left on device: ")
        assert said.endswith("; what was written before is whole\n")
        assert said.count("\n") == 1
        assert ".new-" not in said

    refused(disk / "new" / "e.json")
    assert list(disk.iterdir()) == []
    assert evaluate.run([*flags, f"--output={disk / 'e.json'}", "--noplots"]) == 0
    before = (disk / "e.json").read_bytes()
    refused(disk / "e.json")
    assert [p.name for p in disk.iterdir()] == ["e.json"]
    assert (disk / "e.json").read_bytes() == before
    small_disk(10_000_000)
    assert evaluate.run([*flags, f"--output={disk / 'e.json'}"]) == 0
    assert {p.name for p in (disk / "e_plots").iterdir()} == {
        f"{name}.png" for name in ("law", "potential", "predictions")
    }
