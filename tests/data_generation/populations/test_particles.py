"""Simulated populations against closed forms and moments."""

from pathlib import Path
from typing import get_args

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from data_generation.images.batches import mirrored
from data_generation.images.mask_settings import MaskPattern, MaskSettings
from data_generation.images.masks import sparse_masks
from data_generation.populations.particles import drift, simulate
from data_generation.populations.settings import FUNCTIONAL_NAMES
from data_generation.sparse_rank_one import sample_keys, sparse_vectors, symmetric_noise
from diffusions.keys import named_key

KEY = jax.random.key(0)
SMALL = {"n_particles": 40, "dimension": 2, "n_timesteps": 3, "dt": 0.01}


def simulated(key=KEY, **changes):
    return np.asarray(simulate(key, **{"potential": "none", **SMALL, **changes}), np.float64)


def test_initial_particles_are_uniform_on_the_box():
    x = simulated(n_particles=20_000)[0]
    assert np.abs(x).max() <= 4
    assert np.abs(x.mean(axis=0)).max() < 5 * np.sqrt(16 / 3 / 20_000)
    # Fourth moment over squared second: 9/5 for a uniform law, 3 for a Gaussian one.
    np.testing.assert_allclose((x**4).mean(axis=0) / (x**2).mean(axis=0) ** 2, 1.8, atol=0.05)


@pytest.mark.parametrize("substeps", [1, 4])
@pytest.mark.parametrize("unpaired", [False, True])
def test_a_quadratic_potential_multiplies_by_its_factor(substeps, unpaired):
    x = simulated(potential="sphere", substeps=substeps, n_particles=4000, unpaired=unpaired)
    factor = (1 + 20 * 0.01 / substeps) ** substeps  # -grad of -10 |x|^2 is 20 x
    if unpaired:
        scales = np.sqrt((x**2).mean(axis=(1, 2)) / (16 / 3))
        np.testing.assert_allclose(scales, factor ** np.arange(4), rtol=0.03)
    else:
        np.testing.assert_allclose(x[1:], factor * x[:-1], rtol=1e-5)


@pytest.mark.parametrize("substeps", [1, 5])
def test_increments_of_pure_diffusion_have_variance_two_beta_dt(substeps):
    n, beta, dt = 20_000, 0.7, 0.02
    x = simulated(
        potential="flat", beta=beta, n_particles=n, n_timesteps=2, dt=dt, substeps=substeps
    )
    increments = np.diff(x, axis=0)
    error = 5 * np.sqrt(2 / n)  # relative, of a variance
    np.testing.assert_allclose(increments.var(axis=1), 2 * beta * dt, rtol=error)
    assert np.abs(increments.mean(axis=1)).max() < 5 * np.sqrt(2 * beta * dt / n)
    # Independent in time, between coordinates and of the position.
    columns = np.concatenate([increments[0], increments[1], x[0]], axis=1)
    correlation = np.corrcoef(columns.T) - np.eye(6)
    assert np.abs(correlation).max() < 5 / np.sqrt(n)


@pytest.mark.parametrize("unpaired", [False, True])
def test_diffusion_spreads_the_population(unpaired):
    n, beta, dt = 20_000, 20.0, 0.05
    x = simulated(beta=beta, n_particles=n, dt=dt, unpaired=unpaired)
    expected = 16 / 3 + 2 * beta * dt * np.arange(4)
    np.testing.assert_allclose(x.var(axis=(1, 2)), expected, rtol=0.04)


def test_interaction_is_the_dense_mean_of_grad_u_itself():
    """oakley_ohagan is not even, so the sign of the difference and symmetrisation would show."""
    x = simulated(interaction="oakley_ohagan", n_particles=300)
    for before, after in zip(x[:-1], x[1:], strict=True):
        v = before[:, None] - before[None]
        drift = -(5 * (np.cos(v) - np.sin(v) + 2 * v + 1)).mean(axis=1)
        np.testing.assert_allclose(after - before, 0.01 * drift, rtol=2e-4, atol=2e-5)


def test_potential_interaction_and_noise_add():
    kinds = {"potential": "styblinski_tang", "interaction": "sphere", "beta": 0.3}
    steps = {}
    for name in (*kinds, "all"):
        chosen = kinds if name == "all" else {name: kinds[name]}
        x = simulated(n_timesteps=1, **chosen)
        steps[name] = x[1] - x[0]
    total = steps["potential"] + steps["interaction"] + steps["beta"]
    np.testing.assert_allclose(steps["all"], total, atol=1e-5)


def test_substeps_converge_to_the_flow():
    """Gradient flow of -10 |x|^2 is x exp(20 t); Euler's error is of first order."""
    exact = np.exp(20 * 0.03)
    errors = []
    for substeps in (10, 20, 40):
        x = simulated(potential="sphere", substeps=substeps)
        errors.append(np.abs(x[3] / x[0] - exact).max())
    ratios = np.array(errors[:-1]) / errors[1:]
    np.testing.assert_allclose(ratios, 2, rtol=0.1)


def test_the_key_decides_everything():
    noisy = {"potential": "sphere", "beta": 0.1}
    first, again = simulated(**noisy), simulated(**noisy)
    np.testing.assert_array_equal(first, again)
    assert not np.isclose(simulated(jax.random.key(1), **noisy), first).any()
    assert not np.isclose(simulated(named_key(KEY, "test"), **noisy), first).any()


def test_a_longer_simulation_begins_with_the_shorter_one():
    short = simulated(potential="sphere", beta=0.1, n_timesteps=2)
    long = simulated(potential="sphere", beta=0.1, n_timesteps=4)
    np.testing.assert_allclose(long[:3], short, rtol=1e-6)


def test_unpaired_snapshots_share_no_particle():
    n = 4000
    paired = simulated(potential="sphere", n_particles=n)
    unpaired = simulated(potential="sphere", n_particles=n, unpaired=True)
    assert np.corrcoef(paired[:, :, 0])[0, 3] > 0.9999
    off_diagonal = np.corrcoef(unpaired[:, :, 0]) - np.eye(4)
    assert np.abs(off_diagonal).max() < 5 / np.sqrt(n)


def test_divergence_names_the_potential_and_the_step():
    with pytest.raises(ValueError, match=r"'styblinski_tang'.*time step of 0.5.*--substeps"):
        simulated(potential="styblinski_tang", dt=0.5, n_timesteps=9)


def test_unknown_energies_are_named():
    with pytest.raises(ValueError, match="did you mean sphere"):
        simulated(potential="spere")
    with pytest.raises(ValueError, match="'nothing'"):
        simulated(interaction="nothing")


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["potential", "interaction"])
@pytest.mark.parametrize("name", FUNCTIONAL_NAMES)
def test_every_energy_simulates_at_the_default_step(name, kind):
    # As an interaction, the polynomials of degree six meet differences up to 8: a stiff drift.
    substeps = 10 if kind == "interaction" else 1
    x = simulated(**{kind: name}, n_particles=100, n_timesteps=5, substeps=substeps)
    moved = np.abs(np.diff(x, axis=0)).max()
    assert (moved == 0) == (name == "flat")


def test_one_dimension():
    x = simulated(potential="watershed", dimension=1)
    v = x[:-1]
    # d/dv of (v + v^2 (v + 4)) / 10
    np.testing.assert_allclose(x[1:] - v, -0.01 * (1 + 3 * v**2 + 8 * v) / 10, rtol=1e-3, atol=2e-6)


def test_results_are_float32_on_the_device():
    snapshots = simulate(KEY, potential="none", **SMALL)
    assert isinstance(snapshots, jax.Array)
    assert snapshots.dtype == jnp.float32


PUBLISHED = Path(__file__).parents[4] / "shared" / "data" / "jkonet_star_reference"


@pytest.mark.skipif(not PUBLISHED.is_dir(), reason="the published code's snapshots are not here")
@pytest.mark.parametrize(
    "name", ["styblinski_tang", "double_exp", "holder_table", "relu", "sphere", "flat"]
)
def test_the_drift_is_that_of_the_published_snapshots(name):
    with np.load(PUBLISHED / f"{name}.npz") as data:
        x, dt = data["train"], float(data["dt"])
    for before, after in zip(x[:-1], x[1:], strict=True):
        moved = dt * np.asarray(drift(jnp.asarray(before), potential=name, interaction="none"))
        scale = np.abs(before).max() + np.abs(moved).max()
        np.testing.assert_allclose(before + moved, after, atol=1e-5 * scale)


def drawn():
    """Of every generator that draws by JAX."""
    key = jax.random.key(4)
    some = {"beta": 0.1, "n_particles": 20, "n_timesteps": 2}
    populations = [
        simulate(key, potential="flowers", interaction="sphere", **some),
        simulate(key, potential="none", unpaired=True, **some),
    ]
    masks = [
        sparse_masks(
            key, 1, jnp.arange(2), shape=(8, 8, 1), settings=MaskSettings(mask_pattern=pattern)
        )
        for pattern in get_args(MaskPattern)
    ]
    vectors = sparse_vectors(sample_keys(key, 0, 8), 12, 3)
    flips = mirrored(key, jnp.arange(32.0, dtype=jnp.float32).reshape(8, 1, 4, 1))
    noise = symmetric_noise(sample_keys(key, 0, 2), 5)
    return jax.tree.map(np.asarray, (populations, masks, vectors, flips, noise))


@pytest.fixture
def drawn_in_single_precision():
    return drawn()


def test_double_precision_draws_the_same_data(drawn_in_single_precision, double_precision):
    """A dataset's folder is named by its arguments, whatever mode JAX is in."""
    jax.tree.map(np.testing.assert_array_equal, drawn(), drawn_in_single_precision)
