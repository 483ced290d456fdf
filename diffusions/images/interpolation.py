"""Classical interpolation of images from scattered pixels, on the host: what a network has to beat.

    mean         the mean of the told pixels
    nearest      the value of the nearest told pixel
    linear       linear on the triangles of Delaunay's triangulation of the told pixels; the nearest
                 value outside their hull
    biharmonic   Delta^2 u = 0 at every pixel that is not told                                      (1)

In (1) Delta u_i is the sum of u_j - u_i over the neighbours j of pixel i within the image, so that the
border is free; the solution is the one of least sum of (Delta u_i)^2 over all pixels.
"""

from collections.abc import Callable

import numpy as np
from scipy import sparse, spatial
from scipy.interpolate import LinearNDInterpolator
from scipy.sparse.linalg import splu

from diffusions.typing import ArrayLike, HostArray

INTERPOLATIONS = ("mean", "nearest", "linear", "biharmonic")


def interpolate(images: ArrayLike, told: ArrayLike, method: str) -> HostArray:
    """Fills every image in from its told pixels.

    Args:
        images: (n, height, width, channels); only told pixels are read.
        told: bool, of the same shape.
        method: see the module header.

    Returns:
        Images of the same shape; told pixels keep their values. Zero where no pixel is told.

    Raises:
        ValueError: unknown method, or shapes that do not fit.
    """
    images, told = np.asarray(images), np.asarray(told)
    if images.ndim != 4 or told.shape != images.shape or told.dtype != bool:
        raise ValueError(
            "images and told must both have shape (n, height, width, channels), told true or false, "
            f"got {images.dtype} of shape {images.shape} and {told.dtype} of shape {told.shape}"
        )
    if method not in INTERPOLATIONS:
        raise ValueError(f"method must be one of {', '.join(INTERPOLATIONS)}, got {method!r}")
    fill = {"mean": _mean, "nearest": _nearest, "linear": _linear, "biharmonic": _biharmonic}[
        method
    ]
    result = np.zeros_like(images)
    for image, mask, out in zip(images, told, result, strict=True):
        if (mask == mask[..., :1]).all():
            out[...] = _filled(image, mask[..., 0], fill)
            continue
        for c in range(image.shape[-1]):
            out[..., c] = _filled(image[..., c : c + 1], mask[..., c], fill)[..., 0]
    return result


def _filled(
    image: HostArray, mask: HostArray, fill: Callable[[HostArray, HostArray], HostArray]
) -> HostArray:
    """An image whose channels are told at the same pixels."""
    if not mask.any():
        return np.zeros_like(image)
    if mask.all():
        return image
    values = fill(np.where(mask[..., None], image, 0.0).astype(np.float64), mask)
    return np.where(mask[..., None], image, values)


def _mean(image: HostArray, mask: HostArray) -> HostArray:
    return np.broadcast_to(image[mask].mean(axis=0), image.shape)


def _nearest(image: HostArray, mask: HostArray) -> HostArray:
    tree = spatial.cKDTree(np.argwhere(mask))
    _, nearest = tree.query(np.moveaxis(np.indices(mask.shape), 0, -1))
    return image[mask][nearest]


def _linear(image: HostArray, mask: HostArray) -> HostArray:
    points = np.argwhere(mask)
    outside = _nearest(image, mask)
    try:
        triangulation = spatial.Delaunay(points)
    except (spatial.QhullError, ValueError):  # fewer than three points, or all on a line
        return outside
    inside = LinearNDInterpolator(triangulation, image[mask])(*np.indices(mask.shape))
    return np.where(np.isnan(inside), outside, inside)


def _biharmonic(image: HostArray, mask: HostArray) -> HostArray:
    laplacian = _laplacian(*mask.shape)
    known = mask.ravel()
    values = image.reshape(known.size, -1)
    operator = (laplacian.T @ laplacian).tocsc()
    unknown = operator[~known][:, ~known]
    right = -operator[~known][:, known] @ values[known]
    filled = values.copy()
    filled[~known] = splu(unknown.tocsc()).solve(right)
    return filled.reshape(image.shape)


def _laplacian(height: int, width: int) -> sparse.spmatrix:
    """Delta of the module header."""

    def along(n: int) -> sparse.spmatrix:
        difference = sparse.diags([-np.ones(n - 1), np.ones(n - 1)], [0, 1], shape=(n - 1, n))
        return -(difference.T @ difference)

    rows = sparse.kron(along(height), sparse.identity(width))
    return sparse.csr_matrix(rows + sparse.kron(sparse.identity(height), along(width)))
