"""`--refine` and `--solver=auto` of experiments.train, from the flags to the finished folder."""

import json

import jax
import numpy as np
import pytest

from checkpoints import load_energy
from experiments import report, train
from experiments.populations import training
from experiments.run.folder import RunFolder
from jkonet_star.solvers import choice as choice_module

REFINED = ("--dataset=file", "--epochs=2", "--refine=6", "--refine-batch-size=32", "--seeds=0,2")
AUTO = ("--dataset=file", "--solver=auto", "--epochs=2", "--refine=4", "--refine-batch-size=32")


def result(run):
    """What a run leaves, except how long it took."""
    summary = json.loads((run / "summary.json").read_text())
    del summary["seconds"], summary["peak_memory_bytes"]
    energy = load_energy(run / "energy")
    files = sorted(str(p.relative_to(run)) for p in run.rglob("*.json*"))
    leaves = [np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(energy)]
    return leaves, summary, (run / "refinement" / "metrics.jsonl").read_bytes(), files


def test_a_refined_run_says_so_and_resumes_to_the_same_bits(place, capfd):
    whole = place.train("refined", *REFINED)
    rows = RunFolder(whole / "refinement").rows()
    assert [row["epoch"] for row in rows if "loss" in row] == [1, 2, 3, 4, 5, 6]
    assert {len(row["energy_distance"]) for row in rows if "loss" in row} == {2}
    assert not (whole / "refinement" / "checkpoint").exists()
    assert len(RunFolder(whole).rows()) < len(rows)
    report_of = load_energy(whole / "energy").report
    assert report_of.refinement_steps == 6
    assert [m.refinement_loss is not None for m in report_of.members] == [True, True]
    plain = place.train("unrefined", *REFINED[:2], "--seeds=0,2")
    assert not (plain / "refinement").exists()
    assert RunFolder(plain).rows() == RunFolder(whole).rows()
    assert result(whole)[0] != [
        np.asarray(x).tobytes() for x in jax.tree.leaves(load_energy(plain / "energy"))
    ]
    # States of epochs 2, of steps 2, 4 and 6.
    place.cut("refined-again", *REFINED, state=3)
    capfd.readouterr()
    place.train("refined-again", *REFINED[:2], "--seeds=0,2", "--resume", status=2)
    assert "which is missing here; a resumed run keeps its settings" in capfd.readouterr().err
    place.train("refined-again", *REFINED, "--resume")
    assert result(place.runs / "refined-again")[:3] == result(whole)[:3]


def test_auto_compares_says_what_it_chose_and_does_not_choose_twice(place, capfd, monkeypatch):
    monkeypatch.setattr(choice_module, "WIDE", (12,))
    whole = place.train("auto", *AUTO)
    out, _ = capfd.readouterr()
    lines = out.splitlines()
    assert [line.strip() for line in lines if "comparing" in line][:2] == [
        "comparing: V(x)",
        "comparing: V(x, t)",
    ]
    assert sum("<- chosen" in line for line in lines) == 1
    kept = json.loads((whole / "choice.json").read_text())
    summary = json.loads((whole / "summary.json").read_text())
    assert summary["choice"] == kept["compared"]
    assert summary["solver"] == "auto"
    assert kept["refine"] == 4
    names = [row["name"] for row in kept["compared"]]
    assert [name for name in names if "noise" not in name] == ["V(x)", "V(x, t)", "V(x, t), wide"]
    assert len(names) == 5
    energy = load_energy(whole / "energy")
    assert [row.chosen for row in energy.report.compared] == [r["chosen"] for r in kept["compared"]]
    place.cut("auto-again", *AUTO, state=1)
    monkeypatch.setattr(training.Auto, "choose", None)  # chosen already
    place.train("auto-again", *AUTO, "--resume")
    assert result(place.runs / "auto-again") == result(whole)
    assert report.run([f"--run={whole}"]) == 0
    assert "choice" in (whole / "report.html").read_text()


def test_a_damaged_choice_is_one_line(place, capfd, monkeypatch):
    monkeypatch.setattr(choice_module, "WIDE", (12,))
    place.cut("auto-damaged", *AUTO, state=1)
    file = place.runs / "auto-damaged" / "choice.json"
    content = json.loads(file.read_text())
    for row in content["compared"]:
        row["name"] = "a tree"
    file.write_text(json.dumps(content))
    capfd.readouterr()
    place.train("auto-damaged", *AUTO, "--resume", status=2)
    _, err = capfd.readouterr()
    assert "no candidate is called 'a tree'" in err
    assert err.count("\n") == 1


def test_what_cannot_be_done_is_refused_before_a_folder_is_made(place, capfd):
    place.generate("tiny", "--n-particles=12", "--n-timesteps=2", "--n-gmm-components=0")
    for name, flags, said in (
        ("few", ("--dataset=tiny", "--solver=auto"), "snapshot 0 has 12; it needs 20"),
        ("large", ("--dataset=file", "--refine=2", "--refine-batch-size=100000"), "--refine-batch"),
    ):
        capfd.readouterr()
        place.train(name, *flags, status=2)
        _, err = capfd.readouterr()
        assert said in err
        assert err.count("\n") == 1
        assert not (place.runs / name).exists()


@pytest.mark.parametrize("flag", ["--refine=-1", "--rollout=0", "--refine-batch-size=1"])
def test_what_makes_no_sense_is_refused(flag, place, capfd):
    assert train.run(place.training("refused", "--dataset=file", flag)) == 2
    assert flag.split("=")[0].strip("-").replace("-", "_") in capfd.readouterr().err.replace(
        "-", "_"
    )
