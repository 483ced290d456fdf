"""A bootstrap by one process and by two, each on a processor of its own.

    python -m data_generation --dataset-name=processes --potential=styblinski_tang --n-particles=300
    python benchmarks/processes.py --dataset=processes

The clock tells how long the replicates take where nothing else runs, resampling and couplings, which
every process does for itself, among them. On a machine with other work look at the processor's seconds
of the busiest process, for the whole command: with a processor each, it cannot end sooner.
"""

import argparse
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from measurement import Table, arguments_of, describe_machine, environment, numbers, write_output


def define(parser: argparse.ArgumentParser) -> None:
    """The options."""
    parser.add_argument("--dataset", required=True, help="a name in --data-dir, or a path")
    parser.add_argument("--data-dir", default="data")
    parser.add_argument("--replicates", type=int, default=20)
    parser.add_argument("--epochs", type=int, default=1000)
    parser.add_argument("--processes", type=numbers, default=[1, 2])


def bootstrap(count: int, arguments: argparse.Namespace, runs: Path) -> dict[str, Any]:
    """Seconds of a run by so many processes."""
    cores = sorted(os.sched_getaffinity(0))[:count]
    if len(cores) < count:
        return {"failed": f"there are {len(cores)} processors"}
    with socket.create_server(("localhost", 0)) as free:
        where = [f"--coordinator=localhost:{free.getsockname()[1]}", f"--processes={count}"]
    command = [
        *(sys.executable, "-m", "experiments.train", f"--dataset={arguments.dataset}"),
        *(f"--data-dir={arguments.data_dir}", f"--epochs={arguments.epochs}", "--noplots"),
        *(f"--eval-every={arguments.epochs}", f"--bootstrap={arguments.replicates}"),
        *(f"--runs-dir={runs}", f"--run-name=of-{count}"),
    ]
    start = time.perf_counter()
    started = []
    for process, core in enumerate(cores):
        more = [*where, f"--process={process}"] if count > 1 else []
        started.append(
            subprocess.Popen(
                ["taskset", "-c", str(core), *command, *more],
                stdout=subprocess.DEVNULL,
                env=environment(JAX_PLATFORMS="cpu"),
            )
        )
    found = [os.wait4(process.pid, 0) for process in started]
    if any(status for _, status, _ in found):
        return {"failed": "a process ended with an error"}
    seconds = json.loads((runs / f"of-{count}" / "summary.json").read_text())["seconds"]
    return {
        "bootstrap": seconds["bootstrap"],
        "clock": time.perf_counter() - start,
        "processor": max(usage.ru_utime + usage.ru_stime for _, _, usage in found),
    }


def main() -> None:
    """Prints a row per number of processes."""
    arguments = arguments_of(__doc__, define)
    print(describe_machine(), end="\n\n")
    table = Table(
        [
            ("processes", "processes", 9, "d"),
            ("bootstrap", "bootstrap, s", 12, ".1f"),
            ("clock", "command, s", 10, ".1f"),
            ("processor", "of the busiest processor, s", 27, ".1f"),
        ]
    )
    with tempfile.TemporaryDirectory() as runs:
        for count in arguments.processes:
            row = bootstrap(count, arguments, Path(runs))
            table.add({"processes": count, **row})
    write_output(arguments.output, processes=table.rows)


if __name__ == "__main__":
    main()
