r"""Samplers: the variance of what comes out of an exact network, beside that of the data.

    python benchmarks/samplers.py
    python benchmarks/samplers.py --steps=10,20,50,100 --variances=0.01,1

The data are independent Gaussians of the given variances, whose E[x | z] is known, so that what is
missing is the sampler's: the relative error of the variance, in per cent, of --n samples (its own noise
is 140 / sqrt(n) per cent). `order 1` are the published ancestral sampling and DDIM.
"""

import argparse
import functools
import json
from collections.abc import Callable
from typing import Any

from measurement import (
    Table,
    arguments_of,
    describe_machine,
    floats,
    measure_apart,
    numbers,
    words,
    write_output,
)

SAMPLERS = ("ddpm order 1", "ddpm", "ddim order 1", "ddim", "ode-euler", "ode-heun", "sde")


def measure(request: dict[str, Any]) -> list[dict[str, Any]]:
    """Errors of one sampler for one process, by the number of steps."""
    import jax
    import jax.numpy as jnp

    from diffusions.predictions import Prediction, express
    from diffusions.processes import LinearBetaDDPM, Process, RectifiedFlow
    from diffusions.samplers import Model, prior
    from experiments.sparse_pixels.sampling import SamplerSpec, sampled

    name, _, order = request["sampler"].partition(" order ")
    process: Process = {"flow": RectifiedFlow(), "ddpm": LinearBetaDDPM()}[request["process"]]
    start = {"flow": 1.0, "ddpm": 1000.0}[request["process"]]
    prediction: Prediction = "velocity" if request["process"] == "flow" else "epsilon"
    c = jnp.asarray(request["variances"])

    def exact(z: Any, t: Any) -> Any:
        alpha, sigma = process.alpha(t)[:, None], process.sigma(t)[:, None]
        standard = z / (alpha**2 * c + sigma**2)
        return express(process, t, alpha * c * standard, sigma * standard, prediction)

    rows = []
    for steps in request["steps"]:
        spec = SamplerSpec(name, steps, order=int(order or 2))  # type: ignore[arg-type]
        draw: Callable = jax.jit(
            functools.partial(sampled, Model(exact, process, prediction), spec=spec, constrain=None)
        )
        z = prior(jax.random.key(0), (request["n"], len(c)), process, start)
        error = 100 * (draw(jax.random.key(1), z).var(axis=0) / c - 1)
        rows.append({"steps": steps, "calls": spec.calls, "errors": [float(e) for e in error]})
    return rows


def define(parser: argparse.ArgumentParser) -> None:
    """Options."""
    parser.add_argument("--processes", type=words, default=["flow", "ddpm"])
    parser.add_argument("--samplers", type=words, default=list(SAMPLERS))
    parser.add_argument("--steps", type=numbers, default=[20, 50, 100])
    parser.add_argument("--variances", type=floats, default=[0.01, 0.1, 1.0])
    parser.add_argument("--n", type=int, default=200_000, help="samples")


def main() -> None:
    """Prints a row per sampler and number of steps."""
    arguments = arguments_of(__doc__, define, timeout=900)
    if arguments.measure:
        print(json.dumps({"rows": measure(arguments.measure)}))
        return
    print(describe_machine())
    names = [f"c = {c:g}" for c in arguments.variances]
    table = Table(
        (
            ("process", "process", 7, "s"),
            ("sampler", "sampler", 12, "s"),
            ("steps", "steps", 5, "d"),
            ("calls", "calls", 5, "d"),
            *((name, name + " %", 10, "+.1f") for name in names),
        )
    )
    for process in arguments.processes:
        for sampler in arguments.samplers:
            request = {"process": process, "sampler": sampler}
            options = {name: getattr(arguments, name) for name in ("steps", "variances", "n")}
            found = measure_apart(__file__, request | options, arguments.timeout)
            if "failed" in found:
                table.add({**request, "failed": found["failed"]})
                continue
            for row in found["rows"]:
                errors = dict(zip(names, row.pop("errors"), strict=True))
                table.add({**request, **row, **errors})
    write_output(arguments.output, rows=table.rows)


if __name__ == "__main__":
    main()
