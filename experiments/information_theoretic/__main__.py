"""Learns exact densities from denoising errors: points in the plane, or images.

Writes the validation nll, the error curve against the Gaussian's, contour pictures of the log density,
samples, and the network.
"""

import time
from collections.abc import Sequence

from data_generation.scripts.command_line import define_flags, run_script, say, settings_from_flags
from experiments.information_theoretic.settings import InformationTheoreticSettings
from experiments.run.replaced import keeps_replaced

FLAGS = define_flags(InformationTheoreticSettings)

EXAMPLE = """
python -m experiments.information_theoretic --dataset=dino
python -m experiments.information_theoretic --dataset=scg --run-name=scg --epochs=40
python -m experiments.information_theoretic --dataset=cifar10 --data-path=FOLDER --preset=cpu
"""


@keeps_replaced
def main() -> None:
    """Runs the experiment of the flags."""
    begin = time.perf_counter()
    given = settings_from_flags(InformationTheoreticSettings, FLAGS)
    # Only now: `--help` and a mistyped flag need none of it.
    from data_generation.scripts.device import device_name, precision
    from diffusions.training import cut_batch
    from experiments.run.folder import start_run
    from experiments.run.session import check_settings, conclude

    settings = given.resolved()
    check_settings(settings)
    if settings.is_planar:
        from experiments.information_theoretic.planar import PlanarTask as Task
    else:
        from experiments.information_theoretic.images import ImageTask as Task  # type: ignore[assignment]
    task = Task(settings)
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
    cut = cut_batch(settings.batch_size, len(task.train), "training examples")  # type: ignore[arg-type]
    if cut is not None:
        say(f"  {cut}")
    seconds = {"data": time.perf_counter() - begin, "compile": 0.0, "train": 0.0, "evaluate": 0.0}
    from experiments.information_theoretic.training import learn_density

    results = learn_density(run, task, settings, seconds)
    seconds["total"] = time.perf_counter() - begin
    conclude(run, settings, {"dataset": settings.dataset, **results}, seconds)


def run(argv: Sequence[str] | None = None) -> int:
    """The script."""
    return run_script(main, FLAGS, argv=argv, description=__doc__, example=EXAMPLE)


if __name__ == "__main__":
    raise SystemExit(run())
