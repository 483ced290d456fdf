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
    left_out, remark = left_outside(task, learned, law)
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
    if remark:
        remarks.append(remark)
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


def left_outside(task: Task, learned: Learned, law: LogSNRLaw) -> tuple[Outside, str]:
    """What is left outside the range by what was learned; where it is much, why, said and in short.

    Equation (1) of `diffusions.density.saturation` is of the ideal denoiser. A law as narrow as that
    of the data stands for it: where its denoiser leaves little, the rest is the network's error.

    Args:
        task: with the validation data.
        learned: what is judged.
        law: whose ends bound the range.

    Returns:
        In nats per example; a remark for the verdict, empty where little is left outside.
    """
    points = task.settings.is_planar
    x = task.validation_examples() if points else task.validation_examples()[:IMAGE_CHUNK]
    key = evaluation_key("outside")
    found = jax.jit(lambda learned, x: outside(task.denoiser(learned), key, x, law))(learned, x)
    if found.tolerable(task.dimension):
        return found, ""
    ideal = outside(task.resolving().epsilon, key, x, law)
    if not points:
        # No denoiser errs less than the ideal one: a network may resolve what a Gaussian does not.
        ideal = ideal._replace(right=max(ideal.right, found.right))
    low, high = law.ends
    if ideal.tolerable(task.dimension):
        say(
            f"  at the ends of the log SNRs, {low:.3g} and {high:.3g}, {found.left:.3g} and "
            f"{found.right:.3g} nats are left outside, of a law fitted to the data {ideal.left:.3g} "
            f"and {ideal.right:.3g}: the network errs there, and a larger scale does not help: train "
            "it longer"
        )
        return found, "the network errs at the ends of the log SNRs"
    say(
        f"  the log SNRs {low:.3g} to {high:.3g} do not hold all of the integral: at least "
        f"{ideal.left:.3g} nats lie below and {ideal.right:.3g} above; give a larger scale in "
        "--log-snr=LOC,SCALE"
    )
    return found, "the log SNRs do not hold all of the integral"


def _write_curves(run: RunFolder, measured: Measured) -> None:
    columns = {
        "log_snr": measured.curves.a,
        "mse": measured.curves.epsilon,
        "mse_gaussian": measured.gaussian_curves.epsilon,
    }
    rows = np.stack(list(columns.values()), axis=1).tolist()
    write_table(run.path / "mse_curve.csv", [dict(zip(columns, row, strict=True)) for row in rows])
