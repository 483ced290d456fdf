"""What sparse denoisers are measured by: squared error against time, and norms of samples.

Everything runs in batches of one compiled program. Every sample has its own keys, so that neither the
batch size nor what else is evaluated changes it.
"""

import dataclasses
import functools
import os
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from scipy import stats

from data_generation.scripts.progress import progress_bar
from data_generation.sparse_rank_one import observations, sample_keys, sparse_vectors
from diffusions.approximate_message_passing import amp
from diffusions.devices import Members, agreed, devices_in_use
from diffusions.keys import named_key
from diffusions.networks.message_passing import MessagePassingDenoiser, start_vectors
from diffusions.sparse_estimators import power_iteration, spectral, squared_distance
from diffusions.typing import Array, HostArray, Key, Params

Estimator = Callable[[Array, Array, Array], Array]
"""(keys of the samples, E, t of each) -> vectors u."""

# Peak of a forward pass with its data, in floats over n^2 and sample; the benchmark measures less.
_FLOATS_PER_PAIR = 12
_SHARE_OF_MEMORY = 0.5
# Pairs of nodes beyond which a larger batch makes a processor no faster.
_PAIRS_ON_PROCESSOR = 2**23


def batch_sizes(n_samples: int, n: int, batch_size: int = 0) -> tuple[int, int]:
    """How many batches, and of how many samples each; the last may be partly superfluous.

    Args:
        n_samples: in all.
        n: dimension.
        batch_size: the most at once, but for a multiple of the devices in use; 0 takes what their
            free memory holds.
    """
    n_devices = len(devices_in_use()) or 1
    most = batch_size or agreed(samples_in_memory(n)) * n_devices
    n_batches = -(-n_samples // most)
    # A device that would have one less has one more, that is not used.
    size = -(-n_samples // (n_batches * n_devices)) * n_devices
    return -(-n_samples // size), size


def samples_in_memory(n: int) -> int:
    """How many samples of dimension n half of the free memory holds."""
    device = jax.local_devices()[0]
    if device.platform == "cpu":
        free = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        most = _PAIRS_ON_PROCESSOR // n**2
    else:
        memory = device.memory_stats() or {}
        free = memory.get("bytes_limit", 2**33) - memory.get("bytes_in_use", 0)
        most = 2**20
    held = int(_SHARE_OF_MEMORY * free / (4 * _FLOATS_PER_PAIR * n**2))
    return max(1, min(held, most))


def network_estimator(model: MessagePassingDenoiser, params: Params) -> Estimator:
    """The network with fresh node vectors."""

    def estimate(keys: Array, edges: Array, t: Array) -> Any:
        return model.apply(params, edges, t, start_vectors(keys, edges.shape[-1]))

    return estimate


def baseline_estimators(k: int, zero_probability: float) -> dict[str, Estimator]:
    """The spectral estimator, power iteration, and AMP with both its starts."""

    def passed(edges: Array, t: Array, start: Array | None = None) -> Array:
        return amp(edges, t, k, start, zero_probability=zero_probability)

    return {
        "spectral": lambda keys, edges, t: spectral(edges, k),
        "power_iteration": lambda keys, edges, t: power_iteration(
            edges, start_vectors(keys, edges.shape[-1]), k
        ),
        "amp": lambda keys, edges, t: passed(edges, t),
        "amp_random_start": lambda keys, edges, t: passed(
            edges, t, start_vectors(keys, edges.shape[-1])
        ),
    }


@dataclasses.dataclass(frozen=True)
class SquaredErrors:
    """Squared errors |x_hat - x|_F^2 of one estimator at every time."""

    errors: HostArray  # [times, samples]
    nonzero: HostArray  # [times, samples], whether x is not zero

    @property
    def mean(self) -> HostArray:
        """Over the samples as drawn, [times]."""
        return self.errors.mean(axis=1)

    @property
    def standard_error(self) -> HostArray:
        """Of `mean`."""
        return self.errors.std(axis=1, ddof=1) / np.sqrt(self.errors.shape[1])

    def given(self, nonzero: bool) -> tuple[HostArray, HostArray]:
        """Mean and standard error over the samples with x = 0, or with x not 0; NaN where none is."""
        chosen = self.nonzero == nonzero
        count = chosen.sum(axis=1)
        with np.errstate(invalid="ignore", divide="ignore"):
            mean = np.where(chosen, self.errors, 0).sum(axis=1) / count
            spread = np.where(chosen, (self.errors - mean[:, None]) ** 2, 0).sum(axis=1)
            return mean, np.sqrt(spread / (count - 1) / count)

    def at_share(self, share: float) -> tuple[HostArray, HostArray]:
        """Mean and standard error if exactly this share of the samples were not zero."""
        (zero, zero_error), (other, other_error) = self.given(False), self.given(True)
        return (
            (1 - share) * zero + share * other,
            np.hypot((1 - share) * zero_error, share * other_error),
        )


def half_way(
    errors: SquaredErrors, times: tuple[float, ...], n: int, zero_probability: float
) -> float | None:
    """The t / n at which the error falls below half of that of the zero estimate.

    Between two times by a straight line; None where no time is early or none late enough. A time at
    which no matrix, or every one, is zero says nothing.

    Args:
        errors: of an estimator.
        times: of `errors`.
        n: dimension.
        zero_probability: of the prior; the zero estimate errs by 1 less this.
    """
    order = np.argsort(times)
    ratios, means = np.asarray(times)[order] / n, errors.at_share(1.0 - zero_probability)[0][order]
    known = np.isfinite(means)
    ratios, means = ratios[known], means[known]
    half = 0.5 * (1.0 - zero_probability)
    above = np.flatnonzero(means >= half)
    if not above.size or (i := above[-1]) == len(means) - 1:
        return None
    return float(np.interp(half, means[[i + 1, i]], ratios[[i + 1, i]]))


def squared_errors(
    key: Key,
    estimators: dict[str, Estimator],
    times: tuple[float, ...],
    *,
    n: int,
    k: int,
    zero_probability: float,
    n_samples: int,
    batch_size: int = 0,
) -> dict[str, SquaredErrors]:
    """Squared errors of every estimator on the same observations.

    Args:
        key: of the evaluation.
        estimators: by name.
        times: where.
        n: dimension.
        k: non-zero entries.
        zero_probability: of the prior.
        n_samples: at each time, fresh ones.
        batch_size: the most at once; 0 lets the memory decide.

    Returns:
        By name.
    """
    n_batches, size = batch_sizes(n_samples, n, batch_size)
    members = Members.of(size)

    def of_samples(keys: Array, t: Array) -> tuple[dict[str, Array], Array]:
        vector_keys, noise_keys, estimate_keys = (
            jax.vmap(functools.partial(named_key, name=name))(keys)
            for name in ("vectors", "noise", "estimate")
        )
        u = sparse_vectors(vector_keys, n, k, zero_probability)
        t = jnp.broadcast_to(t, keys.shape[0])
        edges = observations(noise_keys, u, t)
        errors = {
            name: squared_distance(estimate(estimate_keys, edges, t), u)
            for name, estimate in estimators.items()
        }
        return errors, jnp.any(u != 0, axis=1)

    @jax.jit
    def batch(key: Key, first: Array, t: Array) -> tuple[dict[str, Array], Array]:
        return members.divided(of_samples, (0, None))(sample_keys(key, first, size), t)

    found: dict[str, list] = {name: [] for name in estimators}
    nonzero = []
    total = len(times) * n_batches * size
    with progress_bar(total=total, unit="sample", desc="evaluating") as progress:
        for number, t in enumerate(times):
            time_key = jax.random.fold_in(key, number)
            parts = []
            for i in range(n_batches):
                given = members.shared((time_key, jnp.asarray(i * size), jnp.float32(t)))
                parts.append(jax.device_get(members.own(batch(*given))))
                progress.update(size)
            for name, errors in found.items():
                errors.append(np.concatenate([part[0][name] for part in parts])[:n_samples])
            nonzero.append(np.concatenate([part[1] for part in parts])[:n_samples])
    return {
        name: SquaredErrors(np.asarray(errors, np.float64), np.asarray(nonzero))
        for name, errors in found.items()
    }


def norm_distance(norms: HostArray, zero_probability: float) -> float:
    """Wasserstein-1 distance between the norms and the true law, 0 or 1."""
    law = (zero_probability, 1.0 - zero_probability)
    return float(stats.wasserstein_distance(norms, (0.0, 1.0), None, law))


def compare(
    errors: SquaredErrors, times: tuple[float, ...], reference: dict[float, float], n_samples: int
) -> dict[str, dict[str, Any]]:
    """z-scores against published means.

    An error is a miss or none, so that a mean of errors is a proportion p of a known count, of variance
    p (1 - p) over the count, with p that of both sides together. A sample's own spread says nothing
    where misses are rare: without a single one among ours it is nearly zero.

    Args:
        errors: of the network.
        times: of `errors`.
        reference: time -> mean.
        n_samples: behind each published mean.

    Returns:
        `z` of the plain means, and `z_at_share` with ours taken at the published share of non-zero
        samples, which is the published value at the earliest time, where every estimate is zero.
    """
    share = reference[min(reference)]
    plain, (shared, _) = errors.mean, errors.at_share(share)
    count = errors.errors.shape[1]
    result: dict[str, dict[str, Any]] = {"reference": {}, "z": {}, "z_at_share": {}}
    for i, t in enumerate(times):
        if t in reference:
            published, name = reference[t], f"{t:g}"
            together, together_at_share = (
                (count * ours[i] + n_samples * published) / (count + n_samples)
                for ours in (plain, shared)
            )
            # Never zero: where both sides agree to the last bit, the score is zero and not 0 / 0.
            spread, spread_at_share = (
                np.sqrt(max(variance * (1 / count + 1 / n_samples), np.finfo(float).tiny))
                for variance in (_variance(together), _variance_at_share(together_at_share, share))
            )
            result["reference"][name] = published
            result["z"][name] = float((plain[i] - published) / spread)
            result["z_at_share"][name] = float((shared[i] - published) / spread_at_share)
    return result


def _variance(p: float) -> float:
    """Of a miss with probability p."""
    p = min(max(p, 0.0), 1.0)
    return p * (1 - p)


def _variance_at_share(p: float, share: float) -> float:
    """Likewise at a fixed share of non-zero samples, which are missed before a zero one is."""
    missed = min(p / share, 1.0)
    alarms = max(p - share, 0.0) / (1 - share)
    return share * _variance(missed) + (1 - share) * _variance(alarms)
