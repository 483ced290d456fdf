"""Shapes in the place of numbers, whatever JAX puts into a pytree."""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusions.short_repr import LONGEST, known, short_repr
from diffusions.training import TrainingState


class Pair(NamedTuple):
    points: Any
    epoch: Any

    def __repr__(self) -> str:
        return short_repr(self)


@dataclasses.dataclass
class Whole:
    pair: Pair
    params: dict
    text: str
    hidden: Any = dataclasses.field(default=None, repr=False)

    __repr__ = short_repr


def test_arrays_are_shown_by_their_shapes_and_scalars_by_their_values():
    pair = Pair(np.zeros((1000, 2)), jnp.int32(7))
    assert repr(pair) == "Pair(points=float64[1000,2], epoch=7)"
    assert repr(Pair(jnp.float32(1 / 3), jnp.bool_(True))) == "Pair(points=0.3333, epoch=True)"
    params = {"a": jnp.zeros((4, 3)), "b": [jnp.zeros(1200)]}
    assert repr(Whole(pair, params, "x")) == (
        "Whole(pair=Pair(points=float64[1000,2], epoch=7), "
        "params=<2 arrays of 1,212 numbers>, text='x')"
    )
    assert repr(Whole(pair, {}, "x\ny")).endswith(r"params={}, text='x\ny')")
    long = repr(Whole(pair, {"about": [1, "two"]}, "abc" * LONGEST))
    assert "params={'about': [1, 'two']}" in long
    assert len(long) < 2 * LONGEST + 40
    assert "..." in long


def test_a_pytree_of_tracers_shapes_or_placeholders_is_shown_too():
    seen = []
    jax.jit(lambda pair: seen.append(repr(pair)))(Pair(jnp.zeros(3), jnp.float32(0)))
    jax.vmap(lambda pair: seen.append(repr(pair)))(Pair(jnp.zeros((2, 3)), jnp.zeros(2)))
    assert seen == ["Pair(points=float32[3], epoch=float32[])"] * 2
    shape = jax.ShapeDtypeStruct((), jnp.float32)
    assert repr(Pair(shape, None)) == "Pair(points=float32[], epoch=None)"
    assert "key<fry>[]" in repr(Pair(jax.random.key(0), 0))


def test_what_was_consumed_has_no_numbers():
    array = jnp.zeros(())
    assert known(array, np.zeros(2), np.float32(1))
    array.delete()
    assert not known(array)
    assert repr(Pair(array, 1)) == "Pair(points=float32[], epoch=1)"


@pytest.mark.parametrize("value", [None, 1.0, object(), jax.ShapeDtypeStruct((), np.float32)])
def test_only_arrays_are_known(value):
    assert not known(value)


def test_a_training_state_does_not_fill_a_screen():
    params = {"kernel": jnp.zeros((64, 64))}
    state = TrainingState(params=params, optimizer_state=(params,), ema=params, epoch=jnp.int32(3))
    block = "<1 array of 4,096 numbers>"
    assert repr(state) == (
        f"TrainingState(params={block}, optimizer_state={block}, ema={block}, epoch=3)"
    )
