"""Networks as pure Flax modules: parameters by `init`, values by `apply`, no state besides."""
