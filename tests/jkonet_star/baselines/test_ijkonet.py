"""The game of iJKOnet, against numbers by hand; what it finds, against JKO steps in closed form.

Of V = sum_i a_i x_i^2 / 2 the JKO step is y = x / (1 + tau a). With the noise beta a normal law stays
one, and its deviation is multiplied by the q for which

    tau a q + q - 1 = tau beta / (q sigma^2),                                                      (1)

the derivative of a q^2 sigma^2 / 2 + (q - 1)^2 sigma^2 / 2 tau - beta log q.
"""

import dataclasses
import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jkonet_star import fit, snapshots_from_arrays
from jkonet_star.baselines.ijkonet import IJKOnet
from jkonet_star.settings import InternalSettings, NetworkSettings
from jkonet_star.solvers.problem import prepare
from jkonet_star.solvers.registry import Terms
from jkonet_star.solvers.side_by_side import SideBySide

KEY = jax.random.key(0)
N, TAU = 200, 0.5
RATES = np.array([1.0, 2.0])
BOTH = Terms(potential=True, interaction=True)


class Bowl(nn.Module):
    """sum_i a_i x_i^2 / 2; of points in the data's units."""

    @nn.compact
    def __call__(self, x):
        a = self.param("a", nn.initializers.constant(0.1), x.shape[-1:])
        return 0.5 * x**2 @ a


class Slope(nn.Module):
    """v . x."""

    @nn.compact
    def __call__(self, x):
        return x @ self.param("v", nn.initializers.zeros, x.shape[-1:])


EPOCHS = 150
# A few coefficients, which are of the order of one.
SEARCH = {
    "network": NetworkSettings(epochs=EPOCHS, batch_size=N, learning_rate=0.02),
    "map_hidden": (32,),
    "optimizer": optax.adam(optax.cosine_decay_schedule(0.1, EPOCHS)),
}


def network(epochs, **more):
    return NetworkSettings(epochs=epochs, batch_size=N, **more)


def contracting(steps=2):
    """JKO steps of RATES, in an order of its own each."""
    generator = np.random.default_rng(0)
    x = generator.normal(size=(N, 2))
    x -= x.mean(axis=0)  # about which the networks are
    return snapshots_from_arrays(
        [generator.permutation(x / (1 + TAU * RATES) ** k) for k in range(steps + 1)], dt=TAU
    )


@functools.cache
def prepared(solver):
    return SideBySide(solver, prepare(contracting(), solver, key=KEY))


def at_start(solver):
    """Data and parameters of one state, its energy's all ones, its maps the identity."""
    training = prepared(solver)
    params = jax.tree.map(lambda leaf: leaf[0], training.initial(KEY[None]).params)
    ones = jax.tree.map(jnp.ones_like, params["energy"])
    return training.data, ones, jax.tree.map(jnp.zeros_like, params["maps"])


def test_the_game_is_the_difference_of_energies_where_nothing_moves():
    solver = IJKOnet(
        terms=BOTH, potential=Bowl(), interaction=Bowl(), network=network(1, interaction_samples=0)
    )
    data, energy, maps = at_start(solver)
    rows = jnp.asarray(np.random.default_rng(1).permuted(np.tile(np.arange(N), (3, 1)), axis=1))
    weights = jnp.full(rows.shape, 1.0 / N)
    found = jax.jit(solver.game)(energy, maps, data, rows[:, :50], weights[:, :50] * 4, KEY)
    u = (np.asarray(data.batches.points) - np.asarray(data.units.center)) / float(data.units.length)
    chosen = [points[np.asarray(own)] for points, own in zip(u, rows[:, :50], strict=True)]
    energies = []
    for x in chosen:
        pairs = ((x[:, None] - x) ** 2).sum(axis=-1)
        energies.append(0.5 * (x**2).sum(axis=1).mean() + 0.25 * pairs.sum() / (50 * 49))
    speed, length = float(data.units.speed), float(data.units.length)
    expected = -np.mean(np.diff(energies)) * speed * length / (speed**2 * TAU)
    assert float(found) == pytest.approx(expected, rel=1e-5)


def test_the_energy_goes_down_where_particles_are_seen_and_maps_go_down_the_energy():
    solver = IJKOnet(potential=Slope(), network=network(1))
    data, _, maps = at_start(solver)
    rows = jnp.tile(jnp.arange(N), (3, 1))
    weights = jnp.full(rows.shape, 1.0 / N)
    shift = jnp.asarray([0.3, -0.2])
    # Each snapshot is the last one, moved.
    points = data.batches.points[:1] + jnp.arange(3)[:, None, None] * shift
    data = data.replace(batches=data.batches.replace(points=points))
    game = functools.partial(solver.game, data=data, rows=rows, weights=weights, key=KEY)
    flat = {"potential": {"params": {"v": jnp.zeros(2)}}}
    uphill = jax.jit(jax.grad(lambda energy: game(energy, maps)))(flat)["potential"]["params"]["v"]
    # Up the game, -grad V points along the motion.
    np.testing.assert_allclose(uphill, -shift / (data.units.speed * TAU), rtol=1e-4)
    steep = {"potential": {"params": {"v": jnp.asarray([1.0, 0.0])}}}
    value, gradient = jax.jit(jax.value_and_grad(lambda maps: game(steep, maps)))(maps)
    pushed = jax.tree.map(lambda m, g: m - 0.1 * g, maps, gradient)

    @jax.jit
    def after():
        move = functools.partial(solver._map(2).apply, ratio=jnp.asarray(1.0))
        return jax.vmap(move)(pushed, data.normalised[:-1]), game(steep, pushed)

    moved, less = after()
    moved -= data.normalised[:-1]
    assert (moved[..., 0] < 0).all()
    np.testing.assert_allclose(moved[..., 1], 0, atol=1e-6)
    assert less < value


def test_it_finds_the_energy_of_jko_steps():
    solver = IJKOnet(potential=Bowl(), **SEARCH)
    energy = fit(contracting(), solver, key=KEY)
    assert energy.scheme == "implicit"
    x = contracting().arrays()[0]
    np.testing.assert_allclose(energy.drift(x, x), -RATES * x, atol=0.03 * np.abs(RATES * x).max())
    # The gap closes.
    losses = energy.report.members[0].losses
    assert abs(losses[-1]) < 0.05 < losses[0]


def test_it_finds_an_interaction():
    generator = np.random.default_rng(3)
    x = generator.normal(size=(N, 2))
    y = x.mean(axis=0) + (x - x.mean(axis=0)) / (1 + TAU * RATES)
    solver = IJKOnet(terms=Terms(interaction=True), interaction=Bowl(), **SEARCH)
    energy = fit(snapshots_from_arrays([x, generator.permutation(y)], dt=TAU), solver, key=KEY)
    pull = -RATES * (x - x.mean(axis=0))
    np.testing.assert_allclose(energy.drift(x, x), pull, atol=0.04 * np.abs(pull).max())


def test_a_known_beta_is_accounted_for():
    """Normal quantiles and the q of (1): without the determinant, a would be (1 / q - 1) / tau."""
    a, beta = 1.0, 0.3
    x = np.random.default_rng(0).normal(size=(N, 1))
    x = (x - x.mean()) / x.std()
    # (1) is q^2 (1 + tau a) - q - tau beta = 0.
    q = (1 + np.sqrt(1 + 4 * (1 + TAU * a) * TAU * beta)) / (2 * (1 + TAU * a))
    wrong = (1 / q - 1) / TAU
    assert wrong < 0.6 * a
    snapshots = snapshots_from_arrays([x, q * x], dt=TAU)
    found = {}
    for name, source in (("with", "given"), ("without", "none")):
        solver = IJKOnet(potential=Bowl(), **SEARCH)
        training = SideBySide(solver, prepare(snapshots, solver, key=KEY))
        training.data = training.data.replace(
            frame=training.data.frame.replace(internal=source),
            units=training.data.units.replace(beta=jnp.asarray(beta)),
        )
        state, _ = training.advance(training.initial(KEY[None]), KEY[None], EPOCHS)
        drift = training.energies(state).member(0).drift(np.ones((1, 1)), np.ones((1, 1)))
        found[name] = -float(drift[0, 0])
    assert found["with"] == pytest.approx(a, rel=0.05)
    assert found["without"] == pytest.approx(wrong, rel=0.1)


def test_epochs_in_two_calls_are_the_same_epochs():
    solver = IJKOnet(
        terms=BOTH,
        potential=Bowl(),
        interaction=Bowl(),
        network=NetworkSettings(epochs=2, batch_size=64),
        map_hidden=(8,),
    )
    training, keys = prepared(solver), KEY[None]
    whole, losses = training.advance(training.initial(keys), keys, 2)
    state, first = training.advance(training.initial(keys), keys, 1)
    state, second = training.advance(state, keys, 1)
    for one, other in zip(jax.tree.leaves(whole), jax.tree.leaves(state), strict=True):
        np.testing.assert_array_equal(one, other)
    parts = np.concatenate([first["loss"], second["loss"]], axis=1)
    np.testing.assert_array_equal(losses["loss"], parts)
    assert len(np.unique(parts)) == 2


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: IJKOnet(map_steps=0), "map_steps"),
        (lambda: IJKOnet(map_hidden=()), "map_hidden"),
        (lambda: IJKOnet(map_hidden=(10**6, 10**6)), "a map this wide"),
        (lambda: IJKOnet(terms=dataclasses.replace(BOTH, internal=True)), "a beta that was found"),
        (lambda: "ijkonet-potential", "circulation"),
    ],
)
def test_what_it_cannot_do_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        fit(
            contracting(),
            make(),
            key=KEY,
            network=network(1),
            internal=InternalSettings(beta_estimator="first-order"),
            circulation=message == "circulation",
        )
