"""One step of a population down its energy.

With E(p; nu) = V(p, t) + mean_{y' ~ nu} U(p - y'), particles x_i of weight w_i and nu their law,

    explicit   y = x - tau grad E(x; mu),                     mu = law of x                         (1)
    implicit   y = x - tau grad E(y; nu),                     nu = law of y                         (2)
    midpoint   y = x - tau grad E((x + y)/2; law of (x + y)/2)                                      (3)

(2) is the first-order condition of the proximal problem min_y E(y) + |y - x|^2 / (2 tau), minimised
per particle by damped Newton steps. The pull of the population enters them linearised about the last
population y' (each pass costs one round of all pairs, however many Newton steps follow),

    y - x + tau [grad V(y) + (grad U * nu')(y') + (hess U * mu)(x) (y - y')] = 0,                   (4)

and passes are made until (2) holds for all. (3) is (2) with tau/2 followed by y = 2 m - x.
Noise, where beta > 0, is added after the step: sqrt(2 beta tau) xi.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from diffusions.typing import Array, Bool, Float

Potential = Callable[[Float[Array, "d"], Float[Array, ""]], Float[Array, ""]]
"""V(x, t)."""

Pull = Callable[[Float[Array, "n d"], Float[Array, "m d"], Float[Array, "m"]], Array]
"""(x, population, weights) -> (grad U * nu)(x), one row per row of x; None where there is no U."""

NEWTON_STEPS = 30
MOST_DAMPING = 1e4
POPULATION_PASSES = 20
TOLERANCE = 1e-4


class Step(NamedTuple):
    """Particles after one step, and whether each particle's equation was solved."""

    points: Float[Array, "n d"]
    converged: Bool[Array, "n"]


def energy_gradient(
    potential: Potential,
    pull: Pull | None,
    x: Float[Array, "n d"],
    t: Float[Array, ""],
    population: Float[Array, "m d"],
    weights: Float[Array, "m"],
) -> Float[Array, "n d"]:
    """Grad E(x; nu) at each row of x."""
    gradient = jax.vmap(jax.grad(potential), (0, None))(x, t)
    if pull is not None:
        gradient += pull(x, population, weights)
    return gradient


def explicit_step(
    potential: Potential,
    pull: Pull | None,
    x: Float[Array, "n d"],
    weights: Float[Array, "n"],
    t: Float[Array, ""],
    tau: Float[Array, ""],
) -> Step:
    """Equation (1)."""
    y = x - tau * energy_gradient(potential, pull, x, t, x, weights)
    return Step(points=y, converged=jnp.isfinite(y).all(axis=-1))


def _proximal_point(
    energy: Callable[[Float[Array, "d"]], Float[Array, ""]],
    x: Float[Array, "d"],
    start: Float[Array, "d"],
    tau: Float[Array, ""],
) -> Float[Array, "d"]:
    """A minimiser of tau energy(y) + |y - x|^2 / 2 by damped Newton steps from `start`."""

    def objective(y: Array) -> Array:
        return tau * energy(y) + 0.5 * jnp.sum((y - x) ** 2)

    gradient, hessian = jax.grad(objective), jax.hessian(objective)
    rounding = 64.0 * jnp.finfo(x.dtype).eps

    def unfinished(carry: tuple[Array, Array, Array, Array]) -> Array:
        _, _, count, done = carry
        return (count < NEWTON_STEPS) & ~done

    def improve(carry: tuple[Array, Array, Array, Array]) -> tuple[Array, Array, Array, Array]:
        y, damping, count, _ = carry
        slope, matrix = gradient(y), hessian(y)
        # A shift that keeps the matrix positive definite turns the step into a descent direction.
        shift = jnp.maximum(damping, 0.1 - jnp.linalg.eigvalsh(matrix)[0])
        proposal = y - jnp.linalg.solve(matrix + shift * jnp.eye(x.shape[0]), slope)
        before, after = objective(y), objective(proposal)
        # Near the minimum the objective is flat to rounding; there the slope decides.
        level = after <= before + rounding * (jnp.abs(before) + jnp.abs(tau * energy(y)))
        flatter = jnp.sum(gradient(proposal) ** 2) < jnp.sum(slope**2)
        better = (after < before) | (level & flatter)
        small = jnp.sum((proposal - y) ** 2) <= (rounding**2) * jnp.sum(y**2)
        return (
            jnp.where(better, proposal, y),
            jnp.where(better, 0.25 * damping, jnp.maximum(4.0 * damping, 0.25)),
            count + 1,
            # A step at rounding, or a refused one however short, ends the search.
            small | (~better & (damping > MOST_DAMPING)),
        )

    zero = jnp.zeros((), x.dtype)
    start_state = (start, zero, jnp.zeros((), jnp.int32), jnp.zeros((), bool))
    return jax.lax.while_loop(unfinished, improve, start_state)[0]


def implicit_step(
    potential: Potential,
    pull: Pull | None,
    x: Float[Array, "n d"],
    weights: Float[Array, "n"],
    t: Float[Array, ""],
    tau: Float[Array, ""],
) -> Step:
    """Equation (2); `converged` is false where its residual stays above the tolerance.

    The tolerance is relative to the population's spread plus the displacement.
    """

    def residual(y: Array) -> Array:
        return y - x + tau * energy_gradient(potential, pull, y, t, y, weights)

    def solved(y: Array) -> Array:
        norm = jnp.linalg.norm(residual(y), axis=-1)
        mean = weights @ x / jnp.sum(weights)
        size = jnp.sqrt(jnp.sum(weights[:, None] * (x - mean) ** 2) / jnp.sum(weights))
        scale = size + jnp.linalg.norm(y - x, axis=-1)
        # NaN compares false, so that a diverged particle is never called converged.
        return norm <= TOLERANCE * scale

    if pull is None:
        y = jax.vmap(lambda a: _proximal_point(lambda p: potential(p, t), a, a, tau))(x)
        return Step(points=y, converged=solved(y))

    # Row i of the pull depends on row i of its first argument alone: one product per coordinate
    # gives every particle's Hessian. Where the step starts is near enough for all passes.
    columns = [
        jax.jvp(lambda p: pull(p, x, weights), (x,), (jnp.broadcast_to(e, x.shape),))[1]
        for e in jnp.eye(x.shape[1], dtype=x.dtype)
    ]
    stiffness = jnp.stack(columns, axis=-1)
    stiffness = 0.5 * (stiffness + jnp.swapaxes(stiffness, 1, 2))

    def renew(y: Array) -> Array:
        def one(a: Array, b: Array, force: Array, matrix: Array) -> Array:
            def energy(p: Array) -> Array:
                return potential(p, t) + force @ p + 0.5 * (p - b) @ matrix @ (p - b)

            return _proximal_point(energy, a, b, tau)

        return jax.vmap(one)(x, y, pull(y, y, weights), stiffness)

    def unfinished(carry: tuple[Array, Array, Array]) -> Array:
        _, done, count = carry
        return (count < POPULATION_PASSES) & ~done.all()

    def one_pass(carry: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        y = renew(carry[0])
        return y, solved(y), carry[2] + 1

    start = (x, jnp.zeros(x.shape[0], bool), jnp.zeros((), jnp.int32))
    y, done, _ = jax.lax.while_loop(unfinished, one_pass, start)
    return Step(points=y, converged=done)


def midpoint_step(
    potential: Potential,
    pull: Pull | None,
    x: Float[Array, "n d"],
    weights: Float[Array, "n"],
    t: Float[Array, ""],
    tau: Float[Array, ""],
) -> Step:
    """Equation (3)."""
    middle = implicit_step(potential, pull, x, weights, t, 0.5 * tau)
    return Step(points=2.0 * middle.points - x, converged=middle.converged)


STEPS = {"explicit": explicit_step, "implicit": implicit_step, "midpoint": midpoint_step}


def scheme_time(scheme: str, start: Any, tau: Any) -> Any:
    """The time at which a scheme evaluates a time-varying potential."""
    return start + tau * {"explicit": 0.0, "implicit": 1.0, "midpoint": 0.5}[scheme]
