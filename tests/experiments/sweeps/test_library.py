import dataclasses

import jax
import numpy as np
import pytest
from threadpoolctl import threadpool_info

from data_generation.populations.settings import DataSettings
from experiments.populations.learning_settings import LearningSettings
from experiments.sweeps import library as library_module
from experiments.sweeps.library import Library
from experiments.sweeps.settings import Cell
from jkonet_star.settings import FeatureSettings

SOLVER = "jkonet-star-linear-potential-internal"


@pytest.fixture
def cells(tmp_path):
    learning = LearningSettings(features=FeatureSettings(degree=2, radial="none"))
    return [
        Cell(
            data=DataSettings(
                potential=potential,
                n_particles=60,
                n_timesteps=2,
                n_gmm_components=2,
                data_dir=str(tmp_path / "data"),
            ),
            data_dir=str(tmp_path / "data"),
            solver=SOLVER,
            seed=seed,
            learning=learning,
        )
        for potential in ("sphere", "relu", "flat")
        for seed in (3, 1)
    ]


def leaves(problem):
    """Everything in a problem that is a number."""
    estimate = dataclasses.asdict(problem.internal)
    held = (problem.conditions, problem.couplings, problem.snapshots, estimate)
    return [np.asarray(leaf) for leaf in jax.tree.leaves(held) if not isinstance(leaf, str)]


def test_problems_made_together_are_those_made_alone(cells, monkeypatch):
    alone, together = Library(), Library()
    expected = [leaves(alone.problem(cell)) for cell in cells]
    made = []
    own = library_module.prepare_problem

    def told(solver, scheme, seed, *rest):
        made.append(seed)
        return own(solver, scheme, seed, *rest)

    monkeypatch.setattr(library_module, "prepare_problem", told)
    limits = [pool["num_threads"] for pool in threadpool_info()]
    together.prepare(cells, at_once=3)
    assert [pool["num_threads"] for pool in threadpool_info()] == limits
    assert together.taken(cells[0]) > 0
    assert together.taken(cells[0]) == 0
    # Once for each dataset, by the first of its seeds, as whoever asks first has it.
    assert made == [3, 3, 3]
    for cell, one in zip(cells, expected, strict=True):
        found = leaves(together.problem(cell))
        assert len(found) == len(one) > 10
        for a, b in zip(found, one, strict=True):
            np.testing.assert_array_equal(a, b)
    assert made == [3, 3, 3]
    together.prepare(cells, at_once=3)
    assert made == [3, 3, 3]


def test_what_cannot_be_made_is_said_to_whoever_asks(cells):
    broken = [dataclasses.replace(cells[0], data="nowhere"), *cells[2:]]
    library = Library()
    library.prepare(broken, at_once=2)
    with pytest.raises(ValueError, match="nowhere"):
        library.problem(broken[0])
    library.problem(cells[2])


def test_a_preparation_that_fails_is_not_tried_again_for_the_next_group(cells, monkeypatch):
    tried = []

    def fails(*arguments):
        tried.append(arguments)
        raise RuntimeError("no")

    monkeypatch.setattr(library_module, "prepare_problem", fails)
    library = Library()
    for _ in range(2):
        library.prepare(cells[:1], at_once=2)
    assert len(tried) == 1
    with pytest.raises(RuntimeError, match="no"):
        library.problem(cells[0])
