"""The loss: zero at the truth, known elsewhere, and unbiased when sampled."""

import dataclasses

import jax
import jax.flatten_util
import jax.numpy as jnp
import numpy as np
import pytest

from jkonet_star.densities import GaussianMixtures
from jkonet_star.energies.features import Features, monomial_exponents
from jkonet_star.energies.models import LinearEnergy, NetworkEnergy, Units
from jkonet_star.settings import SCHEMES
from jkonet_star.snapshots import Snapshots, snapshots_from_arrays
from jkonet_star.solvers.first_order import (
    PAIRED_FACTOR,
    compactly_ordered,
    first_order_conditions,
    jko_loss,
    residuals,
    with_known_beta,
)
from jkonet_star.transport.couplings import Couplings, couple

pytestmark = pytest.mark.usefixtures("double_precision")

A = np.array([[2.0, 0.5], [0.5, -0.3]])
TILT = np.array([0.4, -1.0])
B = np.array([[1.0, -0.4], [-0.4, 0.8]])
TILT_U = np.array([-0.3, 0.2])  # U is not even
BETA = 0.35
MEAN = np.array([0.3, 0.1])
FACTOR = np.array([[0.8, 0.0], [-0.3, 1.1]])  # W of the density, inverse covariance W^T W
TIMES = np.array([0.0, 0.1, 0.35])


def quadratic_features():
    return Features(
        dimension=2,
        exponents=monomial_exponents(2, 2, 2),
        trigonometric=False,
        radial="none",
        width=1.0,
        n_centers=0,
    )


def coefficients(matrix, tilt):
    """Of x^T matrix x / 2 + tilt . x in the monomials."""
    known = {
        (2, 0): matrix[0, 0] / 2,
        (0, 2): matrix[1, 1] / 2,
        (1, 1): matrix[0, 1],
        (1, 0): tilt[0],
        (0, 1): tilt[1],
    }
    return jnp.asarray([known[e] for e in quadratic_features().exponents])


MODEL = LinearEnergy(
    dimension=2,
    potential_features=quadratic_features(),
    interaction_features=quadratic_features(),
    internal="learned",
)


def truth():
    return {
        "potential": coefficients(A, TILT),
        "interaction": coefficients(B, TILT_U),
        "internal": jnp.asarray(BETA),
    }


def constants():
    return {"potential": jnp.zeros((0, 2)), "interaction": jnp.zeros((0, 2))}


def score(p):
    return -(p - MEAN) @ FACTOR.T @ FACTOR


def force(p, weights):
    """Minus the drift of a population p with these weights, written out."""
    return p @ A + TILT + (p - weights @ p) @ B + TILT_U + BETA * score(p)


def made(scheme, n=12, seed=0, times=TIMES):
    """Snapshots that follow the scheme exactly, particle i always in row i, and their couplings."""
    generator = np.random.default_rng(seed)
    weights = generator.uniform(0.2, 1.0, n)
    weights /= weights.sum()
    first = generator.normal(size=(n, 2)) * 1.5 + 0.5
    path, steps = [first], np.diff(times)
    if scheme == "explicit":
        for tau in steps:
            path.append(path[-1] - tau * force(path[-1], weights))
    elif scheme == "implicit":
        for tau in steps[::-1]:
            path.insert(0, path[0] + tau * force(path[0], weights))
    else:
        # force(p) = p M - w.p B + c is affine: solve y = x - tau force((x + y) / 2).
        matrix = A + B - BETA * FACTOR.T @ FACTOR
        for tau in steps:
            x = path[-1]
            # The mean first, which feels no difference to itself.
            mean = weights @ x
            single = A - BETA * FACTOR.T @ FACTOR
            constant = TILT + TILT_U + BETA * MEAN @ FACTOR.T @ FACTOR
            half = 0.5 * tau
            middle_mean = (mean - half * constant) @ np.linalg.inv(np.eye(2) + half * single)
            right = x - half * (constant - middle_mean @ B)
            middle = right @ np.linalg.inv(np.eye(2) + half * matrix)
            path.append(2 * middle - x)
    n_steps = len(steps)
    snapshots = Snapshots(
        points=jnp.asarray(np.stack(path)),
        weights=jnp.asarray(np.tile(weights, (n_steps + 1, 1))),
        times=jnp.asarray(times),
    )
    rows = np.tile(np.arange(n), n_steps)
    couplings = Couplings(
        step=jnp.asarray(np.repeat(np.arange(n_steps), n), jnp.int32),
        source=jnp.asarray(rows, jnp.int32),
        target=jnp.asarray(rows, jnp.int32),
        weight=jnp.asarray(np.tile(weights, n_steps)),
    )
    return snapshots, couplings


def density(n_snapshots=3):
    return GaussianMixtures(
        log_weights=jnp.zeros((n_snapshots, 1)),
        means=jnp.asarray(np.tile(MEAN, (n_snapshots, 1, 1))),
        precision_factors=jnp.asarray(np.tile(FACTOR, (n_snapshots, 1, 1, 1))),
    )


def conditions_of(scheme, data_scheme=None, **changes):
    snapshots, couplings = made(data_scheme or scheme, **changes)
    return first_order_conditions(snapshots, couplings, density(snapshots.n_snapshots), scheme)


jitted_loss = jax.jit(jko_loss, static_argnames=("model", "interaction_samples", "pull_ridge"))


def loss_at(params, conditions, rows=None, model=MODEL, constants_=None, speed=1.0, **options):
    rows = jnp.arange(len(conditions.step)) if rows is None else jnp.asarray(rows)
    constants_ = constants() if constants_ is None else constants_
    speed = jnp.asarray(speed)
    return jitted_loss(model, params, constants_, conditions, rows, speed=speed, **options)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_the_loss_vanishes_at_the_truth(scheme):
    assert float(loss_at(truth(), conditions_of(scheme))) < 1e-24


@pytest.mark.parametrize("scheme", SCHEMES)
def test_no_other_scheme_vanishes_there(scheme):
    for data_scheme in set(SCHEMES) - {scheme}:
        assert float(loss_at(truth(), conditions_of(scheme, data_scheme))) > 1e-4


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("term", ["potential", "interaction", "internal"])
def test_a_known_error_costs_what_it_should(scheme, term):
    """A tilt delta of V or U costs |delta|^2 / s^2 at every pair; beta, its share of the score."""
    conditions = conditions_of(scheme)
    params = truth()
    if term == "internal":
        params["internal"] += 0.2
        squared = 0.2**2 * np.sum(np.asarray(score(conditions.point)) ** 2, axis=1)
        per_step = [np.sum((conditions.weight * squared)[conditions.step == k]) for k in (0, 1)]
        expected = np.mean(per_step) / 3.0**2
    else:
        params[term] += coefficients(np.zeros((2, 2)), np.array([0.3, -0.4]))
        expected = 0.25 / 3.0**2
    np.testing.assert_allclose(loss_at(params, conditions, speed=3.0), expected, rtol=1e-9)


def test_a_population_is_gathered_by_the_couplings_not_by_row():
    """Target rows in another order and unequal splits of mass give the same populations."""
    snapshots, couplings = made("implicit")
    order = np.random.default_rng(1).permutation(12)
    points = np.asarray(snapshots.points).copy()
    points[1:] = points[1:][:, order]
    weights = np.asarray(snapshots.weights).copy()
    weights[1:] = weights[1:][:, order]
    new_row = np.argsort(order)
    step = np.asarray(couplings.step)
    shuffled = couplings.replace(
        source=jnp.asarray(np.where(step == 0, couplings.source, new_row[couplings.source])),
        target=jnp.asarray(new_row[couplings.target]),
    )
    moved = snapshots.replace(points=jnp.asarray(points), weights=jnp.asarray(weights))
    conditions = first_order_conditions(moved, shuffled, density(), "implicit")
    assert float(loss_at(truth(), conditions)) < 1e-24
    halves = jax.tree.map(lambda leaf: jnp.concatenate([leaf, leaf]), shuffled)
    halves = halves.replace(weight=0.5 * halves.weight)
    split = first_order_conditions(moved, halves, density(), "implicit")
    np.testing.assert_allclose(split.population_weights, conditions.population_weights)
    params = jax.tree.map(lambda leaf: leaf + 0.1, truth())
    np.testing.assert_allclose(loss_at(params, split), loss_at(params, conditions), rtol=1e-12)


def test_lineages_follow_the_heaviest_pairs():
    points = jnp.zeros((4, 3, 1))
    snapshots = Snapshots(points=points, weights=jnp.full((4, 3), 1 / 3), times=jnp.arange(4.0))
    rows = [  # step, source, target, weight
        *[(0, 0, 1, 0.3), (0, 1, 2, 0.2), (0, 2, 0, 0.2), (0, 0, 2, 0.1), (0, 1, 0, 0.2)],
        *[(1, 1, 0, 0.6), (1, 2, 2, 0.4)],
        *[(2, 0, 0, 0.4), (2, 1, 1, 0.3), (2, 2, 2, 0.3)],
    ]
    step, source, target, weight = (jnp.asarray(column) for column in zip(*rows, strict=True))
    couplings = Couplings(step=step, source=source, target=target, weight=weight)
    found = np.asarray(first_order_conditions(snapshots, couplings, None, "explicit").lineage)
    np.testing.assert_array_equal(found[:5], [0, 1, 2, 0, 1])
    # Equal weights at the target 0 of step 0: either may win.
    assert found[5:7].tolist() == [0, 1]
    assert found[7] == 0
    assert found[9] == 1
    assert found[8] not in (0, 1, 2)  # nothing led there


def test_midpoint_populations_of_unequal_steps():
    """Steps with different numbers of pairs: the shorter one is filled without weight."""
    snapshots, couplings = made("midpoint")
    extra = jax.tree.map(lambda leaf: jnp.concatenate([leaf, leaf[:3]]), couplings)
    weight = extra.weight.at[:3].multiply(0.25).at[-3:].multiply(0.75)
    extra = extra.replace(weight=weight)
    split = first_order_conditions(snapshots, extra, density(), "midpoint")
    plain = first_order_conditions(snapshots, couplings, density(), "midpoint")
    assert split.population.shape == (2, 15, 2)
    np.testing.assert_allclose(split.population_weights.sum(axis=1), 1.0)
    params = jax.tree.map(lambda leaf: leaf + 0.1, truth())
    np.testing.assert_allclose(loss_at(params, split), loss_at(params, plain), rtol=1e-12)


NETWORK = NetworkEnergy(
    dimension=2, hidden=(5,), has_interaction=True, internal="learned", time_varying=True
)


def network_parts(seed=0):
    one = jnp.ones(())
    units = Units(
        center=jnp.asarray([0.5, 0.4]),
        length=1.5 * one,
        speed=2.0 * one,
        time_start=0.0 * one,
        time_step=0.175 * one,
        noise=0.7 * one,
        beta=0.0 * one,
    )
    params = NETWORK.init(jax.random.key(seed))
    return jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float64), params), units


@pytest.mark.parametrize("scheme", SCHEMES)
def test_the_loss_is_the_formula_written_out(scheme):
    conditions = conditions_of(scheme, "explicit")
    params, units = network_parts()
    tau = np.diff(TIMES)
    lag = {"explicit": 0.0, "implicit": 1.0, "midpoint": 0.5}[scheme]

    @jax.jit
    @jax.vmap
    def residual(k, p, displacement):
        t = (jnp.asarray(TIMES[:-1]) + lag * jnp.asarray(tau))[k]
        gradient = jax.grad(lambda x: NETWORK.potential(params, units, x, t))(p)
        pull = jax.vmap(lambda y: jax.grad(lambda z: NETWORK.interaction(params, units, z))(p - y))
        gradient += conditions.population_weights[k] @ pull(conditions.population[k])
        gradient += NETWORK.beta(params, units) * score(p)
        return jnp.asarray(tau)[k] * gradient + displacement

    r = residual(conditions.step, conditions.point, conditions.displacement)
    squared = np.sum(np.asarray(r) ** 2, axis=1) / (2.0 * tau[np.asarray(conditions.step)]) ** 2
    total = np.sum(np.asarray(conditions.weight) * squared)
    found = loss_at(params, conditions, model=NETWORK, constants_=units, speed=2.0)
    np.testing.assert_allclose(found, total / 2, rtol=1e-10)


@pytest.mark.parametrize("samples", [0, 4])
@pytest.mark.parametrize("scheme", SCHEMES)
def test_gradient_of_the_loss_against_central_differences(scheme, samples):
    conditions = conditions_of(scheme, "explicit")
    params, units = network_parts()
    flat, unflatten = jax.flatten_util.ravel_pytree(params)

    @jax.jit
    def loss(flat):
        options = {"key": jax.random.key(0), "interaction_samples": samples} if samples else {}
        return loss_at(
            unflatten(flat), conditions, model=NETWORK, constants_=units, speed=2.0, **options
        )

    gradient = jax.jit(jax.grad(loss))(flat)
    generator = np.random.default_rng(0)
    for _ in range(4):
        direction = jnp.asarray(generator.normal(size=flat.shape))
        h = 1e-5
        slope = (loss(flat + h * direction) - loss(flat - h * direction)) / (2 * h)
        np.testing.assert_allclose(gradient @ direction, slope, rtol=1e-7)


@pytest.mark.parametrize("samples", [2, 5])
def test_the_sampled_loss_is_unbiased(samples):
    """Equation (3): its mean is the full loss; without its correction it is not."""
    conditions = conditions_of("explicit", "implicit")
    params, units = network_parts()
    rows = jnp.arange(len(conditions.step))
    full = float(loss_at(params, conditions, model=NETWORK, constants_=units))

    @jax.jit
    @jax.vmap
    def sampled(key):
        return loss_at(
            params,
            conditions,
            model=NETWORK,
            constants_=units,
            key=key,
            interaction_samples=samples,
        )

    @jax.jit
    @jax.vmap
    def excess(key):
        _, excess = residuals(
            NETWORK, params, units, conditions, rows, key=key, interaction_samples=samples
        )
        return jnp.sum(conditions.weight * excess / conditions.tau**2) / 2

    keys = jax.random.split(jax.random.key(1), 4000)
    values = np.asarray(sampled(keys))
    error = values.std() / np.sqrt(len(values))
    assert abs(values.mean() - full) < 4 * error
    assert np.asarray(excess(keys)).mean() > 6 * error


@pytest.mark.parametrize("samples", [0, 5])
def test_a_ridge_adds_the_square_of_the_pull(samples):
    """Equation (5), without bias; nothing where no potential could take its place."""
    conditions = conditions_of("explicit", "implicit")
    params, units = network_parts()
    pull = dataclasses.replace(NETWORK, has_potential=False, internal="none")
    still = dataclasses.replace(conditions, displacement=jnp.zeros((24, 2)))
    square = float(loss_at(params, still, model=pull, constants_=units))

    @jax.jit
    @jax.vmap
    def added(key):
        options = {"key": key, "interaction_samples": samples} if samples else {}
        without, with_ridge = (
            loss_at(
                params, conditions, model=NETWORK, constants_=units, pull_ridge=ridge, **options
            )
            for ridge in (0.0, 0.3)
        )
        return with_ridge - without

    found = np.asarray(added(jax.random.split(jax.random.key(3), 3000 if samples else 1)))
    error = 4 * found.std() / np.sqrt(len(found))
    assert abs(found.mean() - 0.3 * square) < error + 1e-10 * square
    for ridge in (0.0, 0.3):
        alone = loss_at(params, still, model=pull, constants_=units, pull_ridge=ridge)
        assert float(alone) == pytest.approx(square, rel=1e-12)


def test_an_order_changes_no_condition():
    """Particles are where the pairs' rows say, with their weights, and pull as they did."""
    conditions = conditions_of("midpoint", "explicit")
    ordered = compactly_ordered(conditions)
    assert (np.asarray(ordered.population) != np.asarray(conditions.population)).any()
    for name in ("population", "population_weights"):
        np.testing.assert_array_equal(
            np.asarray(getattr(ordered, name))[ordered.step, ordered.row],
            np.asarray(getattr(conditions, name))[conditions.step, conditions.row],
        )
    np.testing.assert_array_equal(
        np.sort(ordered.population, axis=1), np.sort(conditions.population, axis=1)
    )
    params, units = network_parts()
    losses = [loss_at(params, c, model=NETWORK, constants_=units) for c in (conditions, ordered)]
    np.testing.assert_allclose(losses[0], losses[1], rtol=1e-12)


def test_sampling_follows_the_weights_of_the_population():
    """A U that is linear in one marked particle's distance would show uniform sampling."""
    conditions = conditions_of("explicit", n=4)
    weights = jnp.asarray([[0.7, 0.3, 0.0, 0.0], [0.0, 0.0, 0.1, 0.9]])
    conditions = conditions.replace(population_weights=weights)
    model = LinearEnergy(
        dimension=2, potential_features=None, interaction_features=quadratic_features()
    )
    params = {"interaction": coefficients(np.eye(2), np.zeros(2))}

    @jax.jit
    @jax.vmap
    def drift(key):
        r, _ = residuals(
            model,
            params,
            constants(),
            conditions,
            jnp.arange(8),
            key=key,
            interaction_samples=3,
        )
        return (r - conditions.displacement) / conditions.tau[:, None]

    found = np.asarray(drift(jax.random.split(jax.random.key(0), 3000)))
    means = np.einsum("km,kmd->kd", weights, conditions.population)
    expected = conditions.point - means[np.asarray(conditions.step)]
    error = found.std(axis=0) / np.sqrt(len(found))
    assert (np.abs(found.mean(axis=0) - expected) < 4.5 * error + 1e-12).all()


@pytest.mark.parametrize("size", [24, 8, 7, 1])
def test_batches_of_an_epoch_average_to_the_full_loss(size):
    """With fillers in the last batch, batches count by their real pairs."""
    conditions = conditions_of("midpoint", "explicit")
    params = jax.tree.map(lambda leaf: leaf + 0.2, truth())
    order = np.random.default_rng(0).permutation(24)
    filled = np.concatenate([order, np.full(-24 % size, -1)]).reshape(-1, size)
    losses = [float(loss_at(params, conditions, rows)) for rows in filled]
    counts = (filled >= 0).sum(axis=1)
    full = float(loss_at(params, conditions))
    assert np.dot(losses, counts) / 24 == pytest.approx(full, rel=1e-12)


def test_fillers_do_not_count():
    conditions = conditions_of("explicit", "implicit")
    params = jax.tree.map(lambda leaf: leaf + 0.2, truth())
    plain = loss_at(params, conditions, [3, 0, 17])
    filled = loss_at(params, conditions, [3, -1, 0, 17, -1, -1])
    np.testing.assert_allclose(filled, plain, rtol=1e-14)


def test_without_densities_there_is_no_score_and_beta_has_no_term():
    snapshots, couplings = made("explicit")
    conditions = first_order_conditions(snapshots, couplings, None, "explicit")
    assert conditions.score is None
    params = jax.tree.map(lambda leaf: leaf + 0.2, truth())
    noisier = params | {"internal": params["internal"] + 1.0}
    assert float(loss_at(params, conditions)) == float(loss_at(noisier, conditions)) > 0
    shifted = with_known_beta(conditions, BETA, paired=False, scheme="explicit")
    np.testing.assert_array_equal(shifted.displacement, conditions.displacement)


@pytest.mark.parametrize(("scheme", "first"), [("explicit", 0), ("implicit", 1)])
def test_the_populations_are_those_of_the_snapshots_and_no_copies(scheme, first):
    points = np.random.default_rng(0).standard_normal((3, 16, 4), np.float32)
    snapshots = snapshots_from_arrays(points)
    couplings, _ = couple(snapshots, key=jax.random.key(0))
    conditions = first_order_conditions(snapshots, couplings, None, scheme)
    np.testing.assert_array_equal(conditions.population, points[first : first + 2])
    if jax.default_backend() == "cpu":
        assert np.shares_memory(conditions.population, snapshots.points)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_a_known_beta_stands_in_for_a_learned_one(scheme):
    """Between independent samples the term is the one of equation (1)."""
    conditions = with_known_beta(conditions_of(scheme), BETA, paired=False, scheme=scheme)
    model = dataclasses.replace(MODEL, internal="given")
    params = truth()
    assert float(loss_at(params, conditions, model=model)) < 1e-24
    params = jax.tree.map(lambda leaf: leaf + 0.1, params) | {"internal": jnp.asarray(BETA)}
    np.testing.assert_allclose(
        loss_at(params, conditions, model=model),
        loss_at(params, conditions_of(scheme)),
        rtol=1e-10,
    )


@pytest.mark.parametrize("scheme", SCHEMES)
def test_the_noise_of_paired_particles_is_counted_as_tweedie_has_it(scheme):
    """Equation (4) on Gaussian data: E[xi | p] = -factor beta tau grad log rho(p)."""
    n, tau, beta, variance = 400_000, 0.3, 0.5, 0.8
    generator = np.random.default_rng(0)
    x = np.sqrt(variance) * generator.normal(size=n)
    xi = np.sqrt(2 * beta * tau) * generator.normal(size=n)
    p = {"explicit": x, "implicit": x + xi, "midpoint": x + xi / 2}[scheme]
    slope = np.mean(xi * p) / np.mean(p**2)
    # rho of the midpoint is taken to be the mean of both scores: right to first order in tau.
    if scheme == "midpoint":
        score = -0.5 * (1 / variance + 1 / (variance + 2 * beta * tau))
    else:
        score = -1 / np.var(p)
    expected = -PAIRED_FACTOR[scheme] * beta * tau * score
    assert slope == pytest.approx(expected, abs=0.01 if scheme != "midpoint" else 0.05)
    shifted = with_known_beta(conditions_of(scheme), BETA, paired=True, scheme=scheme)
    plain = conditions_of(scheme)
    found = (shifted.displacement - plain.displacement) / (plain.tau[:, None] * plain.score)
    np.testing.assert_allclose(found, PAIRED_FACTOR[scheme] * BETA, rtol=1e-10)
