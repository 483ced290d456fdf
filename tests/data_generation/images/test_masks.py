"""Masks: exact counts, disjoint, blind to labels, reproducible, and of the shapes promised."""

from typing import get_args

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from data_generation.images.mask_settings import MaskPattern, MaskSettings
from data_generation.images.masks import sparse_masks

PATTERNS = get_args(MaskPattern)
KEY = jax.random.key(3)
N = 24
compiled = jax.jit(sparse_masks, static_argnames=("shape", "settings"))


def masks(epoch=0, indices=N, *, shape=(16, 16, 3), draw=0, key=KEY, **settings):
    indices = jnp.arange(indices) if isinstance(indices, int) else jnp.asarray(indices)
    made = compiled(key, epoch, indices, shape=shape, settings=MaskSettings(**settings), draw=draw)
    return np.asarray(made.conditioning), np.asarray(made.target)


@pytest.mark.parametrize(
    ("conditioning", "target", "per_channel"), [(0.2, 0.2, False), (0.3, 0.7, True)]
)
@pytest.mark.parametrize("pattern", PATTERNS)
def test_counts_are_exact_and_masks_disjoint(pattern, conditioning, target, per_channel):
    shape = (12, 10, 3)  # neither square nor a power of two
    told, asked = masks(
        shape=shape,
        indices=4,
        mask_pattern=pattern,
        conditioning=conditioning,
        target=target,
        per_channel=per_channel,
    )
    np.testing.assert_array_equal(told.sum(axis=(1, 2)), round(conditioning * 120))
    np.testing.assert_array_equal(asked.sum(axis=(1, 2)), round(target * 120))
    assert not (told & asked).any()
    alike = (told == told[..., :1]).all() and (asked == asked[..., :1]).all()
    assert alike == (not per_channel)


def test_the_published_count():
    assert MaskSettings().counts(1024) == (204, 204)
    assert MaskSettings(conditioning=0.3, target=0.1).counts(10) == (3, 1)
    assert MaskSettings(conditioning=0.5, target=0.5).counts(7) == (3, 3)


@pytest.mark.parametrize("pattern", PATTERNS)
def test_an_image_keeps_its_masks_within_an_epoch_wherever_it_stands(pattern):
    told, asked = masks(epoch=5, mask_pattern=pattern)
    order = np.random.default_rng(0).permutation(N)
    for draw in (0, 1):
        again = masks(epoch=5, indices=order, mask_pattern=pattern, draw=draw)
        np.testing.assert_array_equal(again[0], told[order])
        np.testing.assert_array_equal(again[1], asked[order])
    for other in ({"epoch": 6}, {"epoch": 5, "key": jax.random.key(4)}):
        assert (masks(mask_pattern=pattern, **other)[0] != told).any()
    assert (told[0] != told[1]).any()


def test_fresh_masks_at_every_use():
    told = [masks(epoch, mask_mode="random", draw=draw)[0] for epoch in (0, 1) for draw in (0, 1)]
    for a in range(4):
        for b in range(a):
            assert (told[a] != told[b]).any(axis=(1, 2, 3)).all()
    np.testing.assert_array_equal(told[3], masks(1, mask_mode="random", draw=1)[0])


def test_fixed_masks_never_change():
    first = masks(mask_mode="fixed")
    for epoch, draw in ((0, 3), (7, 0)):
        again = masks(epoch, mask_mode="fixed", draw=draw)
        for one, two in zip(first, again, strict=True):
            np.testing.assert_array_equal(one, two)
    assert (masks(mask_mode="fixed", key=jax.random.key(4))[0] != first[0]).any()
    assert (first[0][0] != first[0][1]).any()


@pytest.mark.parametrize("pattern", PATTERNS)
def test_every_pixel_is_used_over_the_epochs(pattern):
    n_epochs = 300
    epochs = jnp.arange(n_epochs)
    settings = MaskSettings(mask_pattern=pattern)

    def of_epoch(epoch):
        return sparse_masks(KEY, epoch, jnp.arange(2), shape=(8, 8, 1), settings=settings)

    made = jax.jit(jax.vmap(of_epoch))(epochs)  # one compiled call over epochs and images
    for mask in made:
        frequency = np.asarray(mask)[:, 0, :, :, 0].mean(axis=0)
        assert frequency.min() > 0.05
        assert frequency.max() < 0.4
        np.testing.assert_allclose(frequency.mean(), 12 / 64)
        if pattern in ("random", "grid"):
            # These favour no pixel: binomial counts.
            spread = np.sqrt(0.1875 * 0.8125 / n_epochs)
            assert abs(frequency - 0.1875).max() < 4.5 * spread


@pytest.mark.parametrize("pattern", ["random", "grid"])
def test_masks_tell_nothing_about_labels(pattern):
    # A mask made from the label would give every class means of its own; here the largest deviation of
    # ten classes' means from the common one is what chance makes it.
    n = 500
    labels = np.arange(n) % 10
    told, _ = masks(indices=n, shape=(8, 8, 1), mask_pattern=pattern)
    told = told[..., 0].reshape(n, -1).astype(float)

    def separation(labels):
        means = np.stack([told[labels == c].mean(axis=0) for c in range(10)])
        return ((means - told.mean(axis=0)) ** 2).sum()

    rng = np.random.default_rng(0)
    by_chance = [separation(rng.permutation(labels)) for _ in range(100)]
    assert separation(labels) < 1.3 * max(by_chance)
    # The check would see it: half of the images of a class sharing one mask.
    told[::2] = told[labels[::2]]
    assert separation(labels) > 1.3 * max(by_chance)


def test_blocks_are_blocks():
    told, _ = masks(mask_pattern="block", shape=(32, 32, 1), block_size=4)
    # Neighbouring pixels agree far more often than independent ones do (0.68).
    assert (told[:, 1:] == told[:, :-1]).mean() > 0.85
    assert (told[:, :, 1:] == told[:, :, :-1]).mean() > 0.85


def test_the_grid_is_a_lattice():
    for fraction, spacing in ((0.25, 2), (0.0625, 4)):
        told, _ = masks(mask_pattern="grid", conditioning=fraction, target=0.0, shape=(16, 16, 1))
        shifts = set()
        for mask in told[..., 0]:
            rows, columns = np.nonzero(mask)
            shift = (rows[0] % spacing, columns[0] % spacing)
            assert ((rows % spacing == shift[0]) & (columns % spacing == shift[1])).all()
            shifts.add(shift)
        assert len(shifts) > 1
    told, _ = masks(mask_pattern="grid", shape=(16, 16, 1))
    # At any fraction the masks are spread: every 4 x 4 tile holds its share.
    tiles = told[..., 0].reshape(N, 4, 4, 4, 4).sum(axis=(2, 4))
    assert tiles.min() >= 3
    assert tiles.max() <= 4


def test_the_walk_is_connected_until_it_is_trapped():
    told, asked = masks(mask_pattern="random_walk", conditioning=0.1, target=0.1)
    for mask in (*told[..., 0], *asked[..., 0]):
        wide = np.pad(mask, 1)
        neighbours = wide[2:, 1:-1].astype(int) + wide[:-2, 1:-1] + wide[1:-1, 2:] + wide[1:-1, :-2]
        # A path of 25 pixels has 24 steps, so twice as many neighbours; each restart may lose one.
        assert neighbours[mask].sum() >= 2 * (mask.sum() - 1 - 3)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"conditioning": 0.7, "target": 0.4}, "disjoint"),
        ({"conditioning": -0.1}, "conditioning must lie in"),
        ({"target": float("nan")}, "target must lie in"),
        ({"mask_pattern": "blocks"}, "did you mean block"),
        ({"mask_mode": "epoch"}, "unknown mask_mode"),
        ({"block_size": 0}, "block_size"),
    ],
)
def test_settings_that_make_no_masks(settings, message):
    with pytest.raises(ValueError, match=message):
        MaskSettings(**settings)
