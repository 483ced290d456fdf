"""Data generation, training and evaluation: the shipped scripts, at a small size."""

import dataclasses
import json
import sys
import types
from pathlib import Path

import jax
import matplotlib.image
import numpy as np
import pytest

from checkpoints import load_energy
from data_generation.populations.datasets import load_dataset
from data_generation.populations.settings import DataSettings
from experiments import evaluate, train
from experiments.run.contents import check_own
from jkonet_star.evaluation import earth_movers_distances
from jkonet_star.settings import SCHEMES
from jkonet_star.solvers.registry import SOLVERS

SECONDS = {"data", "compile", "train", "evaluate", "total"}
INTERACTING = [
    name for name, kind in SOLVERS.items() if kind.terms.interaction and kind.terms.internal
]


def summary_of(run):
    """The summary, which must be JSON without NaN."""
    return json.loads((run / "summary.json").read_text(), parse_constant=pytest.fail)


def energy_bits(run):
    """Every array of the saved energies, with its place."""
    leaves = jax.tree_util.tree_leaves_with_path(load_energy(run / "energy"))
    return {jax.tree_util.keystr(path): np.asarray(leaf).tobytes() for path, leaf in leaves}


def standing_still(dataset):
    """What the distance would be if nothing moved."""
    points = np.asarray(dataset.test.points)
    weights = np.asarray(dataset.test.weights)[:-1]
    return float(earth_movers_distances(points[None, :-1], dataset.test, weights).mean())


def check_distances(found, n_steps, n_seeds):
    assert found.keys() == {"mean", "std", "per_step", "per_seed"}
    assert (len(found["per_step"]), len(found["per_seed"])) == (n_steps, n_seeds)
    assert min(found["per_step"] + found["per_seed"]) > 0
    assert found["mean"] == pytest.approx(np.mean(found["per_step"]))
    assert found["mean"] == pytest.approx(np.mean(found["per_seed"]))
    assert found["std"] == pytest.approx(np.std(found["per_seed"]), abs=1e-12)


def check_law(law, n_steps, n_seeds):
    for name in ("energy_distance", "c2st", "variance_ratio", "w1"):
        score = law[name]
        assert (len(score["per_step"]), len(score["per_seed"])) == (n_steps, n_seeds)
        assert score["mean"] == pytest.approx(np.mean(score["per_step"]))
        for yardstick in ("no_motion", "floor", "lookup", "lookup_mean"):
            per_step = score["per_step_yardsticks"][yardstick]
            assert score[yardstick] == pytest.approx(np.mean(per_step))
    assert law["c2st"]["floor"] == pytest.approx(0.5, abs=0.25)
    assert len(law["n_compared"]) == n_steps
    assert law["verdict"]


def check_summary(summary, solver, dataset, scheme, seeds):
    kind, n_steps = SOLVERS[solver].terms, dataset.test.n_steps
    assert (summary["solver"], summary["dataset"]) == (solver, dataset.name)
    assert (summary["scheme"], summary["seeds"]) == (scheme, list(seeds))
    for name in ("emd_one_step_ahead", "emd_cumulative"):
        check_distances(summary[name], n_steps, len(seeds))
    first = summary["emd_one_step_ahead"]["per_step"][0]
    assert summary["emd_cumulative"]["per_step"][0] == pytest.approx(first)
    check_law(summary["law"], n_steps, len(seeds))
    beta = summary["beta"]
    assert len(beta["per_seed"]) == len(seeds)
    assert beta["mean"] == pytest.approx(np.mean(beta["per_seed"]))
    assert beta["mean"] >= 0 if kind.internal else beta["per_seed"] == [0.0] * len(seeds)
    assert ("beta_estimate" in summary) == kind.internal
    error = summary["field_error"]
    if dataset.truth is None:
        assert error is None
    else:
        assert len(error["drift"]["relative"]) == len(seeds)
        assert min(error["drift"]["relative"]) > 0
        assert error["beta"] == pytest.approx(np.abs(np.subtract(beta["per_seed"], truth(dataset))))
        assert ("potential_gradient" in error) == (kind.potential or has(dataset, "potential"))
        assert ("interaction_gradient" in error) == (
            kind.interaction or has(dataset, "interaction")
        )
    seconds = summary["seconds"]
    assert seconds.keys() == SECONDS
    assert min(seconds.values()) >= 0
    assert sum(seconds.values()) <= 2 * seconds["total"] * (1 + 1e-9)
    assert (seconds["compile"] > 0) == SOLVERS[solver].trained
    assert jax.devices()[0].platform in summary["device"]
    assert 2**26 < summary["peak_memory_bytes"] < 2**37


def truth(dataset):
    return float(dataset.truth["beta"])


def has(dataset, term):
    return dataset.truth[term] != "none"


@pytest.mark.parametrize(
    "solver",
    [
        pytest.param(name, marks=pytest.mark.slow if name in INTERACTING else ())
        for name, kind in SOLVERS.items()
        if "star" in name  # test_bilevel.py
    ],
)
def test_every_solver_from_data_to_evaluation(solver, place, capfd):
    name = (
        "full" if SOLVERS[solver].terms.internal or SOLVERS[solver].terms.interaction else "plain"
    )
    run = place.train(f"solver-{solver}", f"--solver={solver}", f"--dataset={name}", "--seeds=0,3")
    out, _ = capfd.readouterr()
    assert "EMD one step ahead" in out
    assert str(run) in out
    dataset = load_dataset(name, place.data)
    summary = summary_of(run)
    check_summary(summary, solver, dataset, "explicit", (0, 3))
    network = SOLVERS[solver].trained
    expected = {"config.json", "energy", "summary.json"}
    expected |= {"metrics.jsonl", "tensorboard"} if network else set()
    assert {p.name for p in run.iterdir()} == expected
    if network:
        rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
        assert [r["epoch"] for r in rows if "loss" in r] == [1, 2, 3, 4, 5, 6]
        evaluated = [r for r in rows if "loss" not in r]
        assert [r["epoch"] for r in evaluated] == [2, 4, 6]
        last = evaluated[-1]["emd_one_step_ahead"]
        assert last == pytest.approx(summary["emd_one_step_ahead"]["per_seed"])
        assert last[0] != last[1], "seeds differ"
    else:
        assert summary["closed_form"]["n_features"] > 0
    found = place.evaluate(run)
    for key in ("emd_one_step_ahead", "emd_cumulative", "field_error", "beta", "converged", "law"):
        assert found[key] == summary[key], key
    check_own(run)
    out, err = capfd.readouterr()
    assert "EMD one step ahead" in out
    assert err == ""
    verdict = ("warning: " if summary["law"]["beaten"] else "") + summary["law"]["verdict"]
    assert out.splitlines()[-1] == f"  {verdict}"
    w1, score = summary["w1_one_step_ahead"], summary["law"]["w1"]
    expected = {"energy": score["mean"], "no_motion": score["no_motion"], "floor": score["floor"]}
    assert w1 == expected
    beside = f"{w1['no_motion']:.3g} without motion, {w1['floor']:.3g} the sampling floor"
    assert (
        out.splitlines()[-2] == f"  W1 one step ahead: {w1['energy']:.3g} by the energy, {beside}"
    )
    assert summary["verdict"] == summary["law"]["verdict"]
    assert len(load_energy(run).times) == 2


@pytest.mark.parametrize(
    ("solver", "dataset", "epochs"),
    [
        ("jkonet-star-potential", "plain", [1, 2, 3, 4, 5, 6]),
        ("jkonet-star", "full", [3, 6]),  # where all pairs of particles are an evaluation
    ],
)
def test_how_often_a_training_is_evaluated_where_nobody_says(solver, dataset, epochs, place):
    name = f"as-often-{solver}"
    said = place.training(name, f"--solver={solver}", f"--dataset={dataset}")
    said.remove("--eval-every=2")
    assert train.run(said) == 0
    rows = [
        json.loads(line) for line in (place.runs / name / "metrics.jsonl").read_text().splitlines()
    ]
    assert [row["epoch"] for row in rows if "emd_one_step_ahead" in row] == epochs


@pytest.mark.parametrize("scheme", SCHEMES)
def test_every_scheme_learns(scheme, place):
    run = place.train(
        f"scheme-{scheme}",
        "--solver=jkonet-star-linear-potential",
        "--dataset=plain",
        f"--scheme={scheme}",
        "--degree=4",
        "--radial-centers=10",
    )
    dataset, summary = load_dataset("plain", place.data), summary_of(run)
    check_summary(summary, "jkonet-star-linear-potential", dataset, scheme, (0,))
    assert load_energy(run / "energy").scheme == scheme
    assert summary["converged"]
    assert summary["emd_one_step_ahead"]["mean"] < 0.7 * standing_still(dataset)


def test_a_network_learns(place):
    flags = ("--dataset=plain", "--epochs=120", "--eval-every=120", "--learning-rate=0.05")
    summary = summary_of(place.train("learns", *flags, "--hidden=16"))
    standing = standing_still(load_dataset("plain", place.data))
    assert summary["emd_one_step_ahead"]["mean"] < 0.7 * standing
    assert summary["field_error"]["drift"]["relative"][0] < 0.7


def test_data_without_a_known_truth_in_one_dimension(place):
    run = place.train("file", "--dataset=file", "--plots", "--vectors", "--scheme=implicit")
    check_summary(
        summary_of(run),
        "jkonet-star-potential",
        load_dataset("file", place.data),
        "implicit",
        (0,),
    )
    names = sorted(p.name for p in (run / "plots").glob("*.png"))
    assert names == ["law.png", "potential.png", "predictions.png", "training.png"]
    vectors = sorted(p.name for p in (run / "plots").iterdir() if p.suffix != ".png")
    assert vectors == [Path(name).with_suffix(".pdf").name for name in names]
    for name in names:
        assert matplotlib.image.imread(run / "plots" / name)[..., :3].std() > 0.01


def test_the_dataset_by_name_and_by_path(place, tmp_path, monkeypatch):
    flags = ("--solver=jkonet-star-linear-potential", "--regularization=0.01")
    by_name = place.train("by-name", "--dataset=plain", *flags)
    by_path = place.train(
        "by-path", f"--dataset={place.data / 'plain'}", f"--data-dir={tmp_path}", *flags
    )
    assert energy_bits(by_name) == energy_bits(by_path)
    assert summary_of(by_path)["dataset"] == "plain"
    # A run knows its dataset, wherever that is.
    monkeypatch.chdir(tmp_path)
    assert evaluate.run([f"--run={by_path}", "--noplots"]) == 0
    found = json.loads((by_path / "evaluation.json").read_text())
    assert found["emd_cumulative"] == summary_of(by_path)["emd_cumulative"]


def test_without_a_dataset_the_demonstration_is_generated_once(tmp_path, monkeypatch, capsys):
    def small(**arguments):
        return DataSettings(n_particles=40, n_timesteps=2, n_gmm_components=0, **arguments)

    monkeypatch.setattr("experiments.populations.datasets.DataSettings", small)
    monkeypatch.chdir(tmp_path)
    flags = ["--solver=jkonet-star-linear-potential", "--noplots", "--radial-centers=3"]
    assert train.run(flags) == 0
    (folder,) = (tmp_path / "data").iterdir()
    assert folder.name.startswith("potential_styblinski_tang_internal_none")
    stamp = (folder / "train.npz").stat().st_mtime_ns
    assert train.run(flags) == 0
    assert (folder / "train.npz").stat().st_mtime_ns == stamp
    names = sorted(p.name for p in (tmp_path / "runs").iterdir())
    name = f"jkonet-star-linear-potential__{folder.name}"
    assert names == [name, f"{name}-2"]
    assert energy_bits(tmp_path / "runs" / names[0]) == energy_bits(tmp_path / "runs" / names[1])
    assert f"runs/{name}-2" in capsys.readouterr().out
    assert evaluate.run([f"--run=runs/{name}"]) == 0


def test_the_population_of_the_evaluation_does_not_touch_the_training(place):
    flags = ("--solver=jkonet-star-linear-potential", "--dataset=plain")
    held_out = place.train("held-out", *flags)
    training = place.train("training", *flags, "--eval=train_data")
    assert energy_bits(held_out) == energy_bits(training)
    first, second = summary_of(held_out), summary_of(training)
    assert (first["eval"], second["eval"]) == ("test_data", "train_data")
    assert first["emd_one_step_ahead"] != second["emd_one_step_ahead"]
    found = place.evaluate(held_out, "--eval=train_data")
    assert found["emd_one_step_ahead"] == second["emd_one_step_ahead"]
    assert found["law"] == second["law"]
    assert (first["law"]["halved"], second["law"]["halved"]) == (False, True)
    other = place.evaluate(held_out, "--wasserstein-order=2")
    assert other["emd_one_step_ahead"]["mean"] > first["emd_one_step_ahead"]["mean"]
    assert other["law"]["w2"]["mean"] > other["law"]["w1"]["mean"] == first["law"]["w1"]["mean"]


def test_evaluation_elsewhere_leaves_the_run_as_it_was(place, tmp_path):
    run = place.train("kept", "--solver=jkonet-star-linear-potential", "--dataset=plain", "--plots")
    before = {p: p.read_bytes() for p in run.rglob("*") if p.is_file()}
    output = tmp_path / "deep" / "result.json"
    arguments = [f"--run={run}", f"--data-dir={place.data}", "--dataset=full"]
    assert evaluate.run([*arguments, f"--output={output}"]) == 0
    assert json.loads(output.read_text())["dataset"] == "full"
    assert {p: p.read_bytes() for p in run.rglob("*") if p.is_file()} == before
    pictures = sorted(p.name for p in (tmp_path / "deep" / "result_plots").iterdir())
    assert pictures == ["law.png", "potential.png", "predictions.png"]
    law = json.loads(output.read_text())["law"]["w1"]
    assert (law["floor"], law["lookup"]) == (None, None), "learned from other data"
    assert law["no_motion"] > 0
    assert evaluate.run(arguments) == 0
    after = {p: p.read_bytes() for p in run.rglob("*") if p.is_file()}
    assert {p: after[p] for p in before} == before
    assert (run / "evaluation_plots" / "potential.png").is_file()


def test_seeds_together_equal_seeds_alone(place):
    flags = ("--dataset=plain", "--ema-decay=0.5", "--learning-rate=0.02")
    together = place.train("together", *flags, "--seeds=0,3,7")
    energies = load_energy(together / "energy")
    distances = summary_of(together)["emd_one_step_ahead"]["per_seed"]
    for position, seed in ((0, 0), (2, 7)):
        alone = place.train(f"alone-{seed}", *flags, f"--seeds={seed}")
        for a, b in zip(
            jax.tree.leaves(energies), jax.tree.leaves(load_energy(alone / "energy")), strict=True
        ):
            np.testing.assert_allclose(a[position], b[0], rtol=1e-4, atol=1e-5)
        found = summary_of(alone)["emd_one_step_ahead"]["per_seed"]
        assert found == pytest.approx([distances[position]], rel=1e-4)
    kernels = np.asarray(jax.tree.leaves(energies.params)[1])
    assert np.abs(kernels[0] - kernels[1]).max() > 0.01


def test_a_run_that_diverges_says_so_and_finishes(place, capfd):
    flags = ("--dataset=file", "--learning-rate=1e30", "--gradient-clip=0", "--plots")
    run = place.train("diverged", *flags)
    summary = summary_of(run)
    said = capfd.readouterr().out
    assert summary["diverged"] == [1]
    assert "warning: seed 0 diverged in epoch 1; its energy is that of the last sound epoch" in said
    # No energy is worse than the initial one, which hardly moves anything.
    assert float(summary["emd_one_step_ahead"]["mean"]) < 1.0
    for leaf in jax.tree.leaves(load_energy(run / "energy")):
        assert np.isfinite(leaf).all()


def test_a_batch_that_exceeds_the_data_is_cut_and_said(place, capfd):
    run = place.train("cut", "--dataset=plain", "--batch-size=241")
    said = capfd.readouterr().out
    assert "batch_size 241 exceeds the 240 couplings of the data: a batch holds all 240" in said
    assert summary_of(run)["batch_size"] == 240
    (warning, *_) = load_energy(run / "energy").report.warnings
    assert "a batch holds all 240" in warning


def test_seeds_of_a_closed_form_are_said_to_be_no_use(place, capfd):
    place.train("closed", "--dataset=plain", "--solver=jkonet-star-linear-potential", "--seeds=0,1")
    assert "has no randomness: the 2 seeds give the same energy" in capfd.readouterr().out


def test_what_the_data_say_of_the_fit_is_in_the_summary(place):
    run = place.train("judged", "--dataset=plain")
    summary = summary_of(run)
    assert summary["outliers"] == []
    assert set(summary["explanation"]) == {"no_motion", "predicted", "chance"}
    assert len(summary["explanation"]["predicted"]) == 1
    # And beside the energy.
    report = load_energy(run / "energy").report
    assert (report.solver, report.epochs) == (summary["solver"], summary["epochs"])
    for name in ("batch_size", "optimizer", "learning_rate"):
        assert getattr(report, name) == summary[name]
    assert (report.optimizer, report.learning_rate) == ("soap", 2e-2)
    assert [member.motion_left for member in report.members] == summary["explanation"]["predicted"]
    assert summary["couplings"] == [dataclasses.asdict(step) for step in report.couplings]
    assert {step.method for step in report.couplings} == {"exact"}  # of the data set
    assert report.warnings == summary["warnings"]
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    losses = [row["loss"][0] for row in rows if "loss" in row]
    assert report.members[0].losses == losses


class Tracked:
    """Stands for Weights & Biases."""

    def __init__(self):
        self.rows, self.summary, self.arguments = [], {}, {}

    def init(self, **arguments):
        self.arguments = arguments
        return self

    def __enter__(self):
        return self

    def __exit__(self, *error):
        return False

    def log(self, row, step):
        self.rows.append((step, row))


def test_a_run_is_tracked(place, monkeypatch):
    tracked = Tracked()
    monkeypatch.setitem(sys.modules, "wandb", types.SimpleNamespace(init=tracked.init))
    run = place.train("tracked", "--dataset=plain", "--wandb")
    assert tracked.arguments["name"] == "tracked"
    assert tracked.arguments["config"]["solver"] == "jkonet-star-potential"
    assert [step for step, _ in tracked.rows] == [1, 2, 2, 3, 4, 4, 5, 6, 6]
    assert all("epoch" not in row for _, row in tracked.rows)
    assert tracked.summary["emd_cumulative"] == summary_of(run)["emd_cumulative"]


@pytest.mark.slow
def test_the_documented_commands_in_processes_of_their_own(place):
    """Without the cache of this process, and yet with the same bits."""
    flags = ("--dataset=plain", "--seeds=0,1")
    here = place.train("here", *flags)
    apart = place.apart("experiments.train", *place.training("apart", *flags), "--plots")
    out, _ = apart.communicate(timeout=500)
    assert apart.returncode == 0
    assert "one step ahead" in out
    run = place.runs / "apart"
    assert energy_bits(run) == energy_bits(here)
    assert (run / "metrics.jsonl").read_bytes() == (here / "metrics.jsonl").read_bytes()
    evaluation = place.apart("experiments.evaluate", f"--run={run}", f"--data-dir={place.data}")
    out, err = evaluation.communicate(timeout=500)
    assert (evaluation.returncode, err) == (0, "")
    found = json.loads((run / "evaluation.json").read_text())
    assert found["emd_cumulative"] == summary_of(here)["emd_cumulative"]


def test_densities_are_fitted_for_an_internal_energy_only(place, monkeypatch, capsys):
    def fitted(*arguments, **settings):
        raise ValueError("densities were asked for")

    monkeypatch.setattr("data_generation.populations.datasets.fit_densities", fitted)
    place.train("without-densities", "--solver=jkonet-star-linear-potential", "--dataset=full")
    place.train("with-densities", "--solver=jkonet-star-linear", "--dataset=full", status=2)
    assert "densities were asked for" in capsys.readouterr().err
