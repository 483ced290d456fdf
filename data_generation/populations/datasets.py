"""Datasets: populations and their couplings, made once and kept in a folder, and their densities.

`generate_dataset` makes the folder that `DataSettings` describe, or finds it; `load_dataset` reads
one. Couplings and densities see the training particles only. The order of random streams does not
matter: each is folded from the seed by its name. Densities are in no folder: whoever asks for them has
them fitted, always the same.
"""

import dataclasses
import functools
from pathlib import Path
from typing import Any

import jax
import numpy as np

from data_generation.populations.dataset_checks import check_archives_content
from data_generation.populations.dataset_folder import (
    PICTURE,
    Archives,
    check_archives,
    check_replaceable,
    read_archives,
    read_metadata,
    write_folder,
)
from data_generation.populations.dataset_place import METADATA, dataset_place
from data_generation.populations.particles import simulate
from data_generation.populations.principal_components import Projection
from data_generation.populations.reading import FileContent, read_file
from data_generation.populations.settings import DEFAULT_TEST_RATIO, DEFAULTS, DataSettings
from data_generation.populations.splitting import leave_one_out, split_particles, split_population
from data_generation.scripts.files import check_writable, sha256
from diffusions.checks import record, shown
from diffusions.files import recover
from diffusions.keys import named_key
from diffusions.memory import check_memory
from diffusions.releases import release_of
from diffusions.short_repr import short_repr
from diffusions.typing import Key
from jkonet_star.densities import Densities, fit_densities, from_arrays
from jkonet_star.snapshots import Snapshots, snapshots_from_arrays, taken_over
from jkonet_star.transport.couplings import Couplings, couple


@dataclasses.dataclass(frozen=True, kw_only=True)
class Dataset:
    """A dataset in memory.

    Attributes:
        train: the population that is learned from.
        test: the held-out one; with a snapshot left out of `train`, it keeps that snapshot.
        couplings: of consecutive snapshots of `train`.
        metadata: what `metadata.json` holds.
        path: the folder.
        projection: that made the coordinates of a file's columns, or None.
        stored: the densities of a folder that holds them, as older releases made it, or None.
    """

    train: Snapshots
    test: Snapshots
    couplings: Couplings
    metadata: dict[str, Any]
    path: Path
    projection: Projection | None = None
    stored: Densities | None = None

    __repr__ = short_repr

    @functools.cached_property
    def densities(self) -> Densities | None:
        """One per snapshot of `train`; None with `n_gmm_components` 0. Fitted when first asked for.

        Raises:
            ValueError: they do not fit into memory.
        """
        if self.stored is not None:
            return self.stored
        settings = record(DataSettings, self.metadata["arguments"], more=True)
        check_memory(settings.density_memory_needs(self.train.points.shape))
        key = named_key(jax.random.key(settings.seed), "densities")
        return fit_densities(self.train, settings.density_settings, key=key)

    @property
    def name(self) -> str:
        """Name of the folder."""
        return self.path.name

    @property
    def truth(self) -> dict[str, Any] | None:
        """The known `potential`, `interaction` (names) and `beta`, or None."""
        return self.metadata["truth"]


def generate_dataset(settings: DataSettings) -> Dataset:
    """Makes the dataset, or loads it where it already exists with the same arguments.

    Args:
        settings: what it is made of, and where it goes: `settings.data_dir / settings.name`.

    Returns:
        The dataset.

    Raises:
        ValueError: a folder in the way that is no dataset, is damaged, or was made with other
            arguments; a folder that cannot be written; what simulation and reading raise.
    """
    existing = find_dataset(settings)
    if existing is not None:
        return existing
    folder = Path(settings.data_dir) / settings.name
    check_writable(folder.parent)
    key = jax.random.key(settings.seed)
    train, test, read, split = _populations(settings, key)
    masses = None if read is None else read.masses
    if settings.leave_one_out is not None:
        train = leave_one_out(train, settings.leave_one_out)
        masses = None if masses is None else np.delete(masses, settings.leave_one_out)
    _check_batch(settings.batch_size, max(train.counts()))
    couplings, reports = couple(train, settings.coupling_settings, key=named_key(key, "couplings"))
    archives: Archives = {
        "train": _snapshot_arrays(train),
        "test": _snapshot_arrays(test),
        "couplings": {f: np.asarray(getattr(couplings, f)) for f in _COUPLING_FIELDS},
    }
    projection = None if read is None else read.projection
    if projection is not None:
        archives["projection"] = dataclasses.asdict(projection)
    check_archives_content(archives)
    metadata: dict[str, Any] = {
        "created_by": f"jkonet-diffusions {release_of()}, jax {jax.__version__}",
        "arguments": dataclasses.asdict(settings),
        "source": _source(settings),
        "truth": _truth(settings),
        "split": split,
        "left_out": settings.leave_one_out,
        "times": {
            "train": train.time_values().tolist(),
            "test": test.time_values().tolist(),
        },
        "counts": {
            "train": train.counts(),
            "test": test.counts(),
        },
        "time_unit": "" if read is None else read.unit,
        "masses": None if masses is None else masses.tolist(),
        "couplings": [dataclasses.asdict(report) for report in reports],
    }
    metadata = write_folder(
        folder,
        archives,
        metadata,
        replace=settings.overwrite,
        draw=lambda path: _draw(train, path / PICTURE, settings.name),
    )
    return Dataset(
        train=train,
        test=test,
        couplings=couplings,
        metadata=metadata,
        path=folder,
        projection=projection,
    )


def find_dataset(settings: DataSettings) -> Dataset | None:
    """The dataset that these settings describe, if it exists and is not to be overwritten.

    Raises:
        ValueError: the folder exists and is no dataset, is damaged, or holds another one. With
            `overwrite`, only a folder that is no dataset, or not that alone: nothing else is deleted.
    """
    folder = Path(settings.data_dir) / settings.name
    recover(folder)
    if not folder.exists() and not folder.is_symlink():
        return None
    if settings.overwrite:
        check_replaceable(folder)
        return None
    if not (folder / METADATA).is_file():
        raise ValueError(f"{folder} exists and is not a dataset folder, choose --dataset-name")
    try:
        metadata = read_metadata(folder)
        check_archives(folder, metadata)
    except ValueError as error:
        raise ValueError(f"{error}; {_remedy(folder)}") from error
    recorded = DEFAULTS | metadata["arguments"]
    different = [k for k, v in settings.content.items() if recorded[k] != v]
    source = _source(settings)
    if not different and (metadata.get("source") or {}).get("sha256") != (source or {}).get(
        "sha256"
    ):
        different = ["load_from_file"]
    if different:
        key = different[0]
        raise ValueError(
            f"{folder} exists with --{key.replace('_', '-')}={recorded[key]} instead of "
            f"{getattr(settings, key)}; give --overwrite or another --dataset-name"
            if key != "load_from_file"
            else f"{folder} exists and was read from other data than {settings.load_from_file}; "
            "give --overwrite or another --dataset-name"
        )
    return load_dataset(folder)


def _remedy(folder: Path) -> str:
    try:
        check_replaceable(folder)
    except ValueError:
        return "choose another --dataset-name"
    return "--overwrite makes it anew"


def load_dataset(name_or_path: str | Path, data_dir: str | Path = "data") -> Dataset:
    """Reads a dataset folder and checks it against its metadata.

    Args:
        name_or_path: a folder, or the name of one in `data_dir`.
        data_dir: where named datasets are.

    Returns:
        The dataset.

    Raises:
        ValueError: no such dataset, with the near misses; a newer schema; missing or damaged files;
            arrays that generation would not have made.
    """
    folder = dataset_place(name_or_path, data_dir)
    metadata = read_metadata(folder)
    archives = read_archives(folder, metadata)
    try:
        check_archives_content(archives)
        _check_counts(metadata, archives)
    except ValueError as error:
        raise ValueError(f"{folder} is damaged: {error}") from error
    train, test = (
        Snapshots(**{name: taken_over(array) for name, array in archives[part].items()})
        for part in ("train", "test")
    )
    couplings = Couplings(
        **{name: taken_over(array) for name, array in archives["couplings"].items()}
    )
    return Dataset(
        train=train,
        test=test,
        couplings=couplings,
        metadata=metadata,
        path=folder,
        projection=Projection(**archives["projection"]) if "projection" in archives else None,
        stored=from_arrays(archives["densities"]) if "densities" in archives else None,
    )


_SNAPSHOT_FIELDS = ("points", "weights", "times")
_SNAPSHOT_ORIGIN = ("origin", "start")
_COUPLING_FIELDS = ("step", "source", "target", "weight")


def _check_counts(metadata: dict[str, Any], archives: Archives) -> None:
    """Raises ValueError where metadata count other particles than there are."""
    for part in ("train", "test"):
        counts = np.count_nonzero(archives[part]["weights"], axis=1).tolist()
        if metadata["counts"][part] != counts:
            raise ValueError(
                f"{part} holds {shown(counts)} particles, {METADATA} says "
                f"{shown(metadata['counts'][part])}"
            )
        if len(metadata["times"][part]) != len(counts):
            raise ValueError(f"{METADATA} names other times than those of {part}")
    n_steps = len(metadata["times"]["train"]) - 1
    if len(metadata["couplings"]) != n_steps:
        raise ValueError(
            f"{METADATA} describes {len(metadata['couplings'])} couplings of {n_steps} steps"
        )


def _populations(
    settings: DataSettings, key: Key
) -> tuple[Snapshots, Snapshots, FileContent | None, dict[str, Any]]:
    """Training and test snapshots, the file that they are from, and how they were told apart."""
    held_out: Snapshots | None
    read: FileContent | None = None
    if settings.load_from_file is not None:
        read = read_file(
            settings.load_from_file,
            dt=settings.dt,
            time_key=settings.time_key,
            representation=settings.representation,
            n_components=settings.n_components,
            time_map=settings.times_of_labels,
            mass_key=settings.mass_key,
        )
        train, held_out = read.train, read.held_out
        independent = "the file's own"
    else:
        train, held_out = _simulated(settings, key, "train"), None
        independent = "an independent simulation"
        if settings.test_ratio is None and not settings.split_population:
            held_out = _simulated(settings, key, "test")
    if held_out is not None and settings.test_ratio is None and not settings.split_population:
        return train, held_out, read, {"test": independent}
    ratio = DEFAULT_TEST_RATIO if settings.test_ratio is None else settings.test_ratio
    counts = set(train.counts())
    # Particles of snapshots with unequal counts cannot be followed through time.
    inside = settings.split_population or len(counts) > 1
    split = split_population if inside else split_particles
    train, test = split(train, ratio, named_key(key, "split"))
    if ratio == 0:
        return train, test, read, {"test": "the training particles", "test_ratio": 0.0}
    along = "inside every snapshot" if inside else "along particles"
    return train, test, read, {"test": f"held out {along}", "test_ratio": ratio}


def _check_batch(batch_size: int, n: int) -> None:
    default = DataSettings().batch_size  # fits every size: fewer particles make one block
    if batch_size > n and batch_size != default:
        raise ValueError(
            f"batch_size {batch_size} is more than the {n} particles of the largest training "
            "snapshot; a negative one couples each snapshot in one block"
        )


def _simulated(settings: DataSettings, key: Key, name: str) -> Snapshots:
    points = simulate(
        named_key(key, name),
        potential=settings.potential,
        interaction=settings.interaction,
        beta=settings.beta,
        n_particles=settings.n_particles,
        dimension=settings.dimension,
        n_timesteps=settings.n_timesteps,
        dt=settings.dt,
        substeps=settings.substeps,
        unpaired=settings.unpaired,
    )
    return snapshots_from_arrays(np.asarray(points), dt=settings.dt)


def _snapshot_arrays(snapshots: Snapshots) -> dict[str, np.ndarray]:
    arrays = {f: np.asarray(getattr(snapshots, f)) for f in _SNAPSHOT_FIELDS}
    for f in _SNAPSHOT_ORIGIN:
        if getattr(snapshots, f) is not None:
            arrays[f] = np.asarray(getattr(snapshots, f))
    return arrays


def _draw(snapshots: Snapshots, file: Path, title: str) -> None:
    # Only now: Matplotlib takes a second to load, and only a new dataset needs it.
    from data_generation.populations.pictures import draw_snapshots

    draw_snapshots(snapshots, file, title=title)


def _source(settings: DataSettings) -> dict[str, str] | None:
    """Name and checksum of the file that was read."""
    if settings.load_from_file is None:
        return None
    file = Path(settings.load_from_file)
    # What is wrong with a file that is missing is said when it is read.
    return {"file": file.name, "sha256": sha256(file) if file.is_file() else ""}


def _truth(settings: DataSettings) -> dict[str, Any] | None:
    named = (settings.potential, settings.interaction, settings.internal)
    if settings.load_from_file is not None and set(named) == {"none"}:
        return None
    return {
        "potential": settings.potential,
        "interaction": settings.interaction,
        "beta": settings.beta,
    }
