"""The least-squares solution against NumPy, a descent of the loss, and known energies."""

import dataclasses

import jax
import jax.flatten_util
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize

import jkonet_star.solvers.normal_equations as normal_equations_module
from jkonet_star.energies.features import Features, monomial_exponents
from jkonet_star.energies.models import LinearEnergy
from jkonet_star.fitting import fit
from jkonet_star.settings import DensitySettings, FeatureSettings
from jkonet_star.snapshots import snapshots_from_arrays
from jkonet_star.solvers.closed_form import REGULARIZATIONS, fit_linear, solve_ridge
from jkonet_star.solvers.first_order import FirstOrderConditions, jko_loss
from jkonet_star.solvers.linear import solve_linear
from jkonet_star.solvers.normal_equations import design_matrix
from jkonet_star.solvers.problem import prepare

pytestmark = pytest.mark.usefixtures("double_precision")

TAU = np.array([0.1, 0.25, 0.05])
A = np.array([[2.0, 0.5], [0.5, -0.3]])
TILT = np.array([0.4, -1.0])
STIFFNESS, SKEW = 0.8, 0.3  # U(z) = STIFFNESS |z|^2 / 2 + SKEW z_1 z_2
BETA = 0.35


def features(degree=2, total=2):
    return Features(
        dimension=2,
        exponents=monomial_exponents(2, degree, total),
        trigonometric=False,
        radial="none",
        width=1.0,
        n_centers=0,
    )


def model_of(potential=True, interaction=True, internal=True):
    return LinearEnergy(
        dimension=2,
        potential_features=features() if potential else None,
        interaction_features=features() if interaction else None,
        internal="learned" if internal else "none",
    )


MODEL = model_of()


def constants():
    return {"potential": jnp.zeros((0, 2)), "interaction": jnp.zeros((0, 2))}


def made(n=50, noise=0.0, beta=BETA, seed=0):
    """Pairs whose velocities follow known energies, with unequal steps, weights and counts."""
    generator = np.random.default_rng(seed)
    names = ("point", "displacement", "score", "tau", "weight", "step", "row", "lineage")
    rows = {name: [] for name in names}
    populations, population_weights = [], []
    for k, tau in enumerate(TAU):
        count = n - 7 * k
        p = generator.normal(size=(count, 2)) * 1.5 + 0.3 * k
        w = generator.uniform(0.1, 1.0, count)
        w /= w.sum()
        population = generator.normal(size=(n + 3, 2)) + np.array([1.0, -0.5]) * k
        v = generator.uniform(0.1, 1.0, n + 3)
        v /= v.sum()
        score = np.cos(2 * p[:, ::-1]) - 0.2 * p
        pull = STIFFNESS * (p - v @ population) + SKEW * (p - v @ population)[:, ::-1]
        force = p @ A + TILT + pull + beta * score
        displacement = -tau * (force + noise * generator.normal(size=p.shape))
        columns = {
            "point": p,
            "displacement": displacement,
            "score": score,
            "tau": np.full(count, tau),
            "weight": w,
            "step": np.full(count, k),
            "row": np.arange(count),
            "lineage": np.arange(count) + n * k,
        }
        for name, column in columns.items():
            rows[name].append(column)
        populations.append(population)
        population_weights.append(v)
    arrays = {name: jnp.asarray(np.concatenate(parts)) for name, parts in rows.items()}
    return FirstOrderConditions(
        **(arrays | {name: arrays[name].astype(jnp.int32) for name in ("step", "row", "lineage")}),
        time=jnp.zeros_like(arrays["tau"]),
        population=jnp.asarray(np.stack(populations)),
        population_weights=jnp.asarray(np.stack(population_weights)),
    )


def gradients(z):
    """Of the quadratic monomials, written out."""
    columns = []
    for a, b in features().exponents:
        first = a * z[..., 0] ** max(a - 1, 0) * z[..., 1] ** b
        second = b * z[..., 0] ** a * z[..., 1] ** max(b - 1, 0)
        columns.append(np.stack([first, second], axis=-1))
    return np.stack(columns, axis=-1)


def dense_design(conditions, model):
    """Rows sqrt(weight) A and sqrt(weight) velocity of the whole problem."""
    c = jax.tree.map(np.asarray, conditions)
    parts = []
    if model.has_potential:
        parts.append(gradients(c.point))
    if model.has_interaction:
        z = c.point[:, None] - c.population[c.step]
        parts.append(np.einsum("cm,cmdf->cdf", c.population_weights[c.step], gradients(z)))
    if model.internal == "learned":
        parts.append(c.score[..., None])
    a = np.concatenate(parts, axis=-1)
    root = np.sqrt(c.weight)[:, None]
    velocity = c.displacement / c.tau[:, None]
    return (root[..., None] * a).reshape(-1, a.shape[-1]), (root * velocity).ravel()


def flat(params):
    """Coefficients in the order of the design's columns."""
    parts = [
        np.atleast_1d(params[k]) for k in ("potential", "interaction", "internal") if k in params
    ]
    return np.concatenate(parts)


@pytest.mark.parametrize("regularization", [0.0, 0.01, 0.3])
@pytest.mark.parametrize(
    "terms",
    [
        {"interaction": False, "internal": False},
        {"potential": False, "internal": False},
        {"interaction": False},
        {},
    ],
)
def test_the_solution_is_that_of_numpy_on_the_dense_design(terms, regularization):
    model, conditions = model_of(**terms), made(noise=0.3)
    params, report = fit_linear(model, constants(), conditions, regularization=regularization)
    a, v = dense_design(conditions, model)
    ridge = np.sqrt(regularization) * np.eye(a.shape[1])
    stacked = np.concatenate([a, ridge])
    expected, *_ = np.linalg.lstsq(stacked, np.concatenate([-v, np.zeros(len(ridge))]), rcond=1e-9)
    assert "internal" not in params or expected[-1] > 0
    fitted = a @ flat(params)
    # Linear terms of V and U act alike, so compare what they do, and themselves where unique.
    np.testing.assert_allclose(fitted, a @ expected, atol=1e-5)
    if regularization:
        np.testing.assert_allclose(flat(params), expected, atol=1e-5)
    remaining = np.sum((fitted + v) ** 2) / np.sum(v**2)
    assert report.relative_residual == pytest.approx(remaining, rel=1e-4)
    assert report.n_features == a.shape[1]


def test_the_solution_minimises_the_loss():
    """By L-BFGS on jko_loss itself, with the ridge in the same units."""
    conditions, ridge, speed = made(noise=0.3), 0.05, 2.0
    params, _ = fit_linear(MODEL, constants(), conditions, regularization=ridge)
    start, unflatten = jax.flatten_util.ravel_pytree(
        jax.tree.map(lambda leaf: jnp.zeros(leaf.shape), params)
    )

    @jax.jit
    @jax.value_and_grad
    def objective(theta):
        loss = jko_loss(
            MODEL,
            unflatten(theta),
            constants(),
            conditions,
            jnp.arange(len(conditions.step)),
            speed=jnp.asarray(speed),
        )
        return len(TAU) * speed**2 * loss + ridge * jnp.sum(theta**2)

    found = scipy.optimize.minimize(
        lambda theta: [np.asarray(part) for part in objective(theta)],
        start,
        jac=True,
        method="L-BFGS-B",
        options={"maxiter": 5000, "maxcor": 30, "ftol": 1e-15, "gtol": 1e-10},
    )
    solution = jax.flatten_util.ravel_pytree(params)[0]
    assert np.linalg.norm(found.x - solution) < 1e-4 * np.linalg.norm(solution)


def test_known_energies_are_recovered():
    conditions = made(n=200)
    params, report = fit_linear(MODEL, constants(), conditions, regularization=1e-12)
    theta = dict(zip(features().exponents, np.asarray(params["potential"]), strict=True))
    assert theta[2, 0] == pytest.approx(A[0, 0] / 2, abs=1e-5)
    assert theta[0, 2] == pytest.approx(A[1, 1] / 2, abs=1e-5)
    assert theta[1, 1] == pytest.approx(A[0, 1], abs=1e-5)
    assert float(params["internal"]) == pytest.approx(BETA, abs=1e-5)
    assert report.relative_residual < 1e-12
    # SKEW is no gradient unless symmetric: only its symmetric part can be an interaction.


def test_weights_and_unequal_steps_enter_both_sides():
    """A pair of weight w is w pairs of weight one, and a longer step is not a heavier one."""
    conditions = made(noise=0.5)
    doubled = jax.tree.map(lambda leaf: leaf, conditions)
    rows = np.concatenate([np.arange(len(conditions.step)), [4, 4, 60]])
    weight = np.asarray(conditions.weight)[rows].copy()
    weight[[4, -3, -2]] /= 3
    weight[[60, -1]] /= 2
    names = ("point", "displacement", "score", "tau", "time", "step", "row", "lineage")
    doubled = conditions.replace(
        **{name: getattr(conditions, name)[rows] for name in names}, weight=jnp.asarray(weight)
    )
    params, _ = fit_linear(MODEL, constants(), conditions, regularization=0.01)
    again, _ = fit_linear(MODEL, constants(), doubled, regularization=0.01)
    np.testing.assert_allclose(flat(again), flat(params), rtol=1e-5, atol=1e-6)
    even = conditions.replace(weight=jnp.full_like(conditions.weight, 1 / len(conditions.weight)))
    other, _ = fit_linear(MODEL, constants(), even, regularization=0.01)
    assert np.abs(flat(other) - flat(params)).max() > 0.01


def test_a_negative_beta_is_held_at_zero():
    conditions = made(beta=-0.5, noise=0.1)
    params, _ = fit_linear(MODEL, constants(), conditions, regularization=0.01)
    without, _ = fit_linear(model_of(internal=False), constants(), conditions, regularization=0.01)
    assert float(params["internal"]) == 0.0
    np.testing.assert_allclose(flat(params)[:-1], flat(without), rtol=1e-5, atol=1e-6)
    # The free optimum is elsewhere: the constraint is what holds it.
    a, v = dense_design(conditions, MODEL)
    free = np.linalg.solve(a.T @ a + 0.01 * np.eye(a.shape[1]), -a.T @ v)
    assert free[-1] < -0.1


def rich_model():
    """More functions than noisy data can tell apart."""
    return LinearEnergy(dimension=2, potential_features=features(4, 8), interaction_features=None)


def test_cross_validation_follows_the_noise():
    def chosen(noise):
        conditions = made(n=40, noise=noise, beta=0.0)
        potential_only = conditions.replace(
            displacement=conditions.displacement
            + conditions.tau[:, None]
            * (
                STIFFNESS * (conditions.point - _mean(conditions))
                + SKEW * (conditions.point - _mean(conditions))[:, ::-1]
            )
        )
        return fit_linear(rich_model(), constants(), potential_only)[1].regularization

    clean, noisy, hopeless = chosen(0.0), chosen(3.0), chosen(300.0)
    assert {clean, noisy, hopeless} <= set(REGULARIZATIONS)
    assert clean <= 1e-6
    assert clean < noisy <= hopeless
    assert noisy >= 1e-2


def still(rng, n, steps):
    """Particles that stay where they are, each with a velocity that no feature describes."""
    x = rng.normal(size=(n, 2))
    velocity = np.sin(9.0 * x + 1.0)
    return FirstOrderConditions(
        point=jnp.asarray(np.tile(x, (steps, 1))),
        displacement=jnp.asarray(np.tile(velocity, (steps, 1))),
        score=jnp.zeros((n * steps, 2)),
        tau=jnp.ones(n * steps),
        time=jnp.zeros(n * steps),
        weight=jnp.full(n * steps, 1 / n),
        step=jnp.asarray(np.repeat(np.arange(steps), n), jnp.int32),
        row=jnp.asarray(np.tile(np.arange(n), steps), jnp.int32),
        lineage=jnp.asarray(np.tile(np.arange(n), steps), jnp.int32),
        population=jnp.asarray(np.tile(x, (steps, 1, 1))),
        population_weights=jnp.full((steps, n), 1 / n),
    )


def test_what_fits_one_population_only_is_not_learned(double_precision):
    """V and U * nu that cancel for these particles are held out with others, and lose."""
    rng = np.random.default_rng(0)
    model = LinearEnergy(
        dimension=2, potential_features=features(6, 6), interaction_features=features(6, 6)
    )
    conditions, others = still(rng, 80, 4), still(rng, 80, 1)

    def error(**options):
        params, report = fit_linear(model, constants(), conditions, **options)
        a = design_matrix(
            model,
            constants(),
            others.point,
            others.score,
            others.population[0],
            others.population_weights[0],
        )
        v = np.asarray(others.displacement)
        return np.linalg.norm(a @ flat(params) + v) / np.linalg.norm(v), report

    found, report = error()
    memorised, without = error(regularization=1e-10)
    assert found < 1.2
    assert memorised > 2.0
    assert report.interaction_factor > 1.0
    assert without.interaction_factor == 1.0


def _mean(conditions):
    means = jnp.einsum("km,kmd->kd", conditions.population_weights, conditions.population)
    return means[conditions.step]


@pytest.mark.parametrize("size", [1, 7, 10_000])
def test_the_size_of_a_block_does_not_matter(size, monkeypatch):
    conditions = made(noise=0.3)
    params, report = fit_linear(MODEL, constants(), conditions)
    monkeypatch.setattr(normal_equations_module, "PAIRS_PER_BLOCK", size)
    again, again_report = fit_linear(MODEL, constants(), conditions)
    np.testing.assert_allclose(flat(again), flat(params), rtol=1e-5, atol=1e-7)
    assert again_report.regularization == report.regularization


def test_the_design_matrix_is_the_one_written_out():
    conditions = made()
    a, _ = dense_design(conditions, MODEL)
    rows = np.flatnonzero(np.asarray(conditions.step) == 1)
    found = design_matrix(
        MODEL,
        constants(),
        conditions.point[rows],
        conditions.score[rows],
        conditions.population[1],
        conditions.population_weights[1],
    )
    expected = a.reshape(-1, 2, a.shape[-1])[rows]
    root = np.sqrt(np.asarray(conditions.weight))[rows, None, None]
    np.testing.assert_allclose(found * root, expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("scale", [1.0, 1e-6, 1e6])
def test_condition_and_rank_do_not_depend_on_units(scale):
    """Two equal features leave one direction undetermined, whatever the features' scale."""
    generator = np.random.default_rng(0)
    a = generator.normal(size=(40, 3)) * np.array([1.0, scale, 1.0])
    a = np.concatenate([a, a[:, :1]], axis=1)
    v = generator.normal(size=40)
    theta, rank, condition = solve_ridge(a.T @ a, a.T @ v, 0.0)
    assert rank == 3
    assert condition > 1e12
    expected, *_ = np.linalg.lstsq(a[:, :3], -v, rcond=None)
    np.testing.assert_allclose(a @ theta, a[:, :3] @ expected, rtol=1e-7, atol=1e-9)
    _, rank, condition = solve_ridge(a[:, :3].T @ a[:, :3], a[:, :3].T @ v, 0.0)
    assert rank == 3
    assert condition < 10


def test_a_feature_that_never_moves_keeps_coefficient_zero():
    gram = np.diag([2.0, 0.0, 1.0])
    theta, rank, _ = solve_ridge(gram, np.array([1.0, 0.0, -3.0]), 0.0)
    np.testing.assert_allclose(theta, [-0.5, 0.0, 3.0])
    assert rank == 2


def test_a_field_that_changes_in_time_still_has_its_mean_drift():
    """Left-out steps alone would have it that there is no drift: each contradicts the others."""
    generator = np.random.default_rng(0)
    x = generator.normal(size=(150, 2)) * [2.0, 1.0]
    states = [x]
    for sign in (1.0, -1.0, 1.0, -1.0):
        x = x - 0.3 * (x - [6.0 * sign, 0.0]) + 0.3 * generator.normal(size=x.shape)
        states.append(generator.permutation(x))
    snapshots = snapshots_from_arrays(states)
    problem = prepare(snapshots, "jkonet-star-linear-potential", key=jax.random.key(0))
    settings = FeatureSettings(radial_centers=5)
    _, report = solve_linear(problem, settings)
    _, least = solve_linear(problem, dataclasses.replace(settings, regularization=0.0))
    assert report.relative_residual < 1.1 * least.relative_residual
    assert least.relative_residual < 0.5


def test_nothing_of_the_closed_form_promotes_ranks():
    generator = np.random.default_rng(0)
    snapshots = snapshots_from_arrays(generator.normal(size=(3, 30, 2)))
    with jax.numpy_rank_promotion("raise"):
        energy = fit(
            snapshots,
            "jkonet-star-linear",
            key=jax.random.key(0),
            features=FeatureSettings(radial_centers=3),
            density_settings=DensitySettings(n_components=2),
        )
        assert np.isfinite(energy.drift(snapshots.points[0])).all()


def test_sums_of_many_pairs_are_those_of_all(monkeypatch):
    """A million pairs are taken some at a time; the solution is the same."""
    snapshots = snapshots_from_arrays(
        np.random.default_rng(0).normal(size=(3, 300, 2)) * [[[1.0]], [[0.9]], [[0.8]]]
    )
    whole = fit(snapshots, solver="jkonet-star-linear-potential", key=jax.random.key(0))
    monkeypatch.setattr(normal_equations_module, "PAIRS_AT_ONCE", 70)
    parts = fit(snapshots, solver="jkonet-star-linear-potential", key=jax.random.key(0))
    x = snapshots.points[0]
    np.testing.assert_allclose(parts.drift(x), whole.drift(x), rtol=1e-4, atol=1e-5)
