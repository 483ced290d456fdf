"""iJKOnet: the energy of which the observed populations are JKO steps, by an adversarial game.

(Persiianov, Chen, Mokrov, Tyurin, Burnaev and Korotin, ICLR 2026, arXiv 2506.01502.) A JKO step makes

    J(mu) + W2(mu, mu_k)^2 / 2 tau_k,                                                              (1)
    J(mu) = int V dmu + 1/2 int int U(x - y) dmu dmu + beta int rho log rho,                       (2)

as small as can be. At the true energy the observed mu_{k+1} does so; at any other something else has
a lower value, and the gap between the two is what is learned from. With a map T_k for that other
population, the part of the gap that depends on anything makes the game

    max over theta, min over T_k of mean_k L_k,
    L_k = J(T_k # mu_k) - J(mu_{k+1}) + E|T_k(x) - x|^2 / 2 tau_k.                                 (3)

So the energy falls where particles are observed, and rises where the maps put them, until there is
no difference. The maps are never asked to meet the target, nothing is differentiated through their
search, and no particle is paired with another.

From the paper are (3), free networks for the maps, and that they and the energy take turns. Ours:
equation (3) of `transport_maps`, one map for each k; `map_steps` steps of the maps and one of the
energy on each batch; the optimiser and its schedule; and the terms beside V:

- U by as many random pairs (i, i + s) of a batch as there are interaction samples. Only the even part
  of U matters in (2); of a U that is not even, the particles' drift has more than that.
- beta as it was found beforehand (`internal_energy`), because only then

    int rho log rho (T # mu) = int rho log rho (mu) - E log|det DT|                                (4)

  leaves nothing unknown in (3) but its last term: no density has to be estimated. It costs a d x d
  determinant for each particle.

Steps of (1) are implicit, and so is the energy that is found: where the data are explicit steps too
long for that to be the same, it errs by the difference (docs/comparison.md, "Effect of the scheme").
What couplings there are give the unit of speed s, and nothing else. The loss that is reported,

    1 - 2 mean_k L_k / (s^2 tau_k),                                                                (5)

is 1 for an energy that moves nothing, and the gap where s is the speed of optimal transport; sampled
populations leave some of it at the truth.
"""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import optax

from diffusions.checks import Count, Widths, conform
from diffusions.keys import named_key
from diffusions.memory import check_memory
from diffusions.precision import matmul
from diffusions.training import TrainingState
from diffusions.typing import Array, Float, Int, Key, Params
from jkonet_star.settings import Scheme, network_bytes
from jkonet_star.solvers.bilevel_batches import draw_batches
from jkonet_star.solvers.divergence import sound_epochs
from jkonet_star.solvers.network import make_optimizer
from jkonet_star.solvers.problem import Problem
from jkonet_star.solvers.transport_maps import TransportMap
from jkonet_star.solvers.whole_populations import PopulationData, PopulationNetwork, at_scheme


@dataclasses.dataclass(frozen=True, kw_only=True)
class IJKOnet(PopulationNetwork):
    """A network energy by (3).

    The state's `params` and `optimizer_state` hold those of the energy and of the maps; what is
    returned is the energy of the last sound epoch.

    Attributes:
        map_hidden: widths of the hidden layers of each map's network.
        map_steps: of the maps, for each of the energy.
    """

    map_hidden: Widths = (64, 64)
    map_steps: Count = 5

    def __post_init__(self):
        super().__post_init__()
        object.__setattr__(self, "map_hidden", conform(self.map_hidden, Widths, "map_hidden"))
        conform(self.map_steps, Count, "map_steps")

    @property
    def default_scheme(self) -> Scheme:
        """JKO steps are implicit."""
        return "implicit"

    def check(self, dimension: int) -> None:
        """Raises ValueError for networks that do not fit into memory."""
        super().check(dimension)
        check_memory({"a map this wide": network_bytes(self.map_hidden)})

    def check_problem(self, problem: Problem) -> None:
        """Raises ValueError where beta is to be learned."""
        if problem.beta_source == "learned":
            raise ValueError(
                "iJKOnet learns with a beta that was found before: beta_estimator must be 'auto', "
                "'paired' or 'unpaired', got 'first-order'"
            )

    def _map(self, dimension: int) -> TransportMap:
        return TransportMap(kind="mlp", dimension=dimension, hidden=self.map_hidden)

    def _optimizers(self, data: PopulationData) -> dict[str, optax.GradientTransformation]:
        number = self.batches(data)[1]
        return {
            "energy": self.transformation(number),
            "maps": make_optimizer(self.training, number * self.map_steps),
        }

    def init(self, key: Key, data: PopulationData) -> TrainingState:  # type: ignore[override]
        """A random energy, and maps next to the identity."""
        model = self.model(data)
        maps = jax.vmap(self._map(model.dimension).init)(
            jax.random.split(named_key(key, "maps"), len(data.batches.tau))
        )
        params = {"energy": model.init(named_key(key, "initial")), "maps": maps}
        return TrainingState(
            params=params,
            optimizer_state={
                name: own.init(params[name]) for name, own in self._optimizers(data).items()
            },
            ema=jax.tree.map(jnp.array, params["energy"]),
            epoch=jnp.zeros((), jnp.int32),
        )

    def game(
        self,
        energy: Params,
        maps: Params,
        data: PopulationData,
        rows: Int[Array, "t b"],
        weights: Float[Array, "t b"],
        key: Key,
    ) -> Float[Array, ""]:
        """mean_k L_k / (s^2 tau_k) of equation (3).

        Args:
            energy: parameters of the energy, which is to make it large.
            maps: parameters of the maps, stacked, which are to make it small.
            data: the population.
            rows: particles of each snapshot.
            weights: of them, of sum 1 each.
            key: of the pairs that the interaction takes.
        """
        units, model = data.units, self.model(data)
        push = self._map(model.dimension).apply
        n = rows.shape[1]
        n_shifts = min(self.network.interaction_samples or n, max(n - 1, 1))
        shifts = jax.random.choice(key, jnp.arange(1, max(n, 2)), (n_shifts,), replace=False)
        others = (jnp.arange(n) + shifts[:, None]) % n

        def value(y: Array, w: Array, t: Array) -> Array:
            """J of normalised particles, without the noise."""
            total = jnp.zeros(())
            if model.has_potential:
                x = units.center + units.length * y
                total += matmul(w, jax.vmap(lambda p: model.potential(energy, units, p, t))(x))
            if model.has_interaction:
                of_one = jax.vmap(lambda z: model.interaction(energy, units, z))
                pairs = w * w[others]
                values = jax.vmap(of_one)(units.length * (y - y[others]))
                total += 0.5 * jnp.sum(pairs * values) / pairs.sum()
            return total

        def step(params: Params, start: tuple, end: tuple, t: Array, tau: Array, r: Array) -> Array:
            (u, w), (target, target_weights) = start, end
            y = push(params, u, r)
            gap = value(y, w, t) - value(target, target_weights, t)
            if model.internal != "none":
                slope = jax.vmap(jax.jacfwd(lambda p: push(params, p[None], r)[0]))(u)
                stretch = jnp.linalg.slogdet(slope)[1]
                gap -= model.beta(energy, units) * matmul(w, stretch)
            moved = 0.5 * matmul(w, jnp.sum((y - u) ** 2, axis=-1))
            return (tau * gap / units.length**2 + moved) / r**2

        u = jax.vmap(lambda points, own: points[own])(data.normalised, rows)
        given = data.batches
        sources = weights[:-1]
        if given.factor is not None:
            sources = sources * jnp.take_along_axis(given.factor, rows[:-1], axis=1)
            sources = sources / sources.sum(axis=1, keepdims=True)
        times = at_scheme(data.frame.scheme, data.frame.times)
        ends = (u[1:], weights[1:])
        steps = jax.vmap(step)(maps, (u[:-1], sources), ends, times, given.tau, data.ratio)
        return jnp.mean(steps)

    def advance(  # type: ignore[override]
        self, state: TrainingState, key: Key, data: PopulationData, n_epochs: int
    ) -> tuple[TrainingState, dict[str, Array]]:
        """For each batch, `map_steps` steps of the maps down (3), then one of the energy up."""
        optimizers = self._optimizers(data)
        size, number = self.batches(data)
        key, decay = named_key(key, "training"), self.network.ema_decay

        def moved(name: str, gradient: Params, params: Params, state: Any) -> tuple[Params, Any]:
            updates, state = optimizers[name].update(gradient, state, params)
            return optax.apply_updates(params, updates), state

        def batch(carry: tuple, drawn: tuple) -> tuple[tuple, Array]:
            params, own, ema = carry
            game = functools.partial(
                self.game, data=data, rows=drawn[0], weights=drawn[1], key=drawn[2]
            )

            def respond(carry: tuple, _: None) -> tuple[tuple, None]:
                downhill = jax.grad(lambda maps: game(params["energy"], maps))(carry[0])
                return moved("maps", downhill, *carry), None

            (maps, map_state), _ = jax.lax.scan(
                respond, (params["maps"], own["maps"]), None, length=self.map_steps
            )
            # Optimisers descend.
            loss, uphill = jax.value_and_grad(lambda e: 1.0 - 2.0 * game(e, maps))(params["energy"])
            energy, energy_state = moved("energy", uphill, params["energy"], own["energy"])
            ema = optax.incremental_update(energy, ema, 1.0 - decay) if decay else energy
            carry = (
                {"energy": energy, "maps": maps},
                {"energy": energy_state, "maps": map_state},
                ema,
            )
            return carry, loss

        def epoch(state: TrainingState) -> tuple[TrainingState, dict[str, Array]]:
            batch_key, pair_key = jax.random.split(jax.random.fold_in(key, state.epoch))
            rows, weights = draw_batches(batch_key, data.batches, number, size, matched=False)
            drawn = (rows, weights, jax.random.split(pair_key, number))
            carry = (state.params, state.optimizer_state, state.ema)
            (params, own, ema), losses = jax.lax.scan(batch, carry, drawn)
            new = TrainingState(params=params, optimizer_state=own, ema=ema, epoch=state.epoch + 1)
            return new, {"loss": jnp.mean(losses, keepdims=True)}

        return sound_epochs(epoch, state, n_epochs)
