import dataclasses
import itertools

import pytest
import yaml

from data_generation.populations.settings import FUNCTIONAL_NAMES
from experiments import sweep
from experiments.populations.learning_settings import PARTS, LearningSettings
from experiments.sweeps.settings import (
    GRIDS,
    Cell,
    Grid,
    SimulationSettings,
    cells_of,
    coupling_fields,
    grids_from_flags,
)
from jkonet_star.solvers.registry import SOLVERS

PAPER = set(FUNCTIONAL_NAMES) - {"zigzag_ridge", "watershed", "flowers", "wavy_plateau"}


def parsed(*arguments):
    """The flags of the script with these arguments."""
    values = sweep.FLAGS
    values.unparse_flags()
    for name in values:
        values[name].unparse()
    values(["", *arguments])
    return values


def cells(*grids, **simulation):
    return cells_of(grids, SimulationSettings(**simulation), LearningSettings())


def test_every_combination_is_one_run():
    grid = Grid(
        potentials=("sphere", "moon"),
        betas=(0.0, 0.5),
        dimensions=(2, 3),
        solvers=("jkonet-star", "jkonet-star-linear"),
        schemes=("explicit", "implicit"),
        seeds=(0, 1, 2),
    )
    found = cells(grid)
    expected = set(
        itertools.product(
            grid.potentials, grid.betas, grid.dimensions, grid.solvers, grid.schemes, grid.seeds
        )
    )
    assert len(found) == len(expected) == 96
    assert expected == {
        (c.data.potential, c.data.beta, c.data.dimension, c.solver, c.scheme, c.seed) for c in found
    }
    assert len({cell.name for cell in found}) == 96
    assert all(c.data.internal == ("wiener" if c.data.beta else "none") for c in found)


def test_overlapping_grids_share_their_runs():
    both = cells(Grid(seeds=(0, 1)), Grid(seeds=(1, 2)))
    assert [c.seed for c in both] == [0, 1, 2]


def test_couplings_are_words_or_epsilons():
    assert coupling_fields("exact") == {"coupling": "exact"}
    assert coupling_fields("0.25") == {"sinkhorn": 0.25}
    with pytest.raises(ValueError, match="-1"):
        coupling_fields("-1")
    with pytest.raises(ValueError, match="exct"):
        cells(Grid(couplings=("exct",)))


def test_variants_have_folders_of_their_own():
    cell = Cell(data="cells", solver="jkonet-star", scheme="implicit", seed=3)
    assert cell.name == "jkonet-star__implicit__cells__seed_3"
    assert dataclasses.replace(cell, variant="wide").name != cell.name


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"solvers": ("jkonet-star-potental",)}, "jkonet-star-potential"),
        ({"seeds": (1, 1)}, r"seeds names a value twice: \(1, 1\)"),
        ({"potentials": ()}, "potentials must have at least 1 entry"),
        ({"schemes": ("sideways",)}, "sideways"),
    ],
)
def test_a_bad_grid_is_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        Grid(**arguments)


def test_the_command_line_goes_before_the_file(tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text(
        "epochs: 7\nbatched: false\nsolvers: [jkonet-star-linear]\n"
        "grids:\n- potentials: [moon, beale]\n- seeds: [4, 5]\n"
    )
    values = parsed("--seeds=9", f"--grid={file}")
    grids = grids_from_flags(values, str(file))
    assert [g.seeds for g in grids] == [(9,), (9,)]
    assert [g.potentials for g in grids] == [("moon", "beale"), Grid().potentials]
    assert all(g.solvers == ("jkonet-star-linear",) for g in grids)
    assert values["epochs"].value == 7
    assert values["batched"].value is False
    assert grids_from_flags(parsed("--epochs=3", f"--grid={file}"), str(file))
    assert sweep.FLAGS["epochs"].value == 3


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("potental: [moon]", "did you mean potential"),
        ("seeds: [a]", "seeds"),
        ("grids: 3", "list of mappings"),
        ("[", "cannot be read"),
        ("- moon", "must map"),
        ("grids: [{epochs: 3}]", "unknown entry"),
        ("grids: [3]", "list of mappings"),
        ("grids: []", "list of mappings"),
        ("seeds: [1_0]", "each of '1_0' must be int"),
        ("seeds: [1:30]", "each of '1:30' must be int"),
        ("epochs: 1_0", "'1_0' is not a whole number"),
        ("dt: \uff11", "is not a number"),
        ("seeds: 3\nsolvers: []\nseeds: 4", "line 3: 'seeds' is given twice"),
        ("n-timesteps: 3\nn_timesteps: 4", "line 2: 'n_timesteps' is given twice"),
        ("grids: [{seeds: 1, seeds: 2}]", "'seeds' is given twice"),
        ("seeds: [[1], 2]", "line 1: seeds must be a text, a number or a list"),
        ("seeds: {a: 1}", "line 1: seeds must be a text"),
        ("seeds: !!python/object:os.system [1]", "seeds must be a text"),
        ("seeds: !!int 1", "seeds must be a text"),
        ("seeds:", "line 1: seeds has no value"),
        ("seeds: [1, ~]", "seeds has no value"),
        ("potentials: ['moon,beale']", "has a comma"),
        ("[a]: 3", "a name must be a text"),
        ("seeds: *a", "undefined alias"),
        ("a: &a [*a]", "a must be a text"),
        ("seeds: " + "[" * 100_000, "nested too deeply"),
        ("seeds: 1\n---\nseeds: 2", "expected a single document"),
        ("seeds: \x00", "special characters"),
        ("\ud800", "utf-8"),
        ("# " + "x" * (1 << 20), "too large: more than 1 MiB"),
        (
            "seeds: &s [" + ",".join(map(str, range(1000))) + "]\ngrids:\n" + "- seeds: *s\n" * 200,
            "more than 100000 values",
        ),
    ],
)
def test_a_bad_file_is_named(tmp_path, content, message):
    file = tmp_path / "bad.yaml"
    file.write_bytes(content.encode("utf-8", "surrogatepass"))
    with pytest.raises(ValueError, match=message) as error:
        grids_from_flags(parsed(), str(file))
    assert str(file) in str(error.value)


def test_an_alias_repeats_a_list(tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text("seeds: &s [1, 2]\ngrids:\n- data-seeds: *s\n- betas: [.5, 1e-3, '0']\n")
    grids = grids_from_flags(parsed(), str(file))
    assert [g.seeds for g in grids] == [(1, 2), (1, 2)]
    assert [g.data_seeds for g in grids] == [(1, 2), (0,)]
    assert grids[1].betas == (0.5, 1e-3, 0.0)


def test_a_missing_file_names_those_that_ship():
    with pytest.raises(ValueError, match="all_data, all_models"):
        grids_from_flags(parsed(), "all_dta")


@pytest.mark.parametrize(("name", "per_dataset"), [("all_data", 1), ("all_models", 9)])
def test_the_shipped_grids_are_the_nested_loops(name, per_dataset, monkeypatch):
    # The bilevel baselines belong to the loops.
    kind = SOLVERS["jkonet-star-potential"]
    for solver in ("jkonet", "jkonet-vanilla", "jkonet-monge-gap"):
        monkeypatch.setitem(SOLVERS, solver, SOLVERS.get(solver, kind))
    found = cells_of(grids_from_flags(parsed(), name), SimulationSettings(), LearningSettings())
    planar = 15 * 5 * 15
    assert len(found) == per_dataset * (planar + 15 * 25)
    assert {c.data.potential for c in found} == PAPER
    assert {c.data.interaction for c in found} == PAPER | {"none"}
    assert {c.data.internal for c in found} == {"wiener"}
    large = [c.data for c in found if c.data.dimension > 2]
    assert len(large) == per_dataset * 15 * 25
    assert {d.n_particles for d in large} == {1000, 2500, 5000, 7500, 10_000}
    assert {c.data.beta for c in found} == {0.0, 0.1, 0.2, 0.5, 1.0}
    assert found[0].dataset_name == (
        "potential_double_exp_internal_wiener_beta_0.0_interaction_double_exp"
        "_dt_0.01_T_5_dim_2_N_1000_gmm_10_seed_0"
    )


def test_shipped_grids_hold_nothing_but_flags():
    for file in GRIDS.glob("*.yaml"):
        assert set(yaml.safe_load(file.read_text())) - {"grids"} <= set(sweep.FLAGS)


def test_every_solver_is_told_what_decides_its_result():
    learning = LearningSettings()
    for solver in SOLVERS:
        told = learning.of(solver)
        assert told
        assert set(map(type, told)) <= set(PARTS.values())
