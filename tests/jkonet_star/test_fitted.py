"""What a fitted energy predicts, with energies that are known."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jkonet_star.fitted import FittedEnergy

KEY = jax.random.key(0)
TIMES = np.array([0.0, 0.1, 0.3, 0.6], np.float32)
STIFFNESS = np.array([2.0, 0.5], np.float32)


@dataclasses.dataclass(frozen=True)
class Known:
    """V = sum_k stiffness_k x_k^2 / 2 - speed t x_1, U = pull |z|^2 / 2, and beta."""

    has_interaction: bool = False
    internal: str = "given"
    dimension: int = 2

    def potential(self, params, constants, x, t):
        return 0.5 * jnp.sum(params["stiffness"] * x**2) - params["speed"] * t * x[0]

    def interaction(self, params, constants, z):
        return 0.5 * params["pull"] * jnp.sum(z**2)

    def pull(self, params, constants, x, population, weights):
        return params["pull"] * (x - weights @ population)

    def beta(self, params, constants):
        return params["beta"]


def energy(scheme="explicit", *, beta=0.0, speed=0.0, pull=0.0, stiffness=STIFFNESS):
    params = {"stiffness": stiffness, "speed": speed, "pull": pull, "beta": beta}
    return FittedEnergy(
        model=Known(has_interaction=bool(pull)),
        scheme=scheme,
        params=jax.tree.map(jnp.float32, params),
        constants={},
        times=jnp.asarray(TIMES),
    )


def points(n=50, seed=0):
    return jax.random.normal(jax.random.key(seed), (n, 2)) + 0.5


def factor(scheme, tau, stiffness=STIFFNESS):
    return {
        "explicit": 1 - tau * stiffness,
        "implicit": 1 / (1 + tau * stiffness),
        "midpoint": (1 - tau * stiffness / 2) / (1 + tau * stiffness / 2),
    }[scheme]


def test_an_explicit_prediction_is_the_drift_times_tau():
    fitted, x = energy(pull=0.7), points()
    path = fitted.predict(x, 3)
    np.testing.assert_array_equal(path[0], x)
    for k, tau in enumerate(np.diff(TIMES)):
        np.testing.assert_allclose(
            path[k + 1], path[k] + tau * fitted.drift(path[k]), rtol=1e-5, atol=1e-6
        )


def test_the_drift_is_minus_both_gradients():
    fitted, x, y = energy(pull=0.7, speed=3.0), points(), points(20, seed=1)
    weights = jnp.linspace(1, 2, 20) / 30.0
    found = fitted.drift(x, y, weights=weights, t=0.3)
    expected = -STIFFNESS * x + jnp.asarray([0.9, 0.0]) - 0.7 * (x - weights @ y)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)
    uniform = fitted.drift(x, y)
    np.testing.assert_allclose(
        uniform, -STIFFNESS * x - 0.7 * (x - y.mean(axis=0)), rtol=1e-5, atol=1e-5
    )


@pytest.mark.parametrize("scheme", ["explicit", "implicit", "midpoint"])
def test_a_prediction_uses_the_scheme_and_the_times_of_the_fit(scheme):
    x = points()
    path, converged = energy(scheme).trajectory(x, 3)
    assert converged.shape == (3, 50)
    assert np.asarray(converged).all()
    expected = x
    for k, tau in enumerate(np.diff(TIMES)):
        expected = expected * factor(scheme, tau)
        np.testing.assert_allclose(path[k + 1], expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("scheme", ["explicit", "implicit", "midpoint"])
def test_where_a_prediction_starts_and_how_it_goes_on(scheme):
    """From snapshot 2 on: the last step's length beyond the last snapshot; or a dt of one's own."""
    fitted, x = energy(scheme), points()
    path = fitted.predict(x, 3, start=1)
    expected = x
    for tau in (0.2, 0.3, 0.3):
        expected = expected * factor(scheme, tau)
    np.testing.assert_allclose(path[3], expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(
        fitted.predict(x, 2, dt=0.05)[2], x * factor(scheme, 0.05) ** 2, rtol=1e-4, atol=1e-5
    )


@pytest.mark.parametrize(
    ("scheme", "times"),
    [
        ("explicit", [0.1, 0.3, 0.6, 0.9]),
        ("implicit", [0.3, 0.6, 0.9, 1.2]),
        ("midpoint", [0.2, 0.45, 0.75, 1.05]),
    ],
)
def test_a_time_varying_potential_is_read_at_the_schemes_times(scheme, times):
    """V = -5 t x_1 moves every particle by 5 t tau, also beyond the last snapshot."""
    fitted, x = energy(scheme, speed=5.0, stiffness=np.zeros(2, np.float32)), points()
    path = fitted.predict(x, 4, start=1)
    taus = [0.2, 0.3, 0.3, 0.3]
    moved = np.cumsum([5 * t * tau for t, tau in zip(times, taus, strict=True)])
    np.testing.assert_allclose(path[1:, :, 0] - x[:, 0], moved[:, None] * np.ones(50), rtol=1e-3)
    np.testing.assert_allclose(path[1:, :, 1], np.tile(x[:, 1], (4, 1)), atol=1e-6)


def test_weights_enter_the_interaction():
    fitted, x = energy(pull=0.7), points()
    weights = jnp.linspace(1, 5, 50)
    weights = weights / weights.sum()
    path = fitted.predict(x, 1, weights=weights)
    np.testing.assert_allclose(
        path[1], x + 0.1 * fitted.drift(x, weights=weights), rtol=1e-5, atol=1e-6
    )
    assert np.abs(path[1] - fitted.predict(x, 1)[1]).max() > 1e-3


def test_noise_has_variance_two_beta_tau_and_is_independent():
    n, beta = 20_000, 0.3
    fitted, x = energy(beta=beta, stiffness=np.zeros(2, np.float32)), points(20_000)
    assert float(fitted.beta) == pytest.approx(beta)
    path = np.asarray(fitted.predict(x, 3, key=KEY))
    noise = np.diff(path, axis=0)
    expected = 2 * beta * np.diff(TIMES)[:, None] * np.ones(2)
    np.testing.assert_allclose(noise.var(axis=1), expected, rtol=5 * np.sqrt(2 / n))
    assert (np.abs(noise.mean(axis=1)) < 5 * np.sqrt(expected / n)).all()
    columns = np.concatenate([*noise, np.asarray(x)], axis=1)
    assert np.abs(np.corrcoef(columns.T) - np.eye(8)).max() < 5 / np.sqrt(n)


def test_keys_decide_the_noise_and_nothing_else_does(optimised):
    """Paths of one and of two steps have the same bits, where all optimisations are made."""
    fitted, x = energy(beta=0.3), points()
    first = fitted.predict(x, 2, key=KEY)
    np.testing.assert_array_equal(first, fitted.predict(x, 2, key=jax.random.key(0)))
    np.testing.assert_array_equal(first[:2], fitted.predict(x, 1, key=KEY))
    assert np.abs(first[1:] - fitted.predict(x, 2, key=jax.random.key(1))[1:]).min() > 0
    silent = energy(beta=0.0).predict(x, 2)
    np.testing.assert_array_equal(fitted.predict(x, 2), silent)


@pytest.mark.parametrize("scheme", ["implicit", "midpoint"])
def test_a_prediction_is_differentiated_by_parameters_points_and_time_step(scheme):
    """Two steps of a quadratic V; also with a key, though noise of strength zero has no slope."""
    fitted, x, goal = energy(scheme), points(), points(seed=1)

    def predicted(stiffness, x, dt):
        changed = fitted.replace(params={**fitted.params, "stiffness": stiffness})
        return jnp.mean(changed.predict(x, 2, dt=dt, key=KEY)[-1] * goal)

    def closed_form(stiffness, x, dt):
        return jnp.mean(x * factor(scheme, dt, stiffness) ** 2 * goal)

    arguments = (jnp.asarray(STIFFNESS), x, 0.2)
    found = jax.grad(predicted, argnums=(0, 1, 2))(*arguments)
    expected = jax.grad(closed_form, argnums=(0, 1, 2))(*arguments)
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)


def test_a_gradient_is_taken_where_points_lie_on_the_host_far_from_zero():
    fitted = energy("implicit").replace(origin=jnp.asarray([1e6, -1e6]))
    x = np.asarray(points(), np.float64) + [1e6, -1e6]

    def end(stiffness):
        changed = fitted.replace(params={**fitted.params, "stiffness": stiffness})
        return jnp.sum(changed.predict(x, 1)[-1], axis=0)

    slope = jax.jacrev(end)(jnp.asarray(STIFFNESS))
    expected = -0.1 * np.sum(x - [1e6, -1e6], axis=0) * factor("implicit", 0.1) ** 2
    np.testing.assert_allclose(slope, np.diag(expected), rtol=1e-4)


def test_energies_in_a_stack_predict_like_themselves():
    fits = [energy("implicit", pull=p, speed=s) for p, s in ((0.5, 1.0), (1.5, 0.0))]
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *fits)
    x = points()
    paths = jax.vmap(lambda fitted: fitted.predict(x, 2))(stacked)
    for fitted, path in zip(fits, paths, strict=True):
        np.testing.assert_allclose(path, fitted.predict(x, 2), rtol=1e-4, atol=1e-5)


def test_an_unsolved_step_is_flagged():
    """An inverted potential with tau |V''| > 1: midpoint and implicit steps may have no minimum."""

    @dataclasses.dataclass(frozen=True)
    class Cliff(Known):
        def potential(self, params, constants, x, t):
            return -jnp.sum(jnp.exp(x))

    fitted = energy("implicit").replace(model=Cliff())
    _, converged = fitted.trajectory(jnp.asarray([[-5.0, -5.0], [5.0, 5.0]]), 1, dt=1.0)
    assert converged.tolist() == [[True, False]]


def test_potential_and_interaction_of_many_points():
    fitted = energy(pull=0.7, speed=2.0)
    x = points(6).reshape(2, 3, 2)
    expected = 0.5 * (STIFFNESS * x**2).sum(axis=-1)
    np.testing.assert_allclose(fitted.potential(x), expected, rtol=1e-5)
    np.testing.assert_allclose(
        fitted.potential(x, 0.3), expected - 0.6 * x[..., 0], rtol=1e-4, atol=1e-5
    )
    np.testing.assert_allclose(fitted.interaction(x), 0.35 * (x**2).sum(axis=-1), rtol=1e-5)
    np.testing.assert_allclose(fitted.potential(x[0, 0]), expected[0, 0], rtol=1e-5)


def test_a_stack_has_members_and_is_no_energy():
    one, two, x = energy(pull=0.7), energy(pull=0.2, speed=1.0), points()
    stack = jax.tree.map(lambda *leaves: jnp.stack(leaves), one, two)
    stack = stack.replace(model=one.model)
    np.testing.assert_array_equal(stack.member(1).predict(x, 2), two.predict(x, 2))
    np.testing.assert_array_equal(stack.member(-2).potential(x), one.potential(x))
    for call in (stack.potential, stack.interaction, stack.drift, stack.predict):
        with pytest.raises(ValueError, match=r"stack of 2 energies: take one with member"):
            call(x)
    with pytest.raises(ValueError, match="no member 2 in a stack of 2"):
        stack.member(2)
    with pytest.raises(ValueError, match="single energy"):
        one.member(0)
    together = jax.vmap(lambda energy: energy.drift(x))(stack)
    np.testing.assert_allclose(together[0], one.drift(x), rtol=1e-5)


def test_lists_and_numpy_arrays_are_points():
    fitted, x = energy(pull=0.7, speed=1.0), points(4)
    weights = [0.1, 0.2, 0.3, 0.4]
    for given in (x.tolist(), np.asarray(x), np.asarray(x, np.float64)):
        np.testing.assert_allclose(fitted.potential(given), fitted.potential(x), rtol=1e-6)
        np.testing.assert_allclose(fitted.interaction(given), fitted.interaction(x), rtol=1e-6)
        for one, two in (
            (fitted.drift(given, given, weights=weights), fitted.drift(x, weights=weights)),
            (fitted.predict(given, 2, weights=weights), fitted.predict(x, 2, weights=weights)),
            (fitted.trajectory(given, 1).points, fitted.trajectory(x, 1).points),
        ):
            np.testing.assert_allclose(one, two, rtol=1e-5, atol=1e-6)


def test_integers_are_points():
    np.testing.assert_allclose(energy().potential([[1, 2]]), [0.5 * (2.0 + 0.5 * 4)], rtol=1e-6)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda e: e.potential(np.zeros((5, 3))), r"x must be .* with d = 2, got"),
        (lambda e: e.interaction(np.zeros(3)), r"z must be .* with d = 2, got"),
        (lambda e: e.potential(0.5), r"x must be of shape \[\*batch, d\] with d = 2"),
        (lambda e: e.potential(np.zeros((5, 2)), [0.1, 0.2]), r"t must be of shape \[\]"),
        (lambda e: e.drift(np.zeros((5, 3))), r"x must be of shape \[n, d\] with d = 2, got"),
        (lambda e: e.drift(np.zeros(2)), r"x must be of shape \[n, d\] with d = 2, got"),
        (lambda e: e.drift(np.zeros((5, 2)), np.zeros((5, 3))), "population must be of shape"),
        (lambda e: e.drift(np.zeros((5, 2)), np.zeros((4, 2)), weights=np.ones(5)), "weights must"),
        (lambda e: e.predict(np.zeros((5, 3))), r"points must be of shape \[n, d\] with d = 2"),
        (lambda e: e.predict(np.zeros((1, 5, 2))), r"points must be of shape \[n, d\] with d = 2"),
        (lambda e: e.predict(np.zeros((5, 2)), weights=np.ones(4)), r"weights must .* with n = 5"),
        (lambda e: e.predict(np.zeros((5, 2)), key=[1, 2]), "key must be a key such as"),
        (
            lambda e: e.predict(np.zeros((5, 2)), -1),
            r"steps must be a number of steps from 0 to 2147483647, got -1",
        ),
        (lambda e: e.predict(np.zeros((5, 2)), 10**10), "steps must be .* got 10000000000"),
        (lambda e: e.trajectory(np.zeros((5, 2)), 2 * 10**9), "not enough memory: a path of 2000"),
        (lambda e: e.drift(np.zeros((0, 2))), r"x must have at least one row, got shape \(0, 2\)"),
        (
            lambda e: e.drift(np.zeros((1, 2)), np.zeros((0, 2))),
            "population must have at least one",
        ),
        (lambda e: e.predict(np.zeros((0, 2))), "points must have at least one row"),
        (lambda e: e.drift(None), "x is missing: got None"),
        (lambda e: e.predict(np.zeros((5, 2)), start=-1), "start must be the index of a snapshot"),
        (lambda e: e.predict(np.zeros((5, 2)), dt=0.0), "dt must be positive and finite, got 0.0"),
        (lambda e: e.trajectory(np.zeros((5, 3))), r"points must be of shape \[n, d\] with d = 2"),
    ],
)
def test_what_an_energy_cannot_take_is_refused_by_name(call, message):
    with pytest.raises(ValueError, match=message):
        call(energy())


def test_seeds_and_raw_keys_draw_the_noise_of_the_typed_key():
    fitted, x = energy(beta=0.3), points(5)
    expected = fitted.predict(x, 2, key=KEY)
    for key in (0, jax.random.PRNGKey(0)):
        np.testing.assert_array_equal(fitted.predict(x, 2, key=key), expected)


def test_a_key_where_there_is_no_noise_is_said():
    silent = energy().replace(model=Known(internal="none"))
    with pytest.warns(UserWarning, match="no noise: the key is without effect"):
        silent.predict(points(5), key=0)


def test_what_an_energy_says_of_itself():
    one = energy("midpoint", beta=0.25, pull=0.7)
    assert repr(one) == (
        "FittedEnergy(V + U + 0.25 log rho in dimension 2, midpoint scheme,\n"
        "  Known of 5 parameters,\n"
        "  4 snapshots at times 0 to 0.6)"
    )
    stack = jax.tree.map(lambda leaf: jnp.stack([leaf, leaf]), one)
    assert "V + U + beta log rho" in repr(stack)
    assert "Known of 5 parameters, a stack of 2,\n" in repr(stack)
    seen = []
    jax.vmap(lambda e: seen.append(repr(e)))(stack)
    assert seen[0].startswith("FittedEnergy(model=Known(")
    assert "times=float32[4]" in seen[0]
    assert repr(jax.tree.map(lambda leaf: object(), one)).startswith("FittedEnergy(model=Known(")
