"""Saved networks, one or an ensemble, judged by the validation data without any training."""

from typing import Any

import jax
import jax.numpy as jnp

from data_generation.scripts.command_line import say
from diffusions.density.error_curves import ensemble, error_curves
from diffusions.density.log_snr import LogSNRLaw
from diffusions.density.reference import Reference
from diffusions.objectives import Denoiser
from experiments.information_theoretic.assessment import assess, evaluation_key, likelihood_of
from experiments.information_theoretic.saved import DATA_FIELDS, SavedDenoiser, saved_denoiser
from experiments.information_theoretic.settings import (
    NETWORKS,
    OWN,
    ResolvedInformationTheoreticSettings,
    log_snr_pair,
)
from experiments.information_theoretic.task import Learned, Task
from experiments.run.folder import RunFolder

PILOT_EXAMPLES = {True: 2000, False: 64}
"""Training examples, points or images, by which the model of each log SNR is chosen."""


def saved_denoisers(settings: ResolvedInformationTheoreticSettings) -> dict[str, SavedDenoiser]:
    """Those of `--checkpoint`, by their places.

    Raises:
        ValueError: one is missing or damaged, or was trained on other data than are asked for.
    """
    models = {place: saved_denoiser(place) for place in settings.checkpoint}
    for place, model in models.items():
        for name in DATA_FIELDS if settings.is_planar else DATA_FIELDS[:1]:
            given, own = getattr(settings, name), model.about.get(name)
            if name in model.about and own != given:
                flag = f"--{name.replace('_', '-')}"
                raise ValueError(
                    f"{place} was trained on other data: "
                    + (f"leave {flag} out" if own is None else f"give {flag}={own}")
                    + ", or its validation data are others"
                )
    return models


def check_models(
    settings: ResolvedInformationTheoreticSettings, task: Task, models: dict[str, SavedDenoiser]
) -> None:
    """Refuses networks that the data cannot judge, before a folder is made.

    Raises:
        ValueError: they take other examples, were trained on points of another file, or have different
            ranges of log SNR.
    """
    if models:
        law_of(settings, models)
    for place, model in models.items():
        _check_takes(model.denoiser, task, place)
        own = model.about.get("checksums")
        if settings.dataset == OWN and own is not None and own != task.checksums:
            raise ValueError(
                f"{place} was trained on another file than {settings.data_path}: its points are "
                "standardised by other means, or its validation data are others"
            )


def evaluate_saved(
    run: RunFolder,
    task: Task,
    settings: ResolvedInformationTheoreticSettings,
    models: dict[str, SavedDenoiser],
) -> dict[str, Any]:
    """The numbers and pictures of a run that trains, by networks that are there."""
    law = law_of(settings, models)
    task.reference = best_reference(models, task)
    denoisers = [model.denoiser for model in models.values()]
    task.evaluated_denoiser = (
        denoisers[0] if len(denoisers) == 1 else _ensemble(task, denoisers, law)
    )
    say(f"  {len(models)} saved, log SNR from {law.ends[0]:.3g} to {law.ends[1]:.3g}")
    learned = Learned({})
    return assess(run, task, learned, law, likelihood_of(task, law)(learned))


def best_reference(models: dict[str, SavedDenoiser], task: Task) -> Reference:
    """What the likelihood is measured against: of the references of the networks, the likeliest one.

    Every reference gives the same integral, and its own share of what lies outside the range, with its
    own noise. By training examples, so that the validation data choose nothing.

    Args:
        models: some of which may correct nothing; the Gaussian of the training data stands for them.
        task: with the training examples.
    """
    x = task.training_examples(PILOT_EXAMPLES[task.settings.is_planar])
    references = {place: model.reference or task.gaussian for place, model in models.items()}
    means = {place: float(r.log_density(x).mean()) for place, r in references.items()}
    best = max(means, key=means.__getitem__)
    if min(means.values()) < means[best]:
        say(
            f"  the networks correct different references; measured against that of {best}, the "
            "likeliest one of training data"
        )
    return references[best]


def law_of(
    settings: ResolvedInformationTheoreticSettings, models: dict[str, SavedDenoiser]
) -> LogSNRLaw:
    """The law of the networks, unless another is given.

    Raises:
        ValueError: they have several, or what is given is no LOC,SCALE.
    """
    laws = {model.law for model in models.values() if model.law is not None}
    if settings.log_snr in ("spectrum", "curve"):
        raise ValueError(
            f"--log-snr={settings.log_snr} is for a training; --mode=evaluate takes LOC,SCALE"
        )
    given = settings.log_snr
    if given == NETWORKS:
        if len(laws) == 1:
            return laws.pop()
        if laws:
            raise ValueError(
                f"the networks of --checkpoint have {len(laws)} ranges of log SNR: give the one to "
                "judge them on as --log-snr=LOC,SCALE"
            )
        given = settings.usual_log_snr
    loc, scale = log_snr_pair(given)
    return LogSNRLaw(loc=loc, scale=scale, clip=settings.clip)


def takes_own_law(
    settings: ResolvedInformationTheoreticSettings, models: dict[str, SavedDenoiser]
) -> bool:
    """Whether the networks are judged on their own range, which has its own clip."""
    own = any(model.law is not None for model in models.values())
    return own and settings.log_snr == NETWORKS


def _ensemble(task: Task, denoisers: list[Denoiser], law: LogSNRLaw) -> Denoiser:
    """At each log SNR the network of least error on training examples."""
    x = task.training_examples(PILOT_EXAMPLES[task.settings.is_planar])
    key = evaluation_key("pilot")
    pilots = [
        jax.jit(
            lambda x, denoiser=denoiser: error_curves(
                denoiser, key, x, law, n_log_snr=task.settings.n_log_snr
            )
        )(x)
        for denoiser in denoisers
    ]
    return ensemble(denoisers, pilots)


def _check_takes(denoiser: Denoiser, task: Task, place: str) -> None:
    shape = task.training_examples(1).shape
    try:
        jax.eval_shape(denoiser, jnp.zeros(shape), jnp.zeros(1))
    except Exception as error:
        reason = " ".join(str(error).split())[:150]
        raise ValueError(
            f"the network in {place} does not take examples of shape {list(shape[1:])}: {reason}"
        ) from error
