import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusions.error_curves import (
    discrete_bound,
    ensemble,
    error_curves,
    hard_rounding,
    nll_from_curves,
    soft_rounding,
)
from diffusions.exact import gaussian, gaussian_mixture
from diffusions.gaussian_reference import (
    GaussianReference,
    fitted_reference,
    preconditioned,
    standard_reference,
)
from diffusions.likelihood import bits_per_dimension, log_density, nll, nll_loss, score
from diffusions.log_snr import CHANNEL, LogSNRLaw, law_from_curve, law_from_spectrum

WIDE = LogSNRLaw(loc=0.0, scale=3.0)


def some_gaussian(d):
    a = np.random.default_rng(0).normal(size=(d, d))
    return gaussian(jnp.full(d, 0.5), jnp.asarray(a @ a.T / d + 0.1 * np.eye(d), jnp.float32))


def some_mixture(d):
    means = 3.0 * jax.random.normal(jax.random.key(0), (3, d))
    scales = jnp.asarray([0.1, 0.3, 1.0])
    return gaussian_mixture(jnp.asarray([0.2, 0.3, 0.5]), means, scales[:, None, None] * jnp.eye(d))


@pytest.mark.parametrize("d", [2, 64])
@pytest.mark.parametrize("control_variate", [True, False])
def test_nll_of_a_gaussian_is_its_entropy(d, control_variate):
    law = some_gaussian(d)
    x = law.sample(jax.random.key(1), 4000)
    found = nll(
        law.denoiser(CHANNEL),
        jax.random.key(2),
        x,
        WIDE,
        fitted_reference(x),
        n_samples=16,
        control_variate=control_variate,
    )
    assert abs(float(found.value - law.entropy())) < 3 * float(found.standard_error)
    # The standard error is one: not so large that anything passes.
    assert float(found.standard_error) < (0.02 if control_variate else 0.05) * d


@pytest.mark.parametrize("d", [2, 64])
@pytest.mark.parametrize("make", [some_gaussian, some_mixture])
def test_pointwise_density_is_exact(make, d):
    law = make(d)
    points = law.sample(jax.random.key(1), 12)
    reference = fitted_reference(law.sample(jax.random.key(2), 5000))
    estimate = jax.jit(
        lambda key: log_density(law.denoiser(CHANNEL), key, points, WIDE, reference, n_log_snr=1024)
    )
    found = estimate(jax.random.key(3))
    error = np.abs(found.value - law.log_density(points))
    assert (error < 3 * found.standard_error).all()
    repeated = np.stack([estimate(jax.random.key(k)).value for k in range(12)])
    bias = repeated.mean(axis=0) - np.asarray(law.log_density(points))
    assert (np.abs(bias) < 4 * repeated.std(axis=0, ddof=1) / np.sqrt(12) + 0.01).all()
    # Honest error bars: never smaller than what repetition shows by more than chance.
    assert np.median(repeated.std(axis=0) / found.standard_error) < 1.2


@pytest.mark.parametrize("d", [2, 64])
@pytest.mark.parametrize("make", [some_gaussian, some_mixture])
def test_stratification_cuts_the_variance_tenfold(make, d):
    law = make(d)
    denoiser = law.denoiser(CHANNEL)
    point = law.sample(jax.random.key(1), 1)
    reference = fitted_reference(law.sample(jax.random.key(2), 5000))
    n = 256

    def stratified(key):
        return log_density(denoiser, key, point, WIDE, reference, n_log_snr=n).value[0]

    def independent(key):
        copies = jnp.broadcast_to(point, (n, d))
        found = nll(denoiser, key, copies, WIDE, reference, stratified=False, control_variate=False)
        return -found.value

    keys = jax.random.split(jax.random.key(3), 100)
    variances = [np.var(jax.jit(jax.vmap(f))(keys)) for f in (independent, stratified)]
    assert variances[0] > 10 * variances[1]


def test_stratified_log_snrs_integrate_a_smooth_curve():
    def estimate(key, stratified):
        a, weight = WIDE.sample(key, 128, stratified=stratified)
        return (weight * jax.nn.sigmoid(a) * jax.nn.sigmoid(-a)).mean()

    keys = jax.random.split(jax.random.key(0), 200)
    one, two = (jax.vmap(lambda k, s=s: estimate(k, s))(keys) for s in (True, False))
    assert float(one.mean()) == pytest.approx(1.0, abs=1e-3)
    assert float(two.std()) > 10 * float(one.std())


def test_the_weights_are_one_over_the_density():
    low, high = WIDE.ends
    a, weight = WIDE.grid(4000)
    assert float(a.min()) == pytest.approx(low, rel=0.01)
    assert float(a.max()) == pytest.approx(high, rel=0.01)
    assert float(weight.mean()) == pytest.approx(high - low, rel=1e-3)
    assert np.isfinite(WIDE.at(jnp.asarray([0.0, 1.0]))[1]).all()


def test_gaussian_data_have_no_variance_at_all():
    law = some_gaussian(3)
    reference = GaussianReference(law.means[0], law.eigenvalues[0], law.eigenvectors[0])
    x = law.sample(jax.random.key(0), 50)
    found = log_density(law.denoiser(CHANNEL), jax.random.key(1), x, WIDE, reference)
    np.testing.assert_allclose(found.value, law.log_density(x), atol=2e-4)


def test_preconditioning_a_zero_network_gives_the_gaussian():
    law = some_gaussian(3)
    x = law.sample(jax.random.key(0), 2000)
    reference = fitted_reference(x)
    silent = preconditioned(lambda z, a: jnp.zeros_like(z), reference)
    found = nll(silent, jax.random.key(1), x, WIDE, reference)
    assert float(found.value) == pytest.approx(float(-reference.log_density(x).mean()), abs=1e-4)
    of_the_law = nll(silent, jax.random.key(1), x, WIDE, reference, reference_term="law")
    assert float(of_the_law.value) == pytest.approx(float(reference.entropy()), abs=1e-4)


def test_a_network_may_see_what_the_gaussian_predicts():
    reference = standard_reference(3)
    z, a = jax.random.normal(jax.random.key(0), (5, 3)), jnp.linspace(-2.0, 2.0, 5)
    undone = preconditioned(lambda seen, a: -seen[:, 3:] + seen[:, :3], reference, shown=True)
    np.testing.assert_allclose(undone(z, a), z, atol=1e-6)


def test_reference_equations():
    x = some_gaussian(4).sample(jax.random.key(0), 500)
    full = fitted_reference(x)
    covariance = np.cov(np.asarray(x).T)
    expected = 0.5 * np.linalg.slogdet(2 * np.pi * np.e * covariance)[1]
    assert float(full.entropy()) == pytest.approx(expected, rel=1e-4)
    a = jnp.asarray([-1.0, 2.0])
    s = np.asarray(jax.nn.sigmoid(a))
    for k in range(2):
        # mmse of eps = d - tr of the explained part.
        noisy = s[k] * covariance + (1 - s[k]) * np.eye(4)
        mmse = 4 - (1 - s[k]) * np.trace(np.linalg.inv(noisy))
        assert float(full.mmse(a)[k]) == pytest.approx(mmse, rel=1e-4)
    z = jax.random.normal(jax.random.key(1), (2, 4))
    noisy = s[0] * covariance + (1 - s[0]) * np.eye(4)
    centred = np.asarray(z[0]) - np.sqrt(s[0]) * np.asarray(full.mean)
    expected = np.sqrt(1 - s[0]) * np.linalg.solve(noisy, centred)
    np.testing.assert_allclose(full.epsilon(z, a)[0], expected, rtol=1e-3, atol=1e-4)
    diagonal = fitted_reference(x, axes="coordinates")
    np.testing.assert_allclose(diagonal.eigenvalues, np.var(x, axis=0, ddof=1), rtol=1e-4)


def test_a_worse_denoiser_has_a_higher_nll():
    law = some_mixture(2)
    x = law.sample(jax.random.key(0), 2000)
    reference = fitted_reference(x)
    exact = law.denoiser(CHANNEL)

    def value(denoiser):
        return float(nll(denoiser, jax.random.key(1), x, WIDE, reference, n_samples=4).value)

    assert value(exact) < value(lambda z, a: 0.9 * exact(z, a))
    assert value(exact) < value(lambda z, a: reference.epsilon(z, a))


def test_the_loss_is_an_estimate_of_the_nll_and_differentiable():
    law = some_mixture(2)
    x = law.sample(jax.random.key(0), 4000)
    reference = standard_reference(2)
    exact = law.denoiser(CHANNEL)

    def loss(scale):
        return nll_loss(
            lambda z, a: scale * exact(z, a), jax.random.key(1), x, WIDE, reference
        ).mean()

    assert float(loss(1.0)) == pytest.approx(float(-law.log_density(x).mean()), abs=0.5)
    h = 1e-2
    central = (loss(1.1 + h) - loss(1.1 - h)) / (2 * h)
    assert float(jax.grad(loss)(1.1)) == pytest.approx(float(central), rel=1e-2)


def test_the_unweighted_loss_has_the_same_minimum():
    law = some_mixture(2)
    x = law.sample(jax.random.key(0), 20_000)
    reference = fitted_reference(x)
    exact = law.denoiser(CHANNEL)

    @jax.jit
    def loss(scale):
        return nll_loss(
            lambda z, a: scale * exact(z, a), jax.random.key(1), x, WIDE, reference, weighted=False
        ).mean()

    scales = jnp.asarray([0.9, 0.95, 1.0, 1.05, 1.1])
    assert int(jnp.argmin(jax.vmap(loss)(scales))) == 2


def test_score_of_noisy_data(double_precision):
    law = gaussian(jnp.zeros(2, jnp.float64), jnp.asarray([[2.0, 0.3], [0.3, 0.5]], jnp.float64))
    a = jnp.asarray([0.7], jnp.float64)
    alpha, sigma = CHANNEL.alpha(a), CHANNEL.sigma(a)
    covariance = alpha**2 * jnp.asarray([[2.0, 0.3], [0.3, 0.5]]) + sigma**2 * jnp.eye(2)
    z = jnp.asarray([[0.4, -1.2]], jnp.float64)
    expected = -jnp.linalg.solve(covariance, z[0])
    np.testing.assert_allclose(score(law.denoiser(CHANNEL), z, a)[0], expected, rtol=1e-6)


def test_log_snr_from_the_spectrum():
    law = law_from_spectrum(jnp.asarray([1.0, np.e**2]))
    assert law.loc == pytest.approx(-1.0)
    assert law.scale == pytest.approx(np.sqrt(1 + 3 / np.pi))


def test_log_snr_from_a_curve():
    a = jnp.linspace(-10.0, 14.0, 400)
    law = law_from_curve(a, 5 * jax.nn.sigmoid((a - 2.0) / 1.5), 5)
    assert law.loc == pytest.approx(2.0, abs=1e-2)
    assert law.scale == pytest.approx(1.5 * np.log(3.0), abs=1e-2)
    with pytest.raises(ValueError, match="wider range"):
        law_from_curve(a[:100], jax.nn.sigmoid(a[:100]), 5)


def binary_law(d):
    """Independent entries of -1 or 1, the probability of 1 being 0.3, and the ideal denoiser."""

    def denoiser(z, a):
        alpha, sigma = CHANNEL.alpha(a)[:, None], CHANNEL.sigma(a)[:, None]
        clean = jnp.tanh(alpha * z / sigma**2 + 0.5 * jnp.log(0.3 / 0.7))
        return (z - alpha * clean) / sigma

    x = jnp.where(jax.random.bernoulli(jax.random.key(0), 0.3, (20_000, d)), 1.0, -1.0)
    return x, denoiser, -d * (0.3 * np.log(0.3) + 0.7 * np.log(0.7))


def test_the_discrete_bound_is_the_entropy_of_a_known_law():
    x, denoiser, entropy = binary_law(3)
    law = LogSNRLaw(loc=0.0, scale=1.5)
    eigenvalues = jnp.var(x, axis=0)
    curves = error_curves(denoiser, jax.random.key(1), x, law, n_log_snr=200, delta=2.0, bound=1.0)
    # With the ideal denoiser the clean estimate needs no rounding, and the bound is tight.
    assert float(discrete_bound(curves, law, eigenvalues, 2.0)) == pytest.approx(entropy, rel=0.01)

    def poor(z, a):
        return 0.8 * denoiser(z, a)

    worse = error_curves(poor, jax.random.key(1), x, law, n_log_snr=200, delta=2.0, bound=1.0)
    bound = float(discrete_bound(worse, law, eigenvalues, 2.0))
    assert bound > entropy
    without = worse._replace(clean=worse.clean[:, :1])
    assert float(discrete_bound(without, law, eigenvalues, 2.0)) > bound


def test_the_right_tail_bounds_the_error_of_rounding():
    """4 sum_j exp(-(j - 1/2)^2 Delta^2 snr / 2) against the integral of the true error."""
    delta, low = 0.5, 8.0
    j = np.arange(1, 200)

    def error(snr):
        n = np.linspace(-12, 12, 20_001) / np.sqrt(snr)
        density = np.exp(-0.5 * snr * n**2) * np.sqrt(snr / (2 * np.pi))
        rounded = delta * np.round(n / delta)
        return np.trapezoid(rounded**2 * density, n)

    snr = np.geomspace(low, 4000.0, 400)
    exact = 0.5 * np.trapezoid([error(value) for value in snr], snr)
    bound = 4 * np.exp(-0.5 * (j - 0.5) ** 2 * delta**2 * low).sum()
    assert exact < bound


def test_rounding():
    x = jnp.asarray([[-1.4, -0.26, 0.26, 0.9]])
    np.testing.assert_allclose(hard_rounding(x, 0.5, 1.0), [[-1.0, -0.5, 0.5, 1.0]], atol=1e-6)
    sharp = soft_rounding(x, jnp.asarray(1e6), 0.5, 1.0)
    np.testing.assert_allclose(sharp, [[-1.0, -0.5, 0.5, 1.0]], atol=1e-5)
    soft = soft_rounding(jnp.asarray([[0.1]]), jnp.asarray(4.0), 0.5, 1.0)
    points = np.array([-1.0, -0.5, 0.0, 0.5, 1.0])
    weights = np.exp(-2.0 * (0.1 - points) ** 2)
    assert float(soft[0, 0]) == pytest.approx((weights * points).sum() / weights.sum(), abs=1e-3)


def test_curves_give_the_nll_and_ensembles_are_bounds():
    law = some_mixture(2)
    x = law.sample(jax.random.key(0), 20_000)
    reference = fitted_reference(x)
    exact = law.denoiser(CHANNEL)

    def curves(factor):
        return error_curves(
            lambda z, a: factor(a)[:, None] * exact(z, a), jax.random.key(1), x, WIDE
        )

    best = curves(jnp.ones_like)
    entropy = float(-law.log_density(x).mean())
    assert float(nll_from_curves(best, reference)) == pytest.approx(entropy, abs=0.03)
    # One model fails at low SNR, the other at high: together they are as good as the exact one.
    early = curves(lambda a: jnp.where(a < 0, 0.5, 1.0))
    late = curves(lambda a: jnp.where(a < 0, 1.0, 0.5))
    together = ensemble([early, late])
    assert float(nll_from_curves(early, reference)) > entropy + 0.05
    np.testing.assert_allclose(together.epsilon, best.epsilon, rtol=1e-5)
    with pytest.raises(ValueError, match="at least one"):
        ensemble([])
    with pytest.raises(ValueError, match="same log SNRs"):
        ensemble([best, best._replace(a=best.a + 1)])


def test_curves_of_a_part_of_the_data():
    x, denoiser, _ = binary_law(2)
    key = jax.random.key(1)
    part = error_curves(denoiser, key, x, WIDE, n_log_snr=20, examples=4000)
    whole = error_curves(denoiser, key, x, WIDE, n_log_snr=20)
    np.testing.assert_allclose(part.epsilon, whole.epsilon, atol=0.15)
    with pytest.raises(ValueError, match="examples"):
        error_curves(denoiser, key, x, WIDE, examples=len(x) + 1)
    with pytest.raises(ValueError, match="bound"):
        error_curves(denoiser, key, x, WIDE, delta=1.0)


def test_chunks_do_not_change_the_nll():
    law = some_mixture(2)
    x = law.sample(jax.random.key(0), 50)
    reference = fitted_reference(x)

    def value(chunk):
        return nll(
            law.denoiser(CHANNEL), jax.random.key(1), x, WIDE, reference, n_samples=2, chunk=chunk
        ).value

    assert float(value(7)) == pytest.approx(float(value(None)), rel=1e-5)


def test_bits():
    assert bits_per_dimension(-8400.0, 3072) == pytest.approx(-3.945, abs=1e-3)


@pytest.mark.parametrize(
    "options", [{"scale": 0.0}, {"clip": -1.0}, {"loc": float("nan")}, {"scale": float("nan")}]
)
def test_impossible_laws(options):
    with pytest.raises(ValueError, match="log SNR law"):
        LogSNRLaw(**options)
