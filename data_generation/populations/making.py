"""Makes a dataset, or finds it, and says what it is."""

import time

from data_generation.populations.datasets import find_dataset, generate_dataset
from data_generation.populations.settings import DataSettings
from data_generation.scripts.command_line import say
from data_generation.scripts.device import device_name, precision, unused_gpu

# Growth of the largest distance from the origin that is told of: most often the steps are too long for
# the potential, though over many steps a repulsive one may mean it.
THROWN_OUT = 100.0


def make(settings: DataSettings, start: float) -> None:
    """The dataset of the settings; `start` is when the script began."""
    dataset = find_dataset(settings)
    if dataset is not None:
        say(f"{dataset.path} already holds this dataset; --overwrite makes it anew")
        return
    source = settings.load_from_file or (
        f"{settings.n_particles} particles in dimension {settings.dimension}, potential "
        f"{settings.potential}, interaction {settings.interaction}, beta {settings.beta}"
    )
    say(f"{settings.data_dir}/{settings.name}")
    say(f"  {source}; {device_name()}, {precision()}")
    if (remark := unused_gpu()) is not None:
        say(f"  {remark}")
    dataset = generate_dataset(settings)
    counts = dataset.metadata["counts"]
    for part in ("train", "test"):
        low, high = min(counts[part]), max(counts[part])
        size = f"{low}" if low == high else f"{low} to {high}"
        times, unit = dataset.metadata["times"][part], dataset.metadata["time_unit"]
        say(
            f"  {part}: {len(times)} snapshots of {size} particles, "
            f"t = {times[0]:g} to {times[-1]:g}{f' {unit}s' if unit else ''}"
        )
    say(f"  test population: {dataset.metadata['split']['test']}")
    for report in dataset.metadata["couplings"]:
        convergence = "" if report["converged"] else ", NOT CONVERGED"
        if report["method"] == "semidiscrete":
            convergence = f", {report['marginal_error'] / 2:.2g} of the mass moved{convergence}"
        say(
            f"  step {report['step']}: {report['method']}, {report['n_pairs']} pairs, mean squared "
            f"displacement {report['cost']:.4g}, dropped mass {report['dropped_mass']:.2g}"
            f"{convergence}"
        )
    if settings.load_from_file is None:
        first, *later = (float(abs(points).max()) for points in dataset.train.arrays())
        if max(later) > THROWN_OUT * first:
            say(
                f"  warning: particles that start within {first:.3g} are thrown out to "
                f"{max(later):.3g}; take a smaller --dt or more --substeps"
            )
    say(f"  written in {time.perf_counter() - start:.1f} s")
