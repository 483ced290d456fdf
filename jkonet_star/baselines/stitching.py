"""Stitching: paths of particles, and the energy whose gradient flow they follow, found together.

(Heinonen et al., "Wasserstein residuals", arXiv 2607.04738.) Particles X_k^i, i = 1 .. P, one path for
each i through the times of all snapshots, are parameters like those of the energy theta. What they
miss of the flow is the residual, in the units of the data (`energies`),

    R = mean_k mean_i |(X_{k+1}^i - X_k^i) / tau_k + grad V(p) + (grad U * nu)(p)
                       + beta grad log rho(p)|^2 / s^2,                                            (1)

with p, nu and rho of X_k, of X_{k+1} or of their mean, as the scheme says (`first_order`), and rho the
density of a kernel around every particle,

    rho(p) = mean_j N(p; x_j, H),   H = P^(-2 / (d + 4)) times the particles' covariance.          (2)

Together with how far they are from what was seen,

    min over theta and X of R + w mean_k D(X_k, mu_k) / (l r^2),   r = s tau / l.                  (3)

No snapshot's particle is paired with another's: a path need not pass through any of them, and takes
its share of a velocity that all paths agree on. So sampling, which a coupling takes for motion, is
averaged out.

From the paper we know what the abstract says: a kernel density around trainable particles, fitted to
the gradient-flow velocity, which recovers interactions from unpaired data. (1) to (3) are its
general form, and these choices are ours: D, the energy distance ((2) of `refinement`, a = 1), which
needs no width and has no bias in batches; its weight w; times of the snapshots only, since the energy
predicts by steps of that length; Scott's width; and that paths begin at particles that the couplings
put in a row. That is a start and no constraint, without which paths would have to cross the population.

Where beta was found beforehand (`internal_energy`) it is that one, else a parameter.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import optax

from diffusions.checks import Positive, conform
from diffusions.keys import named_key
from diffusions.memory import check_memory
from diffusions.precision import matmul
from diffusions.training import TrainingState, initial_state, train_epochs
from diffusions.typing import Array, Float, Int, Key, Params
from jkonet_star.fitted import FittedEnergy
from jkonet_star.solvers.bilevel_batches import draw_batches
from jkonet_star.solvers.divergence import sound_epochs
from jkonet_star.solvers.network import make_optimizer
from jkonet_star.solvers.problem import Problem
from jkonet_star.solvers.refinement import draw, energy_distance
from jkonet_star.solvers.whole_populations import (
    PopulationData,
    PopulationNetwork,
    at_scheme,
    particles_of,
)

ROUNDING = 1e-6
"""Of a covariance in single precision, relative."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Stitching(PopulationNetwork):
    """A network energy by (3), with as many paths as the largest snapshot has particles.

    The state's parameters are those of the energy, and the particles, in units of r. A batch is of
    paths, and of as many particles of each snapshot; nu and rho are always those of all paths. The
    reported loss is the residual (1), beside the mismatch of (3).

    Attributes:
        match_weight: w of equation (3).
        particle_learning_rate: of the Adam that moves the particles, in units of r.
    """

    match_weight: Positive = 10.0
    particle_learning_rate: Positive = 1e-2

    def __post_init__(self):
        super().__post_init__()
        for name in ("match_weight", "particle_learning_rate"):
            conform(getattr(self, name), Positive, name)

    def check_problem(self, problem: Problem) -> None:
        """Raises ValueError where there is growth, or what is compared does not fit into memory."""
        if problem.growth is not None:
            raise ValueError(
                "Stitching has paths that neither begin nor end: growth must be False, or the solver "
                "another one"
            )
        check_memory(self._memory_needs(problem))

    def _memory_needs(self, problem: Problem) -> dict[str, float]:
        """Bytes of one energy's largest arrays."""
        snapshots = problem.snapshots
        count, n, d = snapshots.n_snapshots, particles_of(snapshots), snapshots.dimension
        size = min(self.training.batch_size, n)
        needs = {
            # With the two moments of Adam.
            f"paths of {n} particles through {count} snapshots": 4.0 * 3 * count * n * d,
            f"distances in batches of batch_size {size}": 4.0 * count * size**2,
        }
        if problem.beta_source != "none":
            density = f"the density of {n} paths at batches of batch_size {size}"
            needs[density] = 4.0 * (count - 1) * size * n
        return needs

    def _optimizer(self, data: PopulationData) -> optax.GradientTransformation:
        number = self.batches(data)[1]
        training = dataclasses.replace(
            self.training,
            optimizer="adam",
            learning_rate=self.particle_learning_rate,
            weight_decay=0.0,
        )
        return optax.multi_transform(
            {"energy": self.transformation(number), "particles": make_optimizer(training, number)},
            {"energy": "energy", "particles": "particles"},
        )

    def init(self, key: Key, data: PopulationData) -> TrainingState:  # type: ignore[override]
        """A random energy, and paths along the couplings."""
        rows, _ = draw_batches(
            named_key(key, "paths"), data.batches, 1, data.n_particles, matched=True
        )
        particles = jax.vmap(lambda points, own: points[own])(data.normalised, rows[0])
        params = {
            "energy": self.model(data).init(named_key(key, "initial")),
            "particles": particles / jnp.mean(data.ratio),
        }
        return initial_state(params, self._optimizer(data))

    def residual(
        self, params: Params, data: PopulationData, paths: Int[Array, "b"], key: Key
    ) -> Float[Array, ""]:
        """Equation (1) over some paths.

        Args:
            params: of the state.
            data: the population.
            paths: which.
            key: of the particles that the interaction is a mean over; without bias as in equation (3)
                of `first_order`, of K independent draws: S is sum_k |u_k - u|^2 / (K (K - 1)).
        """
        units, model, energy = data.units, self.model(data), params["energy"]
        samples = self.network.interaction_samples
        scheme, frame = data.frame.scheme, data.frame
        x = units.center + units.length * params["particles"] * jnp.mean(data.ratio)
        moved = (x[1:, paths] - x[:-1, paths]) / data.batches.tau[:, None, None]

        def one(p: Array, population: Array, t: Array, velocity: Array, key: Key) -> Array:
            missing, excess = velocity, jnp.zeros(())
            if model.has_potential:
                gradient = jax.grad(lambda y: model.potential(energy, units, y, t))
                missing += jax.vmap(gradient)(p)
            if model.has_interaction and samples:
                rows = jax.random.randint(key, (len(p), samples), 0, len(population))
                pull = jax.grad(lambda z: model.interaction(energy, units, z))
                pulls = jax.vmap(jax.vmap(pull))(p[:, None] - population[rows])
                mean = pulls.mean(axis=1)
                missing += mean
                spread = jnp.sum((pulls - mean[:, None]) ** 2, axis=(1, 2))
                excess = jnp.mean(spread) / (samples * (samples - 1))
            elif model.has_interaction:
                uniform = jnp.full(len(population), 1.0 / len(population), p.dtype)
                missing += model.pull(energy, units, p, population, uniform)
            if model.internal != "none":
                missing += model.beta(energy, units) * kernel_score(p, population)
            return (jnp.mean(jnp.sum(missing**2, axis=-1)) - excess) / units.speed**2

        times, population = at_scheme(scheme, frame.times), at_scheme(scheme, x)
        keys = jax.random.split(key, len(times))
        return jnp.mean(jax.vmap(one)(population[:, paths], population, times, moved, keys))

    def mismatch(
        self, params: Params, data: PopulationData, paths: Int[Array, "b"], key: Key
    ) -> Float[Array, ""]:
        """mean_k D / (l r^2) of equation (3), from some paths and as many particles."""
        ratio = jnp.mean(data.ratio)
        u, weights = data.normalised, data.batches.weights
        same_path = jnp.eye(len(paths), dtype=bool)

        def one(x: Array, points: Array, w: Array, key: Key) -> Array:
            rows = draw(key, w, len(paths))
            return energy_distance(x, points[rows], same_path, rows[:, None] == rows)

        x = params["particles"][:, paths] * ratio
        distances = jax.vmap(one)(x, u, weights, jax.random.split(key, len(u)))
        return jnp.mean(distances) / ratio**2

    def advance(  # type: ignore[override]
        self, state: TrainingState, key: Key, data: PopulationData, n_epochs: int
    ) -> tuple[TrainingState, dict[str, Array]]:
        """Gradient steps of (3)."""
        size, number = self.batches(data)

        def batches(key: Key) -> Array:
            order = jax.random.permutation(key, data.n_particles)
            return order[jnp.arange(number * size) % data.n_particles].reshape(number, size)

        def loss(params: Params, paths: Array, key: Key) -> tuple[Array, dict[str, Array]]:
            flow_key, seen_key = jax.random.split(key)
            residual = self.residual(params, data, paths, flow_key)
            mismatch = self.mismatch(params, data, paths, seen_key)
            total = residual + self.match_weight * mismatch
            # (3) in batches is mostly the noise of D: what is said is (1), as of first-order solvers.
            return total, {"loss": residual, "mismatch": mismatch}

        one_epoch = functools.partial(
            train_epochs,
            key=named_key(key, "training"),
            batches=batches,
            loss=loss,
            optimizer=self._optimizer(data),
            n_epochs=1,
            ema_decay=self.network.ema_decay,
        )
        return sound_epochs(one_epoch, state, n_epochs)

    def energy(self, state: TrainingState, data: PopulationData) -> FittedEnergy:
        """That of the last sound epoch."""
        return data.frame.energy(self.model(data), state.ema["energy"], data.units)


def kernel_score(p: Float[Array, "n d"], population: Float[Array, "m d"]) -> Float[Array, "n d"]:
    """Grad log rho of equation (2) at each row of p."""
    m, d = population.shape
    centred = population - population.mean(axis=0)
    covariance = matmul(centred.T, centred) / m
    covariance += ROUNDING * jnp.trace(covariance) / d * jnp.eye(d)
    # The width is chosen, and not learned.
    factor = jnp.linalg.cholesky(jax.lax.stop_gradient(m ** (-2.0 / (d + 4)) * covariance))
    white = functools.partial(jax.scipy.linalg.solve_triangular, factor, lower=True)
    offset = white(p.T)[:, :, None] - white(population.T)[:, None]
    shares = jax.nn.softmax(-0.5 * jnp.sum(offset**2, axis=0), axis=1)
    towards = matmul(shares, population) - p
    return jax.scipy.linalg.cho_solve((factor, True), towards.T).T
