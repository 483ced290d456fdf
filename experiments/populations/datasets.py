"""Datasets for the scripts: by name, by path, or the demonstration's."""

import dataclasses

import numpy as np

from data_generation.populations.datasets import Dataset, generate_dataset, load_dataset
from data_generation.populations.functionals import functional
from data_generation.populations.settings import DataSettings
from data_generation.scripts.command_line import say
from data_generation.scripts.processes import first_before_others
from jkonet_star.evaluation import MOST_PREDICTED, KnownEnergy
from jkonet_star.snapshots import Snapshots, fewer_particles
from jkonet_star.yardsticks import Yardsticks, measure_yardsticks


def open_dataset(name_or_path: str | None, data_dir: str) -> Dataset:
    """The named dataset; without a name the demonstration's, generated where it is missing."""
    if name_or_path is not None:
        return load_dataset(name_or_path, data_dir)
    settings = DataSettings(potential="styblinski_tang", data_dir=data_dir)
    say(f"data: {settings.data_dir}/{settings.name}")
    with first_before_others():
        return generate_dataset(settings)


def with_judging_test(dataset: Dataset) -> Dataset:
    """The dataset with no more of its test population than `population` gives.

    Of a large one the rest would lie in memory, beside what is learned from, for nothing.
    """
    return dataclasses.replace(dataset, test=population(dataset, "test_data"))


def known_energy(dataset: Dataset) -> KnownEnergy | None:
    """What the data were simulated with, where that is known."""
    truth = dataset.truth
    if truth is None:
        return None
    return KnownEnergy(
        potential=functional(truth["potential"]),
        interaction=functional(truth["interaction"]),
        beta=float(truth["beta"]),
    )


def population(dataset: Dataset, which: str) -> Snapshots:
    """The held-out or the training population.

    Of a large held-out one `MOST_PREDICTED` particles; of particles that are trained on all, for
    yardsticks know them by their whole population.
    """
    train, test = dataset.train, dataset.test
    if which != "test_data":
        return train
    if train.points.shape == test.points.shape and all(
        np.array_equal(own, held_out)
        for own, held_out in zip(np.asarray(train.points), np.asarray(test.points), strict=True)
    ):
        return test
    return fewer_particles(test, MOST_PREDICTED)


def yardsticks(dataset: Dataset, which: str, order: int, *, learned: bool = True) -> Yardsticks:
    """What predictions of the held-out or the training population are judged by.

    Args:
        dataset: of the population.
        which: test_data or train_data.
        order: of the Wasserstein distance.
        learned: whether the energies were learned from this dataset; else only `no_motion` is there.
    """
    return measure_yardsticks(
        population(dataset, which),
        learned_from=dataset.train if learned else None,
        couplings=dataset.couplings if learned else None,
        order=order,
    )
