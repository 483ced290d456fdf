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

Derivatives. No search is differentiated. (2) says that y and nu are a root, F(y, nu) = 0, and the
implicit function theorem how the root moves with all that F depends on: x, tau, t, the weights and
what V and U close over (as a rule of automatic differentiation: Blondel et al., NeurIPS 2022, arXiv
2105.15183),

    (D + C) dy = -dF,   D = I + tau [hess V(y) + (hess U * nu)(y)],   C dy = (dF / dnu) dy.         (5)

D has a d x d block per particle. Without U it is all there is; with it GMRES solves
(I + D^-1 C) dy = -D^-1 dF, which is near the identity where few passes are enough. Reverse mode
solves the transposed system, (D + C)^T lambda = y', and pulls -lambda back through F at the root.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from diffusions.precision import matmul
from diffusions.typing import Array, Bool, Float

Potential = Callable[[Float[Array, "d"], Float[Array, ""]], Float[Array, ""]]
"""V(x, t)."""

Pull = Callable[[Float[Array, "n d"], Float[Array, "m d"], Float[Array, "m"]], Array]
"""(x, population, weights) -> (grad U * nu)(x), one row per row of x; None where there is no U."""

_Pair = tuple[Float[Array, "n d"], Float[Array, "n d"]]

NEWTON_STEPS = 30
MOST_DAMPING = 1e4
POPULATION_PASSES = 20
TOLERANCE = 1e-4
ROWS_PER_BLOCK = 2**13
"""Whose potentials are differentiated at once: a linear one has all its features at every row."""
# GMRES on (5): vectors of one basis, and how often it may begin again.
KRYLOV_DIMENSION = 20
KRYLOV_RESTARTS = 5


class Step(NamedTuple):
    """Particles after one step, and whether each particle's equation was solved.

    Of an explicit step also both terms of grad E where it began: no other step has them there.
    """

    points: Float[Array, "n d"]
    converged: Bool[Array, "n"]
    slope: Float[Array, "n d"] | None = None  # grad V
    pull: Float[Array, "n d"] | None = None  # grad U * mu; None where there is no U


def potential_gradient(
    potential: Potential, x: Float[Array, "n d"], t: Float[Array, ""]
) -> Float[Array, "n d"]:
    """Grad V(x, t) at each row of x."""
    slope = jax.grad(potential)
    if len(x) <= ROWS_PER_BLOCK:
        return jax.vmap(slope, (0, None))(x, t)
    return jax.lax.map(lambda row: slope(row, t), x, batch_size=ROWS_PER_BLOCK)


def energy_gradient(
    potential: Potential,
    pull: Pull | None,
    x: Float[Array, "n d"],
    t: Float[Array, ""],
    population: Float[Array, "m d"],
    weights: Float[Array, "m"],
) -> Float[Array, "n d"]:
    """Grad E(x; nu) at each row of x."""
    gradient = potential_gradient(potential, x, t)
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
    slope = potential_gradient(potential, x, t)
    pulled = None if pull is None else pull(x, x, weights)
    y = x - tau * (slope if pulled is None else slope + pulled)
    return Step(points=y, converged=jnp.isfinite(y).all(axis=-1), slope=slope, pull=pulled)


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


def _row_blocks(
    linear: Callable[[Float[Array, "n d"]], Float[Array, "n d"]], like: Float[Array, "n d"]
) -> Float[Array, "n d d"]:
    """The matrix of each row, of a linear map that mixes no rows: one product per coordinate."""
    basis = jnp.eye(like.shape[1], dtype=like.dtype)
    return jnp.stack([linear(jnp.broadcast_to(e, like.shape)) for e in basis], axis=-1)


def _solve_rows(linear: Callable[[Array], Array], b: Float[Array, "n d"]) -> Float[Array, "n d"]:
    """Equation (5) without U."""
    return jnp.linalg.solve(_row_blocks(linear, b), b[..., None])[..., 0]


def _solve_population(linear: Callable[[_Pair], _Pair], b: _Pair) -> _Pair:
    """Equation (5), for the particles y and their law nu, of which b[1] is the error of nu = y."""
    zero = jnp.zeros_like(b[0])
    blocks = _row_blocks(lambda v: linear((v, zero))[0], zero)

    def by_blocks(v: Array) -> Array:
        return jnp.linalg.solve(blocks, v[..., None])[..., 0]

    def through_law(v: Array) -> Array:
        return linear((zero, v))[0]

    y = jax.lax.custom_linear_solve(
        lambda v: v + by_blocks(through_law(v)),
        by_blocks(b[0] - through_law(b[1])),
        _krylov,
        _krylov,
    )
    return y, y + b[1]


def _krylov(linear: Callable[[Array], Array], b: Float[Array, "n d"]) -> Float[Array, "n d"]:
    """The root of linear(v) = b by GMRES."""
    # JAX takes a right-hand side below its rounding unit for zero, as small gradients may be.
    size = jnp.linalg.norm(b)
    size = jnp.where(size > 0, size, 1.0)
    v, _ = jax.scipy.sparse.linalg.gmres(
        linear,
        b / size,
        tol=64.0 * jnp.finfo(b.dtype).eps,
        restart=KRYLOV_DIMENSION,
        maxiter=KRYLOV_RESTARTS,
        solve_method="incremental",
    )
    return size * v


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

    Differentiable in both modes, more than once, by equation (5): the derivative of the exact root,
    taken at the points that were found. Newton steps go on to rounding; passes end at the
    tolerance, and so the derivative's relative error with U is of that order (up to 3e-4 measured).
    Where `converged` is false it means nothing. No Newton step and no pass is stored: reverse mode
    needs the memory of an explicit step, with U some KRYLOV_DIMENSION populations more. In time a
    derivative is d + 1 gradients of V per particle; with U also d + 2 rounds of all pairs and one
    per vector of GMRES, at most 100 (300 particles, networks: a gradient costs four predictions).
    """

    def residual(y: Array, population: Array) -> Array:
        return y - x + tau * energy_gradient(potential, pull, y, t, population, weights)

    def solved(y: Array) -> Array:
        norm = jnp.linalg.norm(residual(y, y), axis=-1)
        mean = weights @ x / jnp.sum(weights)
        size = jnp.sqrt(jnp.sum(weights[:, None] * (x - mean) ** 2) / jnp.sum(weights))
        scale = size + jnp.linalg.norm(y - x, axis=-1)
        # NaN compares false, so that a diverged particle is never called converged.
        return norm <= TOLERANCE * scale

    if pull is None:

        def minimise(_: Any, start: Array) -> Array:
            return jax.vmap(lambda a: _proximal_point(lambda p: potential(p, t), a, a, tau))(start)

        y = jax.lax.custom_root(lambda y: residual(y, y), x, minimise, _solve_rows)
        return Step(points=y, converged=solved(y))

    # Row i of the pull depends on row i of its first argument alone.
    stiffness = _row_blocks(lambda v: jax.jvp(lambda p: pull(p, x, weights), (x,), (v,))[1], x)
    stiffness = 0.5 * (stiffness + jnp.swapaxes(stiffness, 1, 2))

    def renew(y: Array) -> Array:
        def one(a: Array, b: Array, force: Array, matrix: Array) -> Array:
            def energy(p: Array) -> Array:
                return (
                    potential(p, t) + matmul(force, p) + 0.5 * matmul(matmul(p - b, matrix), p - b)
                )

            return _proximal_point(energy, a, b, tau)

        return jax.vmap(one)(x, y, pull(y, y, weights), stiffness)

    def unfinished(carry: tuple[Array, Array, Array]) -> Array:
        _, done, count = carry
        return (count < POPULATION_PASSES) & ~done.all()

    def one_pass(carry: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        y = renew(carry[0])
        return y, solved(y), carry[2] + 1

    def make_passes(_: Any, start: _Pair) -> tuple[_Pair, Array]:
        first = (start[0], jnp.zeros(x.shape[0], bool), jnp.zeros((), jnp.int32))
        y, done, _ = jax.lax.while_loop(unfinished, one_pass, first)
        # JAX's rule for a root has no tangent for truth values.
        return (y, y), done.astype(x.dtype)

    # Particles and their law are separate unknowns, so that (5) can tell D from C.
    (y, _), done = jax.lax.custom_root(
        lambda pair: (residual(*pair), pair[1] - pair[0]),
        (x, x),
        make_passes,
        _solve_population,
        has_aux=True,
    )
    return Step(points=y, converged=done > 0)


def midpoint_step(
    potential: Potential,
    pull: Pull | None,
    x: Float[Array, "n d"],
    weights: Float[Array, "n"],
    t: Float[Array, ""],
    tau: Float[Array, ""],
) -> Step:
    """Equation (3); differentiable as `implicit_step` is."""
    middle = implicit_step(potential, pull, x, weights, t, 0.5 * tau)
    return Step(points=2.0 * middle.points - x, converged=middle.converged)


STEPS = {"explicit": explicit_step, "implicit": implicit_step, "midpoint": midpoint_step}


def scheme_time(scheme: str, start: Any, tau: Any) -> Any:
    """The time at which a scheme evaluates a time-varying potential."""
    return start + tau * {"explicit": 0.0, "implicit": 1.0, "midpoint": 0.5}[scheme]
