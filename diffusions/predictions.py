"""What a network predicts, and every conversion between the four conventions.

With z = alpha x + sigma eps of `diffusions.processes` and the conditional means given z,

    clean    x_hat = E[x | z]
    epsilon  eps_hat = E[eps | z] = (z - alpha x_hat) / sigma                                       (1)
    score    grad log p_t(z) = -eps_hat / sigma                                                     (2)
    velocity v = alpha' x_hat + sigma' eps_hat                                                      (3)

Each determines the others, as long as the coefficient that it is divided by is not zero: epsilon and
score do not give x_hat where alpha = 0, and x_hat does not give epsilon where sigma = 0. The velocity
gives both anywhere between pure data and pure noise,

    x_hat = (sigma' z - sigma v) / (alpha sigma' - alpha' sigma),
    eps_hat = (alpha v - alpha' z) / (alpha sigma' - alpha' sigma).                                 (4)
"""

from typing import Literal, get_args

import jax.numpy as jnp

from diffusions.arguments import checked
from diffusions.processes import Process, beside, rates
from diffusions.typing import Array, Float

Prediction = Literal["epsilon", "clean", "velocity", "score"]
PREDICTIONS: tuple[str, ...] = get_args(Prediction)


def _check(kind: str) -> None:
    if kind not in PREDICTIONS:
        raise ValueError(f"prediction must be one of {', '.join(PREDICTIONS)}, got {kind!r}")


@checked
def clean_and_epsilon(
    process: Process,
    z: Float[Array, "batch ..."],
    t: Float[Array, "..."],
    value: Float[Array, "batch ..."],
    kind: Prediction,
) -> tuple[Float[Array, "batch ..."], Float[Array, "batch ..."]]:
    """x_hat and eps_hat, from any prediction.

    Args:
        process: alpha and sigma.
        z: noisy examples.
        t: one time for all, or one per example.
        value: the prediction.
        kind: what it is.

    Raises:
        ValueError: unknown kind.
    """
    _check(kind)
    alpha, sigma = beside(process.alpha(t), z), beside(process.sigma(t), z)
    if kind == "clean":
        return value, (z - alpha * value) / sigma
    if kind == "velocity":
        alpha_rate, sigma_rate = (beside(rate, z) for rate in rates(process, t))
        determinant = alpha * sigma_rate - alpha_rate * sigma
        clean = (sigma_rate * z - sigma * value) / determinant
        return clean, (alpha * value - alpha_rate * z) / determinant
    eps = -sigma * value if kind == "score" else value
    return (z - sigma * eps) / alpha, eps


@checked
def express(
    process: Process,
    t: Float[Array, "..."],
    clean: Float[Array, "batch ..."],
    eps: Float[Array, "batch ..."],
    kind: Prediction,
) -> Float[Array, "batch ..."]:
    """The prediction of a kind that says x_hat and eps_hat; also a network's target, from x and eps."""
    _check(kind)
    if kind == "clean":
        return clean
    if kind == "epsilon":
        return eps
    if kind == "score":
        return -eps / beside(process.sigma(t), eps)
    alpha_rate, sigma_rate = (beside(rate, eps) for rate in rates(process, t))
    return alpha_rate * clean + sigma_rate * eps


@checked
def convert(
    process: Process,
    z: Float[Array, "batch ..."],
    t: Float[Array, "..."],
    value: Float[Array, "batch ..."],
    kind: Prediction,
    to: Prediction,
) -> Float[Array, "batch ..."]:
    """One kind of prediction from another.

    Raises:
        ValueError: unknown kinds.
    """
    _check(to)
    if kind == to:
        return jnp.asarray(value)
    clean, eps = clean_and_epsilon(process, z, t, value, kind)
    return express(process, t, clean, eps, to)
