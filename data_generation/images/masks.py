"""Disjoint conditioning and target masks, drawn on the device inside a compiled step.

Every pattern orders the pixels of an image; with n_c and n_t pixels asked for,

    conditioning = the first n_c of the order,   target = the next n_t                               (1)

so that counts are exact and the masks disjoint whatever the pattern. The order of image i in epoch e
is a function of

    fold_in(fold_in(key, e), i)          mode random_epoch                                           (2)
    fold_in(fold_in(fold_in(key, e), draw), i)   mode random                                         (3)
    fold_in(key, i)                      mode fixed                                                  (4)

and of nothing else: not of the image, its label, or its place in a batch. Masks are therefore never
stored, and a resumed run sees the same ones.

Orders:

    random       uniform permutation
    block        squares of a randomly shifted tiling, in random order, each from a random pixel on
    grid         dispersed order of a dither matrix (Bayer 1973) after a random shift: the first 1/4,
                 1/16, ... of the pixels are the square lattices of spacing 2, 4, ...
    random_walk  self-avoiding walk to neighbouring pixels; it starts anew, anywhere, where it is
                 trapped, and where the target mask begins
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from data_generation.images.mask_settings import MaskSettings
from diffusions.short_repr import short_repr
from diffusions.typing import Array, Bool, Float, Int, Key


class Masks(NamedTuple):
    """Which entries are told and which are asked; no entry is both."""

    conditioning: Bool[Array, "batch height width channels"]
    target: Bool[Array, "batch height width channels"]

    def __repr__(self) -> str:
        return short_repr(self)


def sparse_masks(
    key: Key,
    epoch: Int[Array, ""] | int,
    indices: Int[Array, "batch"],
    *,
    shape: tuple[int, int, int],
    settings: MaskSettings,
    draw: Int[Array, ""] | int = 0,
) -> Masks:
    """The masks of a batch, equations (1) to (4).

    Args:
        key: of all masks of a run.
        epoch: counts epochs; mode `fixed` ignores it.
        indices: of the images in their dataset.
        shape: height, width and channels of an image; static.
        settings: fractions, mode and pattern; static.
        draw: counts uses within the epoch; only mode `random` heeds it.

    Returns:
        The masks; the channels of a pixel are alike unless the settings are `per_channel`.
    """
    height, width, channels = shape
    n_conditioning, n_target = settings.counts(height * width)
    if settings.mask_mode != "fixed":
        key = jax.random.fold_in(key, epoch)
    if settings.mask_mode == "random":
        key = jax.random.fold_in(key, draw)

    def of_plane(plane_key: Key) -> Masks:
        rank = _rank(plane_key, height, width, n_conditioning, n_target, settings)
        conditioning = rank < n_conditioning
        return Masks(conditioning, (rank < n_conditioning + n_target) & ~conditioning)

    def of_image(index: Int[Array, ""]) -> Masks:
        image_key = jax.random.fold_in(key, index)
        if settings.per_channel:
            return jax.vmap(of_plane, out_axes=-1)(jax.random.split(image_key, channels))
        plane = of_plane(image_key)
        return Masks(*(jnp.repeat(mask[..., None], channels, axis=-1) for mask in plane))

    return jax.vmap(of_image)(indices)


def _rank(
    key: Key, height: int, width: int, n_conditioning: int, n_target: int, settings: MaskSettings
) -> Int[Array, "height width"]:
    """Place of every pixel in the order of the pattern."""
    if settings.mask_pattern == "random":
        return _rank_of(jax.random.uniform(key, (height, width), jnp.float32))
    if settings.mask_pattern == "block":
        return _block_rank(key, height, width, settings.block_size)
    if settings.mask_pattern == "grid":
        return _grid_rank(key, height, width)
    return _walk_rank(key, height, width, n_conditioning, n_target)


def _rank_of(score: Float[Array, "height width"]) -> Int[Array, "height width"]:
    """Number of pixels with a smaller score; equal ones in their given order."""
    order = jnp.argsort(score.ravel())
    rank = jnp.zeros(score.size, jnp.int32).at[order].set(jnp.arange(score.size, dtype=jnp.int32))
    return rank.reshape(score.shape)


def _block_rank(key: Key, height: int, width: int, side: int) -> Int[Array, "height width"]:
    shift_key, block_key, pixel_key = jax.random.split(key, 3)
    shift = jax.random.randint(shift_key, (2,), 0, side, jnp.int32)
    # One more block than fits, for the shift cuts the first and the last.
    n_rows, n_columns = -(-height // side) + 1, -(-width // side) + 1
    priority = jax.random.permutation(block_key, n_rows * n_columns).reshape(n_rows, n_columns)
    rows = (jnp.arange(height) + shift[0]) // side
    columns = (jnp.arange(width) + shift[1]) // side
    # Within a block row by row from a random pixel on, so that a cut block is cut anywhere.
    start = jax.random.randint(pixel_key, (), 0, side * side, jnp.int32)
    inside = ((jnp.arange(height) + shift[0]) % side)[:, None] * side + (
        jnp.arange(width) + shift[1]
    ) % side
    return _rank_of(priority[rows[:, None], columns] * side**2 + (inside - start) % side**2)


def _grid_rank(key: Key, height: int, width: int) -> Int[Array, "height width"]:
    side = 1 << (max(height, width) - 1).bit_length()
    shift = jax.random.randint(key, (2,), 0, side, jnp.int32)
    rows = (jnp.arange(height) + shift[0]) % side
    columns = (jnp.arange(width) + shift[1]) % side
    return _rank_of(jnp.asarray(_dither_matrix(side))[rows[:, None], columns])


def _dither_matrix(side: int) -> np.ndarray:
    """Bayer's matrix: the integers 0 ... side^2 - 1, each prefix spread as evenly as squares allow."""
    matrix = np.zeros((1, 1), np.int32)
    while len(matrix) < side:
        matrix = np.block([[4 * matrix, 4 * matrix + 2], [4 * matrix + 3, 4 * matrix + 1]])
    return matrix


def _walk_rank(
    key: Key, height: int, width: int, n_conditioning: int, n_target: int
) -> Int[Array, "height width"]:
    n_pixels = height * width
    rows, columns = jnp.divmod(jnp.arange(n_pixels), width)
    # One number per pixel decides every choice between pixels, because each is visited once at most.
    priority = jax.random.uniform(key, (n_pixels,), jnp.float32)

    def step(carry: tuple[Array, Array], time: Array) -> tuple[tuple[Array, Array], None]:
        rank, here = carry
        distance = abs(rows - rows[here]) + abs(columns - columns[here])
        walks_on = (time > 0) & (time != n_conditioning)
        score = priority + jnp.where(walks_on & (distance == 1), 1.0, 0.0)
        here = jnp.argmax(jnp.where(rank == n_pixels, score, -1.0)).astype(jnp.int32)
        return (rank.at[here].set(time), here), None

    start = (jnp.full(n_pixels, n_pixels, jnp.int32), jnp.zeros((), jnp.int32))
    times = jnp.arange(n_conditioning + n_target, dtype=jnp.int32)
    (rank, _), _ = jax.lax.scan(step, start, times)
    return rank.reshape(height, width)
