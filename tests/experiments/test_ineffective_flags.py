"""Flags that are given in vain are named: to other data, modes, models and solvers than theirs."""

import pytest

from experiments.information_theoretic.settings import InformationTheoreticSettings
from experiments.populations.learning_settings import LearningSettings
from experiments.run.session import session
from experiments.run.settings import RunSettings
from experiments.sparse_localization.settings import SparseSettings
from experiments.sparse_pixels.running import unused_of
from experiments.sparse_pixels.settings import SparsePixelsSettings
from experiments.sweeps.settings import (
    ExecutionSettings,
    Grid,
    SimulationSettings,
    simulated_in_vain,
)
from jkonet_star.settings import (
    BilevelSettings,
    FeatureSettings,
    NetworkSettings,
    RefinementSettings,
)


def test_a_run_names_them(tmp_path, capsys):
    with session(RunSettings(runs_dir=str(tmp_path)), "experiments.some") as run:
        run.start("one", "ten points", unused=["n_layers", "clip"])
    assert "\n  without effect here: --n-layers, --clip\n" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("given", "unused"),
    [
        ({}, []),
        ({"width": 64, "grid": 10, "validation_ratio": 0.2}, []),
        ({"unet": "tiny", "bfloat16": True, "sampler": "sde"}, ["unet", "bfloat16", "sampler"]),
        (
            {"dataset": "synthetic", "width": 64, "unet": "tiny", "sampler": "sde", "grid": 10},
            ["width", "grid"],
        ),
        (
            {"dataset": "synthetic", "weights": "x", "precondition": "none", "unet": "tiny"},
            ["unet"],
        ),
        (
            {"mode": "evaluate", "checkpoint": ("x",), "epochs": 3, "seed": 4, "grid": 10},
            ["seed", "epochs"],
        ),
        (
            {"dataset": "synthetic", "mode": "evaluate", "checkpoint": ("x",), "unet": "tiny"},
            ["unet"],
        ),
    ],
)
def test_of_densities(given, unused):
    assert InformationTheoreticSettings(**given).unused == unused


@pytest.mark.parametrize(
    ("given", "unused"),
    [
        ({"churn": 0.5, "eta": 0.5, "order": 1}, []),
        ({"churn": 0.5, "eta": 0.5, "n_compare": 0}, ["churn"]),
        ({"sampler": "ode-rk4", "order": 1, "n_compare": 0}, ["order"]),
        ({"compare_steps": (3,), "n_compare": 0}, ["compare_steps"]),
        ({"noising_steps": 10, "em_steps": 3}, ["noising_steps", "em_steps"]),
        ({"model": "ddpm", "noising_steps": 10, "residual_scale": 0.1}, []),
        (
            {"variant": "mean", "residual_scale": 0.1, "block_size": 2},
            ["residual_scale", "block_size"],
        ),
    ],
)
def test_of_sparse_pixels(given, unused):
    settings = SparsePixelsSettings(dataset="synthetic", preset="cpu", **given)
    assert settings.resolved().unused == unused


@pytest.mark.parametrize(
    ("mode", "flags", "unused"),
    [
        ("evaluate", {"sampler": "sde", "churn": 0.5, "n_compare": 3}, []),
        ("evaluate", {"epochs": 4, "dataset": "synthetic"}, []),  # as the run has them
        ("evaluate", {"epochs": 7, "dataset": "cifar10"}, ["dataset", "epochs"]),
        ("evaluate", {"resume": True, "run_name": "x"}, ["run_name", "resume"]),
        (
            "sample",
            {"n_compare": 3, "draws": 2, "lpips_weights": "x"},
            ["n_compare", "lpips_weights"],
        ),
    ],
)
def test_of_a_finished_run(mode, flags, unused):
    given = SparsePixelsSettings(mode=mode, run="runs/x", **flags)
    own = {"dataset": "synthetic", "preset": "cpu"}
    taken = {"sampler", "churn", "draws", "n_compare"} & set(flags)
    sampling = {name: flags[name] for name in taken}
    settings = SparsePixelsSettings(**own, **sampling).resolved()
    assert sorted(unused_of(given, settings, {*flags, "mode", "run"})) == sorted(unused)


@pytest.mark.parametrize(
    ("mode", "unused"),
    [
        ("train", ["step", "horizon"]),
        ("evaluate", ["step", "horizon"]),
        ("generate", ["times", "baselines", "reference"]),
        ("reproduce", []),
    ],
)
def test_of_sparse_matrices(mode, unused):
    every = {"step": 7.0, "horizon": 100.0, "times": (1.0,), "baselines": False, "reference": "x"}
    assert SparseSettings(mode=mode, n=64, **every).unused == unused


def test_of_solvers():
    learning = LearningSettings(
        network=NetworkSettings(epochs=7),
        features=FeatureSettings(regularization=0.5),
        bilevel=BilevelSettings(inner_steps=3),
    )
    features, inner = ["regularization"], ["inner_steps"]
    assert learning.unused("jkonet-star-potential") == features + inner
    assert learning.unused("jkonet-star-linear-potential") == ["epochs", *inner]
    assert learning.unused("jkonet-star-linear-potential", "jkonet") == []
    assert LearningSettings().unused("jkonet") == []
    twice = LearningSettings(refinement=RefinementSettings(rollout=2, refine_exponent=0.7))
    assert twice.unused("jkonet-star-potential") == ["rollout", "refine_exponent"]
    assert twice.unused("jkonet-star-potential", "auto") == []  # which refines whatever it chooses
    refined = LearningSettings(refinement=RefinementSettings(rollout=2, refine=5))
    assert refined.unused("jkonet-star-potential") == []


def test_of_sweeps():
    assert ExecutionSettings(jobs=3, job_gpus=1).unused == ["jobs", "job_gpus"]
    assert ExecutionSettings(jobs=3, executor="slurm").unused == []
    simulation = SimulationSettings(dt=0.1, data_dir="x")
    simulated, known = Grid(betas=(0.1,)), Grid(betas=(0.1,), datasets=("cells",))
    assert simulated_in_vain([known], simulation) == ["betas", "dt"]
    assert simulated_in_vain([known, simulated], simulation) == []
