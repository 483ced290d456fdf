"""The law of the predictions, and energies that are refined by it."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.spatial.distance import cdist

from jkonet_star.diagnostics import explanation
from jkonet_star.fitting import fit
from jkonet_star.settings import (
    BilevelSettings,
    DensitySettings,
    FeatureSettings,
    NetworkSettings,
    RefinementSettings,
)
from jkonet_star.snapshots import snapshots_from_arrays
from jkonet_star.solvers.learning import learn, train, with_noise
from jkonet_star.solvers.network import Network
from jkonet_star.solvers.problem import prepare
from jkonet_star.solvers.refinement import Refining, energy_distance
from jkonet_star.solvers.registry import Terms
from jkonet_star.solvers.side_by_side import SideBySide

KEY = jax.random.key(0)
SMALL = NetworkSettings(epochs=3, hidden=(16,), batch_size=100)
REFINED = RefinementSettings(refine=200, refine_batch_size=64, refine_learning_rate=0.02)


def spreading(n=150, steps=2, seed=0):
    """Independent samples of N(0, s_k^2), s = 1, 1.5, 2.25, ...: x -> 1.5 x, and no two pairs alike."""
    rng = np.random.default_rng(seed)
    return snapshots_from_arrays(
        [1.5**k * rng.normal(size=(n, 2)) for k in range(steps + 1)], np.arange(steps + 1.0)
    )


def ratios(energy, snapshots, key=None):
    """Variance of every predicted snapshot over that of the observed one."""
    points = [np.asarray(p) for p in snapshots.points]
    return [
        float(
            np.asarray(energy.predict(x, 1, start=k, key=key)[-1]).var(axis=0).sum()
            / y.var(axis=0).sum()
        )
        for k, (x, y) in enumerate(zip(points, points[1:], strict=False))
    ]


def none_alike(n):
    return jnp.eye(n, dtype=bool)


@pytest.mark.parametrize("exponent", [0.25, 0.5, 1.0, 1.5])
def test_the_energy_distance_is_that_of_all_pairs(exponent):
    rng = np.random.default_rng(1)
    x, y = rng.normal(size=(40, 3)), 1e3 + rng.normal(size=(30, 3))

    def apart(x, y):
        return cdist(x, y) ** exponent

    for shift in (0.0, 1e3):  # beside the others, and far from them
        a, b = x + shift, y
        within = apart(a, a).sum() / (40 * 39) + apart(b, b).sum() / (30 * 29)
        expected = 2 * apart(a, b).mean() - within
        found = energy_distance(
            jnp.float32(a), jnp.float32(b), none_alike(40), none_alike(30), exponent=exponent
        )
        # So far away, single precision tells near particles badly apart: a small exponent sees it.
        rel = 1e-4 if exponent >= 1 else 3e-3
        assert float(found) == pytest.approx(expected, rel=rel, abs=2e-3)


def test_the_energy_distance_of_one_law_is_zero_also_where_a_particle_is_drawn_twice():
    rng = np.random.default_rng(2)
    population = rng.normal(size=(60, 2))
    values, biased = [], []
    for _ in range(300):
        rows = rng.integers(0, 60, size=(2, 50))
        x, y = (jnp.float32(population[r]) for r in rows)
        same = [jnp.asarray(r[:, None] == r) for r in rows]
        values.append(float(energy_distance(x, y, *same)))
        biased.append(float(energy_distance(x, y, none_alike(50), none_alike(50))))
    # Between draws of one finite population: the pairs of different particles, on both sides, less
    # all pairs. Without the masks the copies count as close.
    spread = cdist(population, population)
    expected = 2 * spread.mean() - 2 * spread.sum() / (60 * 59)
    assert np.mean(values) == pytest.approx(expected, abs=4 * np.std(values) / np.sqrt(300))
    assert np.mean(biased) > np.mean(values) + 4 * np.std(values) / np.sqrt(300)


@pytest.mark.parametrize("exponent", [0.5, 1.0])
def test_the_gradient_of_the_energy_distance_is_that_of_differences(exponent):
    rng = np.random.default_rng(3)
    x, y = jnp.float32(rng.normal(size=(12, 2))), jnp.float32(rng.normal(size=(9, 2)))

    def value(x):
        return energy_distance(x, y, none_alike(12), none_alike(9), exponent=exponent)

    slope = np.asarray(jax.grad(value)(x))
    for i, k in ((0, 0), (5, 1), (11, 0)):
        h = np.zeros(x.shape)
        h[i, k] = 1e-2
        central = (float(value(jnp.float32(x + h))) - float(value(jnp.float32(x - h)))) / 2e-2
        assert slope[i, k] == pytest.approx(central, abs=2e-3)


@pytest.mark.parametrize("scheme", ["explicit", "implicit"])
def test_a_network_that_shrinks_the_population_no_longer_does(scheme):
    snapshots = spreading()

    def learned(refinement):
        return fit(snapshots, key=KEY, scheme=scheme, network=SMALL, refinement=refinement)

    before = ratios(learned(RefinementSettings()), snapshots)
    energy = learned(REFINED)
    after = ratios(energy, snapshots)
    assert max(before) < 0.75
    assert after == pytest.approx([1.0, 1.0], abs=0.12)
    assert energy.report.refinement_steps == 200
    assert abs(energy.report.members[0].refinement_loss) < 0.05
    assert "refined in 200 steps" in repr(energy)


def test_linear_energies_are_refined_whatever_the_scale_of_their_features():
    snapshots = spreading()
    features = FeatureSettings(degree=4, radial="none", regularization=10.0)

    def learned(refinement):
        return fit(
            snapshots,
            "jkonet-star-linear-potential",
            key=KEY,
            features=features,
            refinement=refinement,
        )

    assert max(ratios(learned(RefinementSettings()), snapshots)) < 0.85
    assert ratios(learned(REFINED), snapshots) == pytest.approx([1.0, 1.0], abs=0.12)


def test_a_refinement_repeats_itself_and_may_be_cut_anywhere():
    snapshots = spreading(n=60)
    problem = prepare(snapshots, "jkonet-star-potential", key=KEY)
    keys = jax.random.split(KEY, 2)
    start = learn(Network(network=SMALL), problem, keys, RefinementSettings()).energies
    settings = RefinementSettings(refine=7, refine_batch_size=32, rollout=2)
    refining = Refining(settings, problem, start)
    whole, losses = refining.advance(refining.initial(keys), keys, 7)
    first, _ = refining.advance(refining.initial(keys), keys, 3)
    cut, rest = refining.advance(first, keys, 4)
    for one, two in zip(jax.tree.leaves(whole), jax.tree.leaves(cut), strict=True):
        np.testing.assert_array_equal(one, two)
    np.testing.assert_array_equal(losses["loss"][:, 3:], rest["loss"])
    # Several steps at once are another loss.
    single = Refining(dataclasses.replace(settings, rollout=1), problem, start)
    _, others = single.advance(single.initial(keys), keys, 1)
    assert not np.allclose(others["loss"][:, 0], losses["loss"][:, 0])


def test_problems_that_are_refined_side_by_side_are_as_each_alone():
    """Also with a noise of each of their own."""
    problems = [
        prepare(spreading(n=40, seed=seed), "jkonet-star-potential", key=KEY) for seed in (0, 1)
    ]
    keys, brief = jax.random.split(KEY, 2), dataclasses.replace(REFINED, refine=3)
    solver = Network(terms=Terms(potential=True), network=SMALL)
    both = learn(solver, problems, keys, brief)
    start = np.asarray([-3.0, 1.0])
    first, _ = train(SideBySide(solver, problems), keys)
    noisy, _ = train(Refining(brief, problems, with_noise(first, start)), keys)
    for i, own in enumerate(problems):
        alone = learn(solver, own, keys[i : i + 1], brief)
        same = jax.tree.map(lambda leaf, i=i: leaf[i : i + 1], first)
        also, _ = train(Refining(brief, own, with_noise(same, start[i])), keys[i : i + 1])
        for joint, single in ((both.energies, alone.energies), (noisy, also)):
            found, expected = jax.tree.leaves(joint.member(i)), jax.tree.leaves(single.member(0))
            for one, other in zip(found, expected, strict=True):
                np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)


def test_noise_is_found_by_the_law():
    """Nothing pushes: the variance grows by 2 beta a step, and V, held at zero, cannot help."""
    rng = np.random.default_rng(4)
    snapshots = snapshots_from_arrays(
        [np.sqrt(0.2 + 0.5 * k) * rng.normal(size=(4000, 2)) for k in range(4)], np.arange(4.0)
    )
    problem = prepare(snapshots, "jkonet-star-potential", key=KEY)
    keys = KEY[None]
    start = with_noise(learn(Network(network=SMALL), problem, keys, RefinementSettings()).energies)
    still = jax.tree.map(jnp.zeros_like, start.params["potential"])
    start = start.replace(params={**start.params, "potential": still})
    settings = RefinementSettings(
        refine=250, refine_batch_size=128, refine_learning_rate=0.005, first_order_weight=0.0
    )
    refining = Refining(settings, problem, start)
    state, _ = refining.advance(refining.initial(keys), keys, 250)
    energy = refining.energies(state).member(0)
    # A network of zero weights has zero gradients but for its last bias, which moves nothing.
    np.testing.assert_allclose(energy.drift(snapshots.points[0], t=0.0), 0.0, atol=1e-6)
    assert float(energy.beta) == pytest.approx(0.25, rel=0.1)


def test_the_first_order_solution_of_exact_data_stays_as_good():
    """x -> x - tau x exactly, paired: there is nothing to gain, and nothing may be lost."""
    rng = np.random.default_rng(5)
    x = rng.normal(size=(200, 2))
    states = [x, 0.9 * x, 0.81 * x]
    snapshots = snapshots_from_arrays(states, [0.0, 0.1, 0.2])
    settings = NetworkSettings(epochs=200, hidden=(32,), batch_size=100)

    def error(refinement):
        energy = fit(snapshots, key=KEY, network=settings, refinement=refinement)
        return float(np.sqrt(np.mean((np.asarray(energy.drift(states[0])) + x) ** 2)))

    refined = RefinementSettings(refine=60, refine_batch_size=128)
    assert error(refined) < max(1.1 * error(RefinementSettings()), 0.03)


def test_a_refinement_that_diverges_says_so_and_keeps_the_last_sound_step():
    with pytest.warns(UserWarning, match="refinement diverged in step"):
        energy = fit(
            spreading(n=40),
            key=KEY,
            network=SMALL,
            refinement=RefinementSettings(refine=8, refine_learning_rate=1e12),
        )
    assert np.isfinite(np.asarray(energy.drift(np.zeros((3, 2))))).all()
    assert any("refinement diverged" in line for line in energy.report.warnings)


@pytest.mark.parametrize(
    "wrong",
    [
        {"refine": -1},
        {"rollout": 0},
        {"refine_batch_size": 1},
        {"refine_learning_rate": 0.0},
        {"first_order_weight": -0.1},
        {"refine_exponent": 0.0},
        {"refine_exponent": 2.0},
    ],
)
def test_settings_that_make_no_sense_are_refused(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        RefinementSettings(**wrong)


def test_noise_that_explains_the_motion_is_no_fault():
    """Isotropic spreading: with beta found by the refinement nothing is left to explain."""
    rng = np.random.default_rng(6)
    snapshots = snapshots_from_arrays(
        [np.sqrt(0.2 + 0.5 * k) * rng.normal(size=(500, 2)) for k in range(3)], np.arange(3.0)
    )
    problem = prepare(snapshots, "jkonet-star-potential", key=KEY)
    start = learn(Network(network=SMALL), problem, KEY[None], RefinementSettings()).energies
    still = jax.tree.map(jnp.zeros_like, start.params["potential"])
    # softplus(b) of the true beta, in the units of the data.
    b = float(np.log(np.expm1(0.25 / np.asarray(start.constants.noise)[0])))
    energies = with_noise(start.replace(params={"potential": still}), b)
    found = explanation(problem, energies)
    assert found.no_motion > 3 * found.chance
    assert found.predicted[0] < 2 * found.chance
    assert found.warning() is None


def test_what_does_not_fit_into_memory_is_refused():
    snapshots = spreading(n=40)
    with pytest.raises(ValueError, match="refine-batch-size"):
        fit(
            snapshots,
            key=KEY,
            network=SMALL,
            refinement=RefinementSettings(refine=1, refine_batch_size=100_000, rollout=2),
        )


@pytest.mark.parametrize("solver", ["jkonet", "jkonet-star-linear-interaction", "jkonet-star"])
def test_energies_of_every_kind_are_refined(solver):
    energy = fit(
        spreading(n=40),
        solver,
        key=KEY,
        network=NetworkSettings(epochs=1, hidden=(8,)),
        bilevel=BilevelSettings(map_hidden=(8,), inner_steps=5, sinkhorn_iterations=5),
        features=FeatureSettings(degree=2, radial="none"),
        refinement=RefinementSettings(refine=3, rollout=5, refine_batch_size=16),
        density_settings=DensitySettings(n_components=2),
    )
    assert energy.report.refinement_steps == 3
    assert np.isfinite(np.asarray(energy.drift(np.zeros((3, 2))))).all()


def test_terms_of_the_refinement_are_those_that_were_learned():
    snapshots = spreading(n=40)
    problem = prepare(snapshots, Network(terms=Terms(potential=True)), key=KEY)
    energies = learn(Network(network=SMALL), problem, KEY[None], RefinementSettings()).energies
    refining = Refining(RefinementSettings(refine=1), problem, energies)
    assert refining.solver.terms == problem.terms
    with pytest.raises(TypeError, match="begins at an energy"):
        refining.solver.init(KEY, refining.data)
