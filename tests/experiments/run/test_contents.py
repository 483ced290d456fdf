"""What no run writes is told from what runs write, at every depth, and is never removed."""

import re
from pathlib import Path

import jax.numpy as jnp
import pytest

import experiments
from checkpoints import save_state
from checkpoints.networks import save_network
from data_generation.scripts.figures import VECTORS
from diffusions.networks.mlp import DenoisingMLP
from experiments.run.contents import CHECKPOINT, check_own, remove_own
from experiments.run.folder import open_run

FIGURE = re.compile(r'"([\w{}:]+\.png)"')


def opened(folder, **more):
    given = {"resume": False, "overwrite": False} | more
    return open_run(str(folder), "demo", "demo", {"seed": 0}, **given)


def contents(folder):
    return {p.relative_to(folder): p.is_file() and p.read_bytes() for p in folder.rglob("*")}


@pytest.fixture
def run(tmp_path):
    """An unfinished run with all that has an inside."""
    run = opened(tmp_path)
    run.log([{"epoch": 1, "loss": 1.5}])
    save_state(run.checkpoints, 3, {"w": jnp.ones(3)})
    module = DenoisingMLP(width=2, n_layers=1)
    for name in ("network", "regression/network", "denoiser"):
        save_network(run.path / name, module, {"params": {"w": jnp.ones(3)}}, {})
    for folder in ("plots", "evaluation_plots", "samples/plots"):
        (run.path / folder).mkdir(parents=True)
        (run.path / folder / "potential.png").write_bytes(b"png")
    (run.path / "samples" / "about.json").write_text("{}")
    return run


def test_what_runs_write_is_replaced(run, tmp_path):
    check_own(run.path)
    opened(tmp_path, overwrite=True).finish({})
    assert [p.name for p in tmp_path.iterdir()] == ["demo"]


@pytest.mark.parametrize(
    "place",
    [
        *("plots/mine.png", "plots/drafts/", "evaluation_plots/potential.svg", "samples/mine.npz"),
        *("tensorboard/mine.txt", "network/mine.txt", "network/network.json.bak", "denoiser/d/"),
        *("checkpoint/mine.txt", "checkpoint/3/mine.txt", "checkpoint/best/", "checkpoint/4"),
        *("network/arrays/mine.npy", "network/arrays/d/mine", "regression/network/mine.txt"),
        *("network/arrays/ocdbt.process_0/mine.txt", "samples/plots/mine.png"),
    ],
)
def test_what_is_foreign_below_a_run_is_named_and_left(place, run, tmp_path):
    thing = run.path / place.rstrip("/")
    if place.endswith("/"):
        thing.mkdir()
    else:
        thing.write_bytes(b"precious")
    before = contents(tmp_path)
    with pytest.raises(ValueError, match=rf"also holds {re.escape(place.rstrip('/'))}, which no"):
        opened(tmp_path, overwrite=True)
    assert contents(tmp_path) == before


def test_links_are_foreign_whatever_their_name(run, tmp_path):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (run.path / "plots" / "training.png").symlink_to(elsewhere / "gone.png")
    (run.path / "pilot").symlink_to(elsewhere)
    with pytest.raises(ValueError, match=r"also holds pilot, plots/training.png, which no run"):
        opened(tmp_path, overwrite=True)


def test_the_end_of_a_run_leaves_what_is_foreign_in_its_training_states(run):
    (run.checkpoints / "mine.txt").write_text("precious")
    with pytest.warns(UserWarning, match=r"checkpoint is left there: it also holds mine\.txt"):
        run.finish({})
    assert (run.checkpoints / "mine.txt").read_text() == "precious"


def test_what_came_into_a_replaced_run_later_stays(run, tmp_path):
    new = opened(tmp_path, overwrite=True)
    aside = tmp_path / ".demo.replaced-1"
    (aside / "plots" / "mine.txt").write_text("precious")
    with pytest.warns(UserWarning, match=r"replaced-1 is left there: it also holds plots/mine"):
        new.finish({})
    assert (aside / "plots" / "mine.txt").read_text() == "precious"


def test_folders_of_orbax_are_removed_as_a_whole(run, tmp_path):
    remove_own(run.checkpoints, CHECKPOINT)
    assert not run.checkpoints.exists()
    remove_own(tmp_path / "nothing")


def test_every_figure_that_a_script_draws_is_a_runs_own(run):
    """Otherwise --overwrite would refuse the project's own runs."""
    sources = Path(experiments.__file__).parent.rglob("*.py")
    scripts = (file for file in sources if file.parent.name != "reproductions")
    names = {name for file in scripts for name in FIGURE.findall(file.read_text())}
    assert len(names) > 15
    for name in names:
        file = run.path / "plots" / re.sub(r"{[^}]*}", "0012", name)
        file.write_bytes(b"png")
        file.with_suffix(VECTORS).write_bytes(b"pdf")
    check_own(run.path)
