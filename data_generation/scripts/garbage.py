"""Python's search for cyclic garbage, which a script's imports make dear and never need.

Imports leave half a million objects that live as long as the process. Looked through while they grow,
ever again in the work after them, and once more at the end, they take .9 of 8 processor seconds of the
demonstration's training. So no search begins before the imports are over, and none looks at them after.
"""

import contextlib
import gc
from collections.abc import Iterator

PATIENCE = 1_000_000
"""New objects until a search begins before the imports are over: who never says so is bounded by it."""


class _Imports:
    """Of a script that is loading."""

    before: tuple[int, int, int] | None = None  # the thresholds, until the imports are over
    lasting = False  # whether what is imported lives as long as the process


@contextlib.contextmanager
def imports_unsearched(*, lasting: bool) -> Iterator[None]:
    """Inside, no search begins until `imports_over`.

    Args:
        lasting: the process is the script's own: what it has imported, and what is left at the end, is
            never looked at. In somebody else's process (a notebook), objects stay as they are.
    """
    thresholds = gc.get_threshold()
    usual = gc.isenabled() and 0 < thresholds[0] < PATIENCE
    if _Imports.before is not None or not usual:
        yield  # somebody has decided otherwise
        return
    _Imports.before, _Imports.lasting = thresholds, lasting
    gc.set_threshold(PATIENCE, *thresholds[1:])
    try:
        yield
    finally:
        imports_over()
        if lasting:
            gc.freeze()


def imports_over() -> None:
    """The work begins: garbage is searched for as before, but not among what is there already."""
    if _Imports.before is None:
        return
    gc.set_threshold(*_Imports.before)
    _Imports.before = None
    if _Imports.lasting:
        gc.freeze()
