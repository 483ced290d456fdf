"""Expectation maximisation with a diffusion prior: training on images as the network completes them.

Of a training image only x_S is ever observed, S being its told and asked pixels. In round k,

    E    x^(k) ~ p_k(x | x_S): a draw of the current network, corrected in every step by x_S         (1)
    M    theta_{k+1}: the denoising loss on all pixels of x^(k)                                      (2)

(Rozet et al., Learning diffusion priors from observations by expectation maximization, 2024.) Round 0
is the training on observed pixels, which has kriging for p_0 and takes its loss on x_S alone. The
network of (1) is told the told pixels, so that it draws from its own posterior given them, and the
correction is that of `SparseDenoising.posterior_denoiser`. Neither reads a pixel outside S.
"""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from data_generation.formats.array_files import read_npz, write_npz
from data_generation.images.batches import as_bytes, normalised
from data_generation.scripts.progress import progress_bar
from diffusions.samplers import prior
from diffusions.typing import Array, HostArray, Key, Params
from experiments.sparse_pixels.sampling import SamplerSpec, sampled, sampler_model
from experiments.sparse_pixels.task import SparseTask

COMPLETED = "completed.npz"


def completed_images(task: SparseTask, params: Params, key: Key, file: Path) -> Array:
    """Equation (1): the training images as the network completes them, bytes; read where they are.

    Args:
        task: data, with masks that are `fixed`.
        params: of the network.
        key: of the draws.
        file: where they are kept, so that a run that goes on need not draw them again.
    """
    if not file.exists():
        write_npz(file, {"images": _drawn(task, params, key)}, compressed=True)
    return jnp.asarray(read_npz(file)["images"])


def _drawn(task: SparseTask, params: Params, key: Key) -> HostArray:
    n, size = len(task.train), min(task.settings.eval_batch, len(task.train))
    draw = task.devices.called(lambda *arguments: _completed(task, *arguments))
    found = np.empty(task.train.shape, np.uint8)
    with progress_bar(total=-(-n // size), unit="batch", desc="completing") as progress:
        for start in range(0, n, size):
            indices = np.minimum(np.arange(start, start + size), n - 1)
            made = draw(params, jax.random.fold_in(key, start), jnp.asarray(indices))
            found[start : start + size] = np.asarray(made)[: n - start]
            progress.update()
    return found


def _completed(task: SparseTask, params: Params, key: Key, indices: Array) -> Array:
    """One batch of `_drawn`."""
    denoising, steps = task.denoising, task.settings.em_steps
    n_told, n_asked = task.counts(task.shape[0])
    images = task.devices.batch(normalised(task.train[indices]))
    nothing = jnp.zeros((), jnp.int32)  # fixed masks are of the image alone
    masks = task.training_masks(
        {"epoch": nothing, "indices": indices, "draw": nothing}, task.shape[0]
    )
    seen = masks.conditioning | masks.target
    condition = denoising.condition(images, masks.conditioning, n_told)
    prior_key, split_key, noise_key = jax.random.split(key, 3)
    denoiser = denoising.denoiser(
        task.network(params, task.labels[indices]), condition, key=split_key, n_groups=task.n_groups
    )
    corrected = denoising.posterior_denoiser(denoiser, condition, images, seen, n_told + n_asked)
    model, start = sampler_model(denoising, corrected)
    z = prior(prior_key, images.shape, denoising.process, start)
    u = sampled(model, noise_key, z, SamplerSpec("ddpm", steps), None)
    drawn = as_bytes(jnp.clip(denoising.image(condition, u), -1.0, 1.0))
    return jnp.where(seen, task.train[indices], drawn)
