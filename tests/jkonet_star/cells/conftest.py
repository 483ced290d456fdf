"""A small simulated experiment, and an energy learned from it."""

import warnings

import pytest

from data_generation.populations.simulated_cells import simulated_cells
from jkonet_star import cells


@pytest.fixture(scope="session")
def simulated():
    """To be copied, not changed."""
    return simulated_cells(0, n_cells=500, n_genes=220)


@pytest.fixture(scope="session")
def learned(simulated):
    """The same with an energy in closed form in its `uns`, with growth and replicates."""
    data = simulated.copy()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        cells.fit(
            data,
            time_key="day",
            n_components=4,
            solver="jkonet-star-linear-potential",
            growth=True,
            masses=data.uns["masses"],
            bootstrap=19,
        )
    return data


@pytest.fixture
def adata(learned):
    """An own copy."""
    return learned.copy()
