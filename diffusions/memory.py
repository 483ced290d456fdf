"""Whether what is asked for fits into memory, told before it is asked of the machine. Imports no JAX.

An estimate counts the largest arrays that are certainly made, so that nothing that works is refused.
"""

import contextlib
import os
import sys
from collections.abc import Mapping
from pathlib import Path

if sys.platform != "win32":
    import resource

_GIBI = 2**30
_CGROUPS = (
    ("memory.max", "memory.current"),
    ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes"),
)


def available_bytes() -> int:
    """Memory that this process may still take: of the machine, its container, and its own limit."""
    found = [_of_machine()]
    for limit, used in _CGROUPS:
        with contextlib.suppress(OSError, ValueError):  # no container, or `max`
            folder = Path("/sys/fs/cgroup")
            found.append(int((folder / limit).read_text()) - int((folder / used).read_text()))
    if sys.platform == "linux":
        own, _ = resource.getrlimit(resource.RLIMIT_AS)
        if own != resource.RLIM_INFINITY:
            pages = int(Path("/proc/self/statm").read_text().split()[0])
            found.append(own - pages * resource.getpagesize())
    return max(0, min(found))


def _of_machine() -> int:
    with contextlib.suppress(OSError, ValueError, KeyError):
        lines = Path("/proc/meminfo").read_text().splitlines()
        # What the page cache holds is given back on demand.
        return 1024 * int(dict(line.split(":", 1) for line in lines)["MemAvailable"].split()[0])
    with contextlib.suppress(AttributeError, OSError, ValueError):
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return sys.maxsize


def check_memory(needs: Mapping[str, float]) -> None:
    """Raises ValueError where one of some arrays does not fit into the memory that is free.

    Args:
        needs: what it is and which settings decide its size -> bytes.
    """
    room = None
    for what, n_bytes in needs.items():
        if n_bytes < 2**20:
            continue
        room = available_bytes() if room is None else room
        if n_bytes > room:
            raise ValueError(
                f"not enough memory: {what} would take {_amount(n_bytes)}, and {_amount(room)} are "
                "free"
            )


def _amount(n_bytes: float) -> str:
    return f"{n_bytes / _GIBI:.3g} GiB"
