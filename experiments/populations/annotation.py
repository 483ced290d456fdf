"""Cells of a file with the energy that a run learned, in a new file."""

from pathlib import Path
from typing import Any

import numpy as np

from checkpoints import load_energy
from data_generation.formats.plain_numbers import pairs
from data_generation.populations.cell_flags import with_flags
from data_generation.populations.cells import read_cells, write_cells
from data_generation.populations.dataset_metadata import identity
from data_generation.populations.dataset_place import is_dataset
from data_generation.populations.datasets import Dataset, load_dataset
from data_generation.scripts.command_line import say
from data_generation.scripts.files import check_writable
from diffusions.files import kind_of, made_parents, new_file
from experiments.populations.settings import AnnotateSettings
from experiments.run.folder import RunFolder, versions
from jkonet_star.cells.annotation import annotate_cells
from jkonet_star.cells.fields import share_outside
from jkonet_star.cells.representation import REPRESENTATION, leading_coordinates


def annotate(settings: AnnotateSettings) -> None:
    """One file of cells, from the run's energy to the new file.

    Raises:
        ValueError: the run has no energy, the coordinates are not those that it was trained on, the
            file is damaged, or the new one exists.
    """
    settings.check_inputs()
    source, out = Path(str(settings.h5ad)), Path(str(settings.out))

    run = RunFolder.existing(str(settings.run))
    trained = run.trained()
    if kind_of(out) is not None:
        raise ValueError(f"{out} already exists")
    check_writable(out.parent)
    energies = load_energy(run.energy)
    energy = energies.member(settings.seed_index)
    dataset: Dataset | None = _dataset(run, trained.dataset, settings.data_dir)
    representation, time_key, time_map = _names(settings, dataset, trained.dataset)
    data = _read(source)
    try:
        annotate_cells(
            data,
            energy,
            representation=representation,
            time_key=time_key,
            time_map=time_map,
            # An empty one is of data without units, or made by an older release.
            unit=(dataset.metadata.get("time_unit") if dataset is not None else None) or None,
            prefix=settings.prefix,
        )
    except ValueError as error:
        raise ValueError(f"{source}: {with_flags(str(error))}") from error
    said: dict[str, Any] = {
        "run": str(run.path),
        "solver": trained.solver,
        "dataset": Path(trained.dataset).name,
        "seed": trained.seeds[settings.seed_index],
        "versions": versions(),
    }
    say(f"{source}: {data.n_obs} cells, {representation}, {energy.dimension} coordinates")
    if dataset is not None:
        points = leading_coordinates(data, representation, energy.dimension)
        said["share_outside_training_range"] = share_outside(points, dataset.train.arrays())
        say(
            f"  {100 * said['share_outside_training_range']:.1f} % of them lie outside the range of "
            "the training particles, where the energy is extrapolated"
        )
    data.uns[settings.prefix] |= said
    names = [f"{settings.prefix}_{name}" for name in ("potential", "energy", "growth")]
    for name in [name for name in names if name in data.obs]:
        values = np.asarray(data.obs[name])
        say(f"  obs[{name!r}]: {values.min():.4g} to {values.max():.4g}")
    with made_parents(out), new_file(out) as temporary:
        write_cells(data, temporary)
    say(f"  {out}")


def _dataset(run: Any, recorded: str, data_dir: str) -> Any:
    """The run's dataset, or None where it is gone.

    Raises:
        ValueError: it is not the one that was learned from.
    """
    for folder in (Path(recorded), Path(data_dir) / Path(recorded).name):
        if is_dataset(folder):
            dataset = load_dataset(folder)
            run.check_data(identity(dataset.metadata))
            return dataset
    return None


def _names(
    settings: AnnotateSettings, dataset: Any, recorded: str
) -> tuple[str, str | None, dict[str, float] | None]:
    """Representation, time key and map of times: as told, or as the training data were read."""
    arguments = dataset.metadata["arguments"] if dataset is not None else {}
    time_key = settings.time_key or arguments.get("time_key")
    time_map = pairs(settings.time_map or arguments.get("time_map"), "time_map")
    if settings.representation is not None:
        return settings.representation, time_key, time_map
    if dataset is None:
        raise ValueError(
            f"the run's dataset {recorded} is gone: name its coordinates with --representation, or "
            "its place with --data-dir"
        )
    file = str(arguments.get("load_from_file"))
    if not file.lower().endswith(".h5ad"):
        origin = "simulated" if file == "None" else f"read from {Path(file).name}"
        raise ValueError(
            f"the run's dataset was {origin}, which says nothing of an entry of obsm: name the one "
            "with exactly its coordinates, in its scale, with --representation"
        )
    return arguments.get("representation") or REPRESENTATION, time_key, time_map


def _read(source: Path) -> Any:
    try:
        return read_cells(source)
    except ValueError as error:
        raise ValueError(f"{source}: {error}") from error
