"""What a run writes, by name, at every depth: whatever else is in its folder is the user's.

Only a folder that holds nothing foreign is ever removed, because what is in it would go with it. A link
is foreign, whatever it is called: no run makes one.
"""

import re
import shutil
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Union

from diffusions.files import is_temporary
from experiments.run.lock import LOCK

Contents = Mapping[str, Union[None, "Contents"]]
"""Pattern of a name -> what such a folder holds, or None for a file."""

_MOST_NAMED = 5
_LEFT_BY_FILE_MANAGERS = {".DS_Store", "Thumbs.db"}

# Orbax writes by way of TensorStore, whose blocks are called by 128 random bits; releases differ in
# what they note beside them.
_BLOCKS: Contents = {r"[0-9a-f]{32}": None}
_ARRAYS: Contents = {
    r"_CHECKPOINT_METADATA|_METADATA|_sharding|commit_success\.txt": None,
    r"manifest\.ocdbt": None,
    r"d": _BLOCKS,
    r"ocdbt\.process_\d+": {r"manifest\.ocdbt": None, r"d": _BLOCKS},
    r"array_metadatas": {r"process_\d+": None},
    r"descriptor": {r"descriptor\.pbtxt": None},
}
CHECKPOINT: Contents = {r"(removed-)?\d+": _ARRAYS, r"\d+\.orbax-checkpoint-tmp(-\d+)?": _ARRAYS}
_ENERGY: Contents = {r"energy\.json": None, r"arrays": _ARRAYS}
_NETWORK: Contents = {r"network\.json": None, r"arrays": _ARRAYS}
_PLOTS: Contents = {
    r"(identify|potential|interaction|predictions|law|training)\.(png|pdf)": None,
    r"(curves|data|generated|memorisation|mse_curve|samples)\.(png|pdf)": None,
    r"(density(_\d{4,})?|panel_\d{4,})\.(png|pdf)": None,
    r"(errors|norms|seeds)\.(png|pdf)": None,
    r"(calibration|comparison|diversity|reconstructions)\.(png|pdf)": None,
}
_TRAINING: Contents = {
    r"metrics\.jsonl": None,
    r"tensorboard": {r"events\.out\.tfevents\..+": None},
    r"checkpoint": CHECKPOINT,
    r"network": _NETWORK,
}
_TABLES: Contents = {
    r"(calibration|comparison|methods|mse_curve|running_averages|table)\.csv": None,
    r"samples\.npz": None,
    r"plots": _PLOTS,
}
_RESULTS: Contents = {**_TABLES, r"(about|evaluation)\.json": None}
RUN: Contents = {
    **_TRAINING,
    **_TABLES,
    r"(choice|config|identify|log_snr|summary)\.json": None,
    r"losses\.txt|numbers_.*\.txt": None,
    r"report\.html": None,
    r"evaluation.*\.json": None,
    r"evaluation.*_plots": _PLOTS,
    r"energy": _ENERGY,
    r"denoiser": _NETWORK,
    r"bootstrap": {**_TRAINING, r"refinement": _TRAINING},
    r"pilot|refinement|regression|em_\d+": {**_TRAINING, r"completed\.npz": None},
    r"evaluation|samples": _RESULTS,
    re.escape(LOCK): None,
}


def check_own(path: Path) -> None:
    """Raises ValueError, naming it, where the folder of a run holds what no run writes."""
    foreign = list(_foreign(path, RUN))
    if foreign:
        raise ValueError(
            f"{path} also holds {_named(foreign)}, which no run writes, so --overwrite leaves "
            "it alone; move that elsewhere"
        )


def remove_own(path: Path, contents: Contents = RUN) -> None:
    """Removes a folder of a run, unless it holds what no run writes: that is said, and all is left."""
    foreign = list(_foreign(path, contents))
    if foreign:
        warnings.warn(
            f"{path} is left there: it also holds {_named(foreign)}, which no run writes",
            UserWarning,
            stacklevel=2,
        )
    else:
        shutil.rmtree(path, ignore_errors=True)


def _named(foreign: list[str]) -> str:
    more = ", ..." if len(foreign) > _MOST_NAMED else ""
    return ", ".join(foreign[:_MOST_NAMED]) + more


def _foreign(folder: Path, contents: Contents) -> Iterator[str]:
    """What is not described, by its path below the folder; nothing of a folder that is not there."""
    entries = sorted(folder.iterdir()) if folder.is_dir() else []
    for entry in entries:
        if is_temporary(entry.name) or entry.name in _LEFT_BY_FILE_MANAGERS:
            continue
        described = [kind for name, kind in contents.items() if re.fullmatch(name, entry.name)]
        inside = next((kind for kind in described if (kind is not None) == entry.is_dir()), False)
        if inside is False or entry.is_symlink():
            yield entry.name
        elif isinstance(inside, Mapping):
            yield from (f"{entry.name}/{name}" for name in _foreign(entry, inside))
