r"""Sampling by stochastic localization: an observation that becomes sharper until it is the sample.

    y_t = t x + W_t,   m(y, t) = E[x | y_t = y]                                                     (1)
    dy_t = m(y_t, t) dt + dB_t,   y_0 = 0                                                           (2)

A solution of (2) has the law of (1), and m(y_T, T) -> x as T grows. In the vocabulary
z = alpha x + sigma eps of `processes`, y_t / t = x + t^{-1/2} eps: alpha = 1, sigma = t^{-1/2}, a
variance-exploding process that runs from infinite noise at t = 0 to none, and m is its denoiser.
Euler's scheme is

    y_{i+1} = y_i + (t_{i+1} - t_i) m(y_i, t_i) + (t_{i+1} - t_i)^{1/2} N_i                         (3)

where the noise is exact and only the drift is frozen during a step. Where m depends on a linear image
of y alone, such as its symmetric part, that image may be carried in place of y, with the noise's image
in place of the noise.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from diffusions.arguments import checked
from diffusions.typing import Array, Float, Keys

Drift = Callable[[Array, Array, Array], Array]
"""(keys of the samples, y [batch, ...], t) -> m [batch, ...]. A randomised denoiser uses the keys."""

Noise = Callable[[Array], Array]
"""Keys of the samples -> N [batch, ...]."""


def uniform_times(step: float, horizon: float) -> Float[np.ndarray, " steps"]:
    """Times 0, step, 2 step, ..., horizon; the last step is shorter where step does not divide it.

    Raises:
        ValueError: not 0 < step <= horizon.
    """
    if not 0 < step <= horizon:
        raise ValueError(f"step must be in (0, horizon = {horizon}], got {step}")
    n_steps = int(np.ceil(horizon / step - 1e-9))
    return np.minimum(np.arange(n_steps + 1) * step, horizon).astype(np.float32)


@checked
def euler(
    keys: Keys,
    drift: Drift,
    noise: Noise,
    y: Float[Array, "batch *shape"],
    times: Float[Array, " steps"] | Float[np.ndarray, " steps"],
    first_step: int | Array = 0,
) -> Float[Array, "batch *shape"]:
    """Sampling by stochastic localization, equation (3), in one compiled scan.

    Args:
        keys: one per sample, the same in every call: step i draws from each key folded with i, so
            that a run may be cut into calls, and a population into batches, without changing it.
        drift: m.
        noise: standard normal, or its image.
        y: at times[0]; zero at t = 0.
        times: increasing.
        first_step: index of the first step in the whole run; may be traced.

    Returns:
        y at times[-1].
    """

    def step(y: Array, here: tuple[Array, Array, Array]) -> tuple[Array, None]:
        i, t, dt = here
        step_keys = jax.vmap(lambda key: jax.random.split(jax.random.fold_in(key, i)))(keys)
        moved = y + dt * drift(step_keys[:, 0], y, t)
        return moved + jnp.sqrt(dt) * noise(step_keys[:, 1]), None

    times = jnp.asarray(times)
    indices = first_step + jnp.arange(times.shape[0] - 1)
    return jax.lax.scan(step, y, (indices, times[:-1], jnp.diff(times)))[0]
