"""The sinusoidal embedding against its formula."""

import jax.numpy as jnp
import numpy as np
import pytest

from diffusions.networks.embeddings import sinusoidal_embedding, step_of_log_snr


@pytest.mark.parametrize(
    ("dim", "scale", "period"), [(4, 1.0, 1e4), (10, 50.0, 1e4), (64, 3.0, 99.0)]
)
def test_the_formula(dim, scale, period):
    values = np.linspace(-4, 4, 12).reshape(3, 4)
    half = dim // 2
    expected = np.empty((3, 4, dim))
    for k in range(half):
        omega = scale * period ** (-k / (half - 1))
        expected[..., k] = np.sin(omega * values)
        expected[..., half + k] = np.cos(omega * values)
    found = sinusoidal_embedding(
        jnp.asarray(values, jnp.float32), dim, scale=scale, max_period=period
    )
    np.testing.assert_allclose(found, expected, atol=1e-4)


def test_the_kernel_depends_on_differences_only(double_precision):
    values = jnp.linspace(-3.0, 3.0, 9)
    e = sinusoidal_embedding(values, 16, scale=7.0)
    gram = np.asarray(e @ e.T)
    for offset in range(9):
        diagonal = np.diagonal(gram, offset)
        np.testing.assert_allclose(diagonal, diagonal[0], atol=1e-12)
    np.testing.assert_allclose(np.diagonal(gram), 8.0)


def test_low_precision_values_keep_precise_angles():
    values = jnp.asarray([500.0, 996.0], jnp.bfloat16)  # both exact in bfloat16
    e = sinusoidal_embedding(values, 8)
    assert e.dtype == jnp.float32
    np.testing.assert_allclose(e[:, 0], np.sin([500.0, 996.0]), atol=1e-4)


@pytest.mark.parametrize("dim", [2, 7])
def test_dimensions_that_have_no_embedding(dim):
    with pytest.raises(ValueError, match=f"got {dim}"):
        sinusoidal_embedding(jnp.zeros(3), dim)


def test_the_step_of_a_log_snr():
    betas = np.linspace(1e-4, 0.02, 1000)
    kept = np.cumprod(1 - betas)
    table = np.log(kept / (1 - kept))
    steps = np.array([0, 1, 17, 500, 998, 999])
    found = step_of_log_snr(jnp.asarray(table[steps], jnp.float32), betas)
    np.testing.assert_allclose(found, steps, atol=1e-2)
    halfway = jnp.asarray((table[40] + table[41]) / 2, jnp.float32)
    np.testing.assert_allclose(step_of_log_snr(halfway, betas), 40.5, atol=1e-2)
    # Beyond the table: its ends.
    outside = step_of_log_snr(jnp.array([20.0, -20.0]), betas)
    np.testing.assert_array_equal(outside, [0.0, 999.0])
