"""What an object that holds arrays says of itself: shapes in the place of numbers.

`__repr__ = short_repr` in the body of a dataclass; a NamedTuple needs a method that calls it. It holds
for whatever JAX passes through a pytree: tracers, shapes, batches, placeholders.
"""

import dataclasses
import math
from typing import Any

import jax
import numpy as np

LONGEST = 100
"""Characters of what is no array; the middle of longer ones is left out."""


def short_repr(self: Any) -> str:
    """The class, and its fields by name, in one line."""
    names = getattr(self, "_fields", None) or [f.name for f in dataclasses.fields(self) if f.repr]
    shown = ", ".join(f"{name}={_short(getattr(self, name))}" for name in names)
    return f"{type(self).__name__}({shown})"


def known(*values: Any) -> bool:
    """Whether all are arrays whose numbers are at hand: no tracers, no mere shapes, none consumed."""
    return all(
        isinstance(value, np.ndarray | np.generic)
        or (
            isinstance(value, jax.Array)
            and not isinstance(value, jax.core.Tracer)
            and not value.is_deleted()
            and value.is_fully_addressable
        )
        for value in values
    )


def count(number: int, singular: str) -> str:
    """A number and its noun, in the plural where it is not one."""
    return f"{number:,} {singular}{'' if number == 1 else 's'}"


def _short(value: Any) -> str:
    if hasattr(value, "shape") and hasattr(value, "dtype"):
        kind = getattr(value.dtype, "kind", None)  # the type of keys has none
        if known(value) and value.shape == () and kind in tuple("fiub"):
            return f"{value.item():.4g}" if kind == "f" else str(value.item())
        return f"{value.dtype}[{','.join(map(str, value.shape))}]"
    if isinstance(value, dict | list) or (
        isinstance(value, tuple) and not hasattr(value, "_fields")
    ):
        leaves = jax.tree.leaves(value)
        arrays = [leaf for leaf in leaves if hasattr(leaf, "shape")]
        if arrays and len(arrays) == len(leaves):
            total = sum(math.prod(leaf.shape) for leaf in arrays)
            return f"<{count(len(arrays), 'array')} of {count(total, 'number')}>"
    text = " ".join(repr(value).split())
    half = LONGEST // 2
    return text if len(text) <= LONGEST else f"{text[:half]}...{text[-half:]}"
