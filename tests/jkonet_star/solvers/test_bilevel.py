"""The JKO step inside the bilevel solvers, against closed forms; their training at a tiny size.

V = k |x - a|^2 / 2 has the proximal point y = (x + tau k a) / (1 + tau k): an affine map, which both
kinds of map can be.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import linear_sum_assignment

from jkonet_star import fit
from jkonet_star.energies.models import Units
from jkonet_star.settings import BilevelSettings, NetworkSettings
from jkonet_star.snapshots import Snapshots, snapshots_from_arrays
from jkonet_star.solvers.bilevel import Bilevel, outer_loss
from jkonet_star.solvers.bilevel_batches import bilevel_data, draw_batches
from jkonet_star.solvers.jko_step import JKOStep, Step, monge_gap
from jkonet_star.solvers.problem import prepare
from jkonet_star.solvers.side_by_side import SideBySide
from jkonet_star.solvers.transport_maps import TransportMap
from jkonet_star.transport.couplings import couple

KEY = jax.random.key(0)
TAU = 0.5
ENERGY = {"k": jnp.asarray(1.2), "a": jnp.asarray([0.4, -0.3])}
WEIGHTS = np.random.default_rng(1).uniform(0.5, 1.5, 12)


def quadratic(params, units, x, t):
    return 0.5 * params["k"] * jnp.sum((x - params["a"]) ** 2)


def proximal_point(energy, x):
    return (x + TAU * energy["k"] * energy["a"]) / (1 + TAU * energy["k"])


def step():
    one = jnp.asarray(1.0)
    units = Units(
        center=jnp.asarray([0.3, -0.2]),
        length=jnp.asarray(1.7),
        speed=one,
        time_start=0 * one,
        time_step=TAU * one,
        noise=one,
        beta=0 * one,
    )
    points = jnp.asarray(np.random.default_rng(0).uniform(-1, 1, (12, 2)))
    return Step(points, jnp.asarray(WEIGHTS / WEIGHTS.sum()), jnp.asarray(TAU), units)


def physical(points):
    return step().units.center + step().units.length * points


@functools.lru_cache(maxsize=4)
def solved(kind, **changes):
    """A map that starts next to the identity, and the problem solved as far as Adam takes it."""
    problem = JKOStep(
        potential=quadratic,
        transport_map=TransportMap(kind=kind, dimension=2, hidden=(8,)),
        settings=BilevelSettings(
            inner_steps=3000,
            inner_tolerance=1e-6,
            map_learning_rate=3e-3,
            damping=1e-9,
            map_first_moment=0.9,
            map_second_moment=0.999,
            # The network's matrix is ill-conditioned: where the steps are too few, rounding decides
            # how wrong the gradient is (60 steps: 2 % with one release of JAX, 4 % with another).
            conjugate_gradients=300,
            **changes,
        ),
    )
    return problem, problem.transport_map.init(KEY)


@pytest.mark.parametrize("kind", ["input-convex", "mlp"])
def test_the_inner_optimum_and_its_derivative_are_those_of_the_proximal_step(kind):
    problem, start = solved(kind)
    direction = jnp.asarray(np.random.default_rng(2).normal(size=(12, 2)), jnp.float32)

    def outcome(energy):
        y = problem.push(problem.solve(start, energy, step()), step())
        return jnp.sum(direction * y), y

    (_, y), implicit = jax.jit(jax.value_and_grad(outcome, has_aux=True))(ENERGY)
    expected = proximal_point(ENERGY, physical(step().points))
    np.testing.assert_allclose(physical(y), expected, atol=0.05)

    def exact(energy):
        goal = proximal_point(energy, physical(step().points))
        return jnp.sum(direction * (goal - step().units.center) / step().units.length)

    true = jax.grad(exact)(ENERGY)
    # Central differences of the whole search, too: nothing here knows of equation (3).
    value = jax.jit(lambda energy: outcome(energy)[0])
    h = 0.05
    difference = (
        value({**ENERGY, "k": ENERGY["k"] + h}) - value({**ENERGY, "k": ENERGY["k"] - h})
    ) / (2 * h)
    np.testing.assert_allclose(implicit["k"], true["k"], rtol=0.02)
    np.testing.assert_allclose(implicit["a"], true["a"], rtol=0.003)
    np.testing.assert_allclose(difference, true["k"], rtol=0.05)


def test_the_unrolled_gradient_is_that_of_the_steps_taken(double_precision):
    """In double precision: Adam's first step is all but a sign, and small differences are needed."""
    problem, start = solved("mlp")
    start, energy = (
        jax.tree.map(lambda leaf: jnp.asarray(np.asarray(leaf), jnp.float64), tree)
        for tree in (start, ENERGY)
    )
    settings = BilevelSettings(inner_steps=4, inner_gradient="unrolled")
    problem = dataclasses.replace(problem, settings=settings)
    value = jax.jit(
        lambda energy: jnp.sum(problem.push(problem.solve(start, energy, step()), step()) ** 2)
    )
    gradient, h = jax.grad(value)(energy), 1e-7
    up, down = ({**energy, "k": energy["k"] + sign * h} for sign in (1, -1))
    np.testing.assert_allclose(gradient["k"], (value(up) - value(down)) / (2 * h), rtol=1e-3)
    assert np.abs(gradient["k"]) > 1e-3


def test_each_term_has_a_switch():
    problem, start = solved("mlp")
    energy, here = ENERGY, step()

    def value(gap=False, **changes):
        settings = BilevelSettings(monge_gap_epsilon=0.01, monge_gap_iterations=200, **changes)
        changed = dataclasses.replace(problem, settings=settings, monge_gap=gap)
        return float(changed.objective(rotation, energy, here))

    # A quarter turn is far from optimal: it pays the gap.
    rotation = jax.tree.map(jnp.array, start)
    last = rotation["params"]["Dense_1"]
    rotation["params"]["Dense_1"] = {**last, "kernel": 30 * last["kernel"]}
    plain = value()
    assert value(gap=True) > plain + 0.01
    assert value(gap=True, monge_gap_weight=0.0) == plain
    assert value(gap=True, monge_gap_weight=2.0) - plain == pytest.approx(
        2 * (value(gap=True) - plain), rel=1e-3
    )
    distance = np.sum(
        np.asarray(here.weights)
        * np.sum(np.asarray(problem.push(rotation, here) - here.points) ** 2, axis=1)
    )
    assert plain - value(transport_weight=0.0) == pytest.approx(
        0.5 * distance / float(here.ratio) ** 2, rel=1e-4
    )


def test_the_gap_is_what_the_cheapest_assignment_saves():
    points = step().points.astype(jnp.float32)
    n, epsilon = len(points), 1e-3
    gap = jax.jit(functools.partial(monge_gap, epsilon=jnp.asarray(epsilon), iterations=500))
    for moved in (points[::-1] + 0.2, 1.5 * points):
        squared = np.sum((np.asarray(points)[:, None] - np.asarray(moved)[None]) ** 2, axis=-1)
        saved = np.trace(squared) / n - squared[linear_sum_assignment(squared)].mean()
        # The entropy of a plan that is an assignment.
        np.testing.assert_allclose(gap(points, moved), saved + epsilon * np.log(n), atol=1e-4)
    assert gap(points, points[::-1]) > 0.5


def test_the_network_is_convex_and_its_gradient_monotone():
    network = TransportMap(kind="input-convex", dimension=3, hidden=(8, 8))
    # Any parameters: positive by construction.
    leaves, tree = jax.tree.flatten(network.init(KEY))
    generator = np.random.default_rng(0)
    params = tree.unflatten(
        [jnp.asarray(generator.normal(0, 3, a.shape), jnp.float32) for a in leaves]
    )
    u, v = (jnp.asarray(generator.normal(0, 2, (500, 3)), jnp.float32) for _ in range(2))
    psi = functools.partial(network.network.apply, params)
    assert (psi((u + v) / 2) <= (psi(u) + psi(v)) / 2 + 1e-3).all()
    push = functools.partial(network.apply, params, ratio=jnp.asarray(0.1))
    assert (jnp.sum((push(u) - push(v)) * (u - v), axis=1) > 0).all()
    assert network.penalty(params) == 0


def test_the_penalty_brings_free_weights_back():
    free = TransportMap(kind="input-convex", dimension=2, hidden=(8, 8), positive=False)
    params = free.init(KEY)
    assert free.penalty(params) == 0
    kernel = params["params"]["convex_1"]["kernel"]
    params["params"]["convex_1"]["kernel"] = -kernel
    expected = np.mean(np.asarray(kernel) ** 2)
    np.testing.assert_allclose(free.penalty(params), expected, rtol=1e-5)
    left = {}
    for weight in (0.0, 100.0):
        settings = BilevelSettings(inner_steps=100, weight_penalty=weight, positive_weights=False)
        problem = JKOStep(potential=quadratic, transport_map=free, settings=settings)
        left[weight] = float(free.penalty(jax.jit(problem.solve)(params, ENERGY, step())))
    assert left[100.0] < 0.3 * left[0.0]


def test_the_identity_is_where_the_maps_start():
    u = step().points.astype(jnp.float32)
    for kind in ("input-convex", "mlp"):
        network = TransportMap(kind=kind, dimension=2, hidden=(16, 16))
        ratio = jnp.asarray(0.1)
        params = network.fit_identity(network.init(KEY), u, ratio)
        np.testing.assert_allclose(network.apply(params, u, ratio), u, atol=0.02)


def test_the_outer_loss_vanishes_at_the_target_where_it_is_a_divergence():
    u = step().points.astype(jnp.float32)
    w = step().weights.astype(jnp.float32)
    for loss, zero in (("divergence", True), ("cost", False)):
        settings = BilevelSettings(outer_loss=loss, sinkhorn_iterations=500)
        found = float(outer_loss(u, w, u, w, settings))
        assert (abs(found) < 1e-3) == zero
        assert float(outer_loss(u + 0.5, w, u, w, settings)) > found + 0.1


def shrinking(n=40, steps=2, shuffle=True):
    """x -> 0.6 x, from V = |x|^2 / 3 by implicit steps of one."""
    generator = np.random.default_rng(0)
    start = generator.uniform(-2, 2, (n, 2))
    arrays = [start * 0.6**k for k in range(steps + 1)]
    return snapshots_from_arrays([a[generator.permutation(n)] for a in arrays], dt=1.0)


NETWORK = NetworkSettings(epochs=2, batch_size=20, hidden=(8,), learning_rate=1e-2)
TINY = BilevelSettings(map_hidden=(8,), inner_steps=5)


@functools.lru_cache(maxsize=8)
def trained(steps=2, network=NETWORK, **changes):
    problem = prepare(shrinking(steps=steps), "jkonet-vanilla", key=KEY)
    bilevel = dataclasses.replace(TINY, **changes)
    training = SideBySide(Bilevel(network=network, bilevel=bilevel, transport_map="mlp"), problem)
    keys = jax.random.split(KEY, 2)
    state, scalars = training.advance(training.initial(keys), keys, 2)
    return training, state, np.asarray(scalars["loss"])


def test_teacher_forcing_matters_from_the_second_step_on():
    one = [trained(steps=1, teacher_forcing=forced)[2] for forced in (False, True)]
    np.testing.assert_array_equal(*one)
    two = [trained(steps=2, teacher_forcing=forced)[2] for forced in (False, True)]
    assert np.abs(two[0] - two[1]).min() > 1e-4


def test_a_diverged_run_keeps_its_last_finite_energy_and_says_so():
    network = dataclasses.replace(NETWORK, learning_rate=1e30)
    training, state, losses = trained(network=network)
    assert np.isnan(losses[:, -1]).all()
    assert training.diverged(state).all()
    for leaf in jax.tree.leaves(training.energies(state)):
        assert np.isfinite(leaf).all()
    assert not trained()[0].diverged(trained()[1]).any()
    assert np.isfinite(trained()[2]).all()


@pytest.mark.parametrize(
    "solver",
    [
        "jkonet-vanilla",
        pytest.param("jkonet", marks=pytest.mark.slow),
        pytest.param("jkonet-monge-gap", marks=pytest.mark.slow),
    ],
)
def test_a_contraction_is_learned(solver):
    snapshots = shrinking()
    energy = fit(
        snapshots,
        solver,
        key=KEY,
        network=dataclasses.replace(NETWORK, epochs=20, batch_size=20, learning_rate=2e-2),
        bilevel=BilevelSettings(map_hidden=(8,), inner_steps=20, monge_gap_iterations=5),
    )
    assert energy.scheme == "implicit"
    x = snapshots.points[0]
    moved = energy.predict(x, 1)[1]
    assert np.sqrt(np.sum((moved - 0.6 * x) ** 2) / np.sum((0.4 * x) ** 2)) < 0.5


def test_batches_follow_the_couplings_and_leave_padding_alone():
    snapshots = shrinking(n=30)
    couplings, _ = couple(snapshots, key=KEY)
    padded = Snapshots(
        points=jnp.pad(snapshots.points, ((0, 0), (0, 5), (0, 0)), constant_values=jnp.nan),
        weights=jnp.pad(snapshots.weights, ((0, 0), (0, 5))),
        times=snapshots.times,
    )
    data = bilevel_data(padded, couplings)
    for matched in (True, False):
        rows, weights = draw_batches(KEY, data, 3, 10, matched=matched)
        np.testing.assert_allclose(weights, 0.1, rtol=1e-6)
        for k in range(3):
            assert sorted(np.asarray(rows[:, k]).ravel()) == list(range(30))
        points = np.take_along_axis(
            np.asarray(snapshots.points)[None], np.asarray(rows)[..., None], 2
        )
        follows = np.allclose(points[:, 1], 0.6 * points[:, 0], atol=1e-5)
        assert follows == matched


def test_partners_are_drawn_in_proportion_to_the_plan():
    """Two particles onto three: the middle one is half of each."""
    points = [np.array([[0.0], [2.0]]), np.array([[0.0], [1.0], [2.0]])]
    snapshots = snapshots_from_arrays(points, weights=[np.ones(2), np.array([1.0, 2.0, 1.0])])
    couplings, _ = couple(snapshots, key=KEY)
    data = bilevel_data(snapshots, couplings)
    rows, weights = draw_batches(KEY, data, 1, 4000, matched=True)
    source, target = np.asarray(rows[0])
    for row, partners in ((0, (0, 1)), (1, (1, 2))):
        found, counts = np.unique(target[source == row], return_counts=True)
        assert tuple(found) == partners
        np.testing.assert_allclose(counts / counts.sum(), 0.5, atol=0.05)
    np.testing.assert_allclose(np.asarray(weights).sum(axis=-1), 1.0, rtol=1e-5)


def test_a_batch_holds_no_more_particles_than_there_are():
    network = dataclasses.replace(NETWORK, batch_size=41)
    problem = prepare(shrinking(), "jkonet-vanilla", key=KEY)
    large, small = (
        Bilevel(network=n, bilevel=TINY, transport_map="mlp") for n in (network, NETWORK)
    )
    assert "batch_size 41 exceeds the 40 particles" in large.remark(problem)
    assert SideBySide(large, problem).facts[0]["batch_size"] == 40
    assert small.remark(problem) is None


def test_what_cannot_be():
    with pytest.raises(ValueError, match="cannot be unrolled"):
        BilevelSettings(inner_tolerance=0.1, inner_gradient="unrolled")
    with pytest.raises(ValueError, match="unknown inner_gradient 'implict'; did you mean implicit"):
        BilevelSettings(inner_gradient="implict")
