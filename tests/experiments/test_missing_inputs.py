"""What a command line names and is not there: said before JAX is loaded, as the work itself says it."""

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from data_generation.populations.datasets import load_dataset
from data_generation.scripts.command_line import script_module
from experiments import train
from experiments.populations.annotation import annotate
from experiments.populations.settings import AnnotateSettings
from experiments.run.folder import RunFolder

ROOT = Path(train.__file__).parents[1]
INPUTS = {
    "run",
    "dataset",
    "datasets",
    "data_path",
    "checkpoint",
    "weights",
    "inception_weights",
    "lpips_weights",
    "model",
    "load_from_file",
    "h5ad",
    "reference",
    "embryoid_body",
    "resume",
}
"""Flags that name something that must be there; of these names, some scripts' mean something else."""
NO_INPUT = {("experiments.sparse_pixels", "model"), ("experiments.learned_denoiser", "weights")}
NETWORK = "holds no saved network (network.json is missing)"
RESUMED = "no run runs/none to resume; runs holds lost, other, unfinished"
FOLDER = "no folder none; CIFAR-10 is read from cifar-10-batches-bin or cifar-10-batches-py"
MISSING = {
    "experiments.train --dataset=plian": "no dataset 'plian'; did you mean plain?",
    "experiments.train --dataset=plain --run-name=none --resume": RESUMED,
    "experiments.train --dataset=plain --run-name=lost": (
        "runs/lost already exists; give --resume, --overwrite or another name"
    ),
    "experiments.evaluate --run=runs/none": "runs/none is not the folder of a run",
    "experiments.evaluate --run=runs/lost": "no dataset 'gone'; data holds plain",
    "experiments.evaluate --run=runs/other --dataset=plian": (
        "no dataset 'plian'; did you mean plain?"
    ),
    "experiments.evaluate --run=runs/unfinished": "continue it with experiments.train --resume",
    "experiments.identify --run=runs/none": "runs/none is not the folder of a run",
    "experiments.identify --run=runs/lost": "no dataset 'gone'; data holds plain",
    "experiments.annotate --run=runs/none --h5ad=c.h5ad --out=o.h5ad": (
        "runs/none is not the folder of a run"
    ),
    "experiments.annotate --run=runs/lost --h5ad=c.h5ad --out=o.h5ad": "c.h5ad: no such file",
    "experiments.report --run=runs/none": "no run runs/none; runs holds lost, other, unfinished",
    "experiments.sweep --datasets=plain,plian --seeds=0": "no dataset 'plian'; did you mean plain?",
    "experiments.reproduce --experiment=potentials --reference=none": (
        "--reference=none holds no snapshots NAME.npz"
    ),
    "experiments.reproduce --experiment=embryoid-body --embryoid-body=none.npz": (
        "none.npz: no such file"
    ),
    "experiments.information_theoretic --dataset=cifar10 --data-path=none": FOLDER,
    "experiments.information_theoretic --dataset=fashion-mnist --data-path=none": (
        "no folder none; Fashion-MNIST is read from a folder of idx files"
    ),
    "experiments.information_theoretic --dataset=points --data-path=none.csv": (
        "there is no file none.csv"
    ),
    "experiments.information_theoretic --dataset=cifar10 --data-path=. --precondition=none "
    "--weights=none": NETWORK,
    "experiments.information_theoretic --dataset=dino --mode=evaluate --checkpoint=none": NETWORK,
    "experiments.information_theoretic --dataset=dino --run-name=none --resume": RESUMED,
    "experiments.linear_denoiser --run-name=none --resume": RESUMED,
    "experiments.learned_denoiser --run-name=none --resume": RESUMED,
    "experiments.sparse_localization --mode=evaluate --checkpoint=none": NETWORK,
    "experiments.sparse_localization --mode=reproduce --reference=none": (
        "cannot read the reference none: none is missing"
    ),
    "experiments.sparse_localization --mode=train --run-name=none --resume": RESUMED,
    "experiments.sparse_pixels --data-path=none": FOLDER,
    "experiments.sparse_pixels --mode=sample --run=runs/lost": (
        "runs/lost is not the folder of a finished run"
    ),
    "experiments.sparse_pixels --dataset=synthetic --inception-weights=none": "none is missing",
    "experiments.sparse_pixels --dataset=synthetic --lpips-weights=none": "none is missing",
    "experiments.sparse_pixels --dataset=synthetic --run-name=none --resume": RESUMED,
    "checkpoints.import_torch --kind=message-passing --weights=none --out=o": "none is missing",
    "checkpoints.export --model=none --out=o": "--model=none is no saved model, no run of one, and",
    "data_generation --load-from-file=none.npz": "none.npz: no such file",
}
PROGRAM = """
import contextlib, io, json, sys
from data_generation.scripts.command_line import script_module
for script, *arguments in json.load(sys.stdin):
    said = io.StringIO()
    with contextlib.redirect_stderr(said):
        status = script_module(script).run(arguments)
    loaded = sorted({"jax", "numpy"} & set(sys.modules))
    print(json.dumps([status, said.getvalue(), loaded]))
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A dataset and two runs, as far as their places show them."""
    folder = tmp_path_factory.mktemp("place")
    for name, settings in (
        ("data/plain/metadata", {}),
        ("runs/other/config", {"script": "experiments.other", "dataset": "gone"}),
        ("runs/lost/config", {"script": "experiments.train", "dataset": "gone"}),
        ("runs/unfinished/config", {"script": "experiments.train", "dataset": "plain"}),
    ):
        file = folder / f"{name}.json"
        file.parent.mkdir(parents=True)
        file.write_text(json.dumps({"schema_version": 2, "settings": settings}))
    (folder / "runs/lost/energy").mkdir()
    return folder


@pytest.fixture(scope="module")
def answers(place):
    """Status, message and what was loaded, of each command."""
    before = sorted(place.rglob("*"))
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        input=json.dumps([shlex.split(command) for command in MISSING]),
        cwd=place,
        env=dict(os.environ, PYTHONPATH=str(ROOT)),
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert sorted(place.rglob("*")) == before, "a command that was refused left something"
    return dict(zip(MISSING, map(json.loads, done.stdout.splitlines()), strict=True))


@pytest.mark.parametrize("command", MISSING)
def test_what_is_missing_is_said_before_jax_is_loaded(command, answers):
    if "annotate" in command:
        pytest.importorskip("anndata")  # without it, that is what is said
    status, message, loaded = answers[command]
    assert status == 2
    assert message.startswith("error: ")
    assert message.count("\n") == 1
    assert MISSING[command] in message
    assert loaded == []


def test_every_flag_that_names_an_input_is_tried():
    tried = {
        (command.split()[0], flag)
        for command in MISSING
        for flag in INPUTS
        if f"--{flag.replace('_', '-')}" in command
    }
    there = {
        (script, flag)
        for script in {command.split()[0] for command in MISSING}
        for flag in INPUTS & set(script_module(script).FLAGS)
    }
    assert there - tried == NO_INPUT


def test_the_work_says_the_same(place, monkeypatch):
    """Where the settings come from elsewhere than a command line."""
    monkeypatch.chdir(place)
    with pytest.raises(ValueError, match="no dataset 'plian'; did you mean plain"):
        load_dataset("plian")
    with pytest.raises(ValueError, match="runs/none is not the folder of a run"):
        RunFolder.existing("runs/none")
    pytest.importorskip("anndata")
    with pytest.raises(ValueError, match=r"c\.h5ad: no such file"):
        annotate(AnnotateSettings(run="runs/lost", h5ad="c.h5ad", out="o.h5ad"))
