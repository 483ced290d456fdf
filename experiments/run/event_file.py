"""Scalars as TensorBoard reads them, written at once.

tensorboardX writes in a thread of its own, which dies where a disk is full and leaves its caller
waiting; only its records are taken from there.
"""

import os
import socket
import struct
import time
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from tensorboardX.proto.event_pb2 import Event
from tensorboardX.proto.summary_pb2 import Summary
from tensorboardX.record_writer import masked_crc32c

from diffusions.files import append_bytes


class Scalar(NamedTuple):
    """A number of a curve."""

    name: str
    step: int
    value: float


class EventFile:
    """A new file of events in a folder, made with its first scalars."""

    def __init__(self, folder: Path):
        # Two processes may begin in the same second, on machines that share the folder.
        name = f"{time.time():.0f}.{socket.gethostname()}.{os.getpid()}"
        self.file = folder / f"events.out.tfevents.{name}"

    def add(self, scalars: Iterable[Scalar]) -> None:
        """Appends scalars: all of them, or none.

        Raises:
            OSError: there is no room for them.
        """
        now = time.time()
        events = [
            Event(
                wall_time=now,
                step=scalar.step,
                summary=Summary(value=[Summary.Value(tag=scalar.name, simple_value=scalar.value)]),
            )
            for scalar in scalars
        ]
        if not self.file.exists():
            self.file.parent.mkdir(parents=True, exist_ok=True)
            events.insert(0, Event(wall_time=now, file_version="brain.Event:2"))
        append_bytes(self.file, b"".join(_record(e.SerializeToString()) for e in events))


def _record(content: bytes) -> bytes:
    """Length and content, each with its checksum."""
    length = struct.pack("<Q", len(content))
    checksums = (struct.pack("<I", masked_crc32c(part)) for part in (length, content))
    return b"".join((length, next(checksums), content, next(checksums)))
