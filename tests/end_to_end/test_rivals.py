"""iJKOnet and Stitching through the scripts: the same report as of all, resumption to the same bits."""

import json

import jax
import numpy as np
import pytest

import experiments.run.training
from checkpoints import load_energy, save_state

FLAGS = ("--epochs=4", "--eval-every=2", "--seeds=0,2")


def bits(run):
    leaves = jax.tree.leaves(load_energy(run / "energy"))
    return [np.asarray(leaf).tobytes() for leaf in leaves], (run / "metrics.jsonl").read_text()


@pytest.mark.parametrize(
    ("solver", "dataset"),
    [
        ("ijkonet-potential", "plain"),
        ("stitching-potential", "plain"),
        *(
            pytest.param(solver, "full", marks=pytest.mark.slow)
            for solver in ("ijkonet", "ijkonet-time-potential", "stitching")
        ),
        pytest.param("stitching-time-potential", "plain", marks=pytest.mark.slow),
    ],
)
def test_an_interrupted_run_resumes_to_the_same_bits(place, solver, dataset, monkeypatch):
    flags = (f"--solver={solver}", f"--dataset={dataset}", *FLAGS)
    whole = place.train(f"{solver}-whole", *flags)
    summary = json.loads((whole / "summary.json").read_text())
    assert summary["scheme"] == ("implicit" if solver.startswith("ijkonet") else "explicit")
    assert "diverged" not in summary
    assert np.isfinite(summary["emd_one_step_ahead"]["per_seed"]).all()
    assert {"energy_distance", "c2st", "variance_ratio", "w1"} <= summary["law"].keys()

    def interrupt(*args):
        save_state(*args)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(experiments.run.training, "save_state", interrupt)
        place.train(f"{solver}-cut", *flags, status=130)
    cut = place.train(f"{solver}-cut", *flags, "--resume")
    assert bits(cut) == bits(whole)
    found = place.evaluate(cut)
    assert found["emd_one_step_ahead"] == summary["emd_one_step_ahead"]
    assert found["law"] == summary["law"]


def test_a_beta_to_be_learned_is_refused_by_ijkonet(place, capsys):
    place.train(
        "refused",
        *("--solver=ijkonet", "--dataset=full", "--beta-estimator=first-order", *FLAGS),
        status=2,
    )
    assert "beta_estimator must be 'auto'" in capsys.readouterr().err.splitlines()[-1]
