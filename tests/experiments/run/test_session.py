"""What a session says, counts and keeps."""

import dataclasses
import json

import pytest

from experiments.run.lock import held
from experiments.run.session import session
from experiments.run.settings import RunSettings


@pytest.fixture
def settings(tmp_path):
    return RunSettings(runs_dir=str(tmp_path / "runs"), run_name="one", seed=7)


def test_a_run_is_opened_said_timed_and_concluded(settings, capsys, tmp_path):
    with session(settings, "experiments.some", activities=("data", "train")) as run:
        with run.timed("data", since=run.begin - 10.0):
            pass
        with run.timed("data", since=run.begin - 20.0):
            pass
        assert run.start("unused", "ten points", cut="only nine", data={"x": "1"}, n=3)
        with run.timed("evaluate"):
            pass
        run.conclude({"answer": 42})
    lines = capsys.readouterr().out.splitlines()
    path = tmp_path / "runs/one"
    assert lines[0] == "ten points"
    assert lines[1].endswith(f"float32, seed 7; results in {path}")
    assert lines[2:4] == ["  only nine", "  evaluating ..."]
    assert lines[-1] == f"  {path}; for a page of it: python -m experiments.report --run={path}"
    summary = json.loads((path / "summary.json").read_text())
    assert summary["answer"] == 42
    assert summary["device"]
    seconds = summary["seconds"]
    assert list(seconds) == ["data", "train", "evaluate", "total"]
    assert seconds["data"] >= 30.0
    assert seconds["train"] == 0.0
    config = json.loads((path / "config.json").read_text())
    assert config["settings"] == {"script": "experiments.some", "seed": 7, "n": 3}
    assert config["data"] == {"x": "1"}


def test_a_finished_run_is_left_as_it_is(settings, capsys, tmp_path):
    with session(settings, "experiments.some") as run:
        run.start("", "first")
        run.conclude({"answer": 42})
    before = (tmp_path / "runs/one/summary.json").read_bytes()
    capsys.readouterr()
    with session(dataclasses.replace(settings, resume=True), "experiments.some") as run:
        assert not run.start("", "second")
    assert capsys.readouterr().out == f"{tmp_path / 'runs/one'} is already finished\n"
    assert (tmp_path / "runs/one/summary.json").read_bytes() == before


def test_what_cannot_be_finished_is_refused_before_any_work(settings, tmp_path):
    (tmp_path / "runs/one").mkdir(parents=True)
    with (
        pytest.raises(ValueError, match="already exists"),
        session(settings, "experiments.some"),
    ):
        pytest.fail("the work began")


def test_a_run_is_let_go_of_when_its_script_fails(settings, tmp_path):
    before = held()

    def script():
        with session(settings, "experiments.some") as run:
            run.start("", "first")
            assert held() == [*before, tmp_path / "runs/one"]
            raise RuntimeError("of the work")

    with pytest.raises(RuntimeError, match="of the work"):
        script()
    assert held() == before
