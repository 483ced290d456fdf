"""Fit time and peak memory of the linear solvers in closed form.

    python benchmarks/closed_form.py --sizes=1000,10000
    python benchmarks/closed_form.py --terms=V --sizes=100000

For each size: seconds to couple the snapshots, to fit their densities and to estimate beta, then to
solve (with compilation, and again without), and the peak memory of the process with the simulation
of its data. Terms are V, V+beta, and V+U+beta; with beta the data are noisy, with U they interact.
"""

import argparse
import json
import statistics
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

SOLVERS = {
    "V": "jkonet-star-linear-potential",
    "V+beta": "jkonet-star-linear-potential-internal",
    "V+U+beta": "jkonet-star-linear",
    "U": "jkonet-star-linear-interaction",
}
POTENTIAL_ONLY_FROM = 20_000  # by default, larger populations are fitted with V alone


def measure(request: dict[str, Any]) -> dict[str, Any]:
    """One solver and size."""
    import jax
    import numpy as np

    from data_generation.populations.particles import simulate
    from jkonet_star.densities import fit_densities
    from jkonet_star.settings import FeatureSettings
    from jkonet_star.snapshots import snapshots_from_arrays
    from jkonet_star.solvers.linear import solve_linear
    from jkonet_star.solvers.problem import prepare
    from jkonet_star.solvers.registry import SOLVERS as KINDS
    from jkonet_star.transport.couplings import couple

    solver = SOLVERS[request["terms"]]
    terms = KINDS[solver].terms
    key = jax.random.key(0)
    points = simulate(
        key,
        potential="styblinski_tang" if terms.potential else "none",
        interaction="oakley_ohagan" if terms.interaction else "none",
        beta=0.2 if terms.internal else 0.0,
        n_particles=request["n"],
        dimension=2,
        n_timesteps=5,
        dt=0.01,
    )
    snapshots = snapshots_from_arrays(np.asarray(points), dt=0.01)
    marks = [time.perf_counter()]
    couplings, _ = couple(snapshots, key=key)
    marks.append(time.perf_counter())
    densities = fit_densities(snapshots, key=key) if terms.internal else None
    marks.append(time.perf_counter())
    problem = prepare(snapshots, solver, key=key, couplings=couplings, densities=densities)
    marks.append(time.perf_counter())
    settings = FeatureSettings()
    energy, report = solve_linear(problem, settings)
    jax.block_until_ready(energy.params)
    marks.append(time.perf_counter())
    peak = peak_memory()
    again = []
    for _ in range(request["repetitions"]):
        start = time.perf_counter()
        energy, report = solve_linear(problem, settings)
        jax.block_until_ready(energy.params)
        again.append(time.perf_counter() - start)
    parts = [b - a for a, b in zip(marks[:-1], marks[1:], strict=True)]
    return {
        **dict(zip(("couple", "density", "prepare", "solve"), parts, strict=True)),
        "again": statistics.median(again) if again else None,
        "total": marks[-1] - marks[0],
        "features": report.n_features,
        "rank": report.rank,
        "condition": report.condition_number,
        "residual": report.relative_residual,
        "peak": peak / MEBI,
        "device": jax.default_backend(),
    }


def define(parser: argparse.ArgumentParser) -> None:
    """The options."""
    parser.add_argument("--terms", type=words, default=["V", "V+beta", "V+U+beta"])
    parser.add_argument("--sizes", type=numbers, default=[1000, 10_000, 100_000])
    parser.add_argument("--all-sizes", action="store_true", help="all terms at the largest sizes")
    parser.add_argument("--repetitions", type=int, default=3)


def main() -> None:
    """Prints the table."""
    arguments = arguments_of(__doc__, define, timeout=1800)
    if arguments.measure:
        print(json.dumps(measure(arguments.measure)))
        return
    print(describe_machine())
    table = Table(
        [
            ("terms", "terms", 9, "s"),
            ("n", "n", 7, "d"),
            ("features", "features", 8, "d"),
            ("couple", "couple", 8, ".2f"),
            ("density", "density", 8, ".2f"),
            ("prepare", "prepare", 8, ".2f"),
            ("solve", "solve", 8, ".2f"),
            ("again", "again", 8, ".2f"),
            ("total", "total", 8, ".2f"),
            ("peak", "peak MB", 8, ".0f"),
            ("condition", "condition", 9, ".1e"),
            ("residual", "residual", 9, ".2e"),
        ]
    )
    for terms in arguments.terms:
        if terms not in SOLVERS:
            raise SystemExit(f"unknown terms {terms}; there are {', '.join(SOLVERS)}")
        for n in arguments.sizes:
            if n >= POTENTIAL_ONLY_FROM and terms != "V" and not arguments.all_sizes:
                continue
            row = {"terms": terms, "n": n}
            # One repetition of a fit that takes minutes says enough.
            repetitions = arguments.repetitions if n < POTENTIAL_ONLY_FROM else 1
            request = {**row, "repetitions": repetitions}
            table.add(row | measure_apart(__file__, request, arguments.timeout))
    write_output(arguments.output, fits=table.rows)


if __name__ == "__main__":
    main()
