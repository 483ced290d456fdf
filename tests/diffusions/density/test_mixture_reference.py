"""Mixtures of copies of a shape, their choice, and what a network adds to them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from checkpoints import load_pretrained
from data_generation.planar import planar_data
from diffusions.density import mixture_choice
from diffusions.density.correction import Gate, measured_gate, preconditioned
from diffusions.density.error_curves import error_curves
from diffusions.density.exact import gaussian, gaussian_mixture
from diffusions.density.expectation_maximisation import expectation
from diffusions.density.gaussian_reference import fitted_reference, standard_reference
from diffusions.density.likelihood import log_density, nll, nll_terms
from diffusions.density.log_snr import CHANNEL, LogSNRLaw
from diffusions.density.mixture_choice import chosen_mixture, stacked_shares
from diffusions.density.mixture_reference import MixtureReference
from diffusions.density.reference import Reference
from diffusions.density.saturation import MOST_REACH, outside, widened
from diffusions.density.shared_shape import SharedShape, fit_shared_shape

LAW = LogSNRLaw()


def clusters(d=2, n=600):
    """Three clean points plus noise of two Gaussians that share a centre."""
    generator = np.random.default_rng(0)
    centres = np.zeros((3, d))
    centres[0, 0], centres[1, 1] = 4.0, -4.0
    scale = np.where(generator.random((n, 1)) < 0.5, 0.3, 1.0)
    points = centres[generator.integers(3, size=n)] + scale * generator.standard_normal((n, d))
    return centres, points


def exact_log_density(x, centres):
    kernels = [
        0.5 / 3 * stats.multivariate_normal(c, s**2 * np.eye(len(c))).pdf(x)
        for c in centres
        for s in (0.3, 1.0)
    ]
    return np.log(np.sum(kernels, axis=0))


@pytest.fixture(autouse=True)
def small_grid(monkeypatch):
    monkeypatch.setattr(mixture_choice, "COPIES", (1, 2, 4))
    monkeypatch.setattr(mixture_choice, "COMPONENTS", (1, 2, 4))
    monkeypatch.setattr(mixture_choice, "SCREENED_COMPONENTS", (1, 4))


def test_the_shape_is_learned_from_all_copies():
    centres, points = clusters(n=6000)
    shape = fit_shared_shape(
        points, 3, 2, 1e-7 * np.eye(2), np.random.default_rng(1), iterations=100
    )
    order = np.argsort(shape.covariances[:, 0, 0])
    np.testing.assert_allclose(shape.covariances[order], [0.09 * np.eye(2), np.eye(2)], atol=0.08)
    np.testing.assert_allclose(shape.weights, [0.5, 0.5], atol=0.04)
    np.testing.assert_allclose(shape.shares, [1 / 3] * 3, atol=0.03)
    found = (shape.centres[:, None] + shape.weights @ shape.offsets).reshape(-1, 2)
    distances = np.linalg.norm(found[:, None] - centres, axis=-1)
    assert distances.min(axis=1).max() < 0.06


def test_every_iteration_raises_the_likelihood():
    _, points = clusters()
    equal = np.full(len(points), 1 / len(points))
    found = [
        expectation(
            points,
            equal,
            fit_shared_shape(
                points, 3, 4, 1e-7 * np.eye(2), np.random.default_rng(1), iterations=n
            ).mixture(),
        )[0]
        for n in range(1, 12)
    ]
    assert (np.diff(found) > -1e-9).all()
    assert found[-1] > found[0] + 0.01


def test_one_copy_of_one_component_is_the_gaussian_of_the_moments():
    _, points = clusters()
    points = points - points.mean(axis=0)
    floor = 1e-3 * np.eye(2)
    shape = fit_shared_shape(points, 1, 1, floor, np.random.default_rng(0), iterations=3)
    np.testing.assert_allclose(shape.covariances[0], np.cov(points.T, ddof=0) + floor, rtol=1e-6)
    assert isinstance(shape, SharedShape)


@pytest.mark.parametrize(
    ("d", "n", "above"),
    [
        (2, 7200, 0.03),
        (8, 7200, 0.05),
        pytest.param(64, 7200, 1.2, marks=pytest.mark.slow),
    ],
)
def test_laws_of_known_density(d, n, above):
    """Held-out points say how far the mixture is from the truth; a Gaussian is much farther."""
    centres, points = clusters(d, n + 1000)
    train, judges = (part.astype(np.float32) for part in np.split(points, [n]))
    found = chosen_mixture(train, 0)
    exact = -exact_log_density(judges, centres).mean()
    value = -found.reference.log_density(jnp.asarray(judges)).mean()
    of_gaussian = -fitted_reference(train).log_density(jnp.asarray(judges)).mean()
    assert -0.02 < value - exact < above
    assert of_gaussian - exact > 5 * (value - exact)


def test_a_gaussian_law_needs_no_more_than_a_gaussian():
    points = np.random.default_rng(0).standard_normal((500, 3)) @ np.diag([1.0, 5.0, 0.1])
    found = chosen_mixture(points.astype(np.float32), 0)
    judges = np.random.default_rng(1).standard_normal((4000, 3)) @ np.diag([1.0, 5.0, 0.1])
    exact = (
        -stats.multivariate_normal(np.zeros(3), np.diag([1.0, 25.0, 0.01])).logpdf(judges).mean()
    )
    value = -float(found.reference.log_density(jnp.asarray(judges, jnp.float32)).mean())
    assert value - exact < 0.05
    again = chosen_mixture(points.astype(np.float32), 0)
    np.testing.assert_array_equal(again.reference.mixture.means, found.reference.mixture.means)


def test_what_is_chosen_by_is_not_fitted_to(monkeypatch):
    seen = []
    fit = mixture_choice.fit_shared_shape

    def noted(points, *args, **kwargs):
        seen.append(len(points))
        return fit(points, *args, **kwargs)

    monkeypatch.setattr(mixture_choice, "fit_shared_shape", noted)
    _, points = clusters(n=300)
    found = chosen_mixture(points, 0)
    assert set(seen) == {270}
    assert len(found.held_out) == 30
    held_out = jnp.asarray(points[found.held_out], jnp.float32)
    value = -float(found.reference.log_density(held_out).mean())
    assert value == pytest.approx(found.held_out_nll, abs=1e-3)
    assert sum(share for *_, share in found.members) == pytest.approx(1.0)


def test_stacked_shares_maximise_the_likelihood():
    logs = np.log(np.random.default_rng(0).uniform(0.1, 1.0, (2, 50)))
    grid = np.linspace(0.0, 1.0, 1001)
    values = [np.log(u * np.exp(logs[0]) + (1 - u) * np.exp(logs[1])).mean() for u in grid]
    np.testing.assert_allclose(stacked_shares(logs)[0], grid[np.argmax(values)], atol=0.02)


@pytest.mark.parametrize(
    ("points", "message"),
    [
        (np.zeros((10, 2)), "at least 20 points, got 10"),
        (np.where(np.arange(60).reshape(30, 2) == 41, np.nan, 1.0), "number 20 is"),
        (np.stack([np.arange(30.0), np.ones(30)], axis=1), "coordinate 1 is the same"),
    ],
)
def test_points_that_have_no_mixture(points, message):
    with pytest.raises(ValueError, match=message):
        chosen_mixture(points, 0)


def some_mixture():
    return gaussian_mixture(
        jnp.asarray([0.2, 0.3, 0.5]),
        jnp.asarray([[2.0, 1.0], [-2.0, 0.0], [0.0, -1.5]]),
        jnp.asarray([0.01, 0.2, 0.5])[:, None, None] * jnp.eye(2),
    )


def test_a_mixture_is_a_reference():
    mixture = some_mixture()
    reference = MixtureReference(mixture)
    assert isinstance(reference, Reference)
    assert isinstance(standard_reference(2), Reference)
    x = mixture.sample(jax.random.key(0), 40)
    np.testing.assert_allclose(reference.log_density(x), mixture.log_density(x))
    a = jnp.linspace(-5.0, 9.0, 40)
    z = jnp.sqrt(jax.nn.sigmoid(a))[:, None] * x + 0.1
    # Tweedie: eps = -sigma grad log p_a, here by automatic differentiation of the density itself.
    for i in (0, 20, 39):
        s, q = jax.nn.sigmoid(a[i]), jax.nn.sigmoid(-a[i])
        noisy = gaussian_mixture(
            mixture.weights,
            jnp.sqrt(s) * mixture.means,
            s * jnp.asarray([0.01, 0.2, 0.5])[:, None, None] * jnp.eye(2) + q * jnp.eye(2),
        )
        score = jax.grad(lambda y, p=noisy: p.log_density(y[None])[0])(z[i])
        found = reference.epsilon(z, a)[i]
        np.testing.assert_allclose(found, -jnp.sqrt(q) * score, rtol=2e-3, atol=1e-4)
    # Without a network the identity has nothing left to estimate.
    estimate = log_density(reference.epsilon, jax.random.key(1), x, LAW, reference)
    np.testing.assert_allclose(estimate.value, mixture.log_density(x), rtol=1e-5)
    with pytest.raises(ValueError, match="GaussianReference"):
        nll_terms(reference.epsilon, x, x, a, a, reference, control_variate=False)


def test_the_identity_holds_with_a_mixture_of_another_law():
    """Data of one mixture, its own denoiser, and a coarse mixture as the reference."""
    truth = some_mixture()
    coarse = gaussian_mixture(
        jnp.asarray([0.5, 0.5]),
        jnp.asarray([[1.0, 0.5], [-1.0, -1.0]]),
        jnp.asarray([[[2.0, 0.0], [0.0, 1.0]], [[1.5, 0.2], [0.2, 1.0]]]),
    )
    x = truth.sample(jax.random.key(0), 16)
    found = log_density(
        truth.denoiser(CHANNEL), jax.random.key(1), x, LAW, MixtureReference(coarse), n_log_snr=2048
    )
    error = np.abs(found.value - truth.log_density(x))
    assert (error < 4 * found.standard_error).all()
    assert np.median(error) < 0.05


def test_bands_of_evaluations_cover():
    """95 % bands of the mean over the very points cover its exact value in 18 to 20 of 20 seeds."""
    mixture = some_mixture()
    x = mixture.sample(jax.random.key(0), 200)
    exact = -float(mixture.log_density(x).mean())
    reference = fitted_reference(x)

    def estimate(key):
        return nll(mixture.denoiser(CHANNEL), key, x, LAW, reference, n_samples=32)

    found = jax.jit(jax.vmap(estimate))(jax.random.split(jax.random.key(2), 20))
    z = np.asarray((found.value - exact) / found.evaluation_error)
    assert 18 <= (np.abs(z) < 1.96).sum() <= 20
    # As an estimate of the law's mean it is far less certain, and says so.
    assert (found.standard_error > found.evaluation_error).all()
    entropy = -float(mixture.log_density(mixture.sample(jax.random.key(3), 100_000)).mean())
    assert (np.abs(found.value - entropy) < 3 * found.standard_error).all()
    alone = nll(mixture.denoiser(CHANNEL), jax.random.key(1), x, LAW, reference)
    assert np.isnan(alone.evaluation_error)


def test_bands_of_evaluations_of_a_learned_denoiser_cover_its_own_bound():
    """They tell how well the bound is known, not how far the network is from the truth."""
    saved, data = load_pretrained("dino"), planar_data("dino", 0)
    x = jnp.asarray(data.validation[:200])
    reference = fitted_reference(data.train)
    denoiser = preconditioned(lambda z, a: saved.module.apply(saved.params, z, a), reference)

    def estimate(key):
        return nll(denoiser, key, x, LAW, reference, n_samples=32)

    found = jax.jit(lambda keys: jax.lax.map(estimate, keys))(
        jax.random.split(jax.random.key(4), 100)
    )
    judged, bound = found.value[:20], found.value[20:]  # the bound from four times as many
    error = np.hypot(found.evaluation_error[:20], bound.std(ddof=1) / np.sqrt(len(bound)))
    z = np.asarray((judged - bound.mean()) / error)
    assert 18 <= (np.abs(z) < 1.96).sum() <= 20
    assert bound.mean() + data.log_density(data.validation[:200]).mean() > 0.2  # of the misfit
    typical = np.sqrt(np.mean(np.square(found.evaluation_error)))
    assert found.value.std(ddof=1) == pytest.approx(typical, rel=0.25)


def test_the_gate_lets_in_what_helps():
    """The truth's denoiser above log SNR 0, something harmful below."""
    truth = some_mixture()
    x = truth.sample(jax.random.key(0), 500)
    reference = fitted_reference(truth.sample(jax.random.key(1), 2000))
    ideal = truth.denoiser(CHANNEL)

    def network(z, a):
        better = ideal(z, a) - reference.epsilon(z, a)
        return jnp.where(a[:, None] > 0, 2.0 * better, jnp.sin(5.0 * z))

    found = measured_gate(preconditioned(network, reference), reference, jax.random.key(2), x, LAW)
    assert not found.gate.at(jnp.asarray([-30.0, -11.0, -6.0, -3.0, 30.0])).any()
    # Twice the correction is best taken by half.
    np.testing.assert_allclose(found.gate.at(jnp.asarray([1.5, 3.0])), 0.5, atol=0.05)
    assert not found.gate.shut
    gated = preconditioned(network, reference, gate=found.gate)
    judges = truth.sample(jax.random.key(3), 2000)
    value = nll(gated, jax.random.key(4), judges, LAW, reference, n_samples=32)
    gain = -float(reference.log_density(judges).mean()) - float(value.value)
    error = np.hypot(float(found.standard_error), float(value.evaluation_error))
    assert abs(gain - float(found.gain)) < 4 * error + 0.1
    assert float(found.gain) > 0.3


def test_the_gate_shuts_off_noise():
    reference = MixtureReference(some_mixture())
    x = some_mixture().sample(jax.random.key(0), 500)
    noisy = preconditioned(lambda z, a: 0.1 * jnp.sin(7.0 * z), reference)
    found = measured_gate(noisy, reference, jax.random.key(1), x, LAW)
    assert found.gate.shares.sum() < 0.2
    assert 0.0 <= float(found.gain) < 0.01
    assert Gate(jnp.asarray([-1.0, 1.0]), jnp.zeros(1)).shut


def test_what_lies_outside_a_range():
    """Of N(0, v I): 1/2 d log(1 + e^a v) on the left, 1/2 d log(1 + 1 / (e^a v)) on the right."""
    v, d, law = 0.25, 3, LogSNRLaw(loc=0.0, scale=1.5)
    data = gaussian(jnp.zeros(d), v * jnp.eye(d))
    x = data.sample(jax.random.key(0), 20_000)
    found = outside(data.denoiser(CHANNEL), jax.random.key(1), x, law)
    low, high = law.ends
    assert float(found.left) == pytest.approx(0.5 * d * np.log1p(np.exp(low) * v), rel=0.05)
    assert float(found.right) == pytest.approx(0.5 * d * np.log1p(np.exp(-high) / v), rel=0.1)
    assert found.tolerable(d)
    narrow = LogSNRLaw(loc=0.0, scale=0.5)
    assert not outside(data.denoiser(CHANNEL), jax.random.key(1), x, narrow).tolerable(d)
    wide = widened(data.denoiser(CHANNEL), jax.random.key(1), x, narrow)
    assert (wide.loc, wide.clip) == (0.0, 4.0)
    assert wide.scale > narrow.scale
    assert outside(data.denoiser(CHANNEL), jax.random.key(1), x, wide).tolerable(d)
    assert widened(data.denoiser(CHANNEL), jax.random.key(1), x, law) is law
    point = LogSNRLaw(loc=0.0, scale=1e-3)  # of a curve that rises at one log SNR
    wide = widened(data.denoiser(CHANNEL), jax.random.key(1), x, point)
    assert outside(data.denoiser(CHANNEL), jax.random.key(1), x, wide).tolerable(d)


def test_a_range_grows_no_further_than_numbers_reach():
    """A standard deviation of 1e-6 would need a log SNR of 30, where the noise is rounded off."""
    data = gaussian(jnp.zeros(1), 1e-12 * jnp.eye(1))
    x = data.sample(jax.random.key(0), 100)
    wide = widened(data.denoiser(CHANNEL), jax.random.key(1), x, LogSNRLaw())
    assert 20.0 < wide.ends[1] <= MOST_REACH


@pytest.mark.parametrize("a", [-6.0, -2.0, 0.0, 2.0, 5.0, 8.0])
def test_at_least_so_much_lies_outside(a):
    """Of two narrow Gaussians, whose error curve has a plateau: never more than is there."""
    data = gaussian_mixture(jnp.ones(2) / 2, jnp.array([[-1.0], [1.0]]), 1e-3 * jnp.ones((2, 1, 1)))
    x = data.sample(jax.random.key(0), 4000)
    denoiser = data.denoiser(CHANNEL)
    curves = error_curves(denoiser, jax.random.key(1), x, LogSNRLaw(), n_log_snr=400)
    mse, levels = np.asarray(curves.epsilon), np.asarray(curves.a)
    below = 0.5 * np.trapezoid(np.where(levels < a, mse, 0.0), levels)
    above = 0.5 * np.trapezoid(np.where(levels > a, 1.0 - mse, 0.0), levels)
    found = outside(denoiser, jax.random.key(2), x, LogSNRLaw(loc=a, scale=1e-3))
    assert float(found.left) < 1.05 * below + 0.01
    assert float(found.right) < 1.05 * above + 0.01
