"""A diffusion of one's own against known laws: density, samples, the same for every process."""

import dataclasses
import re
import warnings

import flax.linen as nn
import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
import pytest
from scipy.stats import multivariate_normal

import diffusions
from diffusions.density.log_snr import LogSNRLaw
from diffusions.fitting import fit
from diffusions.processes import (
    LinearBetaDDPM,
    OrnsteinUhlenbeck,
    RectifiedFlow,
    StochasticLocalization,
    VariancePreserving,
)
from diffusions.samplers import ode, prior
from diffusions.training_settings import TrainingSettings

MEAN = np.array([30.0, -0.2])
COVARIANCE = np.array([[9.0, 0.06], [0.06, 1e-3]])  # coordinates of two very different units


class Own(nn.Module):
    """The smallest network that takes part: nothing of this project in it."""

    start: float = 0.0

    @nn.compact
    def __call__(self, z, a):
        """A correction of the shape of z."""
        hidden = nn.tanh(nn.Dense(8)(jnp.concatenate([z, a[:, None] / 10], axis=-1)))
        return nn.Dense(z.shape[-1], kernel_init=nn.initializers.constant(self.start))(hidden)


class Deeper(nn.Module):
    """Enough for two clusters on a line."""

    @nn.compact
    def __call__(self, z, a):
        """A correction of the shape of z."""
        hidden = jnp.concatenate([z, a[:, None] / 10], axis=-1)
        for _ in range(2):
            hidden = nn.tanh(nn.Dense(16)(hidden))
        return nn.Dense(1, kernel_init=nn.initializers.zeros)(hidden)


def gaussian_points(n, seed=0):
    return np.random.default_rng(seed).multivariate_normal(MEAN, COVARIANCE, n)


QUICK = TrainingSettings(epochs=20, noises=1, validation_ratio=0.2)
POINTS = gaussian_points(1000)


def quietly(*args, **kwargs):
    """`fit` where it does not matter how long it trained."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        return fit(*args, key=kwargs.pop("key", 0), **kwargs)


@pytest.fixture(scope="module")
def fitted():
    return quietly(POINTS, Own(), settings=QUICK)


def test_the_log_density_of_gaussian_data_is_the_exact_one_within_its_error(fitted):
    x = gaussian_points(200, seed=1)
    exact = multivariate_normal(MEAN, COVARIANCE).logpdf(x)
    value, error = fitted.log_density(x, 1)
    # The units of x are in the density; what 800 points do not tell is a few hundredths of a nat.
    gap = np.asarray(value) - exact
    assert abs(gap.mean()) < 0.1
    assert (abs(gap) < 4.0 * np.asarray(error) + 0.2).mean() > 0.95
    found = fitted.nll(x, 2)
    assert float(found.value) == pytest.approx(-exact.mean(), abs=0.1)
    assert float(found.standard_error) == pytest.approx(exact.std() / np.sqrt(200), rel=0.3)
    # The same points with other noises vary by less.
    assert 0.0 < float(found.evaluation_error) < float(found.standard_error)
    report = fitted.report
    assert report.validation[-1] == pytest.approx(report.gaussian, abs=0.05)
    of_held_out = -multivariate_normal(MEAN, COVARIANCE).logpdf(POINTS[report.held_out]).mean()
    assert report.gaussian == pytest.approx(of_held_out, abs=0.02)


@pytest.mark.parametrize("method", ["ancestral", "ode"])
def test_samples_have_the_moments_of_the_data_in_their_units(fitted, method):
    drawn = np.asarray(fitted.sample(3, 4000, n_steps=100, method=method))
    deviation = np.sqrt(np.diag(COVARIANCE))
    np.testing.assert_allclose((drawn.mean(axis=0) - MEAN) / deviation, 0.0, atol=0.15)
    scaled = np.cov(drawn.T) / np.outer(deviation, deviation)
    np.testing.assert_allclose(scaled, COVARIANCE / np.outer(deviation, deviation), atol=0.15)
    again = fitted.sample(3, 4000, n_steps=100, method=method)
    np.testing.assert_array_equal(drawn, again)


def test_the_same_key_gives_the_same_result_and_another_another(fitted):
    again, other = (quietly(POINTS, Own(), key=key, settings=QUICK) for key in (0, 5))
    leaves = [jax.tree.leaves(f.params) for f in (fitted, again, other)]
    assert all(np.array_equal(a, b) for a, b in zip(leaves[0], leaves[1], strict=True))
    assert not np.array_equal(leaves[0][1], leaves[2][1])
    np.testing.assert_array_equal(again.report.loss, fitted.report.loss)


def test_how_often_held_out_examples_are_looked_at_does_not_change_the_training(monkeypatch):
    settings = dataclasses.replace(QUICK, epochs=4, learning_rate=1e-2)
    often = quietly(POINTS, Own(), settings=settings).report
    monkeypatch.setattr("diffusions.fitting.EVALUATIONS", 2)
    seldom = quietly(POINTS, Own(), settings=settings).report
    assert often.epochs.tolist() == [1, 2, 3, 4]
    assert seldom.epochs.tolist() == [2, 4]
    np.testing.assert_allclose(seldom.loss, often.loss, rtol=1e-5)
    np.testing.assert_allclose(seldom.validation, often.validation[1::2], rtol=1e-5)


@pytest.mark.parametrize(
    ("process", "prediction", "condition"),
    [
        (LinearBetaDDPM(), "epsilon", "time"),
        (OrnsteinUhlenbeck(variance=2.0), "score", "log_snr"),
        (StochasticLocalization(), "clean", "log_snr"),
        (RectifiedFlow(), "velocity", "time"),
    ],
    ids=lambda value: getattr(type(value), "__name__", value),
)
def test_every_process_learns_samples_and_has_a_density(process, prediction, condition):
    """A network that adds nothing leaves the Gaussian, whatever the process: its density is known."""
    settings = TrainingSettings(epochs=1, learning_rate=1e-30, noises=1)
    found = quietly(
        POINTS,
        Own(),
        process=process,
        prediction=prediction,
        condition=condition,
        settings=settings,
    )
    x = gaussian_points(5, seed=1)
    exact = multivariate_normal(MEAN, COVARIANCE).logpdf(x)
    np.testing.assert_allclose(found.log_density(x, 0, n_log_snr=16).value, exact, atol=0.5)
    # The samplers on the process's own times, from its own noise.
    times = found.times(100)
    z = prior(jax.random.key(0), (2000, 2), process, float(times[0]))
    z = ode(found.model, z, times, method="heun")
    own = np.asarray(z) / float(process.alpha(times[-1]))
    own = own * np.asarray(found.scale) + np.asarray(found.centre)
    deviation = np.sqrt(np.diag(COVARIANCE))
    np.testing.assert_allclose((own.mean(axis=0) - MEAN) / deviation, 0.0, atol=0.12)
    np.testing.assert_allclose(own.std(axis=0) / deviation, 1.0, atol=0.12)


def test_a_short_training_is_said_to_be_short_and_a_long_one_is_not(no_warning):
    rng = np.random.default_rng(0)
    x = rng.choice([-1.0, 1.0], (1000, 1)) + 0.2 * rng.normal(size=(1000, 1))
    settings = dataclasses.replace(QUICK, noises=2, learning_rate=1e-2, ema_decay=0.98)
    with pytest.warns(UserWarning, match=r"^training was too short: .* nats; take epochs=40$"):
        short = fit(x, Deeper(), key=0, settings=settings)
    assert short.report.too_short
    with no_warning():
        long = fit(x, Deeper(), key=0, settings=dataclasses.replace(settings, epochs=300))
    assert not long.report.too_short
    exact = 0.5 * np.log(2 * np.pi * np.e * 0.2**2) + np.log(2.0)
    assert float(long.nll(x, 1).value) == pytest.approx(exact, abs=0.1)
    assert short.report.validation[-1] > long.report.validation[-1] + 0.1


def test_a_training_that_diverges_says_so_and_keeps_what_was_finite():
    settings = dataclasses.replace(QUICK, epochs=4, learning_rate=1e30)
    with pytest.warns(UserWarning, match=r"^training diverged in epoch \d"):
        found = fit(POINTS, Own(start=1e-3), key=0, settings=settings)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(found.params))


def test_images_need_a_network_and_keep_their_shape():
    x = np.random.default_rng(0).normal(size=(100, 3, 3, 1))
    with pytest.raises(ValueError, match=r"^examples of shape \(3, 3, 1\) need a network of yours"):
        fit(x, key=0)

    class Pixels(nn.Module):
        @nn.compact
        def __call__(self, z, a):
            return nn.Conv(1, (3, 3), kernel_init=nn.initializers.zeros)(z)

    found = quietly(x, Pixels(), settings=dataclasses.replace(QUICK, epochs=1))
    assert found.sample(0, 2, n_steps=3).shape == (2, 3, 3, 1)
    assert found.log_density(x[:2], 0, n_log_snr=8).value.shape == (2,)


class Narrow(nn.Module):
    @nn.compact
    def __call__(self, z, a):
        return nn.Dense(1)(z)


class Normed(nn.Module):
    @nn.compact
    def __call__(self, z, a):
        return nn.BatchNorm(use_running_average=True)(z)


@dataclasses.dataclass(frozen=True)
class Ending:
    """A process of someone's own that ends at log SNR 1."""

    def alpha(self, t):
        return VariancePreserving().alpha(t)

    def sigma(self, t):
        return VariancePreserving().sigma(t)

    def time(self, a):
        return jnp.minimum(a, 1.0)


NAN = POINTS.copy()
NAN[3, 1] = np.nan
FLAT = POINTS.copy()
FLAT[:, 1] = 7.0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"x": POINTS[:, 0]}, "x must be of shape [n, d, ...]"),
        ({"x": NAN}, "x has 1 numbers that are not finite, of 2000"),
        ({"x": np.ma.masked_less(POINTS, 0.0)}, "masked entries in x"),
        ({"x": FLAT}, "coordinate 1 of x is the same in all examples"),
        ({"x": POINTS[:50]}, "x has 50 examples, of which validation_ratio 0.1 holds out 5"),
        ({"process": RectifiedFlow}, "process must be one of diffusions.processes, such as Rect"),
        ({"process": Ending()}, "log SNRs from -12 to 12 are asked of Ending, which has -12 to 1"),
        (
            {"process": LinearBetaDDPM(), "law": diffusions.LogSNRLaw(loc=-9.0)},
            "log SNRs from -21 to 3 are asked of LinearBetaDDPM, which has -10.12 to 3",
        ),
        ({"network": Narrow()}, "network must map z of shape (2, 2) and numbers of shape (2,)"),
        ({"network": Normed()}, "network must have parameters only, and has batch_stats"),
    ],
    ids=["rank", "nan", "masked", "flat", "few", "class", "ends", "law", "shape", "state"],
)
def test_bad_input_in_one_line(arguments, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}") as caught:
        fit(**({"x": POINTS, "key": 0} | arguments))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "arguments",
    [
        {"process": "flow"},
        {"network": lambda z, a: z},
        {"prediction": "noise"},
        {"condition": "step"},
    ],
    ids=lambda arguments: next(iter(arguments)),
)
def test_unknown_words_and_things(arguments):
    # The type checker of the tests sees them first.
    with pytest.raises((ValueError, jaxtyping.TypeCheckError)):
        fit(POINTS, key=0, **arguments)


def test_other_examples_than_those_of_the_training(fitted):
    for method in (fitted.log_density, fitted.nll):
        with pytest.raises(
            ValueError, match=r"^x must have examples of shape \(2,\), as the train"
        ):
            method(np.zeros((3, 1)), 0)


def test_progress_is_told_and_changes_no_bit(fitted):
    told = []
    again = quietly(POINTS, Own(), settings=QUICK, on_progress=lambda *what: told.append(what))
    assert [epoch for epoch, _ in told] == list(range(2, 21, 2))
    assert told[-1][1] == {
        "loss": pytest.approx(fitted.report.loss[-1]),
        "validation": pytest.approx(fitted.report.validation[-1]),
    }
    for old, new in zip(jax.tree.leaves(fitted.params), jax.tree.leaves(again.params), strict=True):
        np.testing.assert_array_equal(old, new)


def test_epochs_that_no_evaluation_divides_are_told_of_too():
    told = []
    settings = dataclasses.replace(QUICK, epochs=53)
    made = quietly(
        POINTS[:100], Own(), settings=settings, on_progress=lambda epoch, _: told.append(epoch)
    )
    assert told[-1] == 53
    assert 9 <= len(told) <= 11
    assert len(made.report.loss) == 53


def said_to_be_missing(*args, **kwargs):
    """The warnings of `fit` of nats beyond the last log SNR."""
    with warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("always")
        fit(*args, key=0, **kwargs)
    return [str(one.message) for one in heard if "are missing" in str(one.message)]


@pytest.mark.parametrize(
    ("width", "scale", "process", "missing"),
    [
        (2e-4, 3.0, VariancePreserving(), True),
        (2e-4, 5.0, VariancePreserving(), False),
        (1e-3, None, LinearBetaDDPM(), True),
    ],
)
def test_examples_finer_than_the_last_noise_are_told_of(width, scale, process, missing):
    """Two clusters on a line: no Gaussian has their width, and the network has not seen it yet."""
    rng = np.random.default_rng(0)
    x = rng.choice([-1.0, 1.0], 400)[:, None] + width * rng.normal(size=(400, 1))
    law = None if scale is None else LogSNRLaw(scale=scale)
    settings = TrainingSettings(epochs=1, noises=1, validation_ratio=0.5)
    lines = said_to_be_missing(x, Deeper(), law=law, process=process, settings=settings)
    assert len(lines) == missing
    assert all("give law=LogSNRLaw(loc=0.0, scale=4.5, clip=" in x for x in lines)


def test_a_mixture_that_learned_few_examples_by_heart_tells_nothing():
    x = np.random.default_rng(0).normal(size=(100, 1))
    settings = TrainingSettings(epochs=1, noises=1, validation_ratio=0.2)
    assert not said_to_be_missing(x, Deeper(), settings=settings)


@pytest.mark.parametrize("values", [2, 10, 150])
def test_examples_that_repeat_have_no_density_and_it_is_said(values):
    x = np.random.default_rng(0).integers(0, values, (400, 1)).astype(float)
    settings = TrainingSettings(epochs=1, noises=1)
    with pytest.warns(UserWarning, match="different examples among 400: what repeats"):
        fit(x, Deeper(), key=0, settings=settings)


def test_what_single_precision_does_not_resolve_is_not_asked_for():
    rng = np.random.default_rng(0)
    x = rng.choice([-1.0, 1.0], 400)[:, None] + 1e-6 * rng.normal(size=(400, 1))
    settings = TrainingSettings(epochs=1, noises=1, validation_ratio=0.5)
    with pytest.warns(UserWarning, match="single precision does not resolve them"):
        fit(x, Deeper(), key=0, law=LogSNRLaw(scale=4.2), settings=settings)


def test_progress_to_nobody_is_refused_before_the_training():
    with pytest.raises((ValueError, jaxtyping.TypeCheckError), match="on_progress"):
        fit(POINTS, key=0, on_progress=3)


def test_a_gaussian_that_knows_how_narrow_the_examples_are_misses_nothing():
    rng = np.random.default_rng(0)
    one = rng.normal(size=(400, 1))
    x = np.concatenate([one, one + 1e-6 * rng.normal(size=(400, 1))], axis=1)
    assert not said_to_be_missing(x, Own(), settings=dataclasses.replace(QUICK, epochs=1))


def test_what_was_learned_says_how(fitted):
    text = repr(fitted)
    assert "Own of 50 parameters on VariancePreserving, examples of shape (2,)" in text
    assert "20 epochs, held-out nll" in text
