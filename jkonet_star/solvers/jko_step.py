"""The JKO step as a problem for a map, and its derivative by the potential.

In normalised coordinates u = (x - c) / l, with r_k = s tau_k / l the typical displacement (`energies`),
the step k from particles u is a map T of parameters theta,

    phi(y) = (1/r^2) E_i [tau V(y_i) / l^2 + |y_i - u_i|^2 / 2],                                     (1)
    theta* = argmin L(theta, V),  L = phi(T(u)) + penalty(theta) + g M(u, T(u)) / r^2,               (2)

with M the Monge gap E|T(u) - u|^2 - W(u, T(u)) (Uscidda and Cuturi, ICML 2023).

(2) is solved by Adam. Its solution is differentiated through these steps (unrolled), or by its
optimality, grad_theta L = 0 (implicit): for S of T(u), with J the Jacobian of T and h = grad_theta S,

    dS/dV = -(d/dV) <grad phi(y), J v>,   (J' (hess phi) J + lambda I) v = h.                        (3)

The matrix of (3) is the Hessian of L without the curvature of T, which vanishes with the residual
grad phi where the map attains the optimum of every particle, that is, the JKO step itself, and which
elsewhere makes the matrix indefinite. It is solved by conjugate gradients. The plan of M is held
fixed: its quadratic terms cancel, and M drops out of (3). Unrolling differentiates everything, but
the derivative of Adam, which divides by the gradient's own size, grows along the way: after a hundred
steps it is rounding.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from ott.geometry import pointcloud
from ott.solvers import linear

from diffusions.typing import Array, Float, Params, PyTree
from jkonet_star.energies.models import Units
from jkonet_star.settings import BilevelSettings
from jkonet_star.solvers.transport_maps import TransportMap


class Step(NamedTuple):
    """What the inner problem is given beside the two networks."""

    points: Float[Array, "n d"]  # u
    weights: Float[Array, "n"]  # sum to 1
    tau: Float[Array, ""]
    units: Units

    @property
    def ratio(self) -> Float[Array, ""]:
        """The typical displacement r."""
        return self.units.speed * self.tau / self.units.length


@dataclasses.dataclass(frozen=True, kw_only=True)
class JKOStep:
    """The inner problem (2) and its derivative.

    Attributes:
        potential: V(params, units, x, t).
        transport_map: T.
        settings: of the inner problem.
        monge_gap: M is a term of (2).
    """

    potential: Callable[[Params, Units, Array, Array], Array]
    transport_map: TransportMap
    settings: BilevelSettings
    monge_gap: bool = False

    def particle_objective(
        self, energy: Params, y: Float[Array, "n d"], step: Step
    ) -> Float[Array, ""]:
        """Equation (1)."""
        units = step.units

        def potential(point: Array) -> Array:
            x = units.center + units.length * point
            return self.potential(energy, units, x, units.time_start)

        # Of V only differences count: the value at the mean start keeps small numbers small.
        level = potential(jnp.sum(step.weights[:, None] * step.points, axis=0))
        values = step.tau * (jax.vmap(potential)(y) - level) / units.length**2
        distances = 0.5 * jnp.sum((y - step.points) ** 2, axis=-1)
        terms = values + self.settings.transport_weight * distances
        return jnp.sum(step.weights * terms) / step.ratio**2

    def objective(self, params: Params, energy: Params, step: Step) -> Float[Array, ""]:
        """L of equation (2)."""
        y = self.push(params, step)
        value = self.particle_objective(energy, y, step)
        if self.settings.weight_penalty:
            value += self.settings.weight_penalty * self.transport_map.penalty(params)
        if self.monge_gap and self.settings.monge_gap_weight:
            gap = monge_gap(
                step.points,
                y,
                epsilon=jnp.asarray(self.settings.monge_gap_epsilon),
                iterations=self.settings.monge_gap_iterations,
            )
            value += self.settings.monge_gap_weight * gap / step.ratio**2
        return value

    def push(self, params: Params, step: Step) -> Float[Array, "n d"]:
        """T(u)."""
        return self.transport_map.apply(params, step.points, step.ratio)

    def solve(self, start: Params, energy: Params, step: Step) -> Params:
        """theta* of equation (2), by Adam from `start`; differentiable in `energy`."""
        if self.settings.inner_gradient == "unrolled":
            return self._descend(start, energy, step)
        return _implicit(self, start, energy, step)

    def _descend(self, start: Params, energy: Params, step: Step) -> Params:
        settings = self.settings
        optimizer = optax.adam(
            settings.map_learning_rate, b1=settings.map_first_moment, b2=settings.map_second_moment
        )
        slope = jax.grad(self.objective)

        def improve(carry: tuple[Params, PyTree], gradient: Params) -> tuple[Params, PyTree]:
            params, state = carry
            updates, state = optimizer.update(gradient, state)
            return optax.apply_updates(params, updates), state

        carry = (start, optimizer.init(start))
        if settings.inner_tolerance == 0:
            carry, _ = jax.lax.scan(
                lambda c, _: (improve(c, slope(c[0], energy, step)), None),
                carry,
                None,
                length=settings.inner_steps,
            )
            return carry[0]
        first = slope(start, energy, step)
        goal = settings.inner_tolerance * optax.global_norm(first)

        def unfinished(loop: tuple) -> Array:
            _, gradient, count = loop
            # A NaN compares false and ends the loop too.
            return (count < settings.inner_steps) & (optax.global_norm(gradient) > goal)

        def advance(loop: tuple) -> tuple:
            carry, gradient, count = loop
            carry = improve(carry, gradient)
            return carry, slope(carry[0], energy, step), count + 1

        carry, _, _ = jax.lax.while_loop(unfinished, advance, (carry, first, 0))
        return carry[0]

    def pull_back(self, params: Params, energy: Params, step: Step, cotangent: Params) -> Params:
        """Equation (3)."""
        push = functools.partial(self.push, step=step)
        y, forward = jax.linearize(push, params)
        backward = jax.linear_transpose(forward, params)
        _, curvature = jax.linearize(
            jax.grad(lambda p: self.particle_objective(energy, p, step)), y
        )

        def bend(v: Params) -> Params:
            return backward(curvature(forward(v)))[0]

        # Damping is relative to the curvature along the right-hand side.
        size = optax.tree.vdot(cotangent, cotangent)
        along = jnp.abs(optax.tree.vdot(cotangent, bend(cotangent)))
        shift = self.settings.damping * along / jnp.maximum(size, jnp.finfo(jnp.float32).tiny)

        def matrix(v: Params) -> Params:
            return jax.tree.map(lambda a, b: a + shift * b, bend(v), v)

        v, _ = jax.scipy.sparse.linalg.cg(
            matrix, cotangent, maxiter=self.settings.conjugate_gradients
        )
        moved = forward(v)

        def slope_along(energy: Params) -> Array:
            gradient = jax.grad(lambda p: self.particle_objective(energy, p, step))(y)
            return -jnp.sum(gradient * moved)

        return jax.grad(slope_along)(energy)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _implicit(problem: JKOStep, start: Params, energy: Params, step: Step) -> Params:
    return problem._descend(start, energy, step)


def _implicit_forward(problem: JKOStep, start: Params, energy: Params, step: Step) -> tuple:
    params = problem._descend(start, energy, step)
    return params, (params, energy, step)


def _implicit_backward(problem: JKOStep, residuals: tuple, cotangent: Params) -> tuple:
    params, energy, step = residuals
    # The optimum depends neither on where the search starts nor is it differentiated by the data.
    return None, problem.pull_back(params, energy, step, cotangent), None


_implicit.defvjp(_implicit_forward, _implicit_backward)


def monge_gap(
    points: Float[Array, "n d"],
    moved: Float[Array, "n d"],
    *,
    epsilon: Float[Array, ""],
    iterations: int,
) -> Float[Array, ""]:
    """M of equation (2): what moving each point to its own image costs beyond the cheapest way.

    OTT-JAX has it in `ott.neural`, whose import needs Diffrax, and in no other place.

    Args:
        points: u, of equal weight.
        moved: T(u).
        epsilon: of the entropy H of the plan P: W = <P, C> - epsilon H(P).
        iterations: of Sinkhorn; all are carried out, whatever the error.

    Returns:
        M, in squared units of `points`.
    """
    solved = linear.solve(
        pointcloud.PointCloud(points, moved, epsilon=epsilon),  # type: ignore[arg-type]
        min_iterations=iterations,
        max_iterations=iterations,
        inner_iterations=iterations,
    )
    cheapest: Array = solved.ent_reg_cost  # type: ignore[union-attr]
    return jnp.mean(jnp.sum((points - moved) ** 2, axis=-1)) - cheapest
