"""Where a run is, or shall be: what is missing, or taken, is said before JAX is loaded."""

import difflib
from pathlib import Path

from data_generation.formats.json_file import read_json
from data_generation.scripts.files import check_writable
from experiments.run.lock import check_free
from experiments.run.replaced import hint, settle

CONFIG = "config.json"
ENERGY = "energy"
TRAINING = "experiments.train"
"""The script whose runs hold energies."""
UNFINISHED = "is not finished; continue it with experiments.train --resume"


def existing_run(path: str | Path) -> Path:
    """The folder of a run that is there.

    Raises:
        ValueError: there is none.
    """
    folder = Path(path)
    if not (folder / CONFIG).is_file():
        raise ValueError(f"{path} is not the folder of a run{hint(folder)}")
    return folder


def finished_run_place(path: str | Path) -> Path:
    """The folder of a run that came to its end.

    Raises:
        ValueError: there is none, or it is unfinished.
    """
    folder = Path(path)
    if not (folder / "summary.json").is_file():
        raise ValueError(f"{folder} is not the folder of a finished run{hint(folder)}")
    return folder


def check_energy(run: Path, wrong: str = UNFINISHED) -> None:
    """Raises ValueError, saying what is wrong, where a run of `experiments.train` has no energy yet."""
    if not (run / ENERGY).is_dir():
        raise ValueError(f"{run} {wrong}{hint(run)}")


def dataset_of_run(path: str | Path, wrong: str = UNFINISHED) -> str | None:
    """The dataset that a finished run of `experiments.train` says it learned from.

    None of another script's run, and where the config says none.

    Args:
        path: of the run's folder.
        wrong: what is said of a run without an energy.

    Raises:
        ValueError: there is no run, its config cannot be read, or it is unfinished.
    """
    run = existing_run(path)
    config = read_json(run / CONFIG)
    settings = config.get("settings") if isinstance(config, dict) else None
    if not isinstance(settings, dict) or settings.get("script") != TRAINING:
        return None
    check_energy(run, wrong)
    dataset = settings.get("dataset")
    return dataset if isinstance(dataset, str) else None


def check_place(runs_dir: str, name: str | None, *, resume: bool, overwrite: bool) -> None:
    """Refuses a run that cannot go where it shall, whatever is in it.

    Raises:
        ValueError: the folder takes no files, another process has the run, there is none to resume,
            or there is one already.
    """
    parent = Path(runs_dir)
    check_writable(parent)
    if name is None:
        return
    path = parent / name
    check_free(path)
    settle(path)
    if resume and not (path / CONFIG).is_file():
        runs = sorted(p.parent.name for p in parent.glob(f"[!.]*/{CONFIG}"))
        near = difflib.get_close_matches(name, runs, n=3, cutoff=0.5) or runs[:5]
        others = f"; {parent} holds {', '.join(near)}" if near else ""
        raise ValueError(f"no run {path} to resume{others}")
    if path.exists() and not (resume or overwrite):
        raise ValueError(
            f"{path} already exists; give --resume, --overwrite or another name{hint(path)}"
        )
