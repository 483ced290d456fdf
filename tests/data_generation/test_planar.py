import numpy as np
import pytest

from data_generation.planar import (
    CIRCLE_REACH,
    DINO_NOISE,
    LAWS,
    dino_points,
    planar_data,
    planar_law,
)

each = pytest.mark.parametrize("name", sorted(LAWS))


@each
def test_standardised_and_split(name):
    data = planar_data(name, 0)
    n = 20_000 if name == "scg" else 8000
    assert (len(data.train), len(data.validation)) == (n * 9 // 10, n // 10)
    points = np.concatenate([data.train, data.validation])
    np.testing.assert_allclose(points.mean(axis=0), 0.0, atol=1e-5)
    np.testing.assert_allclose(points.std(axis=0), 1.0, rtol=1e-5)


@each
def test_repeats_by_seed(name):
    one, two, other = (planar_data(name, seed, n_points=200) for seed in (3, 3, 4))
    np.testing.assert_array_equal(one.train, two.train)
    assert not np.array_equal(one.train, other.train)


@each
def test_density_integrates_to_one(name):
    # By importance sampling from the law smeared over its neighbourhood.
    law = planar_law(name)
    rng = np.random.default_rng(0)
    centers = law.sample(rng, 400)
    width = {"dino": DINO_NOISE, "moons": 0.03, "circle": CIRCLE_REACH}.get(name, 0.5)
    x = centers[rng.integers(400, size=20_000)] + 1.5 * width * rng.standard_normal((20_000, 2))
    squared = ((x[:, None] - centers) ** 2).sum(axis=-1) / (1.5 * width) ** 2
    proposal = np.exp(-0.5 * squared).mean(axis=1) / (2 * np.pi * (1.5 * width) ** 2)
    ratio = np.exp(law.log_density(x)) / proposal
    assert ratio.mean() == pytest.approx(1.0, abs=0.12 if name in ("dino", "circle") else 0.06)


@each
def test_entropy_is_the_mean_of_the_density(name):
    law = planar_law(name)
    values = -law.log_density(law.sample(np.random.default_rng(5), 20_000))
    assert np.isfinite(values).all()
    if law.entropy is not None:
        error = values.std() / np.sqrt(len(values))
        assert values.mean() == pytest.approx(law.entropy, abs=4 * error + 1e-9)


@each
def test_standardised_density_and_entropy(name):
    data = planar_data(name, 1)
    shift = float(np.log(data.deviation).sum())
    original = data.validation.astype(np.float64) * data.deviation + data.mean
    np.testing.assert_allclose(
        data.log_density(data.validation), data.law.log_density(original) + shift
    )
    mean = -np.mean(data.log_density(data.validation))
    # Rounding to float32 may move a point of `line` or `circle` over the edge, where there is none.
    if np.isfinite(mean):
        assert data.entropy() == pytest.approx(mean, abs=0.15)


def test_known_entropies():
    c = -0.495 / 0.505
    assert planar_law("scg").entropy == pytest.approx(
        np.log(2 * np.pi * np.e) + 0.5 * np.log(1 - c * c)
    )
    assert planar_law("scg").entropy == pytest.approx(1.22, abs=0.01)
    assert planar_law("line").entropy == pytest.approx(np.log(2.0))


def test_the_datasaurus():
    points = dino_points()
    assert points.shape == (142, 2)
    assert points[0].tolist() == [55.3846, 97.1795]
    np.testing.assert_allclose(points.mean(axis=0), [54.263, 47.832], atol=1e-3)


def test_circle_lies_on_the_circle_and_the_origin():
    radius = np.linalg.norm(planar_law("circle").sample(np.random.default_rng(0), 5000), axis=1)
    near_origin = radius < 0.5
    assert near_origin.mean() == pytest.approx(1 / 25, abs=0.01)
    assert np.abs(radius[~near_origin] - 1.0).max() <= CIRCLE_REACH + 1e-9


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"name": "dinosaur"}, "dino, moons"),
        ({"name": "dino", "validation_ratio": 1.0}, "validation_ratio"),
        ({"name": "dino", "n_points": 3}, "at least 10"),
    ],
)
def test_bad_input(options, message):
    with pytest.raises(ValueError, match=message):
        planar_data(**({"seed": 0} | options))
