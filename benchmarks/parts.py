"""Where the processor seconds of the demonstration's training command go.

    python benchmarks/parts.py
    python benchmarks/parts.py --flags=--vectors

The command runs in this project's code with a clock around some of its functions, once with an empty
compilation cache and then with what that one left; the median of the warm ones counts. What a part
calls is its own, but for what has a row, too. Data are made before.
"""

import argparse
import contextlib
import functools
import importlib
import io
import json
import os
import statistics
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from measurement import (
    Table,
    arguments_of,
    clock,
    describe_machine,
    measure_apart,
    words,
    write_output,
)

TRAINING = "experiments.populations.training"
SIDE_BY_SIDE = "jkonet_star.solvers.side_by_side"
PARTS = {
    "initial parameters": [f"{SIDE_BY_SIDE}:SideBySide.initial"],
    "the program of the training": [f"{SIDE_BY_SIDE}:SideBySide.compile"],
    "training, with its metrics": [f"{TRAINING}:train_in_chunks"],
    "evaluations during the training": [f"{TRAINING}:earth_movers_distances"],
    "predictions and scores": [f"{TRAINING}:assess", f"{TRAINING}:judge"],
    "yardsticks": [f"{TRAINING}:yardsticks"],
    "pictures": [f"{TRAINING}:draw", f"{TRAINING}:plot_training"],
    "the energy's folder": [f"{TRAINING}:save_energy"],
}
IMPORTS, REST = "imports", "everything else"


class Clocks:
    """Processor seconds by part; of nested ones the inner counts alone."""

    def __init__(self) -> None:
        self.seconds = dict.fromkeys((IMPORTS, *PARTS, REST), 0.0)
        self._open: list[str] = [REST]
        self._since = 0.0

    def switch(self, part: str | None) -> None:
        """Begins a part; without one, ends the newest."""
        now = clock()
        self.seconds[self._open[-1]] += now - self._since
        self._since = now
        if part is None:
            self._open.pop()
        else:
            self._open.append(part)

    def around(self, part: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """The function, whose time is the part's."""

        @functools.wraps(function)
        def timed(*positional: Any, **named: Any) -> Any:
            self.switch(part)
            try:
                return function(*positional, **named)
            finally:
                self.switch(None)

        return timed


def measure(folder: str, flags: list[str]) -> dict[str, Any]:
    """One run of the command, by part; this process has imported nothing yet."""
    from data_generation.scripts import garbage
    from experiments import train

    garbage.own_process = lambda: True  # as that of the command, which this one is
    os.chdir(folder)
    clocks, body = Clocks(), train.main

    def main() -> None:
        with garbage.importing():
            clocks.around(IMPORTS, importlib.import_module)(TRAINING)
        for part, places in PARTS.items():
            for place in places:
                module, _, name = place.partition(":")
                *owners, last = name.split(".")
                owner = functools.reduce(getattr, owners, importlib.import_module(module))
                setattr(owner, last, clocks.around(part, getattr(owner, last)))
        body()

    train.main = main
    with contextlib.redirect_stdout(io.StringIO()):
        status = train.run(["--solver=jkonet-star-potential", "--run-name=demo", *flags])
    if status:
        raise SystemExit(f"the command ended with status {status}")
    clocks.switch(None)
    return {"parts": clocks.seconds, "total": clock()}


def define(parser: argparse.ArgumentParser) -> None:
    """The options."""
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument(
        "--flags", type=words, default=[], help="more of the command's, such as --vectors"
    )


def main() -> None:
    """Prints the table."""
    arguments = arguments_of(__doc__, define)
    if arguments.measure is not None:
        print(json.dumps(measure(**arguments.measure)))
        return
    print(describe_machine())
    found: dict[str, list[dict[str, Any]]] = {"cold": [], "warm": []}
    with tempfile.TemporaryDirectory(prefix="jkonet-parts-") as temporary:
        request = {"folder": temporary, "flags": ["--overwrite", *arguments.flags]}
        for repetition in range(-1, arguments.repetitions + 1):
            # The first of all makes the data.
            cache = Path(temporary) / ("data-cache" if repetition < 0 else "cache")
            row = measure_apart(
                __file__,
                request,
                arguments.timeout,
                JAX_COMPILATION_CACHE_DIR=str(cache),
                JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS="0",
            )
            if "failed" in row:
                raise SystemExit(row["failed"])
            if repetition >= 0:
                found["warm" if repetition else "cold"].append(row)
    table = Table(
        [("part", "part", 34, "s"), ("cold", "cold", 7, ".2f"), ("warm", "warm", 7, ".2f")]
    )
    for part in (IMPORTS, *PARTS, REST, "total"):
        medians = {
            kind: statistics.median(
                run["total"] if part == "total" else run["parts"][part] for run in runs
            )
            for kind, runs in found.items()
        }
        table.add({"part": part, **medians})
    write_output(arguments.output, rows=table.rows)


if __name__ == "__main__":
    main()
