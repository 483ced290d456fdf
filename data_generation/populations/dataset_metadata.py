"""What `metadata.json` of a dataset says: its schema, checked when it is read."""

import dataclasses
import hashlib
import json
import re
from typing import Annotated, Any

from data_generation.populations.dataset_checks import OPTIONAL, REQUIRED
from data_generation.populations.settings import DataSettings, Functional
from diffusions.checks import Bounds, Natural, NotNegative, Positive, record, shown
from jkonet_star.transport.couplings import CouplingReport

_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Truth:
    """The known energies.

    Attributes:
        potential: name of V.
        interaction: name of U.
        beta: weight of the internal energy.
    """

    potential: Functional
    interaction: Functional
    beta: NotNegative


@dataclasses.dataclass(frozen=True, kw_only=True)
class Source:
    """The file that was read.

    Attributes:
        file: its name.
        sha256: its checksum.
    """

    file: str
    sha256: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class Split:
    """How training and test particles were told apart.

    Attributes:
        test: in words.
        test_ratio: share held out, where particles were.
    """

    test: str
    test_ratio: Annotated[float, Bounds(0, 1)] | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Times:
    """Of the snapshots of both populations."""

    train: list[float]
    test: list[float]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Counts:
    """Particles of the snapshots of both populations."""

    train: list[Natural]
    test: list[Natural]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Metadata:
    """The entries of `metadata.json` that are relied on.

    Attributes:
        arguments: of `DataSettings`.
        source: of data that were read from a file.
        truth: where it is known.
        split: of particles.
        left_out: the snapshot that training does not see.
        times: of the snapshots.
        counts: of the particles.
        time_unit: of the times; empty where the file did not say, and of older releases.
        masses: of the whole population at the training times, where they are known.
        couplings: how each step was coupled.
        shapes: archive -> array -> lengths of its axes.
        checksums: file -> SHA-256.
    """

    arguments: dict[str, Any]
    source: Source | None = None
    truth: Truth | None
    split: Split
    left_out: Natural | None = None
    times: Times
    counts: Counts
    time_unit: str = ""
    masses: list[Positive] | None = None
    couplings: list[CouplingReport]
    shapes: dict[str, dict[str, list[Natural]]]
    checksums: dict[str, str]


def identity(metadata: dict[str, Any]) -> dict[str, str]:
    """What decides what is learned from a dataset, by name: checksums of the archives, and of the rest.

    The rest is how densities are fitted, unless there are none or the folder holds them, and masses.
    """
    found = dict(metadata["checksums"])
    settings = record(DataSettings, metadata["arguments"], more=True)
    if "densities.npz" not in found and settings.n_gmm_components:
        found["densities"] = _checksum(dataclasses.asdict(settings.density_settings), settings.seed)
    if metadata.get("masses") is not None:
        found["masses"] = _checksum(metadata["masses"])
    return found


def _checksum(*content: Any) -> str:
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()


def check_metadata(content: dict[str, Any]) -> None:
    """Checks the metadata of a dataset that this release reads.

    Raises:
        ValueError: the entry that is missing, of another type, or contradicts another.
    """
    metadata = record(Metadata, content, more=True)
    try:
        record(DataSettings, metadata.arguments, more=True)
    except ValueError as error:
        raise ValueError(f"its arguments make no dataset: {error}") from error
    for name in metadata.shapes:
        # A name is a file in the folder, and no path to elsewhere.
        if name not in (*REQUIRED, *OPTIONAL):
            raise ValueError(f"it names the unknown archive {shown(name)}")
    if set(metadata.checksums) != {f"{name}.npz" for name in metadata.shapes}:
        raise ValueError("its shapes and checksums are of other archives")
    for file, checksum in metadata.checksums.items():
        if not _SHA256.fullmatch(checksum):
            raise ValueError(f"the checksum of {file} is none: {shown(checksum)}")
