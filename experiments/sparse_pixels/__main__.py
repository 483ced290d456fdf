"""Whole images from a few of their pixels: a diffusion model trained on sparse images.

Training shows the network the told pixels of an image and asks for others; see
`diffusions.images.sparse_denoising`. A new run ends with its evaluation on held-out images beside
interpolation and a one-shot regression network; `--mode=sample` and `--mode=evaluate` do that again
with the network of a finished run and other samplers.
"""

import dataclasses
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from data_generation.scripts.command_line import define_flags, run_script, say, settings_from_flags
from experiments.run.replaced import keeps_replaced
from experiments.sparse_pixels.settings import SamplingSettings, SparsePixelsSettings

FLAGS = define_flags(SparsePixelsSettings)

EXAMPLE = """
python -m experiments.sparse_pixels --data-path=FOLDER --preset=cpu --run-name=sparse
python -m experiments.sparse_pixels --data-path=FOLDER --model=ddpm --supervision=full-input
python -m experiments.sparse_pixels --mode=evaluate --run=runs/sparse --sampler=sde --steps=50
python -m experiments.sparse_pixels --mode=sample --run=runs/sparse --impose
"""


def main() -> None:
    """Does what `--mode` says."""
    begin = time.perf_counter()
    given = settings_from_flags(SparsePixelsSettings, FLAGS)
    if given.mode == "train":
        _train(given.resolved(), begin)
    else:
        _reuse(given, begin)


@keeps_replaced
def _train(settings: SparsePixelsSettings, begin: float) -> None:
    # Only now: `--help` and a mistyped flag need none of it.
    from data_generation.scripts.device import device_name, precision
    from diffusions.training import cut_batch
    from experiments.run.folder import start_run
    from experiments.run.session import check_settings, conclude
    from experiments.sparse_pixels.task import SparseTask
    from experiments.sparse_pixels.training import learn

    check_settings(settings)
    task = SparseTask(settings)
    run = start_run(
        settings,
        "experiments.sparse_pixels",
        f"sparse-pixels__{settings.dataset}__{settings.model}__{settings.supervision}",
        data=task.checksums,
    )
    if run.finished:
        say(f"{run.path} is already finished")
        return
    told, asked = task.counts(task.shape[0])
    say(
        f"{settings.dataset}: {len(task.train)} training and {len(task.test)} held-out images of "
        f"{' x '.join(map(str, task.shape))}, {told} pixels told and {asked} asked of each"
    )
    numbers = "bfloat16" if settings.bfloat16 else "float32"
    say(f"  {device_name()}, {precision(numbers)}, seed {settings.seed}; results in {run.path}")
    cut = cut_batch(settings.batch_size, len(task.train), "training images")  # type: ignore[arg-type]
    if cut is not None:
        say(f"  {cut}")
    seconds = {"data": time.perf_counter() - begin, "compile": 0.0, "train": 0.0, "evaluate": 0.0}
    results = learn(run, task, seconds)
    seconds["total"] = time.perf_counter() - begin
    shared = {name: getattr(settings, name) for name in ("dataset", "model", "supervision")}
    conclude(run, settings, {**shared, **results}, seconds)


def _reuse(given: SparsePixelsSettings, begin: float) -> None:
    from diffusions.files import recover
    from experiments.run.folder import RunFolder
    from experiments.run.outputs import check_results
    from experiments.run.replaced import hint

    run = RunFolder(Path(given.run or ""))
    if not run.finished:
        raise ValueError(f"{run.path} is not the folder of a finished run{hint(run.path)}")
    settings = _of_run(given, run.config()["settings"])
    folder = Path(given.output or run.path / _OUTPUT[given.mode])
    recover(folder)
    if folder.exists() and not given.overwrite:
        raise ValueError(f"{folder} already exists; give --overwrite or another --output")
    if folder.exists():
        check_results(folder, "experiments.sparse_pixels")
    from data_generation.scripts.files import check_writable

    check_writable(folder.parent)
    from experiments.sparse_pixels.training import reuse

    reuse(given.mode, run, folder, settings)
    say(f"  {time.perf_counter() - begin:.1f} seconds; {folder}")


_OUTPUT = {"sample": "samples", "evaluate": "evaluation"}


def _of_run(given: SparsePixelsSettings, recorded: dict[str, Any]) -> SparsePixelsSettings:
    """The settings of a run, with those of sampling, and of the place of the data, that are given."""
    fields = {field.name for field in dataclasses.fields(SparsePixelsSettings)}
    if recorded.get("script") != "experiments.sparse_pixels":
        raise ValueError(f"{given.run} is a run of {recorded.get('script')}, not of this script")
    own = {
        name: tuple(value) if isinstance(value, list) else value
        for name, value in recorded.items()
        if name in fields
    }
    changed = {
        field.name
        for field in dataclasses.fields(SamplingSettings)
        if FLAGS[field.name].present  # a flag that is not given keeps what the run had
    }
    if "sampler" in changed and "steps" not in changed:
        own["steps"] = None
    changed |= {name for name in ("data_path", "n_panel", "plots") if FLAGS[name].present}
    values: dict[str, Any] = own | {name: getattr(given, name) for name in changed}
    return SparsePixelsSettings(**values).resolved()


def run(argv: Sequence[str] | None = None) -> int:
    """The script."""
    return run_script(main, FLAGS, argv=argv, description=__doc__, example=EXAMPLE)


if __name__ == "__main__":
    raise SystemExit(run())
