"""AnnData in, biology out: `cells.fit`, `cells.tl` for what it says of cells, `cells.pl` for pictures.

    from jkonet_star import cells
    model = cells.fit(adata, time_key="day")
    cells.tl.potential(adata)
    cells.tl.fates(adata, groups="cell_type", terminal=["A", "B"])
    cells.pl.fates(adata)

Everything is written into the AnnData object, under `jkonet`. Names are loaded on first use: whoever
only reads times loads no JAX.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jkonet_star.cells import plotting as pl
    from jkonet_star.cells import tools as tl
    from jkonet_star.cells.model import CellEnergy, fit, forget, keep, kept

__all__ = ["CellEnergy", "fit", "forget", "keep", "kept", "pl", "tl"]
_MODULES = {"pl": "plotting", "tl": "tools"}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    found = importlib.import_module(f"{__name__}.{_MODULES.get(name, 'model')}")
    return found if name in _MODULES else getattr(found, name)


def __dir__() -> list[str]:
    return sorted(__all__)
