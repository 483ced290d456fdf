"""One process writes a run at a time, and what a kill leaves stops nobody."""

import errno
import json
import os
import signal
import socket
import subprocess
import sys

import pytest

from experiments.run import lock as run_lock
from experiments.run.folder import RunFolder, check_run, open_run
from experiments.run.lock import LOCK, check_free, held, hold, release, release_all_but

HOLDER = """
import sys, time
from pathlib import Path
from experiments.run.folder import open_run
from experiments.run.lock import hold

folder, what = sys.argv[1:]
if what == "run":
    open_run(folder, "demo", "demo", {"seed": 1}, resume=False, overwrite=False)
else:
    hold(Path(folder))
print("held", flush=True)
time.sleep(600)
"""


@pytest.fixture(autouse=True)
def no_locks_of_other_tests():
    """A run that an earlier test of this process left unfinished is locked until the process ends."""
    release_all_but([])


@pytest.fixture
def holder():
    """Starts a process that holds a lock until the test ends."""
    processes = []

    def start(folder, what="folder"):
        command = [sys.executable, "-c", HOLDER, str(folder), what]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        processes.append(process)
        assert process.stdout.readline() == "held\n"
        return process

    yield start
    for process in processes:
        process.kill()
        process.wait()
        process.stdout.close()


@pytest.fixture
def no_flock(monkeypatch):
    def unsupported(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(run_lock.fcntl, "flock", unsupported)


def written(folder, **record):
    me = {"pid": os.getpid(), "host": socket.gethostname(), "start": run_lock._start(os.getpid())}
    (folder / LOCK).write_text(json.dumps(me | record))


def opened(folder, **flags):
    flags = {"resume": False, "overwrite": False} | flags
    return open_run(str(folder), "demo", "demo", {"seed": 1}, **flags)


@pytest.mark.parametrize("flags", [{}, {"resume": True}, {"overwrite": True}])
def test_a_run_that_another_process_writes_is_refused(flags, holder, tmp_path):
    """Before any work and when it is opened; once that process is killed, it is had at once."""
    process = holder(tmp_path, "run")
    said = rf"demo is being written by process {process.pid} on {socket.gethostname()}$"
    for refused in (
        lambda: opened(tmp_path, **flags),
        lambda: check_run(str(tmp_path), "demo", **{"resume": False, "overwrite": False} | flags),
    ):
        with pytest.raises(ValueError, match=said):
            refused()
    assert held() == []
    assert RunFolder.existing(tmp_path / "demo").config()["settings"] == {"seed": 1}
    process.send_signal(signal.SIGKILL)
    process.wait()
    if flags:
        run = opened(tmp_path, **flags)
        assert json.loads((run.path / LOCK).read_text())["pid"] == os.getpid()
        run.finish({})
    else:
        with pytest.raises(ValueError, match="already exists; give --resume"):
            opened(tmp_path)


def test_nothing_is_left_of_a_lock(tmp_path):
    run = opened(tmp_path)
    assert held() == [run.path]
    opened(tmp_path, resume=True)  # the process that has it may go on
    run.finish({})
    assert held() == []
    assert [p.name for p in tmp_path.glob("**/.*")] == []
    opened(tmp_path, resume=True)  # a finished run is only looked at
    assert held() == []
    run = opened(tmp_path, overwrite=True)
    assert [p.parent.name for p in tmp_path.glob("**/.lock")] == ["demo"]
    run.remove()
    assert held() == []
    assert list(tmp_path.iterdir()) == []


def test_a_run_that_cannot_be_made_is_let_go_of(monkeypatch, tmp_path):
    opened(tmp_path).finish({})

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("experiments.run.folder.write_json", full)
    with pytest.raises(OSError, match="No space left"):
        opened(tmp_path, overwrite=True)
    assert held() == []
    assert list(tmp_path.glob("**/.*")) == []


def test_a_process_lets_go_when_it_ends(tmp_path):
    program = "import sys; from pathlib import Path; from experiments.run.lock import hold\n"
    program += "hold(Path(sys.argv[1])); assert (Path(sys.argv[1]) / '.lock').is_file()"
    subprocess.run([sys.executable, "-c", program, str(tmp_path)], check=True)
    assert list(tmp_path.iterdir()) == []


def test_the_lock_of_another_is_not_removed(tmp_path):
    hold(tmp_path)
    (tmp_path / LOCK).unlink()
    (tmp_path / LOCK).write_text("of another")
    release(tmp_path)
    assert (tmp_path / LOCK).read_text() == "of another"


def test_what_a_lock_says_is_not_trusted_where_the_system_has_locks(tmp_path):
    for text in ("", "[" * 3000, "[1]", '{"pid": 1, "host": "elsewhere"}', "\0\xff"):
        (tmp_path / LOCK).write_text(text, encoding="latin-1")
        hold(tmp_path)
        release(tmp_path)
        assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("no_flock")
def test_without_locks_of_the_system_the_process_must_be_gone(tmp_path):
    written(tmp_path)
    mine = rf"process {os.getpid()} on {socket.gethostname()}; if that has ended, remove .*/\.lock$"
    with pytest.raises(ValueError, match=mine):
        check_free(tmp_path)
    written(tmp_path, host="elsewhere", pid=2**22 + 1)
    with pytest.raises(
        ValueError, match=rf"process {2**22 + 1} on elsewhere; if that has ended, rem"
    ):
        hold(tmp_path)
    for gone in ({"pid": 2**22 + 1}, {"pid": 10**30}, {"start": "1"}):
        written(tmp_path, **gone)
        hold(tmp_path)
        assert json.loads((tmp_path / LOCK).read_text())["pid"] == os.getpid()
        release(tmp_path)
        assert list(tmp_path.iterdir()) == []


def test_a_second_sweep_in_the_folder_is_refused(capsys, holder, tmp_path):
    from experiments.sweep import run

    (tmp_path / "sweep").mkdir()
    process = holder(tmp_path / "sweep")
    flags = ["--potentials=sphere", "--solvers=jkonet-star-linear", f"--runs-dir={tmp_path}"]
    assert run([*flags, f"--data-dir={tmp_path}"]) == 2
    error = capsys.readouterr().err
    assert error == (
        f"error: {tmp_path}/sweep is being written by process {process.pid} on "
        f"{socket.gethostname()}\n"
    )
    assert [p.name for p in (tmp_path / "sweep").iterdir()] == [LOCK]
