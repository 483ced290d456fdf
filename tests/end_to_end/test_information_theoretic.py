"""The information-theoretic script at a small size, by the code that a user runs."""

import json
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

import experiments.run.training
from checkpoints import load_network, save_network
from checkpoints.pretrained_models import pretrained_folder
from data_generation.planar import planar_data
from diffusions.density import mixture_choice
from diffusions.density.error_curves import error_curves
from diffusions.density.exact import gaussian_mixture
from diffusions.density.gaussian_reference import (
    fitted_reference,
)
from diffusions.density.likelihood import nll
from diffusions.density.log_snr import CHANNEL, LogSNRLaw
from diffusions.density.mixture_reference import MixtureReference
from diffusions.networks.mlp import DenoisingMLP
from diffusions.networks.unet import UNet
from experiments.information_theoretic import __main__ as information_theoretic
from experiments.information_theoretic import assessment, evaluation
from experiments.information_theoretic.images import ImageTask
from experiments.information_theoretic.saved import SavedDenoiser, saved_denoiser
from experiments.information_theoretic.settings import InformationTheoreticSettings
from experiments.run.contents import check_own

PLANE = (
    "--n-points=400",
    "--batch-size=60",
    "--epochs=5",
    "--eval-every=2",
    "--width=16",
    "--n-layers=1",
    "--embedding=8",
    "--grid=6",
    "--n-log-snr=16",
    "--n-samples=50",
    "--sampler-steps=8",
)
LINES = (*PLANE, "--precondition=gaussian", "--noplots")
PICTURES = (
    "--dataset=synthetic",
    "--preset=cpu",
    "--n-points=24",
    "--n-test=8",
    "--n-samples=3",
    "--batch-size=16",
    "--epochs=1",
    "--n-log-snr=6",
    "--sampler-steps=2",
)


def start(place, name, *flags, status=0):
    arguments = [f"--runs-dir={place.runs}", f"--run-name={name}", *flags]
    assert information_theoretic.run(arguments) == status
    return place.runs / name


def summary(run):
    return json.loads((run / "summary.json").read_text())


@pytest.fixture(autouse=True, scope="module")
def small_mixtures():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(mixture_choice, "COPIES", (1, 2))
        patch.setattr(mixture_choice, "COMPONENTS", (1, 2))
        patch.setattr(mixture_choice, "SCREENED_COMPONENTS", (1,))
        yield


@pytest.fixture(scope="module")
def scg(place):
    return start(place, "scg", "--dataset=scg", *PLANE)


def test_what_a_run_leaves(scg):
    found = summary(scg)
    assert found["nll"] == pytest.approx(found["nll_true"], abs=0.8)
    assert found["entropy"] == pytest.approx(1.22, abs=0.2)
    assert f"of 40 validation points is {found['nll']:.4g} nats" in found["verdict"]
    assert found["bits_per_dim"]["nll"] == pytest.approx(found["nll"] / 2 / np.log(2))
    assert {"data", "compile", "train", "evaluate", "total"} <= set(found["seconds"])
    plots = {p.name for p in (scg / "plots").iterdir()}
    assert {"density.png", "mse_curve.png", "samples.png", "training.png"} <= plots
    assert {"density_0002.png", "density_0004.png", "density_0005.png"} <= plots
    assert list((scg / "tensorboard").iterdir())
    curve = np.loadtxt(scg / "mse_curve.csv", delimiter=",", skiprows=1)
    assert curve.shape == (16, 3)
    assert np.load(scg / "samples.npz")["sde"].shape == (50, 2)
    epochs = [row["epoch"] for row in map(json.loads, (scg / "metrics.jsonl").open())]
    assert epochs == [1, 2, 2, 3, 4, 4, 5, 5]
    check_own(scg)


def test_everything_is_said_of_the_held_out_points(scg):
    """The Gaussian's nll and the true one are means over the same points as the network's."""
    found = summary(scg)
    data = planar_data("scg", 0, n_points=400)
    mean, covariance = data.train.mean(axis=0), np.cov(data.train.T)
    of_gaussian = -stats.multivariate_normal(mean, covariance).logpdf(data.validation)
    assert found["nll_gaussian"] == pytest.approx(of_gaussian.mean(), abs=1e-4)
    error = of_gaussian.std(ddof=1) / np.sqrt(len(of_gaussian))
    assert found["standard_error"]["nll_gaussian"] == pytest.approx(error, rel=1e-3)
    assert found["nll_true"] == pytest.approx(-data.log_density(data.validation).mean())
    entropy = 0.5 * np.linalg.slogdet(2 * np.pi * np.e * covariance)[1]
    assert abs(of_gaussian.mean() - entropy) > 1e-3  # which would not pass
    _, _, of_gaussian_curve = np.loadtxt(scg / "mse_curve.csv", delimiter=",", skiprows=1).T
    reference = fitted_reference(jnp.asarray(data.train))
    noisy = error_curves(
        reference.epsilon,
        jax.random.key(3),
        jnp.asarray(data.validation),
        LogSNRLaw(**found["log_snr"]),
        n_log_snr=16,
    )
    np.testing.assert_allclose(of_gaussian_curve, noisy.epsilon, atol=1.2)


def test_the_saved_network_has_the_reported_nll(scg):
    found, saved = summary(scg), saved_denoiser(scg)
    x = jnp.asarray(planar_data("scg", 0, n_points=400).validation)
    again = nll(
        saved.denoiser,
        jax.random.key(assessment.EVALUATION_SEED),
        x,
        saved.law,
        saved.reference,
        n_samples=assessment.NLL_SAMPLES[True],
    )
    assert float(again.value) == pytest.approx(found["nll"], rel=1e-4)
    for name in ("standard_error", "evaluation_error"):
        assert float(getattr(again, name)) == pytest.approx(found[name]["nll"], abs=1e-4)


def test_the_mixture_and_what_the_network_adds(scg):
    found, saved = summary(scg), saved_denoiser(scg)
    copies, components, shares = zip(*found["reference"]["members"], strict=True)
    assert sum(shares) == pytest.approx(1.0)
    n_gaussians = sum(c * j for c, j in zip(copies, components, strict=True))
    assert saved.reference.mixture.means.shape == (n_gaussians, 2)
    data = planar_data("scg", 0, n_points=400)
    alone = -float(saved.reference.log_density(jnp.asarray(data.validation)).mean())
    # 40 points and five epochs: the network is shut off nearly everywhere.
    assert found["nll"] == pytest.approx(alone, abs=0.1)
    assert len(found["network"]["shares"]) == 24
    assert found["network"]["gain"] >= 0.0
    assert max(found["nats_outside"].values()) < 0.05


def test_evaluation_of_what_is_saved(place, scg, capsys):
    """A run judged again has the same numbers, and so has an ensemble of it twice."""
    again = ("--mode=evaluate", "--dataset=scg", *PLANE)
    vain = ("--clip=3", "--unet=small")
    one = start(place, "again", *again, *vain, f"--checkpoint={scg}")
    two = start(place, "twice", *again, f"--checkpoint={scg},{scg / 'network'}", "--noplots")
    names = ("nll", "nll_gaussian", "nll_true", "standard_error", "evaluation_error", "log_snr")
    for run in (one, two):
        for name in names:
            assert summary(run)[name] == pytest.approx(summary(scg)[name], rel=1e-5)
    out = capsys.readouterr().out
    assert "without effect here: --epochs, --batch-size, --width" in out
    assert "--unet, --eval-every, --clip\n" in out
    n = sum(leaf.size for leaf in jax.tree.leaves(load_network(scg / "network").params))
    assert f"dimension 2, {n:,} and {n:,} parameters" in out
    assert not (one / "network").exists()
    assert {p.stem for p in (one / "plots").iterdir()} == {"density", "mse_curve", "samples"}
    capsys.readouterr()
    start(place, "no", *again, "--data-seed=1", f"--checkpoint={scg}", status=2)
    assert "--data-seed=0" in capsys.readouterr().err
    start(place, "no", *again, f"--checkpoint={place.runs / 'nothing'}", status=2)
    assert "nothing" in capsys.readouterr().err
    shipped = pretrained_folder("sparse_pixels")  # a network of the time, told pixels
    start(place, "no", *again, f"--checkpoint={shipped}", status=2)
    assert "is one of sparse pixels, not of the log SNR alone" in capsys.readouterr().err
    start(place, "no", *again, "--log-snr=curve", f"--checkpoint={scg}", status=2)
    assert "--mode=evaluate takes LOC,SCALE" in capsys.readouterr().err
    assert not (place.runs / "no").exists()


@pytest.mark.parametrize(
    ("given", "scale"), [(None, 5.0), ("networks", 5.0), ("1,2", 2.0), ("0,3", 3.0)]
)
def test_a_range_that_is_given_is_that_of_an_evaluation(given, scale):
    own = LogSNRLaw(loc=1.0, scale=5.0)
    model = SavedDenoiser(
        denoiser=lambda z, a: z,
        module=DenoisingMLP(),
        about={},
        n_parameters=0,
        law=own,
        reference=None,
    )
    settings = InformationTheoreticSettings(
        mode="evaluate", checkpoint=("run",), log_snr=given
    ).resolved()
    assert evaluation.law_of(settings, {"run": model}).scale == scale


def test_an_ensemble_takes_the_better_one(place, scg, tmp_path):
    """Of two networks, one of which adds noise at every log SNR."""
    saved = load_network(scg / "network")
    spoiled = jax.tree.map(lambda leaf: leaf + 1.0, saved.params)
    extra = {**saved.extra, "gate_shares": jnp.ones_like(saved.extra["gate_shares"])}
    save_network(tmp_path / "spoiled", saved.module, spoiled, saved.about, extra)
    again = ("--mode=evaluate", "--dataset=scg", *PLANE, "--noplots")
    bad = start(place, "spoiled", *again, f"--checkpoint={tmp_path / 'spoiled'}")
    both = start(place, "both", *again, f"--checkpoint={tmp_path / 'spoiled'},{scg}")
    best = summary(scg)["nll"]
    assert summary(bad)["nll"] > best + 1.0
    assert summary(both)["nll"] == pytest.approx(best, rel=1e-4)


@pytest.mark.parametrize("order", [("mixture", "gaussian"), ("gaussian", "mixture")])
def test_an_ensemble_is_measured_against_the_likeliest_reference(order, capsys):
    """Whatever the order of its members, and by training points."""
    shapes, centres = jnp.stack([0.01 * jnp.eye(2)] * 2), jnp.array([[-1.0, 0.0], [1.0, 0.0]])
    mixture = gaussian_mixture(jnp.ones(2), centres, shapes)
    x = mixture.sample(jax.random.key(0), 200)
    references = {"mixture": MixtureReference(mixture), "gaussian": None}
    task = SimpleNamespace(
        training_examples=lambda n: x[:n],
        gaussian=fitted_reference(x),
        settings=SimpleNamespace(is_planar=True),
    )
    models = {name: SimpleNamespace(reference=references[name]) for name in order}
    assert evaluation.best_reference(models, task) is references["mixture"]
    assert "measured against that of mixture" in capsys.readouterr().out
    alike = {name: SimpleNamespace(reference=None) for name in order}
    assert evaluation.best_reference(alike, task) is task.gaussian
    assert capsys.readouterr().out == ""


def test_points_of_ones_own(place, tmp_path, capsys):
    """A Gaussian in three dimensions and in units of its own, whose entropy is known."""
    covariance = np.array([[4.0, 1.0, 0.0], [1.0, 2.0, 0.0], [0.0, 0.0, 0.01]])
    points = np.random.default_rng(0).multivariate_normal([100.0, 0.0, -3.0], covariance, 1500)
    np.save(tmp_path / "own.npy", points)
    own = ("--dataset=points", f"--data-path={tmp_path / 'own.npy'}", *PLANE, "--n-points=1500")
    run = start(place, "own", *own)
    found = summary(run)
    entropy = 0.5 * np.linalg.slogdet(2 * np.pi * np.e * covariance)[1]
    error = found["standard_error"]["nll"]
    assert abs(found["nll_in_own_units"] - entropy) < 4 * error
    assert error < 0.15
    assert "nll_true" not in found
    assert np.load(run / "samples.npz")["ode"].shape == (50, 3)
    assert {p.name for p in (run / "plots").iterdir()} >= {"samples.png", "mse_curve.png"}
    check_own(run)
    capsys.readouterr()
    np.save(tmp_path / "other.npy", points + 1.0)
    other = f"--data-path={tmp_path / 'other.npy'}"
    evaluation = ("--mode=evaluate", f"--checkpoint={run}", *own, other)
    start(place, "no", *evaluation, status=2)
    assert "was trained on another file than" in capsys.readouterr().err
    assert not (place.runs / "no").exists()
    start(place, "scg-own", "--dataset=scg", f"--data-path={tmp_path}", status=2)
    assert "--dataset=points" in capsys.readouterr().err


def test_a_range_that_is_too_narrow_is_followed_and_complained_of(place, capsys):
    run = start(place, "narrow", "--dataset=scg", *LINES, "--log-snr=0,0.5")
    assert "nats lie below" in capsys.readouterr().out
    found = summary(run)
    assert found["log_snr"]["scale"] == 0.5
    assert max(found["nats_outside"].values()) > 0.05
    assert found["verdict"].endswith("; the log SNRs do not hold all of the integral")


def test_a_network_that_errs_at_the_ends_of_a_range_is_not_told_to_widen_it(place, capsys):
    few = ("--n-points=30", "--epochs=1", "--width=64")
    run = start(place, "hasty", "--dataset=line", *LINES, *few)
    said = capsys.readouterr().out
    assert "the network errs there" in said
    assert "give a larger scale" not in said
    found = summary(run)
    assert max(found["nats_outside"].values()) > 0.05
    assert found["verdict"].endswith("; the network errs at the ends of the log SNRs")


@pytest.mark.parametrize("log_snr", ["spectrum", "curve"])
def test_a_range_of_ones_own_holds_data_narrower_than_their_spectrum(place, tmp_path, log_snr):
    """Two lines, .01 wide and 2 apart: by their moments they are resolved at a log SNR of 4."""
    rows = np.random.default_rng(0).normal(size=(400, 2))
    rows[:, 1] = 0.01 * rows[:, 1] + np.where(np.arange(400) % 2, 1.0, -1.0)
    np.save(tmp_path / "lines.npy", rows)
    lines = ("--dataset=points", f"--data-path={tmp_path / 'lines.npy'}", *LINES)
    run = start(place, f"lines-{log_snr}", *lines, "--epochs=1", f"--log-snr={log_snr}")
    law = LogSNRLaw(**summary(run)["log_snr"])
    covariances = jnp.stack([jnp.diag(jnp.array([1.0, 1e-4]))] * 2)
    truth = gaussian_mixture(jnp.ones(2) / 2, jnp.array([[0.0, -1.0], [0.0, 1.0]]), covariances)
    x = jnp.asarray(rows, jnp.float32)
    key = jax.random.key(0)
    found = nll(truth.denoiser(CHANNEL), key, x, law, fitted_reference(x), n_samples=64)
    exact = -float(truth.log_density(x).mean())
    assert float(found.value) == pytest.approx(exact, abs=0.2)


def result(run):
    found = summary(run)
    del found["seconds"], found["peak_memory_bytes"]
    leaves = jax.tree.leaves(load_network(run / "network").params)
    return found, (run / "metrics.jsonl").read_bytes(), [np.asarray(x).tobytes() for x in leaves]


@pytest.mark.parametrize(("killed_at", "call"), [("log", 1), ("save_state", 2)])
def test_resumed_is_uninterrupted(place, scg, monkeypatch, killed_at, call):
    name = f"killed-{killed_at}-{call}"
    home = (
        experiments.run.training
        if killed_at == "save_state"
        else (experiments.run.training.RunFolder)
    )
    kept, left = getattr(home, killed_at), [call]

    def interrupted(*args, **kwargs):
        left[0] -= 1
        if left[0] == 0:
            raise KeyboardInterrupt
        return kept(*args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(home, killed_at, interrupted)
        start(place, name, "--dataset=scg", *PLANE, status=130)
    assert not (place.runs / name / "summary.json").exists()
    run = start(place, name, "--dataset=scg", *PLANE, "--resume")
    assert result(run) == result(scg)


def test_other_settings_cannot_be_resumed(place, scg, capsys):
    start(place, "scg", "--dataset=scg", *PLANE, "--clip=3", "--resume", status=2)
    assert "--clip=4.0, not 3.0" in capsys.readouterr().err


def test_a_finished_run_is_left_alone(place, scg, capsys):
    before = result(scg)
    start(place, "scg", "--dataset=scg", *PLANE, "--resume")
    assert "already finished" in capsys.readouterr().out
    assert result(scg) == before


@pytest.mark.parametrize("log_snr", ["curve", "1,2.5"])
def test_log_snr_of_any_kind(place, log_snr, monkeypatch):
    monkeypatch.setattr(
        "data_generation.planar.ENTROPY_SAMPLE", 1000
    )  # of the law, which is not the subject
    run = start(place, f"law-{log_snr[:2]}", "--dataset=moons", *LINES, f"--log-snr={log_snr}")
    law = summary(run)["log_snr"]
    assert law["scale"] > 0
    if log_snr == "1,2.5":
        assert law == {"loc": 1.0, "scale": 2.5, "clip": 4.0}
    assert not (run / "plots").exists()


@pytest.mark.usefixtures("small_networks_and_images")
def test_images(place):
    run = start(place, "images", *PICTURES)
    found = summary(run)
    names = {"nll", "nll_gaussian", "nll_discrete", "nll_discrete_gaussian"}
    assert set(found["bits_per_dim"]) == set(found["standard_error"]) == names
    assert set(found["evaluation_error"]) == names
    for name in names:
        assert found["bits_per_dim"][name] == pytest.approx(found[name] / 1200 / np.log(2))
        assert found["standard_error"][name] > 0
    # Two evaluations of nearly the same: the network has hardly been trained.
    for kind in ("nll", "nll_discrete"):
        assert abs(found[kind] / found[f"{kind}_gaussian"] - 1) < 0.5
    assert found["nll_discrete"] > 0
    assert (run / "plots" / "samples.png").stat().st_size > 1000
    assert load_network(run / "network").about["condition"] == "log_snr"
    check_own(run)


@pytest.mark.usefixtures("small_networks_and_images")
@pytest.mark.parametrize(("multipliers", "side"), [((1, 2), 20), ((1, 2, 2, 2), 24)])
def test_images_are_padded_for_the_network_that_is_evaluated(multipliers, side):
    settings = InformationTheoreticSettings(
        dataset="synthetic", n_points=10, mode="evaluate", checkpoint=("run",)
    ).resolved()
    task = ImageTask(settings, [DenoisingMLP(), UNet(multipliers=multipliers)])
    assert task.train.shape[1:] == (side, side, 3)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--dataset=dinosaur"], "dino"),
        (["--dataset=cifar10"], "--data-path is required"),
        (["--dataset=cifar10", "--data-path=nowhere"], "nowhere"),
        (["--dataset=scg", "--log-snr=1;2"], "spectrum, curve or LOC,SCALE"),
        (["--dataset=scg", "--validation-ratio=1"], "validation_ratio"),
        (["--dataset=scg", "--n-points=5"], "n_points"),
        (["--dataset=scg", "--n-points=15"], "a mixture needs at least 20 points, got 13"),
        (["--log-snr=networks"], "is for --mode=evaluate"),
        (["--dataset=scg", "--epochs=0"], "epochs"),
        (["--dataset=scg", "--activation=tanh"], "relu"),
        (["--datset=scg"], "--dataset"),
        (["--mode=evaluate"], "go together"),
        (["--dataset=points"], "--data-path is required"),
        (["--dataset=points", "--data-path=nowhere.csv"], "no file nowhere.csv"),
        (["--checkpoint=x"], "go together"),
        (["--dataset=synthetic", "--precondition=mixture"], "for points"),
    ],
)
def test_bad_input(place, capsys, flags, message):
    start(place, "bad", *flags, status=2)
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not (place.runs / "bad").exists()
