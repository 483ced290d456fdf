"""What a network adds to the ideal denoiser of a reference, and at which log SNRs it is let in.

    eps_hat(z, a) = eps_ref(z, a) + g(a) f(z, a),   g(a) in [0, 1]                                 (1)

changes the error of the reference by E [g^2 |f|^2 - 2 g f . (eps - eps_ref)], which is least at

    g(a) = E f . (eps - eps_ref) / E |f|^2,   there -g(a) E f . (eps - eps_ref).                   (2)

The means are over examples that the network was not trained on, in cells of log SNR. A cell in which
the gain does not exceed twice its standard error is shut, as is all outside the range of log SNRs:
there the reference alone is left, and the densities of the two differ by nothing.
"""

from typing import NamedTuple

import flax.struct
import jax
import jax.numpy as jnp

from diffusions.arguments import checked
from diffusions.density.likelihood import square_norm
from diffusions.density.log_snr import CHANNEL, LogSNRLaw
from diffusions.density.reference import Reference
from diffusions.objectives import Denoiser
from diffusions.processes import beside, corrupt
from diffusions.short_repr import short_repr
from diffusions.typing import Array, Float, Key

CELLS = 24
"""Of the range of log SNRs, equally likely by its law."""
DRAWS = 16
"""Of noise and log SNR for every example, in each cell."""
SURE = 2.0
"""Standard errors that a gain must exceed."""


@flax.struct.dataclass
class Gate:
    """The g of equation (1): constant in cells of log SNR, zero outside."""

    edges: Float[Array, "m"]  # increasing, one more than cells
    shares: Float[Array, "n"]

    __repr__ = short_repr

    @checked
    def at(self, a: Float[Array, "batch"]) -> Float[Array, "batch"]:
        """G at log SNRs."""
        cell = jnp.searchsorted(self.edges, a, side="right") - 1
        inside = (a >= self.edges[0]) & (a <= self.edges[-1])
        return jnp.where(inside, self.shares[jnp.clip(cell, 0, len(self.shares) - 1)], 0.0)

    @property
    def shut(self) -> bool:
        """Whether it lets nothing in; of a gate whose numbers are at hand."""
        return not bool(self.shares.any())


class MeasuredGate(NamedTuple):
    """A gate, and what was gained by it where it was measured."""

    gate: Gate
    gain: Float[Array, ""]  # in nats per example
    standard_error: Float[Array, ""]

    def __repr__(self) -> str:
        return short_repr(self)


def preconditioned(
    network: Denoiser, reference: Reference, *, shown: bool = False, gate: Gate | None = None
) -> Denoiser:
    """A network added to the ideal denoiser of a reference, equation (1).

    At low SNR only mean and covariance of the data matter, and there a Gaussian leaves nothing to
    learn. At high SNR the noise is so small a part of z that a network with normalised features cannot
    see it; the reference's prediction has it at its own scale.

    Args:
        network: f.
        reference: the law.
        shown: give the network the reference's prediction too, as further channels.
        gate: g; absent, one.
    """

    def corrected(z: Array, a: Array) -> Array:
        known = reference.epsilon(z, a)
        seen = jnp.concatenate([z, known], axis=-1) if shown else z
        correction = network(seen, a)
        if gate is not None:
            correction = beside(gate.at(a), z) * correction
        return known + correction

    return corrected


@checked
def measured_gate(
    denoiser: Denoiser,
    reference: Reference,
    key: Key,
    x: Float[Array, "batch ..."],
    law: LogSNRLaw,
) -> MeasuredGate:
    """At which log SNRs a network is let in, and what is gained by it, equation (2).

    Args:
        denoiser: `preconditioned` without a gate.
        reference: that it corrects.
        key: of log SNRs and noises.
        x: examples that the network was not trained on.
        law: its range is divided into cells.
    """
    edges, _ = law.at(jnp.linspace(0.0, 1.0, CELLS + 1))

    def draw(inputs: tuple[Array, Array, Array]) -> tuple[Array, Array]:
        low, high, key = inputs
        level_key, noise_key = jax.random.split(key)
        a = jax.random.uniform(level_key, (x.shape[0],), minval=low, maxval=high)
        z, eps = corrupt(CHANNEL, noise_key, x, a)
        known = reference.epsilon(z, a)
        f = denoiser(z, a) - known
        flat = x.shape[0], -1
        return (f * (eps - known)).reshape(flat).sum(axis=-1), square_norm(f)

    def cell(inputs: tuple[Array, Array, Array]) -> tuple[Array, Array]:
        low, high, key = inputs
        keys = jax.random.split(key, DRAWS)
        agreement, size = jax.lax.map(lambda key: draw((low, high, key)), keys)
        agreement, size = agreement.mean(axis=0), size.mean(axis=0)
        share = jnp.clip(agreement.mean() / jnp.maximum(size.mean(), 1e-30), 0.0, 1.0)
        gains = 2.0 * share * agreement - share**2 * size
        sure = gains.mean() > SURE * gains.std(ddof=1) / jnp.sqrt(x.shape[0])
        # Half the integral over the cell, example by example.
        return jnp.where(sure, share, 0.0), 0.5 * (high - low) * jnp.where(sure, gains, 0.0)

    shares, gains = jax.lax.map(cell, (edges[:-1], edges[1:], jax.random.split(key, CELLS)))
    by_example = gains.sum(axis=0)
    error = by_example.std(ddof=1) / jnp.sqrt(x.shape[0])
    return MeasuredGate(Gate(edges, shares), by_example.mean(), error)
