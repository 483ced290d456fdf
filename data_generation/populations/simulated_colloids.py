r"""A simulated experiment with colloids that are followed, in micrometres and seconds, with its truth.

Overdamped particles of friction gamma at temperature T, with D = k_B T / gamma in um^2 / s,

    dX_i = -grad V(X_i) dt - 1/n sum_j grad U(X_i - X_j) dt + sqrt(2 D) dW_i,                       (1)
    V(x, y) = D [h (x^2 / a^2 - 1)^2 + y^2 / (2 s^2)],   U(r) = n D u exp(-|r|^2 / (2 l^2)),        (2)

a trap of two wells and a soft repulsion of heights h and u in units of k_B T: potentials of forces
divided by the friction are in um^2 / s, and in k_B T when divided by D. The n of U is that of the
mean in (1), so that U / (n D) is the energy of a pair. Euler-Maruyama steps, many per frame.
"""

from typing import NamedTuple

import numpy as np

from diffusions.arguments import checked
from diffusions.typing import Float, HostArray, Int

DIFFUSION = 0.2
"""D, um^2 / s: a sphere of two micrometres in water at room temperature."""
HEIGHT, WELL, WIDTH = 1.5, 1.5, 0.8
"""h in k_B T; a and s in um."""
RANGE = 0.8
"""l, um."""
FRAME = 0.05
"""Seconds between frames."""
START = np.array([-0.8, 0.0])
START_DEVIATION = 0.4
_STEPS = 10


class Tracks(NamedTuple):
    """A table with a row for every particle in every frame, as trackers write it.

    Attributes:
        name: of the particle.
        time: of the frame, s.
        position: um.
    """

    name: Int[np.ndarray, "rows"]
    time: Float[np.ndarray, "rows"]
    position: Float[np.ndarray, "rows 2"]


def potential(x: Float[np.ndarray, "*n 2"]) -> Float[np.ndarray, "*n"]:
    """V of (2), um^2 / s."""
    wells = HEIGHT * (x[..., 0] ** 2 / WELL**2 - 1) ** 2
    return DIFFUSION * (wells + 0.5 * x[..., 1] ** 2 / WIDTH**2)


def pair_energy(r: Float[np.ndarray, "*n"], repulsion: float) -> Float[np.ndarray, "*n"]:
    """U / (n D) of (2), in k_B T.

    Args:
        r: distances, um.
        repulsion: u.
    """
    return repulsion * np.exp(-0.5 * (r / RANGE) ** 2)


@checked
def simulated_colloids(
    seed: int, *, n_particles: int = 300, n_frames: int = 61, repulsion: float = 0.0
) -> Tracks:
    """Colloids from the moment that they are let go of, in a corner of the trap.

    Args:
        seed: of all randomness.
        n_particles: n.
        n_frames: of `FRAME` seconds.
        repulsion: u.
    """
    rng = np.random.default_rng(seed)
    x = START + START_DEVIATION * rng.normal(size=(n_particles, 2))
    step = FRAME / _STEPS
    frames = [x]
    for _ in range(n_frames - 1):
        for _ in range(_STEPS):
            noise = np.sqrt(2 * DIFFUSION * step) * rng.normal(size=x.shape)
            x = x + step * _drift(x, repulsion) + noise
        frames.append(x)
    return Tracks(
        name=np.tile(np.arange(n_particles), n_frames),
        time=np.repeat(FRAME * np.arange(n_frames), n_particles),
        position=np.concatenate(frames),
    )


def _drift(x: HostArray, repulsion: float) -> HostArray:
    """Of (1), without the noise."""
    wells = 4 * HEIGHT * x[:, 0] * (x[:, 0] ** 2 / WELL**2 - 1) / WELL**2
    drift = -DIFFUSION * np.stack([wells, x[:, 1] / WIDTH**2], axis=1)
    if repulsion:
        apart = x[:, None] - x
        each = pair_energy(np.linalg.norm(apart, axis=-1), repulsion)
        drift += DIFFUSION / RANGE**2 * np.einsum("ij,ijk->ik", each, apart)
    return drift
