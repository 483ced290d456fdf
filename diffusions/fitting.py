"""A diffusion of one's own: from an array to samples and log densities.

    x  ->  standardised  ->  network, trained by the likelihood  ->  `FittedDiffusion`

The network f(z, a) of any Flax module corrects the ideal denoiser of a Gaussian with the data's mean
and covariance (`diffusions.density.channel`, equation (2)), and what is minimised is an estimate of the
mean of -log p(x) (`diffusions.density.training`), in nats, for every process and whatever the network
predicts. So losses of different processes and networks can be compared.

All epochs are one compiled program, called once, or about ten times where progress is told. Held-out
examples are evaluated in it, with noises of their own that are always the same.

The log SNRs end somewhere, and what is finer than the noise there is not in the density. At the upper
end a_R the Gaussian has the denoising error mse_G, so that

    1/2 int_{a_R}^{inf} (mse_G - mse) da >= 1/2 (mse_G(a_R) - mse(a_R))                            (1)

nats are missing as long as this difference does not fall (`diffusions.density.saturation`), mse being
the ideal error. It is at most the network's; of points, that of a mixture of Gaussians is another
guess, which also sees what the network has not resolved.
"""

import dataclasses
import functools
import inspect
import warnings
from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

from diffusions.arguments import checked
from diffusions.checks import conform
from diffusions.density.channel import Condition, on_channel, reached_law
from diffusions.density.gaussian_reference import GaussianReference, fitted_reference
from diffusions.density.likelihood import averaged_terms, nll_terms
from diffusions.density.log_snr import LogSNRLaw
from diffusions.density.mixture_choice import LEAST_POINTS, chosen_mixture
from diffusions.density.saturation import MOST_REACH, TOLERATED, outside
from diffusions.density.training import likelihood_training, n_steps
from diffusions.fitted import FittedDiffusion
from diffusions.keys import named_key
from diffusions.networks.mlp import DenoisingMLP
from diffusions.objectives import Denoiser
from diffusions.predictions import Prediction
from diffusions.processes import TimedProcess, VariancePreserving
from diffusions.training import PROGRESS_CALLS, Progress, TrainingState, initial_state
from diffusions.training_report import CONSTANT, training_report
from diffusions.training_settings import TrainingSettings
from diffusions.typing import Array, Float, HostArray, Key, Params

EVALUATIONS = 50
"""Of held-out examples, at most, evenly over the epochs."""
VALIDATION_NOISES = 32
"""Draws of log SNR and noise for each held-out example, the same every time."""
LEAST_EXAMPLES = 10
"""That are trained on, and that are held out."""
MOST_PRINCIPAL = 1024
"""Numbers per example up to which the Gaussian has a full covariance; beyond, its diagonal."""
MOST_AT_THE_END = 1024
"""Held-out examples that (1) is a mean over, if a batch of the training has so many."""
MOST_OF_A_MIXTURE = 200
"""Examples that the mixture of (1) is fitted to, for about a second of the processor."""
MOST_COUNTED = 2000
"""Examples that are compared with each other."""
MOST_REPEATED = 0.5
"""Share of different examples up to which they are taken for a law of points."""
WIDER = 1.5


@checked
def fit(
    x: Float[Array, "n d ..."] | Float[np.ndarray, "n d ..."],
    network: nn.Module | None = None,
    *,
    key: Key,
    process: TimedProcess | None = None,
    prediction: Prediction = "epsilon",
    condition: Condition = "log_snr",
    law: LogSNRLaw | None = None,
    settings: TrainingSettings | None = None,
    on_progress: Progress | None = None,
) -> FittedDiffusion:
    """Learns the law of examples.

        fitted = fit(x, key=0)
        new = fitted.sample(1, 1000)
        value, error = fitted.log_density(new, 2)

    Args:
        x: independent examples [n, d] (or [n, height, width, channels]), in any unit: every coordinate
            is standardised, and what comes out is in the units of x.
        network: a Flax module that maps z [batch, d] and one number per example [batch] to the shape of
            z, with parameters only; absent, `DenoisingMLP` with smooth features.
        key: of initial parameters, held-out examples, batches and noises: the same key, the same
            result.
        process: of `diffusions.processes`, or any with `alpha`, `sigma` and `time`; absent,
            `VariancePreserving`.
        prediction: what the network predicts, up to the Gaussian's part: epsilon, clean, velocity or
            score.
        condition: what the network is called with. log_snr: (z_t / sqrt(alpha^2 + sigma^2), log SNR),
            numbers of order one and of -12 .. 12 for every process. time: (z_t, t) as the process has
            them, 0 .. 1 for the rectified flow, 0 .. 1000 for DDPM.
        law: of the log SNRs that are learned; absent, from -12 to 12 as far as the process has them.
        settings: how long, how fast; absent, the defaults.
        on_progress: called about ten times during the training, with the number of finished epochs and
            the `loss` of the last one and of the held-out examples (`validation`), as in the report.

    Returns:
        The learned law, with a `report` of the training.

    Raises:
        ValueError: numbers that are masked or not finite, a coordinate without spread, too few
            examples, an unknown process, prediction or condition, a law that the process does not
            reach, a network of other shapes.

    Warns:
        UserWarning: the training was too short (`diffusions.training_report`), diverged, or was so long
            that the network learns its examples by heart; the log SNRs end before the examples are
            resolved, equation (1); half of the examples repeat, so that there is no density.
    """
    settings = settings or TrainingSettings()
    process = VariancePreserving() if process is None else process
    _check_process(process)
    conform(prediction, Prediction, "prediction")
    conform(condition, Condition, "condition")
    if on_progress is not None and not callable(on_progress):
        raise ValueError(
            f"on_progress must be a function of two arguments, got {on_progress!r:.60}"
        )
    law = reached_law(process, law)
    u, centre, scale = _standardised(np.asarray(x, np.float64))
    n_held_out = _held_out(len(u), settings.validation_ratio)
    order = np.asarray(jax.random.permutation(named_key(key, "split"), len(u)))
    held_out, train = (jnp.asarray(u[part]) for part in np.split(order, [n_held_out]))
    few = centre.size <= MOST_PRINCIPAL
    reference = fitted_reference(train, axes="principal" if few else "coordinates")
    network = _default_network(centre) if network is None else network
    params = _initial_params(network, named_key(key, "parameters"), train[:1])

    def denoiser(params: Params) -> Denoiser:
        return on_channel(
            lambda z, c: network.apply(params, z, c),  # type: ignore[return-value, arg-type]
            process,
            reference,
            prediction=prediction,
            condition=condition,
        )

    log_scale = float(np.log(scale).sum())

    params, loss, epochs, terms = _trained(
        params,
        denoiser,
        key,
        train,
        held_out,
        law,
        reference,
        settings,
        log_scale,
        on_progress,
    )
    report = training_report(
        loss,
        order[:n_held_out],
        epochs,
        terms,
        log_scale - float(reference.log_density(held_out).mean()),
    )
    if (line := report.warning()) is not None:
        warnings.warn(line, stacklevel=3)
    line = _repeats(np.asarray(x[:MOST_COUNTED]))
    if line is None:
        some = held_out[: min(MOST_AT_THE_END, settings.batch_size * settings.noises)]
        line = _range_warning(params, denoiser, reference, key, train, some, law)
    if line is not None:
        warnings.warn(line, stacklevel=3)
    return FittedDiffusion(
        network=network,
        process=process,
        prediction=prediction,
        condition=condition,
        law=law,
        report=report,
        params=params,
        reference=reference,
        centre=jnp.asarray(centre, jnp.float32),
        scale=jnp.asarray(scale, jnp.float32),
    )


def _trained(
    params: Params,
    denoiser: Callable[[Params], Denoiser],
    key: Key,
    train: Array,
    held_out: Array,
    law: LogSNRLaw,
    reference: GaussianReference,
    settings: TrainingSettings,
    log_scale: float,
    on_progress: Progress | None,
) -> tuple[Params, HostArray, HostArray, HostArray]:
    """The last sound parameters, the loss of every epoch, and when held-out examples had which."""
    every = -(-settings.epochs // EVALUATIONS)
    n_evaluations, rest = divmod(settings.epochs, every)
    steps = settings.epochs * n_steps(len(train), settings.batch_size)
    constant = round(CONSTANT * steps)
    rate = optax.join_schedules(
        [
            optax.constant_schedule(settings.learning_rate),
            optax.cosine_decay_schedule(settings.learning_rate, max(1, steps - constant)),
        ],
        [constant],
    )
    optimizer = optax.adam(rate)

    @functools.partial(jax.jit, static_argnames=("before", "count"))
    def program(
        state: TrainingState,
        kept: Params,
        train: Array,
        held_out: Array,
        *,
        before: int,
        count: int,
    ) -> tuple[TrainingState, Params, Array, Array]:
        """Some epochs, and others with an evaluation each after every few."""
        advance = likelihood_training(
            lambda params, key: denoiser(params),
            lambda key, indices: train[indices],
            len(train),
            law,
            reference,
            optimizer,
            settings,
            named_key(key, "training"),
        )

        def validation(params: Params) -> Array:
            def terms(eps: Array, x: Array, a: Array, weight: Array) -> Array:
                return nll_terms(denoiser(params), eps, x, a, weight, reference)

            return averaged_terms(
                terms,
                named_key(key, "validation"),
                held_out,
                law,
                n_samples=VALIDATION_NOISES,
                chunk=settings.batch_size * settings.noises,
            )

        def evaluated(carry: tuple, _: None) -> tuple[tuple, tuple[Array, Array]]:
            state, kept = carry
            state, scalars = advance(state, n_epochs=every)
            terms = validation(state.ema)
            sound = jnp.isfinite(terms).all()
            kept = jax.tree.map(lambda new, old: jnp.where(sound, new, old), state.ema, kept)
            return (state, kept), (scalars["loss"], terms)

        state, first = advance(state, n_epochs=before)
        (state, kept), (loss, terms) = jax.lax.scan(evaluated, (state, kept), length=count)
        return state, kept, jnp.concatenate([first["loss"], loss.reshape(-1)]), terms

    state = initial_state(params, optimizer)
    kept = state.ema
    chunk = n_evaluations if on_progress is None else -(-n_evaluations // PROGRESS_CALLS)
    losses, found = [], []
    for done in range(0, n_evaluations, chunk):
        count = min(chunk, n_evaluations - done)
        before = 0 if done else rest
        state, kept, loss, terms = program(state, kept, train, held_out, before=before, count=count)
        losses.append(np.asarray(loss) + log_scale)
        found.append(np.asarray(terms, np.float64) + log_scale)
        if on_progress is not None:
            means = {"loss": float(losses[-1][-1]), "validation": float(found[-1][-1].mean())}
            on_progress(rest + every * (done + count), means)
    epochs = rest + every * np.arange(1, n_evaluations + 1)
    return kept, np.concatenate(losses), epochs, np.concatenate(found)


def _repeats(x: HostArray) -> str | None:
    """A line where many examples are the same."""
    distinct = len(np.unique(x.reshape(len(x), -1), axis=0))
    if distinct > MOST_REPEATED * len(x):
        return None
    return (
        f"x has {distinct} different examples among {len(x)}: what repeats, as whole numbers do, "
        "has no density; add noise to it, uniform within the last digit for one"
    )


def _range_warning(
    params: Params,
    denoiser: Callable[[Params], Denoiser],
    reference: GaussianReference,
    key: Key,
    train: Array,
    x: Array,
    law: LogSNRLaw,
) -> str | None:
    """A line where equation (1), at the examples x, says that much is missing."""
    dimension = x[0].size
    if dimension <= MOST_PRINCIPAL and len(train) <= dimension:
        return None  # the Gaussian has directions without any example

    some, guesses = np.asarray(train[:MOST_OF_A_MIXTURE]), [reference.epsilon]
    several = len(some) >= max(LEAST_POINTS, 2 * (dimension + 1))
    if x.ndim == 2 and several and np.ptp(some, axis=0).min() > 0.0:
        mixture = chosen_mixture(some, 0).reference
        gain = np.asarray(mixture.log_density(x) - reference.log_density(x))
        if gain.mean() > 2.0 * gain.std() / np.sqrt(len(gain)):  # and has not learned by heart
            guesses.append(mixture.epsilon)

    def at_the_end(params: Params, x: Array) -> list[Array]:
        own = named_key(key, "ends")
        return [outside(guess, own, x, law).right for guess in (*guesses, denoiser(params))]

    of_gaussian, *others = (float(right) for right in jax.jit(at_the_end)(params, x))
    missing = max(filter(np.isfinite, others), default=-np.inf) - of_gaussian
    if not missing > TOLERATED * dimension:
        return None
    end = law.ends[1]
    line = (
        f"about {missing:.2g} nats or more of every log density are missing: the examples are finer "
        f"than the noise at the last log SNR, {end:.3g}, which is {100 * np.exp(-end / 2):.2g} % of "
        "their scale"
    )
    wider = dataclasses.replace(law, scale=WIDER * law.scale)
    if max(map(abs, wider.ends)) > MOST_REACH:
        return (
            f"{line}; single precision does not resolve them: leave out, or scale, what is so fine"
        )
    return f"{line}; give law={wider}, and a process that goes so far"


def _standardised(x: HostArray) -> tuple[HostArray, HostArray, HostArray]:
    """(x - m) / s in single precision, m, and s."""
    bad = int((~np.isfinite(x)).sum())
    if bad:
        raise ValueError(
            f"x has {bad} numbers that are not finite, of {x.size}: leave out these examples"
        )
    centre, scale = x.mean(axis=0), x.std(axis=0)
    flat = scale.reshape(-1)
    narrow = flat <= 1e-6 * np.abs(centre).reshape(-1)
    if narrow.any():
        raise ValueError(
            f"coordinate {int(narrow.argmax())} of x is the same in all examples, so that there is no "
            "density: leave it out"
        )
    return ((x - centre) / scale).astype(np.float32), centre, scale


def _held_out(n: int, ratio: float) -> int:
    held_out = round(ratio * n)
    if min(held_out, n - held_out) < LEAST_EXAMPLES:
        raise ValueError(
            f"x has {n} examples, of which validation_ratio {ratio:g} holds out {held_out}: at least "
            f"{LEAST_EXAMPLES} must be held out and {LEAST_EXAMPLES} be left"
        )
    return held_out


def _check_process(process: object) -> None:
    if inspect.isclass(process) or not isinstance(process, TimedProcess):
        raise ValueError(
            "process must be one of diffusions.processes, such as RectifiedFlow(), or have the methods "
            f"alpha, sigma and time, got {process!r:.60}"
        )


def _default_network(centre: HostArray) -> nn.Module:
    if centre.ndim != 1:
        raise ValueError(
            f"examples of shape {centre.shape} need a network of yours: the one that is taken for "
            "absent ones is of points [n, d]"
        )
    return DenoisingMLP(activation="silu", coordinate_scale=10.0)


def _initial_params(network: nn.Module, key: Key, one: Array) -> Params:
    """Parameters of a network that maps two examples and two numbers to two examples."""
    if not isinstance(network, nn.Module):
        raise ValueError(f"network must be a Flax module, such as MyNetwork(), got {network!r:.60}")
    params = network.init(key, one, jnp.zeros(1))
    more = sorted(set(params) - {"params"})
    if more:
        raise ValueError(f"network must have parameters only, and has {', '.join(more)}")
    two = jax.ShapeDtypeStruct((2, *one.shape[1:]), one.dtype)
    found = jax.eval_shape(network.apply, params, two, jax.ShapeDtypeStruct((2,), one.dtype))
    shape = getattr(found, "shape", type(found).__name__)
    if shape != two.shape:
        raise ValueError(
            f"network must map z of shape {two.shape} and numbers of shape (2,) to the shape of z, got "
            f"{shape}"
        )
    return params
