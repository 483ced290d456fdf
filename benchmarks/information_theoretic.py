"""Densities from denoising errors: training, the contour grid, likelihoods of images, and a control.

grid      40 x 40 log densities with 200 log SNRs each: one compiled call, against a loop that calls the
          network for one point and one log SNR at a time, as a loop over data does, and against a loop
          over points that batches the log SNRs. Loops are timed on a part of the points.
steps     training steps per processor second of the planar network.
images    seconds for the likelihood of 1000 images (one draw each) and FLOPs per second.
control   validation nll of the same planar network trained plainly: independent log SNRs, one noise,
          constant Adam 1e-3, ReLU, no preconditioning; beside the defaults of the script.
laws      a mixture chosen for 7200 points of a law of known density, in 2, 8 and 64 dimensions: its
          nll on 2000 others beside the exact one and that of a Gaussian. The law is three points in a
          plane plus noise of two widths in all dimensions.

Seconds are processor time over all threads; on an accelerator, by the clock.
"""

import argparse
import functools
import json
import sys
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from measurement import (
    arguments_of,
    clock,
    describe_machine,
    measure_apart,
    median_seconds,
    numbers,
    peak_memory,
    words,
    write_output,
)

from data_generation.images.datasets import synthetic_images
from data_generation.planar import planar_data
from diffusions.density.correction import preconditioned
from diffusions.density.exact import gaussian_mixture
from diffusions.density.gaussian_reference import (
    fitted_reference,
    standard_reference,
)
from diffusions.density.likelihood import log_density, nll, nll_loss, nll_terms
from diffusions.density.log_snr import LogSNRLaw
from diffusions.density.mixture_choice import chosen_mixture
from diffusions.networks.flops import matmul_flops
from diffusions.networks.mlp import DenoisingMLP
from diffusions.networks.presets import UNET_PRESETS
from diffusions.networks.unet import UNet
from diffusions.training import initial_state, shuffled_batches, train_epochs

LAW = LogSNRLaw()


def measure_grid(request: dict[str, Any]) -> dict[str, Any]:
    """One compiled call against two loops, in one process."""
    module = DenoisingMLP()
    params = module.init(jax.random.key(0), jnp.zeros((1, 2)), jnp.zeros(1))
    axis = jnp.linspace(-3.0, 3.0, 40)
    points = jnp.stack(jnp.meshgrid(axis, axis), axis=-1).reshape(-1, 2)
    reference = standard_reference(2)

    def denoiser(z, a):
        return module.apply(params, z, a)

    key = jax.random.key(1)
    together = jax.jit(lambda x: log_density(denoiser, key, x, LAW, reference, n_log_snr=200).value)
    compiled = median_seconds(
        lambda: jax.block_until_ready(together(points)), request["repetitions"]
    )
    a, weight = LAW.grid(200)
    network = jax.jit(denoiser)

    def loop_over_points(n: int) -> None:
        for point in points[:n]:
            copies = jnp.broadcast_to(point, (200, 2))
            eps = jax.random.normal(key, copies.shape)
            jax.block_until_ready(
                nll_terms(network, eps, copies, a, weight, reference, control_variate=False).mean()
            )

    def loop_over_both(n: int) -> None:
        for point in points[:n]:
            total = jnp.zeros(())
            for k in range(200):
                total += nll_terms(
                    network,
                    jax.random.normal(jax.random.fold_in(key, k), (1, 2)),
                    point[None],
                    a[k : k + 1],
                    weight[k : k + 1],
                    reference,
                    control_variate=False,
                )[0]
            jax.block_until_ready(total)

    seconds = {}
    for name, loop, n in (("points", loop_over_points, 40), ("both", loop_over_both, 3)):
        loop(1)
        start = clock()
        loop(n)
        seconds[name] = (clock() - start) * len(points) / n
    return {
        "compiled": compiled,
        "loop_over_points": seconds["points"],
        "loop_over_points_and_log_snrs": seconds["both"],
        "peak": peak_memory(),
    }


def _plane(
    name: str, *, plain: bool, epochs: int, seed: int
) -> tuple[Any, Any, Any, functools.partial, Any]:
    data = planar_data(name, 0)
    x = jnp.asarray(data.train)
    module = DenoisingMLP(activation="relu" if plain else "silu")
    reference = standard_reference(2) if plain else fitted_reference(x)
    noises = 1 if plain else 4
    steps = epochs * -(-len(x) // 128)
    rate = 1e-3 if plain else optax.cosine_decay_schedule(3e-3, steps)
    optimizer = optax.adam(rate)
    params = module.init(jax.random.key(seed), x[:1], jnp.zeros(1))

    def denoiser(params):
        def network(z, a):
            return module.apply(params, z, a)

        return network if plain else preconditioned(network, reference)

    def loss(params, indices, key):
        batch = x[jnp.tile(indices, noises)]
        if plain:
            law_key, noise_key = jax.random.split(key)
            a, weight = LAW.sample(law_key, len(batch), stratified=False)
            eps = jax.random.normal(noise_key, batch.shape)
            terms = nll_terms(
                denoiser(params), eps, batch, a, weight, reference, control_variate=False
            )
        else:
            terms = nll_loss(denoiser(params), key, batch, LAW, reference)
        return terms.mean(), {}

    train = functools.partial(
        train_epochs,
        key=jax.random.key(seed + 1),
        batches=lambda key: shuffled_batches(key, len(x), 128),
        loss=loss,
        optimizer=optimizer,
    )
    return data, denoiser, reference, train, initial_state(params, optimizer)


def measure_steps(request: dict[str, Any]) -> dict[str, Any]:
    """Training steps per second."""
    _, _, _, train, state = _plane("dino", plain=False, epochs=160, seed=0)
    run = jax.jit(functools.partial(train, n_epochs=4))
    seconds = median_seconds(
        lambda: jax.block_until_ready(run(state)[0].params), request["repetitions"]
    )
    return {"steps_per_second": 4 * 57 / seconds, "peak": peak_memory()}


def measure_images(request: dict[str, Any]) -> dict[str, Any]:
    """Likelihood of 1000 images."""
    images = jnp.asarray(synthetic_images(1000, seed=0).images, jnp.float32) / 127.5 - 1.0
    module = UNet(time_scale=50.0, **UNET_PRESETS[request["unet"]])
    params = jax.jit(module.init)(jax.random.key(0), images[:1], jnp.zeros(1))
    reference = fitted_reference(images, axes="coordinates")

    def chunk(x):
        return nll(
            lambda z, a: module.apply(params, z, a), jax.random.key(1), x, LAW, reference
        ).value

    evaluate = jax.jit(lambda x: jax.lax.map(chunk, x.reshape(20, 50, *x.shape[1:])))
    seconds = median_seconds(
        lambda: jax.block_until_ready(evaluate(images)), request["repetitions"]
    )
    flops = matmul_flops(lambda z: module.apply(params, z, jnp.zeros(1)), images[:1])
    return {
        "seconds": seconds,
        "gflop_per_second": 1000 * flops / seconds / 1e9,
        "peak": peak_memory(),
    }


def measure_control(request: dict[str, Any]) -> dict[str, Any]:
    """Validation nll, plainly trained and by the defaults."""
    found: dict[str, Any] = {}
    for name, plain in (("plain", True), ("default", False)):
        data, denoiser, _, train, state = _plane(
            request["dataset"], plain=plain, epochs=request["epochs"], seed=0
        )
        reference = fitted_reference(data.train)
        evaluate = jax.jit(
            lambda params, denoiser=denoiser, data=data, reference=reference: (
                nll(
                    denoiser(params),
                    jax.random.key(9),
                    jnp.asarray(data.validation),
                    LAW,
                    reference,
                    n_samples=50,
                ).value
            )
        )
        tenth = max(1, request["epochs"] // 10)
        run = jax.jit(functools.partial(train, n_epochs=tenth))
        values = []
        for _ in range(10):
            state, _ = run(state)
            values.append(float(evaluate(state.params)))
        # The control gets the best of its ten evaluations, the default its last.
        found[name] = min(values) if plain else values[-1]
    found["exact"] = -float(data.log_density(data.validation).mean())
    return found


def measure_laws(request: dict[str, Any]) -> dict[str, Any]:
    """Validation nll of the mixture, exactly, and of the Gaussian."""
    d, n, n_judges = request["dimension"], 7200, 2000
    centres = np.zeros((3, d), np.float32)
    centres[0, 0], centres[1, 1] = 4.0, -4.0
    variances = np.float32([0.3, 1.0]) ** 2
    law = gaussian_mixture(
        jnp.ones(6),
        jnp.asarray(np.repeat(centres, 2, axis=0)),
        jnp.asarray(np.tile(variances, 3))[:, None, None] * jnp.eye(d),
    )
    train, judges = jnp.split(law.sample(jax.random.key(0), n + n_judges), [n])
    start = clock()
    found = chosen_mixture(np.asarray(train), 0)
    seconds = clock() - start
    exact, learned, gaussian = (
        np.asarray(known.log_density(judges), np.float64)
        for known in (law, found.reference, fitted_reference(np.asarray(train)))
    )
    above = exact - learned
    return {
        "exact": -exact.mean(),
        "mixture": -learned.mean(),
        "above": above.mean(),
        "error": above.std(ddof=1) / np.sqrt(n_judges),
        "gaussian": -gaussian.mean(),
        "seconds": seconds,
    }


def define(parser: argparse.ArgumentParser) -> None:
    """Options."""
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--unets", type=words, default=["tiny"])
    parser.add_argument(
        "--datasets", type=words, default=["dino", "moons", "line", "circle", "scg"]
    )
    parser.add_argument("--epochs", type=int, default=160, help="of the control")
    parser.add_argument(
        "--only",
        type=words,
        default=["grid", "steps", "images", "control", "laws"],
        help="what to measure",
    )
    parser.add_argument("--dimensions", type=numbers, default=[2, 8, 64], help="of the laws")


def main() -> None:
    """Prints what each part found."""
    arguments = arguments_of(__doc__, define, timeout=3600)
    if arguments.measure:
        kind = arguments.measure["kind"]
        print(json.dumps(getattr(sys.modules[__name__], f"measure_{kind}")(arguments.measure)))
        return
    print(describe_machine())
    requests: list[dict[str, Any]] = []
    for kind in arguments.only:
        base = {"kind": kind, "repetitions": arguments.repetitions}
        if kind == "images":
            requests += [{**base, "unet": unet} for unet in arguments.unets]
        elif kind == "control":
            requests += [
                {**base, "dataset": name, "epochs": arguments.epochs} for name in arguments.datasets
            ]
        elif kind == "laws":
            requests += [{**base, "dimension": d} for d in arguments.dimensions]
        else:
            requests.append(base)
    rows = []
    for request in requests:
        rows.append({**request, **measure_apart(__file__, request, arguments.timeout)})
        shown = {k: f"{v:.4g}" if isinstance(v, float) else v for k, v in rows[-1].items()}
        print(", ".join(f"{k} {v}" for k, v in shown.items() if k != "repetitions"), flush=True)
    write_output(arguments.output, rows=rows)


if __name__ == "__main__":
    main()
