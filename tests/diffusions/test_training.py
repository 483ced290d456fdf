"""The training loop against closed forms, and whatever way its epochs are cut into calls."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from diffusions.training import cut_batch, initial_state, shuffled_batches, train_epochs

KEY = jax.random.key(3)
RATE = 0.1
TARGET = np.array([2.0, -1.0], np.float32)


def quadratic(params, batch, key):
    """|theta - c|^2 / 2 with c the mean of the batch: a step of SGD is theta += rate (c - theta)."""
    del key
    gap = params - batch.mean(axis=0)
    return 0.5 * jnp.sum(gap**2), {"gap": gap[0]}


def constant_batches(n_batches):
    return lambda key: jnp.broadcast_to(jnp.asarray(TARGET), (n_batches, 4, 2))


def test_sgd_on_a_quadratic_follows_its_closed_form():
    optimizer = optax.sgd(RATE)
    start = jnp.array([5.0, 3.0])
    state, scalars = train_epochs(
        initial_state(start, optimizer),
        KEY,
        batches=constant_batches(3),
        loss=quadratic,
        optimizer=optimizer,
        n_epochs=4,
    )
    gap = start - TARGET
    np.testing.assert_allclose(state.params, TARGET + (1 - RATE) ** 12 * gap, rtol=1e-5)
    np.testing.assert_array_equal(state.ema, state.params)
    assert int(state.epoch) == 4
    # Reported is the mean over an epoch's steps, each before its update.
    factors = (1 - RATE) ** np.arange(12).reshape(4, 3)
    np.testing.assert_allclose(scalars["gap"], (factors * gap[0]).mean(axis=1), rtol=1e-5)
    expected = (factors**2).mean(axis=1) * 0.5 * np.sum(np.asarray(gap) ** 2)
    np.testing.assert_allclose(scalars["loss"], expected, rtol=1e-5)


def test_the_average_is_the_exponential_one_from_the_start():
    optimizer, decay = optax.sgd(RATE), 0.7
    state, _ = train_epochs(
        initial_state(jnp.array([5.0, 3.0]), optimizer),
        KEY,
        batches=constant_batches(2),
        loss=quadratic,
        optimizer=optimizer,
        n_epochs=3,
        ema_decay=decay,
    )
    theta = ema = np.array([5.0, 3.0])
    for _ in range(6):
        theta = theta + RATE * (TARGET - theta)
        ema = decay * ema + (1 - decay) * theta
    np.testing.assert_allclose(state.params, theta, rtol=1e-5)
    np.testing.assert_allclose(state.ema, ema, rtol=1e-5)


DATA = jax.random.normal(jax.random.key(0), (23, 2))
ADAM = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(1e-2))


def noisy_loss(params, rows, key):
    """A small network on shuffled batches with noise in the loss: everything that uses a key."""
    drawn = jax.random.uniform(key)
    x = DATA[jnp.maximum(rows, 0)] + 0.1 * drawn
    hidden = jnp.tanh(x @ params["w"] + params["b"])
    error = hidden.sum(axis=1) - jnp.sin(3 * x[:, 0])
    return jnp.mean(error**2 * (rows >= 0)), {"drawn": drawn}


def start(seed=0):
    key = jax.random.key(seed)
    params = {"w": jax.random.normal(key, (2, 16)), "b": jnp.zeros(16)}
    return initial_state(params, ADAM)


@functools.partial(jax.jit, static_argnames="n_epochs")
def train(state, key, n_epochs):
    return train_epochs(
        state,
        key,
        batches=lambda k: shuffled_batches(k, len(DATA), 5),
        loss=noisy_loss,
        optimizer=ADAM,
        n_epochs=n_epochs,
        ema_decay=0.9,
    )


@pytest.mark.parametrize("cuts", [(2, 2), (1, 3), (1, 1, 1, 1)])
def test_epochs_in_several_calls_repeat_the_uninterrupted_run_bit_for_bit(cuts):
    whole, whole_scalars = train(start(), KEY, 4)
    state, parts = start(), []
    for n_epochs in cuts:
        state, scalars = train(state, KEY, n_epochs)
        parts.append(scalars)
        # An evaluation in between, with keys of its own, leaves no trace.
        noisy_loss(state.ema, jnp.arange(5), jax.random.fold_in(KEY, 0))
    for one, two in zip(jax.tree.leaves(whole), jax.tree.leaves(state), strict=True):
        np.testing.assert_array_equal(one, two)
    for name in whole_scalars:
        joined = np.concatenate([p[name] for p in parts])
        np.testing.assert_array_equal(joined, whole_scalars[name])


def test_every_epoch_and_every_key_draws_anew():
    _, first = train(start(), KEY, 4)
    _, other = train(start(), jax.random.key(4), 4)
    drawn = np.concatenate([first["drawn"], other["drawn"]])
    assert len(np.unique(drawn)) == 8


def test_an_epochs_draws_depend_on_its_number_alone():
    _, scalars = train(start(), KEY, 4)
    later = start(seed=7).replace(epoch=jnp.asarray(2, jnp.int32))
    _, resumed = train(later, KEY, 2)
    np.testing.assert_array_equal(resumed["drawn"], scalars["drawn"][2:])


def test_seeds_side_by_side_equal_seeds_one_by_one():
    keys = jax.random.split(KEY, 3)
    states = [start(seed) for seed in range(3)]
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *states)
    together, scalars = jax.vmap(lambda s, k: train(s, k, 4))(stacked, keys)
    for i, (state, key) in enumerate(zip(states, keys, strict=True)):
        alone, alone_scalars = train(state, key, 4)
        pairs = zip(
            jax.tree.leaves((alone, alone_scalars)),
            jax.tree.leaves((together, scalars)),
            strict=True,
        )
        for one, two in pairs:
            np.testing.assert_allclose(one, two[i], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("n", "size"), [(10, 5), (11, 5), (7, 7), (9, 2), (1, 1)])
def test_a_shuffled_epoch_visits_every_example_once(n, size):
    batches = np.asarray(shuffled_batches(KEY, n, size))
    assert batches.shape == (-(-n // size), size)
    flat = batches.ravel()
    assert sorted(flat[:n]) == list(range(n))
    assert (flat[n:] == -1).all()


def test_epochs_are_shuffled_differently_and_evenly():
    """Every example is as likely as any other to come first."""
    keys = jax.random.split(KEY, 4000)
    first = np.asarray(jax.vmap(lambda k: shuffled_batches(k, 5, 2)[0, 0])(keys))
    counts = np.bincount(first, minlength=5)
    assert np.abs(counts - 800).max() < 5 * np.sqrt(4000 * 0.2 * 0.8)


def test_a_batch_holds_all_where_there_is_no_more():
    np.testing.assert_array_equal(shuffled_batches(KEY, 5, 6), shuffled_batches(KEY, 5, 5))
    assert cut_batch(5, 5, "examples") is None
    assert cut_batch(6, 5, "examples") == "batch_size 6 exceeds the 5 examples: a batch holds all 5"
