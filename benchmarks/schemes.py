"""Accuracy of the three schemes, side by side, in Markdown.

    python benchmarks/schemes.py --reference=FOLDER

1. Snapshots of explicit Euler steps, as the published code was measured on: one-step-ahead EMD on
   held-out particles and the relative L2 error of the drift over them, for each set, solver and
   scheme. --reference=DIR reads sets `NAME.npz` with the arrays train and test, (t, n, d), and dt;
   without it the named potentials are simulated here in the same way.
2. Snapshots of the continuous flow (20 steps per dt): there no scheme is exact.
3. The order of the schemes: the closed form's drift error when the same flow over the same time is
   seen with half the dt. The features hold the true potential, so that only the scheme errs.

Every snapshot is shuffled before it is coupled. Every cell runs in a process of its own.
"""

import argparse
import json
import math
import time
from pathlib import Path
from typing import Any

from measurement import (
    Table,
    arguments_of,
    describe_machine,
    measure_apart,
    numbers,
    peak_memory,
    words,
    write_output,
)

SCHEMES = ("explicit", "implicit", "midpoint")
SOLVERS = ("jkonet-star-potential", "jkonet-star-linear-potential", "jkonet-star-linear")
POTENTIALS = ("styblinski_tang", "double_exp", "sphere", "holder_table", "relu", "flat")
# One-step-ahead EMD of the published code on the reference sets (their README; 1000 epochs of Adam).
PUBLISHED = {
    "jkonet-star-potential": {
        "styblinski_tang": 0.0937,
        "double_exp": 0.0193,
        "sphere": 0.151,
        "holder_table": 0.0464,
        "relu": 0.0106,
    },
    "jkonet-star-linear-potential": {
        "styblinski_tang": 0.00039,
        "double_exp": 0.0045,
        "sphere": 0.00045,
        "holder_table": 0.0457,
        "relu": 0.0354,
        "flat": 0.0,
    },
    "jkonet-star-linear": {"styblinski_tang": 0.0307},
}
HORIZON = 0.04


def populations(request: dict[str, Any]) -> tuple[Any, Any, float]:
    """Training and test snapshots, each in an order of its own, and dt."""
    import jax
    import numpy as np

    from data_generation.populations.particles import simulate

    if request.get("file"):
        with np.load(request["file"]) as archive:
            halves, dt = [archive["train"], archive["test"]], float(archive["dt"])
    else:
        dt = request["dt"]
        points = simulate(
            jax.random.key(0),
            potential=request["set"],
            n_particles=2 * request["n"],
            dimension=2,
            n_timesteps=request["n_timesteps"],
            dt=dt,
            substeps=request["substeps"],
        )
        halves = np.split(np.asarray(points), 2, axis=1)
    generator = np.random.default_rng(0)
    train, test = ([generator.permutation(points) for points in half] for half in halves)
    return train, test, dt


def measure(request: dict[str, Any]) -> dict[str, Any]:
    """One set, solver and scheme."""
    import jax
    import numpy as np

    from data_generation.populations.functionals import functional
    from jkonet_star.evaluation import (
        KnownEnergy,
        evaluate_predictions,
        field_errors,
        predict_snapshots,
    )
    from jkonet_star.fitting import fit
    from jkonet_star.settings import NetworkSettings
    from jkonet_star.snapshots import snapshots_from_arrays

    train, test, dt = populations(request)
    learned_from = snapshots_from_arrays(train, dt=dt)
    held_out = snapshots_from_arrays(test, dt=dt)
    keys = jax.vmap(jax.random.key)(np.asarray(request["seeds"], np.uint32))
    start = time.perf_counter()
    energies = fit(
        learned_from,
        request["solver"],
        key=keys,
        scheme=request["scheme"],
        network=NetworkSettings(epochs=request["epochs"]),
    )
    jax.block_until_ready(energies.params)
    seconds = time.perf_counter() - start
    predictions = predict_snapshots(energies, held_out, jax.random.key(20))
    result = evaluate_predictions(predictions, held_out)
    truth = KnownEnergy(functional(request["set"]), None, 0.0)
    drift = field_errors(energies, truth, held_out, predictions)["drift"]
    return {
        "emd": result["emd_one_step_ahead"]["mean"],
        "std": result["emd_one_step_ahead"]["std"],
        "cumulative": result["emd_cumulative"]["mean"],
        "drift": None if drift["relative"] is None else float(np.mean(drift["relative"])),
        "drift_absolute": float(np.mean(drift["absolute"])),
        "beta": float(np.mean(jax.vmap(lambda e: e.beta)(energies))),
        "converged": result["converged"],
        "seconds": seconds,
        "peak": peak_memory(),
    }


def define(parser: argparse.ArgumentParser) -> None:
    """The options."""
    parser.add_argument("--reference", type=Path, help="folder of reference sets NAME.npz")
    parser.add_argument("--potentials", type=words, default=list(POTENTIALS))
    parser.add_argument("--flows", type=words, default=["styblinski_tang", "double_exp", "sphere"])
    parser.add_argument("--solvers", type=words, default=list(SOLVERS))
    parser.add_argument("--all-terms-on", type=words, default=["styblinski_tang"], metavar="SETS")
    parser.add_argument("--sections", type=numbers, default=[1, 2, 3])
    parser.add_argument("--epochs", type=int, default=200)
    parser.add_argument("--seeds", type=numbers, default=[0])
    parser.add_argument("--n", type=int, default=1000, help="particles, where they are simulated")


def compare(arguments: argparse.Namespace, sets: list[dict[str, Any]], *, published: bool) -> list:
    """One table: a row per set and solver, EMD and drift error of each scheme."""
    columns = [("set", "set", 16, "s"), ("solver", "solver", 29, "s")]
    columns += [(f"emd_{s}", f"EMD {s}", 12, ".5f") for s in SCHEMES]
    columns += [("published", "published", 9, ".5f")] if published else []
    columns += [(f"drift_{s}", f"drift {s}", 14, ".4g") for s in SCHEMES]
    columns += [("seconds", "fit s", 6, ".1f"), ("notes", "notes", 5, "s")]
    table = Table(columns, markdown=True)
    for chosen in sets:
        for solver in arguments.solvers:
            if solver == "jkonet-star-linear" and chosen["set"] not in arguments.all_terms_on:
                continue
            row: dict[str, Any] = {"set": chosen["set"], "solver": solver, "cells": {}}
            if published:
                row["published"] = PUBLISHED.get(solver, {}).get(chosen["set"])
            notes = []
            for scheme in SCHEMES:
                request = {**chosen, "solver": solver, "scheme": scheme}
                request |= {"epochs": arguments.epochs, "seeds": arguments.seeds}
                cell = measure_apart(__file__, request, arguments.timeout)
                row["cells"][scheme] = cell
                if "failed" in cell:
                    notes.append(f"{scheme}: {cell['failed']}")
                    continue
                row[f"emd_{scheme}"] = cell["emd"]
                if cell["drift"] is None:
                    row[f"drift_{scheme}"] = f"{cell['drift_absolute']:.2g} abs."
                else:
                    row[f"drift_{scheme}"] = f"{100 * cell['drift']:.3g} %"
                if not cell["converged"]:
                    notes.append(f"{scheme}: steps not converged")
            finished = [c["seconds"] for c in row["cells"].values() if "seconds" in c]
            row["seconds"] = sum(finished) / len(finished) if finished else None
            row["notes"] = "; ".join(notes)
            table.add(row)
    return table.rows


def order_of_schemes(arguments: argparse.Namespace) -> list:
    """Drift error of the closed form at dt, dt/2, dt/4 over one horizon of the continuous flow."""
    steps = (2, 4, 8)
    names = [f"dt_{k}" for k in range(len(steps))]
    columns = [("set", "set", 16, "s"), ("scheme", "scheme", 9, "s")]
    columns += [
        (name, f"dt {HORIZON / n:g}", 10, ".3g") for name, n in zip(names, steps, strict=True)
    ]
    columns += [("order", "order", 6, ".2f"), ("notes", "notes", 5, "s")]
    table = Table(columns, markdown=True)
    for name in ("styblinski_tang", "sphere"):
        for scheme in SCHEMES:
            row: dict[str, Any] = {"set": name, "scheme": scheme, "notes": ""}
            errors = []
            for label, n_timesteps in zip(names, steps, strict=True):
                request = {
                    "set": name,
                    "n": arguments.n,
                    "n_timesteps": n_timesteps,
                    "dt": HORIZON / n_timesteps,
                    "substeps": 160 // n_timesteps,
                    "solver": "jkonet-star-linear-potential",
                    "scheme": scheme,
                    "epochs": 1,
                    "seeds": [0],
                }
                cell = measure_apart(__file__, request, arguments.timeout)
                if "failed" in cell:
                    row["notes"] = cell["failed"]
                    break
                errors.append(cell["drift"])
                row[label] = f"{100 * cell['drift']:.3g} %"
            if len(errors) == len(steps):
                row["order"] = math.log2(errors[-2] / errors[-1])
                row["errors"] = errors
            table.add(row)
    return table.rows


def main() -> None:
    """Prints the tables."""
    arguments = arguments_of(__doc__, define)
    if arguments.measure:
        print(json.dumps(measure(arguments.measure)))
        return
    print(describe_machine(), end="\n\n")
    simulated = {"n": arguments.n, "n_timesteps": 5, "dt": 0.01}
    if arguments.reference is None:
        sets = [{**simulated, "set": name, "substeps": 1} for name in arguments.potentials]
        origin = "simulated"
    else:
        found = {file.stem: str(file) for file in arguments.reference.glob("*.npz")}
        known = [name for name in arguments.potentials if name in found]
        sets = [{"set": name, "file": found[name]} for name in known]
        origin = str(arguments.reference)
        if not sets:
            raise SystemExit(f"{origin} holds none of {', '.join(arguments.potentials)}")
    sections: dict[str, list] = {}
    if 1 in arguments.sections:
        print(
            f"Explicit Euler steps ({origin}): one-step-ahead EMD and relative drift error on "
            f"held-out particles, {arguments.epochs} epochs, seeds {arguments.seeds}\n"
        )
        sections["steps"] = compare(arguments, sets, published=arguments.reference is not None)
        print()
    if 2 in arguments.sections:
        print("The continuous flow (20 steps per dt)\n")
        flows = [{**simulated, "set": name, "substeps": 20} for name in arguments.flows]
        sections["flow"] = compare(arguments, flows, published=False)
        print()
    if 3 in arguments.sections:
        print(
            f"Order in dt on the continuous flow over {HORIZON:g}: drift error of "
            "jkonet-star-linear-potential\n"
        )
        sections["order"] = order_of_schemes(arguments)
    write_output(arguments.output, **sections)


if __name__ == "__main__":
    main()
