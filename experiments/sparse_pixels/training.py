"""Training from sparse pixels in a run folder, and what is done with the networks it leaves."""

import functools
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from checkpoints import load_network, save_network
from data_generation.formats.array_files import write_npz
from data_generation.images.batches import as_bytes
from data_generation.scripts.command_line import say
from data_generation.scripts.files import write_json
from diffusions.files import made_parents, new_folder, replace_folder
from diffusions.keys import named_key
from diffusions.training import TrainingState, initial_state, train_epochs
from diffusions.typing import Key, Params
from experiments.run.folder import RunFolder
from experiments.run.outputs import ABOUT, about, check_results
from experiments.run.session import Session
from experiments.run.training import train_batches
from experiments.sparse_pixels.evaluation import (
    draw,
    evaluate,
    held_out,
    sampler_spec,
    unseen_psnr,
)
from experiments.sparse_pixels.expectation_maximisation import COMPLETED, completed_images
from experiments.sparse_pixels.figures import plot_diversity, plot_losses, plot_panel
from experiments.sparse_pixels.perceptual import Perceptual
from experiments.sparse_pixels.sampling import Reconstruction
from experiments.sparse_pixels.settings import Mode, ResolvedSparsePixelsSettings
from experiments.sparse_pixels.task import SparseTask

NETWORK, REGRESSION = "network", "regression"
SCRIPT = "experiments.sparse_pixels"
DRAWS_SHOWN = 4


def learn(session: Session, task: SparseTask) -> dict[str, Any]:
    """Trains the diffusion model and the one-shot network, saves and judges them.

    Args:
        session: of the run.
        task: data, network, losses.

    Returns:
        The results for the summary.
    """
    settings, run, seconds = task.settings, session.folder, session.seconds
    reconstruction = Reconstruction(task)
    perceptual = Perceptual(settings, task.shape)  # before hours of training, not after

    def panel(before: int) -> Any:
        """Of a part that so many epochs came before."""
        return functools.partial(_panel, run, task, reconstruction, before)

    key = jax.random.key(settings.seed)
    params = task.initial(named_key(key, "initial"))
    n_parameters = sum(leaf.size for leaf in jax.tree.leaves(params))
    say(f"  {settings.unet}: {n_parameters:,} parameters, {settings.epochs} epochs")
    rounds = settings.em_rounds if settings.model == "em" else 0
    each = settings.epochs // (rounds + 1)
    first = settings.epochs - rounds * each
    params = _trained(run, task, task.loss, params, key, first, seconds, panel(0))
    curves: dict[str, list[dict[str, Any]]] = {settings.model: run.rows()}
    for i in range(1, rounds + 1):
        name = f"em_{i}"
        part = RunFolder(run.path / name)
        part.path.mkdir(exist_ok=True)
        say(f"  round {i} of {rounds}: completes the training images, then {each} epochs on them")
        with session.timed("complete"):
            completed = completed_images(
                task, params, named_key(key, f"{name} draws"), part.path / COMPLETED
            )
        params = _trained(
            part,
            task,
            task.loss_on(completed),
            params,
            named_key(key, name),
            each,
            seconds,
            panel(first + (i - 1) * each),
        )
        curves[name] = part.rows()
    _save(run, task, params)
    regression: Params | None = None
    if settings.regression_epochs:
        say(f"  one-shot regression: {settings.regression_epochs} epochs")
        part = RunFolder(run.path / REGRESSION)
        part.path.mkdir(exist_ok=True)
        regression = _trained(
            part,
            task,
            task.regression_loss,
            task.initial(named_key(key, "initial")),
            named_key(key, "regression"),
            settings.regression_epochs,
            seconds,
        )
        _save(part, task, regression)
        curves["regression"] = part.rows()
    with session.timed("evaluate"):
        found = evaluate(
            run,
            task,
            reconstruction,
            params,
            regression,
            settings,
            perceptual,
            plots=settings.plots,
        )
        if settings.plots:
            plot_losses(run.plots / "training.png", curves)
    return {
        "n_parameters": n_parameters,
        "epochs": settings.epochs,
        "n_train": len(task.train),
        "training_images_per_second": _speed(task, run, seconds),
        **found,
    }


def _speed(task: SparseTask, run: RunFolder, seconds: dict[str, float]) -> float | None:
    """Images per second of the training that this process did; None where it did none."""
    settings = task.settings
    epochs = (settings.epochs or 0) + (settings.regression_epochs or 0)
    resumed = settings.resume
    return None if resumed else epochs * len(task.train) / max(seconds["train"], 1e-9)


def _trained(
    run: RunFolder,
    task: SparseTask,
    loss: Any,
    params: Params,
    key: Key,
    epochs: int,
    seconds: dict[str, float],
    panel: Any = lambda state, epoch: {},
) -> Params:
    """The averaged parameters after the last epoch."""
    settings = task.settings
    optimizer = task.optimizer(epochs)
    train = functools.partial(
        train_epochs,
        key=named_key(key, "training"),
        batches=task.batches,
        loss=loss,
        optimizer=optimizer,
        ema_decay=settings.ema_decay,
    )
    state = train_batches(
        run,
        initial_state(params, optimizer),
        train,
        task.devices,
        epochs=epochs,
        every=settings.panel_every,
        seconds=seconds,
        evaluate=panel,
    )
    return state.ema


def _panel(
    run: RunFolder,
    task: SparseTask,
    reconstruction: Reconstruction,
    before: int,
    state: TrainingState,
    epoch: int,
) -> dict[str, Any]:
    """A picture of samples on the way, numbered by all epochs so far, and how good they are."""
    settings = task.settings
    held = held_out(task, reconstruction, settings.n_panel)
    draws = draw(
        reconstruction,
        sampler_spec(settings),
        state.ema,
        held,
        draws=1,
        batch=settings.n_panel,
    )
    if settings.plots:
        told = np.where(held.told, held.images, -1.0)
        columns = {"told": told, "sample": draws.images[0], "truth": held.images}
        plot_panel(run.plots / f"panel_{before + epoch:04d}.png", columns, held, n=settings.n_panel)
    return {"panel_psnr_unseen": float(unseen_psnr(draws.images[0], held).mean())}


def _save(run: RunFolder, task: SparseTask, params: Params) -> None:
    folder = run.path / NETWORK
    if folder.exists():  # a resumed run has the same one
        return
    settings = task.settings
    about = {
        "condition": "sparse_pixels",
        "model": settings.model,
        "prediction": task.denoising.prediction,
        "supervision": settings.supervision,
        "visible": task.denoising.visible,
        "residual": task.denoising.residual,
        "residual_scale": task.denoising.scale,
        "preconditioned": task.denoising.preconditioned,
        "conditioning": settings.conditioning,
        "dataset": settings.dataset,
    }
    save_network(folder, task.module, params, about)


def reuse(mode: Mode, run: RunFolder, folder: Path, settings: ResolvedSparsePixelsSettings) -> None:
    """Samples or judges with the networks of a finished run; the results are complete or absent.

    Args:
        mode: sample or evaluate.
        run: the finished run.
        folder: of the results; replaced where it exists and holds such results alone.
        settings: those of the run, with others for sampling.
    """
    task = SparseTask(settings)
    run.check_data(task.checksums)
    params = load_network(run.path / NETWORK).params
    regression = None
    if (run.path / REGRESSION / NETWORK).is_dir():
        regression = load_network(run.path / REGRESSION / NETWORK).params
    move = _replace if folder.exists() else None
    with made_parents(folder), new_folder(folder, move=move) as unfinished:
        results = RunFolder(unfinished)
        reconstruction = Reconstruction(task)
        if mode == "sample":
            _sample(results, task, reconstruction, params)
        else:
            say("  evaluating ...")
            found = evaluate(
                results,
                task,
                reconstruction,
                params,
                regression,
                settings,
                Perceptual(settings, task.shape),
                plots=settings.plots,
            )
            write_json(unfinished / "evaluation.json", found)
        write_json(unfinished / ABOUT, about(unfinished, SCRIPT))


def _replace(folder: Path, new: Path) -> None:
    check_results(folder, SCRIPT)  # something may have come into it since the work began
    replace_folder(folder, new)


def _sample(
    results: RunFolder, task: SparseTask, reconstruction: Reconstruction, params: Params
) -> None:
    """Samples of the first held-out images: arrays and a panel."""
    settings = task.settings
    held = held_out(task, reconstruction, settings.n_panel)
    draws = draw(
        reconstruction,
        sampler_spec(settings),
        params,
        held,
        draws=settings.draws,
        batch=settings.eval_batch,
    )
    arrays = {
        "samples": np.asarray(as_bytes(jnp.asarray(draws.images))),
        "told": held.told,
        "truth": np.asarray(as_bytes(jnp.asarray(held.images))),
    }
    write_npz(results.path / "samples.npz", arrays, compressed=True)
    if settings.plots:
        plot_diversity(
            results.plots / "samples.png", draws.images[:DRAWS_SHOWN], held, n=settings.n_panel
        )
    if draws.images_per_second is not None:
        say(f"  {draws.images_per_second:.3g} images per second")
