import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusions.density.correction import preconditioned
from diffusions.density.error_curves import (
    ErrorCurves,
    best_rounding,
    discrete_nll,
    ensemble,
    error_curves,
    hard_rounding,
    nll_from_curves,
    soft_rounding,
)
from diffusions.density.exact import gaussian, gaussian_mixture
from diffusions.density.gaussian_reference import (
    GaussianReference,
    fitted_reference,
    standard_reference,
)
from diffusions.density.likelihood import (
    averaged_terms,
    bits_per_dimension,
    log_density,
    nll,
    nll_loss,
    score,
)
from diffusions.density.log_snr import CHANNEL, LogSNRLaw, law_from_curve, law_from_spectrum

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


def test_held_out_examples_of_another_covariance():
    """Where G is fitted to N(0, diag(1, 2)) and judged by N(0, diag(3, 1/2)), all is known."""
    fitted, judged, d = jnp.asarray([1.0, 2.0]), jnp.asarray([3.0, 0.5]), 2
    reference = GaussianReference(jnp.zeros(d), fitted, None)
    n = 20_000
    x = jnp.sqrt(judged) * jax.random.normal(jax.random.key(0), (n, d))
    cross = 0.5 * float(jnp.log(2 * np.pi * fitted).sum() + (judged / fitted).sum())
    deviation = float(jnp.sqrt(0.5 * ((judged / fitted) ** 2).sum() / n))
    assert cross - float(reference.entropy()) > 40 * deviation  # h_G is no bound here
    silent = preconditioned(lambda z, a: jnp.zeros_like(z), reference)
    found = nll(silent, jax.random.key(1), x, WIDE, reference)
    assert abs(float(found.value) - cross) < 4 * deviation
    assert float(found.standard_error) == pytest.approx(deviation, rel=0.05)
    curves = error_curves(silent, jax.random.key(2), x, WIDE)
    assert float(nll_from_curves(curves, reference)) == pytest.approx(cross, abs=0.05)
    # With the denoiser of the law that is judged, its entropy.
    ideal = gaussian(jnp.zeros(d), jnp.diag(judged))
    found = nll(ideal.denoiser(CHANNEL), jax.random.key(1), x, WIDE, reference, n_samples=8)
    assert abs(float(found.value - ideal.entropy())) < 4 * float(found.standard_error)
    assert float(found.standard_error) < 0.02


def test_the_clean_error_of_a_gaussian_below_a_log_snr():
    """Equation (4) of the reference against the integral of the error itself, at one x."""
    variances, mean, a = np.array([0.5, 3.0]), np.array([1.0, -2.0]), 0.7
    x = np.array([2.5, -1.0])
    snr = np.linspace(0.0, np.exp(a), 20_001)[:, None]
    shrunk = ((x - mean) ** 2 + snr * variances**2) / (1 + snr * variances) ** 2
    expected = 0.5 * np.trapezoid(shrunk.sum(axis=1), snr[:, 0])
    reference = GaussianReference(jnp.asarray(mean), jnp.asarray(variances), None)
    found = reference.clean_error_below(jnp.asarray(x)[None], a)
    assert float(found[0]) == pytest.approx(expected, rel=1e-4)


def test_draws_of_an_example_are_stratified():
    """Each example alone has a smooth integral to high accuracy, whatever its place in the batch."""
    x = jnp.zeros((64, 1))

    def values(stratified):
        return averaged_terms(
            lambda eps, x, a, weight: weight * jax.nn.sigmoid(a) * jax.nn.sigmoid(-a),
            jax.random.key(0), x, WIDE, n_samples=32, stratified=stratified,
        )  # fmt: skip

    apart, together = (values(choice) for choice in (False, True))
    assert float(together.mean()) == pytest.approx(1.0, abs=1e-3)
    assert float(apart.std()) > 8 * float(together.std())


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


def binary_denoiser(z, a):
    """The ideal one of independent entries of -1 or 1, the probability of 1 being 0.3."""
    alpha, sigma = CHANNEL.alpha(a)[:, None], CHANNEL.sigma(a)[:, None]
    clean = jnp.tanh(alpha * z / sigma**2 + 0.5 * jnp.log(0.3 / 0.7))
    return (z - alpha * clean) / sigma


def binary_data(key, n, share=0.3):
    return jnp.where(jax.random.bernoulli(key, share, (n, 3)), 1.0, -1.0)


BINARY = {"delta": 2.0, "bound": 1.0}
BINARY_LAW = LogSNRLaw(loc=0.0, scale=1.5)
BINARY_ENTROPY = -3 * (0.3 * np.log(0.3) + 0.7 * np.log(0.7))
BINARY_REFERENCE = GaussianReference(jnp.full(3, -0.4), jnp.full(3, 0.84), None)


@functools.partial(jax.jit, static_argnames=("factor", "law", "roundings"))
def binary_bound(x, key=0, *, factor=1.0, law=BINARY_LAW, roundings=3):
    """The discrete bound by the ideal denoiser, or a multiple of it."""
    choice_key, key = jax.random.split(jax.random.key(key))
    pilot_data = binary_data(jax.random.fold_in(choice_key, 1), 500)

    def denoiser(z, a):
        return factor * binary_denoiser(z, a)

    pilot = error_curves(denoiser, choice_key, pilot_data, law, n_log_snr=40, **BINARY)
    choice = best_rounding(pilot._replace(clean=pilot.clean[:, :roundings]))
    return discrete_nll(denoiser, key, x, law, BINARY_REFERENCE, choice, n_samples=4, **BINARY)


def test_the_discrete_bound_is_the_entropy_of_a_known_law():
    x = binary_data(jax.random.key(0), 20_000)
    # With the ideal denoiser the clean estimate needs no rounding, and the bound is tight.
    tight = binary_bound(x)
    assert abs(float(tight.value) - BINARY_ENTROPY) < 4 * float(tight.standard_error)
    assert float(tight.standard_error) < 0.02
    worse = binary_bound(x, factor=0.8)
    assert float(worse.value) > BINARY_ENTROPY + 4 * float(worse.standard_error)
    assert float(binary_bound(x, factor=0.8, roundings=1).value) > float(worse.value)


def test_the_discrete_bound_is_that_of_the_examples_evaluated():
    """Of entries that are 1 with probability 0.6, by the denoiser of 0.3; also what lies below a_L."""
    x = binary_data(jax.random.key(0), 20_000, share=0.6)
    expected = -3 * (0.6 * np.log(0.3) + 0.4 * np.log(0.7))
    for scale in (1.5, 0.75):
        found = binary_bound(x, law=LogSNRLaw(loc=0.0, scale=scale))
        assert abs(float(found.value) - expected) < 4 * float(found.standard_error)
        assert float(found.standard_error) < 0.025
    low = LogSNRLaw(loc=0.0, scale=0.75).ends[0]
    of_the_examples = float(BINARY_REFERENCE.clean_error_below(x, low).mean())
    of_the_law = 1.5 * np.log1p(0.84 * np.exp(low))
    assert of_the_examples - of_the_law > 0.03  # what the training law's error would lack


def test_standard_errors_cover():
    """Of the discrete and of the continuous bound, over fresh examples and noises."""
    mixture = some_mixture(2)
    denoiser = mixture.denoiser(CHANNEL)
    reference = standard_reference(2)
    exact = float(-mixture.log_density(mixture.sample(jax.random.key(9), 100_000)).mean())

    def continuous(key):
        draw_key, key = jax.random.split(jax.random.key(key))
        x = mixture.sample(draw_key, 200)
        return nll(denoiser, key, x, WIDE, reference, n_samples=4)

    def discrete(key):
        # Rare errors at high SNR weigh much: the mean of few examples would not be normal.
        return binary_bound(binary_data(jax.random.key(1000 + key), 2000), key)

    for estimate, truth in ((discrete, BINARY_ENTROPY), (continuous, exact)):
        found = jax.lax.map(estimate, jnp.arange(100))
        z = np.asarray((found.value - truth) / found.standard_error)
        assert 0.85 < z.std() < 1.15
        assert abs(z.mean()) < 0.35
        assert 0.88 <= (np.abs(z) < 1.96).mean() <= 1.0


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
    assert float(nll_from_curves(early, reference)) > entropy + 0.05
    models = [
        lambda z, a: jnp.where(a < 0, 0.5, 1.0)[:, None] * exact(z, a),
        lambda z, a: jnp.where(a < 0, 1.0, 0.5)[:, None] * exact(z, a),
    ]
    together = ensemble(models, [early, late])
    z, a = x[:100], jnp.linspace(-11.0, 11.0, 100)
    np.testing.assert_allclose(together(z, a), exact(z, a), rtol=1e-5)
    with pytest.raises(ValueError, match="at least one"):
        ensemble([], [])
    with pytest.raises(ValueError, match="a curve of each, got 2 and 1"):
        ensemble(models, [early])
    with pytest.raises(ValueError, match="same log SNRs"):
        ensemble(models, [early, late._replace(a=late.a + 1)])


def test_an_ensemble_of_equals_is_no_better_than_each():
    """The smaller of two noisy errors at each log SNR would be below the entropy."""
    law = some_mixture(2)
    exact = law.denoiser(CHANNEL)
    x = law.sample(jax.random.key(0), 50)
    pilots = [
        ErrorCurves(*leaves)
        for leaves in zip(
            *jax.lax.map(
                lambda key: error_curves(exact, key, x, WIDE),
                jax.random.split(jax.random.key(2), 8),
            ),
            strict=True,
        )
    ]
    smallest = jnp.min(jnp.stack([pilot.epsilon for pilot in pilots]), axis=0)
    reference = fitted_reference(law.sample(jax.random.key(1), 5000))
    entropy = float(-law.log_density(x).mean())
    assert float(nll_from_curves(pilots[0]._replace(epsilon=smallest), reference)) < entropy - 0.5
    found = nll(ensemble([exact] * 8, pilots), jax.random.key(9), x, WIDE, reference, n_samples=64)
    alone = nll(exact, jax.random.key(9), x, WIDE, reference, n_samples=64)
    assert float(found.value) == pytest.approx(float(alone.value), abs=1e-4)


def test_curves_of_a_part_of_the_data():
    x, denoiser = binary_data(jax.random.key(0), 20_000), binary_denoiser
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
