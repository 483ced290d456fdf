"""Every flag of every script is given hostile values.

First as far as the door, where settings are checked and nothing is done yet: every value for every
flag. Then some of those that were let in are run in full. Accepted or refused in one line, and never
anything else; some values no flag of their kind may accept.
"""

import contextlib
import functools
import importlib
import io
import os
import random
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import child
import desk
from report import Report

from data_generation.scripts.command_line import script_module

DOORS = {
    "data_generation.__main__": ("data_generation.populations.making", "find_dataset"),
    "experiments.train": ("experiments.populations.training", "session"),
    "experiments.evaluate": ("experiments.populations.evaluation", "finished_run"),
    "experiments.information_theoretic": (
        "experiments.information_theoretic.running",
        "session",
    ),
    "experiments.sparse_localization": (
        "experiments.sparse_localization.running",
        "session",
    ),
    "experiments.sparse_pixels": ("experiments.sparse_pixels.running", "session"),
    "experiments.learned_denoiser": ("experiments.linear_denoiser.learned_task", "session"),
    "experiments.linear_denoiser": ("experiments.linear_denoiser.task", "session"),
    "experiments.sweep": ("experiments.sweeps.running", "run_sweep"),
    "experiments.reproduce": ("experiments.reproductions.running", "run_sweep"),
    "experiments.report": ("experiments.reports.page", "write_report"),
    "experiments.annotate": ("experiments.populations.annotation", "annotate"),
    "checkpoints.export": ("checkpoints.exchange.model_folder", "import_extra"),
    "checkpoints.import_torch": ("checkpoints.torch.importing", "read_state_dict"),
}
"""The first thing that each script does with its settings once they are checked."""

NETWORK = ("--dataset=plain", "--noplots", "--epochs=2", "--eval-every=1", *desk.LEARNING)
BASES = {
    "data_generation.__main__": (*desk.DATA[1:], "--n-gmm-components=0", "--n-particles=20"),
    "experiments.train": NETWORK,
    "experiments.evaluate": ("--run=runs/linear", "--noplots"),
    "experiments.information_theoretic": (*desk.PLANE, "--epochs=2", "--noplots"),
    "experiments.sparse_localization": (
        *("--mode=train", *desk.CURRICULUM, "--epochs=1,1,1", "--deepen-at=1", "--noplots"),
    ),
    "experiments.sparse_pixels": (
        *(*desk.PIXELS, "--epochs=1", "--regression-epochs=0", "--draws=1", "--noplots"),
    ),
    "experiments.learned_denoiser": (
        *("--n-train=12", "--n-simulations=1", "--n-original=20", "--n-generated=2"),
        *("--epochs=1", "--batch-size=8", "--diffusion-steps=2", "--channels=4,4,8,8"),
        *("--mean-list=0.2,0.8", "--std-list=0.05,0.1", "--weights=1,3", "--noplots"),
    ),
    "experiments.linear_denoiser": (
        *("--n-pixels=2", "--n-train=8", "--n-simulations=2", "--n-original=20", "--noplots"),
    ),
    "experiments.sweep": (
        *("--potentials=sphere", "--particle-counts=30", "--n-timesteps=2", "--noplots"),
        *("--n-gmm-components=0", *desk.LINEAR[1:], *desk.LEARNING, "--epochs=2"),
        "--solvers=jkonet-star-linear-potential",
    ),
    "experiments.reproduce": (
        *("--experiment=schemes", "--quick", "--seeds=0", "--epochs=2", "--noplots"),
        "--solvers=jkonet-star-linear-potential",
    ),
    "experiments.report": ("--run=runs/linear",),
    "experiments.annotate": ("--run=runs/cells", "--h5ad=cells.h5ad"),
    "checkpoints.export": ("--model=runs/linear",),
    "checkpoints.import_torch": (
        *("--kind=message-passing", "--weights=weights.safetensors", "--n=10", "--k=2"),
    ),
}
OUTPUT = {
    **dict.fromkeys(BASES, "--run-name={}"),
    "data_generation.__main__": "--dataset-name={}",
    "experiments.evaluate": "--output={}.json",
    "experiments.sweep": "--sweep-name={}",
    "experiments.reproduce": "--sweep-name={}",
    "experiments.report": "--out={}.html",
    "experiments.annotate": "--out={}.h5ad",
    "checkpoints.export": "--out={}",
    "checkpoints.import_torch": "--out={}",
}

NOT_INTEGERS = (
    *("", " ", "nan", "inf", "-inf", "1e400", "1_0", "\uff11\uff12", "\u0663", "1e3", "1.5", "NaN"),
    *("99999999999999999999999", "-99999999999999999999999", "one", "1;2", "a\nb", "\x1b[31m1"),
    *("\udcff", "9" * 5000, "$(touch canary)", "None", "--help", "\u00bd", "1 000"),
)
NOT_NUMBERS = (
    *("", " ", "nan", "NaN", "-nan", "1_0.5", "\uff11\uff12", "\u0663", "one", "1;2", "a\nb"),
    *("\udcff", "$(touch canary)", "None", "--help", "\u00bd", "0x1p3"),
)
NOT_NAMES = (
    *("", ".", "..", "../x", "a/b", "a\nb", "a\rb", "a\x1b[31mb", ".hidden", "a\\b"),
    *("/etc/passwd", "a\x00b", "x" * 5000, "a\udcffb", "x" * 300),
)
ANY = (
    *("0", "-1", "1", "2147483647", "2147483648", "-2147483649", "9223372036854775808"),
    *("4294967296", "1e308", "1e-308", "-0.0", "0.5", "1e39", "inf", "-inf", "1,2", "1,,2", ","),
    *("1," * 3000, "true", "maybe", "missing/file.npz", "/dev/null", "/dev/full", "/", "."),
    *("~", "link-to-nothing", "link-to-itself", "link-to-folder", "pipe", "points.csv", "data"),
    *("points.npy", "caf\u00e9 \u6f22\u5b57", "a b", "%s%n", "{0.__class__}", "'; rm -rf x; '"),
    *("-", "runs/linear", "data/plain", "runs/linear/config.json", "x/" * 500),
)


class _LetIn(BaseException):
    """The settings were accepted."""


def trials() -> list[tuple[str, str, str]]:
    """Script, flag and value, of everything."""
    found = []
    for module in desk.SCRIPTS:
        flags = _flags(module)
        for name in flags:
            values = dict.fromkeys((*NOT_INTEGERS, *NOT_NUMBERS, *NOT_NAMES, *ANY))
            found += [(module, name, value) for value in values]
    return found


def must_be_refused(module: str, name: str, value: str) -> bool:
    """Whether no flag of that kind may accept it."""
    flag = _flags(module)[name]
    kind = flag.parser.flag_type() if flag.parser else ""
    if name in ("run_name", "sweep_name", "dataset_name"):
        return value in NOT_NAMES
    if flag.boolean:
        return value not in ("true", "1", "0")
    if kind == "int":
        return value in NOT_INTEGERS
    if kind == "float":
        return value in NOT_NUMBERS
    # An empty list is a value; so is one of one number.
    if kind == "int,...":
        return value in NOT_INTEGERS and value.strip() != ""
    if kind == "float,...":
        return value in NOT_NUMBERS and value.strip() != ""
    return False


def campaign(
    table: Path, folder: Path, report: Report, *, in_full: int, seed: int, only: str = "", few=False
) -> None:
    """Every flag at the door, and some in full.

    Args:
        table: the desk.
        folder: for the places of work.
        report: takes one entry per trial.
        in_full: how many are run in full.
        seed: of the choice.
        only: part of the names of the scripts to try.
        few: only a tenth of the values.
    """
    place = _place(table, folder / "door")
    rng = random.Random(f"{seed} flags")
    everything = [trial for trial in trials() if only in trial[0]]
    chosen = rng.sample(everything, len(everything) // 12) if few else everything
    let_in = []
    before = desk.bytes_of(place, ("data", "runs"))
    done = child.each(len(chosen), lambda k: at_the_door(*chosen[k]), place)
    for (module, name, value), (_, said) in zip(chosen, done, strict=True):
        wrong = said.removeprefix("FAULT ") if said.startswith("FAULT ") else ""
        if said == "let in":
            if must_be_refused(module, name, value):
                wrong = "accepted"
            else:
                let_in.append((module, name, value))
        report.add("flags, at the door", module, f"--{name}={value[:60]!r}", wrong)
    harmed = desk.bytes_of(place, ("data", "runs")) != before or (place / "canary").exists()
    report.add("flags: nothing touched", "all", "the door", "harmed" if harmed else "")
    # Flags that were not given are the same as the base: only one of them is worth a run.
    rng.shuffle(let_in)
    place = _place(table, folder / "full")
    for number, trial in enumerate(let_in[:in_full]):
        report.add(
            "flags, in full",
            trial[0],
            f"--{trial[1]}={trial[2][:60]!r}",
            _full(place, number, *trial),
        )
    wrong = desk.bytes_of(place, ("data/plain", "runs/linear")) != desk.bytes_of(
        table, ("data/plain", "runs/linear")
    )
    report.add("flags: nothing touched", "all", "in full", "harmed" if wrong else "")


def at_the_door(module: str, name: str, value: str) -> str:
    """`let in`, `refused`, or what went wrong; in this process."""
    arguments = [*_base(module, name), f"--{name}={value}"]
    out, err = io.StringIO(), io.StringIO()
    try:
        with (
            _door(module),
            contextlib.redirect_stdout(out),
            contextlib.redirect_stderr(err),
        ):
            status = script_module(module).run(arguments)
    except _LetIn:
        return "let in"
    except BaseException as error:  # noqa: BLE001  whatever it is, it is a fault
        return f"FAULT {type(error).__name__}: {error}"[:300]
    outcome = child.Outcome(
        status=status, out=out.getvalue(), err=err.getvalue(), seconds=0, cpu=0, peak_bytes=0
    )
    if wrong := child.complaint(outcome, (2,)):
        return f"FAULT {wrong}"
    if any(ord(c) < 32 and c != "\n" or ord(c) == 127 for c in err.getvalue()):
        return "FAULT sends control characters to the terminal"
    return "refused"


@contextlib.contextmanager
def _door(module: str) -> Iterator[None]:
    where, name = DOORS[module]
    home = importlib.import_module(where)
    kept = getattr(home, name)

    def stop(*args: Any, **kwargs: Any) -> None:
        raise _LetIn

    setattr(home, name, stop)
    try:
        yield
    finally:
        setattr(home, name, kept)


def _full(place: Path, number: int, module: str, name: str, value: str) -> str:
    """Runs it; what is wrong. What works at length is let work for a while."""
    output = () if OUTPUT[module].startswith(f"--{name.replace('_', '-')}=") else (number,)
    arguments = [*_base(module, name), *(OUTPUT[module].format(f"t{n}") for n in output)]
    arguments.append(f"--{name}={value}")
    process = child.Child(child.script(module, arguments), place)
    out = process._streams[0]

    def patient(seconds: float) -> int | None:
        at_work = seconds > 15 and os.fstat(out.fileno()).st_size > 0
        return signal.SIGKILL if at_work else None

    outcome = process.wait(now=patient)
    if outcome.stopped == "moment":
        return ""
    return child.complaint(outcome)


def _base(module: str, name: str) -> tuple[str, ...]:
    """A small command in which the flag matters."""
    base = BASES[module]
    if module == "experiments.train":
        from jkonet_star.settings import BilevelSettings, FeatureSettings

        if name in FeatureSettings.__dataclass_fields__:
            return ("--dataset=plain", *desk.LINEAR, "--noplots")
        if name in BilevelSettings.__dataclass_fields__:
            return (*base, "--solver=jkonet", "--inner-steps=2", "--conjugate-gradients=2")
    return base


@functools.cache
def _flags(module: str) -> Any:
    flags = script_module(module).FLAGS
    if "debug" not in flags:
        at_help = script_module(module)
        with contextlib.redirect_stdout(io.StringIO()):
            at_help.run(["--help"])
    return {name: flags[name] for name in flags if name != "debug"}


def _place(table: Path, place: Path) -> Path:
    place.mkdir(parents=True)
    names = [p.name for p in table.iterdir()]
    desk.copy(table, names, place)
    (place / "link-to-nothing").symlink_to("nowhere")
    (place / "link-to-itself").symlink_to("link-to-itself")
    (place / "link-to-folder").symlink_to("data")
    os.mkfifo(place / "pipe")
    return place
