r"""What `gpu.py` measures; each function runs in a process of its own and returns rows.

A row is {"what", "value", "unit", "beside"}: a number, and what it is to be compared with.

parity      the same arrays on the accelerator and on this machine's processor: |a - b| / |b|, once as
            JAX multiplies by default (TF32 on NVIDIA cards) and once in full single precision.
unet        a training step and a forward pass of the published networks. Operations are those of
            matrix products and convolutions, three forward passes for a training step; their share is
            of a product of 8192 x 8192 matrices in bfloat16, measured in the same process.
messages    the message-passing denoiser at n = 350.
populations JKOnet* at its published size, the second time too.
repetitions the attention U-Nets of the learned denoiser, many side by side: convolutions as products,
            and as convolutions.
"""

import functools
import statistics
import time
from collections.abc import Callable
from typing import Any

Row = dict[str, Any]


def row(what: str, value: float, unit: str, beside: str = "") -> Row:
    """One line of the report."""
    return {"what": what, "value": float(value), "unit": unit, "beside": beside}


def seconds_of(call: Callable[[], Any], repetitions: int = 5) -> float:
    """Median time by the clock of a call that was made once before."""
    import jax

    jax.block_until_ready(call())
    found = []
    for _ in range(repetitions):
        start = time.perf_counter()
        jax.block_until_ready(call())
        found.append(time.perf_counter() - start)
    return statistics.median(found)


def device() -> str:
    """The accelerator's name, or cpu."""
    import jax

    first = jax.devices()[0]
    return "cpu" if first.platform == "cpu" else first.device_kind


# --- parity -----------------------------------------------------------------------------------


def measure_parity(request: Row) -> list[Row]:
    """Every system on the accelerator and on the processor, from the same arrays."""
    import jax
    import numpy as np

    accelerator, processor = jax.devices()[0], jax.devices("cpu")[0]
    rows = []
    for name, make in PARITY.items():
        with jax.default_device(processor):
            arrays, function, tolerance = make(request["size"] == "full")
            arrays = jax.tree.map(np.asarray, arrays)
            expected = jax.tree.map(np.asarray, jax.jit(function)(arrays))
        errors = []
        # A processor multiplies in one way.
        for precision in (None, "highest") if accelerator != processor else ("highest",):
            with jax.default_device(accelerator), jax.default_matmul_precision(precision):
                # A function of its own: what was traced before keeps its precision.
                found = jax.jit(functools.partial(function))(arrays)
            errors.append(_relative(jax.tree.map(np.asarray, found), expected))
        if len(errors) > 1:
            by_default = "as JAX multiplies by default"
            rows.append(row(f"parity of {name}", errors[0], "relative", by_default))
        kept = "within" if errors[-1] <= tolerance else "BEYOND"
        beside = f"single precision; {kept} {tolerance:g}"
        rows.append(row(f"parity of {name}", errors[-1], "relative", beside))
    return rows


def _relative(found: Any, expected: Any) -> float:
    """The largest |a - b| / |b| of the arrays of a pytree."""
    import jax
    import numpy as np

    def one(a: Any, b: Any) -> float:
        a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
        return float(np.linalg.norm(a - b) / max(np.linalg.norm(b), 1e-300))

    return max(map(one, jax.tree.leaves(found), jax.tree.leaves(expected)))


def _population(n: int) -> Any:
    import jax
    import numpy as np

    from data_generation.populations.particles import simulate
    from jkonet_star.snapshots import snapshots_from_arrays

    points = simulate(
        jax.random.key(0),
        potential="styblinski_tang",
        interaction="none",
        beta=0.0,
        n_particles=n,
        dimension=2,
        n_timesteps=5,
        dt=0.01,
    )
    return snapshots_from_arrays(np.asarray(points), dt=0.01)


def _first_order_loss(full: bool) -> tuple:
    import jax
    import jax.numpy as jnp

    from jkonet_star.solvers.first_order import jko_loss
    from jkonet_star.solvers.network import Network
    from jkonet_star.solvers.problem import prepare
    from jkonet_star.solvers.side_by_side import SideBySide

    problem = prepare(
        _population(1000 if full else 60), "jkonet-star-potential", key=jax.random.key(1)
    )
    training = SideBySide(Network(), problem)
    model = training.solver.model(training.data)  # type: ignore[attr-defined]

    def loss(arrays: dict[str, Any]) -> Any:
        def value(params: Any) -> Any:
            return jko_loss(
                model,
                params,
                arrays["data"].units,
                arrays["data"].conditions,
                jnp.arange(arrays["data"].conditions.point.shape[0]),
                speed=arrays["data"].units.speed,
                key=jax.random.key(3),
                interaction_samples=1,
            )

        return jax.value_and_grad(value)(arrays["params"])

    params = model.init(jax.random.key(2))
    return {"params": params, "data": training.data}, loss, 1e-4


def _log_densities(full: bool) -> tuple:
    import jax
    import jax.numpy as jnp

    from checkpoints import load_pretrained
    from diffusions.density.gaussian_reference import standard_reference
    from diffusions.density.likelihood import log_density
    from diffusions.density.log_snr import LogSNRLaw

    saved = load_pretrained("dino")
    axis = jnp.linspace(-2.0, 2.0, 40 if full else 8)
    points = jnp.stack(jnp.meshgrid(axis, axis), axis=-1).reshape(-1, 2)

    def densities(arrays: dict[str, Any]) -> Any:
        def denoiser(z: Any, a: Any) -> Any:
            return saved.module.apply(arrays["params"], z, a)  # type: ignore[union-attr]

        return log_density(
            denoiser,
            jax.random.key(1),
            arrays["points"],
            LogSNRLaw(),
            standard_reference(2),
            n_log_snr=256 if full else 32,
        ).value

    return {"params": saved.params, "points": points}, densities, 1e-4  # type: ignore[union-attr]


def _messages(full: bool) -> tuple:
    import jax
    import jax.numpy as jnp

    from checkpoints import load_pretrained
    from data_generation.sparse_rank_one import observations, sample_keys, sparse_vectors
    from diffusions.networks.message_passing import start_vectors
    from diffusions.sparse_estimators import squared_distance

    saved = load_pretrained("sparse_n64_k6")
    n, batch = 64, 64 if full else 4
    keys = sample_keys(jax.random.key(1), 0, batch)
    u, t = sparse_vectors(keys, n, 6, 0.5), jnp.full(batch, 0.8 * n)
    arrays = {
        "params": saved.params,  # type: ignore[union-attr]
        "u": u,
        "edges": observations(sample_keys(jax.random.key(2), 0, batch), u, t),
        "t": t,
        "start": start_vectors(sample_keys(jax.random.key(3), 0, batch), n),
    }

    def loss(arrays: dict[str, Any]) -> Any:
        def value(params: Any) -> Any:
            estimate = saved.module.apply(  # type: ignore[union-attr]
                params, arrays["edges"], arrays["t"], arrays["start"], train=True
            )
            return squared_distance(estimate, arrays["u"]).mean()  # type: ignore[arg-type]

        return jax.value_and_grad(value)(arrays["params"])

    return arrays, loss, 1e-3


def _linear_denoiser(full: bool) -> tuple:
    import jax

    from diffusions.linear_denoiser.distance import log_cross, log_pairs
    from diffusions.linear_denoiser.model import OneStepModel, generated_law, kl_divergence
    from diffusions.networks.linear import least_squares

    d, n = (100, 300) if full else (5, 20)
    model = OneStepModel(dimension=d)
    x = model.mean + jax.random.normal(jax.random.key(1), (n, d))
    arrays = {"x": x, "z": model.corrupt(jax.random.key(2), x)}

    def distances(arrays: dict[str, Any]) -> Any:
        law = generated_law(model, least_squares(arrays["z"], arrays["x"]), arrays["x"])
        return (
            law.std,
            kl_divergence(model, law),
            log_pairs(model, arrays["x"]),
            log_cross(model, law, arrays["x"]),
        )

    return arrays, distances, 1e-3


def _sparse_pixels(full: bool) -> tuple:
    import jax
    import jax.numpy as jnp

    from checkpoints import load_pretrained

    saved = load_pretrained("sparse_pixels")
    batch = 32 if full else 2
    arrays = {
        "params": saved.params,  # type: ignore[union-attr]
        "images": jax.random.normal(jax.random.key(1), (batch, 32, 32, 12)),
        "t": jnp.linspace(0.0, 1.0, batch),
    }

    def loss(arrays: dict[str, Any]) -> Any:
        def value(params: Any) -> Any:
            out = saved.module.apply(params, arrays["images"], arrays["t"])  # type: ignore[union-attr]
            return jnp.mean((out - arrays["images"][..., :3]) ** 2)  # type: ignore[index]

        return jax.value_and_grad(value)(arrays["params"])

    return arrays, loss, 1e-3


PARITY: dict[str, Callable[[bool], tuple]] = {
    "JKOnet*, loss and gradient": _first_order_loss,
    "log densities": _log_densities,
    "message passing, loss and gradient": _messages,
    "the linear denoiser": _linear_denoiser,
    "sparse pixels, loss and gradient": _sparse_pixels,
}
"""By name: whether at full size -> (arrays, a function of them, tolerance)."""


# --- the U-Net --------------------------------------------------------------------------------


def measure_unet(request: Row) -> list[Row]:
    """Training steps, forward passes and memory of one network."""
    import jax
    import jax.numpy as jnp
    import optax

    from diffusions.networks.flops import matmul_flops
    from diffusions.networks.presets import UNET_PRESETS
    from diffusions.networks.unet import UNet
    from diffusions.objectives import denoising_loss
    from diffusions.processes import LinearBetaDDPM
    from diffusions.training import initial_state, train_epochs

    full = request["size"] == "full"
    preset = request["unet"]
    batch, side, steps = (128, 32, 20) if full else (2, 8, 2)
    dtype = jnp.bfloat16 if request["bfloat16"] else jnp.float32
    sizes = (
        UNET_PRESETS[preset] if full else UNET_PRESETS["tiny"] | {"width": 8, "multipliers": (1,)}
    )
    module = UNet(dtype=dtype, **sizes)
    images = jax.random.normal(jax.random.key(0), (steps, batch, side, side, 3))
    times = jnp.full(batch, 500.0)
    params = jax.jit(module.init)(jax.random.key(1), images[0], times)
    optimizer, process = optax.adam(1e-4), LinearBetaDDPM()

    def loss(params: Any, x: Any, key: Any) -> Any:
        def denoiser(z: Any, t: Any) -> Any:
            return module.apply(params, z, t)

        return denoising_loss(denoiser, key, process, x, times).mean(), {}

    forward = jax.jit(module.apply)
    operations = matmul_flops(module.apply, params, images[0], times)
    peak = _peak_rate(8192 if full else 256)
    name = f"{preset}, {'bfloat16' if request['bfloat16'] else 'float32'}, batch {batch}"
    seconds = seconds_of(lambda: forward(params, images[0], times))
    rows = [
        row("product of large matrices, bfloat16", peak / 1e12, "TFLOP/s"),
        row(f"{name}: forward pass", 1e3 * seconds, "ms", _share(operations / seconds, peak)),
    ]
    start = time.perf_counter()
    train = (
        jax.jit(
            lambda state, images: train_epochs(
                state,
                jax.random.key(2),
                batches=lambda key: images,
                loss=loss,
                optimizer=optimizer,
                n_epochs=1,
            )
        )
        .lower(initial_state(params, optimizer), images)
        .compile()
    )
    compiled = time.perf_counter() - start
    state = initial_state(params, optimizer)
    seconds = seconds_of(lambda: train(state, images)[0].params) / steps
    share = _share(3 * operations / seconds, peak)
    held = train.memory_analysis()
    rows += [
        row(f"{name}: training step", 1e3 * seconds, "ms", share),
        row(f"{name}: training", batch / seconds, "images/s"),
        row(f"{name}: temporaries of a step", held.temp_size_in_bytes / 2**30, "GiB"),
        row(f"{name}: compiling the training", compiled, "s"),
    ]
    return rows


def _peak_rate(n: int) -> float:
    """Operations per second of a product in bfloat16, of numbers that are not zero."""
    import jax
    import jax.numpy as jnp

    keys = jax.random.split(jax.random.key(0))
    a, b = (jax.random.normal(key, (n, n), jnp.bfloat16) for key in keys)
    product = jax.jit(jnp.matmul)
    return 2.0 * n**3 / seconds_of(lambda: product(a, b), 10)


def _share(rate: float, peak: float) -> str:
    return f"{rate / 1e12:.3g} TFLOP/s, {100 * rate / peak:.0f} % of the large product's"


# --- message passing --------------------------------------------------------------------------


def measure_messages(request: Row) -> list[Row]:
    """Forward, gradient, training steps and the sampling of a whole population."""
    import jax
    import jax.numpy as jnp

    from data_generation.sparse_rank_one import (
        observations,
        sample_keys,
        sparse_vectors,
        symmetric_noise,
    )
    from diffusions.networks.message_passing import MessagePassingDenoiser, start_vectors
    from diffusions.sparse_estimators import rank_one, squared_distance
    from diffusions.stochastic_localization import euler, uniform_times
    from experiments.sparse_localization.measurement import network_estimator
    from experiments.sparse_localization.settings import CurriculumSettings
    from experiments.sparse_localization.training import Curriculum

    full = request["size"] == "full"
    n, k, batch, samples = (350, 20, 32, 500) if full else (24, 4, 2, 3)
    model = MessagePassingDenoiser(n_nonzero=k)
    keys = sample_keys(jax.random.key(1), 0, batch)
    u, t = sparse_vectors(keys, n, k, 0.5), jnp.full(batch, 1.0 * n)
    edges = observations(sample_keys(jax.random.key(2), 0, batch), u, t)
    start = start_vectors(sample_keys(jax.random.key(3), 0, batch), n)
    params = model.init(jax.random.key(4), edges, t, start)

    def loss(params: Any, edges: Any) -> Any:
        estimate: Any = model.apply(params, edges, t, start, train=True)
        return squared_distance(estimate, u).mean()

    forward, gradient = jax.jit(model.apply), jax.jit(jax.grad(loss))
    operations = 5.0 * model.n_layers * model.hidden * n**2
    seconds = seconds_of(lambda: forward(params, edges, t, start)) / batch
    rate = f"{operations / seconds / 1e12:.3g} Tera operations/s"
    name = f"message passing, n = {n}"
    rows = [row(f"{name}: forward pass of a sample", 1e3 * seconds, "ms", rate)]
    seconds = seconds_of(lambda: gradient(params, edges)) / batch
    rows.append(row(f"{name}: gradient of a sample", 1e3 * seconds, "ms"))

    settings = CurriculumSettings().scaled(n)
    curriculum = Curriculum(n, k, 0.5, settings, jax.random.key(5))
    if full:
        train = jax.jit(curriculum.train, static_argnames="n_epochs")
        state = curriculum.initial()
        seconds = seconds_of(lambda: train(state, n_epochs=1)[0].params, 2)
        steps = settings.samples_per_epoch // settings.train_batch_size
        rows.append(row(f"{name}: training", steps / seconds, "steps/s", _batch_of(settings)))

    estimate = network_estimator(model, params)
    keys = sample_keys(jax.random.key(6), 0, samples)
    times = uniform_times(1.0, 56.0 if full else 2.0)

    @jax.jit
    def sample(y: Any) -> Any:
        def drift(keys: Any, y: Any, t: Any) -> Any:
            scaled = y / jnp.maximum(t, 1.0)
            return rank_one(estimate(keys, scaled, jnp.broadcast_to(t, samples)))

        return euler(keys, drift, lambda keys: symmetric_noise(keys, n), y, times)

    seconds = seconds_of(lambda: sample(jnp.zeros((samples, n, n))), 2) / (len(times) - 1)
    whole = f"{2800 * seconds:.3g} s for the published 2800"
    rows.append(row(f"{name}: a step of {samples} samples", 1e3 * seconds, "ms", whole))
    memory = jax.devices()[0].memory_stats()
    if memory:
        held = memory["peak_bytes_in_use"] / 2**30
        rows.append(row(f"{name}: memory of the sampling", held, "GiB"))
    return rows


def _batch_of(settings: Any) -> str:
    return f"batch {settings.train_batch_size}"


# --- populations ------------------------------------------------------------------------------


def measure_populations(request: Row) -> list[Row]:
    """A whole fit of the default epochs, again, and for five seeds in one program."""
    import jax
    import numpy as np

    import jkonet_star
    from jkonet_star.evaluation import evaluate
    from jkonet_star.settings import NetworkSettings

    full = request["size"] == "full"
    population = _population(1000 if full else 60)
    fit = functools.partial(
        jkonet_star.fit,
        population,
        "jkonet-star-potential",
        network=NetworkSettings() if full else NetworkSettings(epochs=2),
    )
    rows, energies = [], []
    keys = jax.vmap(jax.random.key)(np.arange(5, dtype=np.uint32))
    for what, key in (
        ("first fit", jax.random.key(0)),
        ("second fit", jax.random.key(1)),
        ("five seeds, first", keys),
        ("five seeds, again", keys),
    ):
        start = time.perf_counter()
        energies.append(jax.block_until_ready(fit(key=key)))
        rows.append(row(f"JKOnet*, {what}", time.perf_counter() - start, "s"))
    found = evaluate(energies[0], population, key=jax.random.key(9))["emd_one_step_ahead"]
    rows.append(row("JKOnet*, distance one step ahead", found["mean"], "W1"))
    return rows


# --- many small networks side by side ---------------------------------------------------------


def measure_repetitions(request: Row) -> list[Row]:
    """Training steps of the attention U-Net, by number of networks and form of convolution."""
    import jax
    import jax.numpy as jnp

    from diffusions.networks import attention_unet
    from diffusions.networks.convolutions import shifted_product

    def convolution(x: Any, kernel: Any, strides: Any, pads: Any) -> Any:
        layout = ("NHWC", "HWIO", "NHWC")
        return jax.lax.conv_general_dilated(x, kernel, strides, pads, dimension_numbers=layout)

    full = request["size"] == "full"
    channels = attention_unet.PUBLISHED_CHANNELS if full else (4, 4, 4, 4)
    network = attention_unet.AttentionUNet(channels=channels)
    rows = []
    for members, batch in ((1, 64), (8, 16)) if full else ((2, 2),):
        side = 16 if full else 8
        images = jax.random.normal(jax.random.key(0), (members, batch, side, side, 1))
        t = jnp.full(batch, 10.0)
        keys = jax.random.split(jax.random.key(1), members)
        params = jax.jit(jax.vmap(lambda key: network.init(key, images[0, :1], t[:1])))(keys)  # noqa: B023

        def loss(params: Any, x: Any) -> Any:
            return jnp.mean((network.apply(params, x, t) - x) ** 2)  # type: ignore[operator]  # noqa: B023

        for form, function in (("products", shifted_product), ("convolutions", convolution)):
            attention_unet.shifted_product = function  # type: ignore[assignment]
            mapped = jax.vmap(jax.grad(loss)) if members > 1 else jax.grad(loss)
            arguments = (params, images)
            if members == 1:
                arguments = jax.tree.map(lambda leaf: leaf[0], arguments)
            start = time.perf_counter()
            program = jax.jit(mapped).lower(*arguments).compile()
            compiled = time.perf_counter() - start
            seconds = seconds_of(lambda: program(*arguments))  # noqa: B023
            name = f"attention U-Net, {members} side by side, batch {batch}, {form}"
            rows.append(row(name, 1e3 * seconds, "ms", f"gradient; compiled in {compiled:.1f} s"))
    attention_unet.shifted_product = shifted_product
    return rows
