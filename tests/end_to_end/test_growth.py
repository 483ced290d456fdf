"""`--growth` of experiments.train, from the flags to a folder that is loaded again with its rate."""

import json

import jax
import numpy as np
import pytest

from checkpoints import load_energy
from experiments.run.folder import RunFolder

N = 60
SHARES = (0.5, 0.7, 0.85)
FASTER = np.diff(np.log(SHARES) - np.log1p(-np.asarray(SHARES)))
"""What the upper of two clusters at rest grows faster by, in 1 / step."""
FLAGS = (
    "--dataset=clusters",
    "--solver=jkonet-star-linear-potential",
    "--radial=none",
    "--regularization=1e-6",
    "--growth",
    "--growth-prices=0.25",
    "--growth-rounds=12",
    "--growth-inducing=10",
    "--bootstrap=19",
)


@pytest.fixture(scope="module")
def clusters(place):
    """The points, and a dataset of them."""
    rng = np.random.default_rng(0)
    points = rng.normal(size=(len(SHARES), N, 1)).astype(np.float32)
    for x, share in zip(points, SHARES, strict=True):
        x[:, 0] += np.where(np.arange(N) < round(N * share), 4.0, -4.0)
    np.save(place.path / "clusters.npy", points)
    file = place.path / "clusters.npy"
    flags = ("--n-gmm-components=0", "--test-ratio=0", "--dt=1")
    place.generate("clusters", f"--load-from-file={file}", *flags)
    return points


def faster(energy, x, t):
    rates = np.asarray(energy.growth(x, t))
    return rates[x[:, 0] > 0].mean() - rates[x[:, 0] < 0].mean()


def leaves(energies):
    return [np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(energies)]


def test_growth_is_learned_resumed_and_loaded_again(place, clusters, capfd, monkeypatch):
    whole = place.train("grown", *FLAGS)
    assert "growth rates " in capfd.readouterr().out
    summary = json.loads((whole / "summary.json").read_text())
    told = summary["growth"]
    assert not told["absolute"]
    energies = load_energy(whole / "energy")
    energy, x = energies.member(0), clusters[0]
    rates = np.asarray(energy.growth(x, 0.5))
    assert told["least"] <= rates.min() + 0.1 < rates.max() <= told["most"] + 0.1
    for k, own in enumerate(clusters[:-1]):
        assert faster(energy, own, k + 0.5) == pytest.approx(FASTER[k], rel=0.2)
    # At rest, but for chance; the mean cell without growth moves by 1.6.
    assert np.abs(energy.drift(x)).mean() < 0.4

    # Every resampled population has a rate of its own, about the same.
    spread = [
        faster(energies.replicates.member(i), x, 0.5)
        for i in range(summary["uncertainty"]["replicates"])
    ]
    assert summary["uncertainty"]["resampled"] == "snapshots"
    assert np.mean(spread) == pytest.approx(FASTER[0], rel=0.25)
    assert 0.05 < np.std(spread) < 0.8

    def interrupt(*arguments, **settings):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(RunFolder, "finish", interrupt)
        place.train("grown_again", *FLAGS, status=130)
    again = place.runs / "grown_again"
    assert not (again / "summary.json").exists()
    place.train("grown_again", *FLAGS, "--resume")
    other = load_energy(again / "energy")
    assert leaves(other) == leaves(energies)
    assert leaves(other.replicates) == leaves(energies.replicates)
    assert json.loads((again / "summary.json").read_text())["growth"] == told
