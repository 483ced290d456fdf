r"""Sparse pixels by how many are told: short trainings of one budget, beside what needs none or less.

    python benchmarks/sparse_shares.py --data-path=FOLDER
    python benchmarks/sparse_shares.py --data-path=FOLDER --shares=0.2 --n-train=8192 --epochs=6

Of every share a run of `experiments.sparse_pixels --preset=cpu`: that share of the pixels told and as
many asked, the same images and epochs of the diffusion model and of the regression network. PSNR of
the unseen pixels in dB, means over the held-out images; CPU seconds of the whole run.
"""

import argparse
import csv
import tempfile
from pathlib import Path
from subprocess import PIPE, STDOUT, run
from sys import executable
from typing import Any

from measurement import (
    Table,
    arguments_of,
    children_seconds,
    describe_machine,
    environment,
    floats,
    write_output,
)

METHODS = ("mean", "nearest", "linear", "kriging", "regression", "sample", "sample_mean")


def measure(share: float, arguments: argparse.Namespace) -> dict[str, Any]:
    """PSNR by method, and CPU seconds, of one share."""
    options = {
        "data-path": arguments.data_path,
        "dataset": arguments.dataset,
        "n-train": arguments.n_train,
        "epochs": arguments.epochs,
        "regression-epochs": arguments.epochs,
        "n-test": arguments.n_test,
        "draws": arguments.draws,
        "steps": arguments.steps,
        "conditioning": share,
        "target": share,
        "panel-every": arguments.epochs,
        "n-compare": 0,
    }
    with tempfile.TemporaryDirectory() as folder:
        flags = [f"--{name}={value}" for name, value in options.items() if value is not None]
        flags += ["--preset=cpu", "--noplots", f"--runs-dir={folder}", "--run-name=share"]
        begin = children_seconds()
        done = run(
            [executable, "-m", "experiments.sparse_pixels", *flags],
            env=environment(),
            stdout=PIPE,
            stderr=STDOUT,
            text=True,
            timeout=arguments.timeout,
            check=False,
        )
        if done.returncode:
            return {"failed": done.stdout.strip().splitlines()[-1]}
        with open(Path(folder) / "share" / "methods.csv") as file:
            found = {row["method"]: float(row["psnr_unseen"]) for row in csv.DictReader(file)}
    return {**found, "seconds": children_seconds() - begin}


def define(parser: argparse.ArgumentParser) -> None:
    """Options."""
    parser.add_argument("--data-path", help="folder of the images")
    parser.add_argument("--dataset", default="cifar10")
    parser.add_argument("--shares", type=floats, default=[0.1, 0.2, 0.25, 0.4])
    parser.add_argument("--n-train", type=int, default=1024)
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--n-test", type=int, default=100)
    parser.add_argument("--draws", type=int, default=8)
    parser.add_argument("--steps", type=int, default=8)


def main() -> None:
    """Prints a row per share."""
    arguments = arguments_of(__doc__, define, timeout=3600)
    print(describe_machine())
    table = Table(
        (
            ("share", "told %", 6, "g"),
            *((name, name.replace("_", " "), 11, ".2f") for name in METHODS),
            ("seconds", "CPU s", 6, ".0f"),
        )
    )
    for share in arguments.shares:
        table.add({"share": 100 * share, **measure(share, arguments)})
    write_output(arguments.output, rows=table.rows)


if __name__ == "__main__":
    main()
