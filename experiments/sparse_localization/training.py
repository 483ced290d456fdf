"""The three-stage curriculum of the sparse denoiser: a pure function of the epoch, and a run of it.

    loss = mean over the batch of |m(y_t, t) - x|_F^2                                               (1)

Stage by stage the weight of the times moves down towards the threshold t = n/2; the first stage adds
layers as it goes, and every so often the last trains without noise. Each stage starts from the best
epoch of the one before with a new optimizer, best meaning the least mean of (1) over an epoch. Epochs
that cannot be compared are no candidates: those of shallower networks, the first of the last stage, and
those without noise.
"""

import dataclasses
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import optax

from checkpoints.message_passing import Denoiser, load_denoiser, save_denoiser
from data_generation.scripts.device import division
from data_generation.sparse_rank_one import observations, sample_keys, sparse_vectors
from diffusions.devices import Replicated
from diffusions.files import write_text
from diffusions.keys import named_key
from diffusions.networks.message_passing import MessagePassingDenoiser, start_vectors
from diffusions.short_repr import short_repr
from diffusions.sparse_estimators import squared_distance
from diffusions.training import TrainingState, initial_state, train_epochs
from diffusions.typing import Array, Float, Int, Key, Params, PyTree
from experiments.run.folder import RunFolder
from experiments.run.training import train_batches
from experiments.sparse_localization.figures import plot_training
from experiments.sparse_localization.settings import ScaledCurriculumSettings, SparseSettings
from experiments.sparse_localization.task import DENOISER, DenoisingProblem


@flax.struct.dataclass
class CurriculumState(TrainingState):
    """A training state, and the best epoch of its stage so far."""

    best: Params
    best_loss: Float[Array, ""]  # infinite before the first candidate

    __repr__ = short_repr


class Curriculum:
    """The training of one problem.

    Args:
        n: dimension.
        k: non-zero entries.
        zero_probability: of the prior.
        settings: with all times (`CurriculumSettings.scaled`).
        key: of the run.
    """

    def __init__(
        self, n: int, k: int, zero_probability: float, settings: ScaledCurriculumSettings, key: Key
    ):
        self.n, self.k, self.zero_probability = n, k, zero_probability
        self.settings = settings
        self.model = MessagePassingDenoiser(
            n_nonzero=k,
            n_layers=settings.layers,
            hidden=settings.hidden,
            update_hidden=settings.update_hidden,
            readout_hidden=settings.readout_hidden,
        )
        self.key = key
        self.devices = Replicated.of(settings.train_batch_size)
        self.schedule = _Schedule.of(settings)

    def initial(self) -> CurriculumState:
        """The state before the first epoch."""
        one = jnp.zeros((1, self.n, self.n))
        key = named_key(self.key, "initial")
        params = self.model.init(key, one, one[:, 0, 0], one[:, 0])
        state = initial_state(params, self._optimizer(jnp.asarray(0), jnp.asarray(0)))
        return CurriculumState(
            **{name: getattr(state, name) for name in TrainingState.__dataclass_fields__},
            best=jax.tree.map(jnp.array, params),
            best_loss=jnp.asarray(jnp.inf),
        )

    def train(
        self, state: CurriculumState, *, n_epochs: int
    ) -> tuple[CurriculumState, dict[str, Float[Array, "epochs"]]]:
        """Epochs state.epoch, ..., one after another in one compiled scan."""

        def epoch(state: CurriculumState, _: None) -> tuple[CurriculumState, PyTree]:
            return self._epoch(state)

        return jax.lax.scan(epoch, state, None, length=n_epochs)

    def _epoch(self, state: CurriculumState) -> tuple[CurriculumState, PyTree]:
        here = jax.tree.map(lambda column: jnp.asarray(column)[state.epoch], self.schedule)
        optimizer = self._optimizer(here.stage, here.depth)
        fresh = dataclasses.replace(
            state,
            params=state.best,
            ema=state.best,
            optimizer_state=optimizer.init(state.best),
            best_loss=jnp.asarray(jnp.inf),
        )
        state = jax.tree.map(lambda a, b: jnp.where(here.begins, a, b), fresh, state)

        def batches(key: Key) -> Int[Array, "batches batch"]:
            total = self.settings.samples_per_epoch
            order = jax.random.permutation(key, total)
            return order.reshape(-1, self.settings.train_batch_size)

        def loss(params: Params, indices: Array, key: Key) -> tuple[Array, dict[str, Array]]:
            return self._loss(params, indices, key, here), {}

        trained, scalars = train_epochs(
            TrainingState(
                **{name: getattr(state, name) for name in TrainingState.__dataclass_fields__}
            ),
            named_key(self.key, "training"),
            batches=batches,
            loss=loss,
            optimizer=optimizer,
            n_epochs=1,
        )
        value = scalars["loss"][0]
        better = here.candidate & (value < state.best_loss)
        state = dataclasses.replace(
            state,
            params=trained.params,
            optimizer_state=trained.optimizer_state,
            ema=trained.ema,
            epoch=trained.epoch,
            best=jax.tree.map(
                lambda new, old: jnp.where(better, new, old), trained.params, state.best
            ),
            best_loss=jnp.where(better, value, state.best_loss),
        )
        row = {
            "loss": value,
            "best_loss": state.best_loss,
            "stage": here.stage + 1,
            "depth": here.depth,
            "noise_free": here.noise_free.astype(jnp.int32),
        }
        return state, row

    def _loss(self, params: Params, indices: Array, key: Key, here: "_Schedule") -> Array:
        """Equation (1) of one batch."""
        time_key, vector_key, noise_key, start_key = jax.random.split(key, 4)
        batch = indices.shape[0]
        t = self._times(time_key, batch, here)
        if self.settings.fresh_data:
            vector_keys = sample_keys(vector_key, 0, batch)
        else:
            stage_key = jax.random.fold_in(named_key(self.key, "data"), here.stage)
            vector_keys = jax.vmap(jax.random.fold_in, (None, 0))(stage_key, indices)
        u = sparse_vectors(vector_keys, self.n, self.k, self.zero_probability)
        edges = observations(sample_keys(noise_key, 0, batch), u, t)
        start = start_vectors(sample_keys(start_key, 0, batch), self.n)
        u, edges, t, start = self.devices.batch((u, edges, t, start))
        estimate: Any = self.model.apply(params, edges, t, start, depth=here.depth, train=True)
        return squared_distance(estimate, u).mean()

    def _times(self, key: Key, batch: int, here: "_Schedule") -> Array:
        """Times of the grid, most of them late."""
        settings = self.settings
        step, largest = settings.time_step, settings.largest_time
        grid = jnp.asarray(np.arange(1, round(largest / step) + 1) * step, jnp.float32)
        late = grid > here.heavy_from
        weight = jnp.where(
            late,
            settings.heavy_weight / late.sum(),
            (1 - settings.heavy_weight) / jnp.maximum((~late).sum(), 1),
        )
        drawn = jax.random.choice(key, grid, (batch,), p=weight)
        return jnp.where(here.noise_free, settings.noise_free_time, drawn)

    def _optimizer(self, stage: Array, depth: Array) -> optax.GradientTransformation:
        """AdamW of a stage; layers that are not in use yet stay as they were drawn."""
        settings = self.settings

        def still(updates: PyTree, state: PyTree, params: PyTree = None) -> tuple[PyTree, PyTree]:
            def masked(path: tuple, update: Array) -> Array:
                name = jax.tree_util.keystr(path[1:2], simple=True)
                if name not in ("message", "update", "logit_alpha"):
                    return update
                active = jnp.arange(update.shape[0]) < depth
                return update * active.reshape(-1, *[1] * (update.ndim - 1))

            return jax.tree_util.tree_map_with_path(masked, updates), state

        return optax.chain(
            optax.clip_by_global_norm(jnp.asarray(settings.clip_norms)[stage]),
            optax.adamw(
                jnp.asarray(settings.learning_rates)[stage], weight_decay=settings.weight_decay
            ),
            optax.GradientTransformation(lambda params: optax.EmptyState(), still),
        )


@flax.struct.dataclass
class _Schedule:
    """What each epoch does; one column per field."""

    stage: Int[np.ndarray, " epochs"]
    begins: np.ndarray  # whether a stage but the first begins
    depth: np.ndarray
    heavy_from: np.ndarray
    noise_free: np.ndarray
    candidate: np.ndarray  # whether the epoch may be the best of its stage

    @classmethod
    def of(cls, settings: ScaledCurriculumSettings) -> "_Schedule":
        """The schedule of all epochs."""
        stage = np.repeat(np.arange(len(settings.epochs)), settings.epochs)
        within = np.concatenate([np.arange(size) for size in settings.epochs])
        depth = np.full(len(stage), settings.layers)
        first = stage == 0
        depth[first] = np.asarray(settings.depths)[
            np.searchsorted(settings.deepen_at, within[first], side="right")
        ]
        last = stage == len(settings.epochs) - 1
        every = settings.noise_free_every
        noise_free = last & ((within + 1) % every == 0) if every else np.zeros_like(last)
        return cls(
            stage=stage,
            begins=(within == 0) & ~first,
            depth=depth,
            heavy_from=np.asarray(settings.heavy_from, np.float32)[stage],
            noise_free=noise_free,
            candidate=(depth == settings.layers)
            & ~noise_free
            & ~(last & (within < settings.settle_epochs)),
        )


def divided_batches(batch_size: int) -> str | None:
    """How many devices share a batch of the training, in words."""
    return division(f"batches of {batch_size}", Replicated.of(batch_size))


def train_denoiser(
    run: RunFolder,
    settings: SparseSettings,
    curriculum: ScaledCurriculumSettings,
    problem: DenoisingProblem,
    key: Key,
    seconds: dict[str, float],
) -> Denoiser:
    """The best network of the last stage, saved in the run's folder with its losses."""
    path = run.path / DENOISER
    if path.exists():
        found = load_denoiser(path)
    else:
        training = Curriculum(problem.n, problem.k, settings.zero_probability, curriculum, key)
        state: Any = train_batches(
            run,
            training.initial(),
            training.train,  # type: ignore[arg-type]  # of a state that holds more
            training.devices,
            epochs=sum(curriculum.epochs),
            every=curriculum.checkpoint_every,
            seconds=seconds,
        )
        found = Denoiser(training.model, state.best, problem.n)
        save_denoiser(path, found)
    rows = run.rows("loss", "noise_free", "best_loss")
    write_text(run.path / "losses.txt", "".join(f"{row['loss']!r}\n" for row in rows))
    if settings.plots:
        plot_training(run.plots / "training.png", rows)
    return found
