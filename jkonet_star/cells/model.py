"""An energy learned from an AnnData object, which knows the cells' coordinates and is kept in `uns`."""

import dataclasses
import json
import warnings
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from diffusions.keys import named_key
from diffusions.releases import release_of
from diffusions.typing import Float
from jkonet_star.cells.condition_differences import Differences
from jkonet_star.cells.conditions import (
    DIFFERENCES,
    check_entries,
    forget_conditions,
    write_conditions,
)
from jkonet_star.cells.fields import needs_times
from jkonet_star.cells.masses import cell_masses
from jkonet_star.cells.representation import REPRESENTATION, leading_coordinates, remarks
from jkonet_star.cells.times import SECONDS, CellTimes, cell_times, check_snapshots
from jkonet_star.described import NEWEST, Blueprint, damaged, describe
from jkonet_star.fitted import FittedEnergy
from jkonet_star.fitting import fit as fit_energy
from jkonet_star.settings import GrowthSettings
from jkonet_star.snapshots import snapshots_from_arrays

KEY = "jkonet"
CELL_GROWTH = GrowthSettings(growth_amplitude=1.0, motion_width=0.4)
"""With `growth=True`. Cells that differentiate move on all the time, and what a motion may explain is
motion first: rates differ by about 1 over the whole time before any data, and not by 16."""
ENERGY = "energy"
"""The entry of `uns[key]` with the energy itself."""
OF_CELLS = ("potential", "energy", "interaction", "growth", "growth_sd")
"""What is written of cells into `obs`, conditions aside."""
_OWN = ("velocity", "drift", "fates", "fates_sd")
"""Into `obsm`, beside the velocities on embeddings."""


@dataclasses.dataclass(frozen=True)
class CellEnergy:
    """A learned energy, and the coordinates that it takes.

    What it does not have itself is the energy's: `model.report`, `model.interval(...)`.

    Attributes:
        energy: a single one, in the units of the coordinates and of time.
        use_rep: the entry of `obsm` with the coordinates, of which it takes the first
            `energy.dimension`.
        time_key: the entry of `obs` with the times.
        time_map: label -> time, where one was given.
        unit: of time; empty where the labels do not say.
        scale: largest and least deviation of the coordinates that it was learned in, or None.
        differences: what each condition adds to the drift, where conditions were compared.
    """

    energy: FittedEnergy
    use_rep: str
    time_key: str
    time_map: dict[str, float] | None
    unit: str
    scale: tuple[float, float] | None = None
    differences: Differences | None = None

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        return getattr(self.energy, name)

    def __repr__(self) -> str:
        unit = f" ({self.unit}s)" if self.unit else ""
        scale = ""
        if self.scale is not None:
            scale = f" in its own scale, deviations {self.scale[0]:.3g} to {self.scale[1]:.3g}"
        return (
            f"CellEnergy of obsm[{self.use_rep!r}][:, :{self.energy.dimension}]{scale}, "
            f"obs[{self.time_key!r}]{unit}\n{self.energy!r}"
        )

    def coordinates(self, adata: Any) -> Float[np.ndarray, "n d"]:
        """Of the cells, as the energy takes them."""
        return leading_coordinates(adata, self.use_rep, self.energy.dimension)

    def times(self, adata: Any) -> CellTimes:
        """Of the cells, in the unit of the energy.

        Raises:
            ValueError: there are none, or they have another unit.
        """
        found = cell_times(adata, self.time_key, time_map=self.time_map)
        if {
            found.unit,
            self.unit,
        } <= SECONDS.keys():  # of other cells another unit may be the smallest
            return CellTimes(found.values * (SECONDS[found.unit] / SECONDS[self.unit]), self.unit)
        if found.unit != self.unit:
            raise ValueError(
                f"obs[{self.time_key!r}] is in {found.unit or 'no unit'}, the energy was learned in "
                f"{self.unit or 'no unit'}"
            )
        return found

    def field_times(self, adata: Any) -> np.ndarray | None:
        """The times of the cells where the energy needs them to say something of each, or None."""
        return self.times(adata).values if needs_times(self.energy) else None

    def snapshot(self, adata: Any) -> tuple[np.ndarray, np.ndarray]:
        """The times of the energy, and the last of them that each cell has reached, (n,).

        Raises:
            ValueError: cells from before the first.
        """
        times, own = self.energy.time_values(), self.times(adata).values
        nearest = np.abs(own[:, None] - times).argmin(axis=1)
        reached = np.searchsorted(times, own, side="right") - 1
        # Single precision moves a time a little.
        close = np.isclose(own, times[nearest], rtol=1e-5, atol=1e-6 * np.ptp(times))
        step = np.where(close, nearest, reached)
        if (step < 0).any():
            raise ValueError(
                f"{(step < 0).sum()} cells are from before {times[0]:g}, the first time of the energy"
            )
        return times, step


def fit(
    adata: Any,
    *,
    time_key: str = "time",
    use_rep: str = REPRESENTATION,
    n_components: int | None = None,
    solver: Any = "auto",
    time_map: Mapping[Any, float] | None = None,
    mass_key: str | None = None,
    key_added: str = KEY,
    seed: int = 0,
    condition_key: str | None = None,
    reference: str | None = None,
    batch_key: str | None = None,
    growth: bool | GrowthSettings = False,
    **options: Any,
) -> CellEnergy:
    """Learns the energy of cells, and keeps it in `adata.uns[key_added]`.

    With a `condition_key` it is that of the cells of all conditions, and `cells.tl.conditions` is asked
    what each condition adds to it.

    Args:
        adata: AnnData, in memory or backed; its expression is not read.
        time_key: entry of `obs`, in any form that `cells.times` reads.
        use_rep: entry of `obsm`. The energy is learned in its coordinates and their scale, which
            decides what is near.
        n_components: how many of them, from the first; all where not given.
        solver: as of `jkonet_star.fit`; `auto` lets held-out cells choose.
        time_map: label -> time, for labels that say none by themselves.
        mass_key: with `growth`, entry of `obs` or `uns` with the number of cells that the whole
            population has at each time, which makes rates absolute (see `cells.masses`).
        key_added: under which everything is kept.
        seed: of all randomness.
        condition_key: entry of `obs` with the condition of each cell.
        reference: as of `cells.tl.conditions`.
        batch_key: likewise.
        growth: cells multiply and die; True is `CELL_GROWTH`.
        **options: of `jkonet_star.fit`: `masses`, `bootstrap`, `network`, ...

    Returns:
        The energy, which knows its coordinates.

    Raises:
        ValueError: entries that are missing, what is no time, cells without finite coordinates, one
            time only, a pseudotime; what `jkonet_star.fit` and `cells.tl.conditions` refuse.

    Warns (UserWarning):
        Times that may be those of single cells; coordinates that hardly vary or were standardised; few
        cells for the dimension; and what `jkonet_star.fit` says.
    """
    points = leading_coordinates(adata, use_rep, n_components)
    found = cell_times(adata, time_key, time_map=time_map)
    odd = check_snapshots(found.values, f"obs[{time_key!r}]")
    times, counts = np.unique(found.values, return_counts=True)
    if condition_key is not None:
        later = found.values > times[0]
        check_entries(adata, condition_key, reference, batch_key, later=later)
    for line in [*odd, *remarks(points, counts, f"obsm[{use_rep!r}]")]:
        warnings.warn(line, stacklevel=2)
    if mass_key is not None:
        if "masses" in options:
            raise ValueError("masses and mass_key say the same: give one of them")
        options["masses"] = cell_masses(adata, mass_key, found, time_map=time_map)
    snapshots = snapshots_from_arrays([points[found.values == t] for t in times], times=times)
    energy = fit_energy(
        snapshots,
        solver,
        key=named_key(jax.random.key(seed), "cells"),
        growth=CELL_GROWTH if growth is True else growth,
        **options,
    )
    said = None if time_map is None else {str(k): float(v) for k, v in time_map.items()}
    deviation = points.std(axis=0)
    scale = (float(deviation.max()), float(deviation.min()))
    model = CellEnergy(energy, use_rep, time_key, said, found.unit, scale)
    keep(adata, model, key_added)
    if condition_key is not None:
        model = write_conditions(
            adata,
            model,
            key_added,
            condition_key=condition_key,
            reference=reference,
            batch_key=batch_key,
            seed=seed,
        )
    return model


def keep(adata: Any, model: CellEnergy, key_added: str = KEY) -> None:
    """Writes an energy to `adata.uns[key_added]`, in what .h5ad and .zarr files hold."""
    if "/" in key_added:
        raise ValueError(f"key_added has a /, which files take for a folder: {key_added!r}")
    forget(adata, key_added)
    version, description, arrays = describe(model.energy)
    adata.uns[key_added] = {
        ENERGY: {
            "schema_version": version,
            "description": json.dumps(description),
            "arrays": jax.tree.map(np.asarray, arrays),
        },
        "use_rep": model.use_rep,
        "n_components": model.energy.dimension,
        "scale": np.asarray(model.scale or (), np.float64),
        "time_key": model.time_key,
        "time_unit": model.unit,
        "time_map": "" if model.time_map is None else json.dumps(model.time_map),
        "times": model.energy.time_values(),
        "beta": float(model.energy.beta),
        "report": str(model.energy.report or ""),
        "version": release_of(),
    }
    if model.differences is not None:
        adata.uns[key_added][DIFFERENCES] = model.differences.written()


def forget(adata: Any, key: str = KEY) -> None:
    """Removes what was written of an energy: results of another one do not go with it.

    What only begins with the same letters is someone else's, such as `obsm["jkonet_b_fates"]` of an
    energy that is kept as `jkonet_b`.
    """
    forget_conditions(adata, key)
    adata.uns.pop(key, None)
    for name in OF_CELLS:
        if f"{key}_{name}" in adata.obs:
            del adata.obs[f"{key}_{name}"]
    bases = [str(name).removeprefix("X_") for name in adata.obsm if str(name).startswith("X_")]
    for place, own in (
        (adata.obsm, [f"{key}_{name}" for name in (*_OWN, *bases)]),
        (adata.varm, [f"{key}_drivers"]),
        (adata.obsp, [f"{key}_transitions"]),
        (adata.layers, [key]),
    ):
        for name in own:
            if name in place:
                del place[name]


def asked(adata: Any, model: CellEnergy | None, key: str, copy: bool) -> tuple[Any, CellEnergy]:
    """The object that a function of `cells.tl` changes, and the energy that it asks."""
    return adata.copy() if copy else adata, kept(adata, key) if model is None else model


def snapshots_of(adata: Any, model: CellEnergy) -> list[np.ndarray]:
    """The cells of each snapshot of the energy.

    Raises:
        ValueError: one has none.
    """
    times, own = model.snapshot(adata)
    cells = [np.flatnonzero(own == k) for k in range(len(times))]
    empty = [f"{t:g}" for t, some in zip(times, cells, strict=True) if not len(some)]
    if empty:
        raise ValueError(
            f"there are no cells at {', '.join(empty)}, which the energy was learned at"
        )
    return cells


def kept(
    adata: Any,
    key: str = KEY,
    *,
    potential: nn.Module | None = None,
    interaction: nn.Module | None = None,
) -> CellEnergy:
    """The energy that `fit` kept in `adata.uns[key]`, of the file it was read from, too.

    Args:
        adata: AnnData.
        key: as given to `fit`.
        potential: the own module of V, where the energy was learned with one; the functions of
            `cells.tl` take what is returned as their `model`.
        interaction: likewise of U.

    Raises:
        ValueError: there is none, it is damaged, a newer release kept it, or it needs an own module
            that is not given.
    """
    where = f"uns[{key!r}]"
    if key not in adata.uns or ENERGY not in adata.uns[key]:
        raise ValueError(
            f"{where} holds no energy: learn one first, with cells.fit(adata, ...), or give one "
            "as model; anndata.concat keeps it with uns_merge='same'"
        )
    about = adata.uns[key]
    try:
        version = int(about[ENERGY]["schema_version"])
        description = json.loads(str(about[ENERGY]["description"]))
    except Exception as error:
        raise damaged(where, error) from error
    if version > NEWEST:
        raise ValueError(f"a newer release kept the energy in {where}: upgrade jkonet-diffusions")
    read = Blueprint.read(description, where, potential=potential, interaction=interaction)
    try:
        energy = read.energy(_arrays(about[ENERGY]["arrays"]))
        time_map = str(about["time_map"])
        return CellEnergy(
            energy,
            str(about["use_rep"]),
            str(about["time_key"]),
            json.loads(time_map) if time_map else None,
            str(about["time_unit"]),
            tuple(np.asarray(about.get("scale", ())).tolist()) or None,
            Differences.read(about[DIFFERENCES]) if DIFFERENCES in about else None,
        )
    except Exception as error:
        raise damaged(where, error) from error


def _arrays(held: Any) -> Any:
    """The tree of an energy, whatever mapping a file is read into."""

    def plain(tree: Any) -> Any:
        if isinstance(tree, Mapping):
            return {name: plain(value) for name, value in tree.items()}
        array = np.asarray(tree)
        if array.ndim == 0 and array.dtype.kind == "f":
            array = array.astype(precision)  # AnnData reads a single number in double precision
        return jnp.asarray(array)

    precision = np.asarray(held["times"]).dtype
    return plain(held)
