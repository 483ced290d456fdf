"""Poor environments: no space, no permission, no home, little memory, few threads, company.

What needs root, or cannot be had on the machine at hand, is left out with a word.
"""

import contextlib
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import child
import desk
from report import Report

ROOT = Path(__file__).parents[2]
NETWORK = (
    *("--dataset=plain", "--run-name=x", "--noplots", "--epochs=8", "--eval-every=2"),
    *desk.LEARNING,
)
LINEAR = ("--dataset=plain", "--run-name=x", "--noplots", *desk.LINEAR)
GENERATE = (*desk.DATA, "--dataset-name=x", "--n-gmm-components=0")


class Skipped(Exception):
    """The machine does not have it."""


def campaign(table: Path, folder: Path, report: Report, *, only: str = "", few=False) -> None:
    """Every environment in turn.

    Args:
        table: the desk.
        folder: for the places of work.
        report: takes one entry per trial.
        only: part of the names to try.
        few: only those that are cheap.
    """
    for name, trial in TRIALS.items():
        if only not in name or (few and name not in CHEAP):
            continue
        place = folder / name.replace(" ", "-")
        place.mkdir(parents=True)
        parts = [p.name for p in table.iterdir()]
        desk.copy(table, parts, place)
        before = desk.bytes_of(place, ("data/plain", "runs/linear"))
        try:
            for what, wrong in trial(place):
                report.add("environments", name, what, wrong)
        except Skipped as reason:
            report.count(f"environments left out: {reason}")
            continue
        if desk.bytes_of(place, ("data/plain", "runs/linear")) != before:
            report.add("environments", name, "what was there", "harmed")
        shutil.rmtree(place, ignore_errors=True)


@contextlib.contextmanager
def mounted(folder: Path, options: str) -> Iterator[Path]:
    """A small file system of its own in memory."""
    folder.mkdir(exist_ok=True)
    made = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)],
        capture_output=True,
        check=False,
    )
    if made.returncode:
        raise Skipped("no file system can be mounted")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=False)


def remount(folder: Path, options: str) -> None:
    """Changes a mounted file system."""
    subprocess.run(["mount", "-o", f"remount,{options}", str(folder)], check=True)


Findings = Iterator[tuple[str, str]]


def no_space(place: Path) -> Findings:
    """One line, and the run goes on once there is space; what is no run leaves nothing."""
    child.run("experiments.train", NETWORK, place)
    whole = _results(place, "runs/x")
    stopped = 0
    for size in (4, 12, 20, 28, 40, 60, 90, 140, 200, 300):
        with mounted(place / f"full-{size}", f"size={size}k") as full:
            arguments = (*NETWORK, f"--runs-dir={full.name}")
            first = child.run("experiments.train", arguments, place)
            wrong = child.complaint(first)
            stopped += first.status == 2
            if not wrong and first.status == 2:
                remount(full, "size=50m")
                there = (full / "x" / "config.json").exists()
                again = (*arguments, "--resume") if there else arguments
                wrong = child.complaint(child.run("experiments.train", again, place), (0,))
                if not wrong:
                    found = _results(place, f"{full.name}/x").replace(f"{full.name}/x", "runs/x")
                    wrong = "" if found == whole else "other bits"
            yield f"train into {size} kB", wrong
    yield "some of them stopped", "" if stopped > 3 else f"only {stopped}"
    for size in (4, 8, 16, 40):
        with mounted(place / f"data-{size}", f"size={size}k") as full:
            arguments = (*GENERATE, f"--data-dir={full.name}")
            wrong = child.complaint(child.run("data_generation.__main__", arguments, place))
            there = sorted(p.name for p in full.iterdir())
            if not wrong and there not in ([], ["x"]):
                wrong = f"left {', '.join(there)}"
            yield f"data into {size} kB", wrong
    others = (
        ("experiments.report", ("--run=runs/network", "--out=small/x.html")),
        ("experiments.evaluate", ("--run=runs/linear", "--output=small/x.json", "--noplots")),
        ("experiments.annotate", ("--run=runs/cells", "--h5ad=cells.h5ad", "--out=small/x.h5ad")),
        (
            "checkpoints.import_torch",
            (
                *("--kind=message-passing", "--weights=weights.pth", "--n=10", "--k=2"),
                "--out=small/x",
            ),
        ),
        ("experiments.linear_denoiser", ("--n-pixels=2", "--n-train=8", "--runs-dir=small")),
        ("experiments.sweep", ("--grid=grid.yaml", "--noplots", "--runs-dir=small")),
    )
    for module, arguments in others:
        with mounted(place / "small", "size=4k"):
            outcome = child.run(module, arguments, place)
            ends = (0, 1, 2) if module == "experiments.sweep" else (0, 2)  # 1: runs failed
            wrong = child.complaint(outcome, ends)
            left = [p.name for p in (place / "small").iterdir() if p.name.startswith(".")]
            if not wrong and left:
                wrong = f"left {', '.join(left)}"
            yield f"{module} into 4 kB", wrong


def read_only(place: Path) -> Findings:
    """Refused in one line before any work."""
    with mounted(place / "stone", "size=9m") as stone:
        shutil.copytree(place / "runs" / "linear", stone / "linear")
        shutil.copytree(place / "data" / "plain", stone / "plain")
        remount(stone, "ro")
        where = "--runs-dir=stone"
        trials = (
            ("experiments.train", (*LINEAR, where)),
            ("experiments.evaluate", ("--run=stone/linear", "--dataset=stone/plain", "--noplots")),
            ("experiments.report", ("--run=stone/linear",)),
            ("data_generation.__main__", (*GENERATE, "--data-dir=stone")),
            ("experiments.sweep", ("--grid=grid.yaml", where)),
            ("experiments.linear_denoiser", ("--n-pixels=2", "--n-train=8", where)),
            ("experiments.information_theoretic", (*desk.PLANE, where)),
            ("experiments.sparse_localization", ("--mode=train", *desk.CURRICULUM, where)),
            ("experiments.sparse_pixels", (*desk.PIXELS, where)),
            (
                "experiments.annotate",
                ("--run=runs/cells", "--h5ad=cells.h5ad", "--out=stone/x.h5ad"),
            ),
        )
        for module, arguments in trials:
            outcome = child.run(module, arguments, place)
            yield f"{module} where nothing can be written", child.complaint(outcome, (2,))
        # Reading needs no permission to write.
        elsewhere = ("--run=stone/linear", "--dataset=stone/plain", "--noplots", "--output=x.json")
        yield (
            "evaluation of what can only be read",
            child.complaint(child.run("experiments.evaluate", elsewhere, place), (0,)),
        )
        yield (
            "report of what can only be read",
            child.complaint(
                child.run("experiments.report", ("--run=stone/linear", "--out=x.html"), place), (0,)
            ),
        )


def nobody(place: Path) -> Findings:
    """Folders of another user, seen by one without rights."""
    if os.getuid() != 0:
        raise Skipped("not root, so no other user")
    for path in (place, *place.rglob("*")):
        os.chmod(path, 0o755 if path.is_dir() else 0o644)

    def as_nobody(module: str, arguments: tuple[str, ...]) -> Callable[[], int]:
        def work() -> int:
            os.setgid(65534)
            os.setuid(65534)
            return child.script(module, arguments)()

        return work

    trials = (
        ("experiments.train", LINEAR, 2),
        ("data_generation.__main__", GENERATE, 2),
        ("experiments.evaluate", ("--run=runs/linear", "--noplots"), 2),
        ("experiments.report", ("--run=runs/linear",), 2),
    )
    for module, arguments, status in trials:
        outcome = child.Child(as_nobody(module, arguments), place).wait()
        yield f"{module} by nobody", child.complaint(outcome, (status,))


def apart(place: Path, command: str, **changes: str | None) -> subprocess.CompletedProcess:
    """A shell's command with a whole process of its own; PYTHON stands for the interpreter."""
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    for name, value in changes.items():
        environment.pop(name, None)
        if value is not None:
            environment[name] = value
    return subprocess.run(
        ["sh", "-c", command.replace("PYTHON", sys.executable)],
        cwd=place,
        env=environment,
        capture_output=True,
        timeout=200,
        check=False,
    )


def _said(done: subprocess.CompletedProcess, statuses: tuple[int, ...]) -> str:
    out, err = (text.decode(errors="replace") for text in (done.stdout, done.stderr))
    outcome = child.Outcome(
        status=done.returncode, out=out, err=child._overwritten(err), seconds=0, cpu=0, peak_bytes=0
    )
    return child.complaint(outcome, statuses)


def no_home(place: Path) -> Findings:
    """Without a home, or one that cannot be written, everything works."""
    train = "PYTHON -m experiments.train " + " ".join(LINEAR)
    cacheless = {"JAX_COMPILATION_CACHE_DIR": None, "XDG_CACHE_HOME": None}
    yield "no HOME", _said(apart(place, train, HOME=None, **cacheless), (0,))
    again = train + " --overwrite"
    yield "HOME is nowhere", _said(apart(place, again, HOME="/nowhere/at/all", **cacheless), (0,))
    # Matplotlib says in a line of its own that it has no place for its settings.
    quiet = again + " 2>/dev/null"
    yield "HOME is a file", _said(apart(place, quiet, HOME="/dev/null", **cacheless), (0,))
    yield "HOME is empty", _said(apart(place, again, HOME="", **cacheless), (0,))


def c_locale(place: Path) -> Findings:
    """The locale of cron and of containers."""
    plain = {"LC_ALL": "C", "LANG": "C"}
    for module in ("data_generation", "experiments.train", "experiments.report"):
        yield f"{module} --help", _said(apart(place, f"PYTHON -m {module} --help", **plain), (0,))
    name = "caf\u00e9"
    os.rename(place / "runs" / "network", place / "runs" / name)
    report = f"PYTHON -m experiments.report --run=runs/{name}"
    yield "a report of an accented name", _said(apart(place, report, **plain), (0, 2))
    train = f"PYTHON -m experiments.train {' '.join(LINEAR)} --overwrite --run-name={name}2"
    yield "a run of an accented name", _said(apart(place, train, **plain), (0, 2))
    wrong = f"PYTHON -m experiments.train --dataset={name}"
    yield "a mistake with an accent", _said(apart(place, wrong, **plain), (2,))


def closed_streams(place: Path) -> Findings:
    """Nobody listens."""
    help_, bad = "PYTHON -m experiments.train --help", "PYTHON -m experiments.train --solver=x"
    train = "PYTHON -m experiments.train --overwrite " + " ".join(LINEAR)
    for name, command, statuses in (
        ("help, no stdout", f"{help_} >&-", (0, 2)),
        ("help, full stdout", f"{help_} >/dev/full", (74,)),
        ("help into a closed pipe", f"{help_} | head -0", (0,)),
        ("train, no stdout", f"{train} >&-", (0,)),
        ("train, no stderr", f"{train} 2>&-", (0,)),
        ("train, neither", f"{train} >&- 2>&-", (0,)),
        ("train, none of the three", f"{train} <&- >&- 2>&-", (0,)),
        ("train, full stdout", f"{train} >/dev/full", (74,)),
        ("train, full stderr", f"{train} 2>/dev/full", (0,)),
        ("train into a closed pipe", f"{train} | head -1", (0,)),
    ):
        wrong = _said(apart(place, command), statuses)
        yield name, wrong
    done = apart(place, f"{bad} 2>&-")
    yield "a mistake, no stderr", "" if done.returncode == 2 else f"status {done.returncode}"
    done = apart(place, f"{bad} 2>/dev/full")
    yield "a mistake, full stderr", "" if done.returncode == 2 else f"status {done.returncode}"


def little_memory(place: Path) -> Findings:
    """An allocation that fails is one line."""
    limit = {resource.RLIMIT_AS: 4 << 30}
    for method, count in (("exact", 30_000), ("sinkhorn", 100_000), ("low-rank", 30_000_000)):
        many = (f"--n-particles={count}", "--batch-size=-1", f"--coupling={method}")
        arguments = (*desk.DATA[1:], "--dataset-name=many", "--n-gmm-components=0", *many)
        process = child.Child(
            child.script("data_generation.__main__", arguments), place, limits=limit
        )
        wrong = child.complaint(process.wait(), (2,))
        yield f"{count} particles, {method}, in 4 GiB of addresses", wrong
    process = child.Child(
        child.script("experiments.train", LINEAR), place, limits={resource.RLIMIT_NOFILE: 64}
    )
    yield "64 open files", child.complaint(process.wait(), (0, 2))


def threads(place: Path) -> Findings:
    """The same bits on one processor and on two."""
    if desk.cores() < 2:
        raise Skipped("one processor only")
    for module, arguments in (
        ("experiments.train", NETWORK),
        ("experiments.train", LINEAR),
        ("experiments.train", (*NETWORK, "--dataset=full", "--solver=jkonet-star")),
        ("experiments.information_theoretic", ("--run-name=x", *desk.PLANE, "--noplots")),
        ("experiments.linear_denoiser", ("--run-name=x", "--n-pixels=2", "--n-train=8,20")),
        ("data_generation.__main__", (*GENERATE[:-1], "--n-gmm-components=2")),
    ):
        results = []
        for count in (1, 2):

            def work(count: int = count, module: str = module, arguments=arguments) -> int:
                os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:count])
                return child.script(module, arguments)()

            made = "data/x" if "data_generation" in module else "runs/x"
            shutil.rmtree(place / made, ignore_errors=True)
            wrong = child.complaint(child.Child(work, place).wait(), (0,))
            results.append(wrong or _results(place, made))
        differ = results[0] != results[1]
        yield f"{module} {arguments[0]}, 1 and 2 threads", "other bits" if differ else ""


def company(place: Path) -> Findings:
    """Two at the same place: one wins or both share, and the result is that of one."""
    child.run("experiments.train", NETWORK, place)
    whole = _results(place, "runs/x")
    for delay in (0.0, 0.3, 1.0):
        shutil.rmtree(place / "runs" / "x")
        both = _two("experiments.train", NETWORK, place, delay)
        wrong = _of_two(both)
        if not wrong and _results(place, "runs/x") != whole:
            wrong = "other bits"
        yield f"two runs of one name, {delay} s apart", wrong
    for at in (0.0, 1.0):
        (place / "runs" / "x" / "summary.json").unlink(missing_ok=True)
        shutil.rmtree(place / "runs" / "x")
        killed = child.Child(child.script("experiments.train", NETWORK), place)
        killed.wait(now=_once(place / "runs/x/checkpoint/4"))
        both = _two("experiments.train", (*NETWORK, "--resume"), place, at)
        wrong = _of_two(both)
        if not wrong and _results(place, "runs/x") != whole:
            wrong = "other bits"
        yield f"two resume one run, {at} s apart", wrong
    both = _two("data_generation.__main__", GENERATE, place, 0.0)
    yield "two make one data set", _of_two(both)
    # They did not leave what a third one stumbles over.
    yield (
        "a third finds it",
        child.complaint(
            child.run("experiments.train", (*LINEAR, "--dataset=x", "--run-name=y"), place), (0,)
        ),
    )
    both = _two("experiments.sweep", ("--grid=grid.yaml", "--noplots"), place, 0.5)
    wrong = _of_two(both)
    table = place / "runs" / "grid" / "table.csv"
    if not wrong and table.read_text().count("finished") != 4:
        wrong = "the table is not whole"
    yield "two sweeps in one folder", wrong
    both = _two(
        "experiments.evaluate", ("--run=runs/linear", "--noplots", "--output=x.json"), place, 0
    )
    wrong = _of_two(both)
    yield (
        "two evaluate one run",
        wrong or ("" if json.loads((place / "x.json").read_text()) else "no"),
    )
    both = _two("experiments.report", ("--run=runs/network", "--out=x.html"), place, 0)
    yield "two report of one run", _of_two(both)


def _once(file: Path) -> Callable[[float], int | None]:
    return lambda seconds: signal.SIGKILL if file.exists() else None


def _two(module: str, arguments: tuple, place: Path, delay: float) -> list[child.Outcome]:
    first = child.Child(child.script(module, arguments), place)
    later: list[child.Child] = []

    def start(seconds: float) -> None:
        if not later and seconds >= delay:
            later.append(child.Child(child.script(module, arguments), place))

    outcomes = [first.wait(now=start)]
    if not later:
        later.append(child.Child(child.script(module, arguments), place))
    return [*outcomes, later[0].wait()]


def _of_two(outcomes: list[child.Outcome]) -> str:
    wrong = "; ".join(filter(None, (child.complaint(o, (0, 2)) for o in outcomes)))
    if not wrong and all(o.status != 0 for o in outcomes):
        wrong = "both were refused"
    return wrong


def _results(place: Path, name: str) -> str:
    return child.answer(lambda: json.dumps(desk.results_of(place, (name,))), place)


TRIALS: dict[str, Callable[[Path], Findings]] = {
    "no space": no_space,
    "read only": read_only,
    "nobody": nobody,
    "no home": no_home,
    "C locale": c_locale,
    "closed streams": closed_streams,
    "little memory": little_memory,
    "threads": threads,
    "company": company,
}
CHEAP = ("read only", "nobody")
