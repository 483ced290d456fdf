"""A missing extra is named before anything is touched, by every script that may need one."""

import sys

import pytest

from data_generation import __main__ as data_generation
from data_generation.scripts.command_line import script_module
from experiments import annotate, reproduce, sweep

TRACKED = (
    "information_theoretic",
    "learned_denoiser",
    "linear_denoiser",
    "sparse_localization",
    "sparse_pixels",
    "train",
)


def snapshot(folder):
    """Every file below, with its bytes and the moment of its last change."""
    return {
        path: (path.stat().st_mtime_ns, path.read_bytes() if path.is_file() else None)
        for path in sorted(folder.rglob("*"))
    }


@pytest.fixture
def refused(tmp_path, monkeypatch, capfd):
    """Runs a script where no extra is installed and old results are; returns what it says."""
    for module in ("anndata", "diffrax", "submitit", "wandb"):
        monkeypatch.setitem(sys.modules, module, None)
    monkeypatch.chdir(tmp_path)
    for folder in ("runs/old", "data/old"):
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / folder / "summary.json").write_text("{}")
    (tmp_path / "cells.h5ad").write_bytes(b"cells")

    def run(script, *arguments):
        before = snapshot(tmp_path)
        assert script.run(list(arguments)) == 2
        assert snapshot(tmp_path) == before
        out, err = capfd.readouterr()
        assert out == "" or script is data_generation
        assert err.count("\n") == 1
        return err

    return run


@pytest.mark.parametrize("name", TRACKED)
def test_tracking(name, refused):
    script = script_module(f"experiments.{name}")
    more = {"train": ["--dataset=old"], "sparse_pixels": ["--dataset=synthetic"]}.get(name, [])
    error = refused(script, "--wandb", "--run-name=old", "--overwrite", *more)
    assert error == (
        "error: --wandb needs the extra `track`: pip install 'jkonet-diffusions[track]'\n"
    )


def test_tracking_is_all_that_was_tried():
    for name in TRACKED:
        assert "wandb" in script_module(f"experiments.{name}").FLAGS
    for script in (annotate, reproduce, sweep, data_generation):
        assert "wandb" not in script.FLAGS


def test_jobs(refused):
    for script, more in ((sweep, ()), (reproduce, ("--experiment=potentials", "--quick"))):
        error = refused(script, "--executor=slurm", "--sweep-name=old", *more)
        assert error.startswith("error: --executor=slurm needs the extra `slurm`: pip install")


def test_files_of_cells(refused):
    small = ("--dataset-name=made", "--n-particles=8", "--n-timesteps=1", "--n-gmm-components=0")
    assert data_generation.run(["--batch-size=2", *small]) == 0
    for script, *arguments in (
        (data_generation, "--load-from-file=cells.h5ad", "--dataset-name=made", "--overwrite"),
        (annotate, "--run=runs/old", "--h5ad=cells.h5ad", "--out=new/annotated.h5ad"),
        (reproduce, "--experiment=embryoid-body", "--embryoid-body=cells.h5ad"),
    ):
        error = refused(script, *arguments)
        assert error.startswith("error: cells.h5ad needs the extra `bio`: pip install"), error
