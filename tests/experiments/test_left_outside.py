"""Why much is left outside a range of log SNRs: the range is short, or the network errs at its ends.

The data are N(0, v I), whose ideal denoiser is known: z = alpha x + sigma eps, where alpha^2 is the
logistic function of the log SNR and sigma^2 = 1 - alpha^2, has E[eps | z] = sigma z / (alpha^2 v +
sigma^2).
"""

from types import SimpleNamespace

import jax
import jax.numpy as jnp
import pytest

from diffusions.density.log_snr import LogSNRLaw
from experiments.information_theoretic.assessment import left_outside

VARIANCE = 1e-4
"""Resolved at a log SNR of log(1 / VARIANCE) = 9."""
SHORT, WIDE = LogSNRLaw(loc=0.0, scale=1.0, clip=4.0), LogSNRLaw(loc=2.0, scale=4.0, clip=4.0)
LACKS = "the log SNRs do not hold all of the integral"
ERRS = "the network errs at the ends of the log SNRs"


def denoiser(variance):
    def epsilon(z, a):
        signal = jax.nn.sigmoid(a).reshape(-1, *[1] * (z.ndim - 1))
        return jnp.sqrt(1.0 - signal) * z / (signal * variance + 1.0 - signal)

    return epsilon


ideal, broad = denoiser(VARIANCE), denoiser(1.0)


def hasty(z, a):
    return 2.0 * jnp.cos(3.0 * z)


def task(network, resolving, *, points):
    x = jnp.sqrt(VARIANCE) * jax.random.normal(
        jax.random.key(0), (400, 2) if points else (100, 4, 4, 1)
    )
    return SimpleNamespace(
        settings=SimpleNamespace(is_planar=points),
        dimension=x[0].size,
        validation_examples=lambda: x,
        denoiser=lambda learned: network,
        resolving=lambda: SimpleNamespace(epsilon=resolving),
    )


@pytest.mark.parametrize(
    ("network", "resolving", "points", "law", "remark"),
    [
        (ideal, ideal, True, WIDE, ""),
        (ideal, ideal, True, SHORT, LACKS),
        (hasty, ideal, True, WIDE, ERRS),
        (hasty, ideal, True, SHORT, LACKS),
        (hasty, ideal, False, WIDE, ERRS),
        # A Gaussian as broad as all pixels has nothing left to resolve, and the network has.
        (ideal, broad, False, SHORT, LACKS),
    ],
)
def test_the_range_is_blamed_where_the_ideal_denoiser_lacks_some(
    network, resolving, points, law, remark, capsys
):
    found, why = left_outside(task(network, resolving, points=points), None, law)
    assert why == remark
    assert found.tolerable(2 if points else 16) == (remark == "")
    said = capsys.readouterr().out
    assert ("give a larger scale" in said) == (remark == LACKS)
    assert ("train it longer" in said) == (remark == ERRS)
