"""The folder of a run.

    config.json      all settings, the versions that ran them, and checksums of the data
    metrics.jsonl    one row per epoch or evaluation, in order
    summary.json     the results; its presence says that the run is finished
    tensorboard/     the same scalars as events
    plots/           figures
    checkpoint/      the newest training state, while the run is unfinished
    energy/          the learned energies
    .lock            held by the process that writes the run, while it does

A run that is killed at any moment continues from its newest checkpoint: rows of `metrics.jsonl` after
it are dropped and made again.

Runs of schema 2 draw their random numbers by named keys (`diffusions.keys`). Folders of schema 1 are
read, but an unfinished one is not continued: the rest of it would draw from other streams, and masks
that are to stay would change.
"""

import dataclasses
import functools
import json
import math
import platform
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from data_generation.formats.json_file import read_json
from data_generation.scripts.files import plain, write_json
from diffusions.files import append_bytes, is_temporary, new_folder, write_text
from diffusions.releases import OWN, release_of
from experiments.run.contents import CHECKPOINT, check_own, remove_own
from experiments.run.lock import held, hold, moved, release, release_all_but
from experiments.run.place import ENERGY, TRAINING, check_place, existing_run
from experiments.run.records import (
    Config,
    Summary,
    Trained,
    check_entries,
    read_entries,
    read_rows,
)
from experiments.run.replaced import (
    forget_replaced,
    replace_run,
    replaced_runs,
)
from experiments.run.settings import FOLDER_FIELDS, FolderSettings

SCHEMA_VERSION = 2


@functools.cache
def _releases() -> dict[str, str]:
    names = (OWN, "jax", "flax", "optax", "ott-jax", "numpy")
    return {"python": platform.python_version()} | {name: release_of(name) for name in names}


def versions() -> dict[str, str]:
    """Releases of what decides a result."""
    return dict(_releases())


class RunFolder:
    """One run's files."""

    def __init__(self, path: Path):
        self.path = path
        self._events: Any = None

    @classmethod
    def existing(cls, path: str | Path) -> "RunFolder":
        """The folder of a run that is there.

        Raises:
            ValueError: there is none.
        """
        return cls(existing_run(path))

    @property
    def checkpoints(self) -> Path:
        """Where training states are kept."""
        return self.path / "checkpoint"

    @property
    def energy(self) -> Path:
        """Where the learned energies are."""
        return self.path / ENERGY

    @property
    def plots(self) -> Path:
        """Where figures go."""
        return self.path / "plots"

    @property
    def finished(self) -> bool:
        """Whether the run came to its end."""
        return (self.path / "summary.json").is_file()

    def config(self) -> dict[str, Any]:
        """What `config.json` holds.

        Raises:
            ValueError: it is missing, damaged, no run's, or of a newer release.
        """
        file = self.path / "config.json"
        config = read_json(file)
        version = config.get("schema_version") if isinstance(config, dict) else None
        if not isinstance(version, int) or not isinstance(config.get("settings"), dict):
            raise ValueError(f"{file} is damaged: it is not the config of a run")
        if version > SCHEMA_VERSION:
            raise ValueError(
                f"{file} has schema version {version}; this release reads up to {SCHEMA_VERSION}: "
                "upgrade jkonet-diffusions"
            )
        check_entries(file, Config, config)
        return config

    @property
    def continues(self) -> bool:
        """Whether this release draws the random numbers that the run would have gone on with."""
        return self.config()["schema_version"] == SCHEMA_VERSION

    def check_data(self, data: Mapping[str, str]) -> None:
        """Refuses data other than those of the run, where it recorded them.

        Args:
            data: checksums by name.

        Raises:
            ValueError: it names what differs.
        """
        recorded = self.config().get("data")
        if recorded is None:
            return
        changed = [name for name in {**recorded, **data} if recorded.get(name) != data.get(name)]
        if changed:
            raise ValueError(
                f"{self.path} learned from other data: {', '.join(changed[:5])} changed since, by "
                "checksum"
            )

    def trained(self) -> Trained:
        """The settings of a run of `experiments.train` that others rely on.

        Raises:
            ValueError: the config is damaged, or of another script.
        """
        settings = self.config()["settings"]
        if settings.get("script") != TRAINING:
            raise ValueError(f"{self.path} is not a run of {TRAINING}")
        return check_entries(self.path / "config.json", Trained, settings)

    def summary(self) -> dict[str, Any]:
        """What `summary.json` holds; nothing of a run that is not finished.

        Raises:
            ValueError: it is damaged.
        """
        return read_entries(self.path / "summary.json", Summary) if self.finished else {}

    def rows(self, *needed: str) -> list[dict[str, Any]]:
        """The rows of `metrics.jsonl`; a row cut off by a kill is left out.

        Args:
            *needed: entries that every row must have, beside its epoch.

        Raises:
            ValueError: a row is damaged.
        """
        return read_rows(self.path / "metrics.jsonl", needed)

    def keep_rows(self, last_epoch: int) -> None:
        """Drops the rows after an epoch."""
        kept = [row for row in self.rows() if row["epoch"] <= last_epoch]
        lines = "".join(json.dumps(plain(row)) + "\n" for row in kept)
        write_text(self.path / "metrics.jsonl", lines)

    def log(self, rows: Iterable[dict[str, Any]]) -> None:
        """Appends rows, each with an `epoch`, and their numbers for TensorBoard.

        Raises:
            OSError: there is no room for them; what was there stays whole.
        """
        from experiments.run.event_file import EventFile, Scalar

        if self._events is None:
            self._events = EventFile(self.path / "tensorboard")
        rows = list(rows)
        lines = "".join(json.dumps(plain(row)) + "\n" for row in rows)
        append_bytes(self.path / "metrics.jsonl", lines.encode())
        scalars = []
        for row in rows:
            for name, value in row.items():
                values = value if isinstance(value, list) else [value]
                if name == "epoch" or not all(isinstance(v, int | float) for v in values):
                    continue
                mean = sum(values) / len(values)
                if math.isfinite(mean):
                    scalars.append(Scalar(name, row["epoch"], mean))
        self._events.add(scalars)

    def finish(self, summary: dict[str, Any]) -> None:
        """Writes the results and removes the training state, which nothing needs any more."""
        write_json(self.path / "summary.json", {"schema_version": SCHEMA_VERSION, **summary})
        remove_own(self.checkpoints, CHECKPOINT)
        for left in self.path.glob(".*"):
            if is_temporary(left.name):  # of a process that was killed
                shutil.rmtree(left) if left.is_dir() else left.unlink()
        forget_replaced(self.path)
        release(self.path)

    def remove(self) -> None:
        """Removes the whole folder, and what it has replaced; not what no run writes."""
        remove_own(self.path)
        forget_replaced(self.path)
        release(self.path)


def check_run(runs_dir: str, name: str | None, *, resume: bool, overwrite: bool) -> None:
    """Refuses what `open_run` would refuse whatever the settings are, before any work is done.

    Raises:
        ValueError: as `open_run`.
    """
    check_place(runs_dir, name, resume=resume, overwrite=overwrite)
    if name is None:
        return
    path = Path(runs_dir) / name
    if resume:
        run = RunFolder(path)
        if not run.continues and not run.finished:
            raise ValueError(
                f"{path} is an unfinished run of an earlier release, whose random numbers were others; "
                "start it anew with --overwrite"
            )
    elif path.exists():
        try:
            if path.is_symlink():
                raise ValueError
            RunFolder(path).config()
        except (ValueError, OSError):
            raise ValueError(
                f"{path} is not the folder of a run, so --overwrite leaves it alone"
            ) from None
        check_own(path)


def open_run(
    runs_dir: str,
    name: str | None,
    default_name: str,
    config: dict[str, Any],
    *,
    resume: bool,
    overwrite: bool,
    data: Mapping[str, str] | None = None,
) -> RunFolder:
    """Makes the folder of a new run, or finds the one to continue; locked until it is finished.

    Args:
        runs_dir: parent of all runs.
        name: of the run; absent, the default one, numbered where it is taken.
        default_name: used where `name` is absent.
        config: all settings of the run.
        resume: continue; the settings and the data must be those of the run.
        overwrite: replace a run of this name; it is kept aside until the new one is finished.
        data: checksums of what the run learns from, by name; none where a seed makes it.

    Raises:
        ValueError: a run of this name exists (and neither flag is given), there is none to resume, or
            it has other settings or data; another process writes it; what is to be replaced is not a
            run and nothing else; the folder cannot be written.
    """
    parent = Path(runs_dir)
    check_run(runs_dir, name, resume=resume, overwrite=overwrite)
    if name is None:
        name, number = default_name, 1
        while (parent / name).exists() or replaced_runs(parent / name):
            number += 1
            name = f"{default_name}-{number}"
    path = parent / name
    if resume:
        return _resumed(path, config, data)
    parent.mkdir(parents=True, exist_ok=True)
    # A folder without config.json is no run: the rename makes both appear at once.
    content = {"schema_version": SCHEMA_VERSION, "settings": config, "versions": versions()}
    replaces = path.exists()
    before = held()
    try:
        if replaces:
            hold(path)
        with new_folder(path, move=replace_run if replaces else None) as unfinished:
            write_json(
                unfinished / "config.json", content if data is None else {**content, "data": data}
            )
            hold(unfinished)
        moved(unfinished, path)
    except BaseException:
        release_all_but(before)
        raise
    return RunFolder(path)


def start_run(
    settings: FolderSettings,
    script: str,
    default_name: str,
    *parts: Any,
    data: Mapping[str, str] | None = None,
    **more: Any,
) -> RunFolder:
    """Opens the folder of a script's run, with all its settings as the config.

    Args:
        settings: of the folder; its own fields are not part of the config.
        script: as it is started, such as `experiments.train`.
        default_name: as in `open_run`.
        *parts: further settings dataclasses.
        data: as in `open_run`.
        **more: single entries; they go before the settings.

    Returns:
        The folder; it may be that of a finished run.

    Raises:
        ValueError: as `open_run`.
    """
    config: dict[str, Any] = {"script": script}
    for part in (settings, *parts):
        config |= dataclasses.asdict(part)
    config = {k: v for k, v in config.items() if k not in FOLDER_FIELDS} | more
    return open_run(
        settings.runs_dir,
        settings.run_name,
        default_name,
        config,
        resume=settings.resume,
        overwrite=settings.overwrite,
        data=data,
    )


def _resumed(path: Path, config: dict[str, Any], data: Mapping[str, str] | None) -> RunFolder:
    run = RunFolder(path)
    recorded = run.config()["settings"]
    wanted = json.loads(json.dumps(plain(config)))
    for name in wanted:
        if name not in recorded:
            raise ValueError(
                f"{path} was started without --{name.replace('_', '-')}, which is {wanted[name]} now; "
                "give what it was started with, or, if that was an older release, --overwrite"
            )
        if wanted[name] != recorded[name]:
            raise ValueError(
                f"{path} was started with --{name.replace('_', '-')}={recorded[name]}, "
                f"not {wanted[name]}; a resumed run keeps its settings"
            )
    if data is not None:
        run.check_data(data)
    if not run.finished:
        # A part that is left at its defaults may not be named at all.
        for name in recorded.keys() - wanted.keys():
            raise ValueError(
                f"{path} was started with --{name.replace('_', '-')}={recorded[name]}, which is "
                "missing here; a resumed run keeps its settings"
            )
        hold(path)
    return run
