"""iJKOnet and Stitching through the scripts: the same report as of all, resumption to the same bits."""

import json

import numpy as np
import pytest

FLAGS = ("--epochs=4", "--eval-every=2", "--seeds=0,2")


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
def test_an_interrupted_run_resumes_to_the_same_bits(place, solver, dataset):
    flags = (f"--solver={solver}", f"--dataset={dataset}", *FLAGS)
    whole = place.train(f"{solver}-whole", *flags)
    summary = json.loads((whole / "summary.json").read_text())
    assert summary["scheme"] == ("implicit" if solver.startswith("ijkonet") else "explicit")
    assert "diverged" not in summary
    assert np.isfinite(summary["emd_one_step_ahead"]["per_seed"]).all()
    assert {"energy_distance", "c2st", "variance_ratio", "w1"} <= summary["law"].keys()

    place.cut(f"{solver}-cut", *flags, state=2)
    cut = place.train(f"{solver}-cut", *flags, "--resume")
    assert place.bits(cut) == place.bits(whole)
    found = place.evaluate(cut)
    assert found["emd_one_step_ahead"] == summary["emd_one_step_ahead"]
    assert found["law"] == summary["law"]


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (("--solver=ijkonet", "--beta-estimator=first-order"), "beta_estimator must be 'auto'"),
        (("--solver=stitching", "--growth"), "neither begin nor end"),
    ],
)
def test_what_a_rival_cannot_learn_is_refused_before_a_folder_is_made(place, capsys, flags, said):
    place.train("not-for-rivals", "--dataset=full", *flags, *FLAGS, status=2)
    assert said in capsys.readouterr().err.splitlines()[-1]
    assert not (place.runs / "not-for-rivals").exists()
