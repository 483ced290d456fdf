"""The state of an unfinished run, so that it continues bit for bit.

A run keeps its newest state in `checkpoint/<step>/`. Orbax writes to a temporary name and renames, so
a state is complete or absent whenever the run is killed; the one before is removed only after that.
"""

import re
import shutil
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from checkpoints.orbax_arrays import checkpointer_of_this_process, write_arrays
from diffusions.typing import PyTree


def _steps(folder: Path) -> list[int]:
    if not folder.is_dir():
        return []
    return sorted(int(p.name) for p in folder.iterdir() if re.fullmatch(r"[0-9]{1,9}", p.name))


def latest_step(folder: str | Path) -> int | None:
    """Step of the newest complete state below `folder`, or None."""
    steps = _steps(Path(folder))
    return steps[-1] if steps else None


def save_state(folder: str | Path, step: int, state: PyTree) -> None:
    """Writes a state and then removes the older ones.

    Args:
        folder: of the run's checkpoints; it is made where absent.
        step: names the state.
        state: any pytree of arrays.

    Raises:
        OSError: there is no room for it; the older ones stay.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    arrays = {name: np.asarray(leaf) for name, leaf in _named_leaves(state)}
    write_arrays(folder / str(step), arrays)
    for old in _steps(folder):
        if old != step:
            _remove(folder / str(old))


def _named_leaves(tree: PyTree) -> list[tuple[str, Any]]:
    """Each leaf with its path as text: a state is stored flat, whatever containers it is made of."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return [(jax.tree_util.keystr(path, simple=True, separator="."), leaf) for path, leaf in leaves]


def _remove(folder: Path) -> None:
    # Renamed first: a name that is not a number is no state, even half removed.
    doomed = folder.with_name(f"removed-{folder.name}")
    shutil.rmtree(doomed, ignore_errors=True)  # a kill may have left it
    folder.rename(doomed)
    shutil.rmtree(doomed)


def restore_state(folder: str | Path, step: int, like: PyTree) -> PyTree:
    """Reads a state.

    Args:
        folder: as given to `save_state`.
        step: as given to `save_state`.
        like: a pytree of the same structure, shapes and types.

    Raises:
        ValueError: the state is damaged, or of another structure.
    """
    folder = Path(folder)
    path = folder.absolute() / str(step)
    wanted = {
        name: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype) for name, leaf in _named_leaves(like)
    }
    try:
        with checkpointer_of_this_process() as checkpointer:
            # Orbax would cut or fill an array of another shape, and convert one of another type.
            for name, found in checkpointer.metadata(path).item_metadata.tree.items():
                expected = wanted.get(name)
                if expected is None:
                    raise ValueError(f"nothing takes {name}")
                if (tuple(found.shape), found.dtype) != (expected.shape, expected.dtype):
                    raise ValueError(
                        f"{name} is {found.dtype}{list(found.shape)}, "
                        f"not {expected.dtype}{list(expected.shape)}"
                    )
            arrays = checkpointer.restore(path, wanted)
        leaves = [jnp.asarray(arrays[name]) for name in wanted]
        return jax.tree.unflatten(jax.tree.structure(like), leaves)
    except Exception as error:
        reason = " ".join(str(error).split())[:200]
        raise ValueError(f"cannot restore the state in {folder / str(step)}: {reason}") from error
