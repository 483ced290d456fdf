"""The bilevel baselines: seconds per epoch once compiled, and the error after some epochs.

    python benchmarks/baselines.py
    python benchmarks/baselines.py --potentials=all --epochs=20
    python benchmarks/baselines.py --reference=FOLDER --published-inner-problem

Each row is one solver on one potential: 5 explicit Euler steps of 0.01, 1000 training particles from
uniform [-4, 4]^2 and as many held-out ones, couplings from shuffled snapshots, seed 0. `s/epoch` is CPU
time over all cores. EMD is one step ahead on held-out particles, predicted in the scheme of the fit
(implicit); beside it, that of an explicit step, as the published code predicts, and of no change.
A run that diverged says in which epoch; its energy is the last finite one.
"""

import argparse
import json
import time
from pathlib import Path
from typing import Any

from measurement import (
    Table,
    arguments_of,
    describe_machine,
    measure_apart,
    peak_memory,
    words,
    write_output,
)

from experiments.reproductions.settings import POTENTIALS

SOLVERS = ["jkonet", "jkonet-vanilla", "jkonet-monge-gap"]
# CPU seconds per epoch of the published code on styblinski_tang, two contended cores; it trains on the
# test particles too, so that its epoch has twice the batches. The last includes compilation.
PUBLISHED_SECONDS = {"jkonet": 8.6, "jkonet-vanilla": 13.0, "jkonet-monge-gap": 49.0}


def populations(request: dict[str, Any]) -> tuple[list, list, float]:
    """Shuffled training snapshots, held-out snapshots, and dt."""
    import jax
    import numpy as np

    generator = np.random.default_rng(0)
    if request.get("file"):
        with np.load(request["file"]) as archive:
            train, test, dt = archive["train"], archive["test"], float(archive["dt"])
    else:
        from data_generation.populations.particles import simulate

        n, dt = request["n"], 0.01
        points = simulate(
            jax.random.key(0),
            potential=request["potential"],
            n_particles=2 * n,
            dimension=2,
            n_timesteps=5,
            dt=dt,
        )
        points = np.asarray(points)
        train, test = points[:, :n], points[:, n:]
    return [generator.permutation(snapshot) for snapshot in train], list(test), dt


def measure(request: dict[str, Any]) -> dict[str, Any]:
    """Trains one solver on one potential."""
    import jax
    import numpy as np

    from jkonet_star.evaluation import evaluate
    from jkonet_star.settings import BilevelSettings, NetworkSettings
    from jkonet_star.snapshots import snapshots_from_arrays
    from jkonet_star.solvers.problem import prepare
    from jkonet_star.solvers.registry import SOLVERS
    from jkonet_star.solvers.side_by_side import SideBySide

    train, test, dt = populations(request)
    snapshots, held_out = (snapshots_from_arrays(points, dt=dt) for points in (train, test))
    key, epochs = jax.random.key(0), request["epochs"]
    network = NetworkSettings(epochs=epochs, **request["network"])
    problem = prepare(snapshots, request["solver"], key=key)
    training = SideBySide(
        SOLVERS[request["solver"]].make(
            network=network, bilevel=BilevelSettings(**request["bilevel"])
        ),
        problem,
    )
    start = time.perf_counter()
    state = jax.block_until_ready(training.initial(key[None]))
    training.compile(state, key[None], epochs)
    compiling = time.perf_counter() - start
    wall, cpu = time.perf_counter(), time.process_time()
    state, scalars = jax.block_until_ready(training.advance(state, key[None], epochs))
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    energy = training.energies(state).member(0)
    # The potential zero: what predicting no change scores.
    still = energy.replace(params=jax.tree.map(np.zeros_like, energy.params))
    scores = {
        "emd": evaluate(energy, held_out, key=key),
        "emd_explicit": evaluate(energy.replace(scheme="explicit"), held_out, key=key),
        "emd_still": evaluate(still, held_out, key=key),
    }
    lost = np.flatnonzero(~np.isfinite(np.asarray(scalars["loss"])[0]))
    return {
        "compile": compiling,
        "seconds": cpu / epochs,
        "wall": wall / epochs,
        **{name: score["emd_one_step_ahead"]["mean"] for name, score in scores.items()},
        "converged": scores["emd"]["converged"],
        "diverged": int(lost[0]) + 1 if len(lost) else None,
        "memory": peak_memory(),
    }


def define(parser: argparse.ArgumentParser) -> None:
    """The options."""
    parser.add_argument("--solvers", type=words, default=SOLVERS)
    parser.add_argument(
        "--potentials", type=words, default=["styblinski_tang"], help="names, or all 15 of 4.1"
    )
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--n", type=int, default=1000, help="training particles per snapshot")
    parser.add_argument("--reference", type=Path, help="folder of <potential>.npz to use instead")
    parser.add_argument(
        "--network", type=json.loads, default={}, help="of NetworkSettings, as JSON"
    )
    parser.add_argument(
        "--bilevel", type=json.loads, default={}, help="of BilevelSettings, as JSON"
    )
    parser.add_argument(
        "--published-inner-problem",
        action="store_true",
        help="each map from the start, differentiated by unrolling, compared by entropic cost",
    )


def main() -> None:
    """Prints the table."""
    arguments = arguments_of(__doc__, define)
    if arguments.measure:
        print(json.dumps(measure(arguments.measure)))
        return
    print(describe_machine(), end="\n\n")
    chosen = list(POTENTIALS) if arguments.potentials == ["all"] else arguments.potentials
    bilevel = dict(arguments.bilevel)
    if arguments.published_inner_problem:
        bilevel |= {"warm_start": False, "inner_gradient": "unrolled", "outer_loss": "cost"}
    columns = [
        ("potential", "potential", 15, "s"),
        ("solver", "solver", 16, "s"),
        ("seconds", "s/epoch", 7, ".2f"),
        ("wall", "wall", 6, ".2f"),
        ("published", "published", 9, ".1f"),
        ("compile", "compile", 7, ".1f"),
        ("emd", "EMD", 7, ".4f"),
        ("emd_explicit", "explicit", 8, ".4f"),
        ("emd_still", "no change", 9, ".4f"),
        ("notes", "notes", 5, "s"),
    ]
    table = Table(columns, markdown=True)
    for potential in chosen:
        file = arguments.reference / f"{potential}.npz" if arguments.reference else None
        if file is not None and not file.is_file():
            raise SystemExit(f"{file} is missing")
        for solver in arguments.solvers:
            request = {
                "potential": potential,
                "solver": solver,
                "epochs": arguments.epochs,
                "n": arguments.n,
                "file": str(file) if file else None,
                "network": arguments.network,
                "bilevel": bilevel,
            }
            row = request | measure_apart(__file__, request, arguments.timeout)
            if potential == "styblinski_tang":
                row["published"] = PUBLISHED_SECONDS.get(solver)
            notes = []
            if row.get("diverged"):
                notes.append(f"diverged in epoch {row['diverged']}")
            if row.get("converged") is False:
                notes.append("steps not converged")
            row["notes"] = "; ".join(notes)
            table.add(row)
    write_output(arguments.output, baselines=table.rows)


if __name__ == "__main__":
    main()
