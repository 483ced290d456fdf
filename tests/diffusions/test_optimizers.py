"""SOAP: its formulas in NumPy, Adam where nothing is turned, rotations, members side by side."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from diffusions.optimizers import STIFFNESS, scale_by_soap, soap

RATE, B1, B2, EPS = 0.1, 0.95, 0.95, 1e-8


def gradients(n_steps: int, *shapes: tuple[int, ...]) -> list[list[np.ndarray]]:
    rng = np.random.default_rng(0)
    return [[rng.normal(size=s).astype(np.float32) for s in shapes] for _ in range(n_steps)]


def directions(given: list[list[np.ndarray]], **settings: int) -> list[list[np.ndarray]]:
    """Of all steps, by one compiled program."""
    transformation = scale_by_soap(B1, B2, EPS, **settings)
    stacked = [jnp.stack(leaves) for leaves in zip(*given, strict=True)]

    def step(state, g):
        direction, state = transformation.update(g, state)
        return state, direction

    start = transformation.init([jnp.zeros(leaf.shape[1:]) for leaf in stacked])
    _, found = jax.lax.scan(step, start, stacked)
    return [[np.asarray(leaf[i]) for leaf in found] for i in range(len(given))]


def of_one(transformation):
    """The directions along the gradients of one matrix, as a function of them."""

    def run(own):
        def step(state, g):
            direction, state = transformation.update(g, state)
            return state, direction

        return jax.lax.scan(step, transformation.init(own[0]), own)[1]

    return run


def by_definition(given: list[np.ndarray], every: int) -> list[np.ndarray]:
    """Equations (1) to (4) of one matrix, in double precision, written with eigenvectors as columns."""
    rows, columns = given[0].shape
    left, right = np.zeros((rows, rows)), np.zeros((columns, columns))
    q_left, q_right = np.eye(rows), np.eye(columns)
    mean, square = np.zeros((rows, columns)), np.zeros((rows, columns))
    found = []
    for i, g in enumerate(np.asarray(given, np.float64)):
        left, right = B2 * left + (1 - B2) * g @ g.T, B2 * right + (1 - B2) * g.T @ g
        if i % every == 0:
            q_left, q_right = (
                np.linalg.qr((m + STIFFNESS * np.trace(m) * np.eye(len(m))) @ q)[0]
                for m, q in ((left, q_left), (right, q_right))
            )
        mean = B1 * mean + (1 - B1) * g
        square = B2 * square + (1 - B2) * (q_left.T @ g @ q_right) ** 2
        turned = q_left.T @ mean @ q_right / (1 - B1 ** (i + 1))
        turned = turned / (np.sqrt(square / (1 - B2 ** (i + 1))) + EPS)
        found.append(q_left @ turned @ q_right.T)
    return found


@pytest.mark.parametrize("every", [1, 3])
def test_a_matrix_moves_by_the_published_equations(every):
    given = gradients(8, (4, 3))
    found = directions(given, every=every)
    expected = by_definition([g[0] for g in given], every)
    for i in range(1, 8):
        np.testing.assert_allclose(found[i][0], expected[i], rtol=2e-3, atol=2e-3)


def test_what_is_no_matrix_moves_as_by_adam():
    given = gradients(6, (5,), (2, 3, 2), (1, 1))
    adam = optax.scale_by_adam(B1, B2, EPS)
    state = adam.init([jnp.zeros(g.shape) for g in given[0]])
    for g, found in zip(given, directions(given), strict=True):
        expected, state = adam.update([jnp.asarray(leaf) for leaf in g], state)
        for a, b in zip(found, expected, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


def test_directions_turn_with_the_coordinates():
    """What Adam's do not: of U G the direction is U times that of G, once the basis is followed."""
    given = [g[0] for g in gradients(40, (6, 4))]
    turn = np.linalg.qr(np.random.default_rng(1).normal(size=(6, 6)))[0].astype(np.float32)
    plain = directions([[g] for g in given], every=1)[-1][0]
    turned = directions([[turn @ g] for g in given], every=1)[-1][0]
    size = np.linalg.norm(plain)
    assert np.linalg.norm(turned - turn @ plain) < 0.07 * size
    adam = optax.scale_by_adam(B1, B2)
    ends = []
    for u in (np.eye(6, dtype=np.float32), turn):
        state = adam.init(jnp.zeros((6, 4)))
        for g in given:
            end, state = adam.update(jnp.asarray(u @ g), state)
        ends.append(np.asarray(end))
    assert np.linalg.norm(ends[1] - turn @ ends[0]) > 0.1 * np.linalg.norm(ends[0])


def test_members_side_by_side_move_as_each_alone():
    given = jnp.stack(
        [jnp.stack([jnp.asarray(g[0]) for g in gradients(9, (4, 3))]) * s for s in (1, 3)]
    )
    given = given.at[1].add(0.5)
    run = of_one(scale_by_soap(every=4))
    together = jax.jit(jax.vmap(run))(given)
    for i in range(2):
        np.testing.assert_allclose(together[i], run(given[i]), rtol=1e-4, atol=1e-4)
    # The costly factorisation stays behind a condition, and has no batch, which can wait for ever.
    program = str(jax.make_jaxpr(jax.vmap(run))(given))
    assert "cond" in program
    factorised = [line for line in program.splitlines() if "geqrf" in line or " qr[" in line]
    assert factorised
    assert not any("f32[2," in line for line in factorised), factorised


def test_members_of_members_keep_the_condition():
    given = jnp.stack([jnp.asarray(g[0]) for g in gradients(9, (4, 3))])
    given = given * jnp.arange(1.0, 7.0).reshape(2, 3, 1, 1, 1)
    run = of_one(scale_by_soap(every=4))
    nested = jax.vmap(jax.vmap(run))
    assert "cond" in str(jax.make_jaxpr(nested)(given))
    np.testing.assert_allclose(jax.jit(nested)(given)[1, 2], run(given[1, 2]), rtol=1e-4, atol=1e-4)


def test_complex_parameters_are_refused():
    with pytest.raises(ValueError, match="real parameters"):
        scale_by_soap().init(jnp.zeros((2, 2), jnp.complex64))


def test_hyperparameters_can_be_injected():
    optimizer = optax.inject_hyperparams(soap)(learning_rate=RATE, weight_decay=0.5)
    params = jnp.full((2, 2), 2.0)
    updates, _ = optimizer.update(jnp.zeros((2, 2)), optimizer.init(params), params)
    np.testing.assert_allclose(updates, -RATE * 0.5 * params, rtol=1e-6)


def test_flat_directions_stay_finite():
    found = directions([[np.zeros((4, 3), np.float32)]] * 3)
    assert all(np.array_equal(step[0], np.zeros((4, 3))) for step in found)


def test_long_sides_are_not_turned(monkeypatch):
    monkeypatch.setattr("diffusions.optimizers.LARGEST_SIDE", 3)
    state = scale_by_soap().init(jnp.zeros((4, 3)))
    assert [q.shape for q in state.sides[0].eigenvectors] == [(3, 3)]


def test_half_precision_moves_as_single_does_and_stays_what_it_is():
    given = jnp.stack([jnp.asarray(g[0]) for g in gradients(4, (4, 3))]).astype(jnp.bfloat16)
    run = of_one(scale_by_soap())
    half = run(given)
    assert half.dtype == jnp.bfloat16
    np.testing.assert_allclose(
        half.astype(jnp.float32), run(given.astype(jnp.float32)), rtol=0.01, atol=0.01
    )


def test_weight_decay_is_decoupled():
    params = {"w": jnp.full((2, 2), 2.0)}
    still = jax.tree.map(jnp.zeros_like, params)
    optimizer = soap(RATE, weight_decay=0.5)
    updates, _ = optimizer.update(still, optimizer.init(params), params)
    np.testing.assert_allclose(updates["w"], -RATE * 0.5 * params["w"], rtol=1e-6)


@pytest.mark.parametrize(
    ("settings", "message"), [({"b1": 1.0}, "b1"), ({"b2": -0.1}, "b2"), ({"every": 0}, "every")]
)
def test_senseless_settings_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        scale_by_soap(**settings)


def test_a_badly_conditioned_regression_is_solved_in_fewer_steps():
    """Least squares with correlated inputs, condition number 1e4: what it is there for."""
    rng = np.random.default_rng(2)
    mix = np.linalg.qr(rng.normal(size=(8, 8)))[0] * np.logspace(0, -2, 8)
    x = jnp.asarray(rng.normal(size=(64, 8)) @ mix @ np.linalg.qr(rng.normal(size=(8, 8)))[0])
    truth = jnp.asarray(rng.normal(size=(8, 4)))

    def loss(w):
        return jnp.mean((x @ (w - truth)) ** 2)

    ends = []
    for make in (soap, optax.adam):
        optimizer = make(optax.cosine_decay_schedule(0.1, 300))

        def step(carry, _, optimizer=optimizer):
            w, state = carry
            updates, state = optimizer.update(jax.grad(loss)(w), state, w)
            return (optax.apply_updates(w, updates), state), None

        w = jnp.zeros((8, 4))
        (w, _), _ = jax.lax.scan(step, (w, optimizer.init(w)), None, length=300)
        ends.append(float(loss(w)))
    assert ends[0] < 0.1 * ends[1]
