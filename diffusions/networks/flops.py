"""Floating-point operations of any JAX function, as model FLOPs utilisation counts them.

    matrix product  (b, m, k) (b, k, n):   2 b m k n                                                 (1)
    convolution:                           2 (entries of the output) (entries of a kernel)           (2)

where a kernel's entries are those that one output sums over, padding included. Everything else (norms,
activations, softmax) is not counted, by convention: it is bound by memory. A scan counts once per
step; of a `cond` the most expensive branch counts; a `while` loop cannot be counted.
"""

import math
from collections.abc import Callable, Iterator
from typing import Any

import jax


def matmul_flops(function: Callable, *args: Any) -> int:
    """Counts (1) and (2) over one call, without running it.

    Args:
        function: any JAX function; bind static arguments with a lambda.
        *args: arrays, or `jax.ShapeDtypeStruct`s in their place.

    Raises:
        ValueError: the function contains a loop of unknown length.
    """
    return _count(jax.make_jaxpr(function)(*args).jaxpr)


def _count(jaxpr: Any) -> int:
    total = 0
    for equation in jaxpr.eqns:
        kind, params = equation.primitive.name, equation.params
        if kind == "dot_general":
            left, right = (v.aval.shape for v in equation.invars)
            total += _product(left, right, params["dimension_numbers"])
        elif kind == "conv_general_dilated":
            kernel = equation.invars[1].aval.shape
            n_filters = kernel[params["dimension_numbers"].rhs_spec[0]]
            output = math.prod(equation.outvars[0].aval.shape)
            total += 2 * output * math.prod(kernel) // n_filters
        elif kind == "while":
            raise ValueError("a while loop has no fixed number of operations")
        elif kind == "cond":
            total += max(_count(branch.jaxpr) for branch in params["branches"])
        else:
            inner = sum(_count(inner) for inner in _inner(params))
            total += inner * (params["length"] if kind == "scan" else 1)
    return total


def _product(left: tuple, right: tuple, dimension_numbers: tuple) -> int:
    (contracted, contracted_right), (_, batch_right) = dimension_numbers
    summed = math.prod(left[i] for i in contracted)
    free = math.prod(
        n for i, n in enumerate(right) if i not in contracted_right and i not in batch_right
    )
    return 2 * math.prod(left) // summed * summed * free if summed else 0


def _inner(params: dict[str, Any]) -> Iterator[Any]:
    """The functions that an equation calls: of jit, remat, custom derivatives, scan."""
    for value in params.values():
        inner = getattr(value, "jaxpr", value)
        if hasattr(inner, "eqns"):
            yield inner
