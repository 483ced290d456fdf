"""A run that learns a density, one that goes on, or one that evaluates what others have learned."""

from data_generation.scripts.device import division
from diffusions.training import cut_batch
from experiments.information_theoretic.evaluation import evaluate_saved, saved_denoisers
from experiments.information_theoretic.images import ImageTask
from experiments.information_theoretic.planar import PlanarTask
from experiments.information_theoretic.settings import ResolvedInformationTheoreticSettings
from experiments.information_theoretic.task import Task
from experiments.information_theoretic.training import learn_density
from experiments.run.session import TRAINING_ACTIVITIES, session


def train_run(settings: ResolvedInformationTheoreticSettings, begin: float) -> None:
    """Learns, or evaluates, what the settings ask for; `begin` is when the script did."""
    models = saved_denoisers(settings) if settings.mode == "evaluate" else {}
    with session(
        settings, "experiments.information_theoretic", begin, activities=TRAINING_ACTIVITIES
    ) as run:
        with run.timed("data", since=begin):
            task: Task = PlanarTask(settings) if settings.is_planar else ImageTask(settings)
        started = run.start(
            f"information-theoretic__{settings.dataset}",
            f"{settings.dataset}: {len(task.train)} training and {len(task.validation)} validation "
            f"examples in dimension {task.dimension}, {task.n_parameters:,} parameters",
            numbers="bfloat16" if settings.bfloat16 else "float32",
            divided=division(f"batches of {settings.batch_size}", task.devices),
            cut=cut_batch(settings.batch_size, len(task.train), "training examples"),
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
            learned = learn_density(run.folder, task, settings, run.seconds)
            results = {**about_reference, **learned}
        run.conclude({"dataset": settings.dataset, **results})
