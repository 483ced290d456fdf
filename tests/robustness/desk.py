"""What everything is tried on: small data sets, runs of every script, and files of every kind.

They are made once, by the scripts themselves, and copied to wherever something is to be done to them.
"""

import contextlib
import dataclasses
import hashlib
import importlib.util
import json
import os
import re
import shutil
import warnings
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import child
import numpy as np

# What one run of the same command may differ in from another: how long it took, and when it was.
_MEASURED = re.compile(
    r"seconds.*|peak_memory_bytes|.*_per_second|side_by_side|created|date|tensorboard|when|took"
)
_MOMENT = re.compile(r"made \d{4}-\d\d-\d\d \d\d:\d\d UTC|\d+\.\d+ s\b|\d+ MiB")

TINIEST = {
    "width": 4,
    "multipliers": (1, 2),
    "blocks_per_level": 1,
    "attention_levels": (),
    "groups": 2,
}


def warm_up() -> None:
    """Imports what the scripts import, without using JAX; makes networks and images small."""
    warnings.simplefilter("ignore", DeprecationWarning)
    modules = (
        *("jax", "flax.linen", "optax", "orbax.checkpoint", "matplotlib.pyplot", "scipy.spatial"),
        *("sklearn.cluster", "tensorboardX", "tqdm", "ott.solvers.linear.sinkhorn", "yaml"),
        *(
            "data_generation.__main__",
            "data_generation.populations.datasets",
            "data_generation.populations.pictures",
        ),
        *("data_generation.images.cifar10", "data_generation.images.idx", "data_generation.planar"),
        *("checkpoints.export", "checkpoints.exchange.model_folder"),
        *("checkpoints.import_torch", "checkpoints.message_passing", "checkpoints.torch.importing"),
        *("jkonet_star.fitting", "jkonet_star.solvers.bilevel", "experiments.populations.training"),
        *(f"experiments.{name}" for name in SCRIPTS_OF_EXPERIMENTS),
        *(
            "experiments.populations.figures",
            "experiments.populations.assessment",
            "experiments.reports.run",
        ),
        *("experiments.reports.sweep", "experiments.sweeps.runs", "experiments.run.training"),
        *("experiments.sparse_localization.training", "experiments.sparse_pixels.training"),
        *("experiments.sparse_pixels.evaluation", "experiments.sparse_pixels.figures"),
        *("experiments.information_theoretic.planar", "experiments.information_theoretic.images"),
        *(
            "experiments.sparse_localization.measurement",
            "experiments.information_theoretic.training",
        ),
    )
    for module in modules:
        importlib.import_module(module)
    "".encode("cp437")  # of zip archives: another user may not read where Python is
    for module in ("anndata", "h5py", "ott.neural.methods.monge_gap"):
        with contextlib.suppress(ImportError):
            importlib.import_module(module)
    from data_generation.images import datasets as images
    from diffusions.networks import blocked_messages
    from diffusions.networks.presets import UNET_PRESETS

    whole = images.synthetic_images

    def small(n: int, *, size: int = 20, channels: int = 3, seed: int = 0) -> Any:
        return whole(n, size=size, channels=channels, seed=seed)

    images.synthetic_images = small
    UNET_PRESETS["tiny"] = TINIEST
    blocked_messages._BLOCK = 2


SCRIPTS_OF_EXPERIMENTS = (
    *("train", "evaluate", "information_theoretic", "sparse_localization", "sparse_pixels"),
    *("learned_denoiser", "linear_denoiser", "sweep", "reproduce", "report", "annotate"),
)
SCRIPTS = (
    "data_generation.__main__",
    *(f"experiments.{name}" for name in SCRIPTS_OF_EXPERIMENTS),
    "checkpoints.export",
    "checkpoints.import_torch",
)

DATA = ("--n-particles=60", "--n-timesteps=2", "--data-dir=data", "--potential=styblinski_tang")
FULL = ("--interaction=oakley_ohagan", "--internal=wiener", "--beta=0.1", "--n-gmm-components=2")
LEARNING = ("--batch-size=30", "--hidden=6", "--interaction-samples=4", "--map-hidden=6")
LINEAR = ("--solver=jkonet-star-linear-potential", "--degree=2", "--radial-centers=3")
CURRICULUM = (
    *("--n=10", "--k=2", "--layers=2", "--depths=1,2", "--deepen-at=2", "--hidden=4"),
    *("--epochs=4,2,4", "--settle-epochs=1", "--samples-per-epoch=16", "--train-batch-size=8"),
    *("--checkpoint-every=2", "--times=3,12", "--n-samples=20", "--nobaselines"),
)
PLANE = (
    *("--dataset=scg", "--n-points=200", "--batch-size=60", "--epochs=8", "--eval-every=2"),
    *("--width=8", "--n-layers=1", "--embedding=4", "--grid=4", "--n-log-snr=8"),
    *("--n-samples=20", "--sampler-steps=4"),
)
PIXELS = (
    *("--dataset=synthetic", "--preset=cpu", "--n-train=22", "--batch-size=8", "--epochs=4"),
    *("--panel-every=2", "--regression-epochs=1", "--n-test=6", "--n-panel=6", "--eval-batch=6"),
    *("--draws=2", "--steps=2", "--n-compare=0"),
)


@dataclasses.dataclass(frozen=True)
class Step:
    """One command that sets the desk."""

    script: str
    arguments: tuple[str, ...]


STEPS = (
    Step("data_generation.__main__", (*DATA, "--dataset-name=plain", "--n-gmm-components=0")),
    Step("data_generation.__main__", (*DATA, "--dataset-name=full", *FULL)),
    Step(
        "experiments.train",
        ("--dataset=plain", *LINEAR, "--run-name=linear", "--runs-dir=runs"),
    ),
    Step(
        "experiments.train",
        ("--dataset=plain", "--run-name=network", "--epochs=4", "--eval-every=2", *LEARNING),
    ),
    Step("experiments.sparse_localization", ("--mode=train", "--run-name=sparse", *CURRICULUM)),
    Step("experiments.sparse_pixels", ("--run-name=pixels", *PIXELS)),
    Step("experiments.information_theoretic", ("--run-name=plane", *PLANE)),
)
"""Everything below one folder: data/ and runs/."""

CELLS = (
    Step(
        "data_generation.__main__",
        (
            *("--load-from-file=cells.h5ad", "--time-key=day", "--representation=X_scvi"),
            *("--n-gmm-components=0", "--dataset-name=cells", "--data-dir=data"),
        ),
    ),
    Step("experiments.train", ("--dataset=cells", *LINEAR, "--run-name=cells")),
)


def set_desk(folder: Path, *, few: bool = False) -> None:
    """Makes everything in a new folder, or the few things that are made quickly."""
    folder.mkdir(parents=True)
    write_files(folder)
    with_cells = (folder / "cells.h5ad").exists()
    for step in STEPS[:4] if few else (*STEPS, *(CELLS if with_cells else ())):
        outcome = child.run(step.script, step.arguments, folder, most_seconds=600)
        if wrong := child.complaint(outcome, (0,)):
            raise RuntimeError(f"{step}: {wrong}\n{outcome.err}")
    if not few:
        child.answer(lambda: write_weights(folder), folder)


def write_files(folder: Path) -> None:
    """Files that users bring."""
    rng = np.random.default_rng(0)
    points = rng.normal(size=(3, 40, 2)).astype(np.float32)
    times = np.repeat(np.arange(3.0), 40)
    np.save(folder / "points.npy", points)
    np.savez(folder / "points.npz", points=points.reshape(-1, 2), times=times)
    rows = [
        f"{t},{x!r},{y!r}" for t, (x, y) in zip(times, points.reshape(-1, 2).tolist(), strict=True)
    ]
    (folder / "points.csv").write_text("time,x,y\n" + "\n".join(rows) + "\n")
    (folder / "grid.yaml").write_text(
        "potentials: [sphere, relu]\nparticle_counts: [50]\nn_timesteps: 2\nn_gmm_components: 0\n"
        "solvers: [jkonet-star-linear-potential]\ndegree: 2\nradial_centers: 3\nseeds: [0, 1]\n"
    )
    for split, n in (("train", 9), ("t10k", 4)):
        write_idx(folder / f"{split}-images-idx3-ubyte", rng.integers(0, 256, (n, 20, 20)))
        write_idx(folder / f"{split}-labels-idx1-ubyte", np.arange(n) % 10)
    write_cells(folder / "cells.h5ad", points, times)


def write_idx(file: Path, array: np.ndarray) -> None:
    """The format of MNIST."""
    header = bytes([0, 0, 8, array.ndim]) + b"".join(n.to_bytes(4, "big") for n in array.shape)
    file.write_bytes(header + array.astype(np.uint8).tobytes())


def write_cells(file: Path, points: np.ndarray, times: np.ndarray) -> None:
    """An AnnData file, where AnnData is installed."""
    try:
        import anndata
        import pandas
    except ImportError:
        return
    names = [f"cell{i}" for i in range(len(times))]
    obs = pandas.DataFrame({"day": times}, index=names)
    data = anndata.AnnData(X=np.ones((len(times), 2), np.float32), obs=obs)
    data.obsm["X_scvi"] = points.reshape(-1, 2)
    data.write_h5ad(file)


def write_weights(folder: Path) -> str:
    """The weights of the denoiser as PyTorch would have them, in both formats."""
    from checkpoints.message_passing import load_denoiser

    params = load_denoiser(folder / "runs" / "sparse" / "denoiser").params["params"]
    names = {"kernel": "0.weight", "bias": "0.bias", "output": "2.weight", "output_bias": "2.bias"}
    weights = {"log_scale": np.asarray(params["log_scale"])}
    if "direct" in params:
        weights["readout_coefs"] = np.asarray(params["direct"])
    for own, name in names.items():
        weights[f"tiny_decoder.{name}"] = np.asarray(params["readout"][own])
        for part, theirs in (("message", "msg_mlps"), ("update", "upd_mlps")):
            for layer, array in enumerate(np.asarray(params[part][own])):
                weights[f"{theirs}.{layer}.{name}"] = array
    for layer, array in enumerate(np.asarray(params["logit_alpha"])):
        weights[f"logit_alpha.{layer}"] = array
    writers = _writers_of_weights()
    writers.save_safetensors(folder / "weights.safetensors", weights)
    writers.save_pth(folder / "weights.pth", weights)
    return ""


def _writers_of_weights() -> Any:
    """The tests' own, which need no PyTorch."""
    file = Path(__file__).parents[1] / "checkpoints" / "test_import_torch.py"
    spec = importlib.util.spec_from_file_location("writers_of_weights", file)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def copy(desk: Path, names: Iterable[str], to: Path) -> None:
    """Copies parts of the desk to a new place, under the same names."""
    for name in names:
        target = to / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if (desk / name).is_dir():
            shutil.copytree(desk / name, target)
        else:
            shutil.copy2(desk / name, target)


def bytes_of(folder: Path, names: Sequence[str]) -> dict[str, str]:
    """Checksum of every file below some names of a folder."""
    found = {}
    for name in names:
        files = [folder / name] if (folder / name).is_file() else sorted((folder / name).rglob("*"))
        for file in files:
            if file.is_file():
                digest = hashlib.sha256(file.read_bytes()).hexdigest()
                found[str(file.relative_to(folder))] = digest
    return found


def results_of(folder: Path, names: Sequence[str]) -> dict[str, str]:
    """Checksum of every result below some names of a folder, leaving out what a run measures.

    Uses JAX, so call it in a child. The arrays of saved networks and energies are read: Orbax's files
    differ from one writing to the next.
    """
    found: dict[str, str] = {}
    for name in names:
        top = folder / name
        if not top.exists():
            found[name] = "absent"
        for path in [top] if top.is_file() else sorted(top.rglob("*")):
            place = str(path.relative_to(folder))
            inside = Path(place).parts[:-1]
            hidden = any(part.startswith(".") for part in Path(place).parts)
            # A training state is of no use to a finished run, which a kill may have left with it.
            if hidden or not {"arrays", "tensorboard", "checkpoint"}.isdisjoint(inside):
                continue
            if path.name == "checkpoint":
                continue
            if path.is_dir():
                found[place] = _arrays(path) if path.name == "arrays" else "folder"
            elif not _MEASURED.fullmatch(path.name):
                found[place] = hashlib.sha256(_content(path)).hexdigest()
    return found


def _arrays(path: Path) -> str:
    import jax
    import orbax.checkpoint as ocp

    with ocp.StandardCheckpointer() as checkpointer:
        tree = checkpointer.restore(path.absolute())
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    digest = hashlib.sha256()
    for where, leaf in sorted(leaves, key=lambda pair: jax.tree_util.keystr(pair[0])):
        array = np.asarray(leaf)
        digest.update(f"{jax.tree_util.keystr(where)}{array.dtype}{array.shape}".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()


def _content(path: Path) -> bytes:
    if path.suffix == ".npz":
        with np.load(path, allow_pickle=False) as archive:
            parts = [(k, str(archive[k].dtype), archive[k].tobytes()) for k in archive.files]
        return repr(sorted(parts)).encode()
    if path.suffix == ".json":
        return json.dumps(_without_measures(json.loads(path.read_text())), sort_keys=True).encode()
    if path.suffix == ".csv":
        return _table(path.read_text().splitlines(), ",").encode()
    if path.suffix == ".md":
        rows = [line for line in path.read_text().splitlines() if line.startswith("|")]
        return _table(rows, "|").encode()
    if path.suffix in (".html", ".txt"):
        return _MOMENT.sub("", path.read_text()).encode()
    if path.suffix == ".h5ad":
        return _hdf5(path)
    return path.read_bytes()


def _without_measures(content: Any) -> Any:
    if isinstance(content, dict):
        # Files of arrays are looked at themselves: their checksums are those of their bytes.
        dropped = ("checksums",)
        return {
            k: _without_measures(v)
            for k, v in content.items()
            if not _MEASURED.fullmatch(k) and k not in dropped
        }
    if isinstance(content, list):
        return [_without_measures(v) for v in content]
    return content


def _table(lines: Sequence[str], separator: str) -> str:
    """A table without the columns that are measured."""
    rows = [line.split(separator) for line in lines]
    kept: list[int] = []
    for row in rows:
        if row == rows[0] or len(row) != len(rows[0]):  # another table begins
            kept = [i for i, name in enumerate(row) if not _MEASURED.fullmatch(name.strip())]
    return "\n".join(separator.join(row[i] for i in kept if i < len(row)) for row in rows)


def _hdf5(path: Path) -> bytes:
    import h5py

    parts = []

    def look(name: str, item: Any) -> None:
        if isinstance(item, h5py.Dataset):
            parts.append((name, repr(np.asarray(item[()]).tolist())))

    with h5py.File(path) as file:
        file.visititems(look)
    return repr(sorted(parts)).encode()


def cores() -> int:
    """Processors that this process may use."""
    return len(os.sched_getaffinity(0))
