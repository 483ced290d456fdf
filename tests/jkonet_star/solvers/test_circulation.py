"""A circulation has no divergence, and makes a turning population turn."""

import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from checkpoints import load_energy, save_energy
from jkonet_star import Couplings, FeatureSettings, NetworkSettings, fit, snapshots_from_arrays
from jkonet_star.energies.circulation import MOST_PLANES, coordinate_planes, skew_basis
from jkonet_star.energies.models import NetworkEnergy, Units
from jkonet_star.fitted import FittedEnergy
from jkonet_star.settings import CouplingSettings
from jkonet_star.solvers.problem import prepare
from jkonet_star.solvers.registry import known_solver, with_circulation
from jkonet_star.transport.exact import wasserstein

MONOMIALS = FeatureSettings(degree=2, radial="none")
ANGLE = np.pi / 6
N = 200


def rotation(angle):
    return np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])


def turning(seed, n_snapshots=6):
    """N(0, diag(4, 1)), turned a step further in every snapshot: independent samples."""
    rng = np.random.default_rng(seed)
    return [(rng.normal(size=(N, 2)) * [2, 1]) @ rotation(k * ANGLE).T for k in range(n_snapshots)]


@pytest.fixture(scope="module")
def turned():
    return fit(
        snapshots_from_arrays(turning(0), dt=0.5),
        "jkonet-star-linear-potential",
        key=0,
        features=MONOMIALS,
        circulation=True,
    )


def test_a_population_that_turns_is_predicted_to_turn(turned):
    start, end, others = turning(1), turning(2), turning(3)

    def distance(of):
        pairs = zip(of, end[1:], strict=True)
        return np.mean([wasserstein(np.asarray(x), y) for x, y in pairs])

    predicted = [turned.predict(x, 1, start=k)[-1] for k, x in enumerate(start[:-1])]
    floor, still = distance(others[1:]), distance(start[:-1])
    assert distance(predicted) - floor < 0.1 * (still - floor)
    step = np.eye(2) + 0.5 * np.asarray(
        jax.jacfwd(lambda x: turned.drift(x[None])[0])(jnp.zeros(2))
    )
    assert np.abs(step - rotation(ANGLE)).max() < 0.12


def test_couplings_that_settle_are_made_as_they_were_asked_for():
    asked = CouplingSettings(method="sinkhorn", epsilon=0.05)
    problem = prepare(
        snapshots_from_arrays([x[:40] for x in turning(0, 2)]),
        with_circulation(known_solver("jkonet-star-linear-potential").make(features=MONOMIALS)),
        key=jax.random.key(0),
        features=MONOMIALS,
        coupling_settings=asked,
    )
    assert [step.method for step in problem.coupled] == ["sinkhorn"]
    # An entropic plan has many pairs, an exact one 40.
    assert problem.coupled[0].pairs > 80


def test_a_network_turns_with_it():
    energy = fit(
        snapshots_from_arrays(turning(0), dt=0.5),
        "jkonet-star-potential",
        key=0,
        network=NetworkSettings(hidden=(16,), epochs=150, learning_rate=1e-2),
        features=MONOMIALS,
        circulation=True,
    )
    x = np.random.default_rng(5).normal(size=(500, 2)).astype(np.float32)
    wanted = x @ (rotation(ANGLE) - np.eye(2)).T / 0.5
    relative = np.linalg.norm(energy.drift(x) - wanted) / np.linalg.norm(wanted)
    assert relative < 0.25
    moved = energy.predict(x, 1)[-1]
    np.testing.assert_allclose(moved, x + 0.5 * np.asarray(energy.drift(x)), atol=1e-5)


def network_energy():
    model = NetworkEnergy(dimension=3, hidden=(8,), circulation_planes=coordinate_planes(3))
    units = Units(jnp.ones(3), *(jnp.asarray(v) for v in (2.0, 3.0, 0.0, 1.0, 0.0, 0.0)))
    params = model.init(jax.random.key(0))
    return FittedEnergy(model, "explicit", params, units, jnp.arange(3.0))


def linear_energy():
    rng = np.random.default_rng(0)
    return fit(
        snapshots_from_arrays([rng.normal(size=(60, 3)) for _ in range(3)]),
        "jkonet-star-linear-potential",
        key=0,
        features=FeatureSettings(degree=2, radial_centers=3, regularization=1e-4),
        circulation=True,
    )


@pytest.mark.parametrize("made", [network_energy, linear_energy])
def test_it_has_no_divergence_and_survives_a_folder(made, tmp_path):
    energy = made()
    x = np.random.default_rng(1).normal(size=(20, 3)).astype(np.float32)
    jacobians = jax.jit(jax.vmap(jax.jacfwd(lambda x: energy.circulation(x[None])[0])))(x)
    size = np.abs(jacobians).max()
    assert size > 0.01
    assert np.abs(np.trace(jacobians, axis1=1, axis2=2)).max() < 1e-5 * size
    assert np.abs(jacobians - np.swapaxes(jacobians, 1, 2)).max() > 0.1 * size
    assert "circulation" in repr(energy)
    save_energy(tmp_path / "energy", energy)
    again = load_energy(tmp_path / "energy")
    np.testing.assert_array_equal(again.drift(x), energy.drift(x))


def test_known_pairs_are_believed():
    x = np.random.default_rng(0).normal(size=(100, 2))  # round: no law shows that it turns
    path = [x @ rotation(k * ANGLE).T for k in range(3)]
    rows = np.tile(np.arange(100), 2)
    pairs = Couplings(
        step=np.repeat([0, 1], 100), source=rows, target=rows, weight=np.full(200, 0.01)
    )
    energy = fit(
        snapshots_from_arrays(path),
        "jkonet-star-linear-potential",
        key=0,
        couplings=pairs,
        features=FeatureSettings(degree=2, radial="none", regularization=0.0),
        circulation=True,
    )
    np.testing.assert_allclose(energy.predict(x, 1)[-1], path[1], atol=1e-3)


def test_planes_are_skew_and_bounded():
    assert coordinate_planes(1) == ()
    assert coordinate_planes(3) == ((0, 1), (0, 2), (1, 2))
    assert len(coordinate_planes(6)) == len(coordinate_planes(50)) == MOST_PLANES
    basis = skew_basis(coordinate_planes(4), 4)
    np.testing.assert_array_equal(basis, -basis.transpose(0, 2, 1))
    assert np.linalg.matrix_rank(basis.reshape(6, -1)) == 6


@pytest.mark.parametrize(
    ("solver", "options", "said"),
    [
        ("jkonet-star-potential", {"scheme": "implicit"}, "explicit scheme"),
        ("jkonet-star", {}, "internal energy"),
        ("jkonet", {}, "Bilevel"),
        ("auto", {}, "Auto"),
    ],
)
def test_what_cannot_have_one_is_refused(solver, options, said):
    with pytest.raises(ValueError, match=said):
        fit(snapshots_from_arrays(turning(0, 2)), solver, key=0, circulation=True, **options)


def test_what_is_neither_true_nor_false_is_refused():
    snapshots = snapshots_from_arrays(turning(0, 2))
    plain = inspect.unwrap(fit)  # as users have it, whose types nobody checks
    with pytest.raises(ValueError, match="circulation must be true or false, got 'no'"):
        plain(snapshots, "jkonet-star-potential", key=jax.random.key(0), circulation="no")


def test_a_line_has_no_plane_to_turn_in():
    with pytest.raises(ValueError, match="dimension 1"):
        fit(
            snapshots_from_arrays([np.zeros((9, 1)), np.ones((9, 1))]),
            "jkonet-star-linear-potential",
            key=0,
            circulation=True,
        )
