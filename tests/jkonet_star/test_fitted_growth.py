"""Energies of populations that grow: two clusters that rest while their shares change."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from checkpoints import load_energy, save_energy
from jkonet_star import couple, evaluate, fit, snapshots_from_arrays
from jkonet_star.diagnostics import growth_warning
from jkonet_star.evaluation import predict_one_step_ahead, predict_snapshots
from jkonet_star.internal_energy.estimate import InternalEstimate
from jkonet_star.settings import (
    DensitySettings,
    FeatureSettings,
    GrowthSettings,
    NetworkSettings,
)
from jkonet_star.solvers.bilevel_batches import bilevel_data, draw_batches
from jkonet_star.solvers.problem import prepare

KEY = jax.random.key(0)
SHARES = (0.5, 0.65, 0.8, 0.9)
FASTER = np.diff(np.log(SHARES) - np.log1p(-np.asarray(SHARES)))
"""What the upper cluster grows faster by, in 1 / step."""
N = 300
QUICK = GrowthSettings(growth_prices=(0.25,), growth_rounds=12)
FEATURES = FeatureSettings(degree=2, radial_centers=4)
NETWORK = NetworkSettings(epochs=20, batch_size=100, hidden=(16,), optimizer="adam")
MASSES = (10.0, 14.0, 30.0, 55.0)


@functools.cache
def population():
    rng = np.random.default_rng(0)
    points = []
    for share in SHARES:
        x = rng.normal(size=(N, 2))
        x[:, 0] += np.where(np.arange(N) < round(N * share), 4.0, -4.0)
        points.append(x.astype(np.float32))
    return points, snapshots_from_arrays(points)


@functools.cache
def fitted(solver="jkonet-star-linear-potential", *, growth=True, seeds=1, masses=None):
    return fit(
        population()[1],
        solver,
        key=KEY if seeds == 1 else jax.random.split(KEY, seeds),
        features=FEATURES,
        network=NETWORK,
        growth=QUICK if growth else False,
        masses=masses,
    )


def upper(x):
    return np.asarray(x)[..., 0] > 0


def drift(energy):
    return np.mean([np.linalg.norm(energy.drift(x), axis=1).mean() for x in population()[0][:-1]])


def test_clusters_that_rest_are_at_rest_and_grow():
    energy, points = fitted(), population()[0]
    assert drift(energy) < 0.05
    # Without growth cells go from one to the other.
    assert drift(fitted(growth=False)) > 0.8
    for k, x in enumerate(points[:-1]):
        rates = np.asarray(energy.growth(x, k + 0.5))
        assert abs(rates.mean()) < 1e-5
        difference = rates[upper(x)].mean() - rates[~upper(x)].mean()
        assert difference == pytest.approx(FASTER[k], rel=0.1)
    assert "V + growth" in repr(energy)
    assert "relative" in repr(energy.report)
    assert energy.report.growth.least < -0.3 < 0.1 < energy.report.growth.most
    # The couplings have w_k as their marginals, and the report knows.
    assert max(step.marginal_error for step in energy.report.couplings) < 1e-4


def test_a_fit_without_growth_asks_whether_it_is_growth():
    points, snapshots = population()
    few = FeatureSettings(degree=1, radial="none")
    solve = functools.partial(fit, solver="jkonet-star-linear-potential", key=KEY, features=few)
    with pytest.warns(UserWarning, match=r"growth or transport\? \d+% of the particles") as said:
        solve(snapshots)
    assert sum("growth or transport" in str(one.message) for one in said) == 1
    # Nobody asks where it is learned.
    assert not any("growth or transport" in line for line in fitted().report.warnings)
    rng = np.random.default_rng(1)
    resting = [points[0], points[0] + rng.normal(size=(N, 2)) / 5]
    split = [x / 9 for x in points[:1]] + [points[0] / 9 + [9.0, 0.0] * np.sign(points[0])]
    for moving in (resting, split, [points[0], points[0] + [3.0, 2.0], points[0] + [6.0, 4.0]]):
        problem = prepare(snapshots_from_arrays(moving), "jkonet-star-potential", key=KEY)
        assert growth_warning(problem) is None


def test_weights_of_predictions_have_the_shares_and_keep_their_sum():
    energy, (points, snapshots) = fitted(), population()
    found = energy.predict_weighted(points[0], 3)
    weights = np.asarray(found.weights, np.float64)
    np.testing.assert_allclose(weights.sum(axis=1), 1.0, atol=1e-5)
    shares = (weights * upper(found.points)).sum(axis=1)
    np.testing.assert_allclose(shares, SHARES, atol=0.02)
    np.testing.assert_array_equal(energy.predict(points[0], 3), found.points)
    stack = jax.tree.map(lambda leaf: leaf[None], energy)
    predictions = predict_snapshots(stack, snapshots, KEY)
    for name in ("one_step", "cumulative"):
        inside = upper(getattr(predictions, name)[0])
        there = np.asarray(getattr(predictions, f"{name}_weights")[0], np.float64)
        np.testing.assert_allclose((there * inside).sum(axis=1), SHARES[1:], atol=0.02)
    np.testing.assert_allclose(predictions.cumulative_weights[0], found.weights[1:], rtol=1e-4)


def test_without_growth_mass_is_conserved_to_rounding():
    energy, (points, snapshots) = fitted(growth=False), population()
    weights = np.asarray(snapshots.weights)
    found = energy.predict_weighted(points[0], 3, weights=weights[0])
    np.testing.assert_array_equal(found.weights, np.tile(weights[0], (4, 1)))
    stack = jax.tree.map(lambda leaf: leaf[None], energy)
    predictions = predict_snapshots(stack, snapshots, KEY)
    np.testing.assert_array_equal(predictions.one_step_weights[0], weights[:-1])
    np.testing.assert_array_equal(predictions.cumulative_weights[0], np.tile(weights[0], (3, 1)))
    with pytest.raises(ValueError, match="learned without growth: fit it with growth=True"):
        energy.growth(points[0])


def test_scores_weigh_the_predicted_particles():
    scores = evaluate(fitted(), population()[1], key=KEY)
    assert scores["emd_one_step_ahead"]["mean"] < 0.6
    assert abs(scores["law"]["energy_distance"]["mean"]) < 0.03
    assert scores["law"]["variance_ratio"]["mean"] == pytest.approx(1.0, abs=0.1)
    # A tenth of the cells eight units away.
    assert scores["law"]["energy_distance"]["no_motion"] > 0.1
    # Over all three steps the shares go from a half to nine tenths.
    assert scores["emd_cumulative"]["per_step"][-1] < 0.7


def test_masses_make_rates_absolute_and_say_how_large_the_population_becomes():
    energy, points = fitted(masses=MASSES), population()[0]
    found = energy.predict_weighted(points[0], 3, weights=np.full(N, 10.0 / N, np.float32))
    np.testing.assert_allclose(np.asarray(found.weights).sum(axis=1), MASSES, rtol=0.05)
    step = energy.predict_weighted(points[1], start=1)
    assert step.weights[1].sum() == pytest.approx(MASSES[2] / MASSES[1], rel=1e-4)
    np.testing.assert_allclose(
        energy.growth(points[0], 0.5) - fitted().growth(points[0], 0.5),
        np.log(MASSES[1] / MASSES[0])
        - np.log(np.exp(np.asarray(fitted().growth(points[0], 0.5))).mean()),
        atol=1e-4,
    )
    assert "absolute" in repr(energy.report)


def test_networks_of_several_seeds_share_the_rate_and_come_back_from_disk(tmp_path):
    energies, x = fitted("jkonet-star-potential", seeds=2), population()[0][0]
    assert max(drift(energies.member(i)) for i in range(2)) < 0.05
    save_energy(tmp_path / "energies", energies)
    loaded = load_energy(tmp_path / "energies")
    assert loaded.report == energies.report
    for i in range(2):
        np.testing.assert_array_equal(
            loaded.member(i).growth(x, 0.5), fitted().growth(x, 0.5), strict=True
        )
    save_energy(tmp_path / "one", fitted(masses=MASSES))
    one = load_energy(tmp_path / "one")
    assert one.growth_rate.absolute
    np.testing.assert_array_equal(one.growth(x, 0.5), fitted(masses=MASSES).growth(x, 0.5))


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"growth": True, "couplings": True}, "give no couplings beside it"),
        ({"masses": MASSES}, "growth must be True"),
        ({"growth": QUICK, "masses": (1.0, 2.0)}, "masses must be 4 positive"),
    ],
)
def test_what_contradicts_growth_is_refused(arguments, said):
    snapshots = population()[1]
    if "couplings" in arguments:
        arguments = arguments | {"couplings": couple(snapshots, key=KEY)[0]}
    with pytest.raises(ValueError, match=said):
        fit(snapshots, key=KEY, **arguments)


def test_a_scheme_has_the_same_population_in_the_fit_and_in_predictions():
    """Before the growth of a step in the explicit scheme, after it in the others."""
    points, snapshots = population()
    half = jnp.float32(0.5)
    schemes = {"explicit": (0, half * 0), "implicit": (1, half * 2), "midpoint": (1, half)}
    learned = fitted("jkonet-star-linear-interaction")
    # Clusters that attract each other by |z|^2, in some unit.
    features = learned.model.interaction_features
    squares = [0.1 * (sorted(e) == [0, 2]) for e in features.exponents]
    params = {
        "interaction": jnp.zeros(features.n_features).at[: len(squares)].set(jnp.array(squares))
    }
    x = jnp.asarray(points[0])
    for scheme, (later, share) in schemes.items():
        energy = learned.replace(params=params, scheme=scheme)
        problem = prepare(
            snapshots, "jkonet-star-linear-interaction", key=KEY, scheme=scheme, growth=QUICK
        )
        given = problem.conditions
        weights = np.asarray(given.population_weights, np.float64)
        there = (weights * upper(given.population)).sum(axis=1)
        np.testing.assert_allclose(there, SHARES[later:][:3], atol=0.02)
        found = energy.predict_weighted(points[0])
        y = found.points[1]
        pulling = found.weights[later]
        place = x + share * (y - x)
        moved = energy.drift(place, weights=pulling, t=share)
        np.testing.assert_allclose(y - x, moved, atol=2e-3)
        # The other population is told apart by this.
        other = energy.drift(place, weights=found.weights[1 - later], t=share)
        assert np.abs(other - moved).mean() > 0.02
        stack = jax.tree.map(lambda leaf: leaf[None], energy)
        for predicted in (
            predict_snapshots(stack, snapshots, KEY).one_step,
            predict_one_step_ahead(stack, snapshots, KEY)[0],
        ):
            rows = np.lexsort(np.asarray(predicted[0, 0]).T)
            np.testing.assert_allclose(
                np.asarray(predicted[0, 0])[rows],
                np.asarray(y)[np.lexsort(np.asarray(y).T)],
                atol=1e-3,
            )


def test_a_beta_estimated_beside_growth_says_that_it_does_not_know_of_it(monkeypatch):
    def as_if_nothing_grew(*arguments, **settings):
        return InternalEstimate(
            beta=0.25,
            standard_error=0.1,
            paired=False,
            gain=0.0,
            drift_coefficients=np.zeros(0),
            iterations=1,
            converged=True,
        )

    monkeypatch.setattr(
        "jkonet_star.internal_energy.estimate.estimate_internal", as_if_nothing_grew
    )
    learn = functools.partial(
        fit,
        solver="jkonet-star-linear-potential-internal",
        features=FEATURES,
        density_settings=DensitySettings(n_components=1),
        key=KEY,
    )
    with pytest.warns(UserWarning, match=r"beta 0\.25 was estimated as if nothing grew") as said:
        grown = learn(population()[1], growth=QUICK).report
    assert sum("as if nothing grew" in str(one.message) for one in said) == 1
    assert grown.beta_without_growth
    assert "as if nothing grew" in repr(grown)
    assert any("as if nothing grew" in line for line in grown.warnings)
    resting = learn(population()[1]).report
    assert not resting.beta_without_growth
    assert "as if nothing grew" not in repr(resting)


def test_batches_that_follow_couplings_of_growth_have_the_law_of_every_snapshot():
    snapshots = population()[1]
    problem = prepare(snapshots, "jkonet", key=KEY, growth=QUICK)
    given = bilevel_data(
        problem.snapshots, problem.couplings, jnp.asarray(problem.growth.source_weights)
    )
    rows, weights = draw_batches(KEY, given, 1, N, matched=True)
    inside = np.take_along_axis(upper(problem.snapshots.points), np.asarray(rows[0]), axis=1)
    shares = (np.asarray(weights[0]) * inside).sum(axis=1)
    np.testing.assert_allclose(shares, SHARES, atol=0.02)
