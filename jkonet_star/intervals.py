"""Intervals of any function of an energy, from energies of resampled cells or a covariance.

With f the function, theta the energy learned from all cells, theta_1 .. theta_B those learned from
resampled ones, and q_p the quantile p of f(theta_1) .. f(theta_B), an interval of level 1 - a is

    percentile    [q_{a/2},  q_{1 - a/2}],                                                          (1)
    basic         [2 f(theta) - q_{1 - a/2},  2 f(theta) - q_{a/2}],                                (2)
    corrected     (1) less 2 [q_{1/2} - f(theta)]                                                   (3)

(Davison and Hinkley, Bootstrap methods and their application, 1997, chapter 5). What resampling does
to the fit, sampling has done to it before: (1) counts a bias of couplings twice, (2) and (3) take it
out, and agree where the values are symmetric about their median. A number that cannot be negative
keeps its bound in (1), and in (3) where it has no bias. The quantile p of B values is
the one of rank p (B + 1). Without replicates, from the covariance C of the coefficients of a closed
form and the standard normal quantile z,

    sandwich      f(theta) -+ z_{1 - a/2} sqrt(f'(theta) C f'(theta)^T).                            (4)
"""

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import numpy as np
from scipy.special import ndtri

from diffusions.checks import one_of
from diffusions.typing import Params, PyTree

if TYPE_CHECKING:
    from jkonet_star.fitted import FittedEnergy

METHODS = ("corrected", "basic", "percentile")
_NOT_TRACED = (
    jax.errors.TracerArrayConversionError,
    jax.errors.ConcretizationTypeError,
    jax.errors.TracerBoolConversionError,
    jax.errors.TracerIntegerConversionError,
)


class Interval(NamedTuple):
    """Bounds of every array that a function returned, in double precision."""

    lower: PyTree
    upper: PyTree


def values(function: Callable[[Any], PyTree], energies: "FittedEnergy") -> PyTree:
    """A function of every member of a stack; every leaf gains a leading axis.

    In one program where the function can be traced, and one after the other where it cannot.
    """
    try:
        return jax.tree.map(np.asarray, _of_all(_hashable(function), energies))
    except _NOT_TRACED:
        found = [function(energies.member(i)) for i in range(len(energies.times))]
        return jax.tree.map(lambda *leaves: np.stack([np.asarray(x) for x in leaves]), *found)


@functools.partial(jax.jit, static_argnames=("function",))
def _of_all(function: Callable[[Any], PyTree], energies: "FittedEnergy") -> PyTree:
    return jax.vmap(function)(energies)


def _hashable(function: Callable[[Any], PyTree]) -> Callable[[Any], PyTree]:
    """The function itself, by which its program is found again; else it is compiled every time."""
    try:
        hash(function)
    except TypeError:
        return lambda energy: function(energy)
    return function


def bootstrap_interval(
    function: Callable[[Any], PyTree],
    energy: "FittedEnergy",
    replicates: "FittedEnergy",
    *,
    level: float = 0.9,
    method: str = "corrected",
) -> Interval:
    """One of (1) to (3).

    Args:
        function: of a single energy, to any pytree of arrays.
        energy: learned from all cells.
        replicates: a stack, learned from resampled ones.
        level: between 0 and 1.
        method: corrected, basic or percentile.

    Raises:
        ValueError: a level that is no share, or that so few replicates cannot tell; an unknown method.
    """
    one_of("method", method, METHODS)
    tail = 0.5 * (1.0 - checked_level(level))
    count = len(replicates.times)
    fewest = int(np.ceil(1.0 / tail - 1e-9)) - 1
    if count < fewest:
        raise ValueError(
            f"an interval of level {level:g} needs at least {fewest} replicates, got {count}"
        )

    own, structure = jax.tree.flatten(function(energy))
    found = jax.tree.leaves(values(function, replicates))
    lower, upper = [], []
    for estimate, spread in zip(own, found, strict=True):
        center = np.asarray(estimate, np.float64)
        low, middle, high = np.quantile(
            spread.astype(np.float64), [tail, 0.5, 1.0 - tail], axis=0, method="weibull"
        )
        if method == "basic":
            low, high = 2.0 * center - high, 2.0 * center - low
        elif method == "corrected":
            bias = middle - center
            low, high = low - 2.0 * bias, high - 2.0 * bias
        lower.append(low)
        upper.append(high)
    return Interval(*(jax.tree.unflatten(structure, bounds) for bounds in (lower, upper)))


def delta_interval(
    function: Callable[[Any], PyTree],
    energy: "FittedEnergy",
    directions: Params,
    *,
    level: float = 0.9,
) -> Interval:
    """Equation (4).

    Args:
        function: of a single energy, to any pytree of arrays; it can be traced.
        energy: a linear one.
        directions: params, stacked, of which the outer products add up to C.
        level: between 0 and 1.

    Raises:
        ValueError: a level that is no share.
    """
    z = float(ndtri(0.5 * (1.0 + checked_level(level))))

    own, moved = _along_directions(_hashable(function), energy, directions)
    errors = jax.tree.map(lambda x: np.sqrt((np.asarray(x, np.float64) ** 2).sum(axis=0)), moved)
    return Interval(
        jax.tree.map(lambda value, error: np.asarray(value, np.float64) - z * error, own, errors),
        jax.tree.map(lambda value, error: np.asarray(value, np.float64) + z * error, own, errors),
    )


@functools.partial(jax.jit, static_argnames=("function",))
def _along_directions(
    function: Callable[[Any], PyTree], energy: "FittedEnergy", directions: Params
) -> tuple[PyTree, PyTree]:
    """The function, and its derivatives along each direction of the parameters."""

    def of_params(params: Params) -> PyTree:
        return function(energy.replace(params=params))  # type: ignore[attr-defined]

    moved = jax.vmap(lambda one: jax.jvp(of_params, (energy.params,), (one,))[1])(directions)
    return of_params(energy.params), moved


def checked_level(level: float) -> float:
    """The level of an interval.

    Raises:
        ValueError: it is not between 0 and 1.
    """
    if isinstance(level, bool) or not isinstance(level, int | float) or not 0 < level < 1:
        raise ValueError(f"level must be a share between 0 and 1, such as 0.9, got {level!r}")
    return float(level)
