"""Commands at growing numbers of cells: processor seconds, time and memory of each, from 10^4 to 10^6.

    python benchmarks/scale.py --sizes=10000,100000
    python benchmarks/scale.py --sizes=1000000 --timeout=7200

Cells as PCA leaves them: components whose standard deviations fall from 4 to 0.4, which drift towards
zero between three days, every cell seen once. `generate` reads them from a .npz file, couples the days
in blocks of 1000 and writes the dataset; `network` trains jkonet-star-potential for about as many
gradient steps at every size, `closed-form` solves for an energy; both judge the law on held-out cells.
"""

import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from measurement import (
    MEBI,
    Table,
    arguments_of,
    describe_machine,
    environment,
    measure_apart,
    numbers,
    words,
    write_output,
)

DIMENSION, DAYS = 50, 3
STEPS, BATCH = 10_000, 1000
DECAY = 0.15
"""By which a day draws every component towards zero; V is then a quadratic."""


def write_cells(file: Path, n: int) -> None:
    """Unpaired cells of three days, in single precision."""
    import numpy as np

    rng = np.random.default_rng(0)
    deviations = np.geomspace(4.0, 0.4, DIMENSION).astype(np.float32)
    points = rng.standard_normal((DAYS, n, DIMENSION), np.float32)
    for k, day in enumerate(points):
        day *= deviations * np.float32((1.0 - DECAY) ** k)
    np.savez(file, points=points, times=np.arange(DAYS))


def commands(n: int, file: Path) -> dict[str, list[str]]:
    """The arguments of each, by name."""
    data = ["--data-dir=data", f"--dataset-name=cells{n}"]
    made = ["--data-dir=data", f"--dataset=cells{n}", "--runs-dir=runs", "--noplots"]
    pairs = (DAYS - 1) * int(0.6 * n)
    epochs = max(1, round(STEPS * BATCH / pairs))
    network = ["--solver=jkonet-star-potential", f"--epochs={epochs}", f"--batch-size={BATCH}"]
    return {
        "generate": [
            *("-m", "data_generation", f"--load-from-file={file}", "--split-population"),
            *("--n-gmm-components=0", *data),
        ],
        "network": ["-m", "experiments.train", *network, *made],
        "closed-form": [
            *("-m", "experiments.train", "--solver=jkonet-star-linear-potential", *made),
        ],
    }


def measure(request: dict[str, Any]) -> dict[str, Any]:
    """One command, as the only child of this process."""
    begin = time.perf_counter()
    finished = subprocess.run(
        [sys.executable, *request["arguments"]], cwd=request["folder"], env=environment()
    )
    if finished.returncode:
        raise SystemExit(f"{request['arguments'][1]} ended with {finished.returncode}")
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return {
        "cpu": usage.ru_utime + usage.ru_stime,
        "wall": time.perf_counter() - begin,
        "memory": usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024) / MEBI,
    }


def results(folder: Path) -> dict[str, float]:
    """Of the newest run: the law one step ahead, beside no motion and the sampling floor."""
    newest = max((folder / "runs").iterdir(), key=os.path.getmtime)
    law = json.loads((newest / "summary.json").read_text())["law"]
    distance = law["energy_distance"]
    return {
        "learned": distance["mean"],
        "floor": distance["floor"],
        "no_motion": distance["no_motion"],
    }


def main() -> None:
    """Prints the table."""

    def define(parser: Any) -> None:
        parser.add_argument("--sizes", default="10000,100000", help="cells a day")
        parser.add_argument("--only", default="generate,network,closed-form")

    arguments = arguments_of(__doc__, define, timeout=3600)
    if arguments.measure:
        print(json.dumps(measure(arguments.measure)))
        return
    print(describe_machine())
    table = Table(
        [
            ("cells", "cells", 8, ",d"),
            ("command", "command", 12, "s"),
            ("cpu", "CPU s", 8, ".0f"),
            ("wall", "wall s", 8, ".0f"),
            ("memory", "MiB", 7, ".0f"),
            ("learned", "D", 9, ".5f"),
            ("floor", "floor", 9, ".5f"),
            ("no_motion", "no motion", 9, ".4f"),
        ]
    )
    with tempfile.TemporaryDirectory() as folder:
        for n in numbers(arguments.sizes):
            file = Path(folder) / f"cells{n}.npz"
            write_cells(file, n)
            for name, command in commands(n, file).items():
                if name not in words(arguments.only):
                    continue
                request = {"arguments": command, "folder": folder}
                row = measure_apart(__file__, request, arguments.timeout)
                if name != "generate" and "failed" not in row:
                    row |= results(Path(folder))
                table.add({"cells": n, "command": name, **row})
            file.unlink()
    write_output(arguments.output, rows=table.rows)


if __name__ == "__main__":
    main()
