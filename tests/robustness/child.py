"""A script in a process of its own: forked from one that has imported everything, watched, and killed.

Importing takes longer than most of what is tried here, so that a child starts from where its parent
is. The parent must not have used JAX: a forked child cannot use a backend that is already running.
"""

import atexit
import contextlib
import dataclasses
import gc
import os
import re
import resource
import signal
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from data_generation.scripts.command_line import script_module

MOST_SECONDS = 60.0
_MOST_WAITING = 4  # times as long on the clock, where others use the processor too
MOST_BYTES = 4 << 30

_SIGNALS = (signal.SIGINT, signal.SIGTERM)
_PAGE = resource.getpagesize()


@dataclasses.dataclass(frozen=True, kw_only=True)
class Outcome:
    """How a child ended.

    Attributes:
        status: exit status, or minus the signal.
        out: standard output.
        err: standard error, without what a progress bar wrote over.
        seconds: wall time.
        cpu: processor seconds.
        peak_bytes: most memory that it held.
        stopped: why the watch killed it: "", "moment", "time" or "memory".
    """

    status: int
    out: str
    err: str
    seconds: float
    cpu: float
    peak_bytes: int
    stopped: str = ""


def complaint(outcome: Outcome, statuses: Sequence[int] = (0, 2)) -> str:
    """What is wrong with how a script ended; empty where nothing is."""
    if outcome.stopped == "time":
        return f"still at work after {outcome.seconds:.0f} s"
    if outcome.stopped == "memory" or outcome.peak_bytes > MOST_BYTES:
        return f"took {outcome.peak_bytes / 2**30:.1f} GiB"
    if "Traceback" in outcome.err or "Traceback" in outcome.out:
        return f"a traceback: {' '.join((outcome.err or outcome.out).split())[-600:]}"
    if outcome.status not in statuses:
        return f"exit status {outcome.status}: {_last_line(outcome.err)}"
    errors = [line for line in outcome.err.splitlines() if line.startswith("error: ")]
    others = [line for line in outcome.err.splitlines() if line.strip() and line not in errors]
    strange = [
        line for line in others if not line.startswith(("warning: ", "interrupted", "terminated"))
    ]
    if len(errors) != (outcome.status in (1, 2, 74)):
        return f"exit status {outcome.status} with {len(errors)} lines of error: {outcome.err!r}"
    if strange:
        return f"says on standard error {strange[0][:200]!r}"
    return ""


def _last_line(text: str) -> str:
    return (text.strip().splitlines() or [""])[-1][:300]


class Child:
    """A process that does one thing.

    Args:
        work: what it does; its result is the exit status.
        folder: where it works.
        environment: variables that differ from the parent's; None removes one.
        limits: resource -> soft and hard limit.
    """

    def __init__(
        self,
        work: Callable[[], int | None],
        folder: Path,
        *,
        environment: Mapping[str, str | None] | None = None,
        limits: Mapping[int, int] | None = None,
    ):
        # Closed by `wait`: a child's output may be read while it works.
        self._streams = [tempfile.TemporaryFile() for _ in range(2)]  # noqa: SIM115
        self._start = time.monotonic()
        sys.stdout.flush()
        sys.stderr.flush()
        # A signal that comes before the script does would say nothing of the script.
        signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
        self.pid = os.fork()
        if self.pid == 0:
            self._be(work, folder, environment or {}, limits or {})
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)

    def _be(
        self,
        work: Callable[[], int | None],
        folder: Path,
        environment: Mapping[str, str | None],
        limits: Mapping[int, int],
    ) -> None:
        status = 1
        try:
            gc.freeze()
            os.setpgid(0, 0)
            os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
            for descriptor, stream in enumerate(self._streams, start=1):
                os.dup2(stream.fileno(), descriptor)
            os.chdir(folder)
            for name, value in environment.items():
                if value is None:
                    os.environ.pop(name, None)
                else:
                    os.environ[name] = value
            for kind, limit in limits.items():
                resource.setrlimit(kind, (limit, limit))
            try:
                signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)
            except KeyboardInterrupt:  # the script has not begun
                os._exit(128 + signal.SIGINT)
            status = work() or 0
        except SystemExit as error:
            status = error.code if isinstance(error.code, int) else 1
        except BaseException:  # noqa: BLE001  as the interpreter does
            traceback.print_exc()
        finally:
            with contextlib.suppress(BaseException):
                signal.signal(signal.SIGINT, signal.SIG_IGN)
                threading._shutdown()
                atexit._run_exitfuncs()
            with contextlib.suppress(BaseException):
                sys.stdout.flush()
                sys.stderr.flush()
            os._exit(status)

    def wait(
        self,
        *,
        most_seconds: float = MOST_SECONDS,
        most_bytes: int = MOST_BYTES,
        now: Callable[[float], int | None] = lambda seconds: None,
        pause: float = 0.004,
    ) -> Outcome:
        """Waits for the end, and brings it about where the child takes too much.

        Args:
            most_seconds: of the processor's time; four times as long on the clock.
            most_bytes: of memory.
            now: from the seconds since the start to the signal that is due, or None.
            pause: seconds between two looks.
        """
        stopped, peak = "", 0
        while True:
            pid, raw, used = os.wait4(self.pid, os.WNOHANG)
            seconds = time.monotonic() - self._start
            if pid:
                break
            peak = max(peak, _resident_bytes(self.pid))
            late = seconds > most_seconds and (
                seconds > _MOST_WAITING * most_seconds
                or _processor_seconds(self.pid) > most_seconds
            )
            due = now(seconds) if not stopped else None
            if due is not None:
                stopped = "moment"
                os.kill(self.pid, due)
            elif late and stopped in ("", "moment"):
                stopped = "time"
                os.kill(self.pid, signal.SIGKILL)
            elif peak > most_bytes and stopped in ("", "moment"):
                stopped = "memory"
                os.kill(self.pid, signal.SIGKILL)
            time.sleep(pause)
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, signal.SIGKILL)  # what it left running
        out, err = (_text(stream) for stream in self._streams)
        return Outcome(
            status=os.waitstatus_to_exitcode(raw),
            out=out,
            err=_overwritten(err),
            seconds=seconds,
            cpu=used.ru_utime + used.ru_stime,
            peak_bytes=max(peak, 0),
            stopped=stopped,
        )


def script(module: str, arguments: Sequence[str]) -> Callable[[], int]:
    """The work of a child: a script with its arguments."""
    return lambda: script_module(module).run(list(arguments))


def run(module: str, arguments: Sequence[str], folder: Path, **limits: object) -> Outcome:
    """A script from its start to its end."""
    return Child(script(module, arguments), folder).wait(**limits)  # type: ignore[arg-type]


def answer(question: Callable[[], str], folder: Path) -> str:
    """What a function returns in a process of its own, where it may use JAX."""

    def work() -> int:
        sys.stdout.write(question())
        return 0

    outcome = Child(work, folder).wait(most_seconds=600)
    if outcome.status != 0:
        raise RuntimeError(outcome.err)
    return outcome.out


def each(
    count: int,
    work: Callable[[int], str],
    folder: Path,
    *,
    most_seconds: float = MOST_SECONDS,
) -> Iterator[tuple[int, str]]:
    """Does many small things in few children; one that dies loses only what it was at.

    Args:
        count: of things.
        work: from the number of a thing to what is to be said of it, one line.
        folder: where.
        most_seconds: for one thing.

    Yields:
        Number and line, in order.
    """
    first = 0
    while first < count:
        answers = tempfile.NamedTemporaryFile(prefix="answers-")  # noqa: SIM115
        latest = [first, time.monotonic()]

        def at_all(first: int = first, name: str = answers.name) -> int:
            with open(name, "a", encoding="utf-8", errors="surrogatepass") as file:
                for number in range(first, count):
                    file.write(" ".join(work(number).split()) + "\n")
                    file.flush()
            return 0

        def too_long(seconds: float, name: str = answers.name, latest: list = latest) -> int | None:
            size = os.stat(name).st_size
            if size != latest[0]:
                latest[:] = [size, time.monotonic()]
            return signal.SIGKILL if time.monotonic() - latest[1] > most_seconds else None

        outcome = Child(at_all, folder).wait(most_seconds=1e9, now=too_long, pause=0.02)
        text = Path(answers.name).read_text(encoding="utf-8", errors="surrogatepass")
        lines = text.split("\n")[:-1]
        answers.close()
        yield from enumerate(lines, start=first)
        first += len(lines)
        if first < count:
            if outcome.stopped == "moment":
                outcome = dataclasses.replace(outcome, stopped="time", seconds=most_seconds)
            yield first, f"FAULT {complaint(outcome, (0,)) or 'ended early'}"
            first += 1


def _text(stream) -> str:
    stream.seek(0)
    text = stream.read().decode(errors="replace")
    stream.close()
    return text


def _overwritten(text: str) -> str:
    """The text as a terminal shows it: a carriage return goes back to the line's beginning."""
    text = re.sub(r"\x1b\[\d*[A-Za-z]", "", text)
    lines = (line.rstrip("\r ").rpartition("\r")[2] for line in text.split("\n"))
    # What is left of a bar is that of a process that was killed.
    return "\n".join("" if re.search(r"\d+%\|.*[\[\]]", line) else line for line in lines)


def _processor_seconds(pid: int) -> float:
    try:
        with open(f"/proc/{pid}/stat") as file:
            fields = file.read().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    except (OSError, ValueError, IndexError):
        return 0.0


def _resident_bytes(pid: int) -> int:
    try:
        with open(f"/proc/{pid}/statm") as file:
            return int(file.read().split()[1]) * _PAGE
    except (OSError, ValueError, IndexError):
        return 0
