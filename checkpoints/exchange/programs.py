"""What a model computes, as programs that run without this project.

`jax.export` writes StableHLO, the form before XLA compiles for a machine, with the parameters in it.
Whoever has JAX and flatbuffers runs it, on a CPU or an NVIDIA GPU, and differentiates it once, but for
energies in closed form. JAX reads programs of its releases of the last six months at least. The number
of points or images is free:

    from pathlib import Path
    from jax import export

    drift = export.deserialize(bytearray(Path("drift.jax_export").read_bytes())).call
    velocities = drift(points, 0.0)
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, cast

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import export

from diffusions.late_imports import import_extra
from diffusions.networks.attention_unet import AttentionUNet
from diffusions.networks.message_passing import MessagePassingDenoiser
from diffusions.networks.mlp import DenoisingMLP
from diffusions.networks.unet import UNet
from diffusions.typing import Array, Params
from jkonet_star.energies.models import LinearEnergy
from jkonet_star.fitted import FittedEnergy

PLATFORMS = ("cpu", "cuda")
SUFFIX = ".jax_export"


class Program(NamedTuple):
    """A program, and what it is called with."""

    content: bytes
    inputs: str
    output: str


def energy_programs(energy: FittedEnergy) -> dict[str, Program]:
    """Drift and potential of an energy, in the units of its data, in single precision.

        drift(x, t) = -grad V(x, t) + c(x)                                                          (1)
        drift(x, y, t) = -grad V(x, t) + c(x) - mean_j grad U(x - y_j)                              (2)
        potential(x, t) = V(x, t)

    x (n, d) are points, y (m, d) the particles of the population, t () is the time, which matters where
    V varies; (2) where an interaction was learned, in memory n m d.

    Args:
        energy: one, no stack.

    Returns:
        Programs by their names: `drift`, and `potential` where there is one.

    Raises:
        ImportError: the extra `exchange` is missing.
        ValueError: it is a stack.
    """
    energy.check_single()
    d = energy.dimension
    model, params, constants = energy.model, energy.params, energy.constants
    origin = 0.0 if energy.origin is None else jnp.asarray(energy.origin, jnp.float32)
    start = 0.0 if energy.start is None else jnp.asarray(energy.start, jnp.float32)

    def one_potential(p: Array, t: Array) -> Array:
        return model.potential(params, constants, p, t - start)

    def potential(x: Array, t: Array) -> Array:
        return jax.vmap(one_potential, (0, None))(x - origin, t)

    def alone(x: Array, t: Array) -> Array:
        velocity = jnp.zeros_like(x)
        if getattr(model, "has_potential", True):
            velocity = -jax.vmap(jax.grad(one_potential), (0, None))(x - origin, t)
        if energy.has_circulation:
            velocity += jax.vmap(lambda p: model.circulation(params, constants, p))(x - origin)
        return velocity

    def together(x: Array, population: Array, t: Array) -> Array:
        slope = jax.grad(lambda z: model.interaction(params, constants, z))
        pull = jax.vmap(lambda p: jax.vmap(slope)(p - population).mean(axis=0))(x)
        return alone(x, t) - pull

    points, others = _particles(d)
    t = jax.ShapeDtypeStruct((), jnp.float32)
    # JAX does not differentiate products of monomials at a free number of points.
    smooth = not isinstance(model, LinearEnergy)
    if model.has_interaction:
        programs = {"drift": _program(together, (points, others, t), derivative=smooth)}
    else:
        programs = {"drift": _program(alone, (points, t), derivative=smooth)}
    if getattr(model, "has_potential", True):
        programs["potential"] = _program(potential, (points, t), derivative=smooth)
    return programs


def network_program(
    module: nn.Module, params: Params, *, n: int | None = None, image: Sequence[int] | None = None
) -> Program:
    """A denoising network: what it returns of noised data and a time, for any number of them.

    What that is (a noise, a clean image, a correction of a Gaussian's) is told beside the network.

    Args:
        module: one of the architectures of this project.
        params: its parameters.
        n: dimension of the matrices, of a message-passing network.
        image: height and width, of a network of images.

    Raises:
        ImportError: the extra `exchange` is missing.
        ValueError: the module is another, or `n` or `image` is missing.
    """
    (b,) = export.symbolic_shape("n")
    kind = type(module).__name__
    times = jax.ShapeDtypeStruct((b,), jnp.float32)
    if isinstance(module, UNet | AttentionUNet):
        if image is None or len(image) != 2:
            raise ValueError(f"a {kind} needs the height and width of its images: --image-size")
        channels = _channels_in(module, params)
        shapes = [jax.ShapeDtypeStruct((b, *image, channels), jnp.float32), times]
        if isinstance(module, UNet) and module.n_classes:
            shapes.append(jax.ShapeDtypeStruct((b,), jnp.int32))
    elif image is not None:
        raise ValueError(f"a {kind} has no images: leave --image-size out")
    elif isinstance(module, DenoisingMLP):
        d = params["params"][f"Dense_{module.n_layers + 1}"]["kernel"].shape[-1]
        shapes = [jax.ShapeDtypeStruct((b, d), jnp.float32), times]
    elif isinstance(module, MessagePassingDenoiser):
        if n is None:
            raise ValueError(f"a {kind} needs the dimension n of its matrices")
        shapes = [
            jax.ShapeDtypeStruct((b, n, n), jnp.float32),
            times,
            jax.ShapeDtypeStruct((b, n), jnp.float32),
        ]
    else:
        raise ValueError(f"how a {kind} is called is not known: use jax.export on its own")

    def predicted(*inputs: Array) -> Array:
        return cast(Array, module.apply(params, *inputs))

    def one_by_one(*inputs: Array) -> Array:
        return jax.lax.map(lambda own: predicted(*(x[None] for x in own))[0], inputs)

    # Its messages are summed in blocks, whose number must be known.
    together = not isinstance(module, MessagePassingDenoiser)
    return _program(predicted if together else one_by_one, shapes)


def _channels_in(module: UNet | AttentionUNet, params: Params) -> int:
    if isinstance(module, UNet):
        return params["params"]["conv_in"]["kernel"].shape[2]
    return params["params"]["Dense_0"]["bias"].shape[-1]


def _particles(d: int) -> list[jax.ShapeDtypeStruct]:
    n, m = export.symbolic_shape("n, m")
    return [jax.ShapeDtypeStruct((size, d), jnp.float32) for size in (n, m)]


def _program(
    function: Callable[..., Array], shapes: Sequence[Any], *, derivative: bool = True
) -> Program:
    import_extra("flatbuffers", "an exported program")
    made = export.export(jax.jit(function), platforms=PLATFORMS)(*shapes)
    return Program(
        content=bytes(made.serialize(vjp_order=int(derivative))),
        inputs=", ".join(map(_text, made.in_avals)),
        output=", ".join(map(_text, made.out_avals)),
    )


def _text(array: Any) -> str:
    return f"{array.dtype} ({', '.join(map(str, array.shape))})"
