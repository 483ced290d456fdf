"""`--bootstrap` of experiments.train, from the flags to the finished folder and its page."""

import json

import jax
import numpy as np
import pytest

from checkpoints import load_energy
from experiments import report
from experiments.run.folder import RunFolder
from jkonet_star.solvers import choice

FLAGS = ("--dataset=file", "--epochs=4", "--seeds=3")
RESAMPLED = (*FLAGS, "--bootstrap=19")


def leaves(energies):
    return [np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(energies)]


def test_a_bootstrap_says_what_is_not_known_and_resumes_to_the_same_bits(place, capfd):
    whole = place.train("resampled", *RESAMPLED)
    assert "bootstrap: 19 energies of resampled " in capfd.readouterr().out
    energies = load_energy(whole / "energy")
    assert len(energies.replicates.times) == 19
    assert not (whole / "bootstrap" / "checkpoint").exists()
    rows = [row for row in RunFolder(whole / "bootstrap").rows() if "loss" in row]
    assert [(row["epoch"], len(row["loss"])) for row in rows] == [(n, 19) for n in (1, 2, 3, 4)]
    told = json.loads((whole / "summary.json").read_text())["uncertainty"]
    assert (told["level"], told["replicates"], told["diverged"]) == (0.9, 19, 0)
    norm = told["drift_norm"]
    assert all(low < high for low, high in zip(norm["lower"], norm["upper"], strict=True))

    plain = place.train("plain", *FLAGS)
    assert not (plain / "bootstrap").exists()
    assert leaves(load_energy(plain / "energy")) == leaves(energies)

    # States of epochs 2 and 4 of the energy, then of its replicates.
    place.cut("resampled_again", *RESAMPLED, state=4)
    place.train("resampled_again", *RESAMPLED, "--resume")
    again = load_energy(place.runs / "resampled_again" / "energy")
    assert leaves(again) == leaves(energies)
    assert leaves(again.replicates) == leaves(energies.replicates)

    assert report.run([f"--run={whole}"]) == 0
    page = (whole / "report.html").read_text()
    assert "<h2>Uncertainty</h2>" in page
    assert f"{norm['upper'][0]:.4g}" in page


@pytest.mark.slow
def test_what_was_chosen_and_refined_has_one_too(place, monkeypatch):
    """Cut while the replicates are refined, and resumed to the same bits."""
    monkeypatch.setattr(choice, "WIDE", (12,))
    flags = ("--dataset=file", "--solver=auto", "--epochs=2", "--refine=2", "--bootstrap=19")
    whole = place.train("auto-resampled", *flags)
    # States after the training, the refinement, and both of the replicates.
    place.cut("auto-resampled-again", *flags, state=4)
    assert (place.runs / "auto-resampled-again" / "bootstrap" / "refinement").is_dir()
    again = place.train("auto-resampled-again", *flags, "--resume")
    one, other = (load_energy(run / "energy") for run in (whole, again))
    assert leaves(one) == leaves(other)
    assert leaves(one.replicates) == leaves(other.replicates)
    assert not (whole / "bootstrap" / "refinement" / "checkpoint").exists()
    assert len(RunFolder(whole / "bootstrap" / "refinement").rows()) == 2
    place.train("auto-resampled", *flags, "--overwrite")  # it knows what it wrote


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (("--bootstrap=18",), "--bootstrap must be 0 or at least 19"),
        (("--bootstrap=19", "--seeds=0,1"), "got 2 seeds"),
        (("--bootstrap=19", "--solver=jkonet-vanilla"), "not of 'jkonet-vanilla'"),
        (("--bootstrap=19", "--resample=cells"), "resample"),
    ],
)
def test_what_has_no_bootstrap_is_refused_before_a_folder_is_made(place, capfd, flags, said):
    place.train("refused", "--dataset=file", "--epochs=2", *flags, status=2)
    _, err = capfd.readouterr()
    assert said.removeprefix("--") in err
    assert len(err.strip().splitlines()) == 1
    assert not (place.runs / "refused").exists()
