"""An energy that was learned elsewhere, by a script for instance, kept with its cells."""

from collections.abc import Mapping
from typing import Any

from jkonet_star.cells.fields import cell_fields, needs_times, write_energies
from jkonet_star.cells.model import ENERGY, CellEnergy, keep
from jkonet_star.cells.representation import REPRESENTATION
from jkonet_star.cells.times import TIME_KEY, cell_times
from jkonet_star.cells.tools import growth
from jkonet_star.fitted import FittedEnergy


def annotate_cells(
    data: Any,
    energy: FittedEnergy,
    *,
    representation: str | None = None,
    time_key: str | None = None,
    time_map: Mapping[str, float] | None = None,
    unit: str | None = None,
    prefix: str = "jkonet",
) -> None:
    """Keeps an energy with cells, as `cells.fit` does, and writes what it says of each.

    What `cells.tl.potential` writes; `obsm[PREFIX_velocity]`, and the same as `obsm[PREFIX_drift]`;
    where growth was learned what `cells.tl.growth` writes. `cells.tl` does the rest, with `key=prefix`.
    `uns[PREFIX]` says how they were made, also by its older names `representation`, `dimension` and
    `training_times`, and `scheme`.

    Args:
        data: AnnData; changed in place.
        energy: a single one, learned in the leading coordinates of the representation.
        representation: entry of `obsm`, `X_pca` where not given; exactly the coordinates of the
            training data, in their scale.
        time_key: entry of `obs` with the cells' times, `time` where not given; needed only where
            cells interact or multiply, or the potential varies with time.
        time_map: label -> time, for labels that say none by themselves.
        unit: of the energy's times; that of the cells' where not given.
        prefix: of the names.

    Raises:
        ValueError: an entry is missing, coordinates are not finite, there are fewer of them than the
            energy has dimensions, or the names are those of an energy that is kept with the cells.
    """
    if ENERGY in data.uns.get(prefix, {}):
        raise ValueError(
            f"uns[{prefix!r}] keeps an energy of these cells, which would be lost: choose another "
            "prefix"
        )
    time_key, timed = time_key or TIME_KEY, needs_times(energy) or energy.growth_rate is not None
    if unit is None:
        there = timed or time_key in data.obs
        unit = cell_times(data, time_key, time_map=time_map).unit if there else ""
    said = None if time_map is None else dict(time_map)
    model = CellEnergy(energy, representation or REPRESENTATION, time_key, said, unit)
    points = model.coordinates(data)
    times = model.times(data).values if timed else None
    fields = cell_fields(energy, points, times if needs_times(energy) else None)
    keep(data, model, prefix)
    write_energies(data, energy, fields, prefix)
    data.obsm[f"{prefix}_velocity"] = fields.drift
    data.obsm[f"{prefix}_drift"] = fields.drift
    if energy.growth_rate is not None:
        growth(data, model=model, key=prefix)
    data.uns[prefix] |= {
        "representation": model.use_rep,
        "dimension": energy.dimension,
        "scheme": energy.scheme,
        "training_times": energy.time_values(),
    }
