r"""Everything that wants a GPU, as one command, in the order of its worth; nothing is done twice.

    python -m benchmarks.gpu                              # 25 minutes at most
    python -m benchmarks.gpu --minutes=2                  # without a GPU: the same at tiny sizes
    python -m benchmarks.gpu --cifar10=FOLDER             # and trains on images for the minutes left

An item is a process of its own. The report is written after every item: a second call does what is
missing, on the same card, and tries again what failed for want of time. `gpu_measurements` says what is
measured; the last two items run `experiments.information_theoretic` and `experiments.sparse_pixels` on
CIFAR-10, with checkpoints, and are continued by the next call where time ends.
"""

import argparse
import dataclasses
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from benchmarks import gpu_measurements
from benchmarks.measurement import (
    Table,
    arguments_of,
    describe_machine,
    environment,
    measure_apart,
    words,
    write_output,
)

COLUMNS = (
    ("item", "item", 12, "s"),
    ("what", "measured", 58, "s"),
    ("value", "value", 9, ".4g"),
    ("unit", "unit", 9, "s"),
    ("beside", "beside", 40, "s"),
)


@dataclasses.dataclass(frozen=True)
class Item:
    """One measurement.

    Attributes:
        name: in the report and for --only.
        measure: function of `gpu_measurements`, without `measure_`.
        least: seconds under which it is not begun on a GPU.
        request: what the function is given besides the size.
    """

    name: str
    measure: str
    least: float
    request: dict[str, Any] = dataclasses.field(default_factory=dict)


ITEMS = (
    Item("parity", "parity", 40),
    Item("unet-bfloat16", "unet", 60, {"unet": "ddpm-cifar10", "bfloat16": True}),
    Item("messages", "messages", 60),
    Item("populations", "populations", 30),
    Item("repetitions", "repetitions", 60),
    Item("unet-sparse", "unet", 60, {"unet": "sparse", "bfloat16": True}),
    Item("unet-float32", "unet", 60, {"unet": "ddpm-cifar10", "bfloat16": False}),
)
"""In the order of their worth."""

TRAININGS = ("likelihood", "sparse-pixels")
LEAST_TRAINING = 60.0
"""Seconds under which no training is begun or continued."""


def training_command(
    name: str, cifar10: Path | None, runs: Path, epochs: int, *, full: bool
) -> list[str]:
    """The command of one of `TRAININGS`; it continues where a run is."""
    data = ["--dataset=cifar10", f"--data-path={cifar10}"] if cifar10 else ["--dataset=synthetic"]
    shared = [
        *data,
        f"--runs-dir={runs}",
        f"--run-name={name}",
        f"--epochs={epochs if full else 1}",
    ]
    if (runs / name).exists():
        shared.append("--resume")
    if name == "likelihood":
        sizes = ["--bfloat16", "--eval-every=5", "--n-test=500"]
        tiny = ["--preset=cpu", "--n-points=32", "--n-test=2", "--n-samples=1", "--n-log-snr=2"]
        tiny += ["--sampler-steps=1"]
    else:
        sizes = ["--bfloat16", "--panel-every=5", "--ema-decay=0.999", "--residual"]
        sizes += ["--unseen=simulated", "--regression-epochs=0", "--n-test=200"]
        sizes += ["--n-compare=0", "--schedule=cosine"]
        tiny = ["--preset=cpu", "--n-train=32", "--n-test=2", "--draws=1", "--steps=1"]
        tiny += ["--n-compare=0", "--regression-epochs=0"]
    script = "information_theoretic" if name == "likelihood" else "sparse_pixels"
    return [f"experiments.{script}", *shared, *(sizes if full else tiny)]


def train(
    name: str, arguments: argparse.Namespace, seconds: float, *, full: bool
) -> dict[str, Any]:
    """Trains until it is done or the time is up; rows of the run's summary."""
    report = arguments.output.resolve()
    # Of this report, sizes and data: other ones are another run.
    data = "cifar10" if arguments.cifar10 else "synthetic"
    runs = report.parent / f"{report.stem}_runs" / f"{data}-{arguments.epochs if full else 'tiny'}"
    module, *flags = training_command(name, arguments.cifar10, runs, arguments.epochs, full=full)
    command = [sys.executable, "-m", module, *flags]
    print("  " + " ".join(command[1:]), flush=True)
    began = time.monotonic()
    # A training and its continuation compile the same programs.
    programs = report.parent / f"{report.stem}_runs" / "programs"
    try:
        done = subprocess.run(
            command,
            timeout=seconds,
            env=environment(JAX_COMPILATION_CACHE_DIR=str(programs)),
            check=False,
        )
    except subprocess.TimeoutExpired:
        return {"failed": f"stopped after {seconds:.0f} s; the next call continues"}
    if done.returncode:
        return {"failed": f"exit code {done.returncode}"}
    summary = json.loads((runs / name / "summary.json").read_text())
    rows = [gpu_measurements.row(f"{name}: whole command", time.monotonic() - began, "s")]
    for key, value in _numbers(summary):
        rows.append(gpu_measurements.row(f"{name}: {key}", value, ""))
    return {"rows": rows}


def _numbers(summary: dict[str, Any], path: str = "") -> list[tuple[str, float]]:
    """All numbers of nested dicts, by their path."""
    found: list[tuple[str, float]] = []
    for key, value in summary.items():
        place = f"{path}.{key}" if path else key
        if isinstance(value, dict):
            found += _numbers(value, place)
        elif isinstance(value, (int, float)) and not isinstance(value, bool):
            found.append((place, value))
    return found


def define(parser: argparse.ArgumentParser) -> None:
    """Options."""
    parser.add_argument("--minutes", type=float, default=25.0, help="that all may take together")
    parser.add_argument("--size", choices=("auto", "full", "tiny"), default="auto")
    parser.add_argument("--only", type=words, default=[], help="items, comma-separated")
    parser.set_defaults(output=Path("gpu_report.json"))
    parser.add_argument("--epochs", type=int, default=30, help="of each training")
    parser.add_argument("--cifar10", type=Path, help="folder of CIFAR-10 for the trainings")


def known_report(file: Path, device: str, size: str) -> dict[str, Any]:
    """The items that a report has.

    Raises:
        ValueError: it is of another card or size, or no report.
    """
    if not file.exists():
        return {}
    try:
        report = json.loads(file.read_text())
        items, there = report["items"], (report["device"], report["size"])
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{file} is no report of this script; give another --output") from error
    if there != (device, size):
        raise ValueError(
            f"{file} is of {there[0]} at {there[1]} size, not of {device} at {size} size; "
            "give another --output"
        )
    return items


def main() -> int:
    """Runs what is missing; 2 where the command is wrong, 1 where an item failed."""
    arguments = arguments_of(__doc__, define)
    if arguments.measure:
        request = arguments.measure
        if request["measure"] == "device":
            print(json.dumps({"device": gpu_measurements.device()}))
            return 0
        measure = getattr(gpu_measurements, f"measure_{request['measure']}")
        print(json.dumps({"rows": measure(request)}))
        return 0
    deadline = time.monotonic() + 60 * arguments.minutes
    unknown = set(arguments.only) - {item.name for item in ITEMS} - set(TRAININGS)
    if unknown:
        print(f"error: no item {', '.join(sorted(unknown))}", file=sys.stderr)
        return 2
    os.environ.pop("JAX_COMPILATION_CACHE_DIR", None)  # measurements of compilation compile
    found = measure_apart(__file__, {"measure": "device"}, 300)
    if "failed" in found:
        print(f"error: no device: {found['failed']}", file=sys.stderr)
        return 2
    device = found["device"]
    full = arguments.size == "full" or (arguments.size == "auto" and device != "cpu")
    size = "full" if full else "tiny"
    try:
        items = known_report(arguments.output, device, size)
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(describe_machine())
    print(f"on {device} at {size} size" + ("" if full else ": for trying out, no results"))

    def wanted(name: str) -> bool:
        return (not arguments.only or name in arguments.only) and (
            "rows" not in items.get(name, {})
        )

    def record(name: str, result: dict[str, Any]) -> None:
        items[name] = result
        write_output(arguments.output, device=device, size=size, items=items)
        for row in result.get("rows", [{"failed": result.get("failed")}]):
            table.add({"item": name, **row})

    table = Table(COLUMNS)
    for item in ITEMS:
        left = deadline - time.monotonic()
        if wanted(item.name) and left > (item.least if full else 0):
            request = {"measure": item.measure, "size": size, **item.request}
            record(item.name, measure_apart(__file__, request, min(left, arguments.timeout)))
    names = [name for name in TRAININGS if wanted(name)]
    if full and arguments.cifar10 is None:
        names = []
        print("the trainings are left out: they need --cifar10")
    for number, name in enumerate(names):
        left = (deadline - time.monotonic()) / (len(names) - number)
        if left > (LEAST_TRAINING if full else 0):
            record(name, train(name, arguments, left, full=full))
    missing = [name for name in (*(i.name for i in ITEMS), *names) if wanted(name)]
    if missing:
        print(f"not done: {', '.join(missing)}; the same command goes on")
    failed = {name for name, item in items.items() if "failed" in item}
    return 1 if failed & set(arguments.only or failed) else 0


if __name__ == "__main__":
    sys.exit(main())
