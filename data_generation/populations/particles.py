r"""Simulated populations, by the Euler-Maruyama scheme.

    dX = -grad V(X) dt - (grad U * mu_t)(X) dt + sqrt(2 beta) dW,   X_0 uniform on [-4, 4]^d    (1)
    x <- x - h [grad V(x) + (grad U * mu)(x)] + sqrt(2 beta h) xi,  h = dt / substeps           (2)

mu is the whole population at the same time, each particle itself included, and grad U is taken at
the difference x - y as it stands: for a U that is not even this is not the gradient of the double
integral of U, whose symmetrised form is.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from data_generation.populations.functionals import functional
from diffusions.arguments import checked
from diffusions.keys import named_key
from diffusions.typing import Array, Float, Int, Key
from jkonet_star.energies.interactions import interaction_drift

INITIAL_HALF_WIDTH = 4.0
_MAX_PAIRS = 2**22  # of particles at once in the interaction, so that memory stays bounded


def drift(x: Float[Array, "n d"], *, potential: str, interaction: str) -> Float[Array, "n d"]:
    """-grad V(x) - (grad U * mu)(x), mu being the population x itself."""
    v, u = functional(potential), functional(interaction)
    total = jnp.zeros_like(x)
    if v is not None:
        total -= jax.vmap(jax.grad(v))(x)
    if u is not None:
        n = x.shape[0]
        weights = jnp.full(n, 1.0 / n, x.dtype)
        block_size = min(256, max(1, _MAX_PAIRS // n))
        total -= interaction_drift(jax.grad(u), x, x, weights, block_size=block_size)
    return total


@functools.partial(
    jax.jit,
    static_argnames=(
        "potential", "interaction", "n_particles", "dimension", "n_timesteps", "noisy", "unpaired"
    ),
)  # fmt: skip
def _populations(
    key: Key,
    h: Float[Array, ""],
    beta: Float[Array, ""],
    substeps: Int[Array, ""],
    *,
    potential: str,
    interaction: str,
    n_particles: int,
    dimension: int,
    n_timesteps: int,
    noisy: bool,
    unpaired: bool,
) -> Float[Array, "t n d"]:
    shape = (n_particles, dimension)

    def start(key):
        return jax.random.uniform(
            named_key(key, "initial"),
            shape,
            jnp.float32,
            minval=-INITIAL_HALF_WIDTH,
            maxval=INITIAL_HALF_WIDTH,
        )

    def advance(key, x, first, last):
        """Equation (2), for the steps first, ..., last - 1."""
        noise_key = named_key(key, "noise")

        def step(i, x):
            moved = x + h * drift(x, potential=potential, interaction=interaction)
            if noisy:
                xi = jax.random.normal(jax.random.fold_in(noise_key, i), shape, x.dtype)
                moved += jnp.sqrt(2 * beta * h) * xi
            return moved

        return jax.lax.fori_loop(first, last, step, x)

    if unpaired:

        def population(k):
            own = jax.random.fold_in(named_key(key, "population"), k)
            return advance(own, start(own), jnp.zeros_like(substeps), k * substeps)

        return jax.lax.map(population, jnp.arange(n_timesteps + 1, dtype=substeps.dtype))

    def snapshot(x, k):
        x = advance(key, x, k * substeps, (k + 1) * substeps)
        return x, x

    first = start(key)
    _, later = jax.lax.scan(snapshot, first, jnp.arange(n_timesteps, dtype=substeps.dtype))
    return jnp.concatenate([first[None], later])


@checked
def simulate(
    key: Key,
    *,
    potential: str,
    interaction: str = "none",
    beta: float = 0.0,
    n_particles: int = 1000,
    dimension: int = 2,
    n_timesteps: int = 5,
    dt: float = 0.01,
    substeps: int = 1,
    unpaired: bool = False,
) -> Float[Array, "t n d"]:
    """Simulates a population, equation (1): snapshots at the times 0, dt, 2 dt and so on.

    Not differentiable: `beta` and `dt` are numbers of the host, and the program runs as many steps
    as it is told, a loop that reverse mode cannot follow.

    Args:
        key: a typed key.
        potential: name of V, or `none`.
        interaction: name of U, or `none`.
        beta: of equation (1).
        n_particles: particles per snapshot.
        dimension: d.
        n_timesteps: steps; there is one snapshot more.
        dt: time between snapshots.
        substeps: Euler-Maruyama steps per dt.
        unpaired: snapshot k is the k-th state of a population of its own, independent of the
            others. Otherwise row i of every snapshot is the same particle.

    Returns:
        (n_timesteps + 1, n_particles, dimension) float32.

    Raises:
        ValueError: an unknown energy, or particles that leave the range of float32.
    """
    functional(potential), functional(interaction)  # names the near misses before any tracing
    snapshots = _populations(
        key,
        jnp.float32(dt / substeps),
        jnp.float32(beta),
        jnp.int32(substeps),
        potential=potential,
        interaction=interaction,
        n_particles=n_particles,
        dimension=dimension,
        n_timesteps=n_timesteps,
        noisy=beta > 0,
        unpaired=unpaired,
    )
    finite = np.asarray(jnp.isfinite(snapshots).all(axis=(1, 2)))
    if not finite.all():
        raise ValueError(
            f"the simulation diverged: potential {potential!r} (interaction {interaction!r}) gives "
            f"non-finite particles at snapshot {int(np.argmin(finite))} with a time step of "
            f"{dt / substeps:g}; take a smaller --dt or more --substeps"
        )
    return snapshots
