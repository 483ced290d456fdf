r"""Named test energies, R^d -> R, for potentials and interactions.

z1 and z2 are the means of the first floor(d/2) and of the remaining coordinates of v; in one
dimension both are v. |v| is the Euclidean norm. Sums over neighbours run over the pairs
(v_i, v_{i+1}); in one dimension the only pair is (v, v).

    styblinski_tang   0.5 sum(v^4 - 16 v^2 + 5 v)                                              (1)
    holder_table      10 |sin z1 cos z2 exp|1 - |v|/pi||                                       (2)
    cross_in_tray     -2 (|sin z1 sin z2 exp|10 - |v|/pi|| + 1)^0.1                            (3)
    zigzag_ridge      sum_i (v_i - v_{i+1})^2 + cos(v_i) (v_i + v_{i+1}) + v_i^2 v_{i+1}       (4)
    oakley_ohagan     5 sum(sin v + cos v + v^2 + v)                                           (5)
    watershed         (1/10) sum_i v_i + v_i^2 (v_{i+1} + 4)                                   (6)
    moon              u^T M u clipped to [-100, 100], u = (1, w_1 .. w_20),
                      w = the first 20 of v/4, (v/4)^2, (v/4)^4, (v/4)^8 ...                   (7)
    ishigami          sin z1 + 7 sin^2 z2 + 0.1 ((z1 + z2)/2)^4 sin z1                         (8)
    friedman          (10 sin(pi a b) + 20 (a sin b - 0.5)^2 + 10 (a cos b - 1)^2
                      + 0.1 b sin a) / 100,  a = 2 (z1 - 7), b = z2 - 7                        (9)
    sphere            -10 |v|^2                                                                (10)
    bohachevsky       10 (z1^2 + 2 z2^2 - 0.3 cos(3 pi z1) - 0.4 cos(4 pi z2))                 (11)
    three_hump_camel  2 z1^2 - 1.05 z1^4 + z1^6/6 + z1 z2 + z2^2                               (12)
    beale             ((1.5 - z1 + z1 z2)^2 + (2.25 - z1 + z1 z2^2)^2
                      + (2.625 - z1 + z1 z2^3)^2) / 100                                        (13)
    flowers           sum(v + 2 sin(|v|^1.2)), |.| of each coordinate                          (14)
    wavy_plateau      sum(cos(pi v) + 0.5 v^4 - 3 v^2 + 1)                                     (15)
    double_exp        200 (exp(-|v - 3|^2/20) + exp(-|v + 3|^2/20)), 3 in every coordinate     (16)
    relu              -50 sum max(v, 0)                                                        (17)
    rotational        -500 max(theta + pi, 0), theta = atan2(z2 + 5, z1 + 5)                   (18)
    flat              0                                                                        (19)

The gradients are finite wherever a particle can be. Where an energy has a kink (a norm at zero, an
absolute value, the apex of theta) the gradient is a subgradient or zero. M is the table of Moon,
Dean and Santner (2012), shipped as `moon_coefficients.csv`.
"""

import functools
import importlib.resources
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from data_generation.populations.settings import FUNCTIONAL_NAMES
from diffusions.checks import one_of
from diffusions.typing import Array, Float

Energy = Callable[[Float[Array, "d"]], Float[Array, ""]]

_MOON_LENGTH = 20
_MOON_LARGE = 1e6  # beyond it squares of float32 powers come near overflow


def _half_means(v: Float[Array, "d"]) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """z1 and z2."""
    half = v.shape[0] // 2
    return (jnp.mean(v[:half]) if half else v[0]), jnp.mean(v[half:])


def _neighbours(v: Float[Array, "d"]) -> tuple[Array, Array]:
    """The pairs (v_i, v_{i+1})."""
    return (v, v) if v.shape[0] == 1 else (v[:-1], v[1:])


def _norm(v: Float[Array, "d"]) -> Float[Array, ""]:
    """|v|, with gradient zero at the origin."""
    squared = jnp.sum(v**2)
    # Below the smallest normal number the square root's slope overflows, so it is treated as zero.
    nonzero = squared >= jnp.finfo(v.dtype).tiny
    return jnp.where(nonzero, jnp.sqrt(jnp.where(nonzero, squared, 1.0)), 0.0)


def styblinski_tang(v: Float[Array, "d"]) -> Float[Array, ""]:
    """Equation (1)."""
    return 0.5 * jnp.sum(v**4 - 16 * v**2 + 5 * v)


def holder_table(v: Float[Array, "d"]) -> Float[Array, ""]:
    """Equation (2)."""
    z1, z2 = _half_means(v)
    return 10 * jnp.abs(jnp.sin(z1) * jnp.cos(z2) * jnp.exp(jnp.abs(1 - _norm(v) / jnp.pi)))


def cross_in_tray(v: Float[Array, "d"]) -> Float[Array, ""]:
    """Equation (3)."""
    z1, z2 = _half_means(v)
    tray = jnp.abs(jnp.sin(z1) * jnp.sin(z2) * jnp.exp(jnp.abs(10 - _norm(v) / jnp.pi)))
    return -2 * (tray + 1) ** 0.1


def zigzag_ridge(v: Float[Array, "d"]) -> Float[Array, ""]:
    """Equation (4)."""
    a, b = _neighbours(v)
    return jnp.sum((a - b) ** 2 + jnp.cos(a) * (a + b) + a**2 * b)


def oakley_ohagan(v: Float[Array, "d"]) -> Float[Array, ""]:
    """Equation (5)."""
    return 5 * jnp.sum(jnp.sin(v) + jnp.cos(v) + v**2 + v)


def watershed(v: Float[Array, "d"]) -> Float[Array, ""]:
    """Equation (6)."""
    a, b = _neighbours(v)
    return jnp.sum(a + a**2 * (b + 4)) / 10


@functools.cache
def moon_coefficients() -> np.ndarray:
    """M of equation (7), (21, 21) float64."""
    file = importlib.resources.files("data_generation").joinpath("moon_coefficients.csv")
    with file.open(encoding="utf-8") as lines:
        return np.loadtxt(lines, delimiter=",")


def moon(v: Float[Array, "d"]) -> Float[Array, ""]:
    """Equation (7).

    In few dimensions the powers reach (v/4)^(2^19). Where they pass what a product of two can hold,
    the sign of the quadratic form is taken from its terms' logarithms; the energy is clipped there,
    so its gradient is zero.
    """
    d = v.shape[0]
    matrix = jnp.asarray(moon_coefficients(), v.dtype)
    doublings = jnp.asarray(np.arange(_MOON_LENGTH) // d, v.dtype)
    w = jnp.resize(v / 4, (_MOON_LENGTH,))
    log_w = jnp.log(jnp.maximum(jax.lax.stop_gradient(jnp.abs(w)), jnp.finfo(v.dtype).tiny))
    log_u = jnp.concatenate([jnp.zeros(1, v.dtype), log_w * 2**doublings])
    large = jnp.max(log_u) > jnp.log(_MOON_LARGE)

    powers = [jnp.where(large, jnp.zeros_like(v), v / 4)]
    while d * len(powers) < _MOON_LENGTH:
        powers.append(powers[-1] ** 2)
    u = jnp.concatenate([jnp.ones(1, v.dtype), jnp.concatenate(powers)[:_MOON_LENGTH]])

    # Relative to the largest term, not to the largest power: its coefficient may be zero.
    coefficient = jnp.where(matrix == 0, 1.0, jnp.abs(matrix))
    log_terms = jnp.log(coefficient) + log_u[:, None] + log_u[None, :]
    log_terms = jnp.where(matrix == 0, -jnp.inf, log_terms)
    odd = jnp.concatenate([jnp.ones(1, v.dtype), jnp.where((doublings == 0) & (w < 0), -1.0, 1.0)])
    signs = jnp.sign(matrix) * odd[:, None] * odd[None, :]
    beyond = 100 * jnp.sign(jnp.sum(signs * jnp.exp(log_terms - jnp.max(log_terms))))
    return jnp.where(large, beyond, jnp.clip(u @ matrix @ u, -100, 100))


def ishigami(v: Float[Array, "d"]) -> Float[Array, ""]:
    """Equation (8)."""
    z1, z2 = _half_means(v)
    return jnp.sin(z1) + 7 * jnp.sin(z2) ** 2 + 0.1 * ((z1 + z2) / 2) ** 4 * jnp.sin(z1)


def friedman(v: Float[Array, "d"]) -> Float[Array, ""]:
    """Equation (9)."""
    z1, z2 = _half_means(v)
    a, b = 2 * (z1 - 7), z2 - 7
    ridge = 20 * (a * jnp.sin(b) - 0.5) ** 2 + 10 * (a * jnp.cos(b) - 1) ** 2
    return (10 * jnp.sin(jnp.pi * a * b) + ridge + 0.1 * b * jnp.sin(a)) / 100


def sphere(v: Float[Array, "d"]) -> Float[Array, ""]:
    """Equation (10)."""
    return -10 * jnp.sum(v**2)


def bohachevsky(v: Float[Array, "d"]) -> Float[Array, ""]:
    """Equation (11)."""
    z1, z2 = _half_means(v)
    waves = 0.3 * jnp.cos(3 * jnp.pi * z1) + 0.4 * jnp.cos(4 * jnp.pi * z2)
    return 10 * (z1**2 + 2 * z2**2 - waves)


def three_hump_camel(v: Float[Array, "d"]) -> Float[Array, ""]:
    """Equation (12)."""
    z1, z2 = _half_means(v)
    return 2 * z1**2 - 1.05 * z1**4 + z1**6 / 6 + z1 * z2 + z2**2


def beale(v: Float[Array, "d"]) -> Float[Array, ""]:
    """Equation (13)."""
    z1, z2 = _half_means(v)
    terms = (1.5 - z1 + z1 * z2, 2.25 - z1 + z1 * z2**2, 2.625 - z1 + z1 * z2**3)
    return (terms[0] ** 2 + terms[1] ** 2 + terms[2] ** 2) / 100


def flowers(v: Float[Array, "d"]) -> Float[Array, ""]:
    """Equation (14)."""
    nonzero = v != 0
    petals = jnp.where(nonzero, jnp.abs(jnp.where(nonzero, v, 1.0)) ** 1.2, 0.0)
    return jnp.sum(v + 2 * jnp.sin(petals))


def wavy_plateau(v: Float[Array, "d"]) -> Float[Array, ""]:
    """Equation (15)."""
    return jnp.sum(jnp.cos(jnp.pi * v) + 0.5 * v**4 - 3 * v**2 + 1)


def double_exp(v: Float[Array, "d"]) -> Float[Array, ""]:
    """Equation (16)."""
    return 200 * (jnp.exp(-jnp.sum((v - 3) ** 2) / 20) + jnp.exp(-jnp.sum((v + 3) ** 2) / 20))


def relu(v: Float[Array, "d"]) -> Float[Array, ""]:
    """Equation (17)."""
    return -50 * jnp.sum(jax.nn.relu(v))


def rotational(v: Float[Array, "d"]) -> Float[Array, ""]:
    """Equation (18), theta zero at its apex."""
    z1, z2 = _half_means(v)
    x, y = z1 + 5, z2 + 5
    apex = x**2 + y**2 < jnp.finfo(v.dtype).tiny
    theta = jnp.arctan2(jnp.where(apex, 0.0, y), jnp.where(apex, 1.0, x))
    return -500 * jax.nn.relu(theta + jnp.pi)


def flat(v: Float[Array, "d"]) -> Float[Array, ""]:
    """Equation (19)."""
    return jnp.zeros((), v.dtype)


FUNCTIONALS: dict[str, Energy] = {
    f.__name__: f
    for f in (
        styblinski_tang,
        holder_table,
        cross_in_tray,
        zigzag_ridge,
        oakley_ohagan,
        watershed,
        moon,
        ishigami,
        friedman,
        sphere,
        bohachevsky,
        three_hump_camel,
        beale,
        flowers,
        wavy_plateau,
        double_exp,
        relu,
        rotational,
        flat,
    )
}
"""The energies by name, in the order of `FUNCTIONAL_NAMES`."""


def functional(name: str) -> Energy | None:
    """The energy of that name; None for `none`, an absent energy.

    Raises:
        ValueError: an unknown name, with the near misses.
    """
    one_of("functional", name, ("none", *FUNCTIONAL_NAMES))
    return FUNCTIONALS.get(name)
