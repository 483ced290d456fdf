"""Random streams by name.

    key of a purpose      named_key(key, "training")                                               (1)
    key of a step in it   jax.random.fold_in(named_key(key, "training"), epoch)                    (2)

A purpose is a word and never a number, so that two of them cannot share a stream by mistake, and a new
one shifts no other. Numbers are for what is counted: steps, epochs, images.
"""

import zlib

import jax

from diffusions.typing import Key


def named_key(key: Key, name: str) -> Key:
    """The random stream called `name`, independent of every other name's."""
    # Of the bytes alone: Python's own hash of a text is another one in every process.
    return jax.random.fold_in(key, zlib.crc32(name.encode()) & 0x7FFFFFFF)
