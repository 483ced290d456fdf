"""What densities by denoising are measured against: a law with a density and an ideal denoiser."""

from typing import Protocol, runtime_checkable

from diffusions.typing import Array, Float


@runtime_checkable
class Reference(Protocol):
    """A law in closed form: `GaussianReference`, `MixtureReference`."""

    def log_density(self, x: Float[Array, "batch ..."]) -> Float[Array, "batch"]:
        """Log density at examples, in nats."""

    def epsilon(
        self, z: Float[Array, "batch ..."], a: Float[Array, "batch"]
    ) -> Float[Array, "batch ..."]:
        """E[eps | z] on `CHANNEL` at the log SNRs a."""
