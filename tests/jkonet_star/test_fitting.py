"""From snapshots to energies: every solver learns, and repeats itself."""

import dataclasses
import functools
import warnings
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from data_generation.populations.functionals import functional
from data_generation.populations.particles import simulate
from jkonet_star.densities import fit_densities
from jkonet_star.fitting import fit
from jkonet_star.settings import (
    SCHEMES,
    BilevelSettings,
    CouplingSettings,
    DensitySettings,
    FeatureSettings,
    NetworkSettings,
)
from jkonet_star.snapshots import Snapshots, snapshots_from_arrays
from jkonet_star.solvers.divergence import first_unsound
from jkonet_star.solvers.first_order import filled_up
from jkonet_star.solvers.network import Network
from jkonet_star.solvers.problem import prepare
from jkonet_star.solvers.registry import SOLVERS
from jkonet_star.solvers.side_by_side import SideBySide
from jkonet_star.transport.couplings import couple
from jkonet_star.transport.exact import exact_plan

KEY = jax.random.key(0)
REFERENCE = Path(__file__).parents[2].parent / "shared" / "data" / "jkonet_star_reference"
TAU = 0.25
NETWORK = NetworkSettings(
    epochs=120, batch_size=30, hidden=(16,), learning_rate=0.03, interaction_samples=8
)
FEATURES = FeatureSettings(degree=2, radial="none")
DENSITY = DensitySettings(n_components=2)


def factor(scheme):
    """What a scheme multiplies by in V = |x|^2 / 2."""
    return {
        "explicit": 1 - TAU,
        "implicit": 1 / (1 + TAU),
        "midpoint": (1 - TAU / 2) / (1 + TAU / 2),
    }[scheme]


@functools.cache
def well(scheme="explicit", sizes=(60, 60, 60)):
    """A population around zero that contracts: by V = |x|^2 / 2, or as well by U = |z|^2 / 2."""
    generator = np.random.default_rng(0)
    largest = generator.uniform(-2, 2, (max(sizes), 2))
    largest -= largest.mean(axis=0)
    arrays = []
    for k, n in enumerate(sizes):
        x = factor(scheme) ** k * largest
        arrays.append(x[np.random.default_rng(k).permutation(len(x))[:n]])
    return snapshots_from_arrays(arrays, dt=TAU)


@functools.lru_cache(maxsize=4)
def fitted(solver, scheme="explicit", **changes):
    return fit(
        well(scheme),
        solver,
        key=KEY,
        scheme=scheme,
        network=NETWORK,
        features=FEATURES,
        density_settings=DENSITY,
    )


def relative(found, expected):
    found, expected = np.asarray(found), np.asarray(expected)
    return np.sqrt(np.sum((found - expected) ** 2) / np.sum(expected**2))


def assert_learned(solver, scheme):
    """The motion that the energy predicts without noise, and its drift, on the population."""
    energy, x = fitted(solver, scheme), well(scheme).points[0]
    path, converged = energy.trajectory(x, 2)
    assert np.asarray(converged).all()
    kind = SOLVERS[solver]
    bound = 0.01 if not kind.trained else 0.1
    if kind.terms.internal:
        # A spreading of the particles can stand in for part of the well.
        bound = 0.25
        assert 0 <= float(energy.beta) < 0.5
    else:
        assert float(energy.beta) == 0.0
    # Every scheme sees the middle snapshot, or both sides of it.
    middle = well(scheme).points[1]
    assert relative(energy.drift(middle, t=TAU), -middle) < bound
    for k in (1, 2):
        assert relative(path[k] - x, (factor(scheme) ** k - 1) * x) < bound


FAST = [
    ("jkonet-star-potential", "midpoint"),
    ("jkonet-star-linear", "explicit"),
    ("jkonet-star-linear-potential", "implicit"),
    ("jkonet-star-linear-interaction", "midpoint"),
]


@pytest.mark.parametrize(
    ("solver", "scheme"),
    [
        pytest.param(solver, scheme, marks=[] if (solver, scheme) in FAST else [pytest.mark.slow])
        for solver in SOLVERS
        if "star" in solver  # test_bilevel.py
        for scheme in SCHEMES
    ],
)
def test_every_solver_learns_a_well_in_every_scheme(solver, scheme):
    assert_learned(solver, scheme)


@pytest.mark.parametrize("solver", ["jkonet-star-potential", "jkonet-star-linear-potential"])
def test_a_fit_repeats_itself_bit_for_bit(solver):
    def run():
        return fit(well(), solver, key=KEY, network=NETWORK, features=FEATURES)

    first, second = run(), run()
    for one, two in zip(jax.tree.leaves(first), jax.tree.leaves(second), strict=True):
        np.testing.assert_array_equal(one, two)


def test_an_array_of_keys_trains_one_energy_per_key():
    keys = jax.random.split(KEY, 2)
    network = NetworkSettings(epochs=5, batch_size=25, hidden=(8,), ema_decay=0.5)
    # The order of the pairs, which a key also decides, shall be the same.
    couplings, _ = couple(well(), key=KEY)
    run = functools.partial(
        fit, well(), "jkonet-star-potential", network=network, couplings=couplings
    )
    together = run(key=keys)
    alone = [run(key=k) for k in keys]
    x = well().points[0]
    drifts = jax.vmap(lambda energy: energy.drift(x))(together)
    for drift, energy in zip(drifts, alone, strict=True):
        np.testing.assert_allclose(drift, energy.drift(x), rtol=1e-3, atol=1e-4)
    assert np.abs(drifts[0] - drifts[1]).max() > 0.01


def test_units_of_length_and_time_scale_the_energy():
    """Powers of two keep every rounding: the same network, in units of length^2 / time."""
    network = NetworkSettings(epochs=10, batch_size=30, hidden=(8,))
    points = np.asarray(well().points)
    scaled = snapshots_from_arrays(8 * points, dt=TAU / 4)
    one = fit(well(), "jkonet-star-potential", key=KEY, network=network)
    two = fit(scaled, "jkonet-star-potential", key=KEY, network=network)
    x = jnp.asarray(points[0])
    np.testing.assert_allclose(two.drift(8 * x), 32 * one.drift(x), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(
    "solver",
    [
        "jkonet-star-linear-potential",
        pytest.param("jkonet-star", marks=pytest.mark.slow),
        pytest.param("jkonet-star-linear", marks=pytest.mark.slow),
    ],
)
def test_padding_takes_no_part(solver):
    """Rows without weight, wherever they lie, give the fit without them."""
    snapshots = well(sizes=(40, 30, 35))
    garbage = np.random.default_rng(1).uniform(50, 60, (3, 9, 2)).astype(np.float32)
    padded = Snapshots(
        points=jnp.concatenate([snapshots.points, garbage], axis=1),
        weights=jnp.pad(snapshots.weights, ((0, 0), (0, 9))),
        times=snapshots.times,
    )
    network = NetworkSettings(epochs=3, batch_size=20, hidden=(8,), interaction_samples=0)
    drifts = [
        fit(s, solver, key=KEY, network=network, features=FEATURES, density_settings=DENSITY).drift(
            snapshots.points[0]
        )
        for s in (snapshots, padded)
    ]
    np.testing.assert_allclose(drifts[1], drifts[0], rtol=2e-3, atol=1e-3)


def test_weights_of_particles_are_honoured():
    """A particle of weight two is two particles."""
    arrays = well().arrays()
    weights = np.ones(60)
    weights[:20] = 2.0
    heavy = snapshots_from_arrays(arrays, dt=TAU, weights=[weights] * 3)
    twice = snapshots_from_arrays([np.concatenate([a, a[:20]]) for a in arrays], dt=TAU)
    features = FeatureSettings(degree=3, radial="none", regularization=0.05)
    found = [
        fit(s, "jkonet-star-linear-potential", key=KEY, features=features) for s in (heavy, twice)
    ]
    np.testing.assert_allclose(
        found[0].params["potential"], found[1].params["potential"], rtol=1e-3, atol=1e-4
    )


def test_a_potential_that_turns_with_time():
    """V = g(t) x_1 with g from +1 to -1: no potential without time could follow it."""
    generator = np.random.default_rng(0)
    times = np.arange(6) * 0.2
    slopes = np.cos(np.pi * times / times[-1])
    x = [generator.uniform(-1, 1, (50, 2))]
    for tau, slope in zip(np.diff(times), slopes[:-1], strict=True):
        x.append(x[-1] - tau * slope * np.array([1.0, 0.0]))
    network = NetworkSettings(epochs=60, batch_size=50, hidden=(16,), learning_rate=0.03)
    energy = fit(
        snapshots_from_arrays(x, times=times),
        "jkonet-star-time-potential",
        key=KEY,
        network=network,
    )
    for k, slope in enumerate(slopes[:-1]):
        drift = np.asarray(energy.drift(jnp.asarray(x[k], jnp.float32), t=times[k]))
        np.testing.assert_allclose(drift.mean(axis=0), [-slope, 0.0], atol=0.15)
        path = energy.predict(jnp.asarray(x[k], jnp.float32), 1, start=k)
        np.testing.assert_allclose((path[1] - x[k + 1]).mean(axis=0), 0.0, atol=0.04)


def test_progress_is_reported_to_the_end():
    calls = []
    # Four hidden units cannot hold the well from every start.
    network = NetworkSettings(epochs=23, batch_size=60, hidden=(16,), learning_rate=0.03)
    fit(
        well(),
        "jkonet-star-potential",
        key=KEY,
        network=network,
        on_progress=lambda done, scalars: calls.append((done, float(scalars["loss"]))),
    )
    done = [call[0] for call in calls]
    assert done == sorted(set(done))
    assert done[-1] == 23
    assert 8 <= len(done) <= 12
    assert calls[-1][1] < 0.5 * calls[0][1]


def test_names_and_sizes_that_cannot_be():
    with pytest.raises(ValueError, match="unknown solver 'jkonet-star-potentail'; did you mean"):
        fit(well(), "jkonet-star-potentail", key=KEY)
    with pytest.raises(ValueError, match="unknown scheme 'implizit'; did you mean implicit"):
        fit(well(), "jkonet-star-potential", key=KEY, scheme="implizit")


def test_a_batch_holds_no_more_than_there_is():
    """And says so: the fit is that of the largest batch that there is."""
    run = functools.partial(fit, well(), "jkonet-star-potential", key=KEY)
    settings = functools.partial(NetworkSettings, epochs=2, hidden=(4,))
    with pytest.warns(UserWarning, match="batch_size 250 exceeds the 120 couplings of the data"):
        cut = run(network=settings(batch_size=250))
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message="batch_size")
        whole = run(network=settings(batch_size=120))
    x = well().points[0]
    np.testing.assert_array_equal(cut.drift(x), whole.drift(x))


def test_several_keys_are_no_use_to_a_closed_form():
    keys = jax.random.split(KEY, 2)
    with pytest.warns(UserWarning, match="no randomness: the 2 keys give the same energy"):
        linear = fit(well(), "jkonet-star-linear-potential", key=keys, features=FEATURES)
    assert {leaf.shape[0] for leaf in jax.tree.leaves(linear)} == {2}


@pytest.mark.parametrize("learning_rate", [1e3, 1e6])
def test_training_that_diverges_keeps_a_sound_energy_and_says_so(learning_rate):
    """Losses of 1e24 at the one, of NaN at the other."""
    network = NetworkSettings(epochs=6, batch_size=40, hidden=(8,), learning_rate=learning_rate)
    keys = jax.random.split(KEY, 2)
    with pytest.warns(UserWarning, match="training diverged in epoch 1, 1; the energy is that of"):
        both = fit(well(), "jkonet-star-potential", key=keys, network=network)
    assert both.diverged == (1, 1)
    assert both.member(1).diverged == 1
    assert np.abs(jax.vmap(lambda e: e.drift(well().points[0]))(both)).max() < 10


def test_one_of_two_runs_diverges():
    """The sound one is what it is alone."""
    network = NetworkSettings(epochs=3, batch_size=40, hidden=(4,))
    problem = prepare(well(), "jkonet-star-potential", key=KEY)
    training = SideBySide(Network(network=network), problem)
    keys = jax.random.split(KEY, 2)
    state = training.initial(keys)
    spoilt = jax.tree.map(lambda p: p.at[1].set(jnp.nan), state.params)
    after, scalars = training.advance(dataclasses.replace(state, params=spoilt), keys, 3)
    assert training.diverged(after).tolist() == [False, True]
    assert [first_unsound(own) for own in np.asarray(scalars["loss"])] == [None, 1]
    unspoilt, _ = training.advance(training.initial(keys), keys, 3)
    for kept, initial, own in zip(
        *map(jax.tree.leaves, (after.ema, training.initial(keys).ema, unspoilt.ema)), strict=True
    ):
        np.testing.assert_array_equal(kept[1], initial[1])
        np.testing.assert_allclose(kept[0], own[0], rtol=1e-5, atol=1e-6)


def test_a_sound_fit_has_not_diverged_and_warns_of_nothing(no_warning):
    with no_warning():
        energy = fit(well(), "jkonet-star-potential", key=KEY, network=NETWORK)
    assert energy.diverged is None


def one_step_emd(energy, snapshots):
    """Mean Wasserstein-1 distance between predicted and next populations."""
    costs = []
    for k in range(len(snapshots) - 1):
        predicted = energy.predict(jnp.asarray(snapshots[k]), 1, start=k)[1]
        costs.append(exact_plan(np.asarray(predicted), snapshots[k + 1], order=1)[3])
    return np.mean(costs)


@pytest.mark.slow
@pytest.mark.parametrize("solver", ["jkonet-star-potential", "jkonet-star-linear-potential"])
def test_the_gradient_of_styblinski_tang(solver):
    """Within 2 % where the particles are, from snapshots whose rows say nothing."""
    points = simulate(
        KEY, potential="styblinski_tang", n_particles=1000, dimension=2, n_timesteps=5, dt=0.01
    )
    generator = np.random.default_rng(0)
    arrays = [generator.permutation(np.asarray(p)) for p in points]
    energy = fit(
        snapshots_from_arrays(arrays, dt=0.01),
        solver,
        key=KEY,
        network=NetworkSettings(epochs=300),
    )
    x = points[:-1].reshape(-1, 2)
    truth = -jax.vmap(jax.grad(functional("styblinski_tang")))(x)
    assert relative(energy.drift(x), truth) < 0.02


@pytest.mark.slow
@pytest.mark.skipif(not REFERENCE.is_dir(), reason=f"needs {REFERENCE}")
@pytest.mark.parametrize(
    ("name", "published"),
    [("styblinski_tang", 0.00039), ("sphere", 0.00045), ("double_exp", 0.0045)],
)
def test_the_closed_form_on_the_published_snapshots(name, published):
    """One-step-ahead EMD on the held-out particles, no worse than the published closed form's."""
    with np.load(REFERENCE / f"{name}.npz") as archive:
        train, test, dt = archive["train"], archive["test"], float(archive["dt"])
    generator = np.random.default_rng(0)
    snapshots = snapshots_from_arrays([generator.permutation(p) for p in train], dt=dt)
    energy = fit(
        snapshots,
        "jkonet-star-linear-potential",
        key=KEY,
        coupling_settings=CouplingSettings(method="exact"),
    )
    assert one_step_emd(energy, test) < published


def test_couplings_and_densities_of_other_data_are_refused():
    run = functools.partial(fit, solver="jkonet-star-linear-potential", key=0, features=FEATURES)
    couplings, _ = couple(well(), key=KEY)
    for snapshots, message in (
        (well(sizes=(50, 50, 50)), "source rows from 0 to 59, the snapshots 50 particles"),
        (well(sizes=(60, 60)), "couplings of 1 steps need pairs of each"),
    ):
        with pytest.raises(ValueError, match=message):
            run(snapshots, couplings=couplings)
    line = snapshots_from_arrays([x[:, :1] for x in well().arrays()], dt=TAU)
    densities = fit_densities(line, DENSITY, key=0)
    with pytest.raises(ValueError, match="densities have dimension 1, the snapshots 2"):
        run(well(), densities=densities)
    with pytest.raises(ValueError, match="snapshots must be of Snapshots, got float32"):
        run(np.asarray(well().points))
    with pytest.raises(ValueError, match="key must be a key such as"):
        fit(well(), key=0.5)


def test_seeds_and_raw_keys_are_keys():
    network = NetworkSettings(epochs=1, batch_size=120, hidden=(4,))
    run = functools.partial(fit, well(), "jkonet-star-potential", network=network)
    energies = [run(key=key) for key in (KEY, 0, jax.random.PRNGKey(0))]
    raw = jnp.stack([jax.random.PRNGKey(0), jax.random.PRNGKey(1)])
    stack = run(key=raw)
    x = well().points[0]
    for one in energies[1:]:
        np.testing.assert_array_equal(one.drift(x), energies[0].drift(x))
    assert stack.times.shape[0] == 2


@pytest.mark.parametrize(
    "solver", ["jkonet-star-linear", "jkonet-star-linear-potential", "jkonet-star-potential"]
)
@pytest.mark.parametrize("place", [1.0, 1e6 / 3])
def test_a_population_at_one_point_is_said_and_gives_no_nan(solver, place):
    snapshots = snapshots_from_arrays(np.full((3, 20, 2), place), dt=1.0)
    network = NetworkSettings(epochs=1, batch_size=40, hidden=(4,))
    with pytest.warns(UserWarning, match="all particles of all snapshots are at one point"):
        energy = fit(snapshots, solver, key=KEY, network=network, features=FEATURES)
    assert np.isfinite(energy.drift(place + np.array([[0.0, 0.0], [0.5, 0.0], [-1.0, 3.0]]))).all()


def test_networks_that_fit_into_no_memory_are_refused_before_any_work():
    network = NetworkSettings(hidden=(10**9,))
    with pytest.raises(ValueError, match="not enough memory"):
        fit(well(), "jkonet-star-potential", key=KEY, network=network)
    with pytest.raises(ValueError, match=r"not enough memory: .*--map-hidden"):
        fit(well(), "jkonet", key=KEY, bilevel=BilevelSettings(map_hidden=(10**6, 10**6)))


@pytest.mark.parametrize(
    ("solver", "network", "optimizer", "epochs", "batch_size", "rate"),
    [
        ("jkonet-star-potential", {}, "soap", 200, 250, 2e-2),
        ("jkonet-star-time-potential", {"epochs": 7}, "soap", 7, 250, 2e-2),
        ("jkonet-star-potential-internal", {"learning_rate": 1e-3}, "soap", 200, 250, 1e-3),
        ("jkonet-star-potential", {"optimizer": "adam"}, "adam", 1000, 250, 3e-3),
        ("jkonet-star", {"batch_size": 30}, "soap", 200, 30, 2e-2),
        ("jkonet-star", {"optimizer": "adam"}, "adam", 1000, 250, 3e-3),
        ("jkonet", {}, "adam", 1000, 250, 3e-3),
        ("ijkonet", {"optimizer": "soap"}, "soap", 200, 250, 2e-2),
        ("ijkonet-potential", {}, "adam", 1000, 250, 3e-3),
        ("stitching-potential", {"optimizer": "soap"}, "soap", 200, 250, 2e-2),
    ],
)
def test_every_solver_has_its_own_optimiser_unless_told(
    solver, network, optimizer, epochs, batch_size, rate
):
    made = SOLVERS[solver].make(network=NetworkSettings(**network))
    assert made.epochs == epochs
    assert made.training.batch_size == batch_size
    assert (made.training.optimizer, made.training.learning_rate) == (optimizer, rate)
    transformation = made.transformation(updates_per_epoch=1)
    params = {"w": jnp.ones((3, 2)), "b": jnp.ones(2)}
    state = transformation.init(params)
    assert ("SoapState" in str(jax.tree_util.tree_structure(state))) == (optimizer == "soap")
    # What is no matrix begins with a step of the rate, by either.
    updates, _ = transformation.update(params, state, params)
    np.testing.assert_allclose(updates["b"], -rate, rtol=1e-3)


@pytest.mark.parametrize(
    ("solver", "n", "network", "found"),
    [
        ("jkonet-star", 4000, {}, (100, 125)),
        ("jkonet-star", 3999, {}, (200, 250)),
        ("jkonet-star-potential", 4000, {}, (200, 250)),
        ("jkonet-star", 4000, {"epochs": 200}, (200, 250)),
        ("jkonet-star", 4000, {"batch_size": 250}, (200, 250)),
        ("jkonet-star", 4000, {"optimizer": "adam"}, (1000, 250)),
        ("ijkonet", 4000, {"optimizer": "soap"}, (200, 250)),
    ],
)
def test_many_couplings_with_an_interaction_take_batches_of_half_the_size(
    solver, n, network, found
):
    """Where nobody says otherwise: as many steps."""
    problem = prepare(well(), "jkonet-star-potential", key=KEY)
    problem = dataclasses.replace(problem, conditions=filled_up(problem.conditions, n))
    made = SOLVERS[solver].make(network=NetworkSettings(**network))
    settled = made.settled(problem)
    assert (settled.training.epochs, settled.training.batch_size) == found


def test_an_optimiser_of_ones_own_has_the_epochs_of_adam():
    assert Network(optimizer=optax.sgd(0.1)).epochs == 1000
