"""Held-out images reconstructed from their told pixels, beside interpolation and a one-shot network.

Unseen pixels are those that are not told. Of every method:

    psnr_unseen   mean over images of 10 log10(4 / mse of the unseen pixels), in decibels
    rmse_unseen   root of their mean squared error over all images, pixels being in [-1, 1]
    psnr, ssim    of whole images, means over images
    frechet       distance to the held-out images in the features of `diffusions.images.features`
    fid, lpips    where the user has the weights, see `experiments.sparse_pixels.perceptual`

An error below that of rounding to bytes counts as that, so that a black image is no infinite PSNR.
"""

import time
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np

from data_generation.scripts.command_line import say
from data_generation.scripts.progress import progress_bar
from diffusions.images.features import SMALLEST, image_features
from diffusions.images.interpolation import INTERPOLATIONS, interpolate
from diffusions.metrics import frechet_distance_of_samples, psnr, ssim
from diffusions.samplers import Order
from diffusions.typing import Params
from experiments.run.folder import RunFolder
from experiments.run.tables import write_table
from experiments.sparse_pixels.calibration import ROUNDING, calibration
from experiments.sparse_pixels.figures import (
    plot_calibration,
    plot_comparison,
    plot_diversity,
    plot_panel,
)
from experiments.sparse_pixels.perceptual import Perceptual
from experiments.sparse_pixels.sampling import Reconstruction, SamplerSpec
from experiments.sparse_pixels.settings import ResolvedSparsePixelsSettings, Sampler
from experiments.sparse_pixels.task import SparseTask
from experiments.sparse_pixels.verdict import verdict

SAMPLE_SEED = 31
"""Of the noise of every evaluation: nothing is taken from the training stream."""
SHOWN, SHOWN_DRAWS = 12, 5
SSIM_WINDOW = 11


class Held(NamedTuple):
    """Held-out images with their masks."""

    images: np.ndarray
    told: np.ndarray
    asked: np.ndarray
    labels: np.ndarray


def held_out(task: SparseTask, reconstruction: Reconstruction, n: int) -> Held:
    """The first n held-out images."""
    images = task.test_images()[:n]
    masks = reconstruction.masks(np.arange(len(images)))
    return Held(
        images, np.asarray(masks.conditioning), np.asarray(masks.target), task.test.labels[:n]
    )


def sampler_spec(settings: ResolvedSparsePixelsSettings) -> SamplerSpec:
    """The sampler of resolved settings."""
    return SamplerSpec(
        settings.sampler,
        settings.steps,
        cast(Order, settings.order),
        settings.eta,
        settings.churn,
        settings.impose,
    )


def unseen_psnr(images: np.ndarray, held: Held) -> np.ndarray:
    """PSNR of every image over its unseen pixels."""
    unseen = ~held.told
    squared = np.where(unseen, (images - held.images) ** 2, 0.0).sum(axis=(1, 2, 3))
    mse = squared / np.maximum(unseen.sum(axis=(1, 2, 3)), 1)
    return 10 * np.log10(4.0 / np.maximum(mse, ROUNDING))


def quality(
    images: np.ndarray, held: Held, perceptual: Perceptual | None = None
) -> dict[str, float | None]:
    """The figures of the module header; None for one that the images are too small or few for."""
    per_image = unseen_psnr(images, held)
    unseen = ~held.told
    squared = ((images - held.images) ** 2)[unseen]
    side = min(images.shape[1:3])
    a, b = jnp.asarray(images), jnp.asarray(held.images)
    whole = np.minimum(np.asarray(psnr(a, b)), 10 * np.log10(4.0 / ROUNDING))
    found: dict[str, float | None] = {
        "psnr_unseen": float(per_image.mean()),
        "psnr_unseen_standard_error": float(per_image.std() / np.sqrt(len(per_image))),
        "rmse_unseen": float(np.sqrt(squared.mean())) if squared.size else 0.0,
        "psnr": float(whole.mean()),
        "ssim": float(ssim(a, b).mean()) if side >= SSIM_WINDOW else None,
        "frechet": None,
    }
    if len(images) > 1 and side >= SMALLEST:
        features = image_features(a), image_features(b)
        found["frechet"] = float(frechet_distance_of_samples(*features))
    return found | (perceptual(images, held.images) if perceptual else {})


class Draws(NamedTuple):
    """Samples of held-out images, and what they cost."""

    images: np.ndarray  # (draws, n, height, width, channels)
    images_per_second: float | None  # None where the only call was the one that compiles


def draw(
    reconstruction: Reconstruction,
    spec: SamplerSpec,
    params: Params,
    held: Held,
    *,
    draws: int,
    batch: int,
) -> Draws:
    """Several samples of every image; the last batch is filled up with images that are not used."""
    n = len(held.images)
    batch = min(batch, n)
    starts = list(range(0, n, batch))
    result = np.empty((draws, *held.images.shape), np.float32)
    key = jax.random.key(SAMPLE_SEED)
    timed: list[float] = []
    with progress_bar(total=draws * len(starts), unit="batch", desc=spec.name) as progress:
        for i in range(draws):
            for start in starts:
                places = np.minimum(np.arange(start, start + batch), n - 1)
                begin = time.perf_counter()
                made = reconstruction.sample(
                    spec,
                    params,
                    jax.random.fold_in(jax.random.fold_in(key, i), start),
                    jnp.asarray(held.images[places]),
                    jnp.asarray(held.told[places]),
                    jnp.asarray(held.labels[places]),
                )
                kept = np.asarray(made)[: n - start]
                timed.append(time.perf_counter() - begin)
                result[i, start : start + len(kept)] = kept
                progress.update()
    speed = batch / float(np.median(timed[1:])) if len(timed) > 1 else None
    return Draws(result, speed)


def interpolated(reconstruction: Reconstruction, held: Held) -> dict[str, np.ndarray]:
    """The images by every interpolation, kriging included."""
    found: dict[str, np.ndarray] = {
        name: np.clip(interpolate(held.images, held.told, name), -1.0, 1.0)
        for name in INTERPOLATIONS
    }
    kriged = reconstruction.kriged(jnp.asarray(held.images), jnp.asarray(held.told))
    return found | {"kriging": np.asarray(kriged)}


def evaluate(
    run: RunFolder,
    task: SparseTask,
    reconstruction: Reconstruction,
    params: Params,
    regression: Params | None,
    settings: ResolvedSparsePixelsSettings,
    perceptual: Perceptual,
    *,
    plots: bool,
) -> dict[str, Any]:
    """Judges every method on the held-out images, writes tables, and figures where asked for.

    Args:
        run: folder of the results.
        task: data and network.
        reconstruction: of the task.
        params: of the diffusion model.
        regression: of the one-shot network, where there is one.
        settings: resolved.
        perceptual: distances by the user's weights.
        plots: draw figures.

    Returns:
        What is found.
    """
    held = held_out(task, reconstruction, settings.n_test)
    methods = interpolated(reconstruction, held)
    if regression is not None:
        arrays = [jnp.asarray(a) for a in (held.images, held.told, held.labels)]
        methods["regression"] = np.concatenate(
            [
                np.asarray(reconstruction.regressed(regression, *(a[i:j] for a in arrays)))
                for i, j in _parts(len(held.images), settings.eval_batch)
            ]
        )
    spec = sampler_spec(settings)
    draws = draw(
        reconstruction, spec, params, held, draws=settings.draws, batch=settings.eval_batch
    )
    methods["sample"] = draws.images[0]
    methods["sample_mean"] = draws.images.mean(axis=0)
    table = {name: quality(images, held, perceptual) for name, images in methods.items()}
    per_image = {name: unseen_psnr(images, held) for name, images in methods.items()}
    rows = [{"method": name, **found} for name, found in table.items()]
    write_table(run.path / "methods.csv", rows)
    for name, found in table.items():
        say(
            f"  {_spelled(name, settings.draws):18} "
            + ", ".join(
                f"{k} {v:.4g}" for k, v in found.items() if v is not None and "error" not in k
            )
        )
    calibrated = None
    if settings.draws > 1 and not held.told.all():
        calibrated = calibration(draws.images, held.images, ~held.told)
        write_table(run.path / "calibration.csv", calibrated["errors"])
        for level, share in calibrated["coverage"].items():
            say(f"  {share:.1%} of the unseen pixels lie in the draws' {level} intervals")
    comparison = _compare(reconstruction, params, held, settings)
    if comparison:
        write_table(run.path / "comparison.csv", comparison)
    if plots:
        columns = {"told": np.where(held.told, held.images, -1.0), **methods, "truth": held.images}
        plot_panel(run.plots / "reconstructions.png", columns, held, n=SHOWN)
        plot_diversity(run.plots / "diversity.png", draws.images[:SHOWN_DRAWS], held, n=SHOWN)
        if calibrated:
            plot_calibration(run.plots / "calibration.png", calibrated, table)
        if comparison:
            plot_comparison(run.plots / "comparison.png", comparison, table)
    told = held.told
    error = (draws.images[0] - held.images)[told]
    return {
        **verdict(per_image, settings.draws, calibrated).said(),
        "psnr_unseen": table["sample_mean"]["psnr_unseen"],
        "psnr_unseen_of": f"mean of {settings.draws} samples",
        "psnr_unseen_single_sample": table["sample"]["psnr_unseen"],
        "psnr_unseen_by_method": {name: found["psnr_unseen"] for name, found in table.items()},
        "methods": table,
        "told_rmse_of_a_sample": float(np.sqrt((error**2).mean())) if error.size else 0.0,
        "deviation_between_samples": float(draws.images.std(axis=0)[~told].mean()),
        "calibration": calibrated,
        "sampling": {
            **spec._asdict(),
            "groups": task.n_groups,
            "network_calls": spec.calls,
            "images_per_second": draws.images_per_second,
        },
        "n_test": len(held.images),
        "comparison": comparison,
    }


def _compare(
    reconstruction: Reconstruction,
    params: Params,
    held: Held,
    settings: ResolvedSparsePixelsSettings,
) -> list[dict[str, Any]]:
    """Samplers and step counts on a part of the images."""
    n = min(settings.n_compare or 0, len(held.images))
    if n == 0:
        return []
    part = Held(*(a[:n] for a in held))
    rows = []
    for name in settings.compare_samplers:
        for steps in settings.compare_steps or ():
            spec = sampler_spec(settings)._replace(name=cast(Sampler, name), steps=steps)
            draws = draw(reconstruction, spec, params, part, draws=2, batch=n)
            found = quality(draws.images[0], part)
            rows.append(
                {
                    "sampler": name,
                    "steps": steps,
                    "network_calls": spec.calls,
                    "psnr_unseen": found["psnr_unseen"],
                    "frechet": found["frechet"],
                    "images_per_second": draws.images_per_second,
                }
            )
    return rows


def _parts(n: int, size: int) -> list[tuple[int, int]]:
    return [(i, min(i + size, n)) for i in range(0, n, size)]


def _spelled(name: str, draws: int) -> str:
    return f"mean of {draws} samples" if name == "sample_mean" else name.replace("_", " ")
