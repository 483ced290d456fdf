"""What the benchmarks share: a process of its own for each measurement, tables, and files of results.

A script that measures calls `measure_apart(__file__, request)`, which starts the script again with
`--measure=REQUEST`; that process prints one line of JSON, built with `peak_memory()`, and ends.
"""

import argparse
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
MEBI = 2**20


def peak_memory() -> int:
    """Most bytes that this process has held so far."""
    # Linux counts in KiB, macOS in bytes.
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def clock() -> float:
    """Processor seconds of all threads of this process; by the clock where an accelerator computes.

    Other work on the machine lengthens processor time a little, time by the clock without bounds.
    """
    jax = sys.modules.get("jax")
    if jax is not None and jax.default_backend() != "cpu":
        return time.perf_counter()
    return time.process_time()


def children_seconds() -> float:
    """Processor seconds of all processes that this one has started and waited for."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def median_seconds(call: Callable[[], Any], repetitions: int) -> float:
    """Median `clock` time of a call, after one that compiles; the call waits for what it computes."""
    call()
    found = []
    for _ in range(repetitions):
        start = clock()
        call()
        found.append(clock() - start)
    return statistics.median(found)


ONE_THREAD = {
    "NPROC": "1",  # of JAX
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "XLA_FLAGS": "--xla_cpu_multi_thread_eigen=false",
}
"""Variables with which the libraries that are measured use one thread."""


def one_processor() -> None:
    """Keeps this process on one processor, where the system can; to be called before JAX starts."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})


def environment(**more: str) -> dict[str, str]:
    """The environment of a child: the repository can be imported, installed or not."""
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    return {**os.environ, "PYTHONPATH": path, **more}


def measure_apart(
    script: str, request: dict[str, Any], timeout: float, **more: str
) -> dict[str, Any]:
    """The measurement of one request, or `{"failed": why}`; `more` goes to its environment."""
    command = [sys.executable, script, f"--measure={json.dumps(request)}"]
    try:
        finished = subprocess.run(
            command, capture_output=True, text=True, timeout=timeout, env=environment(**more)
        )
    except subprocess.TimeoutExpired:
        return {"failed": f"stopped after {timeout:.0f} s"}
    if finished.returncode:
        why = finished.stderr.strip().splitlines()[-1:] or [f"exit code {finished.returncode}"]
        return {"failed": why[0]}
    return json.loads(finished.stdout.splitlines()[-1])


def arguments_of(
    doc: str | None, define: Callable[[argparse.ArgumentParser], None], *, timeout: float = 900
) -> argparse.Namespace:
    """The command line: the script's own options, and those of every benchmark."""
    parser = argparse.ArgumentParser(
        description=doc, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    define(parser)
    parser.add_argument("--timeout", type=float, default=timeout, help="seconds per measurement")
    parser.add_argument("--output", type=Path, help="also write the rows to this .json file")
    parser.add_argument("--measure", type=json.loads, help=argparse.SUPPRESS)
    found = parser.parse_args()
    if found.output is not None and found.output.exists() and not _is_output(found.output):
        parser.error(f"--output={found.output} exists and is not a benchmark's; name another file")
    return found


def _is_output(file: Path) -> bool:
    """Whether `write_output` wrote a file, which it may replace."""
    try:
        content = json.loads(file.read_text()) if file.is_file() else None
    except ValueError:
        return False
    return isinstance(content, dict) and content.keys() >= {"script", "machine"}


def words(text: str) -> list[str]:
    """The parts of a comma-separated list."""
    return [word for word in text.split(",") if word]


def numbers(text: str) -> list[int]:
    """The integers of a comma-separated list."""
    return [int(word) for word in words(text)]


def floats(text: str) -> list[float]:
    """The numbers of a comma-separated list."""
    return [float(word) for word in words(text)]


class Table:
    """Rows printed as they come, and kept."""

    def __init__(self, columns: Sequence[tuple[str, str, int, str]], *, markdown: bool = False):
        """Prints the header.

        Args:
            columns: (key in a row, title, width, format) each; an absent value is left blank.
            markdown: prints a Markdown table.
        """
        self.columns = columns
        self.markdown = markdown
        self.rows: list[dict[str, Any]] = []
        titles = [_padded(title, width, form) for _, title, width, form in columns]
        print(self._line(titles))
        if markdown:
            print(self._line(["-" * max(width, 3) for _, _, width, _ in columns]))

    def add(self, row: dict[str, Any]) -> None:
        """Prints one row."""
        self.rows.append(row)
        cells = []
        for key, _, width, form in self.columns:
            value = row.get(key)
            text = "" if value is None else value if isinstance(value, str) else format(value, form)
            cells.append(_padded(text, width, form))
        print(self._line(cells) + (f"  {row['failed']}" if "failed" in row else ""), flush=True)

    def _line(self, cells: list[str]) -> str:
        return f"| {' | '.join(cells)} |" if self.markdown else " ".join(cells).rstrip()


def _padded(text: str, width: int, form: str) -> str:
    return text.ljust(width) if form == "s" else text.rjust(width)


def write_output(file: Path | None, **sections: Any) -> None:
    """Writes results with the machine that they were measured on."""
    if file is None:
        return
    content = {"script": Path(sys.argv[0]).name, "machine": machine(), **sections}
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(content, indent=1) + "\n")


def machine() -> dict[str, Any]:
    """Processor, cores, memory, load and releases."""
    from importlib.metadata import version

    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {
        "processor": _processor(),
        "cores": os.cpu_count(),
        "memory_mb": memory // MEBI,
        "load": os.getloadavg()[0],
        "python": platform.python_version(),
        "jax": version("jax"),
    }


def describe_machine() -> str:
    """One line on the machine, with its present load: a busy one makes no timings."""
    facts = machine()
    return (
        f"{facts['processor']}, {facts['cores']} cores, {facts['memory_mb']} MB, load "
        f"{facts['load']:.1f}; Python {facts['python']}, JAX {facts['jax']}"
    )


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return models[0] if models else platform.machine()
