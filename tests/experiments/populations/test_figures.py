"""Every figure shows something, in any dimension, whatever was learned."""

import dataclasses

import jax.numpy as jnp
import matplotlib.image
import numpy as np
import pytest

from experiments.populations.figures import (
    plot_interaction,
    plot_potential,
    plot_predictions,
    plot_training,
)
from jkonet_star.evaluation import KnownEnergy
from jkonet_star.fitted import FittedEnergy
from jkonet_star.snapshots import snapshots_from_arrays


@dataclasses.dataclass(frozen=True)
class Bowl:
    """V = depth |x - speed t|^2, U = depth |z|^2."""

    dimension: int
    time_varying: bool = False
    has_potential: bool = True
    has_interaction: bool = True
    internal: str = "none"

    def potential(self, params, constants, x, t):
        return params["depth"] * jnp.sum((x - 20.0 * self.time_varying * t) ** 2)

    def interaction(self, params, constants, z):
        return params["depth"] * jnp.sum(z**2)


def bowl(dimension, *, depth=1.0, n_steps=2, **kind):
    return FittedEnergy(
        model=Bowl(dimension, **kind),
        scheme="explicit",
        params={"depth": jnp.float32(depth)},
        constants={},
        times=jnp.linspace(0.0, 0.1, n_steps + 1),
    )


def cells(dimension, n_steps=2):
    """Snapshots of unequal size, so that there is padding."""
    rng = np.random.default_rng(0)
    arrays = [rng.normal(size=(60 + 5 * k, dimension)) + k for k in range(n_steps + 1)]
    return snapshots_from_arrays(arrays, np.linspace(0.0, 0.1, n_steps + 1))


TRUTHS = {
    "unknown": None,
    "known": KnownEnergy(
        potential=lambda x: jnp.sum(x**4), interaction=lambda z: jnp.sum(z**4), beta=0.0
    ),
    "zero": KnownEnergy(potential=None, interaction=None, beta=0.0),
}


def panels(file):
    """The grey values of a PNG, cut into columns of equal width per axes."""
    assert file.read_bytes().startswith(b"\x89PNG")
    return matplotlib.image.imread(file)[..., :3].mean(axis=-1)


def coloured(file):
    """Fraction of pixels with a colour: axes and letters have none."""
    pixels = matplotlib.image.imread(file)[..., :3]
    return float((np.ptp(pixels, axis=-1) > 0.1).mean())


@pytest.mark.parametrize("truth", TRUTHS)
@pytest.mark.parametrize("dimension", [1, 2, 3])
@pytest.mark.parametrize("plot", [plot_potential, plot_interaction])
def test_energies_are_drawn(plot, dimension, truth, tmp_path):
    file = tmp_path / "plots" / "energy.png"
    plot(file, bowl(dimension), TRUTHS[truth], cells(dimension))
    grey = panels(file)
    assert grey.std() > 0.01
    assert coloured(file) > (0.002 if dimension == 1 else 0.2)
    # The truth stands beside what was learned, or in the same axes in one dimension.
    wide = grey.shape[1] > 1.5 * grey.shape[0]
    assert wide == (dimension > 1 and truth != "unknown")


def test_another_energy_is_another_picture(tmp_path):
    for dimension in (1, 2):
        for name, truth in TRUTHS.items():
            plot_potential(tmp_path / f"{name}.png", bowl(dimension), truth, cells(dimension))
        files = [(tmp_path / f"{name}.png").read_bytes() for name in ("unknown", "known")]
        assert files[0] != files[1]


def test_a_potential_that_varies_has_a_panel_per_step(tmp_path):
    moving = bowl(2, n_steps=3, time_varying=True)
    plot_potential(tmp_path / "v.png", moving, None, cells(2, n_steps=3))
    grey = panels(tmp_path / "v.png")
    assert grey.shape[1] > 2.5 * grey.shape[0]
    third = grey.shape[1] // 3
    assert np.abs(grey[:, :third] - grey[:, -third:]).mean() > 0.02, "the bowl moved"
    plot_potential(tmp_path / "line.png", bowl(1, time_varying=True), None, cells(1))
    plot_potential(tmp_path / "still.png", bowl(1), None, cells(1))
    assert coloured(tmp_path / "line.png") > 1.5 * coloured(tmp_path / "still.png")


@pytest.mark.parametrize("has_potential", [True, False])
@pytest.mark.parametrize("dimension", [1, 2, 3])
def test_predictions_are_drawn_over_the_observations(dimension, has_potential, tmp_path):
    snapshots = cells(dimension)
    energy = bowl(dimension, has_potential=has_potential)
    near = np.asarray(snapshots.points[1:])
    for name, one_step in (("near", near), ("far", near + 0.5)):
        plot_predictions(tmp_path / f"{name}.png", energy, snapshots, one_step)
        grey = panels(tmp_path / f"{name}.png")
        assert grey.std() > 0.01
        assert grey.shape[1] > 1.5 * grey.shape[0], "two steps"
        assert coloured(tmp_path / f"{name}.png") > 0.002
    assert (tmp_path / "near.png").read_bytes() != (tmp_path / "far.png").read_bytes()


def test_padding_is_not_drawn(tmp_path):
    snapshots = cells(2)
    one_step = np.array(snapshots.points[1:])
    plot_predictions(tmp_path / "a.png", bowl(2), snapshots, one_step)
    one_step[np.asarray(snapshots.weights[:-1]) == 0] = 0.3
    plot_predictions(tmp_path / "b.png", bowl(2), snapshots, one_step)
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()


@pytest.mark.parametrize("dimension", [1, 2])
def test_a_diverged_energy_is_drawn_without_an_error(dimension, tmp_path):
    """The run is over and its numbers are reported: a figure must not be what fails."""
    snapshots = cells(dimension)
    lost = bowl(dimension, depth=np.nan)
    plot_potential(tmp_path / "v.png", lost, TRUTHS["known"], snapshots)
    plot_interaction(tmp_path / "u.png", lost, TRUTHS["known"], snapshots)
    one_step = np.array(snapshots.points[1:])
    one_step[0, :5] = np.inf
    one_step[1] = np.nan
    plot_predictions(tmp_path / "p.png", lost, snapshots, one_step)
    for name in "vup":
        assert panels(tmp_path / f"{name}.png").std() > 0.01


@pytest.mark.parametrize("n_seeds", [1, 3])
def test_training_has_a_line_per_seed(n_seeds, tmp_path):
    rows = [{"epoch": e, "loss": [1.0 / (e + s) for s in range(n_seeds)]} for e in range(1, 50)]
    rows += [{"epoch": e, "emd_one_step_ahead": [0.5] * n_seeds} for e in (25, 49)]
    plot_training(tmp_path / "t.png", rows)
    grey = panels(tmp_path / "t.png")
    half = grey.shape[1] // 2
    assert grey[:, :half].std() > 0.01
    assert grey[:, half:].std() > 0.01
    plot_training(
        tmp_path / "one.png", [{**r, "loss": r["loss"][:1]} if "loss" in r else r for r in rows]
    )
    assert (coloured(tmp_path / "t.png") > coloured(tmp_path / "one.png")) == (n_seeds > 1)


def test_training_that_diverged_or_did_not_begin_is_drawn(tmp_path):
    plot_training(tmp_path / "none.png", [])
    rows = [{"epoch": 1, "loss": ["nan", 1.0]}, {"epoch": 1, "emd_one_step_ahead": ["inf", 0.1]}]
    plot_training(tmp_path / "nan.png", rows)
    for name in ("none", "nan"):
        assert panels(tmp_path / f"{name}.png").std() > 0.01


def test_the_same_figure_twice_is_the_same_file(tmp_path):
    for name in ("a", "b"):
        plot_potential(tmp_path / f"{name}.png", bowl(2), None, cells(2))
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()


def test_many_steps_are_drawn_so_that_each_can_be_seen(tmp_path):
    snapshots = cells(2, n_steps=30)
    near = np.asarray(snapshots.points[1:])
    plot_predictions(tmp_path / "p.png", bowl(2, n_steps=30), snapshots, near)
    grey = panels(tmp_path / "p.png")
    assert grey.shape[1] < 2.5 * grey.shape[0]
