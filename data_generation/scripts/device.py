"""What computes, in words: the device and its arithmetic, as JAX is set up."""

import resource
import sys
from pathlib import Path

import jax
import jax.numpy as jnp

from diffusions.devices import Members, Replicated, devices_in_use

NVIDIA_DEVICES = "/dev/nvidia[0-9]*"
"""Where Linux shows the cards that a process may use."""

SAME_BATCHES = (0, 7)
"""The JAX from which on `shard_map` around a scan shuffles alike on every device."""


def device_name() -> str:
    """The device that computes."""
    device = jax.devices()[0]
    return f"{device.device_kind} ({device.platform})"


def peak_memory_bytes() -> int:
    """Most memory that this process held on the host, plus the accelerator's peak where it tells."""
    # Linux counts in KiB, macOS in bytes.
    unit = 1 if sys.platform == "darwin" else 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
    if jax.default_backend() != "cpu":
        peak += (jax.local_devices()[0].memory_stats() or {}).get("peak_bytes_in_use", 0)
    return peak


def chosen_devices(devices: str) -> list[jax.Device]:
    """Those of `--devices`, in every process as many.

    Args:
        devices: auto, all that there are, or how many.

    Raises:
        ValueError: there are fewer.
    """
    own = jax.local_devices()
    number = len(own) if devices == "auto" else int(devices)
    if number > len(own):
        each = "" if jax.process_count() == 1 else "each "
        more = "; JAX_NUM_CPU_DEVICES makes several of a processor"
        raise ValueError(
            f"--devices={number}, and there {'are' if len(own) > 1 else 'is'} {len(own)} here"
            f"{f' in {each}process' if each else ''}: {device_name()}"
            + (more if own[0].platform == "cpu" else "")
        )
    of_process: dict[int, list[jax.Device]] = {}
    for device in jax.devices():
        of_process.setdefault(device.process_index, []).append(device)
    return [device for found in of_process.values() for device in found[:number]]


def division(work: str, placement: Members | Replicated) -> str | None:
    """Which work how many of the devices do, in words; None where there is one to do it.

    Args:
        work: such as "2 seeds".
        placement: of its arrays.
    """
    devices = devices_in_use()
    if len(devices) < 2:
        return None
    number, processes = placement.n_devices, len({d.process_index for d in devices})
    some = f"{number} of {len(devices)}" if number < len(devices) else f"{number}"
    said = f"{work} on {some} devices" + (f" of {processes} processes" if processes > 1 else "")
    shuffled = isinstance(placement, Members) and number > 1
    if shuffled and jax.__version_info__ < SAME_BATCHES:
        said += f"; JAX {jax.__version__} may give others than the first other random batches"
    return said


def unused_gpu() -> str | None:
    """That JAX computes on the processor although an NVIDIA card is there, and the remedy.

    Nothing where the user chose the platform (`JAX_PLATFORMS`).
    """
    if jax.default_backend() != "cpu" or jax.config.jax_platforms:  # type: ignore[attr-defined]
        return None
    pattern = Path(NVIDIA_DEVICES)
    if not any(pattern.parent.glob(pattern.name)):
        return None
    return (
        "no GPU is in use although an NVIDIA one is there: install the extra cuda12 or cuda13, "
        "whichever its driver supports, or set JAX_PLATFORMS=cpu to hear no more of it"
    )


def precision(numbers: str = "float32") -> str:
    """The arithmetic: the numbers of data and networks, and what JAX was told to do otherwise.

    Args:
        numbers: that the script holds its data and networks in.
    """
    told = [numbers]
    if jnp.result_type(float) == jnp.float64 and numbers != "float64":
        told.append("64-bit mode on")
    products = jax.config.jax_default_matmul_precision  # type: ignore[attr-defined]
    if products is not None:
        told.append(f"matrix products in {products}")
    return ", ".join(told)
