"""A Gaussian mixture that densities by denoising are measured against, fitted to data.

Like that of a Gaussian, its ideal denoiser is closed (`diffusions.density.exact`), so that equation (3)
of `diffusions.density.likelihood` holds with a reference that has most of the data's law in it already:

    -log p(x) = -log p_ref(x) + 1/2 int E_eps [|eps - eps_hat|^2 - |eps - eps_ref|^2] da.          (1)
"""

import flax.struct

from diffusions.arguments import checked
from diffusions.density.exact import GaussianMixture
from diffusions.density.log_snr import CHANNEL
from diffusions.short_repr import short_repr
from diffusions.typing import Array, Float


@flax.struct.dataclass
class MixtureReference:
    """A Gaussian mixture, as a `Reference`."""

    mixture: GaussianMixture

    __repr__ = short_repr

    @checked
    def log_density(self, x: Float[Array, "batch ..."]) -> Float[Array, "batch"]:
        """Log density, in nats."""
        return self.mixture.log_density(x.reshape(x.shape[0], -1))

    @checked
    def epsilon(
        self, z: Float[Array, "batch ..."], a: Float[Array, "batch"]
    ) -> Float[Array, "batch ..."]:
        """The ideal denoiser of the mixture, equation (2) of `diffusions.density.exact`."""
        return self.mixture.denoiser(CHANNEL)(z.reshape(z.shape[0], -1), a).reshape(z.shape)
