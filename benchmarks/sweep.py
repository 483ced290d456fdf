"""Networks side by side: time per epoch and network, memory, and the estimate that a sweep goes by.

    python benchmarks/sweep.py
    python benchmarks/sweep.py --solvers=jkonet-star --sizes=1,5 --epochs=2

Styblinski-Tang with as many data seeds as networks, each in a process of its own. `temporary` is what
the compiled program holds beside its arguments, by its own analysis; `estimate` is what
`experiments.sweeps.runs.run_bytes` takes for one network, which must not be less than a network's
share.
"""

import argparse
import json
import resource
import time
from typing import Any

from measurement import (
    MEBI,
    Table,
    arguments_of,
    describe_machine,
    measure_apart,
    numbers,
    peak_memory,
    words,
    write_output,
)


def processor_seconds() -> float:
    """Of this process and all its threads."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def measure(request: dict[str, Any]) -> dict[str, Any]:
    """Some networks of one solver side by side."""
    import jax
    import numpy as np

    from data_generation.populations.particles import simulate
    from experiments.populations.learning_settings import LearningSettings
    from experiments.sweeps.runs import run_bytes
    from experiments.sweeps.settings import Cell
    from jkonet_star.settings import InternalSettings, NetworkSettings
    from jkonet_star.snapshots import snapshots_from_arrays
    from jkonet_star.solvers.network import Network
    from jkonet_star.solvers.problem import prepare
    from jkonet_star.solvers.side_by_side import SideBySide

    network = NetworkSettings(interaction_samples=request["interaction_samples"])
    problems = []
    for seed in range(request["size"]):
        points = simulate(
            jax.random.key(seed), potential="styblinski_tang", n_particles=request["n"]
        )
        problems.append(
            prepare(
                snapshots_from_arrays(np.asarray(points), dt=0.01),
                request["solver"],
                key=jax.random.key(0),
                # Where beta comes from does not matter to the time of an epoch.
                internal=InternalSettings(beta_estimator="first-order"),
            )
        )
    fit = SideBySide(Network(terms=problems[0].terms, network=network), problems)
    keys = jax.vmap(jax.random.key)(np.zeros(request["size"], np.uint32))
    state = fit.initial(keys)
    start = time.perf_counter()
    analysis = fit.compile(state, keys, request["epochs"]).memory_analysis()
    compiling = time.perf_counter() - start
    state, _ = fit.advance(state, keys, request["epochs"])
    jax.block_until_ready(state)
    start, processor = time.perf_counter(), processor_seconds()
    state, _ = fit.advance(state, keys, request["epochs"])
    jax.block_until_ready(state)
    share = request["size"] * request["epochs"]
    cell = Cell(data="", solver=request["solver"], learning=LearningSettings(network=network))
    return {
        "compile": compiling,
        "wall": (time.perf_counter() - start) / share,
        "processor": (processor_seconds() - processor) / share,
        "temporary": analysis.temp_size_in_bytes / request["size"],
        "arguments": analysis.argument_size_in_bytes / request["size"],
        "estimate": run_bytes(problems[0], cell),
        "peak": peak_memory(),
    }


def define(parser: argparse.ArgumentParser) -> None:
    """The options."""
    solvers = ["jkonet-star-potential", "jkonet-star"]
    parser.add_argument("--solvers", type=words, default=solvers)
    parser.add_argument("--sizes", type=numbers, default=[1, 5, 15], help="networks side by side")
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--n", type=int, default=1000, help="particles")
    parser.add_argument("--interaction-samples", type=int, default=16)


def main() -> None:
    """Prints the table."""
    arguments = arguments_of(__doc__, define)
    if arguments.measure:
        print(json.dumps(measure(arguments.measure)))
        return
    print(describe_machine(), end="\n\n")
    table = Table(
        [
            ("solver", "solver", 22, "s"),
            ("size", "networks", 8, "d"),
            ("compile", "compile s", 9, ".1f"),
            ("wall", "s per epoch", 11, ".4f"),
            ("processor", "CPU s", 8, ".4f"),
            ("temporary_mb", "temporary MB", 12, ".1f"),
            ("arguments_mb", "arguments MB", 12, ".1f"),
            ("estimate_mb", "estimate MB", 11, ".1f"),
        ],
        markdown=True,
    )
    for solver in arguments.solvers:
        for size in arguments.sizes:
            request = {
                "solver": solver,
                "size": size,
                "epochs": arguments.epochs,
                "n": arguments.n,
                "interaction_samples": arguments.interaction_samples,
            }
            row = measure_apart(__file__, request, arguments.timeout)
            for name in ("temporary", "arguments", "estimate"):
                if name in row:
                    row[f"{name}_mb"] = row[name] / MEBI
            table.add({"solver": solver, "size": size, **row})
    print("\nper network: seconds per epoch, CPU seconds per epoch, memory")
    write_output(arguments.output, sweep=table.rows)


if __name__ == "__main__":
    main()
