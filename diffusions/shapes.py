"""Whether arrays that were read are those that a description asks for."""

from typing import Any

import jax
import numpy as np

from diffusions.typing import PyTree


def check_shapes(found: PyTree, wanted: PyTree, *, stack: tuple[int, ...] = ()) -> None:
    """Raises ValueError unless two trees have the same names and shapes; it names the first difference.

    Args:
        found: arrays.
        wanted: what has a `shape`, under the names of the arrays.
        stack: leading axes that every array has beside.
    """
    shapes, arrays = named(wanted), named(found)
    for name in sorted(shapes.keys() | arrays.keys()):
        if name not in shapes or name not in arrays:
            raise ValueError(f"{name} is {'missing' if name in shapes else 'not a parameter'}")
        expected = (*stack, *shapes[name].shape)
        if expected != np.shape(arrays[name]):
            raise ValueError(
                f"{name} has shape {list(np.shape(arrays[name]))}, not {list(expected)}"
            )


def named(tree: PyTree) -> dict[str, Any]:
    """Leaves of a tree of dictionaries by their path, such as `potential.params.Dense_0.bias`."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {jax.tree_util.keystr(path, simple=True, separator="."): leaf for path, leaf in leaves}
