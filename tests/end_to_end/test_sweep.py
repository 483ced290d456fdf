import csv
import dataclasses
import json
import math

import numpy as np
import pytest

from experiments import evaluate, sweep, train
from experiments.run import training
from experiments.run.folder import RunFolder
from experiments.sweeps import progress as sweep_progress
from experiments.sweeps import runs as sweep_runs
from experiments.sweeps.settings import ExecutionSettings
from jkonet_star.solvers.registry import SOLVERS

NETWORK, LINEAR = "jkonet-star-potential", "jkonet-star-linear-potential"
LEARNING = ("--epochs=4", "--batch-size=50", "--hidden=8", "--degree=2", "--radial-centers=3")
GRID = (
    "--potentials=sphere,relu",
    "--particle-counts=80",
    "--n-timesteps=2",
    "--n-gmm-components=0",
    f"--solvers={NETWORK},{LINEAR}",
    "--seeds=0,1",
    "--eval-every=2",
    *LEARNING,
)


class Sweeps:
    """Sweeps of the small grid in one folder."""

    def __init__(self, path):
        self.path = path

    def run(self, name, *flags, status=0):
        arguments = [f"--sweep-name={name}", f"--runs-dir={self.path / 'runs'}"]
        arguments += [f"--data-dir={self.path / 'data'}", *GRID, *flags]
        assert sweep.run(arguments) == status
        return self.path / "runs" / name

    @staticmethod
    def rows(folder):
        with (folder / "table.csv").open(newline="") as file:
            found = list(csv.DictReader(file))
        return {(r["potential"], r["solver"], r["seed"]): r for r in found}


@pytest.fixture(scope="module")
def sweeps(tmp_path_factory):
    return Sweeps(tmp_path_factory.mktemp("sweeps"))


@pytest.fixture(scope="module")
def batched(sweeps):
    return sweeps.run("batched")


def numbers(row):
    measured = ("seconds", "seconds_per_epoch", "seconds_training", "side_by_side")
    return {k: float(v) for k, v in row.items() if k not in measured and _is_number(v)}


def _is_number(text):
    try:
        return math.isfinite(float(text))
    except ValueError:
        return False


def assert_same_results(rows, others):
    assert rows.keys() == others.keys()
    for key, row in rows.items():
        assert row["status"] == others[key]["status"] == "finished"
        left, right = numbers(row), numbers(others[key])
        assert left.keys() == right.keys()
        assert {
            "emd",
            "emd_cumulative",
            "w1",
            "w1_no_motion",
            "w1_floor",
            "drift_error",
        } <= left.keys()
        assert left["w1_no_motion"] > 0
        for name, value in left.items():
            # A closed form is exact here, and its error what rounding leaves.
            assert value == pytest.approx(right[name], rel=1e-3, abs=1e-5), (key, name)


def test_batched_or_one_by_one_the_table_is_the_same(sweeps, batched, capfd):
    alone = sweeps.run("alone", "--nobatched")
    rows = sweeps.rows(batched)
    assert len(rows) == 8
    assert_same_results(rows, sweeps.rows(alone))
    together = {r["side_by_side"] for k, r in rows.items() if k[1] == NETWORK}
    assert together == {"4"}
    assert {r["side_by_side"] for r in sweeps.rows(alone).values()} == {"1"}
    assert len({r["emd"] for k, r in rows.items() if k[1] == NETWORK}) == 4
    assert "8 of 8 runs finished" in capfd.readouterr().out


def test_a_run_is_that_of_the_training_script(sweeps, batched):
    dataset = next(p.name for p in (sweeps.path / "data").iterdir() if "relu" in p.name)
    for solver in (NETWORK, LINEAR):
        arguments = [f"--dataset={dataset}", f"--data-dir={sweeps.path / 'data'}", "--noplots"]
        arguments += [f"--runs-dir={sweeps.path / 'runs'}", f"--run-name={solver}", "--seeds=1"]
        assert train.run([*arguments, f"--solver={solver}", "--eval-every=2", *LEARNING]) == 0
        run = sweeps.path / "runs" / solver
        summary = json.loads((run / "summary.json").read_text())
        row = sweeps.rows(batched)["relu", solver, "1"]
        assert float(row["emd"]) == pytest.approx(
            summary["emd_one_step_ahead"]["mean"], rel=1e-3, abs=1e-6
        )
        law = summary["law"]
        for name in ("energy_distance", "c2st", "variance_ratio"):
            assert float(row[name]) == pytest.approx(law[name]["mean"], rel=1e-3, abs=1e-5)
        assert row["beaten"] == str(law["beaten"])
        swept = batched / "runs" / f"{solver}__explicit__{dataset}__seed_1"
        config = [json.loads((p / "config.json").read_text())["settings"] for p in (run, swept)]
        assert config[0] == config[1]
        assert {p.name for p in run.iterdir()} == {p.name for p in swept.iterdir()}
        rows = [
            (p / "metrics.jsonl").read_text().splitlines()
            for p in (run, swept)
            if solver == NETWORK
        ]
        for one, other in zip(*rows, strict=True) if rows else ():
            left, right = json.loads(one), json.loads(other)
            assert left.keys() == right.keys()
            for name in left.keys() - {"epoch"}:
                np.testing.assert_allclose(left[name], right[name], rtol=1e-3)
    assert evaluate.run([f"--run={swept}", f"--data-dir={sweeps.path / 'data'}", "--noplots"]) == 0


def test_an_interrupted_sweep_continues(sweeps, batched, monkeypatch, capsys):
    with monkeypatch.context() as patched:
        # First in the middle of the networks' training, just after a checkpoint.
        save = training.save_state
        patched.setattr(training, "save_state", _interrupted_after(save, calls=1))
        folder = sweeps.run("interrupted", status=130)
    ends = "interrupted; the same command goes on from what is finished\n"
    assert capsys.readouterr().err.endswith(ends)
    assert not list((folder / "runs").glob("*/summary.json"))
    (batch,) = (folder / "batches").iterdir()
    assert json.loads((batch / "metrics.jsonl").read_text().splitlines()[-1])["epoch"] == 2
    with monkeypatch.context() as patched:
        # Then in the middle of the closed forms.
        finished = sweep_progress.Progress.finished
        patched.setattr(sweep_progress.Progress, "finished", _interrupted_after(finished, calls=6))
        sweeps.run("interrupted", status=130)
    # A kill while a batch goes leaves some of its files.
    half_gone = folder / "batches" / "6f093a04e1fa56be" / "checkpoint" / "2"
    half_gone.mkdir(parents=True)
    summaries = {p: p.stat().st_mtime_ns for p in (folder / "runs").glob("*/summary.json")}
    assert 6 <= len(summaries) < 8
    assert list((folder / "batches").iterdir()) == [half_gone.parents[1]]
    sweeps.run("interrupted")
    assert not list((folder / "batches").iterdir())
    assert all(p.stat().st_mtime_ns == then for p, then in summaries.items())
    assert_same_results(sweeps.rows(folder), sweeps.rows(batched))
    # Seconds are those of the session that ended a run.
    trained = [row for row in sweeps.rows(folder).values() if row["solver"] == NETWORK]
    assert len(trained) == 4
    for row in trained:
        assert 2 * float(row["seconds_per_epoch"]) == pytest.approx(float(row["seconds_training"]))


def test_what_an_earlier_schema_left_unfinished_is_started_anew(sweeps, batched, monkeypatch):
    """In a batch and alone: its other half would be drawn from other random numbers."""
    foreign = dataclasses.replace(SOLVERS[LINEAR], trained=True, side_by_side=False)
    monkeypatch.setattr(sweep_runs, "SOLVERS", {**SOLVERS, LINEAR: foreign})
    grid = ("--seeds=0", "--potentials=relu")
    save = training.save_state
    for solver, owner, name, function in (
        (LINEAR, RunFolder, "finish", lambda *_: None),
        (NETWORK, training, "save_state", save),
    ):
        with monkeypatch.context() as patched:
            patched.setattr(owner, name, _interrupted_after(function, calls=1))
            folder = sweeps.run("earlier", *grid, f"--solvers={solver}", status=130)
    left = sorted(folder.glob("*/*/config.json"))
    assert [p.parts[-3] for p in left] == ["batches", "runs"]
    for file in left:
        config = json.loads(file.read_text())
        file.write_text(json.dumps(config | {"schema_version": 1}))
    steps = []
    monkeypatch.setattr(
        training, "save_state", lambda at, step, state: (steps.append(step), save(at, step, state))
    )
    sweeps.run("earlier", *grid)
    assert steps == [2, 4]
    rows = sweeps.rows(folder)
    assert_same_results(rows, {key: sweeps.rows(batched)[key] for key in rows})
    assert len(rows) == 2


def _interrupted_after(function, *, calls):
    done = 0

    def wrapped(*arguments):
        nonlocal done
        result = function(*arguments)
        done += 1
        if done == calls:
            raise KeyboardInterrupt
        return result

    return wrapped


def test_other_settings_need_another_name(sweeps, batched, capfd):
    before = {p: p.read_bytes() for p in batched.rglob("*.json")}
    sweeps.run("batched", "--epochs=5", status=2)
    error = capfd.readouterr().err
    assert "--epochs=4, not 5" in error
    assert "--sweep-name" in error
    assert before == {p: p.read_bytes() for p in batched.rglob("*.json")}


def test_a_grid_may_grow(sweeps, batched, monkeypatch):
    def unwanted(*arguments):
        raise AssertionError("a finished network is trained again")

    monkeypatch.setattr(sweep_runs, "run_networks", unwanted)
    sweeps.run("batched", f"--solvers={NETWORK},{LINEAR},jkonet-star-linear-interaction")
    rows = sweeps.rows(batched)
    assert len(rows) == 12
    assert {r["status"] for r in rows.values()} == {"finished"}


def test_a_failure_is_recorded_tried_again_and_harms_nobody(sweeps, monkeypatch, capfd):
    attempts = []
    prepared = sweep_runs.SideBySide

    def sometimes(solver, problem):
        attempts.append(problem)
        if len(attempts) == 1:
            raise RuntimeError("out of luck")
        return prepared(solver, problem)

    monkeypatch.setattr(sweep_runs, "SideBySide", sometimes)
    needs_densities = "jkonet-star-linear-potential-internal"
    flags = f"--solvers={LINEAR},{needs_densities}", "--seeds=0"
    folder = sweeps.run("failing", *flags, status=1)
    rows = sweeps.rows(folder)
    assert {k[1]: r["status"] for k, r in rows.items()} == {
        LINEAR: "finished",
        needs_densities: "failed",
    }
    assert len(attempts) == 3  # two datasets, and the one that failed by chance
    assert all(
        "n-gmm-components=0" in r["reason"] for k, r in rows.items() if k[1] == needs_densities
    )
    records = [json.loads(p.read_text()) for p in (folder / "failures").iterdir()]
    assert [r["attempts"] for r in records] == [2, 2]
    said = capfd.readouterr()
    assert "2 of 4 runs finished" in said.out
    assert said.err == "error: 2 of 4 runs failed; the same command tries them again\n"
    assert "failed" in (folder / "table.md").read_text()


def test_what_cannot_be_batched_is_left_to_the_training_script(sweeps, batched, monkeypatch):
    foreign = dataclasses.replace(SOLVERS[LINEAR], trained=True, side_by_side=False)
    monkeypatch.setattr(sweep_runs, "SOLVERS", {**SOLVERS, LINEAR: foreign})
    folder = sweeps.run("foreign", f"--solvers={LINEAR}", "--seeds=0", "--potentials=relu")
    (row,) = sweeps.rows(folder).values()
    assert float(row["emd"]) == pytest.approx(
        float(sweeps.rows(batched)["relu", LINEAR, "0"]["emd"]), rel=1e-6
    )
    (log,) = (folder / "logs").iterdir()
    assert "features, rank" in log.read_text()


def test_the_memory_budget_bounds_a_batch(sweeps, batched):
    budget = ExecutionSettings(memory_budget=1e-6)
    assert budget.batched
    folder = sweeps.run("frugal", "--memory-budget=1e-6", f"--solvers={NETWORK}", "--seeds=0")
    rows = sweeps.rows(folder)
    assert {r["side_by_side"] for r in rows.values()} == {"1"}
    both = {k: r for k, r in sweeps.rows(batched).items() if k in rows}
    assert_same_results(rows, both)


def test_without_solvers_only_data_are_made(sweeps):
    folder = sweeps.run("data", "--solvers=", "--potentials=flat,relu")
    with (folder / "table.csv").open(newline="") as file:
        assert [r["status"] for r in csv.DictReader(file)] == ["finished"] * 2
    assert any("flat" in p.name for p in (sweeps.path / "data").iterdir())
    assert not (folder / "runs").exists()


def test_the_figure_and_the_table_hold_every_solver(batched):
    text = (batched / "table.md").read_text()
    assert "+-" in text
    assert text.count(NETWORK) == 2
    assert text.count(LINEAR) == 2
    assert (batched / "plots" / "errors.png").read_bytes().startswith(b"\x89PNG")
