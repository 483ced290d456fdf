"""A finished run of `experiments.train`, opened by the scripts that go on with it."""

from checkpoints import load_energy
from experiments.run.folder import RunFolder
from experiments.run.place import check_energy
from experiments.run.records import Trained
from jkonet_star.fitted import FittedEnergy


def finished_run(path: str) -> tuple[RunFolder, Trained, FittedEnergy]:
    """The folder, what it was trained with, and its energies, a stack.

    Raises:
        ValueError: the run is unfinished or damaged, or of another script.
    """
    run = RunFolder.existing(path)
    trained = run.trained()
    check_energy(run.path)
    return run, trained, load_energy(run.energy)
