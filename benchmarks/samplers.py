r"""Samplers: the variance of what comes out of an exact network, beside that of the data.

    python benchmarks/samplers.py
    python benchmarks/samplers.py --steps=10,20,50,100 --variances=0.01,1
    python benchmarks/samplers.py --law --steps=100,1000 --samplers="ddpm order 1,ddpm"

The data are independent Gaussians of the given variances, whose E[x | z] is known, so that what is
missing is the sampler's: the relative error of the variance, in per cent, of --n samples (its own noise
is 140 / sqrt(n) per cent). `order 1` are the published ancestral sampling and DDIM.

With --law the data are a mixture in the plane, 0.3 N((-1, 0), c I) + 0.7 N((1, 0.5), c I), sampled by
the rectified flow with its exact velocity: the squared maximum mean discrepancy (unbiased) from samples
of the law itself, by kernels as wide as a component and of width 1, in units of 1e-4, mean and standard
error of 8 pairs of 4000; beside it what two samples of the law have.
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

REPETITIONS, MMD_SAMPLES = 8, 4000
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


def measure_law(request: dict[str, Any]) -> list[dict[str, Any]]:
    """MMD^2 of one sampler for one mixture, by the number of steps; without a sampler, of the law."""
    import jax
    import jax.numpy as jnp
    import numpy as np

    from diffusions.density.exact import gaussian_mixture
    from diffusions.metrics import gaussian_kernel, mmd_squared
    from diffusions.predictions import express
    from diffusions.processes import RectifiedFlow
    from diffusions.samplers import Model, prior
    from experiments.sparse_pixels.sampling import SamplerSpec, sampled

    c, process = request["variance"], RectifiedFlow()
    weights, means = jnp.array([0.3, 0.7]), jnp.array([[-1.0, 0.0], [1.0, 0.5]])
    law = gaussian_mixture(weights, means, jnp.stack([c * jnp.eye(2)] * 2))

    def velocity(z: Any, t: Any) -> Any:
        alpha, sigma = process.alpha(t)[:, None, None], process.sigma(t)[:, None, None]
        apart, a = z[:, None] - alpha * means, alpha**2 * c + sigma**2
        logits = jnp.log(weights) - 0.5 * (apart**2 / a).sum(axis=-1)
        r = jax.nn.softmax(logits, axis=-1)[..., None]
        clean = (r * (means + alpha * c * apart / a)).sum(axis=1)
        return express(process, t, clean, (r * sigma * apart / a).sum(axis=1), "velocity")

    kernels = [gaussian_kernel(width) for width in (c**0.5, 1.0)]
    distances = jax.jit(lambda x, y: jnp.stack([mmd_squared(x, y, kernel) for kernel in kernels]))

    def row(draw: Callable[[Any, Any], Any], steps: int | None) -> dict[str, Any]:
        found = []
        for key in jax.random.split(jax.random.key(0), REPETITIONS):
            start_key, noise_key, own_key = jax.random.split(key, 3)
            z = prior(start_key, (MMD_SAMPLES, 2), process, 1.0)
            found.append(distances(draw(noise_key, z), law.sample(own_key, MMD_SAMPLES)))
        values = 1e4 * np.asarray(found, np.float64)
        errors = values.std(axis=0, ddof=1) / REPETITIONS**0.5
        numbers = np.stack([values.mean(axis=0), errors], axis=1).ravel().tolist()
        names = ("own", "own_error", "wide", "wide_error")
        return {"steps": steps} | dict(zip(names, numbers, strict=True))

    if request["sampler"] == "the law":
        return [row(lambda key, z: law.sample(key, len(z)), None)]
    name, _, order = request["sampler"].partition(" order ")
    rows = []
    for steps in request["steps"]:
        spec = SamplerSpec(name, steps, order=int(order or 2))  # type: ignore[arg-type]
        model = Model(velocity, process, "velocity")
        rows.append(
            row(jax.jit(functools.partial(sampled, model, spec=spec, constrain=None)), steps)
        )
    return rows


def define(parser: argparse.ArgumentParser) -> None:
    """Options."""
    parser.add_argument("--processes", type=words, default=["flow", "ddpm"])
    parser.add_argument("--samplers", type=words, default=list(SAMPLERS))
    parser.add_argument("--steps", type=numbers, default=[20, 50, 100])
    parser.add_argument("--variances", type=floats, default=[0.01, 0.1, 1.0])
    parser.add_argument("--law", action="store_true", help="the law of a mixture in the plane")
    parser.add_argument("--n", type=int, default=200_000, help="samples")


def print_law(arguments: argparse.Namespace) -> None:
    """A row per mixture, sampler and number of steps."""
    table = Table(
        (
            ("variance", "c", 7, "g"),
            ("sampler", "sampler", 12, "s"),
            ("steps", "steps", 5, "d"),
            ("own", "MMD^2/1e-4", 10, "+.2f"),
            ("own_error", "+-", 5, ".2f"),
            ("wide", "of width 1", 10, "+.2f"),
            ("wide_error", "+-", 5, ".2f"),
        )
    )
    for variance in arguments.variances:
        for sampler in ("the law", *arguments.samplers):
            request = {"sampler": sampler, "variance": variance}
            found = measure_apart(__file__, request | {"steps": arguments.steps}, arguments.timeout)
            for row in found.get("rows", [found]):
                table.add({**request, **row})
    write_output(arguments.output, rows=table.rows)


def main() -> None:
    """Prints a row per sampler and number of steps."""
    arguments = arguments_of(__doc__, define, timeout=900)
    if arguments.measure:
        measured = measure_law if "variance" in arguments.measure else measure
        print(json.dumps({"rows": measured(arguments.measure)}))
        return
    print(describe_machine())
    if arguments.law:
        print_law(arguments)
        return
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
