"""The shipped script at a small size: train, resume, evaluate, generate, reproduce."""

import json

import numpy as np
import pytest

from checkpoints import latest_step
from diffusions.networks import blocked_messages
from experiments.run.contents import check_own
from experiments.sparse_localization import __main__ as sparse_localization
from experiments.sparse_localization import sampling

PROBLEM = ("--n=12", "--k=2")
TRAINING = (
    "--layers=2", "--depths=1,2", "--deepen-at=2", "--hidden=4", "--epochs=4,2,4",
    "--settle-epochs=1", "--samples-per-epoch=16", "--train-batch-size=8", "--checkpoint-every=3",
    "--times=3,12", "--n-samples=20", "--nobaselines",
)  # fmt: skip


def script(place, name, *flags, status=0):
    arguments = [f"--runs-dir={place}", f"--run-name={name}", *flags]
    assert sparse_localization.run(arguments) == status
    return place / name


@pytest.fixture(scope="module", autouse=True)
def small_blocks():
    """The same sums in blocks that compile in a fraction of the time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(blocked_messages, "_BLOCK", 2)
        yield


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return tmp_path_factory.mktemp("sparse")


@pytest.fixture(scope="module")
def trained(place):
    return script(place, "trained", "--mode=train", *PROBLEM, *TRAINING)


def summary(run):
    return json.loads((run / "summary.json").read_text())


@pytest.mark.slow
def test_training_leaves_a_denoiser_its_losses_and_figures(trained):
    found = summary(trained)
    assert set(found["mse"]["network"]) == {"3", "12"}
    assert np.loadtxt(trained / "losses.txt").shape == (10,)
    assert np.loadtxt(trained / "numbers_network.txt").tolist() == list(
        found["mse"]["network"].values()
    )
    for name in ("training.png", "errors.png"):
        assert (trained / "plots" / name).stat().st_size > 5000
    check_own(trained)


@pytest.mark.slow
def test_an_interrupted_training_ends_with_the_same_weights(place, trained, monkeypatch):
    from experiments.run.folder import RunFolder

    write, calls = RunFolder.log, []

    def log(self, rows):
        calls.append(rows)
        if len(calls) == 3:
            raise KeyboardInterrupt
        write(self, rows)

    flags = ("--mode=train", *PROBLEM, *TRAINING, "--noplots")
    monkeypatch.setattr(RunFolder, "log", log)
    script(place, "cut", *flags, status=130)
    monkeypatch.undo()
    run = script(place, "cut", *flags, "--resume")
    assert (run / "losses.txt").read_bytes() == (trained / "losses.txt").read_bytes()
    assert summary(run)["mse"] == summary(trained)["mse"]


@pytest.mark.slow
def test_several_checkpoints_are_seeds(place, trained, capsys):
    other = script(place, "other", "--mode=train", *PROBLEM, *TRAINING, "--seed=1", "--noplots")
    run = script(
        place, "seeds", "--mode=evaluate", f"--checkpoint={trained},{other}", "--times=3,12",
        "--n-samples=20",
    )  # fmt: skip
    baselines = {"spectral", "power_iteration", "amp", "amp_random_start"}
    assert set(summary(run)["mse"]) == {"trained", "other"} | baselines
    assert (run / "plots" / "seeds.png").stat().st_size > 5000
    assert "t/n" in capsys.readouterr().out


@pytest.mark.slow
def test_reproduce_draws_everything(place, trained):
    reference = place / "numbers.txt"
    reference.write_text("0.5\n" * 70)
    run = script(
        place, "all", "--mode=reproduce", f"--checkpoint={trained}", "--times=20,40",
        "--n-samples=7", "--step=4", "--horizon=24", "--batch-size=3", f"--reference={reference}",
    )  # fmt: skip
    found = summary(run)
    assert set(found["z"]) == {"20", "40"}
    assert set(found["half_way"]) == set(found["mse"])
    # Of n = 12 and half of the matrices: 0.5 (1 - q^2), which is small this late.
    assert 0.0 < found["state_evolution"]["40"] < found["state_evolution"]["20"] < 0.1
    with np.load(run / "samples.npz") as samples:
        assert samples["u"].shape == (7, 12)
        np.testing.assert_allclose((samples["u"] ** 2).sum(axis=1), samples["norms"], rtol=1e-5)
        assert found["norms"]["0.5"] == pytest.approx(np.median(samples["norms"]))
    assert found["steps"] == 6
    assert "that learn nothing" in found["verdict"]
    assert "samples have a norm above 1/2" in found["verdict"]
    assert {p.name for p in (run / "plots").iterdir()} == {
        f"{name}.png" for name in ("errors", "norms")
    }
    check_own(run)


@pytest.mark.slow
def test_an_interrupted_generation_ends_with_the_same_samples(place, monkeypatch):
    """With the shipped network; all samples at once by one flag."""
    flags = (
        "--mode=generate", "--n-samples=4", "--batch-size=2", "--step=32", "--horizon=128",
        "--noplots",
    )  # fmt: skip
    whole = script(place, "whole", *flags)
    save, saved = sampling.save_state, []

    def killed(folder, step, state):
        save(folder, step, state)
        saved.append(step)
        if len(saved) == 6:
            raise KeyboardInterrupt

    monkeypatch.setattr(sampling, "SECONDS_BETWEEN_STATES", 0.0)
    monkeypatch.setattr(sampling, "save_state", killed)
    script(place, "halted", *flags, status=130)
    assert latest_step(place / "halted" / "checkpoint") == 6
    run = script(place, "halted", *flags, "--resume")
    with np.load(whole / "samples.npz") as a, np.load(run / "samples.npz") as b:
        np.testing.assert_array_equal(a["u"], b["u"])
    assert not (run / "checkpoint").exists()
    check_own(run)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--mode=evaluate", "--checkpoint=nowhere"), "holds no saved network"),
        (("--mode=evaluate", "--weight-decay=1"), "--weight-decay needs --mode=train"),
        (("--mode=evaluate", "--resume"), "--resume continues --mode=train and --mode=generate"),
        (("--mode=generate", "--step=5", "--horizon=2"), "step 5 exceeds the horizon 2"),
        (("--mode=train", "--k=400"), "k must be at most n = 350"),
        (("--mode=evaluate", "--reference=nowhere"), "cannot read the reference"),
        (("--mode=evalute",), "did you mean evaluate"),
        (("--time=3",), "did you mean --times"),
    ],
)
def test_bad_input_is_one_line(place, capsys, flags, message):
    script(place, "bad", *flags, status=2)
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not (place / "bad").exists()
