"""A run that was killed at any moment and resumed is the run that nobody interrupted, bit for bit.

The training has three chunks, of 3, 3 and 1 epochs, each followed by rows and a checkpoint.
"""

import itertools
import json
import os
import shutil
import signal
import time

import jax
import numpy as np
import pytest

import checkpoints.array_folder
import checkpoints.training
import experiments.run.training
from checkpoints import latest_step, load_energy, save_state
from experiments.run.folder import RunFolder

TRAINING = (
    "--dataset=plain",
    "--epochs=7",
    "--eval-every=3",
    "--seeds=0,2",
    "--ema-decay=0.5",
    "--weight-decay=0.01",
    "--learning-rate=0.02",
)


def result(run):
    """Everything that a run leaves, except how long it took."""
    leaves = jax.tree_util.tree_leaves_with_path(load_energy(run / "energy"))
    summary = json.loads((run / "summary.json").read_text())
    del summary["seconds"], summary["peak_memory_bytes"]
    return {
        "energy": {jax.tree_util.keystr(p): np.asarray(leaf).tobytes() for p, leaf in leaves},
        "metrics": (run / "metrics.jsonl").read_bytes(),
        "summary": summary,
        "files": sorted(p.name for p in run.iterdir()),
    }


@pytest.fixture(scope="module")
def uninterrupted(place):
    return result(place.train("uninterrupted", *TRAINING))


def test_the_same_command_twice_is_the_same_run(place, uninterrupted):
    assert result(place.train("again", *TRAINING)) == uninterrupted
    assert uninterrupted["files"] == [
        "config.json",
        "energy",
        "metrics.jsonl",
        "summary.json",
        "tensorboard",
    ]


class Kill:
    """Replaces a function: at the n-th call it does a part of the work and interrupts."""

    def __init__(self, function, call=1, part=lambda *args: None):
        self.function, self.part = function, part
        self.left = call

    def __call__(self, *args, **kwargs):
        self.left -= 1
        if self.left == 0:
            self.part(*args)
            raise KeyboardInterrupt
        return self.function(*args, **kwargs)

    def __get__(self, instance, owner=None):
        return lambda *args, **kwargs: self(instance, *args, **kwargs)


def half_of_the_rows(run, rows):
    text = "".join(json.dumps(row) + "\n" for row in rows)
    with (run.path / "metrics.jsonl").open("a") as file:
        file.write(text[: len(text) // 2])


def half_of_the_state(folder, step, state):
    """What Orbax has on the disk before it renames."""
    save_state(folder.parent / "elsewhere", step, state)
    written = folder.parent / "elsewhere" / str(step)
    next((written / "d").iterdir()).unlink()
    folder.mkdir(exist_ok=True)
    shutil.move(written, folder / f"{step}.orbax-checkpoint-tmp")
    shutil.rmtree(folder.parent / "elsewhere")


def half_of_the_removal(folder):
    doomed = folder.with_name(f"removed-{folder.name}")
    folder.rename(doomed)
    (doomed / "_METADATA").unlink()


LOG = (RunFolder, "log")
SAVE = (experiments.run.training, "save_state")
REMOVE = (checkpoints.training, "_remove")
MOMENTS = {
    "before the first rows": (*LOG, 1, lambda *args: None, None),
    "inside the first rows": (*LOG, 1, half_of_the_rows, None),
    "before the first state": (*SAVE, 1, lambda *args: None, None),
    "inside the first state": (*SAVE, 1, half_of_the_state, None),
    "inside later rows": (*LOG, 2, half_of_the_rows, 3),
    "between rows and state": (*SAVE, 2, lambda *args: None, 3),
    "inside a later state": (*SAVE, 2, half_of_the_state, 3),
    "after a state": (*SAVE, 2, save_state, 6),
    "before the older state is removed": (*REMOVE, 1, lambda *args: None, 6),
    "while the older state is removed": (*REMOVE, 1, half_of_the_removal, 6),
    "after the last state": (*SAVE, 3, save_state, 7),
    "while the energy is written": (
        checkpoints.array_folder,
        "_checksums",
        1,
        lambda *args: None,
        7,
    ),
    "before the summary": (RunFolder, "finish", 1, lambda *args: None, 7),
}


def interrupted(place, name, moment, *flags):
    """Starts or continues a run and interrupts it."""
    owner, attribute, call, part, step = MOMENTS[moment]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(owner, attribute, Kill(getattr(owner, attribute), call, part))
        run = place.train(name, *TRAINING, *flags, status=130)
    assert not (run / "summary.json").exists()
    assert latest_step(run / "checkpoint") == step
    return run


@pytest.mark.parametrize("moment", MOMENTS)
def test_an_interrupted_run_resumes_to_the_same_bits(moment, place, uninterrupted, capfd):
    name = moment.replace(" ", "-")
    run = interrupted(place, name, moment)
    kept = "" if moment == "before the first rows" else f"; --run-name={name} --resume goes on"
    assert capfd.readouterr().err.endswith(f"interrupted{kept}\n")
    place.train(name, *TRAINING, "--resume")
    assert result(run) == uninterrupted


def test_a_run_may_be_interrupted_again_and_again(place, uninterrupted):
    run = interrupted(place, "often", "before the first state")
    interrupted(place, "often", "inside later rows", "--resume")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(*LOG, Kill(RunFolder.log, 1, half_of_the_rows))
        place.train("often", *TRAINING, "--resume", status=130)
    assert latest_step(run / "checkpoint") == 3
    place.train("often", *TRAINING, "--resume")
    assert result(run) == uninterrupted


def test_a_terminated_run_says_so_and_resumes(place, uninterrupted, monkeypatch, capfd):
    """SIGTERM, as a batch system sends it before it kills, while a state is written."""
    calls = itertools.count(1)

    def save(folder, step, state):
        if next(calls) == 2:
            os.kill(os.getpid(), signal.SIGTERM)
        save_state(folder, step, state)

    before = signal.getsignal(signal.SIGTERM)
    with monkeypatch.context() as patch:
        patch.setattr(*SAVE, save)
        run = place.train("terminated", *TRAINING, status=143)
    err = capfd.readouterr().err.replace("\r", "\n").splitlines()
    said = [line for line in err if line.strip() and "epoch" not in line]
    assert said == ["terminated; --run-name=terminated --resume goes on"]
    assert signal.getsignal(signal.SIGTERM) is before
    place.train("terminated", *TRAINING, "--resume")
    assert result(run) == uninterrupted


def test_a_resumed_run_does_only_what_is_left(place, monkeypatch):
    """Otherwise equal bits would prove nothing."""
    run = interrupted(place, "left", "after a state")
    steps = []
    monkeypatch.setattr(
        *SAVE, lambda folder, step, state: (steps.append(step), save_state(folder, step, state))
    )
    place.train("left", *TRAINING, "--resume")
    assert steps == [7]
    assert (run / "summary.json").is_file()


@pytest.mark.parametrize(
    ("flag", "message"),
    [
        ("--learning-rate=0.03", "--learning-rate=0.02, not 0.03"),
        ("--seeds=0,1", "--seeds=[0, 2], not [0, 1]"),
        ("--epochs=14", "--epochs=7, not 14"),
        ("--eval-every=2", "--eval-every=3, not 2"),
        ("--dataset=full", "not "),
        ("--scheme=implicit", "--scheme=explicit, not implicit"),
        ("--solver=jkonet-star-time-potential", "--solver=jkonet-star-potential, not jkonet-star-"),
    ],
)
def test_a_resumed_run_keeps_its_settings(flag, message, place, uninterrupted, capsys):
    unfinished = place.runs / "unfinished"
    if not unfinished.exists():
        interrupted(place, "unfinished", "between rows and state")
    before = {p: p.read_bytes() for p in unfinished.rglob("*") if p.is_file()}
    capsys.readouterr()
    place.train("unfinished", *TRAINING, flag, "--resume", status=2)
    err = capsys.readouterr().err
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert "was started with" in err
    assert message in err
    assert {p: p.read_bytes() for p in unfinished.rglob("*") if p.is_file()} == before


def test_an_unfinished_run_of_an_earlier_schema_is_refused_until_it_is_overwritten(
    place, uninterrupted, capsys
):
    run = interrupted(place, "earlier", "between rows and state")
    config = json.loads((run / "config.json").read_text())
    (run / "config.json").write_text(json.dumps(config | {"schema_version": 1}))
    before = {p: p.read_bytes() for p in run.rglob("*") if p.is_file()}
    capsys.readouterr()
    place.train("earlier", *TRAINING, "--resume", status=2)
    err = capsys.readouterr().err
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert "earlier is an unfinished run of an earlier release" in err
    assert "--overwrite" in err
    assert {p: p.read_bytes() for p in run.rglob("*") if p.is_file()} == before
    assert result(place.train("earlier", *TRAINING, "--overwrite")) == uninterrupted


def test_a_finished_run_says_so_and_stays(place, uninterrupted, capsys):
    run = place.runs / "uninterrupted"
    before = {p: p.read_bytes() for p in run.rglob("*") if p.is_file()}
    place.train("uninterrupted", *TRAINING, "--resume")
    assert "uninterrupted is already finished" in capsys.readouterr().out
    assert {p: p.read_bytes() for p in run.rglob("*") if p.is_file()} == before


def test_a_damaged_state_is_one_error(place, uninterrupted, capfd):
    run = interrupted(place, "damaged-state", "after a state")
    for file in (run / "checkpoint" / "6").rglob("*"):
        if file.is_file():
            file.write_bytes(file.read_bytes()[:10])
    rows = (run / "metrics.jsonl").read_bytes()
    capfd.readouterr()
    place.train("damaged-state", *TRAINING, "--resume", status=2)
    err = capfd.readouterr().err
    assert err.startswith("error: cannot restore the state in ")
    assert (run / "metrics.jsonl").read_bytes() == rows


def test_the_linear_solvers_resume_too(place):
    flags = ("--dataset=plain", "--solver=jkonet-star-linear-potential", "--radial=none")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(RunFolder, "finish", Kill(RunFolder.finish))
        run = place.train("linear", *flags, status=130)
    place.train("linear", *flags, "--resume")
    other = place.train("linear-whole", *flags)
    for a, b in zip(
        jax.tree.leaves(load_energy(run / "energy")),
        jax.tree.leaves(load_energy(other / "energy")),
        strict=True,
    ):
        assert np.asarray(a).tobytes() == np.asarray(b).tobytes()


def wait_for(condition, process):
    start = time.monotonic()
    while not condition():
        assert process.poll() is None, "it ended before it could be killed"
        assert time.monotonic() - start < 300
        time.sleep(0.005)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("solver", "moments"),
    [("jkonet-star-potential", (None, 20, 80)), ("jkonet-star", (80,))],
)
def test_a_killed_process_resumes_to_the_same_bits(solver, moments, place):
    """SIGKILL, which nothing can catch, before, at and some time after the first states."""
    dataset = "plain" if solver == "jkonet-star-potential" else "full"
    flags = (f"--dataset={dataset}", f"--solver={solver}", "--epochs=300", "--eval-every=20")
    whole = result(place.train(f"whole-{solver}", *flags))
    steps_seen = []
    for number, moment in enumerate(moments):
        name = f"killed-{solver}-{number}"
        run = place.runs / name
        process = place.apart("experiments.train", *place.training(name, *flags))
        if moment is None:
            wait_for((run / "config.json").is_file, process)
        else:
            wait_for(lambda r=run, m=moment: (latest_step(r / "checkpoint") or 0) >= m, process)
            # Anywhere between two states, or inside one.
            time.sleep(0.013 * number)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        assert process.returncode == -signal.SIGKILL
        assert not (run / "summary.json").exists()
        steps_seen.append(latest_step(run / "checkpoint") or 0)
        resumed = place.apart("experiments.train", *place.training(name, *flags), "--resume")
        _, err = resumed.communicate(timeout=500)
        assert resumed.returncode == 0, err
        assert result(run) == whole
    assert all(a < b for a, b in itertools.pairwise(steps_seen))
    assert steps_seen[-1] < 300
