"""Derivatives of implicit and midpoint steps: both modes, central differences and closed forms."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jkonet_star import dynamics
from jkonet_star.dynamics import STEPS
from jkonet_star.energies.interactions import interaction_drift

pytestmark = pytest.mark.usefixtures("double_precision")

N = 7


def given(seed=0):
    """All that a step depends on; the last particle pulls nobody."""
    generator = np.random.default_rng(seed)
    weights = generator.uniform(0.5, 1.5, N)
    weights[-1] = 0.0
    numbers = {
        "x": generator.normal(size=(N, 2)) + 0.5,
        "weights": weights / weights.sum(),
        "t": 0.3,
        "tau": 0.4,
        "wells": np.array([0.3, 1.0, 0.7]),
        "bond": np.array([0.5, 0.6, 0.2]),
    }
    return jax.tree.map(jnp.asarray, numbers)


def moved(scheme, coupled, numbers):
    """V mixes the coordinates and varies in time; U is not even, so (5) is not symmetric."""

    def potential(x, t):
        a, b, c = numbers["wells"]
        return a * jnp.sum(x**4) + b * jnp.sin(x[0] + 2 * x[1] + t) + c * jnp.sum(x**2)

    def bond(z):
        a, b, c = numbers["bond"]
        return a * jnp.exp(-0.5 * z @ z) + b * z @ z + c * jnp.sin(z[0] - 0.5 * z[1])

    def pull(x, population, weights):
        # Blocks of 3 and 7 particles: the sum is a scan over recomputed blocks.
        return interaction_drift(jax.grad(bond), x, population, weights, block_size=3)

    return STEPS[scheme](
        potential,
        pull if coupled else None,
        *(numbers[name] for name in ("x", "weights", "t", "tau")),
    )


@pytest.fixture
def passes_to_rounding(monkeypatch):
    """Differences show the derivative of the exact root only where passes go on to the end."""
    monkeypatch.setattr(dynamics, "TOLERANCE", 1e-14)
    monkeypatch.setattr(dynamics, "POPULATION_PASSES", 200)


@pytest.mark.parametrize(("scheme", "coupled"), [("implicit", True), ("midpoint", False)])
def test_both_modes_agree_with_differences_in_every_argument(scheme, coupled, passes_to_rounding):
    numbers, direction = given(), given(seed=1)
    others = jax.random.normal(jax.random.key(0), (N, 2))

    def outcome(numbers):
        made = moved(scheme, coupled, numbers)
        return jnp.sum(jnp.sin(2.0 * made.points) * others)

    along = {
        name: {key: d if key == name else jnp.zeros_like(d) for key, d in direction.items()}
        for name in direction
    }
    value = jax.jit(outcome)
    gradient = jax.jit(jax.grad(outcome))(numbers)
    tangents = jax.tree.map(lambda *leaves: jnp.stack(leaves), *along.values())
    forward = jax.jit(jax.vmap(lambda v: jax.jvp(outcome, (numbers,), (v,))[1]))(tangents)
    for i, name in enumerate(along):
        ahead, behind = (
            value(jax.tree.map(lambda a, v, h=h: a + h * v, numbers, along[name]))
            for h in (1e-5, -1e-5)
        )
        expected = (ahead - behind) / 2e-5
        reverse = jnp.vdot(gradient[name], direction[name])
        np.testing.assert_allclose(reverse, expected, rtol=1e-6, atol=1e-9, err_msg=name)
        np.testing.assert_allclose(forward[i], reverse, rtol=1e-10, atol=1e-13, err_msg=name)
        # The test means something: every argument moves the outcome, but U where there is none.
        assert (abs(expected) > 1e-2) == (coupled or name not in ("bond", "weights")), name


A = np.array([[2.0, 0.5], [0.5, -0.3]])
B = np.array([[1.0, -0.4], [-0.4, 0.8]])


def spring_motion(tau, numbers):
    """Particles in V = y A y / 2 that pull each other by U = z B z / 2, after an implicit step."""
    made = STEPS["implicit"](
        lambda y, t: 0.5 * y @ jnp.asarray(A) @ y,
        lambda y, population, weights: (y - weights @ population) @ jnp.asarray(B),
        numbers["x"],
        numbers["weights"],
        numbers["t"],
        tau,
    )
    return made.points


def closed_form_outcome(tau, numbers, others):
    """The mean moves by V alone, what deviates from it by V + U."""
    mean = numbers["weights"] @ numbers["x"]
    motions = jnp.linalg.inv(jnp.eye(2) + tau * A), jnp.linalg.inv(jnp.eye(2) + tau * (A + B))
    return jnp.sum(others * (mean @ motions[0].T + (numbers["x"] - mean) @ motions[1].T))


def test_first_and_second_derivatives_by_the_time_step_have_closed_forms():
    """As near as passes take the points, to 1e-4: many time steps in one program."""
    numbers, others = given(), jax.random.normal(jax.random.key(0), (N, 2))
    taus = jnp.asarray([0.1, 0.3])

    def both(outcome):
        slope = jax.grad(outcome)
        return jax.jit(jax.vmap(lambda tau: jnp.stack([slope(tau), jax.grad(slope)(tau)])))(taus)

    found = both(lambda tau: jnp.sum(others * spring_motion(tau, numbers)))
    expected = both(lambda tau: closed_form_outcome(tau, numbers, others))
    np.testing.assert_allclose(found, expected, rtol=1e-3)


def test_a_gradient_is_linear_in_its_cotangent_however_small():
    """JAX's GMRES ends before it begins where the right-hand side is below the rounding unit."""
    numbers = given()
    _, pull_back = jax.vjp(lambda tau: spring_motion(tau, numbers), jnp.asarray(0.3))
    cotangent = jax.random.normal(jax.random.key(0), (N, 2))
    backward = jax.jit(lambda scale: pull_back(scale * cotangent)[0])
    np.testing.assert_allclose(backward(1e-30), 1e-30 * backward(1.0), rtol=1e-10)
    assert backward(0.0) == 0.0
    assert abs(backward(1.0)) > 0.1


@pytest.mark.parametrize("mode", [jax.jacfwd, jax.jacrev])
def test_a_particle_without_solution_leaves_the_others_their_derivative(mode):
    """V = -sum e^x has a root only where x + 1 + log tau <= 0: then dy/dx = 1 / (1 - tau e^y)."""
    x = jnp.asarray([[-3.0], [800.0]])

    def points(x):
        weights = jnp.full(2, 0.5)
        return STEPS["implicit"](
            lambda y, t: -jnp.sum(jnp.exp(y)), None, x, weights, jnp.zeros(()), jnp.ones(())
        ).points[0, 0]

    slope = jax.jit(mode(points))(x)
    np.testing.assert_allclose(slope[0, 0], 1 / (1 - np.exp(points(x))), rtol=1e-10)
