"""Scripts are killed at random moments, and continued: the same bits, and nothing else harmed.

A moment is either a time or the appearance of a file: of a checkpoint's temporary folder, a figure, a
summary. Which files appear is learned from the run that nobody kills.
"""

import collections
import contextlib
import dataclasses
import json
import os
import random
import re
import shutil
import signal
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import child
import desk
from report import Report

_RANDOM_PART = re.compile(r"[0-9a-f]{8,}|\d+")
_SIGNALS = (signal.SIGKILL,) * 6 + (signal.SIGTERM, signal.SIGINT)
_NEIGHBOUR = "runs/linear"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Case:
    """A command that is killed.

    Attributes:
        name: of the case.
        script: module.
        arguments: of the command.
        needs: parts of the desk.
        results: what the command makes.
        again: flag that continues what is there; without one the same command is given again.
        weight: share of the kills.
        replaces: a finished run that `--overwrite` replaces, whole until the new one is.
    """

    name: str
    script: str
    arguments: tuple[str, ...]
    needs: tuple[str, ...]
    results: tuple[str, ...]
    again: str = "--resume"
    weight: int = 1
    replaces: str = ""


def _train(name: str, solver: str, data: str, *flags: str, weight: int = 1) -> Case:
    learning = desk.LINEAR[1:] if "linear" in solver else desk.LEARNING
    return Case(
        name=name,
        script="experiments.train",
        arguments=(f"--dataset={data}", f"--solver={solver}", "--run-name=x", *learning, *flags),
        needs=(f"data/{data}",),
        results=("runs/x",),
        weight=weight,
    )


def _run(
    script: str,
    *flags: str,
    name: str = "",
    needs: Sequence[str] = (),
    weight: int = 1,
    again: str = "--resume",
) -> Case:
    return Case(
        name=name or script,
        script=f"experiments.{script}",
        arguments=("--run-name=x", *flags),
        needs=tuple(needs),
        results=("runs/x",),
        weight=weight,
        again=again,
    )


EPOCHS = ("--epochs=16", "--eval-every=3")
BILEVEL = (
    *("--epochs=5", "--eval-every=2", "--inner-steps=4", "--monge-gap-iterations=2"),
    *("--sinkhorn-iterations=5", "--conjugate-gradients=2", "--noplots"),
)
SWEEP = (
    *("--potentials=sphere,relu", "--particle-counts=50", "--n-timesteps=2", "--seeds=0,1"),
    *("--n-gmm-components=0", "--solvers=jkonet-star-potential,jkonet-star-linear-potential"),
    *("--epochs=6", "--eval-every=2", "--batch-size=30", "--hidden=6", "--degree=2"),
    *("--radial-centers=3", "--sweep-name=x"),
)
LEARNED = (
    *("--n-train=12,30", "--n-simulations=2", "--n-original=40", "--n-generated=4", "--epochs=2"),
    *("--batch-size=16", "--diffusion-steps=4", "--channels=4,4,8,8", "--mean-list=0.2,0.8"),
    *("--std-list=0.05,0.1", "--weights=1,3"),
)

CASES = (
    _train("train", "jkonet-star-potential", "plain", *EPOCHS, "--seeds=0,2", weight=2),
    _train(
        *("train, time-varying", "jkonet-star-time-potential", "plain", *EPOCHS),
        *("--noplots", "--ema-decay=0.5"),
    ),
    _train("train, all energies", "jkonet-star", "full", *EPOCHS, "--noplots", "--seeds=0,3"),
    Case(
        name="train, overwriting",
        script="experiments.train",
        arguments=(
            *("--dataset=plain", "--run-name=network", "--overwrite", "--noplots"),
            *(*desk.LEARNING, "--epochs=12", "--eval-every=3"),
        ),
        needs=("data/plain", "runs/network"),
        results=("runs/network",),
        replaces="runs/network",
    ),
    _train("train, closed form", "jkonet-star-linear-potential", "plain"),
    _train("train, jkonet", "jkonet", "plain", *BILEVEL, "--seeds=0,1"),
    _train("train, jkonet-vanilla", "jkonet-vanilla", "plain", *BILEVEL),
    _train("train, jkonet-monge-gap", "jkonet-monge-gap", "plain", *BILEVEL),
    _run("information_theoretic", *desk.PLANE, weight=2),
    _run(
        *("information_theoretic", "--dataset=synthetic", "--preset=cpu", "--n-points=24"),
        *("--n-test=8", "--n-samples=3", "--batch-size=16", "--epochs=3", "--eval-every=1"),
        *("--n-log-snr=6", "--sampler-steps=2", "--noplots"),
        name="information_theoretic, images",
    ),
    _run(
        *("sparse_localization", "--mode=train", *desk.CURRICULUM),
        name="sparse_localization, training",
        weight=2,
    ),
    _run(
        *("sparse_localization", "--mode=reproduce", "--checkpoint=runs/sparse", "--times=5,10"),
        *("--n-samples=12", "--step=2", "--horizon=24", "--batch-size=4"),
        name="sparse_localization, sampling",
        needs=("runs/sparse",),
        again="--overwrite",  # only a training is resumed
    ),
    _run("sparse_pixels", *desk.PIXELS, weight=2),
    Case(
        name="sparse_pixels, sampling",
        script="experiments.sparse_pixels",
        arguments=("--mode=evaluate", "--run=runs/pixels", "--output=x"),
        needs=("runs/pixels",),
        results=("x",),
        again="",
    ),
    _run("learned_denoiser", *LEARNED, weight=2),
    _run(
        *("linear_denoiser", "--n-pixels=3", "--n-train=5,9,40", "--n-simulations=6"),
        *("--n-original=60", "--chunk-size=2"),
        weight=2,
    ),
    Case(
        name="sweep",
        script="experiments.sweep",
        arguments=SWEEP,
        needs=(),
        results=("runs/x", "data"),
        again="",
        weight=2,
    ),
    Case(
        name="sweep, one by one",
        script="experiments.sweep",
        arguments=(*SWEEP, "--nobatched", "--noplots"),
        needs=(),
        results=("runs/x", "data"),
        again="",
    ),
    Case(
        name="reproduce",
        script="experiments.reproduce",
        arguments=(
            *("--experiment=schemes", "--quick", "--sweep-name=x", "--epochs=2"),
            "--solvers=jkonet-star-linear-potential",
        ),
        needs=(),
        results=("runs/x", "data"),
        again="",
    ),
    Case(
        name="data_generation",
        script="data_generation.__main__",
        arguments=(*desk.DATA, "--dataset-name=x", *desk.FULL),
        needs=("data/plain",),
        results=("data/x",),
        again="",
        weight=2,
    ),
    Case(
        name="data_generation, from a file",
        script="data_generation.__main__",
        arguments=("--load-from-file=points.npz", "--dataset-name=x", "--n-gmm-components=2"),
        needs=("points.npz",),
        results=("data/x",),
        again="",
    ),
    Case(
        name="evaluate",
        script="experiments.evaluate",
        arguments=("--run=runs/network",),
        needs=("runs/network", "data/plain"),
        results=("runs/network",),
        again="",
    ),
    Case(
        name="report",
        script="experiments.report",
        arguments=("--run=runs/network", "--out=x.html"),
        needs=("runs/network", "data/plain"),
        results=("x.html",),
        again="",
    ),
    Case(
        name="annotate",
        script="experiments.annotate",
        arguments=("--run=runs/cells", "--h5ad=cells.h5ad", "--out=x.h5ad"),
        needs=("runs/cells", "cells.h5ad", "data/cells"),
        results=("x.h5ad",),
        again="",
    ),
    Case(
        name="import_torch",
        script="checkpoints.import_torch",
        arguments=("--kind=message-passing", "--weights=weights.safetensors", "--out=x")
        + ("--n=10", "--k=2"),
        needs=("weights.safetensors",),
        results=("x",),
        again="",
    ),
)

FEW = ("train", "train, overwriting", "linear_denoiser", "data_generation", "evaluate")


class Watch:
    """The names that have appeared below a folder, in order."""

    def __init__(self, folder: Path):
        self.folder, self.seen = folder, set(_names(folder))
        self.appeared: list[str] = []

    def look(self) -> None:
        for name in _names(self.folder):
            if name not in self.seen:
                self.seen.add(name)
                self.appeared.append(_RANDOM_PART.sub("#", name))


def _names(folder: Path) -> Iterator[str]:
    """Everything below a folder; what vanishes meanwhile is left out."""
    stack = [str(folder)]
    while stack:
        with contextlib.suppress(OSError), os.scandir(stack.pop()) as entries:
            for entry in entries:
                yield os.path.relpath(entry.path, folder)
                # Inside arrays Orbax writes many files at once; one of them stands for all.
                if entry.is_dir(follow_symlinks=False) and not entry.name.startswith("ocdbt."):
                    stack.append(entry.path)


@dataclasses.dataclass(frozen=True)
class Moment:
    """When to kill: at a time, or a little after a name has appeared so many times."""

    what: str
    seconds: float
    name: str = ""
    count: int = 0

    def due(self, watch: Watch, kind: int) -> Callable[[float], int | None]:
        """For `Child.wait`."""
        reached: list[float] = []

        def now(seconds: float) -> int | None:
            if not self.name:
                return kind if seconds >= self.seconds else None
            watch.look()
            if not reached and watch.appeared.count(self.name) >= self.count:
                reached.append(seconds)
            return kind if reached and seconds - reached[0] >= self.seconds else None

        return now


def moment(rng: random.Random, number: int, seconds: float, appeared: Sequence[str]) -> Moment:
    """Times and appearances in turn; every distinct name is as likely as any other."""
    counts = collections.Counter(appeared)
    if number % 2 or not counts:
        at = rng.uniform(0.02, 0.98) * seconds
        return Moment(f"after {at:.2f} of {seconds:.2f} s", at)
    name = rng.choice(sorted(counts))
    count = rng.randint(1, counts[name])
    delay = rng.choice((0.0, 0.0, rng.uniform(0, 0.02)))
    return Moment(f"{1e3 * delay:.0f} ms after {name} ({count})", delay, name, count)


def campaign(
    table: Path, folder: Path, report: Report, *, kills: int, seed: int, only: str = "", few=False
) -> None:
    """Kills every case in turn.

    Args:
        table: the desk.
        folder: for the places of work.
        report: takes one entry per kill.
        kills: in all; shared out by weight.
        seed: of the moments.
        only: part of the names of the cases to try.
        few: only the cases that stand for the others.
    """
    cases = [c for c in CASES if only in c.name and (not few or c.name in FEW)]
    cases = [c for c in cases if all((table / part).exists() for part in c.needs)]
    total = sum(case.weight for case in cases)
    for case in cases:
        share = max(1, round(kills * case.weight / total))
        _kill(case, table, folder / re.sub(r"\W+", "-", case.name), report, share, seed)


def _kill(case: Case, table: Path, folder: Path, report: Report, kills: int, seed: int) -> None:
    # Once so that programs are compiled, and once for the time that it takes from then on.
    _place(case, table, folder / "first")
    child.run(case.script, case.arguments, folder / "first", most_seconds=600)
    whole = _place(case, table, folder / "whole")
    watch = Watch(whole)

    def look(seconds: float) -> None:
        watch.look()

    process = child.Child(child.script(case.script, case.arguments), whole)
    outcome = process.wait(most_seconds=600, now=look)
    if wrong := child.complaint(outcome, (0,)):
        report.add("kills", case.name, "nobody killed it", wrong)
        return
    expected = _results(case, whole)
    same = _results(case, folder / "first") == expected
    took = f"{outcome.cpu:.1f} CPU s"
    report.add("kills: twice the same", case.name, took, "" if same else "other bits")
    entries = _visible(whole)
    for number in range(kills):
        rng = random.Random(f"{seed} {case.name} {number}")
        place = _place(case, table, folder / str(number))
        before = desk.bytes_of(place, _bystanders(case))
        said = []
        # A third of the runs is killed twice.
        for turn in range(2 if number % 3 == 2 else 1):
            when = moment(rng, number + turn, outcome.seconds, watch.appeared)
            kind = rng.choice(_SIGNALS)
            arguments = _again(case, place)
            process = child.Child(child.script(case.script, arguments), place)
            killed = process.wait(now=when.due(Watch(place), kind), pause=0.001)
            wrong = "" if _is_there(case, killed) else _death(killed, kind)
            if not wrong and case.replaces and not _old_or_new(case, table, place):
                wrong = "neither the old run nor the new one is whole"
            said.append(f"{signal.Signals(kind).name} {when.what}")
            if killed.stopped != "moment":
                said.append("(it had finished)")
            elif not wrong:
                report.count("kills")
            if wrong:
                break
        if not wrong:
            wrong = _continue(case, place, expected, before, entries)
        report.add("runs killed and continued", case.name, "; ".join(said), wrong)
        if not wrong:
            shutil.rmtree(place)


def _place(case: Case, table: Path, place: Path) -> Path:
    place.mkdir(parents=True)
    desk.copy(table, dict.fromkeys((*case.needs, _NEIGHBOUR)), place)
    return place


def _bystanders(case: Case) -> tuple[str, ...]:
    """What the command must not change."""
    return (*(part for part in case.needs if part not in case.results), _NEIGHBOUR)


def _old_or_new(case: Case, table: Path, place: Path) -> bool:
    """Whether the run that is replaced is whole, here or set aside, or the new one is finished."""
    run = place / case.replaces
    old = list(desk.bytes_of(table / case.replaces, (".",)).items())
    there = [run, *run.parent.glob(f".{run.name}.replaced-*")]
    whole = any(list(desk.bytes_of(one, (".",)).items()) == old for one in there)
    return whole or (run / "summary.json").exists()


def _again(case: Case, place: Path) -> tuple[str, ...]:
    if case.replaces:
        run = place / case.replaces
        begun = run.exists() and any(run.parent.glob(f".{run.name}.replaced-*"))
        given = [a for a in case.arguments if a != "--overwrite"]
        return (*given, "--resume") if begun else case.arguments
    there = case.again and (place / case.results[0] / "config.json").exists()
    return (*case.arguments, case.again) if there else case.arguments


def _is_there(case: Case, outcome: child.Outcome) -> bool:
    """Whether a script that never overwrites found what it had finished before."""
    return outcome.status == 2 and not case.again and "already exists" in outcome.err


def _death(killed: child.Outcome, kind: int) -> str:
    """What is wrong with how it died: nothing may be said but that it was interrupted."""
    if killed.stopped != "moment":
        return child.complaint(killed, (0,))
    if kind == signal.SIGINT:
        return child.complaint(killed, (130, 0))
    return child.complaint(killed, (-kind, 128 + kind, 0))


def _continue(case: Case, place: Path, expected: str, before: dict, entries: set[str]) -> str:
    """Continues, and compares with the run that nobody killed."""
    outcome = child.run(case.script, _again(case, place), place)
    if not _is_there(case, outcome) and (wrong := child.complaint(outcome, (0,))):
        return f"does not continue: {wrong}"
    if strange := _visible(place) - entries:
        return f"left {', '.join(sorted(strange))}"
    after = desk.bytes_of(place, _bystanders(case))
    if harmed := [name for name in before if after.get(name) != before[name]]:
        return f"harmed {', '.join(harmed)}"
    found = _results(case, place)
    if found != expected:
        one, other = json.loads(found), json.loads(expected)
        differ = sorted(k for k in one.keys() | other.keys() if one.get(k) != other.get(k))
        return f"other bits in {', '.join(differ)[:300]}"
    return ""


def _results(case: Case, place: Path) -> str:
    return child.answer(lambda: json.dumps(desk.results_of(place, case.results)), place)


def _visible(place: Path) -> set[str]:
    """What a user sees, two levels deep."""
    return {
        str(path.relative_to(place))
        for pattern in ("*", "*/*")
        for path in place.glob(pattern)
        if not any(part.startswith(".") for part in path.relative_to(place).parts)
    }
