import jax
import jax.numpy as jnp
import numpy as np
import pytest

from data_generation.populations.particles import simulate
from jkonet_star.energies.models import LinearEnergy
from jkonet_star.internal_energy import moments as weak_form_tests
from jkonet_star.internal_energy import weak_form
from jkonet_star.internal_energy.displacement_regression import (
    NormalEquations,
    choose_shrinkages,
    feature_groups,
    shrunk_solution,
)
from jkonet_star.internal_energy.estimate import InternalEstimate, estimate_internal
from jkonet_star.internal_energy.euler_steps import Steps, drift_features
from jkonet_star.internal_energy.paired_likelihood import (
    _Objective,
    candidates,
    expectation,
    fit_paired,
    maximisation,
    mean_log_likelihood,
)
from jkonet_star.settings import DensitySettings, FeatureSettings
from jkonet_star.snapshots import snapshots_from_arrays
from jkonet_star.solvers.linear_model import linear_model, split_coefficients
from jkonet_star.solvers.problem import prepare
from jkonet_star.solvers.registry import Terms
from jkonet_star.units import population_units

QUADRATIC = FeatureSettings(degree=2, total_degree=2, radial="none")
NO_DRIFT = LinearEnergy(dimension=2, potential_features=None, interaction_features=None)


def population(
    seed=0, *, n=400, d=2, beta=0.2, tau=(0.01,) * 5, stiffness=0.0, unpaired=False, shuffle=True
):
    """Snapshots of dX = -stiffness X dt + sqrt(2 beta) dW from the uniform law, in steps of tau."""
    generator = np.random.default_rng(seed)

    def run(n_steps):
        x = generator.uniform(-4, 4, (n, d))
        states = [x]
        for t in tau[:n_steps]:
            x = x - t * stiffness * x + np.sqrt(2 * beta * t) * generator.normal(size=x.shape)
            states.append(x)
        return states

    states = [run(k)[-1] for k in range(len(tau) + 1)] if unpaired else run(len(tau))
    if shuffle:
        states = [generator.permutation(x) for x in states]
    return snapshots_from_arrays(states, times=np.concatenate([[0.0], np.cumsum(tau)]))


def estimate(snapshots, settings=None, *, interaction=False, **options) -> InternalEstimate:
    if settings is None:
        model, constants = (
            LinearEnergy(
                dimension=snapshots.dimension, potential_features=None, interaction_features=None
            ),
            {},
        )
    else:
        terms = Terms(potential=True, interaction=interaction)
        model, constants = linear_model(terms, snapshots, settings)
    return estimate_internal(model, constants, snapshots, **options)


def assert_same(one, two):
    assert (one.beta, one.paired, one.gain) == (two.beta, two.paired, two.gain)
    np.testing.assert_array_equal(one.drift_coefficients, two.drift_coefficients)


def steps_with_features(n=40, f=3, seed=0):
    """A small problem with two steps of different length and random features."""
    generator = np.random.default_rng(seed)
    theta, beta, tau = generator.normal(size=f), 0.3, np.array([0.02, 0.05])
    sources = [generator.normal(size=(n, 2)) for _ in tau]
    features = [generator.normal(size=(2, n, f)) for _ in tau]
    steps = Steps(sources, sources, features, tau)
    targets = [
        z + np.sqrt(2 * beta * t) * generator.normal(size=z.shape)
        for z, t in zip(steps.transported(theta), tau, strict=True)
    ]
    return Steps(sources, targets, features, tau), theta, beta


class TestStandardError:
    def test_of_particles_far_apart_it_is_that_of_a_sample_variance(self):
        """beta sqrt(2 / residuals): who became whom is then no question."""
        found = estimate(population(n=200))
        assert found.paired
        assert found.standard_error == pytest.approx(0.2 * np.sqrt(2 / (200 * 2 * 5)), rel=0.15)

    @pytest.mark.parametrize(("unpaired", "n"), [(False, 200), (True, 100)])
    def test_it_is_the_spread_over_samples(self, unpaired, n):
        regime = "unpaired" if unpaired else "paired"
        found = [
            estimate(population(seed, n=n, tau=(0.2,) * 3, unpaired=unpaired), regime=regime)
            for seed in range(8)
        ]
        spread = np.std([one.beta for one in found], ddof=1)
        claimed = np.sqrt(np.mean([one.standard_error**2 for one in found]))
        assert 0.5 < claimed / spread < 2
        assert all(one.paired != unpaired for one in found)

    def test_it_has_the_units_of_beta(self):
        one = population(n=100)
        two = snapshots_from_arrays([10 * p for p in one.arrays()], times=4 * one.time_values())
        first, second = estimate(one), estimate(two)
        assert second.standard_error == pytest.approx(25 * first.standard_error, rel=1e-3)

    def test_what_stands_still_has_none(self):
        still = snapshots_from_arrays([population(n=30).arrays()[0]] * 3)
        assert (estimate(still).beta, estimate(still).standard_error) == (0.0, 0.0)


class TestRecovery:
    @pytest.mark.parametrize("settings", [None, QUADRATIC, FeatureSettings()])
    def test_paired(self, settings):
        estimates = [estimate(population(seed, n=1000), settings) for seed in range(2)]
        assert all(e.paired and e.converged for e in estimates)
        assert np.mean([e.beta for e in estimates]) == pytest.approx(0.2, rel=0.04)

    @pytest.mark.parametrize("settings", [None, QUADRATIC])
    def test_unpaired(self, settings):
        estimates = [
            estimate(population(seed, n=1000, unpaired=True), settings) for seed in range(4)
        ]
        assert not any(e.paired for e in estimates)
        # The standard deviation of one estimate is 0.045.
        assert np.mean([e.beta for e in estimates]) == pytest.approx(0.2, abs=0.06)

    @pytest.mark.parametrize("unpaired", [False, True])
    def test_with_a_drift(self, unpaired):
        snapshots = population(n=1000, stiffness=10.0, unpaired=unpaired)
        result = estimate(snapshots, QUADRATIC)
        assert result.paired is not unpaired
        assert result.beta == pytest.approx(0.2, rel=0.4 if unpaired else 0.05)
        # V = 5 |x|^2 among the monomials y, y^2, x, xy, x^2; in lengths about the centre it is 5 tau
        # times these, and tau 10 c / l in the linear ones.
        units = population_units(snapshots)
        y, x = 2.0 * np.asarray(units.center)[::-1] / float(units.length)
        expected = 5.0 * np.array([y, 1.0, x, 0, 1.0])
        found = result.drift_coefficients / float(units.time_step)
        assert np.abs(found - expected).max() < (1.0 if unpaired else 0.3)

    @pytest.mark.parametrize("settings", [None, QUADRATIC])
    def test_without_noise(self, settings):
        snapshots = population(beta=0.0, stiffness=0.0 if settings is None else 10.0)
        result = estimate(snapshots, settings)
        assert result.paired
        assert result.beta < 1e-6

    @pytest.mark.parametrize(("d", "unpaired"), [(1, False), (3, False), (1, True), (3, True)])
    def test_other_dimensions(self, d, unpaired):
        n = 300 if d == 1 else 600
        beta = 0.01 if d == 1 and not unpaired else 0.2
        n = 1500 if d == 1 and unpaired else n
        result = estimate(population(n=n, d=d, beta=beta, unpaired=unpaired), QUADRATIC)
        assert result.paired is not unpaired
        assert result.beta == pytest.approx(beta, rel=0.7 if unpaired else 0.15)

    def test_fifty_dimensions(self):
        assert estimate(population(n=60, d=50)).beta == pytest.approx(0.2, rel=0.05)
        assert np.isfinite(estimate(population(n=60, d=50), regime="unpaired").beta)

    @pytest.mark.parametrize("unpaired", [False, True])
    def test_steps_of_unequal_length(self, unpaired):
        tau = (0.01, 0.03, 0.005, 0.02)
        result = estimate(population(n=1000, tau=tau, unpaired=unpaired))
        assert result.paired is not unpaired
        assert result.beta == pytest.approx(0.2, rel=0.5 if unpaired else 0.05)

    @pytest.mark.parametrize("unpaired", [False, True])
    def test_two_snapshots(self, unpaired):
        result = estimate(population(n=1000, tau=(0.05,), unpaired=unpaired), QUADRATIC)
        assert result.paired is not unpaired
        assert result.beta == pytest.approx(0.2, abs=0.2 if unpaired else 0.03)

    def test_unequal_counts_are_unpaired(self):
        parts = [x[: 900 - 40 * k] for k, x in enumerate(population(n=1000).arrays())]
        result = estimate(snapshots_from_arrays(parts, dt=0.01))
        assert not result.paired
        assert result.gain == 0
        assert result.beta == pytest.approx(0.2, abs=0.15)

    def test_weights_stand_for_copies(self):
        arrays = population(n=500, unpaired=True, beta=1.0).arrays()
        generator = np.random.default_rng(1)
        weights = [generator.uniform(0.5, 1.5, len(x)) for x in arrays]
        result = estimate(snapshots_from_arrays(arrays, dt=0.01, weights=weights))
        assert not result.paired
        assert result.beta == pytest.approx(1.0, rel=0.6)


class TestInvariance:
    @pytest.mark.parametrize("unpaired", [False, True])
    def test_order_of_rows_and_padding(self, unpaired):
        snapshots = population(unpaired=unpaired)
        generator = np.random.default_rng(5)
        shuffled = [generator.permutation(x) for x in snapshots.arrays()]
        one = estimate(snapshots, QUADRATIC)
        assert_same(one, estimate(snapshots_from_arrays(shuffled, dt=0.01), QUADRATIC))
        # A row of weight zero, wherever it is, does not exist.
        padded = snapshots.replace(
            points=jnp.concatenate([snapshots.points, 7 + snapshots.points[:, :3]], axis=1),
            weights=jnp.pad(snapshots.weights, ((0, 0), (0, 3))),
        )
        assert_same(one, estimate(padded, QUADRATIC))

    def test_deterministic_by_seed(self):
        snapshots = population(unpaired=True)
        one = estimate(snapshots, seed=3)
        assert_same(one, estimate(snapshots, seed=3))
        assert one.beta != estimate(snapshots, seed=4).beta

    @pytest.mark.parametrize("unpaired", [False, True])
    def test_units(self, unpaired):
        """Lengths times c and times by s: beta times c^2 / s."""
        one = population(n=600, unpaired=unpaired)
        other = snapshots_from_arrays([1000 * x for x in one.arrays()], dt=1.0)
        ratio = estimate(other).beta / max(estimate(one).beta, 1e-9)
        assert ratio == pytest.approx(1e6 / 100, rel=1e-2)


class TestDegenerate:
    @pytest.mark.parametrize("settings", [None, QUADRATIC])
    def test_one_point(self, settings):
        result = estimate(snapshots_from_arrays(np.ones((3, 50, 2)), dt=0.1), settings)
        assert result.beta == 0
        assert result.converged
        assert not result.drift_coefficients.any()

    def test_no_movement(self):
        x = np.random.default_rng(0).normal(size=(80, 2))
        result = estimate(snapshots_from_arrays([x, x[::-1], x], dt=0.1), QUADRATIC)
        assert result.beta == 0
        assert result.paired

    def test_one_constant_coordinate(self):
        flat = [x * np.array([1.0, 0.0]) for x in population(unpaired=True).arrays()]
        assert np.isfinite(estimate(snapshots_from_arrays(flat, dt=0.01), QUADRATIC).beta)

    @pytest.mark.parametrize("n", [1, 2, 10])
    def test_hardly_any_particles(self, n):
        result = estimate(population(n=n), QUADRATIC)
        assert np.isfinite(result.beta)
        assert result.beta >= 0

    def test_unequal_counts_cannot_be_paired(self):
        parts = [np.zeros((3, 2)), np.ones((4, 2))]
        with pytest.raises(ValueError, match="unequal counts"):
            estimate(snapshots_from_arrays(parts), regime="paired")


class TestPairedLikelihood:
    def test_maximisation_never_loses_likelihood(self):
        steps, _, _ = steps_with_features()
        theta, beta, precision = np.zeros(3), 3.0, np.full(3, 0.1)
        values = []
        for _ in range(12):
            z = steps.transported(theta)
            rows = candidates(z, steps.targets, len(z[0]))
            own = [
                expectation(z[k], y, rows[k], 2 * beta * steps.tau[k])
                for k, y in enumerate(steps.targets)
            ]
            values.append(sum(r.log_likelihood for r in own) - 0.5 * precision @ theta**2)
            theta, beta = maximisation(steps, own, beta, precision)
        assert (np.diff(values) > -1e-9).all()
        assert values[-1] > values[0] + 1

    def test_gradient(self):
        steps, theta, _ = steps_with_features()
        precision = np.array([0.1, 1.0, 10.0])
        rows = candidates(steps.transported(theta), steps.targets, 40)
        objective = _Objective(steps, rows, 0.2, precision, steps.information())
        point = objective.start(theta) + np.array([0.1, -0.2, 0.05, 0.3])
        _, gradient = objective(point)
        step = 1e-6
        differences = [
            (objective(point + step * e)[0] - objective(point - step * e)[0]) / (2 * step)
            for e in np.eye(4)
        ]
        np.testing.assert_allclose(gradient, differences, rtol=1e-5, atol=1e-7)
        np.testing.assert_allclose(objective.split(objective.start(theta))[0], theta)

    def test_finds_a_stationary_point_above_the_truth(self):
        steps, theta, beta = steps_with_features()
        precision = np.full(3, 1e-8)
        fit = fit_paired(steps, np.zeros(3), 3.0, precision, rounds=20, lowest_beta=1e-12)
        assert fit.converged
        best, _ = mean_log_likelihood(steps, fit.theta, fit.beta)
        assert best >= mean_log_likelihood(steps, theta, beta)[0]
        objective = _Objective(
            steps,
            candidates(steps.transported(fit.theta), steps.targets, 40),
            fit.beta,
            precision,
            steps.information(),
        )
        assert np.abs(objective(objective.start(fit.theta))[1]).max() < 1e-3


class TestWeakForm:
    # Of rounding alone a covariance may be indefinite.
    @pytest.mark.parametrize("sign", [(1, 1, 1, 1), (1, 1, -1, 1)])
    def test_block_elimination_equals_the_dense_solution(self, sign):
        generator = np.random.default_rng(0)
        n, j = 4, 5
        upper = [generator.normal(size=(j, j)) for _ in range(n - 1)]
        diagonal = []
        for _ in range(n):
            a = generator.normal(size=(j, j))
            diagonal.append(sign[len(diagonal)] * (a @ a.T + 20 * np.eye(j)))
        right = [generator.normal(size=(j, 3)) for _ in range(n)]
        dense = np.zeros((n * j, n * j))
        for k in range(n):
            dense[k * j : (k + 1) * j, k * j : (k + 1) * j] = diagonal[k]
            if k + 1 < n:
                dense[k * j : (k + 1) * j, (k + 1) * j : (k + 2) * j] = upper[k]
                dense[(k + 1) * j : (k + 2) * j, k * j : (k + 1) * j] = upper[k].T
        matrix = weak_form.BlockTridiagonal(diagonal, upper)
        found = np.concatenate(matrix.solve(right))
        np.testing.assert_allclose(found, np.linalg.solve(dense, np.concatenate(right)), atol=1e-12)
        assert matrix.log_determinant() == pytest.approx(np.linalg.slogdet(dense)[1], rel=1e-12)
        with pytest.raises(np.linalg.LinAlgError):
            weak_form.BlockTridiagonal([np.zeros((j, j)), *diagonal[1:]], upper)

    def test_smoothed_bumps_are_gaussian_means(self):
        generator = np.random.default_rng(0)
        bumps = weak_form_tests.make_bumps(generator.normal(size=(500, 2)), 500)
        z, heat = generator.normal(size=(4, 2)), 0.05
        nodes, node_weights = np.polynomial.hermite_e.hermegauss(40)
        for axis, (value, slope, laplacian) in enumerate(bumps.smoothed(z, heat)):
            c, h = bumps.centers[axis], bumps.widths[axis]
            moved = z[:, axis, None] + np.sqrt(2 * heat) * nodes
            raw = np.exp(-((moved[:, None] - c[:, None]) ** 2) / (2 * h**2))
            expected = raw @ node_weights / node_weights.sum()
            np.testing.assert_allclose(value, expected, atol=1e-4)
            step = 1e-4
            up, down = (bumps.smoothed(z + s * step, heat)[axis][0] for s in (1, -1))
            np.testing.assert_allclose(slope, (up - down) / (2 * step), atol=1e-5)
            second = (up - 2 * value + down) / step**2
            np.testing.assert_allclose(laplacian, second, atol=1e-3, rtol=1e-3)

    def test_derivatives_of_the_residuals(self):
        snapshots = population(n=200, unpaired=True)
        points = [np.asarray(x, np.float64) for x in snapshots.arrays()]
        terms = Terms(potential=True)
        model, constants = linear_model(terms, snapshots, QUADRATIC)
        weights = [np.full(200, 1 / 200)] * 6
        features = drift_features(model, constants, points[:-1], points[:-1], weights[:-1])
        steps = Steps(points[:-1], points[1:], features, np.full(5, 0.01))
        centers = np.asarray(constants["potential"])
        tests = weak_form_tests.potential_tests(model.potential_features, centers)
        problem = weak_form.WeakForm(steps, weights, tests)
        estimate = np.array([0.3, 1.0, -2.0, 0.5, 0.3, 0.2])
        slopes, _, _ = problem.linearise(estimate, derivatives=True)
        for q, step in enumerate(1e-5 * np.eye(6)):
            after = problem.linearise(estimate + step, derivatives=False)[1]
            before = problem.linearise(estimate - step, derivatives=False)[1]
            # The features' gradients are taken without their heat, as is exact to first order.
            np.testing.assert_allclose(
                slopes[..., q], -(after - before) / 2e-5, atol=2e-3 * np.abs(slopes[..., q]).max()
            )


class TestDisplacementRegression:
    def test_groups_cover_the_coefficients(self):
        snapshots = population(n=50)
        terms = Terms(potential=True, interaction=True)
        model, constants = linear_model(terms, snapshots, FeatureSettings())
        groups = feature_groups(model)
        params = split_coefficients(model, np.zeros(groups[-1].stop))
        assert len(params["potential"]) == groups[1].stop
        assert [g.start for g in groups[1:]] == [g.stop for g in groups[:-1]]
        assert groups[1].stop - groups[1].start == len(constants["potential"])

    def test_shrunk_solution_is_a_ridge_regression(self):
        generator = np.random.default_rng(0)
        a = generator.normal(size=(30, 6)) * 10.0 ** np.arange(-3, 3)
        b, penalty = generator.normal(size=30), generator.uniform(size=6)
        expected = np.linalg.solve(a.T @ a + np.diag(penalty), a.T @ b)
        np.testing.assert_allclose(shrunk_solution(a.T @ a, a.T @ b, penalty), expected, rtol=1e-6)

    def test_shrinks_what_does_not_repeat(self):
        """The first group explains every coupling alike, the second each differently."""
        generator = np.random.default_rng(0)
        a = generator.normal(size=(5, 200, 20))
        y = a[..., :5] @ np.ones(5) + 3 * generator.normal(size=(5, 200))
        sums = NormalEquations(
            np.einsum("jnf,jng->jfg", a, a), np.einsum("jnf,jn->jf", a, y), (y**2).sum(axis=1)
        )
        shrinkage = choose_shrinkages(sums, [slice(0, 5), slice(5, 20)])
        assert shrinkage[0] <= 0.1
        assert shrinkage[-1] >= 1.0


def test_beta_is_found_with_the_features_that_the_user_names():
    x = simulate(jax.random.key(1), potential="styblinski_tang", beta=0.2, n_particles=200)
    snapshots = snapshots_from_arrays(np.asarray(x), dt=0.01)
    named = FeatureSettings(degree=2, radial="none")
    found = {}
    for features in (named, FeatureSettings()):
        problem = prepare(
            snapshots,
            "jkonet-star-potential-internal",
            key=jax.random.key(0),
            features=features,
            density_settings=DensitySettings(n_components=1),
        )
        expected = estimate(snapshots, features).beta
        assert problem.internal.beta == pytest.approx(expected, rel=1e-9)
        found[features] = expected
    assert abs(found[named] / found[FeatureSettings()] - 1) > 1e-3


def test_features_that_fit_nowhere_are_refused_before_anything_is_coupled(monkeypatch):
    snapshots = snapshots_from_arrays(np.zeros((2, 3, 5)) + np.arange(3)[:, None], dt=0.01)
    monkeypatch.setattr("jkonet_star.solvers.problem.couple", None)
    monkeypatch.setattr("diffusions.memory.available_bytes", lambda: 2**30)
    with pytest.raises(ValueError, match="memory"):
        prepare(
            snapshots,
            "jkonet-star-potential-internal",
            key=jax.random.key(0),
            features=FeatureSettings(degree=20, total_degree=100),
        )


@pytest.mark.slow
@pytest.mark.parametrize("unpaired", [False, True])
def test_mean_over_five_data_seeds(unpaired):
    terms = Terms(potential=True)
    betas = []
    for seed in range(5):
        x = simulate(jax.random.key(seed), potential="none", beta=0.2, unpaired=unpaired)
        snapshots = snapshots_from_arrays(np.asarray(x), dt=0.01)
        model, constants = linear_model(terms, snapshots, FeatureSettings())
        result = estimate_internal(model, constants, snapshots)
        assert result.paired is not unpaired
        betas.append(result.beta)
    assert np.mean(betas) == pytest.approx(0.2, rel=0.25 if unpaired else 0.05)
