"""Both denoiser scripts, at a small size: results, resuming, precision, refusals."""

import csv
import json
import math

import flax.linen as nn
import jax
import jax.numpy as jnp
import matplotlib.image
import numpy as np
import pytest

from data_generation.gaussians import IsotropicMixture
from diffusions.networks import attention_unet
from diffusions.networks.embeddings import sinusoidal_embedding
from experiments import learned_denoiser
from experiments.linear_denoiser import __main__ as linear_denoiser
from experiments.linear_denoiser import learned_task
from experiments.linear_denoiser.settings import LearnedDenoiserSettings
from experiments.run.contents import check_own
from experiments.run.folder import RunFolder

LINEAR = (
    "--n-pixels=3",
    "--n-train=5,9,40",
    "--n-simulations=5",
    "--n-original=60",
    "--chunk-size=2",
)
LEARNED = (
    "--n-train=12,30",
    "--n-simulations=2",
    "--n-original=80",
    "--n-generated=4",
    "--epochs=2",
    "--batch-size=16",
    "--diffusion-steps=5",
    "--channels=4,4,8,8",
    "--mean-list=0.2,0.8",
    "--std-list=0.05,0.1",
    "--weights=1,3",
)


def start(script, folder, name, *flags, status=0):
    assert script.run([f"--runs-dir={folder}", f"--run-name={name}", *flags]) == status
    run = folder / name
    if status:
        return {}
    return json.loads((run / "summary.json").read_text(), parse_constant=pytest.fail)


def result(run):
    """What a run leaves that does not depend on time."""
    summary = json.loads((run / "summary.json").read_text())
    del summary["seconds"], summary["peak_memory_bytes"]
    return summary, (run / "metrics.jsonl").read_bytes(), (run / "table.csv").read_bytes()


def interrupted_and_resumed(script, folder, name, flags, monkeypatch):
    """Kills a run inside its second row, and continues it."""
    log = RunFolder.log
    left = [2]

    def killed(run, rows):
        left[0] -= 1
        if left[0] == 0:
            with (run.path / "metrics.jsonl").open("a") as file:
                file.write('{"epoch": 2, "k')
            raise KeyboardInterrupt
        log(run, rows)

    with monkeypatch.context() as patch:
        patch.setattr(RunFolder, "log", killed)
        start(script, folder, name, *flags, status=130)
    assert not (folder / name / "summary.json").exists()
    start(script, folder, name, "--resume", *flags)
    return result(folder / name)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("denoisers")


@pytest.fixture(scope="module")
def linear(folder):
    return start(linear_denoiser, folder, "linear", *LINEAR)


def test_the_linear_script(folder, linear, capfd):
    table = linear["table"]
    assert [row["n"] for row in table] == [5, 9, 40]
    for row in table:
        for name in ("kl", "hellinger_squared", "p_delta_positive", "mean_variance"):
            assert name in row
            assert f"{name}_standard_error" in row
        assert row["p_delta_positive_low"] <= row["p_delta_positive"]
        assert row["p_delta_positive"] <= row["p_delta_positive_high"]
    assert (
        [row["kl"] for row in table[:2]]
        == ["inf", "inf"]
        == [row["kl_expected"] for row in table[:2]]
    )
    assert [row["hellinger_squared_expected"] for row in table] == [1.0, 1.0, None]
    for name in ("kl", "mean_variance"):
        distance = abs(table[2][name] - table[2][f"{name}_expected"])
        assert distance < 5 * table[2][f"{name}_standard_error"]
    assert table[1]["hellinger_squared"] == 1.0
    assert 0 < linear["large_n_limit"]["kl"] < table[2]["kl"] < 50
    assert 0 < table[2]["hellinger_squared"] < 1
    with (folder / "linear" / "table.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert float(rows[2]["kl"]) == table[2]["kl"]
    picture = matplotlib.image.imread(folder / "linear" / "plots" / "curves.png")
    assert np.unique(picture[..., :3].reshape(-1, 3), axis=0).shape[0] > 50
    check_own(folder / "linear")
    start(linear_denoiser, folder, "linear", "--resume", *LINEAR)
    assert "already finished" in capfd.readouterr().out


MAP = ("--mode=memorisation", "--n-pixels=2", "--n-train=4,12", "--times=1,0.2")


def test_the_map_of_memorisation(folder, monkeypatch, capfd):
    flags = (*MAP, "--n-simulations=40", "--n-original=300", "--chunk-size=20")
    table = start(linear_denoiser, folder, "map", *flags)["table"]
    cells = {(row["time"], row["n"]): row for row in table}
    assert list(cells) == [(0.2, 4), (0.2, 12), (1.0, 4), (1.0, 12)]
    for row in table:
        assert row["gap"] == pytest.approx(row["test_loss"] - row["train_loss"])
        scores = [v for name, v in row.items() if name.endswith("_z") and v is not None]
        assert len(scores) == (4 if row["n"] == 12 else 0)
        assert all(abs(score) < 4.5 for score in scores)
    # Four points in four dimensions are reproduced, and what is expected elsewhere is infinite.
    assert cells[0.2, 4]["train_loss"] < 1e-6 < cells[0.2, 4]["test_loss"]
    assert (cells[0.2, 4]["test_loss_expected"], cells[1.0, 4]["kl_per_dimension"]) == ("inf",) * 2
    assert "measured - exact" in capfd.readouterr().out
    picture = matplotlib.image.imread(folder / "map" / "plots" / "memorisation.png")
    assert np.unique(picture[..., :3].reshape(-1, 3), axis=0).shape[0] > 50
    check_own(folder / "map")
    resumed = interrupted_and_resumed(
        linear_denoiser, folder, "cut map", (*flags, "--noplots"), monkeypatch
    )
    assert resumed == result(folder / "map")


def test_a_size_does_not_depend_on_the_others(folder, linear):
    alone = start(linear_denoiser, folder, "alone", "--noplots", *LINEAR, "--n-train=40")
    for name in ("kl", "mean_variance", "delta"):
        assert alone["table"][0][name] == pytest.approx(linear["table"][2][name], rel=1e-4)


def test_double_precision_sees_the_same_data(folder, linear):
    double = start(linear_denoiser, folder, "double", "--noplots", *LINEAR, "--precision=float64")
    for single, exact in zip(linear["table"], double["table"], strict=True):
        assert single["log_affinity"] == pytest.approx(exact["log_affinity"], abs=1e-4) or (
            single["log_affinity"] == exact["log_affinity"] == "-inf"
        )
        assert single["distance_train"] == pytest.approx(exact["distance_train"], rel=1e-3)
        assert single["p_delta_positive"] == exact["p_delta_positive"]
    assert math.isclose(linear["table"][2]["kl"], double["table"][2]["kl"], rel_tol=1e-4)


def test_a_resumed_linear_run_is_the_uninterrupted_one(folder, linear, monkeypatch):
    flags = ("--noplots", *LINEAR)
    resumed = interrupted_and_resumed(linear_denoiser, folder, "killed", flags, monkeypatch)
    assert resumed == result(folder / "linear")


class OneConvolution(nn.Module):
    """Stands for the attention U-Net, which takes longer to compile than all the rest to run."""

    channels: tuple[int, ...]
    heads: int

    @nn.compact
    def __call__(self, x, t):
        h = attention_unet.Convolution(self.channels[0])(x)
        h = h + sinusoidal_embedding(t, self.channels[0])[:, None, None]
        return nn.Dense(x.shape[-1])(nn.gelu(h))


@pytest.mark.slow
def test_the_learned_script_and_its_resumption(folder, monkeypatch):
    monkeypatch.setattr(learned_task, "AttentionUNet", OneConvolution)
    summary = start(learned_denoiser, folder, "learned", *LEARNED)
    table = summary["table"]
    assert [row["n"] for row in table] == [12, 30]
    for row in table:
        difference = row["distance_train"] - row["distance_original"]
        assert row["delta"] == pytest.approx(difference, abs=1e-5)
        assert row["distance_train"] > 0
        assert 0 < row["loss"] < 10
        assert 0 < row["validation_loss"] < 10
    with (folder / "learned" / "running_averages.csv").open() as file:
        averages = list(csv.DictReader(file))
    assert [(row["n"], row["repetitions"]) for row in averages] == [
        ("12", "1"),
        ("12", "2"),
        ("30", "1"),
        ("30", "2"),
    ]
    assert float(averages[1]["delta"]) == pytest.approx(table[0]["delta"])
    plots = folder / "learned" / "plots"
    assert sorted(p.name for p in plots.iterdir()) == [
        f"{name}.png" for name in ("curves", "generated")
    ]
    check_own(folder / "learned")
    flags = ("--noplots", *LEARNED)
    resumed = interrupted_and_resumed(learned_denoiser, folder, "cut", flags, monkeypatch)
    assert resumed == result(folder / "learned")


def test_the_attention_u_net_is_trained_and_sampled():
    """Traced only: with the script's own settings, from the parameters to the images."""
    settings = LearnedDenoiserSettings(n_generated=3, n_train=(12,))
    data = IsotropicMixture(settings.mean_list, settings.std_list, settings.weights)
    experiment = learned_task.Experiment(data, settings, 1)
    keys = jax.random.split(jax.random.key(0), 4)
    train = jax.ShapeDtypeStruct((12, *experiment.shape), jnp.float32)

    def once(train):
        params = experiment._initialise(keys[0])
        trained, _ = experiment._train(params, train, keys[1], keys[2])
        return params, trained, experiment._sample(trained, keys[3], keys[0])

    params, trained, images = jax.eval_shape(once, train)
    assert sum(leaf.size for leaf in jax.tree.leaves(params)) == 11_997_057
    assert trained == params
    assert images.shape == (3, *experiment.shape)


@pytest.mark.skipif(
    jax.default_backend() == "cpu", reason="XLA's CPU threads can stall on vmapped training"
)
def test_repetitions_side_by_side(folder):
    one = start(learned_denoiser, folder, "alone", *LEARNED, "--chunk-size=1")
    two = start(learned_denoiser, folder, "beside", *LEARNED, "--chunk-size=2")
    for name in ("distance_train", "distance_original", "loss", "generated_mean"):
        assert one["table"][0][name] == pytest.approx(two["table"][0][name], rel=1e-2)


def test_bad_flags_are_one_line(folder, capfd):
    for script, flag, words in (
        (linear_denoiser, "--n-train=1", "each of n_train must be at least 2"),
        (linear_denoiser, "--nois-scale=1", "did you mean --noise-scale"),
        (linear_denoiser, "--times=1,2", "--times needs --mode=memorisation"),
        (learned_denoiser, "--n-pixels=9", "multiple of 8"),
        (learned_denoiser, "--std-list=-1", "each of std_list must be positive"),
    ):
        assert script.run([f"--runs-dir={folder / 'bad'}", flag]) == 2
        error = capfd.readouterr().err
        assert words in error
        assert error.count("\n") == 1
    assert not (folder / "bad").exists()
