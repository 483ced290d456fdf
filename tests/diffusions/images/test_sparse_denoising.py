"""Inputs and losses that cannot depend on what is not observed, and sampling that fits the training."""

import dataclasses
from typing import get_args

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusions.images.kriging import Kriging
from diffusions.images.sparse_denoising import SparseDenoising, Visible
from diffusions.objectives import weighted_mean_square
from diffusions.processes import LinearBetaDDPM, RectifiedFlow
from diffusions.samplers import Model, ancestral, ode, prior, uniform_times

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


def test_samples_given_what_is_known_are_of_the_posterior():
    # A Gaussian field, whose E[x | z] is linear: samples have the conditional mean and covariance.
    kriging, side, n_known = Kriging(length=3.0, power=1.0, nugget=1e-4), 5, 8
    rows, columns = (a.ravel() for a in np.mgrid[:side, :side])
    distance = np.hypot(rows[:, None] - rows, columns[:, None] - columns)
    covariance = 0.25 * np.exp(-distance / 3.0)
    rng = np.random.default_rng(0)
    known = np.zeros(side**2, bool)
    known[rng.permutation(side**2)[:n_known]] = True
    image = np.linalg.cholesky(covariance) @ rng.standard_normal(side**2)
    gain = covariance[:, known] @ np.linalg.inv(covariance[np.ix_(known, known)])

    n = 3000
    images = jnp.broadcast_to(
        jnp.asarray(image.reshape(1, side, side, 1), jnp.float32), (n, side, side, 1)
    )
    mask = jnp.broadcast_to(jnp.asarray(known.reshape(1, side, side, 1)), images.shape)
    denoising = SparseDenoising(process=FLOW, prediction="clean", visible="full", kriging=kriging)
    values, vectors = (jnp.asarray(a, jnp.float32) for a in np.linalg.eigh(covariance))

    def network(z, t):
        alpha, sigma = FLOW.alpha(t[0]), FLOW.sigma(t[0])
        shrunk = alpha * values / (alpha**2 * values + sigma**2)
        return ((z.reshape(n, -1) @ vectors * shrunk) @ vectors.T).reshape(z.shape)

    nothing = denoising.condition(images, jnp.zeros(images.shape, bool), 0)
    corrected = denoising.posterior_denoiser(network, nothing, images, mask, n_known)
    z = prior(KEY, images.shape, FLOW, 1.0)
    model = Model(corrected, FLOW, "clean")
    found = ancestral(model, jax.random.key(1), z, uniform_times(1.0, 0.0, 60))
    found = np.asarray(found).reshape(n, -1)
    np.testing.assert_allclose(found[:, known], np.tile(image[known], (n, 1)), atol=0.01)
    np.testing.assert_allclose(found.mean(axis=0), gain @ image[known], atol=0.04)
    np.testing.assert_allclose(np.cov(found.T), covariance - gain @ covariance[known], atol=0.02)


PROCESSES = {"flow": (FLOW, "velocity", 1.0), "ddpm": (LinearBetaDDPM(), "epsilon", 1000.0)}


@pytest.mark.parametrize("name", PROCESSES)
def test_a_preconditioned_network_answers_standardised_numbers(name):
    # Pixels of the variance that is supposed: the best linear estimate is the best one, F = 0.
    process, prediction, last = PROCESSES[name]
    denoising = SparseDenoising(
        process=process, prediction=prediction, visible="full", preconditioned=True
    )
    _, told, asked = observed()
    told, asked = (jnp.tile(mask, (500, 1, 1, 1)) for mask in (told, asked))
    images = 0.5 * jax.random.normal(jax.random.key(1), told.shape)

    def network(channels, t):
        return jnp.zeros_like(channels[..., :2])

    for share in (0.05, 0.5, 0.95):
        t = jnp.full(len(images), share * last)
        loss = denoising.loss(network, KEY, images, told, asked, TOLD, ASKED, t)
        assert float(loss.mean()) == pytest.approx(1.0, abs=0.05)
    condition = denoising.condition(images, told, TOLD)
    model = Model(denoising.denoiser(network, condition, key=KEY), process, prediction)
    z = prior(KEY, images.shape, process, last)
    found = np.asarray(ancestral(model, jax.random.key(2), z, uniform_times(last, 0.0, 200)))
    assert found.std() == pytest.approx(0.5, abs=0.01)


@pytest.mark.parametrize("visible", get_args(Visible))
def test_preconditioning_is_undone_by_the_denoiser(visible):
    # A network that knows F of the plain one's answer has the plain one's loss, up to its weight r^2.
    images, told, asked = observed()
    t = jnp.full(N, 0.4)
    plain = setting(visible)
    given = dataclasses.replace(plain, preconditioned=True)

    def network(channels, t):
        return jnp.tanh(channels[..., :2])

    k, r = (0.4 - 0.6 * 0.25) / (0.36 * 0.25 + 0.16), -np.sqrt(0.25 / (0.36 * 0.25 + 0.16))

    def other(channels, t):
        return (network(channels, t) - k * channels[..., :2]) / r

    one = plain.loss(network, KEY, images, told, asked, TOLD, ASKED, t)
    two = given.loss(other, KEY, images, told, asked, TOLD, ASKED, t)
    np.testing.assert_allclose(two * r**2, one, rtol=1e-4)
    condition = plain.condition(images, told, TOLD)
    z = jax.random.normal(KEY, images.shape)
    answers = [
        each.denoiser(f, condition, key=KEY)(z, t) for each, f in ((plain, network), (given, other))
    ]
    np.testing.assert_allclose(*answers, atol=1e-5)


@pytest.mark.parametrize("wrong", [{"scale": 0.0}, {"told_weight": -1.0}])
def test_settings_that_make_no_sense(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        SparseDenoising(process=FLOW, prediction="velocity", **wrong)
