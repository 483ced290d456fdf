"""Python's search for cyclic garbage, which a script's imports make dear and never need.

Imports leave half a million objects that live as long as the process. Looked through while they grow,
ever again in the work after them, and once more at the end, they take .6 of 8 processor seconds of the
demonstration's training. So none is searched for among a script's first imports, during and after, nor
at the end.
"""

import atexit
import contextlib
import functools
import gc
import sys
from collections.abc import Iterator
from pathlib import Path

_PACKAGES = ("checkpoints", "data_generation", "experiments")
_COMMANDS = ("data_generation", "jkonet")


def own_process() -> bool:
    """Whether the process was started for a script of ours: `python -m ...`, or a command.

    In a notebook, a test or another program objects belong to somebody else.
    """
    main = sys.modules.get("__main__")
    module = getattr(main, "__spec__", None)
    if module is not None:
        return module.name.partition(".")[0] in _PACKAGES
    return Path(getattr(main, "__file__", None) or "").name in _COMMANDS


@functools.cache  # once: what the runs of a sweep leave is garbage
def _keep_imports() -> None:
    gc.freeze()
    atexit.register(gc.freeze)


@contextlib.contextmanager
def importing() -> Iterator[None]:
    """Inside, a script imports what its work needs.

    In a process of the script's own nothing that is there then is looked at again, and nothing at all
    at the end of the process.
    """
    searching = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if searching:
            gc.enable()
    if own_process():
        _keep_imports()
