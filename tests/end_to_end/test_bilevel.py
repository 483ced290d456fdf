"""The bilevel solvers through the scripts: runs, resumption to the same bits, divergence."""

import json

import jax
import numpy as np
import pytest

from checkpoints import load_energy

FLAGS = (
    "--dataset=plain",
    "--epochs=4",
    "--eval-every=2",
    "--seeds=0,2",
    "--map-hidden=8",
    "--inner-steps=5",
    "--monge-gap-iterations=3",
    "--sinkhorn-iterations=10",
    "--conjugate-gradients=3",
)


@pytest.mark.parametrize(
    "solver",
    [
        "jkonet-vanilla",
        pytest.param("jkonet", marks=pytest.mark.slow),
        pytest.param("jkonet-monge-gap", marks=pytest.mark.slow),
    ],
)
def test_an_interrupted_run_resumes_to_the_same_bits(place, solver):
    flags = (f"--solver={solver}", *FLAGS)
    whole = place.train(f"{solver}-whole", *flags)
    summary = json.loads((whole / "summary.json").read_text())
    assert summary["scheme"] == "implicit"
    assert summary["converged"]
    assert "diverged" not in summary
    assert np.isfinite(summary["emd_one_step_ahead"]["per_seed"]).all()

    place.cut(f"{solver}-cut", *flags, state=2)
    cut = place.train(f"{solver}-cut", *flags, "--resume")
    assert place.bits(cut) == place.bits(whole)
    assert place.evaluate(cut)["emd_one_step_ahead"] == summary["emd_one_step_ahead"]


def test_the_test_particles_take_no_part_in_training(place):
    runs = [
        place.train(f"jkonet-{part}", "--solver=jkonet-vanilla", *FLAGS, f"--eval={part}")
        for part in ("test_data", "train_data")
    ]
    assert place.bits(runs[0])[0] == place.bits(runs[1])[0]


def test_a_divergence_is_found_stopped_and_reported(place, capsys):
    run = place.train(
        "diverges", "--solver=jkonet-vanilla", *FLAGS, "--epochs=6", "--learning-rate=1e30"
    )
    summary = json.loads((run / "summary.json").read_text())
    assert summary["diverged"] == [1, 1]
    assert "warning: seed 0 diverged in epoch 1" in capsys.readouterr().out
    rows = [json.loads(row) for row in (run / "metrics.jsonl").read_text().splitlines()]
    assert rows[-1]["epoch"] == 2  # of six
    for leaf in jax.tree.leaves(load_energy(run / "energy")):
        assert np.isfinite(leaf).all()
