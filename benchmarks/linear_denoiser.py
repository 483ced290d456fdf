"""The solvable linear denoiser and its learned counterpart: processor seconds and peak memory by size.

    python benchmarks/linear_denoiser.py
    python benchmarks/linear_denoiser.py --kinds=pairs,command

pairs: the sum over all pairs of an original set in 100 dimensions, whose arithmetic is N^2 / 2 products
of 100 numbers and as many exponentials. linear: one repetition of one size without that sum. learned:
one training and its 10 generated images. command: whole scripts, started as a user starts them.

Seconds are processor time over all threads (by the clock on an accelerator), but for `wall`.
"""

import argparse
import json
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
    children_seconds,
    clock,
    describe_machine,
    environment,
    measure_apart,
    numbers,
    peak_memory,
    words,
    write_output,
)

COMMANDS = {
    "linear, published": ("experiments.linear_denoiser", "--noplots", "--n-train=25,50,75,100"),
    "learned, n = 450": ("experiments.learned_denoiser", "--n-train=450", "--n-simulations=1"),
}


def best(function: Any, repetitions: int) -> tuple[float, float]:
    """Processor seconds of the first call and of the fastest later one."""
    import jax

    seconds = []
    for _ in range(1 + repetitions):
        start = clock()
        jax.block_until_ready(function())
        seconds.append(clock() - start)
    return seconds[0], min(seconds[1:])


def measure(request: dict[str, Any]) -> dict[str, Any]:
    """One row."""
    import jax

    from diffusions.linear_denoiser.distance import log_pairs
    from diffusions.linear_denoiser.model import OneStepModel, generated_law, kl_divergence
    from diffusions.networks.linear import least_squares

    n, repetitions = request["n"], request["repetitions"]
    if request["kind"] == "learned":
        from data_generation.gaussians import IsotropicMixture
        from experiments.linear_denoiser.learned_task import Experiment
        from experiments.linear_denoiser.settings import LearnedDenoiserSettings

        experiment = Experiment(IsotropicMixture((0.5,), (0.1,)), LearnedDenoiserSettings(), 1)
        first, again = best(lambda: experiment.repetitions(0, n), min(repetitions, 2))
        return {"first": first, "again": again, "peak": peak_memory() / MEBI}
    model = OneStepModel(dimension=100)
    x = model.mean + jax.random.normal(jax.random.key(0), (n, 100))
    if request["kind"] == "pairs":
        first, again = best(lambda: log_pairs(model, x), repetitions)
        return {
            "first": first,
            "again": again,
            "rate": n**2 * 100 / again / 1e9,
            "peak": peak_memory() / MEBI,
        }
    z = model.corrupt(jax.random.key(1), x)

    @jax.jit
    def solve(z: Any, x: Any) -> Any:
        law = generated_law(model, least_squares(z, x), x)
        return law, kl_divergence(
            model, law
        )  # which alone is known beforehand for n <= d: infinite

    first, again = best(lambda: solve(z, x), repetitions)
    return {"first": first, "again": again, "peak": peak_memory() / MEBI}


def run_command(command: tuple[str, ...], timeout: float) -> dict[str, Any]:
    """A whole script: processor seconds, those by the clock, and its own account of memory."""
    with tempfile.TemporaryDirectory() as folder:
        arguments = [sys.executable, "-m", *command, f"--runs-dir={folder}", "--run-name=run"]
        wall, processor = time.perf_counter(), children_seconds()
        try:
            done = subprocess.run(
                arguments, capture_output=True, text=True, timeout=timeout, env=environment()
            )
        except subprocess.TimeoutExpired:
            return {"failed": f"stopped after {timeout:.0f} s"}
        wall, processor = time.perf_counter() - wall, children_seconds() - processor
        if done.returncode:
            return {"failed": done.stderr.strip().splitlines()[-1]}
        summary = json.loads((Path(folder) / "run" / "summary.json").read_text())
        return {"first": processor, "wall": wall, "peak": summary["peak_memory_bytes"] / MEBI}


def define(parser: argparse.ArgumentParser) -> None:
    """The options."""
    parser.add_argument(
        "--kinds", type=words, default=["pairs", "linear", "learned", "command"], help="what"
    )
    parser.add_argument("--originals", type=numbers, default=[1000, 10_000, 30_000])
    parser.add_argument("--sizes", type=numbers, default=[25, 100, 1000], help="training points")
    parser.add_argument("--images", type=numbers, default=[50, 450], help="training images")
    parser.add_argument("--repetitions", type=int, default=5)


def main() -> None:
    """Prints the table."""
    arguments = arguments_of(__doc__, define)
    if arguments.measure:
        print(json.dumps(measure(arguments.measure)))
        return
    print(describe_machine())
    table = Table(
        [
            ("kind", "kind", 20, "s"),
            ("n", "n", 6, "d"),
            ("first", "first s", 8, ".2f"),
            ("again", "again s", 9, ".4f"),
            ("wall", "wall s", 7, ".1f"),
            ("rate", "GF/s", 6, ".0f"),
            ("peak", "peak MB", 8, ".0f"),
        ]
    )
    sizes = {
        "pairs": arguments.originals,
        "linear": arguments.sizes,
        "learned": arguments.images,
    }
    for kind in arguments.kinds:
        for n in sizes.get(kind, ()):
            request = {"kind": kind, "n": n, "repetitions": arguments.repetitions}
            table.add(request | measure_apart(__file__, request, arguments.timeout))
    if "command" in arguments.kinds:
        for name, command in COMMANDS.items():
            table.add({"kind": name, **run_command(command, arguments.timeout)})
    write_output(arguments.output, rows=table.rows)


if __name__ == "__main__":
    main()
