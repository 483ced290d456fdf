"""Streams by name are the same for ever, and apart."""

import jax
import numpy as np

from diffusions.keys import named_key

KEY = jax.random.key(7)


def test_the_stream_of_a_name_is_the_same_in_every_release():
    # crc32("noise") & 0x7fffffff; datasets are made with these.
    wanted = jax.random.fold_in(KEY, 2108266025)
    found = jax.random.key_data(named_key(KEY, "noise"))
    np.testing.assert_array_equal(found, jax.random.key_data(wanted))


def test_named_keys_differ_by_name_and_by_parent():
    bits = {
        jax.random.key_data(named_key(jax.random.key(seed), name)).tobytes()
        for seed in (0, 1)
        for name in ("train", "test", "couplings", "densities", "split")
    }
    assert len(bits) == 10
