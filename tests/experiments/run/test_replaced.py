"""A run that is to be replaced is whole until the new one is finished, whatever becomes of that."""

import os
import signal
import subprocess
import sys

import pytest

from data_generation.scripts.command_line import define_flags, run_script
from data_generation.scripts.termination import Terminated
from experiments import annotate, evaluate, report
from experiments.run import replaced as replaced_run
from experiments.run.folder import RunFolder, open_run
from experiments.run.lock import LOCK, hold, release_all_but
from experiments.run.place import TRAINING
from experiments.run.replaced import keeps_replaced, replaced_runs
from experiments.run.settings import FolderSettings
from experiments.sparse_pixels import __main__ as sparse_pixels


def opened(folder, *, name="demo", resume=False, overwrite=True, seed=1):
    return open_run(str(folder), name, "demo", {"seed": seed}, resume=resume, overwrite=overwrite)


@pytest.fixture
def old(tmp_path):
    run = opened(tmp_path, overwrite=False, seed=0)
    run.log([{"epoch": 1, "loss": [1.5]}])
    (run.path / "energy").mkdir()
    (run.path / "energy" / "energy.json").write_bytes(b"precious")
    run.finish({"emd": 0.5})
    return contents(run.path)


def contents(folder):
    # A kill may leave the lock, which then holds nothing.
    files = (p for p in folder.rglob("*") if p.is_file() and p.name != LOCK)
    return {p.relative_to(folder): p.read_bytes() for p in files}


def names(folder):
    return sorted(p.name for p in folder.iterdir())


def test_the_old_run_goes_when_the_new_one_is_finished(tmp_path, old):
    run = opened(tmp_path)
    assert contents(tmp_path / ".demo.replaced-1") == old
    run.log([{"epoch": 1, "loss": [2.5]}])
    assert contents(tmp_path / ".demo.replaced-1") == old
    run.finish({"emd": 0.25})
    assert names(tmp_path) == ["demo"]
    assert run.config()["settings"] == {"seed": 1}


@keeps_replaced()
def script(folder, error, *, rows=(), state=False, finish=False):
    run = opened(folder)
    run.log(rows)
    if state:
        (run.checkpoints / "3").mkdir(parents=True)
    if finish:
        run.finish({})
    raise error


@pytest.mark.parametrize(
    "error", [KeyboardInterrupt(), ValueError("diverged"), OSError(28, "full")]
)
def test_a_failure_with_nothing_to_resume_puts_the_old_run_back(error, tmp_path, old):
    with pytest.raises(type(error)):
        script(tmp_path, error)
    assert contents(tmp_path / "demo") == old
    assert names(tmp_path) == ["demo"]


@pytest.mark.parametrize("kept", [{"rows": [{"epoch": 1, "loss": 2.5}]}, {"state": True}])
def test_a_failure_that_can_be_resumed_keeps_both(kept, tmp_path, old):
    with pytest.raises(ValueError, match="diverged"):
        script(tmp_path, ValueError("diverged"), **kept)
    assert names(tmp_path) == [".demo.replaced-1", "demo"]
    assert contents(tmp_path / ".demo.replaced-1") == old
    with pytest.raises(ValueError, match=r"give --resume.*; the run .* is whole in .*replaced-1$"):
        opened(tmp_path, overwrite=False)
    opened(tmp_path, resume=True, overwrite=False).finish({})
    assert names(tmp_path) == ["demo"]


@pytest.mark.parametrize(
    ("error", "status", "line"),
    [
        (KeyboardInterrupt(), 130, "interrupted; "),
        (Terminated(), 143, "terminated; "),
        (ValueError("diverged"), 2, "error: diverged; "),
        (OSError(28, "No space left"), 2, "error: [Errno 28] No space left"),
        (ZeroDivisionError("x"), 70, "error: ZeroDivisionError: x; "),
    ],
)
def test_the_last_line_says_where_the_replaced_run_is(error, status, line, tmp_path, old, capsys):
    aside = tmp_path / ".demo.replaced-1"
    end = (
        f"; {tmp_path / 'demo'} is unfinished; the run that it was to replace is whole in {aside}\n"
    )

    def main():
        script(tmp_path, error, rows=[{"epoch": 1, "loss": 2.5}])

    assert run_script(main, define_flags(FolderSettings), argv=[]) == status
    said = capsys.readouterr().err
    assert said.startswith(line)
    assert said.endswith(end)
    assert said.count("\n") == 1
    assert contents(aside) == old

    @keeps_replaced()
    def resumed():
        opened(tmp_path, resume=True, overwrite=False)
        raise KeyboardInterrupt

    assert run_script(resumed, define_flags(FolderSettings), argv=[]) == 130
    assert capsys.readouterr().err == f"interrupted{end}"


def test_a_failure_without_a_replaced_run_says_nothing_of_one(tmp_path, old, capsys):
    def main():
        script(tmp_path, KeyboardInterrupt())

    assert run_script(main, define_flags(FolderSettings), argv=[]) == 130
    assert capsys.readouterr().err == "interrupted\n"


def test_an_interrupted_run_that_has_kept_something_says_that_it_can_go_on(tmp_path, capsys):
    def main():
        script(tmp_path, KeyboardInterrupt(), rows=[{"epoch": 1, "loss": 2.5}])

    assert run_script(main, define_flags(FolderSettings), argv=[]) == 130
    assert capsys.readouterr().err == "interrupted; --run-name=demo --resume goes on\n"


def test_of_a_sweep_it_does_not(tmp_path, capsys):
    """Which has no such flag, and says itself how it goes on."""
    hold(tmp_path)

    def main():
        script(tmp_path, KeyboardInterrupt(), rows=[{"epoch": 1, "loss": 2.5}])

    try:
        assert run_script(main, define_flags(FolderSettings), argv=[]) == 130
    finally:
        release_all_but([])
    assert capsys.readouterr().err == "interrupted\n"


def test_readers_of_an_unfinished_run_say_where_the_replaced_one_is(tmp_path, old, capsys):
    config = {"script": TRAINING, "solver": "jkonet-star-potential", "dataset": "x", "seeds": [0]}
    open_run(str(tmp_path), "demo", "demo", config, resume=False, overwrite=True)
    run, aside = f"--run={tmp_path / 'demo'}", str(tmp_path / ".demo.replaced-1")
    assert evaluate.run([run]) == 2
    said = capsys.readouterr().err
    assert "is not finished; continue it with experiments.train --resume; the run that" in said
    assert said.endswith(f"whole in {aside}\n")
    assert report.run([run]) == 0
    assert capsys.readouterr().out.endswith(
        f"is unfinished; the run that it was to replace is whole in {aside}\n"
    )
    assert aside in (tmp_path / "demo" / "report.html").read_text()
    assert sparse_pixels.run([run, "--mode=sample"]) == 2
    assert capsys.readouterr().err.endswith(f"whole in {aside}\n")
    pytest.importorskip("anndata")
    assert annotate.run([run, "--h5ad=x.h5ad", f"--out={tmp_path / 'y.h5ad'}"]) == 2
    assert capsys.readouterr().err.endswith(f"whole in {aside}\n")


def test_what_fails_after_the_end_changes_nothing(tmp_path, old):
    with pytest.raises(ValueError, match="no network"):
        script(tmp_path, ValueError("no network"), finish=True)
    assert names(tmp_path) == ["demo"]
    assert RunFolder(tmp_path / "demo").config()["settings"] == {"seed": 1}


def test_attempts_are_set_aside_one_after_another(tmp_path, old):
    """Neither the finished run nor the work of an attempt is lost to the next attempt."""
    with pytest.raises(ValueError, match="one"):
        script(tmp_path, ValueError("one"), rows=[{"epoch": 1, "loss": 2.5}])
    attempt = contents(tmp_path / "demo")
    with pytest.raises(ValueError, match="two"):
        script(tmp_path, ValueError("two"))
    assert contents(tmp_path / "demo") == attempt
    assert contents(tmp_path / ".demo.replaced-1") == old
    run = opened(tmp_path, seed=2)
    assert [p.name for p in replaced_runs(run.path)] == [".demo.replaced-1", ".demo.replaced-2"]
    run.finish({})
    assert names(tmp_path) == ["demo"]


PROGRAM = """
import os, signal, shutil, sys
from pathlib import Path
from experiments.run.folder import open_run

def die(*_, **__):
    os.kill(os.getpid(), signal.SIGKILL)

place, folder = sys.argv[1:]
rename, renames = Path.rename, []

def counted(self, target):
    rename(self, target)
    renames.append(target)
    if place == f"after rename {len(renames)}":
        die()

Path.rename = counted
run = open_run(folder, "demo", "demo", {"seed": 1}, resume=False, overwrite=True)
if place == "while it works":
    run.log([{"epoch": 1, "loss": 2.5}])
    die()
if place == "after the summary":
    shutil.rmtree = die
run.finish({})
"""


def killed(folder, place):
    done = subprocess.run([sys.executable, "-c", PROGRAM, place, str(folder)])
    assert done.returncode == -signal.SIGKILL


def test_a_kill_between_the_renames_is_undone_by_the_next_command(tmp_path, old):
    killed(tmp_path, "after rename 1")
    assert not (tmp_path / "demo").exists()
    assert contents(tmp_path / ".demo.replaced-1") == old
    with pytest.raises(ValueError, match=r"is not the folder of a run; .* whole in .*replaced-1$"):
        RunFolder.existing(tmp_path / "demo")
    # A run that has no name of its own does not take the place.
    assert opened(tmp_path, name=None, overwrite=False).path.name == "demo-2"
    with pytest.raises(ValueError, match="demo already exists; give"):
        opened(tmp_path, overwrite=False)
    assert contents(tmp_path / "demo") == old
    assert not replaced_runs(tmp_path / "demo")


@pytest.mark.parametrize("place", ["after rename 2", "while it works"])
def test_a_killed_run_goes_on_and_the_old_one_is_whole(place, tmp_path, old):
    killed(tmp_path, place)
    assert contents(tmp_path / ".demo.replaced-1") == old
    assert RunFolder(tmp_path / "demo").config()["settings"] == {"seed": 1}
    with pytest.raises(ValueError, match=r"already exists.*whole in .*\.demo\.replaced-1"):
        opened(tmp_path, overwrite=False)
    run = opened(tmp_path, resume=True, overwrite=False)
    assert contents(tmp_path / ".demo.replaced-1") == old
    run.finish({})
    assert names(tmp_path) == ["demo"]


def test_a_kill_at_the_very_end_leaves_nothing_for_ever(tmp_path, old):
    killed(tmp_path, "after the summary")
    assert names(tmp_path) == [".demo.replaced-1", "demo"]
    assert opened(tmp_path, resume=True, overwrite=False).finished
    assert names(tmp_path) == ["demo"]


def test_a_failing_rename_leaves_the_old_run(tmp_path, old, monkeypatch):
    rename = os.rename

    def fail_for_new(source, target, *args, **kwargs):
        if ".new-" in str(source):
            raise OSError(5, "Input/output error")
        return rename(source, target, *args, **kwargs)

    monkeypatch.setattr(os, "rename", fail_for_new)
    with pytest.raises(OSError, match="Input/output error"):
        opened(tmp_path)
    assert contents(tmp_path / "demo") == old
    assert names(tmp_path) == ["demo"]
    assert tmp_path / "demo" not in replaced_run._REPLACING


@pytest.mark.parametrize(
    "foreign", ["thesis.txt", "photographs/", "samples.npz/", "plots", ".git/"]
)
def test_a_run_that_holds_what_no_run_writes_is_left_alone(foreign, tmp_path, old):
    thing = tmp_path / "demo" / foreign.rstrip("/")
    if foreign.endswith("/"):
        thing.mkdir()
    else:
        thing.write_text("precious")
    with pytest.raises(
        ValueError, match=f"also holds {thing.name}, which no run writes, so --over"
    ):
        opened(tmp_path)
    assert contents(tmp_path / "demo").items() >= old.items()
    assert names(tmp_path) == ["demo"]


def test_a_link_to_a_run_is_left_alone(tmp_path, old):
    (tmp_path / "link").symlink_to("demo")
    with pytest.raises(ValueError, match="not the folder of a run, so --overwrite leaves it alone"):
        opened(tmp_path, name="link")
    assert contents(tmp_path / "link") == old
