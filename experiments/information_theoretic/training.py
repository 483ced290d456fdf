"""Learning a density, whatever the data: training, evaluation, the network on disk."""

from typing import Any

import jax
import jax.numpy as jnp
import optax

from checkpoints import save_network
from data_generation.formats.json_file import read_record
from data_generation.scripts.command_line import say
from data_generation.scripts.files import write_json
from diffusions.density.correction import measured_gate
from diffusions.density.log_snr import LogSNRLaw, law_from_curve, law_from_spectrum
from diffusions.density.saturation import widened
from diffusions.density.training import likelihood_training, n_steps
from diffusions.keys import named_key
from diffusions.training import TrainingState, initial_state
from diffusions.typing import Params
from experiments.information_theoretic.assessment import (
    assess,
    curves_of,
    evaluation_key,
    likelihood_of,
)
from experiments.information_theoretic.saved import about_denoiser, denoiser_arrays
from experiments.information_theoretic.settings import (
    ResolvedInformationTheoreticSettings,
    log_snr_pair,
)
from experiments.information_theoretic.task import Learned, Task
from experiments.run.folder import RunFolder
from experiments.run.records import MeasuredLaw
from experiments.run.session import Session
from experiments.run.training import train_batches

RANGE_EXAMPLES = {True: 20_000, False: 100}
"""Training examples, points or images, by which the range of the log SNRs is judged."""


def learn_density(
    session: Session, task: Task, settings: ResolvedInformationTheoreticSettings
) -> dict[str, Any]:
    """Trains, evaluates and saves; what is found goes to the summary."""
    run, seconds = session.folder, session.seconds
    law = _law(run, task, settings, seconds)
    say(
        f"  log SNR: loc {law.loc:.4g}, scale {law.scale:.4g}, "
        f"from {law.ends[0]:.3g} to {law.ends[1]:.3g}"
    )
    likelihood = likelihood_of(task, law)

    def evaluate(state: TrainingState, epoch: int) -> dict[str, Any]:
        learned = Learned(state.ema)
        task.evaluated(run, learned, law, epoch)
        return {"validation_nll": float(likelihood(learned).mean().value)}

    state, train = _training(task, settings, law, settings.epochs)
    state = train_batches(
        run,
        state,
        train,
        task.devices,
        epochs=settings.epochs,
        every=settings.eval_every,
        seconds=seconds,
        evaluate=evaluate,
    )
    with session.timed("evaluate"):
        learned, gain = _let_in(task, state.ema, law)
        network = run.path / "network"
        if not network.exists():
            save_network(
                network,
                task.module,
                learned.params,
                about_denoiser(settings, law, task),
                denoiser_arrays(task.reference, learned.gate),
            )
        if learned.gate is not None and learned.gate.shut:
            # The network need not be asked where nothing of it is let in.
            task.evaluated_denoiser = task.reference.epsilon
            likelihood = likelihood_of(task, law)
        found = assess(run, task, learned, law, likelihood(learned))
    return {**found, **gain, "epochs": settings.epochs}


def _training(
    task: Task, settings: ResolvedInformationTheoreticSettings, law: LogSNRLaw, epochs: int
) -> tuple[TrainingState, Any]:
    """The initial state, and the training with all but the state and its length filled in."""
    rate: Any = settings.learning_rate
    if settings.schedule == "cosine":
        steps = epochs * n_steps(len(task.train), settings.batch_size)
        rate = optax.cosine_decay_schedule(settings.learning_rate, steps)
    optimizer = optax.adam(rate)
    if settings.gradient_clip:
        optimizer = optax.chain(optax.clip_by_global_norm(settings.gradient_clip), optimizer)
    state = initial_state(jax.tree.map(jnp.array, task.params), optimizer)
    train = likelihood_training(
        lambda params, key: task.denoiser(Learned(params), dropout=key),
        lambda key, indices: task.devices.batch(task.examples(key, indices)),
        len(task.train),
        law,
        task.reference,
        optimizer,
        settings,
        named_key(jax.random.key(settings.seed), "training"),
    )
    return state, train


def _law(
    run: RunFolder,
    task: Task,
    settings: ResolvedInformationTheoreticSettings,
    seconds: dict[str, float],
) -> LogSNRLaw:
    """The law of the log SNRs that the settings ask for; a measured one is kept with the run."""
    text = settings.log_snr
    usual = text == settings.usual_log_snr
    # A range that was given is followed; the usual one of images ends where their bytes are resolved.
    if text not in ("spectrum", "curve") and not (settings.is_planar and usual):
        return _law_of_pair(text, settings)
    denoiser, x = (
        task.resolving().epsilon,
        task.training_examples(RANGE_EXAMPLES[settings.is_planar]),
    )

    def wide_enough(law: LogSNRLaw) -> LogSNRLaw:
        return widened(denoiser, evaluation_key("outside"), x, law)

    if text == "spectrum":
        return wide_enough(law_from_spectrum(task.gaussian.eigenvalues, clip=settings.clip))
    law = wide_enough(_law_of_pair(settings.usual_log_snr, settings))
    if text == "curve":
        law = wide_enough(_measured_law(run, task, settings, seconds, law))
    return law


def _law_of_pair(text: str, settings: ResolvedInformationTheoreticSettings) -> LogSNRLaw:
    loc, scale = log_snr_pair(text)
    return LogSNRLaw(loc=loc, scale=scale, clip=settings.clip)


def _measured_law(
    run: RunFolder,
    task: Task,
    settings: ResolvedInformationTheoreticSettings,
    seconds: dict[str, float],
    wide: LogSNRLaw,
) -> LogSNRLaw:
    """The law of the error curve that a short training on a wide range has; kept with the run."""
    file = run.path / "log_snr.json"
    if not file.exists():
        epochs = max(1, settings.epochs // 10)
        say(
            f"  measuring the error curve: {epochs} epochs with loc {wide.loc:.4g}, "
            f"scale {wide.scale:.4g}"
        )
        pilot = RunFolder(run.path / "pilot")
        pilot.path.mkdir(exist_ok=True)
        state, train = _training(task, settings, wide, epochs)
        state = train_batches(
            pilot,
            state,
            train,
            task.devices,
            epochs=epochs,
            every=epochs,
            seconds=seconds,
        )
        curves = curves_of(task, Learned(state.ema), wide)
        measured = law_from_curve(curves.a, curves.epsilon, task.dimension, clip=settings.clip)
        write_json(file, {"loc": measured.loc, "scale": measured.scale})
    kept = read_record(file, MeasuredLaw)
    return LogSNRLaw(loc=kept.loc, scale=kept.scale, clip=settings.clip)


def _let_in(task: Task, params: Params, law: LogSNRLaw) -> tuple[Learned, dict[str, Any]]:
    """Lets the network in where the points that are kept out gain by it; and what they gain."""
    if task.judges is None:
        return Learned(params), {}
    measure = jax.jit(
        lambda params, x: measured_gate(
            task.denoiser(Learned(params)), task.reference, evaluation_key("gate"), x, law
        )
    )
    found = measure(params, task.judges)
    gain, error = float(found.gain), float(found.standard_error)
    if found.gate.shut:
        say("  the network adds nothing to the reference, which stands alone")
    else:
        say(f"  the network gains {gain:.4f} +- {error:.4f} nats on the points kept out")
    told = {"gain": gain, "standard_error": error, "shares": found.gate.shares.tolist()}
    return Learned(params, found.gate), {"network": told}
