"""One step of a population: closed forms, and the measured order of each scheme."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jkonet_star.dynamics as module
from jkonet_star.dynamics import STEPS, TOLERANCE, energy_gradient, scheme_time

pytestmark = pytest.mark.usefixtures("double_precision")

A = np.array([[2.0, 0.5], [0.5, -0.3]])
B = np.array([[1.0, -0.4], [-0.4, 0.8]])
IDENTITY = np.eye(2)


def well(x, t):
    return 0.5 * x @ jnp.asarray(A) @ x


def spring(x, population, weights):
    """The pull of U(z) = z^T B z / 2."""
    return (x - weights @ population) @ jnp.asarray(B)


def population(n=30, seed=0):
    generator = np.random.default_rng(seed)
    weights = generator.uniform(0.1, 1.0, n)
    return generator.normal(size=(n, 2)) + 1.5, weights / weights.sum()


jitted = {name: jax.jit(f, static_argnums=(0, 1)) for name, f in STEPS.items()}


def step(scheme, potential, pull, x, weights, tau, t=0.0):
    made = jitted[scheme](
        potential, pull, jnp.asarray(x), jnp.asarray(weights), jnp.asarray(t), jnp.asarray(tau)
    )
    return np.asarray(made.points), np.asarray(made.converged)


def propagator(scheme, matrix, tau):
    """The matrix by which a scheme multiplies where the gradient is linear."""
    if scheme == "explicit":
        return IDENTITY - tau * matrix
    if scheme == "implicit":
        return np.linalg.inv(IDENTITY + tau * matrix)
    half = 0.5 * tau * matrix
    return np.linalg.solve(IDENTITY + half, IDENTITY - half)


@pytest.mark.parametrize("scheme", STEPS)
@pytest.mark.parametrize("tau", [0.01, 0.5, 2.0])
def test_a_quadratic_potential_multiplies_by_its_matrix(scheme, tau):
    x, weights = population()
    y, converged = step(scheme, well, None, x, weights, tau)
    np.testing.assert_allclose(y, x @ propagator(scheme, A, tau).T, rtol=1e-9, atol=1e-10)
    assert converged.all()


@pytest.mark.parametrize("scheme", STEPS)
@pytest.mark.parametrize("tau", [0.01, 0.3])
def test_a_quadratic_interaction_contracts_about_the_mean(scheme, tau):
    """The mean moves by V alone, the deviations by V + U: the weighted mean, not the plain one."""
    x, weights = population()
    y, converged = step(scheme, well, spring, x, weights, tau)
    mean = weights @ x
    expected = mean @ propagator(scheme, A, tau).T
    expected = expected + (x - mean) @ propagator(scheme, A + B, tau).T
    assert converged.all()
    size = np.sqrt((x**2).sum(axis=1).mean())
    np.testing.assert_allclose(y, expected, atol=3 * TOLERANCE * size)
    # The tolerance is far below the motion that is being tested.
    assert np.abs(y - x).max() > (20 if tau < 0.1 else 200) * TOLERANCE * size


def rugged(x, t):
    """Nonlinear, coupled between the coordinates, convex enough for the implicit step."""
    return jnp.sum(0.25 * x**4) + jnp.sin(x[0] + 2 * x[1]) + 0.5 * jnp.sum(x**2)


@functools.partial(jax.jit, static_argnames=("scheme", "n_steps"))
def flow(scheme, x, n_steps, total=0.4):
    weights = jnp.full(len(x), 1.0 / len(x))
    tau = jnp.asarray(total / n_steps)

    def advance(x, _):
        made = STEPS[scheme](rugged, None, x, weights, jnp.zeros(()), tau)
        return made.points, made.converged

    return jax.lax.scan(advance, x, None, length=n_steps)


def reference_flow(x, total=0.4, n_steps=4000):
    """The classical Runge-Kutta scheme, far finer than anything it is compared with."""
    h = total / n_steps
    slope = jax.vmap(lambda p: -jax.grad(rugged)(p, 0.0))

    def advance(_, x):
        k1 = slope(x)
        k2 = slope(x + 0.5 * h * k1)
        k3 = slope(x + 0.5 * h * k2)
        k4 = slope(x + h * k3)
        return x + h / 6 * (k1 + 2 * k2 + 2 * k3 + k4)

    return jax.jit(lambda x: jax.lax.fori_loop(0, n_steps, advance, x))(x)


@pytest.mark.parametrize(("scheme", "order"), [("explicit", 1), ("implicit", 1), ("midpoint", 2)])
def test_the_order_of_a_scheme(scheme, order):
    x = jnp.asarray(population(10)[0])
    exact = reference_flow(x)
    errors = []
    for n_steps in (16, 32, 64):
        (y, converged) = flow(scheme, x, n_steps)
        assert np.asarray(converged).all()
        errors.append(float(jnp.sqrt(jnp.mean((y - exact) ** 2))))
    orders = np.log2(np.array(errors[:-1]) / errors[1:])
    np.testing.assert_allclose(orders, order, atol=0.15)


@pytest.mark.parametrize("rows", [1, 7, 30])
def test_many_rows_are_moved_in_blocks(rows, monkeypatch):
    """A last block that is not full, full ones only, one row at a time: the same gradients."""
    x, weights = population()
    at = (jnp.asarray(x), jnp.asarray(0.3), jnp.asarray(x), jnp.asarray(weights))
    expected = energy_gradient(well, spring, *at)
    monkeypatch.setattr(module, "ROWS_PER_BLOCK", rows)
    np.testing.assert_allclose(energy_gradient(well, spring, *at), expected, rtol=1e-14)
    largest = jax.make_jaxpr(lambda x: energy_gradient(well, None, x, *at[1:]))(at[0])
    assert ("scan" in str(largest)) == (rows < len(x))


def test_explicit_and_implicit_meet_as_the_step_shrinks():
    """Their difference is of second order: a quarter for half the step."""
    x, weights = population()
    gaps = []
    for tau in (4e-4, 2e-4):
        explicit, _ = step("explicit", rugged, None, x, weights, tau)
        implicit, converged = step("implicit", rugged, None, x, weights, tau)
        assert converged.all()
        gaps.append(np.abs(explicit - implicit).max())
    assert gaps[0] / gaps[1] == pytest.approx(4.0, rel=0.03)
    assert gaps[0] > 1e-8


@pytest.mark.parametrize("scheme", ["implicit", "midpoint"])
def test_a_step_without_solution_is_reported(scheme):
    """y = x + tau e^y has a solution only where x + 1 + log tau <= 0."""

    def cliff(x, t):
        return -jnp.sum(jnp.exp(x))

    x = np.array([[-6.0], [-3.0], [1.0], [4.0]])
    _, converged = step(scheme, cliff, None, x, np.full(4, 0.25), 1.0)
    assert converged.tolist() == [True, True, False, False]


def test_an_explicit_step_that_overflows_is_reported():
    def steep(x, t):
        return jnp.sum(jnp.exp(jnp.exp(x)))

    _, converged = step("explicit", steep, None, np.array([[0.0], [50.0]]), np.full(2, 0.5), 1.0)
    assert converged.tolist() == [True, False]


def test_a_nonconvex_step_descends_to_a_minimum():
    """A double well with tau |V''| > 1 between its wells, where Newton's method alone would stall."""

    def double_well(x, t):
        return jnp.sum(0.25 * x**4 - 2.0 * x**2)

    x, weights = np.linspace(-3, 3, 13)[:, None], np.full(13, 1 / 13)
    y, converged = step("implicit", double_well, None, x, weights, 0.5)
    residual = y - x + 0.5 * (y**3 - 4 * y)
    size = np.sqrt((x**2).mean()) + np.abs(y - x)
    np.testing.assert_array_equal(converged, (np.abs(residual) <= TOLERANCE * size)[:, 0])
    assert converged.all()
    objective = 0.5 * (0.25 * y**4 - 2 * y**2) + 0.5 * (y - x) ** 2
    start = 0.5 * (0.25 * x**4 - 2 * x**2)
    assert (objective <= start + 1e-12).all()


@pytest.mark.parametrize(
    ("scheme", "expected"),
    [("explicit", 2.0), ("implicit", 2.5), ("midpoint", 2.25)],
)
def test_where_in_a_step_the_time_is_read(scheme, expected):
    assert float(scheme_time(scheme, jnp.asarray(2.0), jnp.asarray(0.5))) == expected


def test_the_steps_can_be_differentiated_and_batched():
    """Derivative of the implicit step by its time step, against the closed form."""
    x, weights = population(4)

    def moved(tau):
        made = STEPS["implicit"](
            well, None, jnp.asarray(x), jnp.asarray(weights), jnp.zeros(()), tau
        )
        return made.points

    tau = 0.3
    inverse = propagator("implicit", A, tau)
    expected = -(x @ (inverse @ A @ inverse).T)
    np.testing.assert_allclose(jax.jit(jax.jacfwd(moved))(jnp.asarray(tau)), expected, rtol=1e-6)
    batch = jax.jit(jax.vmap(moved))(jnp.asarray([0.1, 0.3]))
    np.testing.assert_allclose(batch[1], moved(jnp.asarray(0.3)), rtol=1e-12)
