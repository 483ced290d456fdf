r"""The solvable linear denoiser at finite n: what is expected of it, exactly.

In the notation of `diffusions.linear_denoiser.theory`, with N = n - 1, omega = tau^2 / (b^2 v)
= eta / s^2, Z and Xi the n centred z and noises, C = Z^T Z, G and G' standard normal of d and N - d
rows,

    B^T = b I + tau C^{-1/2} G  for N >= d,   B^T = b P + tau Z^+ Xi  for N < d,   s_hat^2 = A / (n d),
    A = |b Z + tau Xi|^2 = b^2 tr C + 2 b tau tr C^{1/2} G + tau^2 |G|^2 + tau^2 |G'|^2,            (1)

P projecting on the N directions of Z. For a Wishart matrix of dimension p and q > p + 1 degrees of
freedom E tr C^{-1} = p / (v (q - p - 1)) =: t, and tr C is independent of C / tr C, so that
E tr C tr C^{-1} = (p q - 2) p / (q - p - 1) =: u. With Wick's rule for the noises,

    N > d + 1, p, q = d, N:   E tr B B^T = b^2 d + tau^2 d t,
      E A tr B B^T = b^2 d (b^2 N d v + 4 tau^2 + tau^2 d^2) + b^2 tau^2 d u
                     + tau^2 d (N - d) (b^2 d + tau^2 d t) + tau^4 d (d^2 + 2) t;                   (2)
    N < d - 1, p, q = N, d:   E tr B B^T = b^2 N + tau^2 d t,
      E A tr B B^T = b^2 N (b^2 N d v + 4 tau^2 + tau^2 N d) + b^2 tau^2 d u + tau^4 d (N d + 2) t; (3)

between them both are infinite, unless there is no noise. A / s^2 is chi^2 of N d degrees of freedom,

    E KL = 1/2 [E tr S / s^2 - d - d E log(sigma^2 / s^2) - E log det B B^T + shift],               (4)
    shift = (d + e^{-2T} eta E tr B B^T / s^2) / n.

Given C, det B B^T det C is that of a noncentral Wishart matrix; its moments over C are

    E log det B B^T = d log(s^2 / v) + sum_{i<d} [psi((d-i)/2) - psi((N-i)/2)] + F,
    F = d/dh 2F1(-h, -a; d/2; x I_d) at h = 0,   a = (N - d) / 2,   x = s^2 / (s^2 + eta)           (5)

(Muirhead, "Aspects of multivariate statistical theory", 1982, sections 7.4 and 10.3). Of the zonal
series only the partitions (k1, k2, 1, ..., 1) have a derivative at h = 0. With l1 = 2 k1 + m + 1 and
l2 = 2 k2 + m,

    F = sum_{k>=1} A_k / (2 k) + sum_{m=0}^{d-2} W_m sum_{k1>=k2>=1} A_k1 B_k2 (l1 - l2)
                                                            / (l1 (l1 - 1) l2 (l2 - 1)),            (6)
    A_k = -2 (-a)_k x^k / (1/2)_k,  B_k = -2 (-a-1/2)_k x^k / (k-1)!,  W_m = (2a+2)_m x^m / m!.

Its terms alternate, and are up to ((1+x) / (1-x))^{2a} times their sum: they are added as integers over
a power of two. They grow in number and length with n, where another way is short: for N > d + 1

    E log det B B^T = d log b^2 - sum_{j>=1} omega^j / j prod_{i<j} (d + 2i) / (N - d - 1 - 2i),    (7)

an expansion of log det(I + tau C^{-1/2} G / b), by E tr (C^{-1/2} G)^{2j} = v^{-j} times that product
(the zonal polynomial of one row, of an inverted Wishart matrix). It is asymptotic: taken up to its
smallest term, it errs by less than that, and is used where that cannot be seen. For d -> oo it is
log(1 - omega d / (N - d)): what the leading order leaves out, and the cause of KL above it.

Of H^2 the expectation is known where S is singular, n <= d: it is 1.
"""

import functools
import math
from typing import NamedTuple

import numpy as np
from scipy import special, stats

from diffusions.linear_denoiser.model import OneStepModel
from diffusions.linear_denoiser.theory import regression
from diffusions.typing import HostArray

MOST_TERMS = 200_000
"""Of equation (6), pairs (m, k1): about a second."""

_GUARD_BITS = 96
_NEGLIGIBLE = 1e-14
_TAIL = 1e-15
_NODES = 400


class Expectation(NamedTuple):
    """Expectations for each number of training points."""

    kl: HostArray  # of KL(generated, truth)
    hellinger_squared: HostArray  # 1 up to n = d; NaN beyond, where it is not known
    mean_variance: HostArray  # of tr S / d


def exact_expectation(model: OneStepModel, n_train: HostArray) -> Expectation:
    """What is expected of the linear denoiser at finite n, equations (2) to (7).

    At most a second for each n, at d = 100 a few hundredths. KL is infinite up to n = d + 2, though a
    single one is not for n = d + 1 and d + 2.

    Args:
        model: the data and the step.
        n_train: numbers of training points, each at least 2.

    Returns:
        For each; KL is NaN where equation (6) has more than `MOST_TERMS` terms and (7) is not yet
        exact: with d above some 500 for n near 2 d, and, if eta is below s^2 d / 1000, for small
        even n - d.
    """
    sizes = [int(n) for n in n_train]
    return Expectation(
        kl=np.array([_kl(model, n) for n in sizes]),
        hellinger_squared=np.array([1.0 if n <= model.dimension else np.nan for n in sizes]),
        mean_variance=np.array([_traces(model, n)[1] / model.dimension for n in sizes]),
    )


def _traces(model: OneStepModel, n: int) -> tuple[float, float]:
    """E tr B B^T and E tr S, equations (2) and (3)."""
    d, freedom, eta = model.dimension, n - 1, model.noise_variance
    b2, tau2, v = regression(model)
    rank, larger = min(d, freedom), max(d, freedom)
    gap = larger - rank - 1
    scatter = b2 * rank * (b2 * freedom * d * v + 4.0 * tau2 + tau2 * rank * d)
    trace = b2 * rank
    # Without noise the fit is exact, and nothing diverges.
    if tau2:
        if gap <= 0:
            return math.inf, math.inf
        inverse, both = rank / (v * gap), (rank * larger - 2) * rank / gap
        trace += tau2 * d * inverse
        scatter += b2 * tau2 * d * both + tau2**2 * d * (rank * d + 2) * inverse
        scatter += tau2 * d * (freedom - rank) * trace
    return trace, model.shrinkage**2 * (scatter / (n * d) + eta * trace)


def _kl(model: OneStepModel, n: int) -> float:
    """Equation (4)."""
    d, s2, eta = model.dimension, model.std**2, model.noise_variance
    trace, generated = _traces(model, n)
    if n <= d or math.isinf(trace):
        return math.inf
    shift = (d + model.shrinkage**2 * eta * trace / s2) / n
    # By the trapezoidal rule over u = log(A / E A), whose density is smooth and decays on both sides.
    shape = 0.5 * (n - 1) * d
    scatter = stats.loggamma(shape, loc=-math.log(shape))
    u = np.linspace(scatter.ppf(_TAIL), scatter.isf(_TAIL), _NODES)
    weights = np.exp(shape * (u - np.expm1(u)))
    spreads = np.exp(u) * (n - 1) / n + eta / s2
    log_spread = float(weights @ np.log(spreads) / weights.sum())
    # Of S / s^2: sigma^2 = e^{-2T} (s_hat^2 + eta).
    log_determinant = d * (log_spread - 2.0 * model.time) + _log_determinant(model, n - 1)
    return 0.5 * (generated / s2 - d - log_determinant + shift)


def _log_determinant(model: OneStepModel, freedom: int) -> float:
    """E log det B B^T, by whichever of equations (5) and (7) is exact in few terms."""
    d, (b2, _, v) = model.dimension, regression(model)
    omega = model.noise_variance / model.std**2
    correction, smallest = _expansion(d, freedom, omega)
    if smallest < _NEGLIGIBLE:
        return d * math.log(b2) - correction
    i = np.arange(d)
    digammas = special.digamma((d - i) / 2.0) - special.digamma((freedom - i) / 2.0)
    hypergeometric = _hypergeometric_slope(freedom - d, d, 1.0 / (1.0 + omega))
    return d * math.log(model.std**2 / v) + float(digammas.sum()) + hypergeometric


def _expansion(d: int, freedom: int, omega: float) -> tuple[float, float]:
    """The sum of equation (7) up to its smallest term, and the size of that."""
    if omega == 0.0:
        return 0.0, 0.0
    total, term, j = 0.0, 1.0, 0
    while omega * (d + 2 * j) < (left := freedom - d - 1 - 2 * j):
        term *= omega * (d + 2 * j) / left
        j += 1
        total += term / j
        if term < _NEGLIGIBLE**2:
            break
    return total, term / max(j, 1)


@functools.lru_cache(maxsize=1024)
def _hypergeometric_slope(twice_a: int, d: int, x: float) -> float:
    """F of equation (6); NaN where it has too many terms."""
    if twice_a == 0:
        return 0.0
    # (1+x)^{2a} of A and B together, at most (1-x)^{-2a-2} and at most 2^{2a+1+d} of W.
    of_weights = twice_a + 1.0 + d
    if x < 1.0:
        of_weights = min(of_weights, -(twice_a + 2) * math.log2(1.0 - x))
    bits = _GUARD_BITS + math.ceil(twice_a * math.log2(1.0 + x) + of_weights)
    numerator, denominator = x.as_integer_ratio()
    shift = denominator.bit_length() - 1

    first, second = -2 << bits, ((twice_a + 1) * numerator << bits) >> shift
    firsts, seconds = [], []
    for k in range(1, MOST_TERMS // max(d - 1, 1) + 1):
        first = (first * (2 * k - 2 - twice_a) // (2 * k - 1) * numerator) >> shift
        # A ends for an even 2a. For an odd one it decays once k > a, and B ends.
        if abs(first) >> (bits - _GUARD_BITS) == 0 and 2 * k > twice_a:
            break
        firsts.append(first)
        seconds.append(second)
        second = (second * (2 * k - twice_a - 1) // (2 * k) * numerator) >> shift
    else:
        return math.nan

    # Python's integers in arrays: NumPy adds them without a bound on their length.
    a_k, b_k = np.array(firsts, object), np.array(seconds, object)
    k_all = np.array(range(1, len(firsts) + 1), object)
    total, weight = np.sum(a_k // (2 * k_all)), 1 << bits
    for m in range(d - 1):
        l2 = 2 * k_all + m
        l1 = l2 + 1
        # The sums over k2 <= k1 of B / (l2 (l2 - 1)) and B / (l2 - 1): l1 - l2 taken apart.
        inner = l1 * np.cumsum(b_k // (l2 * (l2 - 1))) - np.cumsum(b_k // (l2 - 1))
        total += (int(np.sum(a_k * inner // (l1 * l2))) >> bits) * weight >> bits
        weight = (weight * (twice_a + 2 + m) // (m + 1) * numerator) >> shift
    # Not by 2^bits at once, which may be no float.
    return (int(total) >> (bits - _GUARD_BITS)) / (1 << _GUARD_BITS)
