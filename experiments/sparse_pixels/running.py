"""What `--mode` of sparse pixels does: a run that trains, or the network of a finished one."""

import dataclasses
import time
from collections.abc import Collection
from pathlib import Path
from typing import Any

from data_generation.scripts.command_line import say
from data_generation.scripts.device import chosen_devices, division
from data_generation.scripts.files import check_writable
from data_generation.scripts.processes import own_place
from diffusions.devices import spread_over
from diffusions.files import recover
from diffusions.training import cut_batch
from experiments.run.folder import RunFolder
from experiments.run.outputs import check_results
from experiments.run.place import finished_run_place
from experiments.run.session import TRAINING_ACTIVITIES, session
from experiments.run.settings import without_effect
from experiments.sparse_pixels.settings import (
    ResolvedSparsePixelsSettings,
    SamplingSettings,
    SparsePixelsSettings,
)
from experiments.sparse_pixels.task import SparseTask
from experiments.sparse_pixels.training import SCRIPT, learn, reuse


def train_run(settings: ResolvedSparsePixelsSettings, begin: float) -> None:
    """A new run, or one that goes on; `begin` is when the script did."""
    with session(settings, SCRIPT, begin, activities=TRAINING_ACTIVITIES) as run:
        with run.timed("data", since=begin):
            task = SparseTask(settings)
        told, asked = task.counts(task.shape[0])
        started = run.start(
            f"sparse-pixels__{settings.dataset}__{settings.model}__{settings.supervision}",
            f"{settings.dataset}: {len(task.train)} training and {len(task.test)} held-out images "
            f"of {' x '.join(map(str, task.shape))}, {told} pixels told and {asked} asked of each",
            numbers="bfloat16" if settings.bfloat16 else "float32",
            divided=division(f"batches of {settings.batch_size}", task.devices),
            cut=cut_batch(settings.batch_size, len(task.train), "training images"),
            data=task.checksums,
            unused=settings.unused,
        )
        if not started:
            return
        results = learn(run, task)
        shared = {name: getattr(settings, name) for name in ("dataset", "model", "supervision")}
        run.conclude({**shared, **results})


def reuse_run(given: SparsePixelsSettings, begin: float, *, given_flags: Collection[str]) -> None:
    """Images, or an evaluation, by a finished run; flags that are not given keep what it had."""
    run = RunFolder(finished_run_place(given.run or ""))
    settings = _of_run(given, run.config()["settings"], given_flags)
    remark = without_effect(unused_of(given, settings, given_flags))
    folder = Path(own_place(given.output or str(run.path / _OUTPUT[given.mode])))
    recover(folder)
    if folder.exists() and not given.overwrite:
        raise ValueError(f"{folder} already exists; give --overwrite or another --output")
    if folder.exists():
        check_results(folder, SCRIPT)
    check_writable(folder.parent)
    if remark is not None:
        say(f"  {remark}")
    with spread_over(chosen_devices(given.devices)):
        reuse(given.mode, run, folder, settings)
    say(f"  {time.perf_counter() - begin:.1f} seconds; {folder}")


def unused_of(
    given: SparsePixelsSettings,
    settings: ResolvedSparsePixelsSettings,
    given_flags: Collection[str],
) -> list[str]:
    """Names of flags that are not those of the finished run, and that are without effect."""
    vain = {*settings.unused, *(_JUDGING if given.mode == "sample" else ())}
    return [
        field.name
        for field in dataclasses.fields(given)
        if field.name in given_flags
        and field.name not in _OF_A_REUSE
        and (field.name in vain or getattr(given, field.name) != getattr(settings, field.name))
    ]


_OF_A_REUSE = ("mode", "run", "output", "overwrite", "devices")
_JUDGING = ("compare_steps", "compare_samplers", "n_compare", "inception_weights", "lpips_weights")
_OUTPUT = {"sample": "samples", "evaluate": "evaluation"}


def _of_run(
    given: SparsePixelsSettings, recorded: dict[str, Any], given_flags: Collection[str]
) -> ResolvedSparsePixelsSettings:
    """The settings of a run, with those of sampling, and of the place of the data, that are given."""
    fields = {field.name for field in dataclasses.fields(SparsePixelsSettings)}
    if recorded.get("script") != SCRIPT:
        raise ValueError(f"{given.run} is a run of {recorded.get('script')}, not of this script")
    own = {
        name: tuple(value) if isinstance(value, list) else value
        for name, value in recorded.items()
        if name in fields
    }
    own = {"order": 1, "preconditioned": False} | own  # of runs from before there was a choice
    changed = {f.name for f in dataclasses.fields(SamplingSettings)} & set(given_flags)
    if "sampler" in changed and "steps" not in changed:
        own["steps"] = None
    changed |= {"data_path", "n_panel", "plots"} & set(given_flags)
    values: dict[str, Any] = own | {name: getattr(given, name) for name in changed}
    return SparsePixelsSettings(**values).resolved()
