"""The named energies against formulas written independently, and their gradients everywhere."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from data_generation.populations.functionals import FUNCTIONALS, functional, moon_coefficients
from data_generation.populations.settings import FUNCTIONAL_NAMES
from diffusions.precision import double_precision

DIMENSIONS = (1, 2, 3, 10)


def _means(v):
    if len(v) == 1:
        return v[0], v[0]
    half = len(v) // 2
    return sum(v[:half]) / half, sum(v[half:]) / (len(v) - half)


def _pairs(v):
    return [(v[0], v[0])] if len(v) == 1 else list(zip(v[:-1], v[1:], strict=True))


def _moon(v):
    # Exact integers of powers would overflow; the points used stay in |v| <= 4.
    w, power = [], 1
    while len(w) < 20:
        w += [(x / 4) ** power for x in v]
        power *= 2
    u = [1.0, *w[:20]]
    m = moon_coefficients()
    total = sum(u[i] * m[i, j] * u[j] for i in range(21) for j in range(i + 1))
    return min(max(total, -100.0), 100.0)


def _friedman(v):
    w = [2 * (x - 7) for x in v]
    a, b = _means(w)
    b /= 2
    return (
        10 * math.sin(math.pi * a * b)
        + 20 * (a * math.sin(b) - 0.5) ** 2
        + 10 * (a * math.cos(b) - 1) ** 2
        + 0.1 * b * math.sin(a)
    ) / 100


def _on_means(f):
    return lambda v: f(*_means(v))


REFERENCE = {
    "styblinski_tang": lambda v: sum(x**4 - 16 * x**2 + 5 * x for x in v) / 2,
    "holder_table": lambda v: (
        10
        * abs(
            math.sin(_means(v)[0])
            * math.cos(_means(v)[1])
            * math.exp(abs(1 - math.hypot(*v) / math.pi))
        )
    ),
    "cross_in_tray": lambda v: (
        -2
        * (
            abs(
                math.sin(_means(v)[0])
                * math.sin(_means(v)[1])
                * math.exp(abs(10 - math.hypot(*v) / math.pi))
            )
            + 1
        )
        ** 0.1
    ),
    "zigzag_ridge": lambda v: sum(
        (a - b) ** 2 + math.cos(a) * (a + b) + a * a * b for a, b in _pairs(v)
    ),
    "oakley_ohagan": lambda v: 5 * sum(math.sin(x) + math.cos(x) + x * x + x for x in v),
    "watershed": lambda v: sum(a + a * a * (b + 4) for a, b in _pairs(v)) / 10,
    "moon": _moon,
    "ishigami": _on_means(
        lambda a, b: math.sin(a) + 7 * math.sin(b) ** 2 + 0.1 * ((a + b) / 2) ** 4 * math.sin(a)
    ),
    "friedman": _friedman,
    "sphere": lambda v: -10 * sum(x * x for x in v),
    "bohachevsky": _on_means(
        lambda a, b: (
            10
            * (
                a * a
                + 2 * b * b
                - 0.3 * math.cos(3 * math.pi * a)
                - 0.4 * math.cos(4 * math.pi * b)
            )
        )
    ),
    "three_hump_camel": _on_means(lambda a, b: 2 * a**2 - 1.05 * a**4 + a**6 / 6 + a * b + b * b),
    "beale": _on_means(
        lambda a, b: (
            ((1.5 - a + a * b) ** 2 + (2.25 - a + a * b**2) ** 2 + (2.625 - a + a * b**3) ** 2)
            / 100
        )
    ),
    "flowers": lambda v: sum(x + 2 * math.sin(abs(x) ** 1.2) for x in v),
    "wavy_plateau": lambda v: sum(math.cos(math.pi * x) + 0.5 * x**4 - 3 * x**2 + 1 for x in v),
    "double_exp": lambda v: (
        200
        * (
            math.exp(-sum((x - 3) ** 2 for x in v) / 20)
            + math.exp(-sum((x + 3) ** 2 for x in v) / 20)
        )
    ),
    "relu": lambda v: -50 * sum(max(x, 0.0) for x in v),
    "rotational": _on_means(lambda a, b: -500 * max(math.atan2(b + 5, a + 5) + math.pi, 0.0)),
    "flat": lambda v: 0.0,
}


def special_points(d):
    rows = [np.full(d, c) for c in (0.0, 3.0, -3.0, -5.0, 6.0, -6.0, np.pi / np.sqrt(d))]
    rows += [np.full(d, c) for c in (4.0, -4.0, 1e-7, -1e-7, 1e-20, 1e-30, 1e-38, 1e-42)]
    for i in range(d):
        for c in (1.0, -6.0, 1e-25, np.pi, 10 * np.pi / 6):
            rows.append(c * np.eye(d)[i])
    rows.append(np.where(np.arange(d) < d // 2, 0.0, 2.0))
    rows.append(np.where(np.arange(d) < d // 2, -5.0, -5.0 + 1e-6))
    rows.append(np.where(np.arange(d) < d // 2, -6.0, -5.0))
    return np.clip(np.array(rows, np.float32), -6, 6)


def test_the_registry_names_all_functionals_in_the_order_of_the_settings():
    assert tuple(FUNCTIONALS) == FUNCTIONAL_NAMES == tuple(REFERENCE)
    assert len(FUNCTIONAL_NAMES) == 19


@jax.jit
def all_values_and_gradients(x):
    """Of all functionals at the rows of x: compiling each by itself costs seconds."""
    return {name: jax.vmap(jax.value_and_grad(f))(x) for name, f in FUNCTIONALS.items()}


def in_double_precision(points, rows=512):
    """The same for float64 points, in chunks of one shape so that it is compiled once."""
    padded = np.resize(points, (-(-len(points) // rows) * rows, points.shape[1]))
    with double_precision():
        chunks = [
            jax.device_get(all_values_and_gradients(jnp.asarray(chunk)))
            for chunk in padded.reshape(-1, rows, points.shape[1])
        ]
    merged = {}
    for name in FUNCTIONALS:
        values, gradients = (
            np.concatenate(part) for part in zip(*(c[name] for c in chunks), strict=True)
        )
        assert values.dtype == np.float64
        merged[name] = values[: len(points)], gradients[: len(points)]
    return merged


def assert_for_each(check):
    failures = []
    for name in FUNCTIONAL_NAMES:
        try:
            check(name)
        except AssertionError as error:
            failures.append(f"{name}: {error}")
    assert not failures, "\n".join(failures)


@pytest.mark.parametrize("d", DIMENSIONS)
def test_values_are_those_of_the_formulas(d):
    points = np.random.default_rng(d).uniform(-4, 4, (20, d))
    results = in_double_precision(points)

    def check(name):
        expected = [REFERENCE[name](list(v)) for v in points]
        np.testing.assert_allclose(results[name][0], expected, rtol=1e-9, atol=1e-9)

    assert_for_each(check)


@pytest.mark.parametrize("d", DIMENSIONS)
def test_gradients_are_finite_everywhere(d):
    generator = np.random.default_rng(0)
    box = generator.uniform(-6, 6, (2000, d))
    lattice = generator.integers(-6, 7, (500, d)).astype(float)
    differences = generator.uniform(-12, 12, (500, d))  # what an interaction is evaluated at
    points = np.concatenate([special_points(d), box, lattice, differences]).astype(np.float32)
    results = jax.device_get(all_values_and_gradients(jnp.asarray(points)))

    def check(name):
        values, gradients = results[name]
        assert gradients.shape == points.shape
        bad = ~np.isfinite(gradients).all(axis=1) | ~np.isfinite(values)
        assert not bad.any(), f"{bad.sum()} bad, first at {points[bad][0]}"

    assert_for_each(check)


@pytest.mark.parametrize("d", DIMENSIONS)
def test_gradients_are_central_differences(d):
    points = np.random.default_rng(7).uniform(-6, 6, (64, d))
    step = 1e-6
    results = in_double_precision(points)
    shifted = np.stack([points + s * e for e in step * np.eye(d) for s in (1, -1)])
    shifted = in_double_precision(shifted.reshape(-1, d))

    def check(name):
        gradients = results[name][1]
        plus, minus = shifted[name][0].reshape(d, 2, 64).transpose(1, 2, 0)
        differences = (plus - minus) / (2 * step)
        # Rounding in f limits a central difference to about 1e-16 |f| / step.
        scale = max(1.0, np.abs(gradients).max())
        np.testing.assert_allclose(gradients, differences, rtol=1e-5, atol=1e-7 * scale)

    assert_for_each(check)


@pytest.mark.parametrize(
    ("name", "point", "value"),
    [
        ("styblinski_tang", [1.0, 2.0], 0.5 * ((1 - 16 + 5) + (16 - 64 + 10))),
        ("styblinski_tang", [-2.0], 0.5 * (16 - 64 - 10)),
        ("cross_in_tray", [0.0, 0.0], -2.0),
        ("holder_table", [0.0, 0.0], 0.0),
        ("zigzag_ridge", [0.0, 1.0, 0.0], (1 + 1 + 0) + (1 + math.cos(1.0) + 0)),
        ("zigzag_ridge", [0.5], 2 * 0.5 * math.cos(0.5) + 0.125),
        ("watershed", [1.0, 2.0, 3.0], ((1 + 6) + (2 + 4 * 7)) / 10),
        ("watershed", [2.0], (2 + 4 * 6) / 10),
        ("sphere", [1.0, -2.0, 2.0], -90.0),
        ("double_exp", [3.0], 200 * (1 + math.exp(-1.8))),
        ("relu", [-1.0, 2.0, 0.5], -125.0),
        ("rotational", [-5.0, -5.0], -500 * math.pi),
        ("rotational", [-5.0, 0.0], -750 * math.pi),
        ("ishigami", [0.0, math.pi / 2], 7.0),
        ("beale", [3.0, 0.5], 0.0),  # Beale's minimum
        ("three_hump_camel", [1.0, 1.0], 2 - 1.05 + 1 / 6 + 2),
        ("bohachevsky", [0.0, 0.0], -7.0),
        ("wavy_plateau", [1.0], -1 + 0.5 - 3 + 1),
        ("oakley_ohagan", [0.0, 0.0], 10.0),
        ("flowers", [0.0, -1.0], -1 + 2 * math.sin(1.0)),
        ("friedman", [7.0, 7.0], (20 * 0.25 + 10) / 100),
        ("flat", [3.0], 0.0),
        ("moon", [0.0], 0.0),  # only the constant, whose coefficient is zero
    ],
)
def test_values_by_hand(name, point, value):
    assert float(FUNCTIONALS[name](jnp.array(point))) == pytest.approx(value, rel=1e-5, abs=1e-5)


@pytest.mark.parametrize("d", [1, 2])
@pytest.mark.parametrize("sign", [1, -1])
def test_moon_saturates_where_its_powers_overflow(d, sign):
    """Against exact fractions: the last powers are far beyond any float."""
    from fractions import Fraction

    m = moon_coefficients()
    v = [Fraction(sign * 6, 4), Fraction(5, 4)][:d]
    if d == 1:
        # The highest power with a coefficient decides, and it is even.
        powers = [0, *(2**k for k in range(20))]
        _, top = max(
            (powers[i] + powers[j], m[i, j]) for i in range(21) for j in range(21) if m[i, j]
        )
        expected = 100.0 * np.sign(top)
    else:
        u = [Fraction(1)] + [x ** (2**level) for level in range(10) for x in v]
        total = sum(u[i] * Fraction(m[i, j]) * u[j] for i in range(21) for j in range(21))
        expected = 100.0 if total > 100 else -100.0 if total < -100 else float(total)
    point = jnp.array([float(4 * x) for x in v], jnp.float32)
    assert float(FUNCTIONALS["moon"](point)) == expected
    assert np.all(np.asarray(jax.grad(FUNCTIONALS["moon"])(point)) == 0)


def test_moon_uses_both_branches_inside_its_range():
    points = jnp.linspace(-3.9, 3.9, 101)[:, None]
    values = np.asarray(jax.vmap(FUNCTIONALS["moon"])(points))
    assert np.abs(values).max() < 100  # nothing is clipped where the powers decay


def test_lookup():
    assert functional("none") is None
    assert functional("sphere") is FUNCTIONALS["sphere"]
    with pytest.raises(ValueError, match="did you mean styblinski_tang"):
        functional("styblinsky_tang")


def test_gradient_at_the_origin_is_the_formulas():
    zero = jnp.zeros(2)
    expected = {
        "styblinski_tang": [2.5, 2.5],
        "oakley_ohagan": [10.0, 10.0],
        "flowers": [1.0, 1.0],
        "sphere": [0.0, 0.0],
        "zigzag_ridge": [1.0, 1.0],
        "watershed": [0.1, 0.0],
    }
    for name, gradient in expected.items():
        np.testing.assert_allclose(jax.grad(FUNCTIONALS[name])(zero), gradient, atol=1e-6)
