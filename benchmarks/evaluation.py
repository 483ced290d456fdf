"""Time of an evaluation: predictions, and exact transport distances, by scheme and population size.

    python benchmarks/evaluation.py --sizes=1000,3000,10000
    python benchmarks/evaluation.py --solvers=jkonet-star --schemes=explicit,implicit

An evaluation predicts every snapshot from the one before (one step ahead) and from the first
(cumulative), and measures the distances of the former; `predict` and `EMD` are these two parts, for
all five steps. The energies are learned from 1000 particles, briefly: only time is measured here.
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

SOLVERS = ("jkonet-star-potential", "jkonet-star-linear-potential", "jkonet-star")
TRAINING_PARTICLES = 1000


def population(n: int, *, interacting: bool, seed: int) -> Any:
    """Snapshots of the Styblinski-Tang flow."""
    import jax
    import numpy as np

    from data_generation.populations.particles import simulate
    from jkonet_star.snapshots import snapshots_from_arrays

    points = simulate(
        jax.random.key(seed),
        potential="styblinski_tang",
        interaction="oakley_ohagan" if interacting else "none",
        n_particles=n,
        dimension=2,
        n_timesteps=5,
        dt=0.01,
    )
    return snapshots_from_arrays(np.asarray(points), dt=0.01)


def measure(request: dict[str, Any]) -> dict[str, Any]:
    """One solver, scheme, size and number of seeds."""
    import jax
    import numpy as np

    from jkonet_star.evaluation import earth_movers_distances, predict_snapshots
    from jkonet_star.fitting import fit
    from jkonet_star.settings import InternalSettings, NetworkSettings
    from jkonet_star.solvers.registry import SOLVERS as KINDS

    interacting = KINDS[request["solver"]].terms.interaction
    energies = fit(
        population(TRAINING_PARTICLES, interacting=interacting, seed=0),
        request["solver"],
        key=jax.random.split(jax.random.key(0), request["seeds"]),
        scheme=request["scheme"],
        network=NetworkSettings(epochs=50),
        internal=InternalSettings(beta_estimator="first-order"),
    )
    snapshots = population(request["n"], interacting=interacting, seed=1)
    weights = np.asarray(snapshots.weights)[:-1]
    before = peak_memory()
    predicting, measuring, emd, compiled, predictions = [], [], 0.0, 0.0, None
    for repetition in range(request["repetitions"] + 1):
        start = time.perf_counter()
        predictions = predict_snapshots(energies, snapshots, jax.random.key(20))
        one_step = np.asarray(jax.block_until_ready(predictions).one_step)
        seconds = time.perf_counter() - start
        if repetition == 0:
            compiled = seconds
            continue
        predicting.append(seconds)
        start = time.perf_counter()
        emd = float(earth_movers_distances(one_step, snapshots, weights).mean())
        measuring.append(time.perf_counter() - start)
    assert predictions is not None
    return {
        "first": compiled,
        "predict": statistics.median(predicting),
        "transport": statistics.median(measuring),
        "value": emd,
        "converged": str(bool(np.asarray(predictions.converged).all())),
        "before": before / MEBI,
        "peak": peak_memory() / MEBI,
        "device": jax.default_backend(),
    }


def define(parser: argparse.ArgumentParser) -> None:
    """The options."""
    parser.add_argument("--solvers", type=words, default=list(SOLVERS))
    parser.add_argument("--schemes", type=words, default=["explicit", "implicit", "midpoint"])
    parser.add_argument("--sizes", type=numbers, default=[1000, 3000, 10_000], help="particles")
    parser.add_argument("--seeds", type=numbers, default=[1], help="how many side by side")
    parser.add_argument("--repetitions", type=int, default=3)


def main() -> None:
    """Prints the table."""
    arguments = arguments_of(__doc__, define)
    if arguments.measure:
        print(json.dumps(measure(arguments.measure)))
        return
    print(describe_machine())
    table = Table(
        [
            ("solver", "solver", 29, "s"),
            ("scheme", "scheme", 9, "s"),
            ("n", "n", 7, "d"),
            ("seeds", "seeds", 5, "d"),
            ("first", "first", 8, ".2f"),
            ("predict", "predict", 9, ".4f"),
            ("slower", "/explicit", 9, ".1f"),
            ("transport", "EMD", 8, ".3f"),
            ("peak", "peak MB", 8, ".0f"),
            ("value", "W1", 8, ".5f"),
            ("converged", "converged", 9, "s"),
        ]
    )
    for solver in arguments.solvers:
        for n in arguments.sizes:
            for seeds in arguments.seeds:
                explicit = None
                for scheme in arguments.schemes:
                    row = {"solver": solver, "scheme": scheme, "n": n, "seeds": seeds}
                    request = {**row, "repetitions": arguments.repetitions}
                    row |= measure_apart(__file__, request, arguments.timeout)
                    if "predict" in row:
                        explicit = row["predict"] if scheme == "explicit" else explicit
                        if explicit and scheme != "explicit":
                            row["slower"] = row["predict"] / explicit
                    table.add(row)
    write_output(arguments.output, evaluations=table.rows)


if __name__ == "__main__":
    main()
