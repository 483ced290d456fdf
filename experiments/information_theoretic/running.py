"""A run that learns a density, or one that goes on."""

import time

from data_generation.scripts.command_line import say
from data_generation.scripts.device import device_name, precision
from diffusions.training import cut_batch
from experiments.information_theoretic.images import ImageTask
from experiments.information_theoretic.planar import PlanarTask
from experiments.information_theoretic.settings import ResolvedInformationTheoreticSettings
from experiments.information_theoretic.task import Task
from experiments.information_theoretic.training import learn_density
from experiments.run.folder import start_run
from experiments.run.replaced import keeps_replaced
from experiments.run.session import check_settings, conclude


@keeps_replaced
def train_run(settings: ResolvedInformationTheoreticSettings, begin: float) -> None:
    """Learns what the settings ask for; `begin` is when the script did."""
    check_settings(settings)
    task: Task = PlanarTask(settings) if settings.is_planar else ImageTask(settings)
    run = start_run(
        settings,
        "experiments.information_theoretic",
        f"information-theoretic__{settings.dataset}",
        data=task.checksums,
    )
    if run.finished:
        say(f"{run.path} is already finished")
        return
    say(
        f"{settings.dataset}: {len(task.train)} training and {len(task.validation)} validation "
        f"examples in dimension {task.dimension}, {task.n_parameters:,} parameters"
    )
    numbers = "bfloat16" if settings.bfloat16 else "float32"
    say(f"  {device_name()}, {precision(numbers)}, seed {settings.seed}; results in {run.path}")
    cut = cut_batch(settings.batch_size, len(task.train), "training examples")
    if cut is not None:
        say(f"  {cut}")
    seconds = {"data": time.perf_counter() - begin, "compile": 0.0, "train": 0.0, "evaluate": 0.0}
    results = learn_density(run, task, settings, seconds)
    seconds["total"] = time.perf_counter() - begin
    conclude(run, settings, {"dataset": settings.dataset, **results}, seconds)
