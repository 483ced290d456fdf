"""What the files of a run or a sweep say, checked when they are read.

A file that somebody edited, or that another program wrote, is named with what is wrong in it. Entries
that nobody relies on may be anything that JSON holds.
"""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, TypeVar

from data_generation.formats.json_file import read_json, read_lines
from diffusions.checks import Bounds, Count, Double, Natural, Positive, Seed, one_of, record, shown
from jkonet_star.fit_report import ComparedReport
from jkonet_star.solvers.registry import SOLVERS

RecordT = TypeVar("RecordT")

NOT_FINITE = ("nan", "inf", "-inf")
Number = Double | Literal["nan", "inf", "-inf"]
"""Of a result: JSON has no NaN, so that it is written as text."""
_DEEPEST = 3
_Bytes = Annotated[int, Bounds(0, 2**62)]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
    """`config.json`: all settings of a run, the versions that ran them, checksums of its data.

    Older releases recorded none of the data.
    """

    schema_version: Count
    settings: dict[str, Any]
    versions: dict[str, str] = dataclasses.field(default_factory=dict)
    data: dict[str, str] | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class ChoiceRecord:
    """`choice.json`: what `--solver=auto` compared, on how many held-out particles.

    Attributes:
        schema_version: of the file.
        held_out: particles.
        compared: the table.
        refine: gradient steps of the refinement; files that do not say are of the time of 300.
    """

    schema_version: Count
    held_out: Count
    compared: Annotated[list[ComparedReport], Bounds(1, 100)]
    refine: Count = 300


@dataclasses.dataclass(frozen=True, kw_only=True)
class Trained:
    """The settings of a run of `experiments.train` that others rely on."""

    solver: str
    dataset: str
    seeds: tuple[Seed, ...]

    def __post_init__(self):
        one_of("solver", self.solver, tuple(SOLVERS))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Summary:
    """`summary.json` and `evaluation.json`: results of any experiment, and what they took."""

    schema_version: Count
    seconds: Number | dict[str, Number] | None = None
    device: str | None = None
    peak_memory_bytes: _Bytes = 0


@dataclasses.dataclass(frozen=True, kw_only=True)
class Results:
    """`evaluation.json` of a folder of results, which may say a verdict in words."""

    MORE: ClassVar = True

    verdict: str | None = None
    beaten: bool | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Mean:
    """A result by seed, of which the mean is relied on."""

    MORE: ClassVar = True

    mean: Number


@dataclasses.dataclass(frozen=True, kw_only=True)
class FieldError:
    """Of a learned gradient, relative to the true one where that is not zero."""

    MORE: ClassVar = True

    relative: Annotated[list[Number], Bounds(1, 1000)] | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class FieldErrors:
    """Of every gradient that was learned."""

    MORE: ClassVar = True

    drift: FieldError = FieldError()
    potential_gradient: FieldError = FieldError()
    interaction_gradient: FieldError = FieldError()


@dataclasses.dataclass(frozen=True, kw_only=True)
class LawScore:
    """A score of the predicted law, of which the mean is relied on; None where none was measured."""

    MORE: ClassVar = True

    mean: Number | None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Law:
    """The scores of the predicted law; older releases have none."""

    MORE: ClassVar = True

    energy_distance: LawScore
    c2st: LawScore
    variance_ratio: LawScore
    beaten: bool


@dataclasses.dataclass(frozen=True, kw_only=True)
class Beside:
    """A distance beside its yardsticks; older releases have none."""

    MORE: ClassVar = True

    energy: Number | None = None
    no_motion: Number | None = None
    floor: Number | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Seconds:
    """Of the activities that every run of a solver has."""

    MORE: ClassVar = True

    train: Double
    total: Double
    from_epoch: Natural = 0


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainSummary:
    """The results of a run of `experiments.train` that a sweep's table has."""

    solver: str
    emd_one_step_ahead: Mean
    emd_cumulative: Mean
    beta: Mean
    field_error: FieldErrors | None
    law: Law | None = None
    w1_one_step_ahead: Beside | None = None
    seconds: Seconds
    converged: bool
    epochs: Count | None = None
    side_by_side: Count = 1

    def __post_init__(self):
        one_of("solver", self.solver, tuple(SOLVERS))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Failure:
    """`failures/NAME.json` of a sweep: why a run failed, and how often."""

    attempts: Count
    reason: str
    details: str = ""


@dataclasses.dataclass(frozen=True, kw_only=True)
class MeasuredLaw:
    """`log_snr.json`: where the log SNRs of a run lie."""

    loc: float
    scale: Positive


def read_entries(file: Path, *kinds: type) -> dict[str, Any]:
    """A JSON object with at least the entries of some records.

    Args:
        file: the file.
        *kinds: dataclasses whose fields it is checked for.

    Raises:
        ValueError: it is missing, damaged, or an entry is missing or of another type.
    """
    content = read_json(file)
    for kind in kinds:
        check_entries(file, kind, content)
    return content


def check_entries(file: Path, kind: type[RecordT], content: Any) -> RecordT:
    """The record that entries of a file make.

    Raises:
        ValueError: an entry is missing or of another type; it names the file.
    """
    try:
        return record(kind, content, more=True)
    except ValueError as error:
        raise ValueError(f"{file} is damaged: {error}") from error


def read_rows(file: Path, needed: Sequence[str] = ()) -> list[dict[str, Any]]:
    """The rows of `metrics.jsonl`: an epoch, and numbers or lists of numbers.

    Args:
        file: the file; where there is none, there are no rows.
        needed: entries that every row must have.

    Raises:
        ValueError: a row is none, or lacks an entry.
    """
    if not file.exists():
        return []
    rows = []
    for number, row in enumerate(read_lines(file), start=1):
        wrong = _wrong_in(row, ("epoch", *needed))
        if wrong is not None:
            raise ValueError(f"{file} is damaged: line {number}: {wrong}")
        rows.append(row)
    return rows


def _wrong_in(row: Any, needed: Sequence[str]) -> str | None:
    if not isinstance(row, dict):
        return f"a row must be an object with names, got {shown(row)}"
    for name in needed:
        if name not in row:
            return f"it has no {name}"
    epoch = row["epoch"]
    if type(epoch) is not int or not 0 <= epoch < 2**31:
        return f"epoch must be a whole number from 0 on, got {shown(epoch)}"
    for name, value in row.items():
        if not _is_number(value, depth=_DEEPEST):
            return f"{shown(name)} must be a number or a list of numbers, got {shown(value)}"
    return None


def _is_number(value: Any, depth: int) -> bool:
    if isinstance(value, list):
        return depth > 0 and all(_is_number(inner, depth - 1) for inner in value)
    if value is None:
        return depth == _DEEPEST  # an entry without a value, but no gap in a list
    return isinstance(value, int | float) or value in NOT_FINITE
