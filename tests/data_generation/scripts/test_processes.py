"""What several processes may be told, show and write; a group of them stands here for the real one."""

import dataclasses
import socket

import pytest
from absl import flags

from data_generation.scripts import processes
from data_generation.scripts.command_line import (
    Incomplete,
    _without_folder,
    define_flags,
    run_script,
    say,
)
from data_generation.scripts.joining import join
from data_generation.scripts.processes import (
    Group,
    ProcessSettings,
    check_same_flags,
    first_alone,
    first_before_others,
    own_place,
    share_folder,
)
from data_generation.scripts.progress import progress_bar
from experiments.populations.learning_settings import LearningSettings
from experiments.sweeps.folder import SweepFolder
from experiments.sweeps.running import check_complete, run_sweep
from experiments.sweeps.runs import _recorded
from experiments.sweeps.settings import ExecutionSettings, Grid, SimulationSettings, cells_of


class OfTwo(Group):
    """The first process or the second one; what the first one sends is kept for the second."""

    def __init__(self, first, place, sent):
        self.first, self.place, self.sent, self.done = first, place, sent, []
        self.elsewhere = False

    def wait(self):
        self.done.append("wait")

    def given(self, content):
        if self.first:
            self.sent.append(content)
            return content
        return self.sent.pop(0)

    def anywhere(self, here):
        return here or self.elsewhere

    def leave(self, status):
        self.done.append(status)


@pytest.fixture
def of_two(tmp_path, monkeypatch):
    """Makes this process the first or the second."""
    sent = []

    def become(first):
        group = OfTwo(first, tmp_path / "own", sent)
        monkeypatch.setattr(Group, "current", group)
        return group

    return become


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        ({"coordinator": "host"}, "coordinator must be HOST:PORT or slurm, got 'host'"),
        ({"coordinator": ":12"}, "coordinator must be HOST:PORT"),
        ({"coordinator": "host:0"}, "coordinator must be HOST:PORT"),
        ({"coordinator": "host:70000"}, "coordinator must be HOST:PORT"),
        ({"coordinator": "host:12"}, "needs processes, how many, and process, which one"),
        ({"coordinator": "host:12", "processes": 2}, "needs processes"),
        ({"coordinator": "host:12", "processes": 2, "process": 2}, "from 0 to 1, got 2"),
        ({"coordinator": "host:12", "processes": 0, "process": 0}, "processes must be at least 1"),
        ({"coordinator": "slurm", "processes": 2}, "go with coordinator=HOST:PORT"),
        ({"processes": 2, "process": 0}, "go with coordinator=HOST:PORT"),
    ],
)
def test_what_makes_no_group_is_refused(given, reason):
    with pytest.raises(ValueError, match=reason):
        ProcessSettings(**given)


@pytest.mark.parametrize(
    "given",
    [{}, {"coordinator": "slurm"}, {"coordinator": "[::1]:9", "processes": 1, "process": 0}],
)
def test_what_makes_one_is_taken(given):
    assert ProcessSettings(**given).coordinator == given.get("coordinator")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    """Of a script."""

    runs_dir: str = "runs"
    devices: str = "auto"


def test_a_script_that_finds_no_step_of_slurm_says_so(monkeypatch, capsys):
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    values = define_flags(Settings)
    assert run_script(pytest.fail, values, argv=["--coordinator=slurm"]) == 2
    assert "and there is no SLURM_JOB_ID" in capsys.readouterr().err


def test_processes_without_a_coordinator_are_refused(capsys):
    assert run_script(pytest.fail, define_flags(Settings), argv=["--processes=2"]) == 2
    assert "go with coordinator=HOST:PORT" in capsys.readouterr().err


def test_the_others_show_nothing_and_write_elsewhere(of_two, tmp_path, capsys):
    values, found = define_flags(Settings), []

    def main():
        say("a line")
        found.append(values["runs_dir"].value)
        assert progress_bar(total=1).disable
        raise ValueError("what is wrong")

    of_two(first=False)
    assert run_script(main, values, argv=["--runs-dir=a/runs"]) == 2
    assert found == [str(tmp_path / "own/runs")]
    assert capsys.readouterr() == ("", "error: what is wrong\n")
    of_two(first=True)
    assert own_place("a/runs") == "a/runs"
    say("a line")
    assert capsys.readouterr().out == "a line\n"


def test_a_library_that_lost_the_others_is_no_bug(of_two, capsys):
    class JaxRuntimeError(RuntimeError):
        pass

    def main():
        raise JaxRuntimeError("UNKNOWN: Gloo all-reduce failed: Connection closed by peer")

    of_two(first=True)
    assert run_script(main, define_flags(Settings), argv=[]) == 75
    assert "error: another process has ended, and the run with it" in capsys.readouterr().err


def test_a_sweep_ends_where_one_process_fails_unlike_the_others(of_two, tmp_path):
    folder = SweepFolder(tmp_path / "sweep", ExecutionSettings())
    settings = (SimulationSettings(data_dir=str(tmp_path)), LearningSettings())
    cells = cells_of([Grid()], *settings)

    def attempt(error):
        with _recorded(cells, folder) as failed:
            raise error
        return failed

    assert attempt(OSError("no room")) == cells
    of_two(first=True)
    assert attempt(ValueError("refused by all of them")) == cells
    with pytest.raises(OSError, match="no room"):
        attempt(OSError("no room"))
    with pytest.raises(ValueError, match="sends jobs from one process"):
        run_sweep(cells, "sweep", ExecutionSettings(executor="slurm", runs_dir=str(tmp_path)))


def test_a_sweep_with_failed_runs_ends_in_all_processes_alike(of_two):
    """Each waits for the others' last words: without it the library of the others aborts."""
    rows = [{"status": "finished"}, {"status": "diverged"}]
    check_complete(rows)
    for first in (True, False):
        group = of_two(first)
        check_complete(rows)
        assert not group.ends_as_one
        with pytest.raises(Incomplete, match="1 of 3 runs failed; the same command"):
            check_complete([*rows, {"status": "failed"}])
        assert group.ends_as_one
        other = of_two(first)
        other.elsewhere = True
        with pytest.raises(Incomplete):
            check_complete(rows)
        assert other.ends_as_one


def test_the_first_one_says_that_runs_failed(of_two, capsys):
    def main():
        raise Incomplete("1 of 3 runs failed")

    for first, said in ((True, "error: 1 of 3 runs failed\n"), (False, "")):
        of_two(first)
        assert run_script(main, flags.FlagValues(), argv=[]) == 1
        assert capsys.readouterr().err == said


def test_the_first_one_makes_what_the_others_read(of_two):
    group = of_two(first=True)
    with first_before_others():
        assert group.done == []
    assert group.done == ["wait"]
    group = of_two(first=False)
    with first_before_others():
        assert group.done == ["wait"]
    assert group.done == ["wait"]


def test_a_failure_of_the_first_one_ends_the_others(of_two):
    def wrong():
        raise ValueError("it is there already")

    of_two(first=True)
    with pytest.raises(ValueError, match="it is there already"):
        first_alone(wrong)
    of_two(first=False)
    with pytest.raises(ValueError, match="the first process could not begin"):
        first_alone(pytest.fail)
    of_two(first=True)
    first_alone(lambda: None)
    of_two(first=False)
    first_alone(pytest.fail)  # is not asked


def test_the_others_get_the_files_of_a_run_but_its_lock(of_two, tmp_path):
    run = tmp_path / "runs/one"
    (run / "checkpoint/7").mkdir(parents=True)
    (run / "checkpoint/7/state").write_bytes(b"\x00\x01")
    (run / ".lock").write_text("mine")
    of_two(first=True)
    share_folder(run, left_out=".lock")
    of_two(first=False)
    copy = tmp_path / "own/runs/one"
    share_folder(copy, left_out=".lock")
    assert (copy / "checkpoint/7/state").read_bytes() == b"\x00\x01"
    assert [file.name for file in copy.rglob("*") if file.is_file()] == ["state"]


def test_of_a_run_that_is_not_there_they_get_nothing(of_two, tmp_path):
    of_two(first=True)
    share_folder(tmp_path / "none", left_out=".lock")
    of_two(first=False)
    share_folder(tmp_path / "copy", left_out=".lock")
    assert not (tmp_path / "copy").exists()


def test_one_process_alone_asks_nobody(tmp_path):
    assert Group.current is None
    assert not processes.is_follower()
    assert own_place("runs") == "runs"
    with first_before_others():
        first_alone(lambda: None)
    share_folder(tmp_path, left_out=".lock")


def test_a_process_with_other_flags_names_them(of_two):
    flags = {"epochs": "2", "batch_size": "None"}
    for _ in range(3):
        of_two(True)
        check_same_flags(flags)
    second = of_two(False)
    check_same_flags(flags)
    assert not second.ends_as_one
    with pytest.raises(ValueError, match="the same flags: --batch-size is 8 here and None there$"):
        check_same_flags(flags | {"batch_size": "8"})
    assert second.ends_as_one
    with pytest.raises(ValueError, match="--epochs is None here and 2 there$"):
        check_same_flags({"batch_size": "None"})
    of_two(True).elsewhere = True
    with pytest.raises(ValueError, match="the same flags: another one says which"):
        check_same_flags(flags)


def test_paths_are_compared_by_their_last_part():
    assert _without_folder("/here/d") == _without_folder("there/d") == _without_folder("d")
    assert _without_folder(2) == "2"


def test_a_port_in_use_is_refused():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        place = f"127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(ValueError, match=f"--coordinator={place}: .*in use; name another port"):
            join(ProcessSettings(coordinator=place, processes=2, process=0))
