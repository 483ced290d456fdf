"""What every script does around its work: refuse, open or resume, say where, time the parts, conclude.

with session(settings, "experiments.entropy", begin) as run:
    law = planar_law(settings.law)                      # what the run's name, or its data, need
    if not run.start(f"entropy__{settings.law}", f"entropy of {settings.law}"):
        return                                          # it is finished already
    with run.timed("average"):
        ...
    run.conclude({"entropy": entropy})
"""

import contextlib
import dataclasses
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from shlex import quote
from typing import Any

from data_generation.scripts.command_line import say
from data_generation.scripts.device import (
    chosen_devices,
    device_name,
    peak_memory_bytes,
    precision,
    unused_gpu,
)
from data_generation.scripts.processes import first_alone, share_folder
from diffusions.devices import spread_over
from diffusions.late_imports import import_extra
from experiments.run.folder import RunFolder, check_run, start_run
from experiments.run.lock import LOCK
from experiments.run.replaced import keeps_replaced
from experiments.run.settings import FolderSettings, without_effect

SAID = {"compile": "compiling", "evaluate": "evaluating"}
"""Of activities that take a while without a bar of their own, in words."""
TRAINING_ACTIVITIES = ("data", "compile", "train", "evaluate")
"""Of what trains on data, in the order of the summary."""


@dataclasses.dataclass(kw_only=True)
class Session:
    """One script's work on one run.

    Attributes:
        settings: of the script.
        script: as it is started, such as `experiments.train`.
        begin: when it was, by `time.perf_counter`.
        seconds: by activity.
        folder: of the run, from `start` on.
    """

    settings: FolderSettings
    script: str
    begin: float
    seconds: dict[str, float]
    folder: RunFolder = dataclasses.field(init=False)

    def start(
        self,
        name: str,
        title: str,
        *parts: Any,
        numbers: str = "float32",
        cut: str | None = None,
        divided: str | None = None,
        data: Mapping[str, str] | None = None,
        unused: Collection[str] = (),
        **more: Any,
    ) -> bool:
        """Opens the folder, and says what is done, by what and where.

        Args:
            name: of the run where the settings give none.
            title: what is done, in a line.
            *parts: as in `start_run`.
            numbers: that data and networks are held in.
            cut: what is done less than was asked for, in words.
            divided: which work how many devices do, in words.
            data: as in `start_run`.
            unused: names of settings that were given and are without effect.
            **more: as in `start_run`.

        Returns:
            Whether there is anything to do: a finished run is left as it is.

        Raises:
            ValueError: as `open_run`.
        """
        self.folder = start_run(self.settings, self.script, name, *parts, data=data, **more)
        if self.folder.finished:
            say(f"{self.folder.path} is already finished")
            return False
        say(title)
        say(
            f"  {device_name()}, {precision(numbers)}, {self.settings.seeds_in_words}; "
            f"results in {self.folder.path}"
        )
        for remark in (divided, cut, without_effect(unused), unused_gpu()):
            if remark is not None:
                say(f"  {remark}")
        return True

    @contextlib.contextmanager
    def timed(self, activity: str, *, since: float | None = None) -> Iterator[None]:
        """Adds the time that is spent inside, or has passed since then, to an activity.

        What takes a while is said first, so that no silence is taken for a standstill.
        """
        if activity in SAID:
            say(f"  {SAID[activity]} ...")
        start = time.perf_counter() if since is None else since
        yield
        spent = time.perf_counter() - start
        self.seconds[activity] = self.seconds.get(activity, 0.0) + spent

    def conclude(self, results: dict[str, Any]) -> None:
        """Ends the run, with the time since the script began as the total."""
        total = time.perf_counter() - self.begin
        conclude(self.folder, self.settings, results, {**self.seconds, "total": total})


@contextlib.contextmanager
def session(
    settings: FolderSettings,
    script: str,
    begin: float | None = None,
    *,
    activities: Sequence[str] = (),
) -> Iterator[Session]:
    """Refuses what could not be finished, before any work is done, and cares for what goes wrong.

    A run that was to be replaced comes back where the new one fails and cannot be resumed; the run
    is let go of however its script ends.

    Args:
        settings: of the script.
        script: as it is started, such as `experiments.train`.
        begin: when it was, by `time.perf_counter`; absent, now.
        activities: that `Session.seconds` begins with, in this order.

    Raises:
        ValueError: as `check_run`, or there are fewer devices than are asked for.
        ImportError: Weights & Biases is asked for and not installed.
    """
    begin = time.perf_counter() if begin is None else begin
    with keeps_replaced():
        if settings.wandb:
            import_extra("wandb", "--wandb")
        first_alone(
            lambda: check_run(
                settings.runs_dir,
                settings.run_name,
                resume=settings.resume,
                overwrite=settings.overwrite,
            )
        )
        if settings.run_name is not None:
            share_folder(Path(settings.runs_dir) / settings.run_name, left_out=LOCK)
        seconds = dict.fromkeys(activities, 0.0)
        with spread_over(chosen_devices(settings.devices)):
            yield Session(settings=settings, script=script, begin=begin, seconds=seconds)


def conclude(
    run: RunFolder, settings: FolderSettings, results: dict[str, Any], seconds: dict[str, float]
) -> None:
    """Writes `summary.json`, which ends the run, and says how long it took.

    Args:
        run: the folder.
        settings: of the folder.
        results: of the script; `seconds`, `device` and `peak_memory_bytes` are added. The epoch from
            which a training went on, `resumed_at`, goes to `seconds`, which are of the others, as
            `from_epoch`: the results of a run are the same however often it was killed.
        seconds: by activity, with a total.
    """
    results = dict(results)
    begun = results.pop("resumed_at", None)
    summary = {
        **results,
        "seconds": seconds if begun is None else {**seconds, "from_epoch": begun},
        "device": device_name(),
        "peak_memory_bytes": peak_memory_bytes(),
    }
    run.finish(summary)
    if settings.wandb:
        _log_to_wandb(run, summary)
    say(
        "  seconds: "
        + ", ".join(f"{name} {value:.1f}" for name, value in seconds.items())
        + f"; peak memory {summary['peak_memory_bytes'] / 2**20:.0f} MiB"
    )
    say(
        f"  {run.path}; for a page of it: python -m experiments.report --run={quote(str(run.path))}"
    )


def _log_to_wandb(run: RunFolder, summary: dict[str, Any]) -> None:
    config = run.config()["settings"]
    wandb = import_extra("wandb", "--wandb")
    with wandb.init(project="jkonet-diffusions", name=run.path.name, config=config) as tracked:
        for row in run.rows():
            tracked.log({k: v for k, v in row.items() if k != "epoch"}, step=row["epoch"])
        pictures = sorted(run.plots.glob("*.png"))
        if pictures:
            tracked.log({f"plots/{file.stem}": wandb.Image(str(file)) for file in pictures})
        tracked.summary.update(summary)
