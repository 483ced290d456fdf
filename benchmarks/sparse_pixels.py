r"""Sparse pixels: images per second in training and sampling, against the theoretical operations.

    python benchmarks/sparse_pixels.py
    python benchmarks/sparse_pixels.py --unets=sparse --bfloat16 --batch=128 --peak-tflops=989

training  gradient steps of the compiled loop, everything included: gathering, masks, inputs, loss,
          Adam, averages. Model FLOPs are three times those of a forward pass.
sampling  a 50-step ODE of the flow and 1000-step ancestral sampling of DDPM, in one process; a step is
          one call of the network, so their ratio should be 20.

Model FLOPs count matrix products and convolutions only (`diffusions.networks.flops`), of the network
alone; utilisation (MFU) is their rate over --peak-tflops.
"""

import argparse
import functools
import json
from typing import Any

from measurement import (
    Table,
    arguments_of,
    describe_machine,
    measure_apart,
    median_seconds,
    peak_memory,
    words,
    write_output,
)

COLUMNS = (
    ("unet", "network", 12, "s"),
    ("kind", "measured", 16, "s"),
    ("parameters", "parameters", 11, ",d"),
    ("gflop", "GFLOP/image", 12, ".4g"),
    ("images", "images/s", 10, ".4g"),
    ("rate", "GFLOP/s", 10, ".4g"),
    ("mfu", "MFU %", 6, ".1f"),
    ("seconds", "seconds", 9, ".3g"),
    ("ratio", "ratio", 6, ".1f"),
    ("peak", "peak MB", 8, ".0f"),
)


def _task(request: dict[str, Any], model: str) -> Any:
    from experiments.sparse_pixels.settings import SparsePixelsSettings
    from experiments.sparse_pixels.task import SparseTask

    settings = SparsePixelsSettings(
        dataset="synthetic",
        model=model,  # type: ignore[arg-type]
        unet=request["unet"],
        batch_size=request["batch"],
        bfloat16=request["bfloat16"],
        unseen=request["unseen"],
        residual=request["residual"],
        n_train=request["batch"] * request["steps"],
        n_test=request["batch"],
    )
    return SparseTask(settings.resolved())


def _size(task: Any, params: Any) -> dict[str, Any]:
    """Parameters, and GFLOP of a forward pass of one image."""
    import jax
    import jax.numpy as jnp

    from diffusions.networks.flops import matmul_flops

    channels = (4 if task.denoising.residual else 3) * task.shape[-1]
    image = jnp.zeros((1, *task.shape[:2], channels))
    flops = matmul_flops(lambda image: task.network(params, None)(image, jnp.zeros(1)), image)
    n = sum(leaf.size for leaf in jax.tree.leaves(params))
    return {"parameters": n, "gflop": flops / 1e9}


def measure_training(request: dict[str, Any]) -> list[dict[str, Any]]:
    """Images per second of the training loop."""
    import jax

    from diffusions.training import initial_state, train_epochs

    task = _task(request, "flow")
    params = task.initial(jax.random.key(0))
    optimizer = task.optimizer(1)
    state = initial_state(params, optimizer)
    train = jax.jit(
        functools.partial(
            train_epochs,
            key=jax.random.key(1),
            batches=task.batches,
            loss=task.loss,
            optimizer=optimizer,
            n_epochs=1,
            ema_decay=task.settings.ema_decay,
        )
    )
    seconds = median_seconds(
        lambda: jax.block_until_ready(train(state)[0].params), request["repetitions"]
    )
    size = _size(task, params)
    images = len(task.train) / seconds
    rate = 3 * size["gflop"] * images
    size["gflop"] *= 3
    return [{**size, "kind": "training", "images": images, "rate": rate, "seconds": seconds}]


def measure_sampling(request: dict[str, Any]) -> list[dict[str, Any]]:
    """Seconds of both samplers for the same number of images."""
    import jax
    import jax.numpy as jnp

    from experiments.sparse_pixels.evaluation import held_out
    from experiments.sparse_pixels.sampling import Reconstruction, SamplerSpec

    rows = []
    for model, spec in (
        ("flow", SamplerSpec("ode-euler", request["ode_steps"])),
        ("ddpm", SamplerSpec("ddpm", request["ddpm_steps"])),
    ):
        task = _task(request, model)
        params = task.initial(jax.random.key(0))
        reconstruction = Reconstruction(task)
        held = held_out(task, reconstruction, request["batch"])
        arrays = [jnp.asarray(a) for a in (held.images, held.told, held.labels)]
        sample = functools.partial(reconstruction.sample, spec, params, jax.random.key(2), *arrays)
        seconds = median_seconds(
            lambda call=sample: jax.block_until_ready(call()), request["repetitions"]
        )
        size, images = _size(task, params), request["batch"] / seconds
        size["gflop"] *= spec.calls * task.n_groups
        kind = f"{spec.name} {spec.steps}"
        found = {"kind": kind, "images": images, "rate": size["gflop"] * images}
        rows.append({**size, **found, "seconds": seconds})
    rows[1]["ratio"] = rows[1]["seconds"] / rows[0]["seconds"]
    return rows


def define(parser: argparse.ArgumentParser) -> None:
    """Options."""
    parser.add_argument("--unets", type=words, default=["tiny"])
    parser.add_argument("--only", type=words, default=["training", "sampling"])
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--steps", type=int, default=8, help="gradient steps of a timed call")
    parser.add_argument("--ode-steps", type=int, default=50)
    parser.add_argument("--ddpm-steps", type=int, default=1000)
    parser.add_argument("--unseen", default="mean", help="hidden, mean or simulated")
    parser.add_argument("--residual", action="store_true", help="diffuse the residual of kriging")
    parser.add_argument("--bfloat16", action="store_true")
    parser.add_argument("--peak-tflops", type=float, help="of the device, in the precision used")
    parser.add_argument("--repetitions", type=int, default=3)


def main() -> None:
    """Prints a row per measurement."""
    arguments = arguments_of(__doc__, define, timeout=3600)
    if arguments.measure:
        measure = {"training": measure_training, "sampling": measure_sampling}
        rows = measure[arguments.measure["measured"]](arguments.measure)
        print(json.dumps({"rows": rows, "peak": peak_memory()}))
        return
    print(describe_machine())
    table = Table(COLUMNS)
    shared = ("batch", "steps", "ode_steps", "ddpm_steps", "unseen", "residual", "bfloat16")
    options = {name: getattr(arguments, name) for name in (*shared, "repetitions")}
    for unet in arguments.unets:
        for measured in arguments.only:
            request = {**options, "unet": unet, "measured": measured}
            found = measure_apart(__file__, request, arguments.timeout)
            if "failed" in found:
                table.add({"unet": unet, "kind": measured, "failed": found["failed"]})
                continue
            for row in found["rows"]:
                if arguments.peak_tflops:
                    row["mfu"] = 0.1 * row["rate"] / arguments.peak_tflops
                table.add({"unet": unet, "peak": found["peak"] / 2**20, **row})
    write_output(arguments.output, rows=table.rows)


if __name__ == "__main__":
    main()
