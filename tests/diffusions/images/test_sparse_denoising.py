"""Inputs and losses that cannot depend on what is not observed, and sampling that fits the training."""

from typing import get_args

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusions.images.sparse_denoising import SparseDenoising, Visible
from diffusions.objectives import weighted_mean_square
from diffusions.processes import LinearBetaDDPM, RectifiedFlow
from diffusions.samplers import Model, ode, uniform_times

N, SIDE, TOLD, ASKED = 4, 8, 12, 13
FLOW = RectifiedFlow()
KEY = jax.random.key(0)


def observed(channels=2):
    rng = np.random.default_rng(0)
    told, asked = np.zeros((2, N, SIDE * SIDE, channels), bool)
    for i in range(N):
        order = rng.permutation(SIDE * SIDE)
        told[i, order[:TOLD]] = asked[i, order[TOLD : TOLD + ASKED]] = True
    shape = (N, SIDE, SIDE, channels)
    images = jnp.asarray(rng.uniform(-1, 1, shape).astype(np.float32))
    return images, jnp.asarray(told.reshape(shape)), jnp.asarray(asked.reshape(shape))


def setting(visible="hidden", residual=False, process=FLOW, prediction="velocity"):
    return SparseDenoising(
        process=process, prediction=prediction, visible=visible, residual=residual
    )


def recorded(denoising, images, told, asked, t):
    """The losses of a network that averages what it sees, and what it sees."""
    seen = []

    def network(channels, t):
        seen.append(channels)
        return jnp.tanh(channels[..., :2] + channels.mean(axis=(1, 2, 3), keepdims=True))

    loss = denoising.loss(network, KEY, images, told, asked, TOLD, ASKED, t)
    return loss, seen[0]


@pytest.mark.parametrize("residual", [False, True])
@pytest.mark.parametrize("visible", get_args(Visible))
def test_an_unseen_pixel_changes_neither_input_nor_loss(visible, residual):
    images, told, asked = observed()
    t = jnp.linspace(0.1, 0.9, N)
    denoising = setting(visible, residual)
    loss, seen = recorded(denoising, images, told, asked, t)
    changed = jnp.where(told | asked, images, -images)
    other_loss, other_seen = recorded(denoising, changed, told, asked, t)
    same = bool((seen == other_seen).all()) and bool((loss == other_loss).all())
    assert same == (visible != "full")
    # An asked pixel changes both, a told one as well.
    for mask in (told, asked):
        moved = jnp.where(mask, 0.9 * images, images)
        other_loss, other_seen = recorded(denoising, moved, told, asked, t)
        assert (loss != other_loss).all()
        assert (seen != other_seen).any()


@pytest.mark.parametrize("visible", get_args(Visible))
def test_observed_pixels_are_noised_by_the_process(visible):
    images, told, asked = observed()
    process = LinearBetaDDPM()
    t = jnp.full(N, 400.0)
    _, seen = recorded(
        setting(visible, process=process, prediction="epsilon"), images, told, asked, t
    )
    z, sparse, mask = jnp.split(seen, 3, axis=-1)
    np.testing.assert_array_equal(sparse, jnp.where(told, images, 0.0))
    np.testing.assert_array_equal(mask, told)
    eps = (z - process.alpha(t[0]) * images) / process.sigma(t[0])
    noise = np.asarray(eps)[np.asarray(told | asked)]
    assert abs(noise.mean()) < 0.25
    assert noise.std() == pytest.approx(1.0, abs=0.2)
    hidden = np.asarray(z)[~np.asarray(told | asked)]
    assert (hidden == 0).all() == (visible == "hidden")


def test_weights():
    images, told, asked = observed()
    t, denoising = jnp.full(N, 0.5), setting("full")

    def network(channels, t):
        return jnp.zeros_like(channels[..., :2])

    found = denoising.loss(network, KEY, images, told, asked, TOLD, ASKED, t)
    # A network that says zero leaves the target as the error: recover it from its noise.
    z = recorded(denoising, images, told, asked, t)[1][..., :2]
    velocity = (z - images) / 0.5
    weights = np.where(asked, 1.0, np.where(told, 0.05, 0.0))
    np.testing.assert_allclose(
        found, weighted_mean_square(velocity, jnp.asarray(weights)), rtol=1e-4
    )


@pytest.mark.parametrize("residual", [False, True])
def test_latent_and_image(residual):
    images, told, _ = observed()
    denoising = setting(residual=residual)
    condition = denoising.condition(images, told, TOLD)
    u = denoising.latent(condition, images)
    np.testing.assert_allclose(denoising.image(condition, u), images, atol=1e-5)
    assert condition.channels(u).shape[-1] == (8 if residual else 6)


def test_every_group_is_seen_alone_and_every_pixel_answered():
    images, told, _ = observed()
    denoising = setting("hidden")
    condition = denoising.condition(images, told, TOLD)
    z = jax.random.normal(KEY, images.shape) + 10.0  # nowhere zero

    def network(channels, t):
        shown = channels[..., :2] != 0
        n_shown = shown[..., 0].sum(axis=(1, 2))[:, None, None, None]
        return jnp.where(shown, n_shown * jnp.ones_like(channels[..., :2]), -1.0)

    denoiser = denoising.denoiser(network, condition, key=KEY, n_groups=4)
    answer = np.asarray(denoiser(z, jnp.full(N, 0.3)))
    free = ~np.asarray(told)
    # Each pixel's answer is from the call that showed it, beside the told and a quarter of the others.
    assert (answer > 0).all()
    assert answer[free].mean() == pytest.approx(TOLD + (SIDE**2 - TOLD) / 4, rel=0.25)
    assert (answer != np.asarray(denoiser(z, jnp.full(N, 0.31)))).any()
    whole = denoising.denoiser(network, condition, key=KEY)(z, jnp.full(N, 0.3))
    np.testing.assert_array_equal(whole, SIDE**2)


def test_the_flow_runs_from_noise_to_the_data_given_what_is_told():
    # Independent pixels N(mean, 0.3^2): E[x | z] is exact whatever is told; the ODE must end there.
    mean, deviation = jnp.asarray([0.5, -0.4]), 0.3
    images, told, _ = observed()
    images, told = (jnp.tile(a, (100, 1, 1, 1)) for a in (images, told))
    denoising = setting("mean", residual=True)
    condition = denoising.condition(images, told, TOLD)

    def velocity(channels, t):
        z, _, _, base = jnp.split(channels, 4, axis=-1)
        alpha, sigma = (a[:, None, None, None] for a in (FLOW.alpha(t), FLOW.sigma(t)))
        m, v = denoising.latent(condition, mean + 0 * base), (deviation / denoising.scale) ** 2
        clean = m + alpha * v / (alpha**2 * v + sigma**2) * (z - alpha * m)
        eps = (z - alpha * clean) / sigma
        return eps - clean

    z = jax.random.normal(jax.random.key(1), images.shape)
    model = Model(denoising.denoiser(velocity, condition, key=KEY), FLOW, "velocity")
    u = ode(model, z, uniform_times(1.0, 1e-3, 100), method="heun")
    found = np.asarray(denoising.image(condition, u))
    np.testing.assert_allclose(found.mean(axis=(0, 1, 2)), mean, atol=0.01)
    np.testing.assert_allclose(found.std(axis=(0, 1, 2)), deviation, atol=0.01)


@pytest.mark.parametrize("wrong", [{"scale": 0.0}, {"told_weight": -1.0}])
def test_settings_that_make_no_sense(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        SparseDenoising(process=FLOW, prediction="velocity", **wrong)
