"""Learning a density, whatever the data: training, evaluation, the network on disk."""

import dataclasses
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from checkpoints import save_network
from data_generation.formats.json_file import read_record
from data_generation.scripts.command_line import say
from data_generation.scripts.files import write_json
from diffusions.density.error_curves import ErrorCurves, error_curves
from diffusions.density.likelihood import Likelihood, bits_per_dimension, mean_of, nll
from diffusions.density.log_snr import LogSNRLaw, law_from_curve, law_from_spectrum
from diffusions.density.training import likelihood_training, n_steps
from diffusions.keys import named_key
from diffusions.training import TrainingState, initial_state
from diffusions.typing import Array, Params
from experiments.information_theoretic.settings import (
    ResolvedInformationTheoreticSettings,
    log_snr_pair,
)
from experiments.information_theoretic.task import Measured, Task
from experiments.run.folder import RunFolder
from experiments.run.records import MeasuredLaw
from experiments.run.tables import write_table
from experiments.run.training import compiled, train_in_chunks

EVALUATION_SEED = 20
"""Of the noise of every evaluation: nothing is taken from the training stream."""
NLL_SAMPLES = {True: 50, False: 1}
"""Draws per validation example, in the plane and for images."""
CURVE_IMAGES = 64
"""Validation images drawn for each log SNR of an error curve."""
IMAGE_CHUNK = 100
"""Images whose likelihood is computed at a time."""


def learn_density(
    run: RunFolder,
    task: Task,
    settings: ResolvedInformationTheoreticSettings,
    seconds: dict[str, float],
) -> dict[str, Any]:
    """Trains, evaluates and saves; what is found goes to the summary."""
    law = _law(run, task, settings, seconds)
    say(
        f"  log SNR: loc {law.loc:.4g}, scale {law.scale:.4g}, "
        f"from {law.ends[0]:.3g} to {law.ends[1]:.3g}"
    )
    x = task.validation_examples()
    evaluation_key = jax.random.key(EVALUATION_SEED)

    @jax.jit
    def likelihood(params: Params) -> Likelihood:
        return nll(
            task.denoiser(params),
            evaluation_key,
            x,
            law,
            task.reference,
            n_samples=NLL_SAMPLES[settings.is_planar],
            chunk=None if settings.is_planar else IMAGE_CHUNK,
        )

    def evaluate(state: TrainingState, epoch: int) -> dict[str, Any]:
        task.evaluated(run, state.ema, law, epoch)
        return {"validation_nll": float(likelihood(state.ema).value)}

    state, train = _training(task, settings, law, settings.epochs)
    state = train_in_chunks(
        run,
        state,
        compiled(train),
        epochs=settings.epochs,
        every=settings.eval_every,
        seconds=seconds,
        evaluate=evaluate,
    )
    say("  evaluating ...")
    start = time.perf_counter()
    params = state.ema
    measured = Measured(
        nll=likelihood(params),
        gaussian_nll=mean_of(-task.reference.log_density(x)),
        curves=_curves(task, params, law),
        gaussian_curves=_curves(task, None, law),
    )
    _write_curves(run, measured)
    network = run.path / "network"
    if not network.exists():
        save_network(
            network, task.module, params, _about(settings, law, task.shown), _reference_arrays(task)
        )
    more = task.concluded(run, params, law, measured)
    found = {"nll": measured.nll, "nll_gaussian": measured.gaussian_nll}
    found |= task.discrete(params, law)
    seconds["evaluate"] += time.perf_counter() - start
    for name, (value, error) in found.items():
        bits, of_error = (bits_per_dimension(float(v), task.dimension) for v in (value, error))
        say(
            f"  {name} on validation data {value:.4f} +- {error:.4f} nats, "
            f"{bits:.4f} +- {of_error:.4f} bits per dimension"
        )
    numbers = {name: float(value) for name, (value, _) in found.items()}
    errors = {name: float(error) for name, (_, error) in found.items()}
    return {
        **numbers,
        "standard_error": errors,
        "bits_per_dim": {k: bits_per_dimension(v, task.dimension) for k, v in numbers.items()},
        "log_snr": dataclasses.asdict(law),
        "epochs": settings.epochs,
        **more,
    }


def _training(
    task: Task, settings: ResolvedInformationTheoreticSettings, law: LogSNRLaw, epochs: int
) -> tuple[TrainingState, Any]:
    """The initial state, and the training with all but the state and its length filled in."""
    rate: Any = settings.learning_rate
    if settings.schedule == "cosine":
        steps = epochs * n_steps(len(task.train), settings.batch_size)
        rate = optax.cosine_decay_schedule(settings.learning_rate, steps)
    optimizer = optax.adam(rate)
    state = initial_state(jax.tree.map(jnp.array, task.params), optimizer)
    train = likelihood_training(
        lambda params, key: task.denoiser(params, dropout=key),
        task.examples,
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
    if text == "spectrum":
        return law_from_spectrum(task.reference.eigenvalues, clip=settings.clip)
    if text != "curve":
        loc, scale = log_snr_pair(text)
        return LogSNRLaw(loc=loc, scale=scale, clip=settings.clip)
    file = run.path / "log_snr.json"
    if not file.exists():
        loc, scale = log_snr_pair(settings.usual_log_snr)
        wide = LogSNRLaw(loc=loc, scale=scale, clip=settings.clip)
        epochs = max(1, settings.epochs // 10)
        say(f"  measuring the error curve: {epochs} epochs with loc {loc:g}, scale {scale:g}")
        pilot = RunFolder(run.path / "pilot")
        pilot.path.mkdir(exist_ok=True)
        state, train = _training(task, settings, wide, epochs)
        state = train_in_chunks(
            pilot,
            state,
            compiled(train),
            epochs=epochs,
            every=epochs,
            seconds=seconds,
        )
        curves = _curves(task, state.ema, wide)
        measured = law_from_curve(curves.a, curves.epsilon, task.dimension, clip=settings.clip)
        write_json(file, {"loc": measured.loc, "scale": measured.scale})
    kept = read_record(file, MeasuredLaw)
    return LogSNRLaw(loc=kept.loc, scale=kept.scale, clip=settings.clip)


def _curves(task: Task, params: Params | None, law: LogSNRLaw) -> ErrorCurves:
    """Of the network, or without parameters of the Gaussian, on the same examples and noises."""
    n_log_snr = task.settings.n_log_snr
    x = task.validation_examples()
    measure = jax.jit(
        lambda params, reference, x: error_curves(
            reference.epsilon if params is None else task.denoiser(params),
            named_key(jax.random.key(EVALUATION_SEED), "curves"),
            x,
            law,
            n_log_snr=n_log_snr,
            examples=None if task.settings.is_planar else min(len(x), CURVE_IMAGES),
        )
    )
    return measure(params, task.reference, x)


def _write_curves(run: RunFolder, measured: Measured) -> None:
    columns = {
        "log_snr": measured.curves.a,
        "mse": measured.curves.epsilon,
        "mse_gaussian": measured.gaussian_curves.epsilon,
    }
    rows = np.stack(list(columns.values()), axis=1).tolist()
    write_table(run.path / "mse_curve.csv", [dict(zip(columns, row, strict=True)) for row in rows])


def _about(
    settings: ResolvedInformationTheoreticSettings, law: LogSNRLaw, shown: bool
) -> dict[str, Any]:
    return {
        "condition": "log_snr",
        "prediction": "epsilon",
        "precondition": settings.precondition,
        "gaussian_shown": shown,
        "dataset": settings.dataset,
        "log_snr": dataclasses.asdict(law),
    }


def _reference_arrays(task: Task) -> dict[str, Array]:
    reference = task.reference
    arrays = {"mean": reference.mean, "eigenvalues": reference.eigenvalues}
    if reference.eigenvectors is not None:
        arrays["eigenvectors"] = reference.eigenvectors
    return arrays
