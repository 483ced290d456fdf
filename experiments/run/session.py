"""Both ends of every script: what is refused before any work, and the summary, tracked if asked for."""

from typing import Any

from data_generation.scripts.command_line import say
from diffusions.late_imports import import_extra
from experiments.run.folder import RunFolder, check_run, peak_memory_bytes
from experiments.run.settings import FolderSettings


def check_settings(settings: FolderSettings) -> None:
    """Refuses what could not be finished, before any work is done.

    Raises:
        ValueError: as `check_run`.
        ImportError: Weights & Biases is asked for and not installed.
    """
    if settings.wandb:
        import_extra("wandb", "--wandb")
    check_run(
        settings.runs_dir, settings.run_name, resume=settings.resume, overwrite=settings.overwrite
    )


def conclude(
    run: RunFolder, settings: FolderSettings, results: dict[str, Any], seconds: dict[str, float]
) -> dict[str, Any]:
    """Writes `summary.json`, which ends the run, and says how long it took.

    Args:
        run: the folder.
        settings: of the folder.
        results: of the script.
        seconds: by activity, with a total.

    Returns:
        The summary: the results, `seconds`, `device` and `peak_memory_bytes`.
    """
    from data_generation.scripts.device import device_name  # only now: it needs JAX

    summary = {
        **results,
        "seconds": seconds,
        "device": device_name(),
        "peak_memory_bytes": peak_memory_bytes(),
    }
    run.finish(summary)
    if settings.wandb:
        _log_to_wandb(run, summary)
    say(
        "  seconds: "
        + ", ".join(f"{name} {value:.1f}" for name, value in seconds.items())
        + f"; peak memory {summary['peak_memory_bytes'] / 2**20:.0f} MiB"
    )
    say(f"  {run.path}")
    return summary


def _log_to_wandb(run: RunFolder, summary: dict[str, Any]) -> None:
    config = run.config()["settings"]
    with import_extra("wandb", "--wandb").init(
        project="jkonet-diffusions", name=run.path.name, config=config
    ) as tracked:
        for row in run.rows():
            tracked.log({k: v for k, v in row.items() if k != "epoch"}, step=row["epoch"])
        tracked.summary.update(summary)
