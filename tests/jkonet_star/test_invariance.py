"""What is learned depends neither on the units, nor on where zero is, nor on the order of particles."""

import jax
import numpy as np
import pytest

from jkonet_star.densities import fit_densities
from jkonet_star.evaluation import evaluate
from jkonet_star.fitting import fit
from jkonet_star.settings import (
    BilevelSettings,
    CouplingSettings,
    DensitySettings,
    FeatureSettings,
    NetworkSettings,
)
from jkonet_star.snapshots import snapshots_from_arrays
from jkonet_star.solvers.registry import AUTO, SOLVERS
from jkonet_star.transport.couplings import couple

KEY = jax.random.key(3)
# Their inner problems amplify rounding, from some starts beyond the tolerance.
BILEVEL_KEY = jax.random.key(5)
N, STEPS, TAU = 64, 3, 0.05
NETWORK = NetworkSettings(epochs=12, batch_size=32, hidden=(16,), interaction_samples=4)
BILEVEL = BilevelSettings(map_hidden=(8,), inner_steps=15, sinkhorn_iterations=20)
FEATURES = FeatureSettings(radial_centers=4)
LINEAR = [name for name, kind in SOLVERS.items() if not kind.trained]
# What auto chooses does not depend on them either: solvers/test_choice.py.
TRAINED = [name for name in SOLVERS if name not in (*LINEAR, AUTO)]


def simulated(beta=0.1):
    """Unordered snapshots in a double well, in double precision, and their times."""
    generator = np.random.default_rng(5)
    x = generator.uniform(-2, 2, (N, 2))
    states = [x]
    for _ in range(STEPS):
        slope = np.stack([x[:, 0] ** 3 - x[:, 0], 2.0 * x[:, 1]], axis=1)
        x = x - TAU * slope + np.sqrt(2 * beta * TAU) * generator.normal(size=x.shape)
        states.append(generator.permutation(x))
    return states, TAU * np.arange(STEPS + 1)


def learned(solver, states, times, probe):
    """At the probe points and a time of the data: drift, differences of V and U; and beta."""
    energy = fit(
        snapshots_from_arrays(states, times),
        solver,
        key=KEY if "star" in solver else BILEVEL_KEY,
        network=NETWORK,
        bilevel=BILEVEL,
        features=FEATURES,
        density_settings=DensitySettings(n_components=2),
    )
    t, population = float(times[1]), np.concatenate(states)
    drift = np.asarray(energy.drift(probe, population, t=t), np.float64)
    values = np.asarray(energy.potential(probe, t), np.float64)
    pairs = np.asarray(energy.interaction(np.float32(probe - probe[0])), np.float64)
    return drift, values - values[0] + pairs - pairs[0], float(energy.beta)


def assert_invariant(solver, *, scale=1.0, shift=0.0, clock=1.0, start=0.0, seed=None, tolerance):
    """x' = scale x + shift and t' = clock t + start change drifts by scale / clock and no more."""
    states, times = simulated()
    probe = states[0][:16]
    drift, values, beta = learned(solver, states, times, probe)
    moved = [scale * x + shift for x in states]
    if seed is not None:
        moved = [np.random.default_rng(seed + k).permutation(x) for k, x in enumerate(moved)]
    other = learned(solver, moved, clock * times + start, scale * probe + shift)
    size, height = np.sqrt(np.mean(drift**2)), np.abs(values).max()
    assert size > 0
    np.testing.assert_allclose(other[0] * (clock / scale), drift, atol=tolerance * size)
    unit = scale * (scale / clock)
    np.testing.assert_allclose(other[1] / unit, values, atol=tolerance * height)
    assert other[2] / unit == pytest.approx(beta, rel=tolerance, abs=1e-9)


@pytest.mark.parametrize(
    "change",
    [
        {"scale": 1e-12},
        {"scale": 1e-6},
        {"scale": 1e12},
        {"shift": 5.0},
        {"shift": np.array([1e6, -3e6])},
        {"shift": 1e8, "scale": 0.1},
        {"clock": 1e-6},
        {"clock": 1e6},
        {"start": 1e6},
        {"start": 1.7e9},
        {"seed": 1},
    ],
    ids=str,
)
def test_of_the_closed_form(change):
    assert_invariant("jkonet-star-linear-potential", **change, tolerance=2e-3)


EVERYTHING = {"scale": 1e-5, "shift": 300.0, "clock": 40.0, "start": 1.7e9, "seed": 2}


@pytest.mark.parametrize("solver", LINEAR)
def test_of_linear_solvers(solver):
    assert_invariant(solver, **EVERYTHING, tolerance=1e-2)


@pytest.mark.slow
@pytest.mark.parametrize("solver", TRAINED)
def test_of_trained_solvers(solver):
    assert_invariant(solver, **EVERYTHING, tolerance=2e-2)


@pytest.mark.parametrize("scheme", ["explicit", "implicit", "midpoint"])
def test_predictions_far_from_zero(scheme):
    states, times = simulated()
    snapshots = snapshots_from_arrays(states, times)
    near = fit(snapshots, "jkonet-star-linear-potential", key=KEY, features=FEATURES, scheme=scheme)
    shift = np.array([4e6, -1e7])
    snapshots = snapshots_from_arrays([x + shift for x in states], times + 1e6)
    far = fit(snapshots, "jkonet-star-linear-potential", key=KEY, features=FEATURES, scheme=scheme)
    expected = np.asarray(near.predict(states[0], 2), np.float64)
    found = far.predict(states[0] + shift, 2)
    assert found.dtype == np.float64
    np.testing.assert_allclose(found - shift, expected, atol=2e-3)
    # What is evaluated is stored relative to the origin, and compared there.
    results = [
        evaluate(e, snapshots_from_arrays([x + b for x in states], times + t), key=KEY)
        for e, b, t in ((near, 0.0, 0.0), (far, shift, 1e6))
    ]
    first, second = (r["emd_one_step_ahead"]["per_step"] for r in results)
    np.testing.assert_allclose(second, first, rtol=1e-3)
    # Another population of the same place, with an origin of its own.
    part = [x[:40] + shift for x in states]
    other = evaluate(far, snapshots_from_arrays(part, times + 1e6), key=KEY)
    same = evaluate(near, snapshots_from_arrays([x[:40] for x in states], times), key=KEY)
    np.testing.assert_allclose(
        other["emd_cumulative"]["mean"], same["emd_cumulative"]["mean"], rtol=1e-2
    )


@pytest.mark.parametrize("method", ["exact", "sinkhorn", "low-rank", "semidiscrete"])
def test_of_couplings(method):
    """Neither far away, nor with clouds far apart, nor in another unit or order."""
    states, times = simulated()
    settings = CouplingSettings(method=method, epsilon=0.01, rank=8)
    # The low-rank solver stops at a tolerance of its own; a particle weighs .016.
    tolerance = 5e-3 if method == "low-rank" else 2e-5
    reference = plan(states, times, settings)
    for moved in (
        [1e-6 * x for x in states],
        [x + 1e6 for x in states],
        [x + 1000.0 * k for k, x in enumerate(states)],
    ):
        np.testing.assert_allclose(plan(moved, times, settings), reference, atol=tolerance)
    order = np.random.default_rng(0).permutation(N)
    found = plan([states[0][order], *states[1:]], times, settings)
    np.testing.assert_allclose(found[0], reference[0][order], atol=tolerance)


def plan(states, times, settings):
    """Dense plans, (steps, n, n)."""
    couplings, reports = couple(snapshots_from_arrays(states, times), settings, key=KEY)
    assert all(r.converged and r.dropped_mass < 0.5 for r in reports)
    dense = np.zeros((STEPS, N, N))
    index = (np.asarray(couplings.step), np.asarray(couplings.source), np.asarray(couplings.target))
    np.add.at(dense, index, np.asarray(couplings.weight))
    return dense


@pytest.mark.parametrize("method", ["gmm", "kde"])
def test_of_densities(method):
    states, times = simulated()
    scores = []
    for scale, shift in ((1.0, 0.0), (1e-8, 0.0), (1e9, 0.0), (2.0, 1e6)):
        snapshots = snapshots_from_arrays([scale * x + shift for x in states], times)
        settings = DensitySettings(method=method, n_components=2)
        densities = fit_densities(snapshots, settings, key=KEY)
        scores.append(scale * np.asarray(densities.score(1, snapshots.points[0, 3])))
    np.testing.assert_allclose(scores[1:], np.tile(scores[0], (3, 1)), rtol=2e-3)
