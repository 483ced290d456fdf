"""The blocked messages against the sum written down, and the denoiser against an independent one."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusions.networks import blocked_messages
from diffusions.networks.blocked_messages import aligned, mean_messages
from diffusions.networks.message_passing import (
    MessagePassingDenoiser,
    power_iterations,
    start_vectors,
    top_k_mask,
)


def random_case(batch, n, hidden, seed=0):
    keys = jax.random.split(jax.random.key(seed), 6)
    edges = jax.random.normal(keys[0], (batch, n, n))
    return (
        jax.random.normal(keys[1], (batch, n)),
        (edges + edges.swapaxes(1, 2)) / 2,
        jax.random.normal(keys[2], (hidden, 3)),
        jax.random.normal(keys[3], (hidden,)),
        jax.random.normal(keys[4], (hidden,)),
    )


def direct_messages(v, edges, kernel, bias, output):
    """Equations (1) and (2) with every hidden unit stored."""
    a, c, d = kernel.T
    z = a * v[:, :, None, None] + c * v[:, None, :, None] + d * edges[..., None] + bias
    return (jnp.where(z > 0, z, 0.01 * z) @ output).mean(axis=2)


def gradients(function, case, weights):
    """By every argument, in one program."""

    def loss(v, edges, *rest):
        # E is one symmetric matrix: only its symmetric part can be varied.
        return jnp.sum(weights * function(v, (edges + edges.swapaxes(1, 2)) / 2, *rest))

    return jax.jit(jax.grad(loss, argnums=range(5)))(*case)


# Aligned, and not; one group of hidden units, and several.
@pytest.mark.parametrize(("batch", "n", "hidden"), [(3, 32, 4), (2, 17, 70)])
def test_messages_and_their_gradients_are_those_of_the_direct_sum(
    double_precision, batch, n, hidden
):
    case = random_case(batch, n, hidden)
    np.testing.assert_allclose(mean_messages(*case), direct_messages(*case), rtol=1e-12, atol=1e-12)
    weights = jax.random.normal(jax.random.key(9), (batch, n))
    for ours, theirs in zip(
        gradients(mean_messages, case, weights),
        gradients(direct_messages, case, weights),
        strict=True,
    ):
        np.testing.assert_allclose(ours, theirs, rtol=1e-10, atol=1e-11)


def test_single_precision_loses_nothing_to_cancellation():
    # Trained units are mostly negative: leaky is small where |z| is large.
    v, edges, kernel, bias, output = random_case(2, 64, 8)
    bias = bias - 20.0
    found = mean_messages(v, edges, kernel, bias, output)
    v, edges, kernel, bias, output = (
        np.asarray(x, np.float64) for x in (v, edges, kernel, bias, output)
    )
    a, c, d = kernel.T
    z = a * v[:, :, None, None] + c * v[:, None, :, None] + d * edges[..., None] + bias
    exact = (np.where(z > 0, z, 0.01 * z) @ output).mean(axis=2)
    assert np.abs(found - exact).max() < 3e-6


def test_groups_of_samples_change_nothing(monkeypatch):
    batch = 5  # groups of three and two
    case = random_case(batch, 20, 6)
    weights = jnp.ones((batch, 20))
    whole = (mean_messages(*case), *gradients(mean_messages, case, weights))
    monkeypatch.setattr(blocked_messages, "_CACHED_FLOATS", 3 * 6 * 32)  # three samples
    apart = (mean_messages(*case), *gradients(mean_messages, case, weights))
    for a, b in zip(whole, apart, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-5)


def test_aligned_edges_give_the_same_messages():
    v, edges, *rest = random_case(2, 21, 5)
    np.testing.assert_array_equal(
        mean_messages(v, aligned(edges), *rest), mean_messages(v, edges, *rest)
    )


@pytest.mark.parametrize("hidden", [16, 128])
def test_memory_is_a_few_floats_per_pair_whatever_the_width(hidden):
    batch, n = 4, 256
    case = random_case(batch, n, hidden)

    def loss(v, edges, *rest):
        return mean_messages(v, edges, *rest).sum()

    program = jax.jit(jax.grad(loss, argnums=(0, 2, 3, 4))).lower(*case).compile()
    # The direct sum holds at least `hidden` floats per pair, its gradient several times that.
    assert program.memory_analysis().temp_size_in_bytes / 4 / batch / n**2 < 3


@functools.partial(jax.jit, static_argnums=0, static_argnames="train")
def apply(model, *arguments, **options):
    return model.apply(*arguments, **options)


def numpy_denoiser(params, edges, t, v, k, direct):
    """The whole network for one sample, written from its published description."""

    def leaky(z):
        return np.where(z > 0, z, 0.01 * z)

    def mlp(p, layer, x):
        kernel, bias, output, last = (
            np.asarray(p[name], np.float64) if layer is None else np.asarray(p[name][layer], float)
            for name in ("kernel", "bias", "output", "output_bias")
        )
        return (leaky(x @ kernel.T + bias) @ output.reshape(-1)) + last

    n = len(v)
    for _ in range(3):
        v = edges @ v
        v = v / max(np.linalg.norm(v), 1e-5)
    for layer in range(len(params["logit_alpha"])):
        pairs = np.stack([np.repeat(v[:, None], n, 1), np.repeat(v[None], n, 0), edges], axis=-1)
        a = mlp(params["message"], layer, pairs).mean(axis=1)
        alpha = 0.85 / (1 + np.exp(-float(params["logit_alpha"][layer])))
        v = alpha * v + (1 - alpha) * mlp(params["update"], layer, np.stack([v, a], axis=-1))
    s = np.tanh(np.exp(float(params["log_scale"])) * t / n)
    v = direct * v * s + mlp(params["readout"], None, np.stack([v, np.full(n, s)], axis=-1))
    u = np.where(np.argsort(np.argsort(-np.abs(v))) < k, v, 0.0)
    return u / max(np.linalg.norm(u), 1.0)


def case_of(model, batch=3, n=30, seed=0, scale=3.0):
    keys = jax.random.split(jax.random.key(seed), 5)
    edges = jax.random.normal(keys[0], (batch, n, n)) / n**0.5
    edges = (edges + edges.swapaxes(1, 2)) / 2
    t = jnp.linspace(5.0, 200.0, batch)
    start = start_vectors(jax.random.split(keys[1], batch), n)
    params = jax.jit(model.init)(keys[2], edges, t, start)
    # Larger than drawn, so that the layers do something.
    params = jax.tree.map(lambda x: scale * x, params)
    return params, edges, t, start


@pytest.mark.parametrize("direct", [True, False])
def test_the_network_is_the_one_described(direct):
    model = MessagePassingDenoiser(n_nonzero=4, n_layers=3, hidden=8, direct_readout=direct)
    params, edges, t, start = case_of(model)
    found = apply(model, params, edges, t, start)
    for i in range(3):
        expected = numpy_denoiser(
            params["params"],
            np.asarray(edges[i], np.float64),
            float(t[i]),
            np.asarray(start[i], np.float64),
            4,
            float(params["params"].get("direct", 0.0)),
        )
        assert np.count_nonzero(expected) == 4
        np.testing.assert_allclose(found[i], expected, atol=1e-5)


def test_the_published_size():
    model = MessagePassingDenoiser(n_nonzero=20)
    shapes = jax.eval_shape(lambda: case_of(model, n=24)[0])
    assert sum(x.size for x in jax.tree.leaves(shapes)) == 2289


def test_initial_weights_are_xavier_with_gain_one_fifth():
    model = MessagePassingDenoiser(n_nonzero=2, n_layers=200, hidden=40)
    params = case_of(model, n=4, scale=1.0)[0]["params"]
    for leaf, bound in (
        (params["message"]["kernel"], 0.2 * np.sqrt(6 / 43)),
        (params["message"]["output"], 0.2 * np.sqrt(6 / 41)),
        (params["message"]["bias"], 0.2 / np.sqrt(3)),
        (params["update"]["kernel"], 0.2 * np.sqrt(6 / 18)),
    ):
        values = np.abs(np.asarray(leaf))
        assert 0.98 * bound < values.max() <= bound * (1 + 1e-6)
        assert abs(values.mean() - bound / 2) < 0.02 * bound


def test_permuting_the_nodes_permutes_the_estimate():
    model = MessagePassingDenoiser(n_nonzero=5, n_layers=3)
    params, edges, t, start = case_of(model)
    order = np.random.default_rng(0).permutation(30)
    plain = apply(model, params, edges, t, start)
    moved = apply(model, params, edges[:, order][:, :, order], t, start[:, order])
    np.testing.assert_allclose(moved, plain[:, order], atol=1e-5)


def test_power_iterations_are_odd_in_the_start_and_survive_no_edges():
    model = MessagePassingDenoiser(n_nonzero=2)
    _, edges, _, start = case_of(model)
    np.testing.assert_array_equal(power_iterations(edges, -start), -power_iterations(edges, start))
    np.testing.assert_array_equal(power_iterations(0 * edges, start), 0 * start)


def test_depth_uses_the_first_layers_only():
    model = MessagePassingDenoiser(n_nonzero=5, n_layers=4)
    params, edges, t, start = case_of(model)
    shallow = MessagePassingDenoiser(n_nonzero=5, n_layers=2)
    first = jax.tree.map(
        lambda leaf, own: leaf[: own.shape[0]] if leaf.shape != own.shape else leaf,
        params,
        case_of(shallow)[0],
    )
    cut = apply(model, params, edges, t, start, depth=jnp.asarray(2))
    np.testing.assert_allclose(cut, apply(shallow, first, edges, t, start), atol=1e-6)
    assert np.abs(cut - apply(model, params, edges, t, start)).max() > 1e-3
    gradient = jax.grad(lambda p: apply(model, p, edges, t, start, depth=2, train=True).sum())(
        params
    )
    assert all(
        (np.asarray(leaf[2:]) == 0).all()
        for name in ("message", "update")
        for leaf in jax.tree.leaves(gradient["params"][name])
    )


def test_an_estimate_is_scaled_outside_training_only():
    model = MessagePassingDenoiser(n_nonzero=5, n_layers=2)
    params, edges, t, start = case_of(model, scale=20.0)
    raw = apply(model, params, edges, t, start, train=True)
    norms = np.linalg.norm(raw, axis=1, keepdims=True)
    assert norms.max() > 1
    np.testing.assert_allclose(
        apply(model, params, edges, t, start), raw / np.maximum(norms, 1), rtol=1e-5, atol=1e-6
    )


def test_infinite_time_is_the_limit_with_a_finite_gradient():
    model = MessagePassingDenoiser(n_nonzero=5, n_layers=2)
    params, edges, t, start = case_of(model)

    def total(params, t):
        return apply(model, params, edges, t, start, train=True).sum()

    infinite = jnp.full_like(t, jnp.inf)
    value = jax.jit(jax.value_and_grad(total))
    limit, gradient = value(params, infinite)
    np.testing.assert_allclose(limit, value(params, 0 * t + 1e9)[0], rtol=1e-5)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradient))


def test_the_straight_through_gradient_is_its_definition():
    keys = jax.random.split(jax.random.key(3))
    v, weights = jax.random.normal(keys[0], (2, 12)), jax.random.normal(keys[1], (2, 12))
    k = 4
    magnitude = np.abs(np.asarray(v))
    hard = (magnitude >= np.sort(magnitude, axis=1)[:, -k][:, None]).astype(np.float32)
    np.testing.assert_array_equal(top_k_mask(v, k), hard)

    # d/dv of sum w v mask = w mask + d/dv' of sum w v softmax(|v'| / 0.2)
    found = jax.grad(lambda v: jnp.sum(weights * v * top_k_mask(v, k)))(v)
    p = np.exp(magnitude / 0.2) / np.exp(magnitude / 0.2).sum(axis=1, keepdims=True)
    pull = np.asarray(weights * v)
    soft = p * (pull - (p * pull).sum(axis=1, keepdims=True)) * np.sign(v) / 0.2
    np.testing.assert_allclose(found, weights * hard + soft, rtol=1e-4, atol=1e-5)


def test_the_mask_is_even_and_refuses_more_than_there_is():
    v = jax.random.normal(jax.random.key(0), (2, 9))
    np.testing.assert_array_equal(top_k_mask(v, 3), top_k_mask(-v, 3))
    with pytest.raises(ValueError, match="cannot keep 10 of 9"):
        top_k_mask(v, 10)
