"""Kinks, ripples and thrown particles are not noise; noise stays noise."""

import numpy as np
import pytest

from jkonet_star.energies.models import LinearEnergy
from jkonet_star.internal_energy.estimate import estimate_internal
from jkonet_star.internal_energy.euler_steps import Steps
from jkonet_star.internal_energy.paired_likelihood import PairedFit, mean_log_likelihood
from jkonet_star.internal_energy.unexplained_drift import (
    FEWEST_TARGETS,
    FOLDS,
    _Local,
    _Mixture,
    _neighbours,
    _Noise,
    fit_unexplained,
)
from jkonet_star.settings import FeatureSettings
from jkonet_star.snapshots import snapshots_from_arrays
from jkonet_star.solvers.linear_model import linear_model
from jkonet_star.solvers.registry import Terms

TAU = 0.02
PLAIN = FeatureSettings(degree=2, total_degree=2, radial="none")


def kinked(x):
    """Gradient of a potential with a kink on the unit circle, of a size no quadratic comes near."""
    radius = np.linalg.norm(x, axis=-1, keepdims=True)
    return np.where(radius < 1.0, 4.0, -4.0) * x / np.maximum(radius, 1e-9)


def rippled(x):
    return 3.0 * np.sin(3.0 * x)


def quadratic(x):
    return x


def particles(drift, *, beta=0.0, n=400, n_steps=4, d=2, seed=0, tau=()):
    """Snapshots of dX = -drift dt + sqrt(2 beta) dW, in steps of TAU, shuffled."""
    generator = np.random.default_rng(seed)
    x = generator.uniform(-2.0, 2.0, (n, d))
    states = [x]
    for t in tau or (TAU,) * n_steps:
        x = x - t * drift(x) + np.sqrt(2 * beta * t) * generator.normal(size=x.shape)
        states.append(x)
    return [generator.permutation(x) for x in states]


def estimate(states, settings=PLAIN, *, interaction=False, tau=()):
    times = np.concatenate([[0.0], np.cumsum(tau or (TAU,) * (len(states) - 1))])
    snapshots = snapshots_from_arrays(states, times=times)
    terms = Terms(potential=True, interaction=interaction)
    model, constants = linear_model(terms, snapshots, settings)
    return estimate_internal(model, constants, snapshots, regime="paired")


def steps_of(states):
    """Steps without features."""
    n_steps = len(states) - 1
    none = [np.zeros((x.shape[1], len(x), 0)) for x in states[:-1]]
    return Steps(states[:-1], states[1:], none, np.full(n_steps, TAU))


def mixture(steps, beta):
    return _Mixture(steps, PairedFit(np.zeros(0), beta, 0, True), np.zeros(0), 0)


class TestLocalRegression:
    def weighted(self, x, values, weights, i, k):
        """Coefficients of the value at x_i, by least squares."""
        distance = np.linalg.norm(x - x[i], axis=1)
        distance[i] = np.inf
        near = np.argsort(distance)[:k]
        reach = distance[near][-1] * (1 + 1e-6)
        w = (1 - (distance[near] / reach) ** 3) ** 3 * weights[near]
        design = np.concatenate([np.ones((k, 1)), (x[near] - x[i]) / reach], axis=1)
        root = np.sqrt(w)[:, None]
        penalty = np.sqrt(1e-3 * w.sum()) * np.eye(design.shape[1])
        system = np.concatenate([root * design, penalty])
        right = np.concatenate([root * values[near], np.zeros((design.shape[1], 2))])
        return np.linalg.lstsq(system, right, rcond=None)[0][0]

    def test_it_is_weighted_least_squares(self):
        generator = np.random.default_rng(0)
        x, values = generator.normal(size=(2, 60, 2))
        weights = generator.uniform(0.1, 1, 60)
        s, _ = _Local(x, 12)(values, weights)
        for i in (0, 7, 59):
            np.testing.assert_allclose(s[i], self.weighted(x, values, weights, i, 12), rtol=1e-8)

    def test_no_point_has_a_part_in_its_own_value(self):
        generator = np.random.default_rng(1)
        x, values = generator.normal(size=(2, 60, 2))
        x[1] = x[0]  # nor where another one coincides with it
        local, weights = _Local(x, 10), np.ones(60)
        before, _ = local(values, weights)
        for i in (0, 1, 30):
            other = values.copy()
            other[i] += 100.0
            after, _ = local(other, weights)
            np.testing.assert_array_equal(after[i], before[i])
            assert (after != before).any()

    def test_h_is_the_variance_of_independent_values(self):
        generator = np.random.default_rng(2)
        x = generator.normal(size=(50, 2))
        local, weights = _Local(x, 15), generator.uniform(0.2, 1, 50)
        _, h = local(np.zeros((50, 2)), weights)
        draws = generator.normal(size=(4000, 50, 2)) / np.sqrt(weights)[:, None]
        found = np.array([local(values, weights)[0] for values in draws]).var(axis=(0, 2))
        np.testing.assert_allclose(h, found, rtol=0.12)

    def test_what_has_no_weight_is_left_out(self):
        generator = np.random.default_rng(3)
        x, values = generator.normal(size=(2, 80, 2))
        weights = np.ones(80)
        weights[::2] = 0.0
        other = values.copy()
        other[::2] = 1e6
        np.testing.assert_allclose(
            _Local(x, 20)(other, weights)[0], _Local(x, 20)(values, weights)[0]
        )


class TestLikelihood:
    def test_without_both_additions_it_is_that_of_the_features(self):
        steps = steps_of(particles(quadratic, beta=0.1, n=100))
        fit = PairedFit(np.zeros(0), 0.1, 0, True)
        expected, _ = mean_log_likelihood(steps, fit.theta, fit.beta)
        assert mixture(steps, 0.1).of_features(fit).mean() == pytest.approx(expected, rel=1e-6)

    def test_it_is_the_density_of_both_components(self):
        """Equation (1), over all sources, with an s and an h."""
        states = particles(quadratic, beta=0.1, n=30, n_steps=1)
        steps, generator = steps_of(states), np.random.default_rng(0)
        own, noise = mixture(steps, 0.1), _Noise(0.05, 0.2, 0.3)
        s, h = generator.normal(size=(30, 2)), generator.uniform(0, 0.5, 30)
        folds = [own.flat._replace(s=[s], h=[h])] * FOLDS
        every = [np.tile(np.arange(30), (30, 1))]
        found = own.log_likelihood(own.unseen([states[0]], folds, every), noise)
        z, density = states[0] + TAU * s, 0.0
        squares = ((states[1][:, None] - z) ** 2).sum(axis=-1)
        for share, beta in ((0.8, 0.05), (0.2, 0.35)):
            variance = 2 * beta * TAU * (1 + h)
            density += share * np.exp(-squares / 2 / variance) / (2 * np.pi * variance)
        np.testing.assert_allclose(found, np.log(density.mean(axis=1)), rtol=1e-10)

    def test_noise_of_particles_far_apart_is_a_mean_square(self):
        """Equation (3) without s: who became whom is no question, and beta that of all steps."""
        generator = np.random.default_rng(0)
        grid = np.stack(np.meshgrid(*[np.arange(10.0)] * 2), axis=-1).reshape(-1, 2)
        steps = steps_of([grid, grid + 0.01 * generator.normal(size=grid.shape)])
        own, noise = mixture(steps, 0.003), _Noise(0.003)
        folds = [own.flat] * FOLDS
        found = own.unseen([grid], folds, own.rows([grid], folds, noise))
        mean = ((steps.targets[0] - grid) ** 2).mean() / (2 * TAU)
        assert own.settled_noise(found, noise, 1e-12).beta == pytest.approx(mean, rel=1e-6)

    @pytest.mark.parametrize("seed", range(3))
    def test_a_drift_that_follows_noise_takes_nothing_of_it(self, seed):
        """Nothing moves but by noise: the regression over 15 neighbours takes a share of a target's
        own noise where no fold is kept from it."""
        steps = steps_of(particles(lambda x: 0 * x, beta=0.02, seed=seed))
        own = mixture(steps, 0.02)
        local = _Local(np.concatenate(steps.sources), 15)
        found = own.fit(np.zeros(0), _Noise(0.02), local, least=-np.inf, lowest=1e-12)
        assert 0.95 * 0.02 < found.beta < 1.25 * 0.02


class TestEstimate:
    @pytest.mark.parametrize("drift", [kinked, rippled])
    def test_a_drift_without_noise_has_none(self, drift):
        """Of the features alone a kink leaves .3, ripples .2."""
        found = estimate(particles(drift))
        assert found.beta < 3e-3
        assert found.converged

    @pytest.mark.parametrize("drift", [kinked, rippled])
    @pytest.mark.parametrize("beta", [0.01, 0.1])
    def test_and_with_noise_it_has_this(self, drift, beta):
        found = estimate(particles(drift, beta=beta, n=600))
        assert found.beta == pytest.approx(beta, rel=0.25)

    def test_particles_that_are_thrown_out_are_left_aside(self):
        states = particles(quadratic, beta=0.01)
        generator = np.random.default_rng(0)
        for x in states[1:]:
            x[:4] += 40.0 * generator.normal(size=(4, 2))
        found = estimate(states)
        assert found.beta == pytest.approx(0.01, rel=0.15)

    @pytest.mark.parametrize("beta", [0.01, 0.3])
    def test_features_that_suffice_are_not_helped(self, beta):
        states = particles(quadratic, beta=beta)
        steps = steps_of(states)
        z = [x - TAU * quadratic(x) for x in steps.sources]
        moved = Steps(z, steps.targets, steps.features, steps.tau)
        start = PairedFit(np.zeros(0), beta, 0, True)
        assert fit_unexplained(moved, start, np.zeros(0), lowest_beta=1e-12) is None

    @pytest.mark.parametrize("drift", [kinked, rippled])
    def test_its_error_covers_the_truth(self, drift):
        """Curvature is the spread over samples; what the regression does not follow is beside it."""
        found = [estimate(particles(drift, beta=0.01, seed=seed)) for seed in range(8)]
        away = np.array([(own.beta - 0.01) / own.standard_error for own in found])
        assert abs(away.mean()) < 2
        assert np.std([own.beta for own in found], ddof=1) < found[0].standard_error

    @pytest.mark.parametrize(("interaction", "n"), [(False, 150), (True, 150), (True, 300)])
    def test_many_features_and_one_step_are_not_taken_for_an_explanation(self, interaction, n):
        """They explain half of the targets, and would the rest with a narrower noise."""
        for seed in range(3):
            states = particles(quadratic, beta=0.01, n=n, n_steps=1, seed=seed)
            found = estimate(states, FeatureSettings(), interaction=interaction)
            assert found.beta > 0.5 * 0.01
            assert found.unexplained < 0.05

    @pytest.mark.parametrize("n", [200, 400])
    def test_coefficients_are_taken_from_the_targets(self, n):
        """One particle is thrown out, and the default features take a fifth of the others' noise."""
        ratios = []
        for seed in range(3):
            states = particles(quadratic, beta=0.01, n=n, n_steps=3, seed=seed)
            states[2][0] += 40.0
            ratios.append(estimate(states, FeatureSettings()).beta / 0.01)
        assert np.median(ratios) == pytest.approx(1.0, abs=0.25)

    def test_steps_of_unequal_length(self):
        tau = (0.001, 0.04, 0.001, 0.04)
        states = particles(rippled, beta=0.02, tau=tau)
        assert estimate(states, tau=tau).beta == pytest.approx(0.02, rel=0.15)

    def test_dense_particles_take_as_long_as_they_need(self):
        found = estimate(particles(rippled, beta=0.03, n=3000, n_steps=3))
        assert found.beta == pytest.approx(0.03, rel=0.15)
        assert found.converged

    def test_noise_that_few_share_is_spoken_of(self):
        """Of most particles there is none: beta is theirs, and not that of the population."""
        generator = np.random.default_rng(0)
        x = generator.uniform(-2, 2, (300, 2))
        states = [x]
        for _ in range(3):
            moved = np.sqrt(2 * 0.05 * TAU) * generator.normal(size=x.shape)
            moved[120:] *= 0.05
            x = x + moved
            states.append(x)
        found = estimate(states)
        assert found.unexplained > 0.25
        assert "as neither the features nor one Gaussian noise explain" in found.unknown

    def test_unequal_noise_beside_a_kink_is_in_the_error_of_beta(self):
        """Of the kink the noise of two fifths is a trifle, of beta it is not."""
        generator = np.random.default_rng(0)
        x = generator.uniform(-2, 2, (400, 2))
        noise, states = np.full((400, 1), 5e-5), [x]
        noise[:160] = 0.02
        for _ in range(4):
            x = x - TAU * kinked(x) + np.sqrt(2 * noise * TAU) * generator.normal(size=x.shape)
            states.append(x)
        found = estimate(states)
        assert found.unexplained > 0.25
        assert abs(found.beta - noise.mean()) < 2 * found.standard_error

    @pytest.mark.parametrize("d", [2, 30])
    def test_particles_that_rest(self, d):
        generator = np.random.default_rng(0)
        x = generator.uniform(-2, 2, (300, d))
        states = [x]
        for _ in range(3):
            moved = 0.05 * generator.normal(size=x.shape)
            moved[100:] = 0.0
            x = x + moved
            states.append(x)
        assert np.isfinite(
            estimate(states, FeatureSettings(degree=1, total_degree=1, radial="none")).beta
        )

    def test_one_particle_at_the_end_of_the_world(self):
        states = particles(rippled, beta=0.01)
        for x in states:
            x[0] += 1e5
        assert estimate(states).beta == pytest.approx(0.01, rel=0.25)

    def test_it_has_the_units_of_beta(self):
        states = particles(rippled, beta=0.01)
        one = estimate(states)
        other = estimate([1000.0 * x for x in states])
        assert other.beta == pytest.approx(1e6 * one.beta, rel=1e-3)
        assert other.standard_error == pytest.approx(1e6 * one.standard_error, rel=1e-2)

    def test_the_order_of_particles_does_not_matter(self):
        states = particles(kinked)
        generator = np.random.default_rng(5)
        again = [generator.permutation(x) for x in states]
        assert estimate(again).beta == estimate(states).beta

    def test_a_model_without_features_has_a_drift_nevertheless(self):
        states = particles(kinked, beta=0.01)
        nothing = LinearEnergy(dimension=2, potential_features=None, interaction_features=None)
        found = estimate_internal(
            nothing, {}, snapshots_from_arrays(states, dt=TAU), regime="paired"
        )
        assert found.beta == pytest.approx(0.01, rel=0.25)


def test_few_targets_tell_nothing():
    steps = steps_of(particles(kinked, n=FEWEST_TARGETS // 4 - 1))
    start = PairedFit(np.zeros(0), 0.3, 0, True)
    assert fit_unexplained(steps, start, np.zeros(0), lowest_beta=1e-12) is None


def test_neighbours_are_near_in_few_dimensions_only():
    generator = np.random.default_rng(0)
    for d, n, expected in ((2, 400, [15, 0, 60]), (2, 20, [15, 0]), (2, 10, [0]), (5, 400, [0])):
        steps = steps_of(list(generator.normal(size=(4, n, d))))
        assert _neighbours(steps) == expected


def test_in_ten_dimensions_the_thrown_ones_are_left_aside():
    states = particles(quadratic, beta=0.05, n=200, d=10)
    for x in states[1:]:
        x[:3] += 30.0
    assert estimate(states).beta == pytest.approx(0.05, rel=0.15)
