import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusions.checks import record
from jkonet_star import fit
from jkonet_star.energies.features import monomial_exponents
from jkonet_star.energies.models import LinearEnergy
from jkonet_star.fit_report import FitReport
from jkonet_star.internal_energy import weak_form as weak_form_module
from jkonet_star.internal_energy import weak_form_drift
from jkonet_star.internal_energy.drift_errors import drift_standard_errors
from jkonet_star.internal_energy.estimate import estimate_internal
from jkonet_star.internal_energy.euler_steps import Steps
from jkonet_star.internal_energy.representatives import representatives
from jkonet_star.internal_energy.weak_form import FOLDS, RIDGE, RIDGE_PARTICLES, WeakForm
from jkonet_star.settings import (
    CouplingSettings,
    DensitySettings,
    FeatureSettings,
    InternalSettings,
    RefinementSettings,
)
from jkonet_star.snapshots import snapshots_from_arrays
from jkonet_star.solvers.linear import Linear
from jkonet_star.solvers.linear_model import linear_model
from jkonet_star.solvers.problem import prepare
from jkonet_star.solvers.registry import Terms
from jkonet_star.transport.couplings import couple
from jkonet_star.units import population_units

QUADRATIC = FeatureSettings(degree=2, total_degree=2, radial="none")
BETA = 0.2


def population(seed=0, *, n=300, d=1, tau=0.05, steps=4, stiffness=3.0, pull=0.0, unpaired=True):
    """Euler steps of dX = -stiffness X dt - pull (X - mean) dt + sqrt(2 beta) dW from uniform X."""
    generator = np.random.default_rng(seed)

    def run(n_steps):
        x = generator.uniform(-4, 4, (n, d))
        states = [x]
        for _ in range(n_steps):
            drift = -stiffness * x - pull * (x - x.mean(axis=0))
            x = x + tau * drift + np.sqrt(2 * BETA * tau) * generator.normal(size=x.shape)
            states.append(x)
        return states

    states = [run(k)[-1] for k in range(steps + 1)] if unpaired else run(steps)
    return snapshots_from_arrays([generator.permutation(x) for x in states], dt=tau)


def learned(snapshots, terms=Terms(potential=True), settings=QUADRATIC):  # noqa: B008 (frozen)
    model, constants = linear_model(terms, snapshots, settings)
    return estimate_internal(model, constants, snapshots, regime="unpaired"), model


def test_a_covariance_that_is_indefinite_ends_no_search(monkeypatch):
    """Of particles that a trial drift throws away it is, by rounding: `fit` ended there once.

    Whether a search comes there depends on the processor, so here some are called indefinite.
    """
    generator = np.random.default_rng(0)
    made = []
    for k in range(5):
        x = generator.normal(size=(400, 2))
        for _ in range(k):
            x = 0.9 * x + np.sqrt(0.06) * generator.normal(size=x.shape)
        made.append(x)
    called, own = [], weak_form_module._Cholesky

    def refusing(*blocks):
        called.append(0)
        if len(called) % 3 == 0:
            raise np.linalg.LinAlgError("not positive definite")
        return own(*blocks)

    monkeypatch.setattr(weak_form_module, "_Cholesky", refusing)
    estimate, _ = learned(snapshots_from_arrays(made, dt=0.1), settings=FeatureSettings())
    assert len(called) > 10
    assert np.isfinite(estimate.beta)
    assert abs(estimate.beta - 0.3) < 4 * estimate.standard_error


def test_an_indefinite_matrix_is_solved_all_the_same():
    generator = np.random.default_rng(0)
    diagonal = [np.diag([4.0, -3.0, 2.0]) + 0.1 * k for k in range(3)]
    upper = [0.3 * generator.normal(size=(3, 3)) for _ in range(2)]
    whole = np.block(
        [
            [diagonal[0], upper[0], np.zeros((3, 3))],
            [upper[0].T, diagonal[1], upper[1]],
            [np.zeros((3, 3)), upper[1].T, diagonal[2]],
        ]
    )
    right = generator.normal(size=(9, 2))
    solver = weak_form_module.BlockTridiagonal(diagonal, upper)
    assert np.concatenate(solver.solve(np.split(right, 3))) == pytest.approx(
        np.linalg.solve(whole, right)
    )
    assert solver.log_determinant() == pytest.approx(np.linalg.slogdet(whole)[1])


def slope_at(snapshots, estimate, point):
    """V' of theta_1 x + theta_2 x^2 at a point, and its standard error, in one dimension."""
    units = population_units(snapshots)
    z = (point - float(units.center[0])) / float(units.length)
    gradient = float(units.speed) * np.array([1.0, 2.0 * z])
    kept = estimate.drift.kept
    variance = gradient[kept] @ estimate.drift.covariance[1:, 1:] @ gradient[kept]
    return gradient @ estimate.drift_coefficients, np.sqrt(variance)


def test_error_bars_of_beta_and_drift_cover():
    """Ninety per cent intervals over simulated data sets of an Ornstein-Uhlenbeck process."""
    beta, drift = [], []
    for seed in range(24):
        snapshots = population(seed)
        estimate, _ = learned(snapshots)
        assert not estimate.paired
        beta.append((estimate.beta - BETA) / estimate.standard_error)
        slope, error = slope_at(snapshots, estimate, 2.0)
        drift.append((slope - 3.0 * 2.0) / error)
    # Of 48 intervals 43.2 are expected to hold the truth, give or take 2.1.
    covered = np.abs(beta + drift) < 1.645
    assert 38 <= covered.sum() <= 48
    assert 0.7 < np.std(beta) < 1.4
    assert 0.7 < np.std(drift) < 1.4


def weak_form(seed=0, n=90, n_steps=3):
    """The sums for particles of unequal weights, with the first four powers as features."""
    generator = np.random.default_rng(seed)
    snapshots = population(seed, n=n, steps=n_steps)
    states = [np.asarray(x, np.float64) for x in snapshots.arrays()]
    features = [np.stack([x[:, 0] ** p for p in range(4)], axis=-1)[None] for x in states[:-1]]
    weights = [w / w.sum() for w in generator.uniform(0.5, 1.5, (n_steps + 1, n))]
    steps = Steps(states[:-1], states[1:], features, np.full(n_steps, 0.05))
    return WeakForm(steps, weights, None)


@pytest.mark.parametrize("left_out", [(), (0, 4)])
def test_covariances_are_those_of_the_particles_that_are_kept(left_out):
    """Equation (3) of `weak_form`, by NumPy's weighted covariance of all rows of the parts."""
    problem = weak_form()
    _, _, smoothed = problem.linearise(np.array([BETA, 0.1, -0.2, 0.05, 0.0]), derivatives=False)
    kept = [q for q in range(FOLDS) if q not in left_out]
    observed = [1.1 * x for x in problem.observed]  # another influence than the one that is stored
    diagonal, upper = problem.sums(smoothed, observed).covariance(kept)
    j = smoothed[0].shape[1]
    ridge = max(RIDGE, RIDGE_PARTICLES / problem.count) * np.eye(j)

    def covariance(k, left, right):
        fold = problem.folds[k]
        rows = np.concatenate([np.arange(90)[fold.parts[q]] for q in kept])
        both = np.cov(np.hstack([left, right])[rows].T, aweights=fold.weights[rows], ddof=0)
        return both[:j, j:] * problem.count / fold.count

    for k in range(3):
        expected = covariance(k + 1, observed[k + 1], observed[k + 1])
        expected += covariance(k, smoothed[k], smoothed[k]) + 2 * ridge
        np.testing.assert_allclose(diagonal[k], expected, atol=1e-12)
        if k:
            expected = -covariance(k, observed[k], smoothed[k]) - ridge
            np.testing.assert_allclose(upper[k - 1], expected, atol=1e-12)


def test_features_outside_of_all_sets_take_no_part():
    """The normal equations of a set are rows and columns of those of all features."""
    problem = weak_form()
    estimate = np.array([BETA, 0.1, -0.2, 0.05, 0.3])
    slopes, gaps, smoothed = problem.linearise(estimate, derivatives=True)
    influence = (smoothed, problem.observed)
    instruments, matrix = problem.instruments(slopes, *influence)
    groups = [[np.zeros(0, int), np.array([1]), np.array([1, 3])], [np.array([2])]]
    found = weak_form_drift._weighted(problem, slopes, gaps + slopes @ estimate, influence, groups)
    rows = found.rows
    assert set(rows) - {0, 3} <= {2, 4}
    assert 3 in rows
    np.testing.assert_allclose(found.matrix, matrix[np.ix_(rows, rows)], rtol=1e-9)
    expected = problem.moment(instruments, gaps) + matrix @ estimate
    right = problem.moment(found.instruments, gaps + slopes @ estimate)
    np.testing.assert_allclose(right, expected[rows], rtol=1e-9)


def test_particles_that_interact_are_not_independent():
    """Equation (2) has the variance of a test's mean over populations, and that alone has not."""
    pull, n, tau = 1.2, 400, 0.05

    def states(seed, size):
        snapshots = population(seed, n=size, d=2, tau=tau, stiffness=0.0, pull=pull)
        return [np.asarray(x, np.float64) for x in snapshots.arrays()]

    many = states(0, 4000)
    nothing = [np.zeros((2, 4000, 0))] * 4
    steps = Steps(many[:-1], many[1:], nothing, np.full(4, tau))
    problem = WeakForm(steps, [np.full(4000, 1 / 4000)] * 5, None)
    influence = weak_form_drift._Influence(problem).at(np.array([BETA]), problem.observed[:-1])
    _, ends = influence(pull * 4 * tau)
    # Along the test that sees a shift of the whole population.
    direction = problem.mean_gradients(4, many[-1], 0.0)[:, 0]
    direction /= np.linalg.norm(direction)

    def values(x):
        raw = np.hstack([value for value, _, _ in problem.bumps.smoothed(x, 0.0)])
        return (raw - problem.mean) @ problem.projection @ direction

    means = [values(states(seed, n)[-1]).mean() for seed in range(1, 301)]
    observed = n * np.var(means, ddof=1)
    assert np.var(ends[-1] @ direction) == pytest.approx(observed, rel=0.25)
    assert np.var(problem.observed[-1] @ direction) < 0.6 * observed


def test_the_pull_of_particles_is_found():
    terms = Terms(potential=True, interaction=True)
    snapshots = population(n=1000, d=2, tau=0.01, steps=5, stiffness=-4.0, pull=12.0)
    estimate, _ = learned(snapshots, terms)
    # 12 in units of time, of which a step is .01.
    assert estimate.drift.attraction == pytest.approx(0.12, abs=0.08)


def test_a_pull_is_sought_up_to_the_largest_that_is_taken():
    """Of V = x^2 / 2 and U = q |z|^2 / 2 the sum of both curvatures is known well."""
    terms = Terms(potential=True, interaction=True)
    snapshots = population(n=1000, tau=0.1, steps=5, stiffness=1.0, pull=4.0)
    estimate, _ = learned(snapshots, terms)
    units = population_units(snapshots)
    curvature = 2.0 * float(units.speed / units.length) * estimate.drift_coefficients[1]
    pull = estimate.drift.attraction / 0.1
    assert 1.0 < 5 * estimate.drift.attraction < weak_form_drift.LARGEST_PULL
    assert curvature + pull == pytest.approx(5.0, abs=0.4)
    # To first order in q t nothing is said of a pull that goes so far.
    beyond = population(1, n=1000, tau=0.1, steps=5, stiffness=1.0, pull=12.0)
    assert learned(beyond, terms)[0].drift is None


def test_a_set_that_is_too_small_is_not_kept():
    """An Ornstein-Uhlenbeck process whose search ends at a constant drift with hardly any noise."""
    generator = np.random.default_rng(0)
    states = []
    for t in 0.2 * np.arange(5):
        decay = np.exp(-t)
        variance = 0.2 * decay**2 + 0.3 * (1 - decay**2)
        states.append(2.0 * decay + np.sqrt(variance) * generator.normal(size=(1000, 1)))
    estimate, _ = learned(snapshots_from_arrays(states, dt=0.2))
    np.testing.assert_array_equal(estimate.drift.kept, [0, 1])
    assert estimate.drift.misfit < 1.0
    # An Euler step of .2 has the noise .3 (1 - exp(-.4)) / .4.
    assert abs(estimate.beta - 0.247) < 2.0 * estimate.standard_error < 0.12


def test_an_interaction_alone_keeps_its_quadratic_features():
    snapshots = population(n=500, stiffness=0.0, pull=3.0)
    estimate, _ = learned(snapshots, Terms(interaction=True))
    # U = 3 |z|^2 / 2, and z^2 is the second feature; speed is in lengths per mean step.
    units = population_units(snapshots)
    found = 2.0 * float(units.speed / units.length) * estimate.drift_coefficients[1]
    assert found == pytest.approx(3.0, abs=0.4)
    assert 1 in estimate.drift.kept
    assert estimate.beta == pytest.approx(BETA, abs=0.08)


def test_idle_features_are_left_out():
    snapshots = population(n=1000, d=2)
    estimate, model = learned(snapshots, settings=FeatureSettings(degree=3, radial="none"))
    exponents = np.array(model.potential_features.exponents)[estimate.drift.kept]
    assert len(exponents) <= 6
    assert {(2, 0), (0, 2)} <= set(map(tuple, exponents.tolist()))
    idle = np.setdiff1d(np.arange(len(estimate.drift_coefficients)), estimate.drift.kept)
    assert not estimate.drift_coefficients[idle].any()


def test_sets_of_features_grow_from_none_to_all():
    snapshots = population(n=60, d=2)
    model, _ = linear_model(Terms(potential=True), snapshots, FeatureSettings(degree=3))
    features = model.potential_features
    sets = weak_form_drift.feature_sets(features, 7)
    assert len(sets[0]) == 0
    np.testing.assert_array_equal(sets[-1], 7 + np.arange(features.n_features))
    assert len({tuple(own) for own in sets}) == len(sets)
    exponents = np.array(monomial_exponents(2, 3, 6))
    single = sets[3] - 7
    assert (np.count_nonzero(exponents[single], axis=1) == 1).all()
    assert len(single) == 6
    assert [len(own) for own in weak_form_drift.feature_sets(None, 0)] == [0]


def test_coefficients_of_monomials_find_their_place():
    snapshots = population(n=60, d=2)
    terms = Terms(potential=True, interaction=True)
    whole, _ = linear_model(terms, snapshots, FeatureSettings(degree=2))
    plain = [
        dataclasses.replace(features, radial="none", n_centers=0)
        for features in (whole.potential_features, whole.interaction_features)
    ]
    own = LinearEnergy(dimension=2, potential_features=plain[0], interaction_features=plain[1])
    first, second = (features.n_features for features in plain)
    found = weak_form_drift.WeakFormDrift(
        theta=np.arange(1.0, 1 + first + second),
        beta=0.1,
        kept=np.array([1, first]),
        covariance=np.eye(3),
        attraction=0.0,
        misfit=0.0,
        iterations=1,
        converged=True,
        criterion=0.0,
    )
    moved = weak_form_drift.spread_out(found, own, whole)
    start = whole.potential_features.n_features
    np.testing.assert_array_equal(moved.theta[:first], found.theta[:first])
    np.testing.assert_array_equal(moved.theta[start : start + second], found.theta[first:])
    assert np.count_nonzero(moved.theta) == first + second
    np.testing.assert_array_equal(moved.kept, [1, start])


def test_representatives_keep_the_mean():
    generator = np.random.default_rng(0)
    points, weights = generator.normal(size=(1000, 3)), generator.uniform(size=1000)
    weights /= weights.sum()
    few, mass = representatives(points, weights, 300)
    assert len(few) == 256
    assert mass.sum() == pytest.approx(1.0)
    np.testing.assert_allclose(mass @ few, weights @ points, atol=1e-12)
    wave = np.cos(points[:, 0])
    exact, sample = weights @ wave, wave[:256].mean()
    assert abs(mass @ np.cos(few[:, 0]) - exact) < 0.5 * abs(sample - exact) + 0.01
    np.testing.assert_array_equal(
        np.sort(representatives(points, weights, 5000)[1]), np.sort(weights)
    )


class TestSolvers:
    @pytest.fixture(scope="class")
    def snapshots(self):
        return population(3, n=300)

    @staticmethod
    def settings(drift, **options):
        return {
            "features": QUADRATIC,
            "internal": InternalSettings(drift=drift, **options),
            "density_settings": DensitySettings(n_components=1),
            "key": jax.random.key(0),
        }

    def test_linear_energies_have_the_drift_of_the_weak_form(self, snapshots):
        x = snapshots.points[0]
        errors = {}
        for drift in ("auto", "couplings", "weak-form"):
            energy = fit(snapshots, "jkonet-star-linear-potential-internal", **self.settings(drift))
            errors[drift] = float(jnp.linalg.norm(energy.drift(x) + 3.0 * x))
            assert (energy.report.weak_form is None) == (drift == "couplings")
            assert ("weak form" in repr(energy)) == (drift != "couplings")
            again = record(FitReport, dataclasses.asdict(energy.report))
            assert again.weak_form == energy.report.weak_form
        found, known = learned(snapshots)[0], drift_standard_errors(energy, np.array([[2.0]]))
        assert known[0, 0] == pytest.approx(slope_at(snapshots, found, 2.0)[1], rel=1e-5)
        assert errors["auto"] == errors["weak-form"]
        assert errors["auto"] < 0.15 * float(jnp.linalg.norm(3.0 * x))

    def test_networks_are_fitted_to_it(self, snapshots):
        name = "jkonet-star-potential-internal"
        problem = prepare(snapshots, name, **self.settings("auto"))
        own = problem.weak_form
        gradient = jax.vmap(
            jax.grad(lambda x: own.model.potential(own.params, own.constants, x, jnp.zeros(())))
        )
        np.testing.assert_allclose(
            problem.conditions.displacement, -0.05 * gradient(problem.conditions.point), atol=1e-5
        )

    def test_paired_snapshots_are_fitted_as_before(self):
        snapshots = population(n=60, unpaired=False)
        name = "jkonet-star-linear-potential-internal"
        one, two = (
            prepare(snapshots, name, **self.settings(drift)) for drift in ("auto", "couplings")
        )
        assert one.internal.paired
        assert one.weak_form is None
        np.testing.assert_array_equal(one.conditions.displacement, two.conditions.displacement)

    def test_other_schemes_keep_the_couplings(self, snapshots):
        name = "jkonet-star-linear-potential-internal"
        problem = prepare(snapshots, name, scheme="midpoint", **self.settings("auto"))
        assert problem.weak_form is None
        energy = fit(snapshots, name, **self.settings("couplings"))
        with pytest.raises(ValueError, match="weak form"):
            drift_standard_errors(energy, np.zeros((1, 1)))

    def test_what_somebody_chose_is_used(self, snapshots):
        name = "jkonet-star-linear-potential-internal"
        settings = self.settings("auto")
        made = prepare(snapshots, name, **self.settings("couplings"))
        own, reports = couple(snapshots, CouplingSettings(), key=jax.random.key(1))
        assert prepare(snapshots, name, couplings=own, **settings).weak_form is None
        again = prepare(snapshots, name, couplings=own, coupling_reports=reports, **settings)
        assert again.weak_form is not None
        settings["features"] = dataclasses.replace(QUADRATIC, regularization=0.1)
        ridge = prepare(snapshots, name, **settings)
        assert ridge.weak_form is None
        np.testing.assert_array_equal(ridge.conditions.displacement, made.conditions.displacement)

    def test_a_potential_that_varies_in_time_keeps_the_couplings(self, snapshots):
        solver = Linear(terms=Terms(potential=True, internal=True, time_varying=True))
        assert prepare(snapshots, solver, **self.settings("auto")).weak_form is None
        with pytest.raises(ValueError, match="which this solver learns"):
            prepare(snapshots, solver, **self.settings("weak-form"))

    def test_a_refined_drift_has_no_errors_of_the_weak_form(self, snapshots):
        name = "jkonet-star-linear-potential-internal"
        refinement = RefinementSettings(refine=2, refine_batch_size=8)
        energy = fit(snapshots, name, refinement=refinement, **self.settings("auto"))
        assert energy.report.weak_form is None
        with pytest.raises(ValueError, match="weak form"):
            drift_standard_errors(energy, np.zeros((1, 1)))

    def test_other_features_have_no_errors_of_the_weak_form(self, snapshots):
        solver = Linear(
            terms=Terms(potential=True, internal=True),
            features=FeatureSettings(degree=3, radial="none"),
        )
        energy = fit(snapshots, solver, **self.settings("auto"))
        assert energy.report.closed_form is not None
        assert energy.report.weak_form is None

    def test_errors_are_of_one_energy(self, snapshots):
        energy = fit(
            snapshots, "jkonet-star-linear-potential-internal", **self.settings("weak-form")
        )
        stack = jax.tree.map(lambda leaf: jnp.stack([leaf, leaf]), energy)
        with pytest.raises(ValueError, match="stack of 2"):
            drift_standard_errors(stack, np.zeros((1, 1)))

    def test_settings_that_exclude_each_other(self):
        with pytest.raises(ValueError, match="different particles"):
            InternalSettings(drift="weak-form", beta_estimator="paired")
        with pytest.raises(ValueError, match="drift"):
            InternalSettings(drift="strong-form")
