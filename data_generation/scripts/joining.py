"""How several processes become one computation, and how all of them end when one does.

JAX's own service on the first process knows who is there: a process that is no longer heard of ends
all. It does so from threads of its own, with a message for developers, so that a line for users is
written by a small process beside each one, which does nothing but wait for its end and clear up.
"""

import contextlib
import inspect
import os
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from data_generation.scripts.processes import SLURM, Group, ProcessSettings

SECONDS_TO_COME = 300
"""That processes wait for each other at the start."""
SECONDS_OF_SILENCE = 30
"""After which a process counts as dead."""
# What JAX reads; it gives each task the device of its number on the node.
_SLURM_STEP = (
    "SLURM_JOB_ID",
    "SLURM_STEP_NODELIST",
    "SLURM_NTASKS",
    "SLURM_PROCID",
    "SLURM_LOCALID",
)
# Nothing but the pipe tells how the process that it belongs to has ended.
_WITNESS = """
import shutil, sys
if not sys.stdin.buffer.read():
    sys.stderr.write(sys.argv[1])
shutil.rmtree(sys.argv[2], ignore_errors=True)
"""


def join(settings: ProcessSettings) -> Group:
    """Makes this process one of several, before JAX has touched any device.

    Args:
        settings: with a coordinator.

    Raises:
        ValueError: there is no job step of SLURM, the first process cannot listen where the others look
            for it, or nobody answers there.
    """
    if settings.coordinator == SLURM:
        if missing := [name for name in _SLURM_STEP if name not in os.environ]:
            raise ValueError(
                f"--coordinator=slurm is for a job step of SLURM (srun), and there is no {missing[0]}"
            )
        where: dict[str, Any] = {"cluster_detection_method": SLURM}
    else:
        where = {
            "coordinator_address": settings.coordinator,
            "num_processes": settings.processes,
            "process_id": settings.process,
        }
        if settings.process:
            _wait_for(str(settings.coordinator))
        else:
            _check_port(str(settings.coordinator))
    # Releases of JAX before 0.7 have a period of their own.
    if "heartbeat_timeout_seconds" in inspect.signature(jax.distributed.initialize).parameters:
        where["heartbeat_timeout_seconds"] = SECONDS_OF_SILENCE
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    jax.distributed.initialize(initialization_timeout=SECONDS_TO_COME, **where)
    Group.current = _Joined()
    return Group.current


def _check_port(address: str) -> None:
    """JAX's service ends the process without a word where somebody else listens."""
    port = int(address.rpartition(":")[2])
    both = socket.has_dualstack_ipv6()
    family = socket.AF_INET6 if both else socket.AF_INET
    try:
        socket.create_server(("", port), family=family, dualstack_ipv6=both).close()
    except OSError as error:
        raise ValueError(
            f"--coordinator={address}: {os.strerror(error.errno or 0)}; name another port"
        ) from error


def _wait_for(address: str) -> None:
    """JAX ends a process whose coordinator does not answer, and says little."""
    host, _, port = address.rpartition(":")
    end = time.monotonic() + SECONDS_TO_COME
    while True:
        try:
            socket.create_connection((host.strip("[]"), int(port)), timeout=5.0).close()
            return
        except OSError as error:
            if time.monotonic() > end or isinstance(error, socket.gaierror):
                raise ValueError(
                    f"no process answers at --coordinator={address}: {error.strerror or error}"
                ) from error
        time.sleep(0.2)


class _Joined(Group):
    """This process among others."""

    def __init__(self):
        self.first = jax.process_index() == 0
        self.place = Path(tempfile.mkdtemp(prefix="jkonet-process-"))
        who = f"process {jax.process_index()} of {jax.process_count()}"
        line = (
            f"error: {who} has ended before its time: it was killed, or another one of the run has "
            "ended; --resume continues the run\n"
        )
        self._witness = subprocess.Popen(
            [sys.executable, "-I", "-S", "-c", _WITNESS, line, str(self.place)],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            start_new_session=True,  # what interrupts us is no matter of its own
        )
        self._quiet()

    def _quiet(self) -> None:
        """Gloo writes to standard output behind Python's back, and so would all processes at once."""
        sys.stdout.flush()
        null = os.open(os.devnull, os.O_WRONLY)
        with contextlib.suppress(OSError, ValueError):  # a test may have a stream without a number
            number = sys.stdout.fileno()
            if self.first:
                encoding, errors = sys.stdout.encoding, sys.stdout.errors
                sys.stdout = os.fdopen(os.dup(number), "w", encoding=encoding, errors=errors)
            os.dup2(null, number)
        os.close(null)

    def wait(self) -> None:
        multihost_utils.sync_global_devices("wait")

    def given(self, content: bytes) -> bytes:
        size = int(multihost_utils.broadcast_one_to_all(np.asarray(len(content))))
        own = np.frombuffer(content, np.uint8) if self.first else np.zeros(size, np.uint8)
        return multihost_utils.broadcast_one_to_all(own).tobytes() if size else b""

    def anywhere(self, here: bool) -> bool:
        return bool(np.any(multihost_utils.process_allgather(np.asarray(here))))

    def leave(self, status: int) -> None:
        if status == 0 or self.ends_as_one:
            jax.distributed.shutdown()
        assert self._witness.stdin is not None
        with contextlib.suppress(OSError):
            self._witness.stdin.write(b"ended")
            self._witness.stdin.close()
        self._witness.wait()
        Group.current = None
        if status:
            # The others wait for this one, and it must not wait for them.
            with contextlib.suppress(OSError, ValueError):
                sys.stdout.flush()
                sys.stderr.flush()
            os._exit(status)
