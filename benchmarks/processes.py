"""A bootstrap by one process and by two, each on a processor of its own.

    python -m data_generation --dataset-name=processes --potential=styblinski_tang --n-particles=300
    python benchmarks/processes.py --dataset=processes

The clock tells how long the replicates take where nothing else runs. On a machine with other work it
tells nothing; there the seconds of the busiest processor do, because with a processor each a command
cannot end sooner than that one is done. `replicates` is what they are more than without a bootstrap.
The least of some repetitions is taken.
"""

import argparse
import json
import os
import socket
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from measurement import Table, arguments_of, describe_machine, environment, numbers, write_output


def define(parser: argparse.ArgumentParser) -> None:
    """The options."""
    parser.add_argument("--dataset", required=True, help="a name in --data-dir, or a path")
    parser.add_argument("--data-dir", default="data")
    parser.add_argument("--replicates", type=int, default=20)
    parser.add_argument("--epochs", type=int, default=200)
    parser.add_argument("--processes", type=numbers, default=[1, 2])
    parser.add_argument("--repetitions", type=int, default=2)


def run(count: int, replicates: int, arguments: argparse.Namespace) -> dict[str, Any]:
    """Seconds of a command by so many processes, each on a processor of its own."""
    cores = sorted(os.sched_getaffinity(0))[:count]
    if len(cores) < count:
        return {"failed": f"there are {len(cores)} processors"}
    with socket.create_server(("localhost", 0)) as free:
        where = [f"--coordinator=localhost:{free.getsockname()[1]}", f"--processes={count}"]
    with tempfile.TemporaryDirectory() as runs:
        command = [
            *(sys.executable, "-m", "experiments.train", f"--dataset={arguments.dataset}"),
            *(f"--data-dir={arguments.data_dir}", f"--epochs={arguments.epochs}", "--noplots"),
            *(f"--eval-every={arguments.epochs}", f"--bootstrap={replicates}"),
            *(f"--runs-dir={runs}", "--run-name=measured"),
        ]
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
        summary = json.loads((Path(runs) / "measured" / "summary.json").read_text())
    return {
        "clock": summary["seconds"].get("bootstrap", 0.0),
        "processor": max(usage.ru_utime + usage.ru_stime for _, _, usage in found),
    }


def least(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Of the repetitions, or the first failure."""
    failures = [row for row in rows if "failed" in row]
    return failures[0] if failures else {k: min(row[k] for row in rows) for k in rows[0]}


def main() -> None:
    """Prints a row per number of processes."""
    arguments = arguments_of(__doc__, define)
    print(describe_machine(), end="\n\n")
    table = Table(
        [
            ("processes", "processes", 9, "d"),
            ("clock", "bootstrap by the clock, s", 25, ".1f"),
            ("processor", "busiest processor, s", 20, ".1f"),
            ("replicates", "of these the replicates, s", 26, ".1f"),
        ]
    )
    for count in arguments.processes:
        row, without = (
            least([run(count, number, arguments) for _ in range(arguments.repetitions)])
            for number in (arguments.replicates, 0)
        )
        if "failed" not in row | without:
            row["replicates"] = row["processor"] - without["processor"]
        table.add({"processes": count, **without, **row})
    write_output(arguments.output, processes=table.rows)


if __name__ == "__main__":
    main()
