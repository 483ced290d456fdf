"""What a session says, counts and keeps."""

import contextlib
import dataclasses
import json
import sys
import types

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


class Tracked(contextlib.AbstractContextManager):
    """Stands for Weights & Biases."""

    def __init__(self):
        self.logged, self.summary = [], {}

    def init(self, **arguments):
        return self

    def __exit__(self, *error):
        return None

    def log(self, row, step=None):
        self.logged.append((step, row))


def test_rows_pictures_and_summary_are_tracked(settings, monkeypatch, tmp_path):
    tracked = Tracked()
    wandb = types.SimpleNamespace(init=tracked.init, Image=lambda file: ("image", file))
    monkeypatch.setitem(sys.modules, "wandb", wandb)
    tracking = dataclasses.replace(settings, wandb=True)
    with session(tracking, "experiments.some") as run:
        run.start("", "first")
        run.folder.log([{"epoch": 1, "loss": 0.5}])
        run.folder.plots.mkdir(exist_ok=True)
        for name in ("b.png", "a.png", "a.pdf"):
            (run.folder.plots / name).write_bytes(b"")
        run.conclude({"answer": 42})
    plots = tmp_path / "runs/one/plots"
    pictures = {f"plots/{name}": ("image", str(plots / f"{name}.png")) for name in "ab"}
    assert tracked.logged == [(1, {"loss": 0.5}), (None, pictures)]
    assert tracked.summary["answer"] == 42


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
