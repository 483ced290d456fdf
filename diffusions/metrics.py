"""Distances between distributions, and the quality of single images.

Of Gaussians P = N(a, A) and Q = N(b, B) in d dimensions, with M = (A + B) / 2:

    Frechet:        |a - b|^2 + tr A + tr B - 2 tr (A^{1/2} B A^{1/2})^{1/2}                         (1)
                    (Dowson and Landau 1982; of feature vectors: Heusel et al. 2017)
    Bhattacharyya:  log BC = 1/4 log|A| + 1/4 log|B| - 1/2 log|M| - 1/8 (a - b)^T M^{-1} (a - b)     (2)
    Hellinger:      H = (1 - BC)^{1/2} = (-expm1(log BC))^{1/2}                                      (3)
    KL:             1/2 (tr B^{-1} A + (b - a)^T B^{-1} (b - a) - d + log|B| - log|A|)               (4)

With any factors A = F^T F and B = G^T G the last trace of (1) is the sum of the singular values of
F G^T: their errors are relative to the largest one, where those of eigenvalues are so before the root
is taken, and each of thousands of zero eigenvalues would add 1e-4 of the largest.

Of samples, with a kernel k (Gretton et al. 2012):

    MMD^2 = mean_{i != j} k(x_i, x_j) + mean_{i != j} k(y_i, y_j) - 2 mean_{ij} k(x_i, y_j)          (5)

which has no bias; with i = j included it is biased, and never negative. The kernel distance of feature
vectors (Binkowski et al. 2018) is (5) with k = (x y / d + 1)^3.

Of images with values in a range of R:

    PSNR = 10 log10 (R^2 / mse)                                                                      (6)
    SSIM = mean of (2 m_a m_b + c_1) (2 s_ab + c_2) / ((m_a^2 + m_b^2 + c_1) (s_a^2 + s_b^2 + c_2))  (7)

(Wang et al. 2004), with means, variances and the covariance under a Gaussian window of sigma 1.5 and
11 x 11 pixels, c_1 = (0.01 R)^2, c_2 = (0.03 R)^2, wherever the window fits, averaged over channels.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from diffusions.arguments import checked
from diffusions.precision import einsum, matmul
from diffusions.typing import Array, Float

Kernel = Callable[[Array, Array], Array]
"""Points (n, d) and (m, d) -> the kernel of every pair (n, m)."""

_WINDOW, _SIGMA = 11, 1.5


@checked
def frechet_distance(
    mean_a: Float[Array, "d"],
    covariance_a: Float[Array, "d d"],
    mean_b: Float[Array, "d"],
    covariance_b: Float[Array, "d d"],
) -> Float[Array, ""]:
    """The Frechet distance (1): the squared 2-Wasserstein distance of two Gaussians."""
    return _frechet(mean_a, _factor(covariance_a), mean_b, _factor(covariance_b))


@checked
def frechet_distance_of_samples(a: Float[Array, "n d"], b: Float[Array, "m d"]) -> Float[Array, ""]:
    """The Frechet distance (1) of samples, whose (unbiased) covariances are not formed.

    Args:
        a: feature vectors of one set of images, at least two.
        b: those of the other.

    Raises:
        ValueError: a single vector has no covariance.
    """
    if min(len(a), len(b)) < 2:
        raise ValueError(f"a covariance needs two vectors, got {len(a)} and {len(b)}")

    def factor(x: Array, mean: Array) -> Array:
        return jnp.linalg.qr((x - mean) / jnp.sqrt(len(x) - 1.0), mode="r")

    mean_a, mean_b = a.mean(axis=0), b.mean(axis=0)
    return _frechet(mean_a, factor(a, mean_a), mean_b, factor(b, mean_b))


def _frechet(mean_a: Array, factor_a: Array, mean_b: Array, factor_b: Array) -> Array:
    overlap = jnp.linalg.svd(matmul(factor_a, factor_b.T), compute_uv=False).sum()
    # Rounding may take the distance of two equal distributions below zero.
    return jnp.maximum(
        ((mean_a - mean_b) ** 2).sum() + (factor_a**2).sum() + (factor_b**2).sum() - 2 * overlap,
        0.0,
    )


def _factor(covariance: Float[Array, "d d"]) -> Float[Array, "d d"]:
    """F with F^T F the covariance; also of singular ones."""
    values, vectors = jnp.linalg.eigh(covariance)
    return jnp.sqrt(jnp.maximum(values, 0.0))[:, None] * vectors.T


@checked
def log_bhattacharyya(
    mean_a: Float[Array, "d"],
    covariance_a: Float[Array, "d d"],
    mean_b: Float[Array, "d"],
    covariance_b: Float[Array, "d d"],
) -> Float[Array, ""]:
    """Equation (2), at most 0; nan where a covariance is not positive definite."""
    root = jnp.linalg.cholesky((covariance_a + covariance_b) / 2)
    difference = jax.scipy.linalg.solve_triangular(root, mean_a - mean_b, lower=True)
    log_determinants = (
        _log_determinant(jnp.linalg.cholesky(covariance_a)) / 4
        + _log_determinant(jnp.linalg.cholesky(covariance_b)) / 4
        - _log_determinant(root) / 2
    )
    return jnp.minimum(log_determinants - (difference**2).sum() / 8, 0.0)


@checked
def gaussian_hellinger(
    mean_a: Float[Array, "d"],
    covariance_a: Float[Array, "d d"],
    mean_b: Float[Array, "d"],
    covariance_b: Float[Array, "d d"],
) -> Float[Array, ""]:
    """The Hellinger distance (3), in [0, 1]; precise also for distributions that nearly agree."""
    return jnp.sqrt(-jnp.expm1(log_bhattacharyya(mean_a, covariance_a, mean_b, covariance_b)))


@checked
def gaussian_kl(
    mean_a: Float[Array, "d"],
    covariance_a: Float[Array, "d d"],
    mean_b: Float[Array, "d"],
    covariance_b: Float[Array, "d d"],
) -> Float[Array, ""]:
    """KL(a | b), equation (4), in nats; nan where a covariance is not positive definite."""
    root_a, root_b = jnp.linalg.cholesky(covariance_a), jnp.linalg.cholesky(covariance_b)
    difference = jax.scipy.linalg.solve_triangular(root_b, mean_b - mean_a, lower=True)
    ratio = jax.scipy.linalg.solve_triangular(root_b, root_a, lower=True)
    log_ratio = _log_determinant(root_b) - _log_determinant(root_a)
    return ((ratio**2).sum() + (difference**2).sum() - len(mean_a) + log_ratio) / 2


def _log_determinant(cholesky_root: Float[Array, "d d"]) -> Float[Array, ""]:
    return 2 * jnp.log(jnp.diagonal(cholesky_root)).sum()


@checked
def gaussian_kernel(bandwidth: Float[Array, ""] | float) -> Kernel:
    """k(x, y) = exp(-|x - y|^2 / (2 bandwidth^2))."""

    def kernel(x: Float[Array, "n d"], y: Float[Array, "m d"]) -> Float[Array, "n m"]:
        return jnp.exp(-_squared_distances(x, y) / (2 * bandwidth**2))

    return kernel


@checked
def polynomial_kernel(x: Float[Array, "n d"], y: Float[Array, "m d"]) -> Float[Array, "n m"]:
    """k(x, y) = (x y / d + 1)^3, of the kernel distance."""
    return (matmul(x, y.T) / x.shape[1] + 1.0) ** 3


@checked
def median_distance(x: Float[Array, "n d"], y: Float[Array, "m d"]) -> Float[Array, ""]:
    """Median distance between the pairs of two samples: the usual bandwidth of `gaussian_kernel`."""
    return jnp.sqrt(jnp.median(_squared_distances(x, y)))


def _squared_distances(x: Array, y: Array) -> Array:
    # Centred first, so that distances small beside |x| and |y| survive the subtraction.
    center = x.mean(axis=0)
    x, y = x - center, y - center
    squared = (x**2).sum(axis=1)[:, None] + (y**2).sum(axis=1) - matmul(2 * x, y.T)
    return jnp.maximum(squared, 0.0)


@checked
def mmd_squared(
    x: Float[Array, "n d"],
    y: Float[Array, "m d"],
    kernel: Kernel,
    *,
    unbiased: bool = True,
    block_size: int = 1024,
) -> Float[Array, ""]:
    """The squared maximum mean discrepancy of samples, equation (5).

    Args:
        x: one sample.
        y: the other.
        kernel: symmetric and positive definite.
        unbiased: leaves out the pairs i = j; static.
        block_size: rows of the kernel matrices made at a time: memory is block_size max(n, m); static.

    Raises:
        ValueError: the unbiased estimate needs two points of each.
    """
    n, m = len(x), len(y)
    if unbiased and min(n, m) < 2:
        raise ValueError(f"the unbiased estimate needs two points of each sample, got {n} and {m}")
    within_x, within_y = (
        _kernel_sum(x, x, kernel, block_size),
        _kernel_sum(y, y, kernel, block_size),
    )
    between = _kernel_sum(x, y, kernel, block_size) / (n * m)
    if not unbiased:
        return within_x / n**2 + within_y / m**2 - 2 * between
    within_x, within_y = within_x - _diagonal_sum(x, kernel), within_y - _diagonal_sum(y, kernel)
    return within_x / (n * (n - 1)) + within_y / (m * (m - 1)) - 2 * between


def _kernel_sum(x: Array, y: Array, kernel: Kernel, block_size: int) -> Array:
    """Sum of the kernel over all pairs, a block of rows at a time."""
    n = len(x)
    block_size = min(block_size, n)
    n_blocks = -(-n // block_size)
    wide = jnp.pad(x, ((0, n_blocks * block_size - n), (0, 0)))
    counted = jnp.arange(n_blocks * block_size) < n

    def add(total: Array, block: tuple[Array, Array]) -> tuple[Array, None]:
        rows, is_row = block
        return total + jnp.where(is_row[:, None], kernel(rows, y), 0.0).sum(), None

    blocks = (wide.reshape(n_blocks, block_size, -1), counted.reshape(n_blocks, block_size))
    return jax.lax.scan(add, jnp.zeros((), x.dtype), blocks)[0]


def _diagonal_sum(x: Array, kernel: Kernel) -> Array:
    return jax.vmap(lambda point: kernel(point[None], point[None])[0, 0])(x).sum()


@checked
def kernel_distance(
    a: Float[Array, "n d"], b: Float[Array, "m d"], *, block_size: int = 1024
) -> Float[Array, ""]:
    """MMD^2, equation (5), with the kernel (x y / d + 1)^3, of feature vectors; without bias."""
    return mmd_squared(a, b, polynomial_kernel, block_size=block_size)


@checked
def psnr(
    a: Float[Array, "*batch height width channels"],
    b: Float[Array, "*batch height width channels"],
    *,
    data_range: float = 2.0,
) -> Float[Array, "*batch"]:
    """The PSNR (6) of every pair of images, in decibels; infinite where they are equal.

    Args:
        a: images.
        b: images.
        data_range: R; 2 for values in [-1, 1].
    """
    error = ((a - b) ** 2).mean(axis=(-3, -2, -1))
    return 10 * jnp.log10(data_range**2 / error)


@checked
def ssim(
    a: Float[Array, "*batch height width channels"],
    b: Float[Array, "*batch height width channels"],
    *,
    data_range: float = 2.0,
) -> Float[Array, "*batch"]:
    """The SSIM (7) of every pair of images.

    Args:
        a: images.
        b: images.
        data_range: R; 2 for values in [-1, 1].

    Raises:
        ValueError: the window does not fit into the images.
    """
    height, width = a.shape[-3:-1]
    if min(height, width) < _WINDOW:
        raise ValueError(f"SSIM needs images of at least {_WINDOW} pixels, got {height} x {width}")
    rows, columns = _window_matrix(height, a.dtype), _window_matrix(width, a.dtype)

    def smooth(images: Array) -> Array:
        return einsum("ih,jw,...hwc->...ijc", rows, columns, images, optimize=True)

    mean_a, mean_b = smooth(a), smooth(b)
    variance_a, variance_b = smooth(a * a) - mean_a**2, smooth(b * b) - mean_b**2
    covariance = smooth(a * b) - mean_a * mean_b
    c_1, c_2 = (0.01 * data_range) ** 2, (0.03 * data_range) ** 2
    similarity = (2 * mean_a * mean_b + c_1) * (2 * covariance + c_2)
    similarity /= (mean_a**2 + mean_b**2 + c_1) * (variance_a + variance_b + c_2)
    return similarity.mean(axis=(-3, -2, -1))


def _window_matrix(size: int, dtype: jnp.dtype) -> Array:
    """The window at each of the size - 10 places where it fits, as rows of a matrix."""
    offset = jnp.arange(_WINDOW) - _WINDOW // 2
    window = jnp.exp(-0.5 * (offset / _SIGMA) ** 2)
    window = (window / window.sum()).astype(dtype)
    places = jnp.arange(size - _WINDOW + 1)
    matrix = jnp.zeros((len(places), size), dtype)
    return matrix.at[places[:, None], places[:, None] + jnp.arange(_WINDOW)].set(window)
