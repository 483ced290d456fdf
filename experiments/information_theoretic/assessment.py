"""What validation data say of a density, whatever learned it."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from data_generation.scripts.command_line import say
from diffusions.density.error_curves import ErrorCurves, error_curves
from diffusions.density.likelihood import (
    EachLikelihood,
    bits_per_dimension,
    mean_of,
    nll_terms,
    values_of_blocks,
)
from diffusions.density.log_snr import LogSNRLaw
from diffusions.density.saturation import Outside, outside
from diffusions.keys import named_key
from diffusions.typing import Array, HostArray
from experiments.information_theoretic.task import Learned, Measured, Task
from experiments.information_theoretic.verdict import verdict
from experiments.run.folder import RunFolder
from experiments.run.tables import write_table
from experiments.run.verdicts import Difference, Verdict

EVALUATION_SEED = 20
"""Of the noise of every evaluation: nothing is taken from the training stream."""
NLL_SAMPLES = {True: 64, False: 4}
"""Draws per validation example, of points and of images."""
CURVE_IMAGES = 64
"""Validation images drawn for each log SNR of an error curve."""
IMAGE_CHUNK = 100
"""Images whose likelihood is computed at a time."""


def evaluation_key(purpose: str) -> Array:
    """Of an evaluation, by name."""
    return named_key(jax.random.key(EVALUATION_SEED), purpose)


def likelihood_of(task: Task, law: LogSNRLaw) -> Callable[[Learned], EachLikelihood]:
    """The nll of each of the validation data by what was learned, compiled once."""
    x = task.validation_examples()
    points = task.settings.is_planar

    def likelihood(learned: Learned) -> EachLikelihood:
        denoiser = task.devices.divided(task.denoiser(learned))
        return values_of_blocks(
            lambda eps, x, a, weight: nll_terms(denoiser, eps, x, a, weight, task.reference),
            jax.random.key(EVALUATION_SEED),
            x,
            law,
            n_samples=NLL_SAMPLES[points],
            chunk=None if points else IMAGE_CHUNK,
        )

    return task.devices.called(likelihood)


def assess(
    run: RunFolder, task: Task, learned: Learned, law: LogSNRLaw, each: EachLikelihood
) -> dict[str, Any]:
    """Curves, pictures, samples and numbers; what is found goes to the summary."""
    x = task.validation_examples()
    of_gaussian = task.gaussian.log_density(x)
    measured = Measured(
        nll=each.mean(),
        gaussian_nll=mean_of(-of_gaussian),
        curves=curves_of(task, learned, law),
        gaussian_curves=curves_of(task, None, law),
    )
    _write_curves(run, measured)
    left_out = _outside(task, learned, law)
    more = task.concluded(run, learned, law, measured)
    found = {"nll": measured.nll, "nll_gaussian": measured.gaussian_nll}
    found |= task.discrete(learned, law)
    for name, (value, error, of_evaluation) in found.items():
        bits, of_bits = (bits_per_dimension(float(v), task.dimension) for v in (value, error))
        say(
            f"  {name} {value:.4f} nats, +- {of_evaluation:.4f} as the mean over these "
            f"{len(x)} validation data, +- {error:.4f} as that of their law; "
            f"{bits:.4f} +- {of_bits:.4f} bits per dimension"
        )
    numbers = {name: float(one.value) for name, one in found.items()}
    remarks = []
    if learned.gate is not None and learned.gate.shut:
        remarks.append("the network adds nothing, and the density is that of the reference alone")
    if not left_out.tolerable(task.dimension):
        remarks.append("the log SNRs do not hold all of the integral")
    return {
        **_verdict(task, each, np.asarray(of_gaussian), tuple(remarks)).said(),
        **numbers,
        "standard_error": {name: float(one.standard_error) for name, one in found.items()},
        "evaluation_error": {name: float(one.evaluation_error) for name, one in found.items()},
        "bits_per_dim": {k: bits_per_dimension(v, task.dimension) for k, v in numbers.items()},
        "log_snr": dataclasses.asdict(law),
        "nats_outside": {"left": float(left_out.left), "right": float(left_out.right)},
        **more,
    }


def _verdict(
    task: Task, each: EachLikelihood, of_gaussian: HostArray, remarks: tuple[str, ...]
) -> Verdict:
    """Of points in nats, of images in bits per dimension, as both are reported.

    Args:
        task: what is judged.
        each: nll of every validation example.
        of_gaussian: their log densities by the Gaussian.
        remarks: more to say.
    """
    points = task.settings.is_planar
    unit = 1.0 if points else 1.0 / (np.log(2.0) * task.dimension)
    own = np.asarray(each.values, np.float64) * unit
    exact = task.exact_log_density()
    return verdict(
        float(own.mean()),
        Difference.of(own + of_gaussian * unit),
        None if exact is None else Difference.of(own + exact * unit),
        examples=f"{len(own)} validation {'points' if points else 'images'}",
        unit="nats" if points else "bits per dimension",
        remarks=remarks,
    )


def curves_of(task: Task, learned: Learned | None, law: LogSNRLaw) -> ErrorCurves:
    """Of what was learned, or else of the Gaussian, on the same examples and noises."""
    n_log_snr = task.settings.n_log_snr
    x = task.validation_examples()
    measure = jax.jit(
        lambda learned, gaussian, x: error_curves(
            gaussian.epsilon if learned is None else task.denoiser(learned),
            evaluation_key("curves"),
            x,
            law,
            n_log_snr=n_log_snr,
            examples=None if task.settings.is_planar else min(len(x), CURVE_IMAGES),
        )
    )
    return measure(learned, task.gaussian, x)


def _outside(task: Task, learned: Learned, law: LogSNRLaw) -> Outside:
    """What of the integral lies outside the range; said where it is much."""
    x = task.validation_examples()
    measure = jax.jit(
        lambda learned, x: outside(task.denoiser(learned), evaluation_key("outside"), x, law)
    )
    found = measure(learned, x if task.settings.is_planar else x[:IMAGE_CHUNK])
    if not found.tolerable(task.dimension):
        low, high = law.ends
        say(
            f"  the log SNRs {low:.3g} to {high:.3g} do not hold all of the integral: at least "
            f"{found.left:.3g} nats lie below and {found.right:.3g} above; give a larger scale in "
            "--log-snr=LOC,SCALE"
        )
    return found


def _write_curves(run: RunFolder, measured: Measured) -> None:
    columns = {
        "log_snr": measured.curves.a,
        "mse": measured.curves.epsilon,
        "mse_gaussian": measured.gaussian_curves.epsilon,
    }
    rows = np.stack(list(columns.values()), axis=1).tolist()
    write_table(run.path / "mse_curve.csv", [dict(zip(columns, row, strict=True)) for row in rows])
