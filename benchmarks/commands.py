"""Whole commands, timed from outside: wall time and peak memory of the process with its children.

    python benchmarks/commands.py --repetitions=3
    python benchmarks/commands.py --only=train,train-5-seeds

Everything happens in a temporary folder. Commands find an empty compilation cache, as on their first
day, whatever is in the user's; `generate-warm` and `train-warm` find the programs that an earlier run
left in JAX_COMPILATION_CACHE_DIR, and `generate-found` finds the dataset itself. The others train on
the dataset that is already there, except `train-bare`, which makes it.
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

from measurement import (
    MEBI,
    Table,
    arguments_of,
    describe_machine,
    environment,
    numbers,
    words,
    write_output,
)

GENERATE = ["-m", "data_generation", "--potential=styblinski_tang"]
TRAIN = ["-m", "experiments.train"]
COMMANDS: dict[str, list[str]] = {
    "import": ["-c", "import jax, matplotlib.figure, optax, flax, orbax.checkpoint"],
    "generate": GENERATE,
    "generate-warm": GENERATE,
    "generate-found": GENERATE,
    "train": TRAIN,
    "train-warm": TRAIN,
    "train-5-seeds": [*TRAIN, "--seeds=0,1,2,3,4"],
    "train-bare": TRAIN,
    "closed-form-v": [*TRAIN, "--solver=jkonet-star-linear-potential"],
    "closed-form-all": [*TRAIN, "--solver=jkonet-star-linear"],
    "train-all-terms": [*TRAIN, "--solver=jkonet-star"],
    "evaluate": ["-m", "experiments.evaluate", "--run=runs/done"],
}
LEFT_OUT = ("train-all-terms",)  # unless asked for
NEEDS_DATA = ("generate-found", "train", "train-warm", "train-5-seeds", "train-all-terms")
NEEDS_DATA += ("closed-form-v", "closed-form-all", "evaluate")
WARM = ("generate-warm", "train-warm")
RATIOS = (("train-5-seeds", "train"), ("generate-warm", "generate"), ("train-warm", "train"))
SAMPLING_INTERVAL = 0.1
PAGE = os.sysconf("SC_PAGE_SIZE")


def tree_memory(pid: int) -> int:
    """Resident bytes of a process and all below it now; 0 where /proc does not tell."""
    total, waiting = 0, [pid]
    while waiting:
        folder = Path(f"/proc/{waiting.pop()}")
        try:
            total += int((folder / "statm").read_text().split()[1]) * PAGE
            for task in (folder / "task").iterdir():
                waiting += [int(p) for p in (task / "children").read_text().split()]
        except (OSError, ValueError, IndexError):
            continue
    return total


def timed(command: list[str], folder: Path, log: Path, timeout: float, **more: str) -> dict:
    """Wall and processor seconds and peak bytes of a command that runs in a folder."""
    start = time.perf_counter()
    with log.open("w") as output:
        process = subprocess.Popen(
            [sys.executable, *command],
            cwd=folder,
            env=environment(**more),
            stdout=output,
            stderr=subprocess.STDOUT,
        )
        sampled, over = 0, threading.Event()

        def sample() -> None:
            nonlocal sampled
            while not over.wait(SAMPLING_INTERVAL):
                sampled = max(sampled, tree_memory(process.pid))

        sampler = threading.Thread(target=sample, daemon=True)
        killer = threading.Timer(timeout, process.kill)
        sampler.start()
        killer.start()
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - start
        process.returncode = os.waitstatus_to_exitcode(status)
        over.set()
        killer.cancel()
        sampler.join()
    largest = usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    result = {
        "seconds": seconds,
        "processor": usage.ru_utime + usage.ru_stime,
        # The largest single process is exact; the sum over the tree is sampled.
        "peak": max(largest, sampled),
    }
    if process.returncode:
        last = log.read_text().strip().splitlines()[-1:]
        result["failed"] = f"exit code {process.returncode}: {''.join(last)}"
    return result


def repetition(name: str, folder: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    """One run of one command, with what it needs in place."""
    programs = folder / ("cache" if name in WARM else "empty-cache")
    if name not in WARM:
        shutil.rmtree(programs, ignore_errors=True)
    cache = {
        "JAX_COMPILATION_CACHE_DIR": str(programs),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    }
    place = folder / "fresh"
    if name in NEEDS_DATA:
        place = folder / "with-data"
        if not (place / "data").exists():
            place.mkdir(exist_ok=True)
            prepare(GENERATE, place, folder, arguments)
    else:
        shutil.rmtree(place, ignore_errors=True)
        place.mkdir()
    command = COMMANDS[name]
    if name == "evaluate" and not (place / "runs" / "done").exists():
        prepare([*TRAIN, "--epochs=100", "--run-name=done"], place, folder, arguments)
    if name in WARM and not (folder / f"{name}-was-run").exists():
        prepare(command, place, folder, arguments, **cache)
        (folder / f"{name}-was-run").touch()
        if name == "generate-warm":
            shutil.rmtree(place / "data")
    runs = set(place.glob("runs/*"))
    result = timed(command, place, folder / f"{name}.log", arguments.timeout, **cache)
    for run in set(place.glob("runs/*")) - runs:
        summary = run / "summary.json"
        if summary.is_file():
            result["inside"] = json.loads(summary.read_text())["seconds"]
    return result


def prepare(
    command: list[str], place: Path, folder: Path, arguments: argparse.Namespace, **more: str
) -> None:
    """Runs a command whose time does not count."""
    result = timed(command, place, folder / "preparation.log", arguments.timeout, **more)
    if "failed" in result:
        raise SystemExit(f"{' '.join(command)}: {result['failed']}")


def define(parser: argparse.ArgumentParser) -> None:
    """The options."""
    default = [name for name in COMMANDS if name not in LEFT_OUT]
    parser.add_argument("--only", type=words, default=default, help=", ".join(COMMANDS))
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--cores", type=numbers, help="run on these cores only, such as 0,1")


def main() -> None:
    """Prints the table."""
    arguments = arguments_of(__doc__, define)
    unknown = sorted(set(arguments.only) - COMMANDS.keys())
    if unknown:
        raise SystemExit(f"unknown command {unknown[0]}; there are {', '.join(COMMANDS)}")
    if arguments.cores:
        os.sched_setaffinity(0, arguments.cores)
    print(describe_machine())
    parts = ("data", "compile", "train", "evaluate")
    table = Table(
        [
            ("name", "command", 16, "s"),
            ("seconds", "seconds", 8, ".1f"),
            ("least", "least", 7, ".1f"),
            ("processor", "CPU s", 7, ".1f"),
            ("peak_mb", "peak MB", 8, ".0f"),
            *((part, part, 8, ".1f") for part in parts),
        ]
    )
    with tempfile.TemporaryDirectory(prefix="jkonet-commands-") as temporary:
        for name in arguments.only:
            runs = [
                repetition(name, Path(temporary), arguments) for _ in range(arguments.repetitions)
            ]
            row = {
                "name": name,
                "seconds": statistics.median(r["seconds"] for r in runs),
                "least": min(r["seconds"] for r in runs),
                "processor": statistics.median(r["processor"] for r in runs),
                "peak_mb": max(r["peak"] for r in runs) / MEBI,
                "runs": runs,
            }
            failures = [r["failed"] for r in runs if "failed" in r]
            if failures:
                row["failed"] = failures[0]
            inside = [r["inside"] for r in runs if "inside" in r]
            for part in parts if inside else ():
                row[part] = statistics.median(i[part] for i in inside)
            table.add(row)
    print("\ndata, compile, train and evaluate: as the run's own summary.json counts them")
    medians = {row["name"]: row["seconds"] for row in table.rows if "failed" not in row}
    ratios = {f"{a} / {b}": medians[a] / medians[b] for a, b in RATIOS if {a, b} <= medians.keys()}
    for name, value in ratios.items():
        print(f"{name:32} {value:5.2f}")
    write_output(arguments.output, commands=table.rows, ratios=ratios)


if __name__ == "__main__":
    main()
