"""A run that learns a density, one that goes on, or one that evaluates what others have learned."""

from collections.abc import Sequence

import jax

from data_generation.scripts.device import division
from diffusions.training import cut_batch
from experiments.information_theoretic.evaluation import (
    check_models,
    evaluate_saved,
    saved_denoisers,
    takes_own_law,
)
from experiments.information_theoretic.images import ImageTask
from experiments.information_theoretic.planar import PlanarTask
from experiments.information_theoretic.settings import ResolvedInformationTheoreticSettings
from experiments.information_theoretic.task import Task
from experiments.information_theoretic.training import learn_density
from experiments.run.session import TRAINING_ACTIVITIES, session
from experiments.run.settings import changed


def train_run(
    settings: ResolvedInformationTheoreticSettings, begin: float, unused: Sequence[str] = ()
) -> None:
    """Learns, or evaluates, what the settings ask for.

    Args:
        settings: of the script.
        begin: when it did, by `time.perf_counter`.
        unused: names of settings that were given without effect.
    """
    models = saved_denoisers(settings) if settings.mode == "evaluate" else {}
    if models and takes_own_law(settings, models):
        unused = [*unused, *changed(settings, ["clip"])]
    with session(
        settings, "experiments.information_theoretic", begin, activities=TRAINING_ACTIVITIES
    ) as run:
        with run.timed("data", since=begin):
            task: Task = (
                PlanarTask(settings)
                if settings.is_planar
                else ImageTask(settings, [model.module for model in models.values()])
            )
        check_models(settings, task, models)
        sizes = [model.n_parameters for model in models.values()] or [
            sum(leaf.size for leaf in jax.tree.leaves(task.params))
        ]
        started = run.start(
            f"information-theoretic__{settings.dataset}",
            f"{settings.dataset}: {len(task.train)} training and {len(task.validation)} validation "
            f"examples in dimension {task.dimension}, {' and '.join(f'{n:,}' for n in sizes)} "
            "parameters",
            numbers="bfloat16" if settings.bfloat16 and not models else "float32",
            divided=division(f"batches of {settings.batch_size}", task.devices),
            cut=None
            if models
            else cut_batch(settings.batch_size, len(task.train), "training examples"),
            unused=unused,
            data=task.checksums,
        )
        if not started:
            return
        if models:
            with run.timed("evaluate"):
                results = evaluate_saved(run.folder, task, settings, models)
        else:
            with run.timed("reference"):
                about_reference = task.prepare()
            learned = learn_density(run, task, settings)
            results = {**about_reference, **learned}
        run.conclude({"dataset": settings.dataset, **results})
