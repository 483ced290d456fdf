import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusions.images.features import image_features
from diffusions.metrics import frechet_distance_of_samples


def smooth(key, n=200, side=24):
    coarse = jax.random.normal(key, (n, 4, 4, 3))
    return jax.image.resize(coarse, (n, side, side, 3), "cubic") / 2


def test_textures_see_noise_that_colours_do_not():
    x, y = smooth(jax.random.key(0)), smooth(jax.random.key(1))
    noise = 0.4 * jax.random.normal(jax.random.key(2), y.shape)

    def distance(z, part):
        own, other = image_features(x)[:, part], image_features(z)[:, part]
        return float(frechet_distance_of_samples(own, other))

    colours, textures = slice(0, 48), slice(48, None)
    assert distance(y + noise, textures) > 3 * distance(y, textures)
    assert distance(y + noise, colours) == pytest.approx(distance(y, colours), rel=0.1)
    features = image_features(x)
    assert features.shape == (200, 16 * 3 + 48)
    # A constant colour moves the colours by itself and no texture.
    shifted = image_features(x + 0.25)
    np.testing.assert_allclose(shifted[:, :48], features[:, :48] + 0.25, atol=1e-5)
    np.testing.assert_allclose(shifted[:, 48:], features[:, 48:], atol=1e-5)


def test_textures_are_linear_in_contrast():
    x = smooth(jax.random.key(0), n=3)
    np.testing.assert_allclose(image_features(2 * x), 2 * image_features(x), rtol=1e-4, atol=1e-5)


def test_images_that_are_too_small():
    with pytest.raises(ValueError, match="20 pixels"):
        image_features(jnp.zeros((2, 16, 16, 3)))
