"""Every flag of every script, and every field of every settings class, told what nobody should say.

Each value is parsed, made into settings and weighed against the memory; nothing is carried out.
"""

import dataclasses
import importlib.util
import math
import pkgutil

import pytest

import checkpoints
import experiments
from checkpoints.settings import ExportSettings, ImportSettings
from data_generation.images.mask_settings import MaskSettings
from data_generation.populations.settings import DataSettings
from data_generation.scripts import command_line
from data_generation.scripts.command_line import run_script, script_module, settings_from_flags
from data_generation.scripts.processes import ProcessSettings
from diffusions import memory
from experiments.information_theoretic.settings import InformationTheoreticSettings
from experiments.linear_denoiser.settings import LearnedDenoiserSettings, LinearDenoiserSettings
from experiments.populations.learning_settings import PARTS, learning_from_flags
from experiments.populations.settings import (
    AnnotateSettings,
    EvaluateSettings,
    IdentifySettings,
    TrainSettings,
)
from experiments.reports.settings import ReportSettings
from experiments.reproductions.settings import ReproduceSettings
from experiments.sparse_localization.settings import CurriculumSettings, SparseSettings
from experiments.sparse_pixels.settings import SamplingSettings, SparsePixelsSettings
from experiments.sweeps.settings import (
    ExecutionSettings,
    Grid,
    SimulationSettings,
    SweepSettings,
    cells_of,
    grids_from_flags,
)
from jkonet_star.settings import CouplingSettings, DensitySettings

LEARNING = tuple(PARTS.values())
SCRIPTS = {
    "data_generation.__main__": (DataSettings,),
    "checkpoints.export": (ExportSettings,),
    "checkpoints.import_torch": (ImportSettings,),
    "experiments.annotate": (AnnotateSettings,),
    "experiments.evaluate": (EvaluateSettings,),
    "experiments.identify": (IdentifySettings,),
    "experiments.information_theoretic": (InformationTheoreticSettings, ProcessSettings),
    "experiments.learned_denoiser": (LearnedDenoiserSettings, ProcessSettings),
    "experiments.linear_denoiser": (LinearDenoiserSettings, ProcessSettings),
    "experiments.report": (ReportSettings,),
    "experiments.reproduce": (ReproduceSettings, ExecutionSettings, ProcessSettings),
    "experiments.sparse_localization": (SparseSettings, CurriculumSettings, ProcessSettings),
    "experiments.sparse_pixels": (SparsePixelsSettings, ProcessSettings),
    "experiments.sweep": (
        SweepSettings,
        Grid,
        SimulationSettings,
        ExecutionSettings,
        ProcessSettings,
        *LEARNING,
    ),
    "experiments.train": (TrainSettings, ProcessSettings, *LEARNING),
}
NEEDED = {
    ExportSettings: {"model": "x", "out": "y"},
    ImportSettings: {"kind": "message-passing", "weights": "x", "out": "y"},
    AnnotateSettings: {"run": "x", "h5ad": "y", "out": "z"},
    EvaluateSettings: {"run": "x"},
    IdentifySettings: {"run": "x"},
    ReportSettings: {"run": "x"},
    ReproduceSettings: {"experiment": "dimensions"},
    SparsePixelsSettings: {"dataset": "synthetic"},
}
GIBI = 2**30
HUGE = ("99999999999999999999999", "1" + "0" * 5000, "-99999999999999999999999", "1e400")
NO_NUMBERS = ("nan", "inf", "-inf", "", "x", "1e-300", "1e300", "\x00", "0x", "1__0")
LARGE = ("2147483647", "2147483648", "4294967296", "1000000", "-1", "0", "3e38")
PLACES = ("data_dir", "data_path", "load_from_file", "out", "output", "runs_dir")
"""Flags of what is written, and of data."""
TEXTS = ("", "x" * 300, "a\nb", "\x1b[2J", "../..", "-", ".", "größe", "\u202e", "1,,2", ",")


@pytest.fixture(autouse=True)
def small_machine(monkeypatch):
    monkeypatch.setattr(memory, "available_bytes", lambda: 4 * GIBI)


def entered(info):
    """What a command of this name would run; None of a folder without one."""
    if info.ispkg and importlib.util.find_spec(f"{info.name}.__main__") is None:
        return None
    return script_module(info.name)


def test_every_script_and_flag_is_walked_over():
    found = {
        module.name
        for package in (experiments, checkpoints)
        for module in pkgutil.iter_modules(package.__path__, package.__name__ + ".")
        if hasattr(entered(module), "FLAGS")
    }
    assert found | {"data_generation.__main__"} == SCRIPTS.keys()
    for name, classes in SCRIPTS.items():
        fields = {field.name for kind in classes for field in dataclasses.fields(kind)}
        # Flags of every script are there from its first start on.
        late = {"debug", "compilation_cache", "vectors"} | {
            f.name for f in dataclasses.fields(ProcessSettings)
        }
        assert set(script_module(name).FLAGS) - late == fields - late
        assert (ProcessSettings in classes) == ("devices" in fields)


def told(name, argument, capsys):
    """Exit status of making the settings of a script, its error, and the settings."""
    classes = SCRIPTS[name]
    values = script_module(name).FLAGS
    made = []

    def main():
        made.extend(settings_from_flags(kind, values) for kind in classes)
        if Grid in classes:
            simulation = settings_from_flags(SimulationSettings, values)
            cells_of(grids_from_flags(values, None), simulation, learning_from_flags(values))

    needed = {k: v for kind in classes for k, v in NEEDED.get(kind, {}).items()}
    arguments = [f"--{k}={v}" for k, v in needed.items() if not argument.startswith(f"--{k}=")]
    status = run_script(main, values, argv=[*arguments, argument])
    return status, capsys.readouterr().err, made


def kinds(name):
    """Flag -> what its values are."""
    values = script_module(name).FLAGS
    return {
        flag: values[flag].parser.flag_type()
        for flag in values
        if flag not in ("debug", "compilation_cache", "vectors")
    }


@pytest.mark.parametrize("name", SCRIPTS)
def test_every_flag_of_every_script(name, capsys, monkeypatch):
    said = command_line.check_inputs
    for flag, kind in kinds(name).items():
        number = "int" in kind or "float" in kind
        # What a number is refused for shall not be that the run of the other flags is missing.
        monkeypatch.setattr(command_line, "check_inputs", (lambda _: None) if number else said)
        values = (*HUGE, *NO_NUMBERS, *LARGE) if number else (*TEXTS, *HUGE, "nan", "true")
        for value in values:
            where = (flag, value[:40])
            status, err, made = told(name, f"--{flag}={value}", capsys)
            assert status in (0, 2), (where, err)
            if status == 2:
                assert err.startswith("error: "), (where, err)
                assert err.count("\n") == 1, (where, err)
                assert err[:-1].isprintable(), (where, err)
                assert len(err) < 1100, where
            elif number:
                empty = kind.endswith("...") and value == ""
                assert empty or value not in NO_NUMBERS, where
                given = next(getattr(one, flag) for one in made if hasattr(one, flag))
                for one in given if isinstance(given, tuple) else (given,):
                    assert abs(one) < (2**32 if "int" in kind else 2.0**128), where


@pytest.mark.parametrize(
    ("name", "flag"),
    [
        (name, field.name)
        for name, classes in SCRIPTS.items()
        for kind in classes
        for field in dataclasses.fields(kind)
        if field.name in PLACES
    ],
)
def test_no_place_has_control_characters(name, flag, capsys):
    for value in ("a\nb", "a/\x1b[2J.html", "\x7f"):
        status, err, _ = told(name, f"--{flag}={value}", capsys)
        assert status == 2
        assert err.startswith(f"error: {flag} must be a path without control characters, got '")
    _, err, _ = told(name, f"--{flag}=gr\u00f6\u00dfe/a b.html", capsys)
    assert "control characters" not in err


ODD = (
    None,
    True,
    -1,
    0,
    10**30,
    2**31,
    math.nan,
    math.inf,
    1e300,
    "x",
    b"x",
    (),
    [[]],
    {},
    {"a": 1},
)
ODD += (object(), (None,), ("x", 1), (math.nan,), (10**30,), "")


@pytest.mark.parametrize(
    "kind",
    sorted(
        {kind for classes in SCRIPTS.values() for kind in classes}
        | {CouplingSettings, DensitySettings, MaskSettings, SamplingSettings},
        key=lambda kind: kind.__name__,
    ),
)
def test_every_field_of_every_settings_class(kind):
    messages, accepted = [], 0
    for field in dataclasses.fields(kind):
        for value in ODD:
            try:
                hash(kind(**{**NEEDED.get(kind, {}), field.name: value}))
                accepted += 1
            except ValueError as error:
                messages.append(str(error))
    assert all(message.isprintable() and len(message) < 600 for message in messages)
    assert len(messages) > 3 * accepted
