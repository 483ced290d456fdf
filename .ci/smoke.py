"""Every script and every solver for seconds, with what an installation without extras has.

    ENVIRONMENT/bin/python .ci/smoke.py

Works in a new folder in which folders with the names of the packages lie about, and ends with the
output of the first command that does not do as it should.
"""

import importlib.util
import json
import os
import shlex
import struct
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from checkpoints import load_pretrained
from diffusions.late_imports import EXTRA_OF
from jkonet_star.solvers.registry import SOLVERS

PACKAGES = ("checkpoints", "data_generation", "diffusions", "experiments", "jkonet_star")
LEARNING = (
    "--epochs=2 --batch-size=30 --hidden=8 --interaction-samples=4 --degree=2 --radial-centers=3 "
    "--map-hidden=4 --inner-steps=2 --monge-gap-iterations=2"
)
SMALL = "--n-timesteps=2 --n-gmm-components=2"
WORK = f"""
jkonet --completion=bash
data_generation --dataset-name=population --n-particles=60 --internal=wiener --beta=0.1 {SMALL}
    --potential=sphere --batch-size=-1
data_generation --dataset-name=near --n-particles=60 {SMALL} --potential=sphere
    --coupling=semidiscrete --passes=3
experiments.train --solver=jkonet-star --dataset=population --run-name=trained {LEARNING}
experiments.evaluate --run=runs/trained
experiments.identify --run=runs/trained
experiments.report --run=runs/trained --out=report.html
experiments.sweep --sweep-name=solvers --potentials=sphere --solvers={",".join(SOLVERS)} --seeds=0
    --particle-counts=60 --eval-every=2 {SMALL} {LEARNING}
experiments.reproduce --experiment=potentials --potentials=sphere --quick --epochs=1
experiments.information_theoretic --dataset=scg --run-name=density --n-points=100 --batch-size=30
    --epochs=1 --width=8 --n-layers=1 --embedding=8 --grid=4 --n-log-snr=8 --n-samples=10
    --sampler-steps=4
experiments.linear_denoiser --run-name=linear --n-pixels=3 --n-train=5,9 --n-simulations=2
    --n-original=20
experiments.learned_denoiser --run-name=learned --n-train=12 --n-simulations=1 --n-original=20
    --n-generated=2 --epochs=1 --batch-size=12 --diffusion-steps=3 --channels=4,4,8,8
experiments.sparse_localization --mode=reproduce --run-name=sparse --times=20,40 --n-samples=4
    --step=8 --horizon=32
experiments.sparse_pixels --dataset=synthetic --preset=cpu --run-name=pixels --n-train=8
    --batch-size=8 --epochs=1 --regression-epochs=0 --n-test=2 --n-panel=2 --eval-batch=2
    --draws=1 --steps=2 --n-compare=0
checkpoints.import_torch --kind=message-passing --weights=weights.safetensors --out=imported --n=64
    --k=6
"""
# What an extra is for, and that extra; annotate works on AnnData only.
REFUSED = {
    "experiments.annotate --run=runs/trained --h5ad=cells.h5ad --out=annotated.h5ad": "bio",
    "experiments.train --dataset=population --run-name=trained --overwrite --wandb": "track",
    "experiments.sweep --executor=slurm --sweep-name=jobs": "slurm",
    "checkpoints.export --model=runs/trained --out=shared/trained": "exchange",
}
WRITTEN = (
    "data/population/metadata.json",
    "runs/trained/evaluation.json",
    "report.html",
    "runs/potentials-quick/potentials.md",
    *(f"runs/{name}/summary.json" for name in ("trained", "density", "linear", "learned")),
    *(f"runs/{name}/summary.json" for name in ("sparse", "pixels")),
    "imported/network.json",
)


def commands(text: str) -> list[str]:
    """One line for each command; an indented line continues the one before."""
    return text.strip().replace("\n    ", " ").splitlines()


def script_of(command: str) -> str:
    """The module that a command runs."""
    first = command.split()[0]
    return "experiments" if first == "jkonet" else first


def scripts() -> set[str]:
    """Every module that can be run, as installed."""
    found = set()
    for package in PACKAGES:
        folder = Path(importlib.util.find_spec(package).origin).parent
        for file in folder.rglob("*.py"):
            if '\nif __name__ == "__main__":' in file.read_text(encoding="utf-8"):
                name = ".".join(file.relative_to(folder.parent).with_suffix("").parts)
                found.add(name.removesuffix(".__main__"))
    return found


def write_weights(file: Path) -> None:
    """The shipped message-passing network under the names of the published PyTorch module."""
    params = load_pretrained("sparse_n64_k6").params["params"]
    names = {"0.weight": "kernel", "0.bias": "bias", "2.weight": "output", "2.bias": "output_bias"}
    arrays = {"log_scale": params["log_scale"]}
    if "direct" in params:
        arrays["readout_coefs"] = params["direct"]
    for layer in range(len(params["logit_alpha"])):
        arrays[f"logit_alpha.{layer}"] = params["logit_alpha"][layer]
        for name, own in names.items():
            arrays[f"msg_mlps.{layer}.{name}"] = params["message"][own][layer]
            arrays[f"upd_mlps.{layer}.{name}"] = params["update"][own][layer]
    for name, own in names.items():
        arrays[f"tiny_decoder.{name}"] = params["readout"][own]
    header, data = {}, b""
    for name, array in arrays.items():
        content = np.asarray(array, "<f4").tobytes()
        place = [len(data), len(data) + len(content)]
        header[name] = {"dtype": "F32", "shape": list(np.shape(array)), "data_offsets": place}
        data += content
    text = json.dumps(header).encode()
    file.write_bytes(struct.pack("<Q", len(text)) + text + data)


def run(command: str, folder: Path) -> subprocess.CompletedProcess:
    """One command as a user gives it; the console script by its name."""
    script, *arguments = shlex.split(command)
    program = [sys.executable, "-m", script]
    if "." not in script:
        program = [str(Path(sys.executable).parent / script)]
    begin = time.perf_counter()
    done = subprocess.run([*program, *arguments], cwd=folder, capture_output=True, text=True)
    print(f"{time.perf_counter() - begin:6.1f} s  {command[:88]}", flush=True)
    return done


def check(condition: object, message: str) -> None:
    """Ends with the message unless the condition holds."""
    if not condition:
        sys.exit(f"error: {message}")


def main() -> None:
    """The commands, and what they should leave."""
    for module in EXTRA_OF:
        check(importlib.util.find_spec(module) is None, f"{module} of an extra is installed")
    os.environ.pop("PYTHONPATH", None)
    os.environ["JAX_DISABLE_MOST_OPTIMIZATIONS"] = "true"
    work = commands(WORK)
    covered = {script_of(command) for command in (*work, *REFUSED)}
    check(scripts() == covered, f"scripts that are not run here: {scripts() ^ covered}")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        os.environ["JAX_COMPILATION_CACHE_DIR"] = str(folder / "programs")
        for package in PACKAGES:
            (folder / package).mkdir()
        write_weights(folder / "weights.safetensors")
        (folder / "cells.h5ad").write_bytes(b"cells")
        for command in work:
            done = run(command, folder)
            check(done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}")
        for file in WRITTEN:
            check((folder / file).is_file(), f"{file} was not written")
        finished = list(folder.glob("runs/solvers/runs/*/summary.json"))
        check(len(finished) == len(SOLVERS), f"{len(finished)} of {len(SOLVERS)} solvers finished")
        before = sorted(folder.rglob("*"))  # programs, too: what is refused compiles none
        for command, extra in REFUSED.items():
            done = run(command, folder)
            wanted = f"needs the extra `{extra}`: pip install 'jkonet-diffusions[{extra}]'\n"
            named = done.stderr.endswith(wanted) and done.stderr.count("\n") == 1
            check(named and done.returncode == 2, f"{command}\n{done.stdout}{done.stderr}")
        check(sorted(folder.rglob("*")) == before, "a command that was refused left something")
    print(f"{len(work) + len(REFUSED)} passed, 0 failed")


if __name__ == "__main__":
    main()
