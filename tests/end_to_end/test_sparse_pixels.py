"""The sparse-pixel script at a small size, by the code that a user runs."""

import contextlib
import json

import jax
import numpy as np
import pytest

import experiments.run.training
from checkpoints import load_network
from experiments.run.contents import check_own
from experiments.sparse_pixels import __main__ as sparse_pixels

pytestmark = pytest.mark.usefixtures("small_networks_and_images")

SMALL = (
    "--dataset=synthetic",
    "--preset=cpu",
    "--n-train=22",
    "--batch-size=8",
    "--epochs=3",
    "--panel-every=2",
    "--regression-epochs=1",
    "--n-test=6",
    "--n-panel=6",
    "--eval-batch=6",
    "--draws=2",
    "--steps=3",
    "--n-compare=0",
)


def start(place, name, *flags, status=0):
    arguments = [f"--runs-dir={place.runs}", f"--run-name={name}", *SMALL, *flags]
    assert sparse_pixels.run(arguments) == status
    return place.runs / name


def summary(run):
    return json.loads((run / "summary.json").read_text())


@pytest.fixture(scope="module")
def flow(place):
    return start(place, "sparse", "--compare-steps=2", "--compare-samplers=sde", "--n-compare=6")


def test_what_a_run_leaves(flow):
    found = summary(flow)
    methods = set(found["methods"])
    assert methods == {
        *("mean", "nearest", "linear", "biharmonic", "kriging"),
        *("regression", "sample", "sample_mean"),
    }
    assert set(found["psnr_unseen_by_method"]) == methods
    assert found["psnr_unseen"] == found["methods"]["sample_mean"]["psnr_unseen"]
    assert found["psnr_unseen_of"] == "mean of 2 samples"
    assert found["psnr_unseen"] > found["psnr_unseen_single_sample"]
    assert f"has a PSNR of {found['psnr_unseen']:.3g} dB" in found["verdict"]
    for figures in found["methods"].values():
        assert 8 < figures["psnr_unseen"] < 45
        assert figures["frechet"] >= 0
        assert -1 <= figures["ssim"] <= 1
    assert found["comparison"][0]["network_calls"] == 2
    plots = {p.name for p in (flow / "plots").glob("*.png")}
    assert plots == {
        *("panel_0002.png", "panel_0003.png", "reconstructions.png", "diversity.png"),
        *("comparison.png", "training.png", "calibration.png"),
    }
    rows = [json.loads(line) for line in (flow / "metrics.jsonl").read_text().splitlines()]
    assert [row["epoch"] for row in rows if "loss" in row] == [1, 2, 3]
    assert [row["epoch"] for row in rows if "panel_psnr_unseen" in row] == [2, 3]


def result(run):
    found = summary(run)
    del found["seconds"], found["peak_memory_bytes"], found["training_images_per_second"]
    del found["sampling"]["images_per_second"], found["comparison"]
    leaves = [
        np.asarray(leaf).tobytes()
        for folder in (run, run / "regression")
        for leaf in jax.tree.leaves(load_network(folder / "network").params)
    ]
    return found, (run / "metrics.jsonl").read_bytes(), leaves


@contextlib.contextmanager
def stopped_at(monkeypatch, call):
    """Within it a run is interrupted when it is about to keep a state, the first being call 1."""
    kept, left = experiments.run.training.save_state, [call]

    def interrupted(*args, **kwargs):
        left[0] -= 1
        if left[0] == 0:
            raise KeyboardInterrupt
        return kept(*args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(experiments.run.training, "save_state", interrupted)
        yield


def test_resumed_is_uninterrupted(place, flow, monkeypatch):
    """Killed before the last state of the diffusion model, and again before the regression's."""
    folder = place.runs / "killed"
    for call, resume in ((2, ()), (2, ("--resume",))):
        with stopped_at(monkeypatch, call):
            start(place, "killed", *resume, status=130)
        assert not (folder / "summary.json").exists()
    assert result(start(place, "killed", "--resume")) == result(flow)


def reuse(flow, *flags, status=0):
    assert sparse_pixels.run([f"--run={flow}", *flags]) == status


def test_sampling_and_judging_again(flow, tmp_path, capsys):
    reuse(flow, "--mode=evaluate", f"--output={tmp_path / 'again'}", "--noplots")
    again = json.loads((tmp_path / "again" / "evaluation.json").read_text())
    assert again["methods"] == summary(flow)["methods"]
    assert not (tmp_path / "again" / "plots").exists()
    reuse(flow, "--mode=sample", "--impose", "--sampler=ddim", "--steps=2")
    with np.load(flow / "samples" / "samples.npz") as found:
        samples, told, truth = (found[name] for name in ("samples", "told", "truth"))
    assert samples.shape == (2, 6, 20, 20, 3)
    assert (samples[0] != samples[1]).any()
    # Told pixels are put back; the nugget of kriging is in the conversion to bytes and back.
    assert abs(samples[0][told].astype(int) - truth[told].astype(int)).max() <= 1
    assert (flow / "samples" / "plots" / "samples.png").stat().st_size > 1000
    check_own(flow)
    reuse(flow, "--mode=sample", status=2)
    assert "already exists" in capsys.readouterr().err


@pytest.mark.slow
def test_many_options_together(place):
    flags = (
        *("--unseen=hidden", "--class-conditional", "--resolutions=20,10", "--sampler=ode-heun"),
        *("--mask-mode=fixed", "--per-channel", "--bfloat16", "--dropout=0.1"),
    )
    once = ("--regression-epochs=0", "--noplots", "--epochs=1")
    found = summary(start(place, "options", *flags, *once))
    assert np.isfinite(found["psnr_unseen"])
    assert "regression" not in found["methods"]


@pytest.mark.slow
def test_expectation_maximisation_resumes_to_the_same_bits(place, monkeypatch):
    """Killed in the first round, whose completed images are there, before its state is."""
    flags = (
        *("--model=em", "--mask-mode=fixed", "--em-steps=2", "--em-rounds=1", "--epochs=2"),
        *("--regression-epochs=0", "--draws=1", "--n-compare=0"),
    )
    whole = start(place, "em", *flags)
    # No round draws over the pictures of another.
    panels = {p.name for p in (whole / "plots").glob("panel_*.png")}
    assert panels == {"panel_0001.png", "panel_0002.png"}
    # Completing images is no training.
    speed, seconds = summary(whole)["training_images_per_second"], summary(whole)["seconds"]
    assert speed == pytest.approx(2 * 22 / seconds["train"])
    assert seconds["complete"] > 0.0
    flags += ("--noplots",)
    with np.load(whole / "em_1" / "completed.npz") as found:
        completed = found["images"]
    assert completed.shape == (22, 20, 20, 3)
    with stopped_at(monkeypatch, 2):
        start(place, "em-killed", *flags, status=130)
    assert (place.runs / "em-killed" / "em_1" / "completed.npz").exists()
    again = start(place, "em-killed", *flags, "--resume")
    for one, two in zip(
        *(jax.tree.leaves(load_network(run / "network").params) for run in (whole, again)),
        strict=True,
    ):
        np.testing.assert_array_equal(one, two)
    assert summary(whole)["methods"] == summary(again)["methods"]
    check_own(whole)


def bytes_of_idx(array):
    header = bytes([0, 0, 8, array.ndim]) + b"".join(n.to_bytes(4, "big") for n in array.shape)
    return header + array.astype(np.uint8).tobytes()


@pytest.mark.slow
def test_files_of_another_dataset_by_the_other_model(place, tmp_path):
    rng = np.random.default_rng(0)
    for split, n in (("train", 9), ("t10k", 4)):
        pictures = rng.integers(0, 256, (n, 20, 20))
        (tmp_path / f"{split}-images-idx3-ubyte").write_bytes(bytes_of_idx(pictures))
        (tmp_path / f"{split}-labels-idx1-ubyte").write_bytes(bytes_of_idx(np.arange(n) % 10))
    flags = (
        *("--dataset=fashion-mnist", f"--data-path={tmp_path}", "--epochs=1", "--noplots"),
        *("--model=ddpm", "--supervision=full-input", "--noresidual", "--noising-steps=8"),
    )
    run = start(place, "idx", *flags, "--regression-epochs=0", "--n-test=4", "--eval-batch=4")
    assert summary(run)["n_test"] == 4
    assert np.isfinite(summary(run)["psnr_unseen"])
    assert "regression" not in summary(run)["methods"]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--dataset=cifar10"], "--data-path is required"),
        (["--dataset=cifar10", "--data-path=nowhere"], "nowhere"),
        (["--dataset=imagenet"], "cifar10"),
        (["--sampler=euler"], "ode-euler"),
        (["--supervision=full"], "full-input"),
        (["--conditioning=0.9"], "at most 1"),
        (["--model=em"], "--mask-mode=fixed"),
        (["--model=em", "--mask-mode=fixed", "--em-rounds=3"], "more epochs"),
        (["--model=em", "--mask-mode=fixed", "--variant=full-input"], "observed pixels alone"),
        (["--target=0"], "target must be positive"),
        (["--supervision=full-input", "--unseen=mean"], "hides nothing"),
        (["--resolutions=7"], "must divide 20"),
        (["--ema-decay=1"], "ema_decay"),
        (["--mode=sample"], "--run"),
        (["--mode=evaluate", "--run=nothing"], "not the folder of a finished run"),
        (["--run=somewhere"], "--mode=sample"),
        (["--sparsity=0.1"], "--sparsity"),
    ],
)
def test_bad_input(place, capsys, flags, message):
    start(place, "bad", *flags, status=2)
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not (place.runs / "bad").exists()
