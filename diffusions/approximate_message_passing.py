r"""Approximate message passing (AMP) for a sparse rank-one matrix, and its state evolution.

Of x = u u^T from E = x + t^{-1/2} S (`diffusions.sparse_estimators`). With v = n^{1/2} u, whose entries
are taken as independent, +-a with a = (n/k)^{1/2} and probability p = k/n together, else 0,

    lambda = (2 t / n)^{1/2},   A = lambda E = (lambda / n) v v^T + Z,   Z_ij ~ N(0, 1/n) for i < j. (1)

One entry in the Gaussian channel h = gamma v + gamma^{1/2} g has the posterior mean and normalisation

    f(h, gamma) = E[v | h] = a w(a) - a w(-a),   w(v) = P(v) exp(h v - gamma v^2 / 2) / zeta,
    zeta(h, gamma) = sum_v P(v) exp(h v - gamma v^2 / 2),                                           (2)

and E f v = E f^2 = q(gamma) = 1 - mmse(gamma). AMP iterates, with q_j = |m_j|^2 / n,

    m_j = f(h_j, gamma_j),   h_{j+1} = lambda (A m_j - b_j m_{j-1}),   gamma_{j+1} = lambda^2 q_j,  (3)

where b_j = lambda / n sum_i Var_i, the posterior variances of entries, is the mean derivative of f by
h_j / lambda, and takes out of A m_j what entry i has said to the others (Deshpande and Montanari, arXiv
1402.2238; Lesieur, Krzakala and Zdeborova, arXiv 1701.00858). As n grows, |m_j|^2 / n and (m_j . v) / n
both follow the state evolution

    q <- q(lambda^2 q),   |x - m m^T / n|_F^2 -> 1 - q^2.                                           (4)

q = 0 is a fixed point, unstable for lambda > 1, t > n/2: from a start that knows nothing AMP sees the
matrix only there. The spectral start (Montanari and Venkataramanan, arXiv 1711.01682) has the top
eigenvector v1 of E, whose squared overlap with v tends to q_0 = max(0, 1 - 1 / lambda^2),

    h_0 = lambda s,   s = lambda (q_0 n)^{1/2} v1,   gamma_0 = lambda^2 q_0,   m_{-1} = s / lambda; (5)

q_0 is taken no less than n^{-1/3}, the order of the squared overlap at lambda = 1. With a random vector
in place of v1 it is n^{-2}: f is linear until the part along v, which grows by lambda^2 in a step where
the rest grows by lambda, has outgrown it.

The matrix may be zero. The likelihood ratio beside that is the exponential of the TAP free energy, by
Plefka's expansion to second order in A. With R = q + sum_i Var_i / n and h, gamma that m is made from,

    Phi = sum_i [log zeta(h_i, gamma) - h_i m_i] + n gamma R / 2 + lambda / 2 m^T A m
          - n lambda^2 (2 R q - q^2) / 4,                                                           (6)

zero at m = 0 and stationary at fixed points of (3). Where the matrix is zero and lambda > 1, (3) does
not settle, and Phi is negative but for terms of order one. The estimate is m m^T / n times the
probability that the matrix is not zero,

    u = P^{1/2} m n^{-1/2},   log (P / (1 - P)) = log ((1 - p_0) / p_0) + Phi.                      (7)
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from scipy import special

from diffusions.arguments import checked
from diffusions.precision import einsum
from diffusions.sparse_estimators import top_eigenvector
from diffusions.typing import Array, Float, HostArray

N_STEPS = 100
_MOST_ITERATIONS = 10_000
# Of a standard normal variable: what lies beyond is below 1e-15.
_NODES = np.linspace(-8.5, 8.5, 2001)


class Entries(NamedTuple):
    """The posterior of entries in their Gaussian channels, equation (2)."""

    mean: Array
    variance: Array
    log_normaliser: Array  # log zeta


def entry_posterior(h: Array, gamma: Array, n: int, k: int) -> Entries:
    """Equation (2).

    Args:
        h: any shape.
        gamma: of a shape that broadcasts with it.
        n: dimension.
        k: non-zero entries.
    """
    a, p = math.sqrt(n / k), k / n
    one = math.log(p / 2) - 0.5 * a**2 * gamma
    zero = jnp.full_like(h, math.log1p(-p) if k < n else -math.inf)
    logs = jnp.stack(jnp.broadcast_arrays(one + a * h, one - a * h, zero))
    plus, minus, _ = jax.nn.softmax(logs, axis=0)
    mean = a * (plus - minus)
    return Entries(mean, a**2 * (plus + minus) - mean**2, jax.nn.logsumexp(logs, axis=0))


class _State(NamedTuple):
    """Of one sample, between two steps."""

    previous: Array  # m_{j-1}
    h: Array
    gamma: Array


@checked
def amp(
    edges: Float[Array, "batch n n"],
    t: Float[Array, " batch"],
    k: int,
    start: Float[Array, "batch n"] | None = None,
    *,
    zero_probability: float = 0.5,
    n_steps: int = N_STEPS,
) -> Float[Array, "batch n"]:
    """The estimate by AMP, equations (3) to (7).

    Args:
        edges: E, symmetric.
        t: times, finite.
        k: non-zero entries.
        start: random unit vectors; absent, the spectral start.
        zero_probability: of the zero matrix, p_0.
        n_steps: iterations of (3).

    Raises:
        ValueError: k is not in 1, ..., n, or zero_probability not in (0, 1).
    """
    n = edges.shape[-1]
    if not 1 <= k <= n:
        raise ValueError(f"k must be in 1, ..., n = {n}, got {k}")
    if not 0 < zero_probability < 1:
        raise ValueError(f"zero_probability must be in (0, 1), got {zero_probability}")
    signal = jnp.sqrt(2.0 * t / n)
    if start is None:
        start = top_eigenvector(edges)
        overlap = jnp.maximum(1.0 - 1.0 / signal**2, n ** (-1.0 / 3.0))
    else:
        overlap = jnp.full_like(t, n**-2.0)
    previous = jnp.sqrt(overlap * n)[:, None] * start
    first = _State(previous, (signal**2)[:, None] * previous, signal**2 * overlap)

    def one(edges: Array, signal: Array, state: _State) -> Array:
        def step(state: _State, _: None) -> tuple[_State, None]:
            entries = entry_posterior(state.h, state.gamma, n, k)
            correction = signal * jnp.mean(entries.variance)
            pulled = signal * einsum("ij,j->i", edges, entries.mean)
            h = signal * (pulled - correction * state.previous)
            return _State(entries.mean, h, signal**2 * jnp.mean(entries.mean**2)), None

        state, _ = jax.lax.scan(step, state, None, length=n_steps)
        mean = entry_posterior(state.h, state.gamma, n, k).mean
        evidence = free_energy(edges, signal, state.h, state.gamma, k)
        present = jax.nn.sigmoid(special.logit(1.0 - zero_probability) + evidence)
        return jnp.sqrt(present / n) * mean

    return jax.vmap(one)(edges, signal, first)


def free_energy(edges: Array, signal: Array, h: Array, gamma: Array, k: int) -> Array:
    """Phi of equation (6), of one sample.

    Args:
        edges: E, (n, n).
        signal: lambda.
        h: of the entries, (n,).
        gamma: of the same channels.
        k: non-zero entries.
    """
    n = edges.shape[-1]
    entries = entry_posterior(h, gamma, n, k)
    q = jnp.mean(entries.mean**2)
    second = q + jnp.mean(entries.variance)
    aligned = signal**2 * einsum("i,ij,j->", entries.mean, edges, entries.mean)
    return (
        jnp.sum(entries.log_normaliser - h * entries.mean)
        + 0.5 * n * gamma * second
        + 0.5 * aligned
        - 0.25 * n * signal**2 * (2.0 * second * q - q**2)
    )


def state_evolution(t: HostArray, n: int, k: int) -> HostArray:
    """The squared error 1 - q^2 of equation (4) for a matrix that is not zero, from q_0 of (5).

    Args:
        t: times.
        n: dimension, which enters as t / n and k / n alone.
        k: non-zero entries.
    """
    return np.array([1.0 - _fixed_point(2.0 * float(time) / n, n, k) ** 2 for time in t])


def expected_overlap(gamma: float, n: int, k: int) -> float:
    """q(gamma) of equation (2), by the trapezoidal rule.

    Args:
        gamma: of the channel.
        n: dimension.
        k: non-zero entries.
    """
    a, p = math.sqrt(n / k), k / n
    h = gamma * a + math.sqrt(gamma) * _NODES
    # Weights of v = a against v = -a and v = 0, whose exponents are differences to the first.
    against = np.exp(-2.0 * a * h)
    if k < n:
        against_zero = np.exp(math.log(2.0 * (1.0 - p) / p) + 0.5 * a**2 * gamma - a * h)
    else:
        against_zero = np.zeros_like(h)
    means = (1.0 - against) / (1.0 + against + against_zero)
    weights = np.exp(-0.5 * _NODES**2)
    # E f v = a^2 p times the mean given v = a, and a^2 p = 1.
    return float(weights @ means / weights.sum())


def _fixed_point(signal2: float, n: int, k: int) -> float:
    q = max(0.0, 1.0 - 1.0 / signal2) if signal2 > 0.0 else 0.0
    for _ in range(_MOST_ITERATIONS):
        new = expected_overlap(signal2 * q, n, k)
        if abs(new - q) < 1e-12:
            break
        q = new
    return q
