"""Small datasets for the end-to-end tests, and the scripts as a user calls them."""

import contextlib
import dataclasses
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

import experiments.run.training
from checkpoints import load_energy
from data_generation import __main__ as data_generation
from data_generation.images import datasets as images
from diffusions.networks.presets import UNET_PRESETS
from experiments import evaluate, train

# The packages under test: of this tree, or of an installed wheel.
ROOT = Path(train.__file__).parents[1]
SMALL = ("--n-particles=120", "--n-timesteps=2")
TINIEST = {
    "width": 4,
    "multipliers": (1,),
    "blocks_per_level": 1,
    "attention_levels": (),
    "groups": 2,
}
QUICK = (
    "--epochs=6",
    "--eval-every=2",
    "--batch-size=60",
    "--hidden=8",
    "--interaction-samples=4",
    "--radial-centers=3",
    "--degree=2",
)


def _link_once(source: str, target: str) -> None:
    with contextlib.suppress(FileExistsError):
        os.link(source, target)


@dataclasses.dataclass(frozen=True)
class Place:
    """Where datasets and runs are, and the scripts at a small size."""

    path: Path

    @property
    def data(self) -> Path:
        return self.path / "data"

    @property
    def runs(self) -> Path:
        return self.path / "runs"

    def generate(self, name: str, *flags: str) -> Path:
        arguments = [f"--dataset-name={name}", f"--data-dir={self.data}", *flags]
        assert data_generation.run(arguments) == 0
        return self.data / name

    def training(self, name: str, *flags: str) -> list[str]:
        folders = [f"--data-dir={self.data}", f"--runs-dir={self.runs}", f"--run-name={name}"]
        return ["--noplots", *folders, *QUICK, *flags]

    def train(self, name: str, *flags: str, status: int = 0) -> Path:
        assert train.run(self.training(name, *flags)) == status
        return self.runs / name

    def cut(self, name: str, *flags: str, state: int = 1) -> None:
        """Interrupts a run at its n-th state, which is not written any more."""
        kept, calls = experiments.run.training.save_state, []

        def interrupt(*arguments):
            calls.append(None)
            if len(calls) == state:
                raise KeyboardInterrupt
            return kept(*arguments)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(experiments.run.training, "save_state", interrupt)
            self.train(name, *flags, status=130)

    @staticmethod
    def bits(run: Path) -> tuple[list[bytes], str]:
        """Of the energies of a run, and what it wrote on the way."""
        leaves = jax.tree.leaves(load_energy(run / "energy"))
        return [np.asarray(leaf).tobytes() for leaf in leaves], (run / "metrics.jsonl").read_text()

    def evaluate(self, run: Path, *flags: str, status: int = 0) -> dict[str, Any]:
        arguments = [f"--run={run}", f"--data-dir={self.data}", "--noplots", *flags]
        assert evaluate.run(arguments) == status
        return json.loads((run / "evaluation.json").read_text()) if status == 0 else {}

    def apart(self, *arguments: str, **options: Any) -> subprocess.Popen:
        """A script in a process of its own."""
        # It reads what we have compiled, and keeps its own where a kill leaves us no half program.
        programs = self.path / "programs"
        shutil.copytree(
            jax.config.jax_compilation_cache_dir,
            programs,
            copy_function=_link_once,
            dirs_exist_ok=True,
        )
        return subprocess.Popen(
            [sys.executable, "-m", *arguments],
            cwd=self.path,
            env=dict(
                os.environ,
                PYTHONPATH=str(ROOT),
                JAX_COMPILATION_CACHE_DIR=str(programs),
                JAX_DISABLE_MOST_OPTIMIZATIONS="true",
            ),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            **options,
        )


@pytest.fixture(scope="module")
def small_networks_and_images():
    """Images, and a network of them, that compile in seconds; the code path is the same."""

    def pictures(n, *, size=20, channels=3, seed=0):
        return kept(n, size=size, channels=channels, seed=seed)

    kept = images.synthetic_images
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(UNET_PRESETS, "tiny", TINIEST)
        patch.setattr(images, "synthetic_images", pictures)
        yield


@pytest.fixture(scope="session")
def datasets(tmp_path_factory):
    """What every module gets a copy of."""
    datasets = Place(tmp_path_factory.mktemp("datasets"))
    datasets.generate("plain", "--potential=styblinski_tang", "--n-gmm-components=0", *SMALL)
    datasets.generate(
        "full",
        "--potential=styblinski_tang",
        "--interaction=oakley_ohagan",
        "--internal=wiener",
        "--beta=0.1",
        "--n-gmm-components=2",
        *SMALL,
    )
    rng = np.random.default_rng(0)
    points = rng.normal(size=(3, 120, 1)).astype(np.float32) * np.linspace(1, 0.8, 3)[:, None, None]
    line = datasets.path / "line.npy"
    np.save(line, points)
    datasets.generate("file", f"--load-from-file={line}", "--n-gmm-components=0")
    return datasets


@pytest.fixture(scope="module")
def place(datasets, tmp_path_factory):
    """Datasets: `plain` has a potential, `full` all three energies, `file` no known truth.

    Each module has its own, and its own runs: which modules one process meets, and in which order, is
    not the same on every machine, and a name that two of them use would fail only where they meet.
    """
    place = Place(tmp_path_factory.mktemp("end_to_end"))
    shutil.copytree(datasets.data, place.data)
    return place
