"""What public functions are given as arrays and keys, checked against their annotations in one place.

    @checked
    def drift(x: Float[Array, "n d"], population: Float[Array, "m d"], key: Key) -> ...

Lists, tuples, numbers and NumPy arrays become JAX arrays of the annotated kind. Ranks and sizes must
be the annotated ones, and axes of one name equally long. A seed (0) or a raw `jax.random.PRNGKey` is
made a typed key. An argument that is annotated with a class of this project must be an instance of it.
All else is refused with the argument's name. Only shapes and types are looked at: nothing waits for a
device, and under `jit` and `vmap` the same holds.
"""

import dataclasses
import functools
import inspect
import types
import typing
from collections.abc import Callable
from typing import Any, TypeVar, get_args, get_origin

import jax
import jax.numpy as jnp
import numpy as np

from diffusions.typing import Array

Function = TypeVar("Function", bound=Callable[..., Any])

PACKAGES = ("diffusions", "jkonet_star", "checkpoints", "data_generation")
_VARIADIC = "..."


@dataclasses.dataclass(frozen=True)
class _ArrayRule:
    kind: str  # float, int, bool or key
    axes: tuple[str, ...]
    on_host: bool


@dataclasses.dataclass(frozen=True)
class _Rule:
    """What an argument may be: one of some arrays, one of some other types, or an instance."""

    arrays: tuple[_ArrayRule, ...]
    others: tuple[type, ...]
    owner: type | None
    on_host: bool = False
    """Lists become, and NumPy arrays stay, NumPy arrays, in double precision."""


@typing.overload
def checked(function: Function) -> Function: ...


@typing.overload
def checked(**axes: Callable[[Any], int]) -> Callable[[Function], Function]: ...


def checked(
    function: Function | None = None, **axes: Callable[[Any], int]
) -> Function | Callable[[Function], Function]:
    """Checks and converts the arguments of a function by its annotations; see the module header.

    Args:
        function: to be decorated, above any `jax.jit`.
        axes: lengths of axes that the first argument knows, such as `d=lambda self: self.dimension`.

    Raises:
        ValueError: (when called) an argument is not what its annotation says.
    """
    if function is None:
        return functools.partial(checked, **axes)
    original: Callable = inspect.unwrap(function)
    signature = inspect.signature(original)
    rules = {
        name: rule
        for name, parameter in signature.parameters.items()
        if (rule := _rule(parameter.annotation)) is not None
    }
    optional = {name for name, p in signature.parameters.items() if _may_be_none(p)}

    @functools.wraps(function)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        try:
            bound = signature.bind(*args, **kwargs)
        except TypeError as error:  # which does not say of what
            raise TypeError(f"{original.__name__}() {error}") from None
        lengths: dict[str, Any] = {}
        for i, (name, value) in enumerate(bound.arguments.items()):
            if value is None:
                continue
            if name in rules:
                bound.arguments[name] = _given(name, value, rules[name], lengths)
            if i == 0:
                lengths |= {axis: length(value) for axis, length in axes.items()}
        for name in rules.keys() - optional:
            if name in bound.arguments and bound.arguments[name] is None:
                raise ValueError(f"{name} is missing: got None")
        return function(*bound.args, **bound.kwargs)

    wrapper.checked_arguments = rules  # type: ignore[attr-defined]
    return wrapper  # type: ignore[return-value]


def check_unmasked(name: str, value: Any) -> None:
    """Refuses masks that hide something: an array would show it.

    Raises:
        ValueError: there are masked entries, in an array or in the arrays of a list.
    """
    parts = value if isinstance(value, list | tuple) else (value,)
    if any(isinstance(part, np.ma.MaskedArray) and np.ma.is_masked(part) for part in parts):
        raise ValueError(f"masked entries in {name}: leave out what is not known")


def as_key(value: Any, name: str = "key") -> Array:
    """A typed key, of a typed key, a seed or the raw key (or keys) of `jax.random.PRNGKey`.

    Raises:
        ValueError: it is none of these.
    """
    is_array = isinstance(value, jax.Array | np.ndarray | np.generic)
    if is_array and jnp.issubdtype(value.dtype, jax.dtypes.prng_key):
        return value
    try:
        if is_array and value.ndim and value.dtype == np.uint32:
            return jax.random.wrap_key_data(jnp.asarray(value))
        is_integer = is_array and value.ndim == 0 and jnp.issubdtype(value.dtype, jnp.integer)
        if is_integer or (isinstance(value, int) and not isinstance(value, bool)):
            return jax.random.key(value)
    except (TypeError, OverflowError):
        pass
    raise ValueError(
        f"{name} must be a key such as jax.random.key(0), or a seed such as 0, got {_shown(value)}"
    )


def _may_be_none(parameter: inspect.Parameter) -> bool:
    return parameter.default is None or type(None) in get_args(parameter.annotation)


def _rule(annotation: Any) -> _Rule | None:
    """None where an annotation says nothing that is checked here."""
    members = (
        get_args(annotation)
        if get_origin(annotation) in (typing.Union, types.UnionType)
        else (annotation,)
    )
    members = tuple(m for m in members if m is not type(None))
    arrays = [_array_rule(m) for m in members if hasattr(m, "dim_str")]
    if any(rule.kind == "key" for rule in arrays):
        # The raw keys that are part of jaxtyping's PRNGKeyArray are converted before.
        arrays = [rule for rule in arrays if rule.kind == "key"]
    others = tuple(m for m in members if m in (int, float, bool))
    if arrays:
        on_host = np.ndarray in members or any(rule.on_host for rule in arrays)
        return _Rule(tuple(arrays), others, None, on_host)
    if len(members) == 1 and inspect.isclass(members[0]):
        owner = members[0]
        ours = owner.__module__.split(".")[0] in PACKAGES
        if ours and not getattr(owner, "_is_protocol", False):
            return _Rule((), (), owner)
    return None


def _array_rule(annotation: Any) -> _ArrayRule:
    dtypes = annotation.dtypes
    kind = next(
        k
        for k, sign in (
            ("key", "prng_key"),
            ("float", "float32"),
            ("int", "int32"),
            ("int", "uint32"),
            ("bool", "bool"),
        )
        if sign in dtypes
    )
    on_host = annotation.array_type is np.ndarray
    return _ArrayRule(kind, tuple(annotation.dim_str.split()), on_host)


def _given(name: str, value: Any, rule: _Rule, lengths: dict[str, Any]) -> Any:
    """The argument as the function wants it."""
    if rule.owner is not None:
        if not isinstance(value, rule.owner):
            raise ValueError(f"{name} must be of {rule.owner.__name__}, got {_shown(value)}")
        return value
    if isinstance(value, rule.others) and not isinstance(value, bool | np.generic):
        return value
    array = value
    if rule.arrays[0].kind == "key":
        array = as_key(value, name)
    else:
        device_too = not all(r.on_host for r in rule.arrays)
        to_host = rule.on_host and not (device_too and isinstance(value, jax.Array))
        array = _array(name, value, rule.arrays[0].kind, to_host)
    for wanted in rule.arrays:
        found = _matched(array.shape, wanted.axes, lengths)
        if found is not None:
            lengths.update(found)
            return array
    raise ValueError(f"{name} must be {_wanted(rule, lengths)}, got {_shown(array)}")


def _array(name: str, value: Any, kind: str, to_host: bool) -> Any:
    kinds = {"float": "fiu", "int": "iu", "bool": "b"}[kind]
    words = {"float": "real numbers", "int": "integers", "bool": "true or false"}[kind]
    library: Any = np if to_host else jnp
    check_unmasked(name, value)
    if not isinstance(value, jax.Array):
        try:
            holds_jax = isinstance(value, list | tuple) and any(
                isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(value)
            )
            # A number keeps its weak type, which takes part in no promotion.
            as_it_is = holds_jax or type(value) in (int, float)
            value = jnp.asarray(value) if as_it_is else np.asarray(value)
        except (ValueError, TypeError, OverflowError):
            raise ValueError(f"{name} must be an array of {words}, got {_shown(value)}") from None
    actual = "f" if jnp.issubdtype(value.dtype, jnp.floating) else np.dtype(value.dtype).kind
    if actual not in kinds:
        raise ValueError(f"{name} must be an array of {words}, got {_shown(value)}")
    if kind == "float" and actual != "f":
        return library.asarray(value, np.float64 if to_host else float)
    if isinstance(value, np.ndarray if to_host else jax.Array):
        return value
    return library.asarray(value)


def _matched(
    shape: tuple[int, ...], axes: tuple[str, ...], lengths: dict[str, Any]
) -> dict[str, Any] | None:
    """The lengths of the named axes, or None where the shape is another."""
    variadic = [i for i, axis in enumerate(axes) if axis == _VARIADIC or axis.startswith("*")]
    if variadic:
        before, after = axes[: variadic[0]], axes[variadic[0] + 1 :]
        if len(shape) < len(before) + len(after):
            return None
        stop = len(shape) - len(after)
        middle = axes[variadic[0]]
        parts: list[tuple[str, Any]] = [
            *zip(before, shape, strict=False),
            *zip(after, shape[stop:], strict=True),
        ]
        if middle != _VARIADIC:
            parts.append((middle, shape[len(before) : stop]))
    elif len(shape) != len(axes):
        return None
    else:
        parts = list(zip(axes, shape, strict=True))
    found: dict[str, Any] = {}
    for axis, length in parts:
        expected = int(axis) if axis.isdigit() else {**lengths, **found}.get(axis, length)
        if length != expected:
            return None
        found[axis] = length
    return found


def _wanted(rule: _Rule, lengths: dict[str, Any]) -> str:
    shapes = " or ".join(f"[{', '.join(r.axes)}]" for r in rule.arrays)
    named = {axis for r in rule.arrays for axis in r.axes if axis in lengths}
    known = ", ".join(f"{axis.lstrip('*')} = {lengths[axis]}" for axis in sorted(named))
    what = "one key" if rule.arrays[0].kind == "key" and not rule.arrays[0].axes else "of shape"
    text = what if what == "one key" else f"{what} {shapes}"
    return f"{text} with {known}" if known else text


def _shown(value: Any) -> str:
    if isinstance(value, jax.Array | np.ndarray | np.generic):
        return f"{value.dtype} of shape {value.shape}"
    if isinstance(value, int | float | str):
        return f"{value!r}"[:80]
    return type(value).__name__
