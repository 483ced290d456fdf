"""Every system on one, two and four devices, and on two processes of two.

The numbers are the same to rounding, and it is said how the work is divided. Where nothing is summed
over devices, those of four are the same to the last bit in however many processes.
"""

import json
import math
import os
import sys
from pathlib import Path

import flax.linen as nn
import numpy as np
import pytest

import experiments.run.training
from data_generation import __main__ as data_generation
from data_generation.images import datasets
from data_generation.scripts.joining import join
from data_generation.scripts.processes import Group, ProcessSettings, own_place
from diffusions.density import mixture_choice
from diffusions.networks import blocked_messages
from diffusions.networks.embeddings import sinusoidal_embedding
from diffusions.networks.presets import UNET_PRESETS
from experiments import learned_denoiser, train
from experiments.information_theoretic import __main__ as information_theoretic
from experiments.linear_denoiser import __main__ as linear_denoiser
from experiments.linear_denoiser import learned_task
from experiments.sparse_localization import __main__ as sparse_localization
from experiments.sparse_pixels import __main__ as sparse_pixels

TINIEST = {
    "width": 4,
    "multipliers": (1,),
    "blocks_per_level": 1,
    "attention_levels": (),
    "groups": 2,
}
QUICK = (
    "--epochs=6",
    "--eval-every=3",
    "--batch-size=60",
    "--hidden=8",
)
RIGHT, ALMOST = 1e-4, 2e-3
"""Relative: of a few steps of training, and of what a denoiser of few steps makes of it."""


@pytest.fixture(scope="module", autouse=True)
def group(request):
    """The process is one of two where the environment says which, and where the first is."""
    process = os.environ.get("PROCESS")
    if process is None:
        yield
        return
    settings = ProcessSettings(
        coordinator=os.environ["COORDINATOR"], processes=2, process=int(process)
    )
    group = join(settings)
    yield
    # The other one waits for what this one does no more: it is not waited for in its turn.
    reporter = request.config.pluginmanager.getplugin("terminalreporter")
    for report in reporter.stats.get("failed", []):
        sys.__stderr__.write(report.longreprtext)
    group.leave(int(request.session.testsfailed > 0))


@pytest.fixture(scope="module", autouse=True)
def small():
    """Networks, mixtures and images that compile in seconds."""
    kept = datasets.synthetic_images
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(UNET_PRESETS, "tiny", TINIEST)
        patch.setattr(
            datasets, "synthetic_images", lambda n, *, seed=0, **size: kept(n, size=20, seed=seed)
        )
        patch.setattr(mixture_choice, "COPIES", (1, 2))
        patch.setattr(mixture_choice, "COMPONENTS", (1, 2))
        patch.setattr(mixture_choice, "SCREENED_COMPONENTS", (1,))
        patch.setattr(blocked_messages, "_BLOCK", 2)
        yield


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    place = tmp_path_factory.mktemp("scripts")
    arguments = (f"--data-dir={place}/data", "--n-particles=120", "--n-timesteps=2")
    assert data_generation.run([*arguments, "--dataset-name=d", "--n-gmm-components=0"]) == 0
    return place


def numbers(run):
    """All that a run measured, in the order of its files."""
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    summary = json.loads((run / "summary.json").read_text())
    timed = ("seconds", "peak_memory_bytes", "images_per_second", "training_images_per_second")
    # A few steps through all log SNRs make much of the last bits.
    amplified = ("mmd_squared_of_samples",)
    found = []

    def collect(value):
        if isinstance(value, dict):
            for name in sorted(value.keys() - {*timed, *amplified}):
                collect(value[name])
        elif isinstance(value, list):
            for entry in value:
                collect(entry)
        elif isinstance(value, int | float) and math.isfinite(value):
            found.append(value)

    collect([rows, summary])
    return np.array(found)


@pytest.fixture
def operations(monkeypatch):
    """Floating-point operations of one device in the training programs, as they are compiled."""
    found, kept = [], experiments.run.training.train_in_chunks

    def train_in_chunks(run, state, program, **options):
        def counted(state, n_epochs):
            made = program(state, n_epochs)
            found.append(made.cost_analysis()["flops"] / n_epochs)
            return made

        return kept(run, state, counted, **options)

    monkeypatch.setattr(experiments.run.training, "train_in_chunks", train_in_chunks)
    return found


def runs(place, script, flags, capsys, work, *, on=(1, 2, 4), name=None, exact=False):
    """Numbers of a script by the number of devices, and the words that said how they share.

    Two processes of two devices are told those of one of four; where nothing is summed over devices,
    theirs have the same bits.
    """
    name = name or script.__name__.split(".")[1]
    told = Path(os.environ["NUMBERS"]) / name
    found = {}
    for n in on if Group.current is None else (2,):
        arguments = [*flags, f"--runs-dir={place}/runs", f"--run-name={name}-{n}", f"--devices={n}"]
        assert script.run(arguments) == 0, capsys.readouterr().err
        said = capsys.readouterr().out
        if Group.current is None or Group.current.first:
            assert (f"{work} on " in said) == (n > 1), said
        else:
            assert said == ""
        found[n] = numbers(Path(own_place(f"{place}/runs")) / f"{name}-{n}")
    if Group.current is None:
        np.savez(told, **{str(n): values for n, values in found.items()})
        return found
    before = np.load(f"{told}.npz")
    if exact:
        assert np.array_equal(found[2], before["4"])
    return {1: before["1"] if "1" in before else found[2], 2: found[2]}


def check_close(found, tolerance):
    for n, values in found.items():
        assert len(values) == len(found[1]) > 5
        far = np.abs(values - found[1]) > tolerance * np.maximum(np.abs(found[1]), 0.1)
        assert not far.any(), (n, values[far], found[1][far])


def check_shared(operations):
    """A quarter of the work, and what every device does."""
    if Group.current is not None:
        return
    one, two, four = operations
    assert two < 0.65 * one
    assert four < 0.4 * one


def test_seeds_of_a_population(place, capsys):
    flags = ("--dataset=d", f"--data-dir={place}/data", "--seeds=0,1,2", "--noplots", *QUICK)
    check_close(runs(place, train, flags, capsys, "3 seeds", exact=True), RIGHT)


def test_a_state_of_four_devices_goes_on_on_one(place, monkeypatch):
    if Group.current is not None:
        pytest.skip("a matter of one process")
    flags = ("--dataset=d", f"--data-dir={place}/data", "--seeds=0,1,2,3,4", "--noplots", *QUICK)

    def run(name, *more, status=0):
        arguments = [*flags, f"--runs-dir={place}/runs", f"--run-name={name}", *more]
        assert train.run(arguments) == status
        return place / "runs" / name

    write, calls = experiments.run.training.save_state, []

    def interrupted(*arguments):
        calls.append(None)
        if len(calls) == 2:
            raise KeyboardInterrupt
        write(*arguments)

    monkeypatch.setattr(experiments.run.training, "save_state", interrupted)
    run("cut", "--devices=4", status=130)
    monkeypatch.undo()
    found = {1: numbers(run("whole", "--devices=1"))}
    found |= {4: numbers(run("cut", "--devices=1", "--resume"))}
    check_close(found, RIGHT)


def test_densities(place, capsys, operations):
    flags = (
        *("--n-points=400", "--batch-size=60", "--epochs=4", "--eval-every=2", "--width=16"),
        *("--n-layers=1", "--embedding=8", "--n-log-snr=16", "--n-samples=50", "--noplots"),
        *("--sampler-steps=8", "--precondition=gaussian"),
    )
    check_close(runs(place, information_theoretic, flags, capsys, "batches of 60"), ALMOST)
    check_shared(operations)


def test_sparse_matrices(place, capsys, operations):
    flags = (
        *("--mode=train", "--n=12", "--k=2", "--layers=2", "--depths=1,2", "--deepen-at=1"),
        *("--hidden=4", "--epochs=2,2,2", "--settle-epochs=1", "--samples-per-epoch=16"),
        *("--train-batch-size=8", "--checkpoint-every=3", "--times=3,12", "--n-samples=10"),
        *("--nobaselines", "--noplots"),
    )
    check_close(runs(place, sparse_localization, flags, capsys, "batches of 8"), ALMOST)
    check_shared(operations)


def test_samples_of_sparse_matrices(place, capsys):
    flags = ("--mode=generate", "--step=60", "--n-samples=8", "--batch-size=4", "--noplots")
    work = "4 samples at once (--batch-size)"
    found = runs(place, sparse_localization, flags, capsys, work, name="samples", exact=True)
    check_close(found, ALMOST)


def test_images_from_few_pixels(place, capsys, operations):
    flags = (
        *("--dataset=synthetic", "--preset=cpu", "--unet=tiny", "--n-train=16", "--batch-size=8"),
        *(
            "--epochs=2",
            "--panel-every=2",
            "--supervision=full-input",
            "--regression-epochs=0",
            "--n-test=4",
            "--n-panel=4",
        ),
        *("--eval-batch=4", "--draws=2", "--steps=3", "--n-compare=0", "--noplots"),
    )
    check_close(runs(place, sparse_pixels, flags, capsys, "batches of 8"), ALMOST)
    check_shared(operations)


def test_repetitions_of_a_linear_denoiser_have_the_same_bits(place, capsys):
    flags = (
        *("--n-pixels=3", "--n-train=20", "--n-simulations=5", "--n-original=60"),
        *("--chunk-size=3", "--noplots"),
    )
    found = runs(place, linear_denoiser, flags, capsys, "chunks of 3 repetitions", exact=True)
    assert all(np.array_equal(values, found[1]) for values in found.values())


class OneConvolution(nn.Module):
    """Stands for the attention U-Net, which takes longer to compile than all the rest to run."""

    channels: tuple[int, ...]
    heads: int

    @nn.compact
    def __call__(self, x, t):
        h = nn.Conv(self.channels[0], (3, 3))(x)
        h = h + sinusoidal_embedding(t, self.channels[0])[:, None, None]
        return nn.Dense(x.shape[-1])(nn.gelu(h))


def test_repetitions_of_a_learned_denoiser(place, capsys, monkeypatch):
    monkeypatch.setattr(learned_task, "AttentionUNet", OneConvolution)
    flags = (
        *("--n-train=32", "--n-simulations=2", "--n-original=80", "--n-generated=4"),
        *("--epochs=2", "--batch-size=8", "--diffusion-steps=5", "--channels=4,4,8,8"),
        *("--mean-list=0.2,0.8", "--std-list=0.05,0.1", "--weights=1,3", "--noplots"),
    )
    alone, together = (
        runs(place, learned_denoiser, (*flags, f"--chunk-size={n}"), capsys, work, on=on, name=name)
        for n, work, on, name in (
            (1, "batches of 8", (1, 4), "alone"),
            (2, "chunks of 2 repetitions", (2,), "together"),
        )
    )
    check_close(alone, ALMOST)
    # The rows are of others, the summaries behind them are of all.
    ends = {n: values[-22:] for n, values in {1: alone[1], 2: together[2]}.items()}
    check_close(ends, ALMOST)
