"""The residual of Stitching, against sums by hand; what it finds, against flows that are known."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from diffusions.precision import einsum
from jkonet_star import Network, fit, snapshots_from_arrays
from jkonet_star.baselines.stitching import Stitching, kernel_score
from jkonet_star.settings import InternalSettings, NetworkSettings
from jkonet_star.solvers.problem import prepare
from jkonet_star.solvers.registry import Terms
from jkonet_star.solvers.side_by_side import SideBySide

KEY = jax.random.key(0)
N, TAU, STEPS = 200, 0.1, 3
RATES = np.array([1.0, 2.0])
EPOCHS = 150


class Bowl(nn.Module):
    """sum_i a_i x_i^2 / 2, with one a or several; of points in the data's units."""

    several: bool = True

    @nn.compact
    def __call__(self, x):
        shape = x.shape[-1:] if self.several else (1,)
        a = self.param("a", nn.initializers.constant(0.1), shape)
        return 0.5 * jnp.sum(a * x**2, axis=-1)


def network(**more):
    return NetworkSettings(**{"epochs": EPOCHS, "batch_size": N, **more})


def unpaired(n=N, seed=0):
    """Explicit steps of RATES from a normal law, each snapshot of particles of its own.

    Of the same mean and deviation, whose chance would be taken for motion by whatever learns from them.
    """
    generator = np.random.default_rng(seed)
    factors = (1 - TAU * RATES) ** np.arange(STEPS + 1)[:, None, None]
    x = generator.normal(size=(STEPS + 1, n, 2))
    x = (x - x.mean(axis=1, keepdims=True)) / x.std(axis=1, keepdims=True)
    return snapshots_from_arrays(factors * x, dt=TAU)


@pytest.mark.parametrize("scheme", ["explicit", "implicit", "midpoint"])
def test_the_residual_is_what_the_paths_miss_of_the_flow(scheme):
    """V, U and the score of the kernels, summed in NumPy."""
    terms = Terms(potential=True, interaction=True)
    solver = Stitching(
        terms=terms,
        potential=Bowl(),
        interaction=Bowl(),
        network=network(interaction_samples=0),
    )
    problem = prepare(unpaired(), solver, key=KEY, scheme=scheme)
    data, _ = solver.prepare(problem)
    beta = 0.3
    data = data.replace(
        frame=data.frame.replace(internal="given"),
        units=data.units.replace(beta=jnp.asarray(beta)),
    )
    generator = np.random.default_rng(4)
    x = generator.normal(size=(STEPS + 1, N, 2))
    length, speed = float(data.units.length), float(data.units.speed)
    center = np.asarray(data.units.center)
    ratio = float(jnp.mean(data.ratio))
    energy = {name: {"params": {"a": jnp.asarray(RATES)}} for name in ("potential", "interaction")}
    params = {
        "energy": energy,
        "particles": jnp.asarray((x - center) / length / ratio, jnp.float32),
    }
    paths = np.arange(0, N, 3)
    ours = jax.jit(solver.residual)(params, data, jnp.asarray(paths), KEY)
    expected = []
    for before, after in zip(x[:-1], x[1:], strict=True):
        p = {"explicit": before, "implicit": after, "midpoint": (before + after) / 2}[scheme]
        # Both bowls have the slope s a u, U about the mean of the population.
        pull = speed * RATES * ((p - center) + (p - p.mean(axis=0))) / length
        precision = np.linalg.inv(np.cov(p.T, bias=True) * N ** (-2 / 6))
        offset = p[:, None] - p
        kernels = np.exp(-0.5 * np.einsum("ijk,kl,ijl->ij", offset, precision, offset))
        score = (kernels @ p / kernels.sum(axis=1, keepdims=True) - p) @ precision
        missing = (after - before) / TAU + pull + beta * score
        expected.append((missing[paths] ** 2).sum(axis=1).mean() / speed**2)
    assert float(ours) == pytest.approx(np.mean(expected), rel=1e-4)


def test_few_particles_for_the_interaction_bring_no_bias():
    def residual(samples):
        solver = Stitching(
            terms=Terms(interaction=True),
            interaction=Bowl(),
            network=network(interaction_samples=samples),
        )
        data, _ = solver.prepare(prepare(unpaired(), solver, key=KEY))
        params = solver.init(KEY, data).params
        params["energy"] = jax.tree.map(lambda a: jnp.full_like(a, 3.0), params["energy"])
        keys = jax.random.split(KEY, 400 if samples else 1)
        return jax.jit(jax.vmap(lambda key: solver.residual(params, data, jnp.arange(N), key)))(
            keys
        )

    few, all_ = np.asarray(residual(2)), float(residual(0)[0])
    assert abs(few.mean() - all_) < 4 * few.std() / np.sqrt(len(few))
    assert few.std() < 0.2 * all_


def test_the_score_is_the_slope_of_the_log_density():
    generator = np.random.default_rng(2)
    x, p = generator.normal(size=(50, 3)), generator.normal(size=(4, 3))
    x *= [1.0, 3.0, 0.2]
    precision = np.linalg.inv(np.cov(x.T, bias=True) * 50 ** (-2 / 7))

    def log_density(p):
        return jax.nn.logsumexp(-0.5 * einsum("ij,jk,ik->i", p - x, precision, p - x))

    np.testing.assert_allclose(
        kernel_score(jnp.asarray(p), jnp.asarray(x)),
        jax.vmap(jax.grad(log_density))(jnp.asarray(p)),
        rtol=1e-3,
    )


def test_it_finds_a_flow_from_different_particles():
    """Better than the couplings that its paths begin along, which take sampling for motion."""
    search = {
        "potential": Bowl(),
        "network": network(),
        "optimizer": optax.adam(optax.cosine_decay_schedule(0.1, EPOCHS)),
    }
    errors = []
    for solver in (Stitching(**search), Network(**search)):
        energy = fit(unpaired(), solver, key=KEY)
        assert energy.scheme == "explicit"
        x = np.eye(2) + np.asarray(energy.constants.center)
        errors.append(np.abs(np.diag(np.asarray(energy.drift(x, x))) + RATES) / RATES)
    ours, coupled = errors
    assert ours.max() < 0.08
    assert (ours < 0.5 * coupled).all()


def test_it_finds_an_interaction_and_a_beta_beside_it():
    """Normal laws about a mean that rests: the deviation of a coordinate obeys s' = -a s + beta / s."""
    a, beta, n = 3.0, 0.5, 400
    generator = np.random.default_rng(5)
    x = generator.normal(size=(n, 2)) * np.array([2.0, 0.3])
    x -= x.mean(axis=0)
    states, deviation = [x], x.std(axis=0)
    for _ in range(STEPS):
        new = deviation + 0.05 * (beta / deviation - a * deviation)
        states.append(states[-1] * (new / deviation))
        deviation = new
    solver = Stitching(
        terms=Terms(interaction=True, internal=True),
        interaction=Bowl(several=False),
        network=network(batch_size=n),
        optimizer=optax.adam(optax.cosine_decay_schedule(0.1, EPOCHS)),
    )
    snapshots = snapshots_from_arrays(states, dt=0.05)
    training = SideBySide(
        solver, prepare(snapshots, Stitching(terms=Terms(interaction=True)), key=KEY)
    )
    training.data = training.data.replace(frame=training.data.frame.replace(internal="learned"))
    state, _ = training.advance(training.initial(KEY[None]), KEY[None], EPOCHS)
    energy = training.energies(state).member(0)
    probe = np.eye(2)
    pull = -np.diag(np.asarray(energy.drift(probe, np.concatenate([probe, -probe]))))
    np.testing.assert_allclose(pull, a, rtol=0.1)
    # A kernel's density is wider than the particles' own, and its score flatter.
    assert beta < float(energy.beta) < 1.5 * beta


def test_epochs_in_two_calls_are_the_same_epochs():
    solver = Stitching(potential=Bowl(), network=NetworkSettings(epochs=2, batch_size=64))
    training, keys = SideBySide(solver, prepare(unpaired(), solver, key=KEY)), KEY[None]
    whole, losses = training.advance(training.initial(keys), keys, 2)
    state, first = training.advance(training.initial(keys), keys, 1)
    state, second = training.advance(state, keys, 1)
    for one, other in zip(jax.tree.leaves(whole), jax.tree.leaves(state), strict=True):
        np.testing.assert_array_equal(one, other)
    parts = np.concatenate([first["loss"], second["loss"]], axis=1)
    np.testing.assert_array_equal(losses["loss"], parts)
    assert len(np.unique(parts)) == 2


@pytest.mark.parametrize(
    ("solver", "more", "message"),
    [
        (lambda: Stitching(match_weight=0.0), {}, "match_weight"),
        (lambda: Stitching(particle_learning_rate=-1.0), {}, "particle_learning_rate"),
        (lambda: "stitching-potential", {"growth": True}, "neither begin nor end"),
        (lambda: "stitching-potential", {"circulation": True}, "circulation"),
    ],
)
def test_what_it_cannot_do_is_refused(solver, more, message):
    with pytest.raises(ValueError, match=message):
        fit(unpaired(), solver(), key=KEY, **more)


@pytest.mark.parametrize(
    ("internal", "size", "what"),
    [
        (False, 800, "distances in batches of batch_size 800"),
        (True, 200, "the density of 800 paths"),
    ],
)
def test_what_does_not_fit_into_memory_is_refused_before_it_is_made(
    internal, size, what, monkeypatch
):
    solver = Stitching(
        terms=Terms(potential=True, internal=internal), network=network(batch_size=size)
    )
    first_order = InternalSettings(beta_estimator="first-order")
    problem = prepare(unpaired(800), solver, key=KEY, internal=first_order)
    solver.check_problem(problem)
    monkeypatch.setattr("diffusions.memory.available_bytes", lambda: 3 * 2**19)
    with pytest.raises(ValueError, match=f"not enough memory: {what}"):
        solver.check_problem(problem)
