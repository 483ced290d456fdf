"""One script in several processes: who they are, and what each may show and write. Imports no JAX.

Every process runs the same script with the same flags, and computes the same on its own host; the
devices of all are one mesh (`diffusions.devices`). What a user sees comes from the first process. The
others print errors only, and write into a folder of their own, which goes when they end: at the start
of a run they are given what the first one has of it.

What is called here by one of the processes is called by all of them, in the same order. In a process
that is alone all of it does nothing.
"""

import abc
import contextlib
import dataclasses
import io
import json
import re
import zipfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import ClassVar

from diffusions.checks import Count, Natural, check_fields, shown

SLURM = "slurm"


@dataclasses.dataclass(frozen=True, kw_only=True)
class ProcessSettings:
    """Several processes.

    Attributes:
        coordinator: where the first of several processes waits for the others, HOST:PORT, or slurm,
            whose job step says it all. Each process is started with the same flags.
        processes: how many there are.
        process: which one this is, from 0.
    """

    coordinator: str | None = None
    processes: Count | None = None
    process: Natural | None = None

    def __post_init__(self):
        check_fields(self)
        counted = self.processes is not None and self.process is not None
        named = self.processes is not None or self.process is not None
        if self.coordinator is None or self.coordinator == SLURM:
            if named:
                raise ValueError(
                    "processes and process go with coordinator=HOST:PORT, and only there"
                )
            return
        host, colon, port = self.coordinator.rpartition(":")
        if not (host and colon and re.fullmatch("[0-9]{1,5}", port) and 0 < int(port) < 2**16):
            raise ValueError(
                f"coordinator must be HOST:PORT or slurm, got {shown(self.coordinator)}"
            )
        if not counted:
            raise ValueError(
                "coordinator=HOST:PORT needs processes, how many, and process, which one"
            )
        if self.process >= self.processes:  # type: ignore[operator]
            raise ValueError(
                f"process counts from 0 to {self.processes - 1}, got {self.process}"  # type: ignore[operator]
            )


class Group(abc.ABC):
    """The processes that share this one's work, as one of them sees them.

    Attributes:
        current: that this process belongs to; None where it is alone.
        first: whether this one is the one that users see.
        place: where the others write what belongs into a folder of the user.
        ends_as_one: whether all know that they fail, so that each may wait for the others' last words.
    """

    current: ClassVar["Group | None"] = None
    first: bool
    place: Path
    ends_as_one: bool = False

    @abc.abstractmethod
    def wait(self) -> None:
        """Until all processes are here."""

    @abc.abstractmethod
    def given(self, content: bytes) -> bytes:
        """What the first process has."""

    @abc.abstractmethod
    def anywhere(self, here: bool) -> bool:
        """Whether something is so in any process."""

    @abc.abstractmethod
    def leave(self, status: int) -> None:
        """The end of the process; it returns only where all came to a good one."""


def is_follower() -> bool:
    """Whether another process shows and writes what this one computes as well."""
    return Group.current is not None and not Group.current.first


def own_place(folder: str) -> str:
    """Where this process writes what the first one writes into a folder."""
    group = Group.current
    if group is None or group.first:
        return folder
    return str(group.place / Path(folder).name)


@contextlib.contextmanager
def first_before_others() -> Iterator[None]:
    """The first process goes through what is inside before the others do: it may make what all read."""
    group = Group.current
    if group is not None and not group.first:
        group.wait()
    yield
    if group is not None and group.first:
        group.wait()


def first_alone(check: Callable[[], None]) -> None:
    """What only the first process does, because only its files are the user's; its failure ends all.

    Raises:
        ValueError: it failed there.
    """
    group = Group.current
    if group is None:
        check()
        return
    if group.first:
        try:
            check()
        except BaseException:
            group.given(b"failed")
            raise
    if group.given(b""):
        raise ValueError("the first process could not begin, and says why")


def check_same_flags(own: Mapping[str, str]) -> None:
    """All processes compute the same: what only some were told would be lost, or end in a standstill.

    Args:
        own: names of flags -> their values, of this process.

    Raises:
        ValueError: the flags of some process differ from those of the first. It is raised in all of
            them, and names the flags where it is so.
    """
    group = Group.current
    if group is None:
        return
    first: dict[str, str] = json.loads(group.given(json.dumps(dict(own)).encode()))
    others = [
        f"--{name.replace('_', '-')} is {own.get(name)} here and {first.get(name)} there"
        for name in sorted(own.keys() | first.keys())
        if first.get(name) != own.get(name)
    ]
    if group.anywhere(bool(others)):
        group.ends_as_one = True
        which = "; ".join(others) or "another one says which"
        raise ValueError(f"the processes of a run need the same flags: {which}")


def share_folder(folder: Path, *, left_out: str) -> None:
    """The other processes get what the first one has in a folder of the user.

    Args:
        folder: of this process (`own_place`); what is there already stays as it is.
        left_out: a name of files that are of one process alone.
    """
    group = Group.current
    if group is None:
        return
    packed = io.BytesIO()
    if group.first and folder.is_dir():
        with zipfile.ZipFile(packed, "w") as archive:
            for file in sorted(folder.rglob("*")):
                if file.is_file() and file.name != left_out:
                    archive.write(file, file.relative_to(folder))
    content = group.given(packed.getvalue())
    if content and not group.first and not folder.exists():
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            archive.extractall(folder)
