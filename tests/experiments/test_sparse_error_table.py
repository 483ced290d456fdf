"""The table of squared errors: what its numbers say, and that lines stay short."""

import numpy as np
import pytest

from experiments.sparse_localization.error_table import error_lines, value_and_error
from experiments.sparse_localization.measurement import SquaredErrors

TIMES = (20.0, 1400.0)


def errors(means, n_samples=4):
    """Errors of these means, half of them off by one tenth to either side."""
    signs = np.where(np.arange(n_samples) % 2, 0.1, -0.1)
    nonzero = np.broadcast_to(np.arange(n_samples) < 1, (len(means), n_samples))
    return SquaredErrors(np.asarray(means)[:, None] * (1 + signs), nonzero)


@pytest.mark.parametrize(
    ("value", "error", "said"),
    [
        (0.4602, 0.0253, "0.460(25)"),
        (0.0121, 0.000123, "0.01210(12)"),
        (0.5, 0.0, "0.50000"),
        (0.5, float("nan"), "0.50000"),
        (1.25, 0.31, "1.25(31)"),
        (12.0, 34.0, "12(34)"),
        (1e-7, 2e-7, "0.00000(0)"),
    ],
)
def test_a_value_and_its_error(value, error, said):
    assert value_and_error(value, error) == said


def test_a_table():
    found = {"network": errors([0.5, 0.01]), "power_iteration": errors([0.6, 0.02])}
    lines = error_lines(TIMES, 350, found, np.array([0.5, 0.001]), {20.0: -1.25})
    assert [line.split() for line in lines] == [
        ["power", "state"],
        ["t", "t", "/", "n", "zero", "network", "iteration", "evolution", "z"],
        ["20", "0.057", "0.250", "0.500(29)", "0.600(35)", "0.50000", "-1.25"],
        ["1400", "4.000", "0.250", "0.01000(58)", "0.0200(12)", "0.00100"],
    ]
    heading, first = lines[1], lines[2]  # right-aligned alike
    assert heading.index("network") + len("network") == first.index("0.500(29)") + len("0.500(29)")


def test_many_denoisers_of_long_names_fit_into_lines_of_100():
    names = [f"a_folder_with_a_long_name_{i}/checkpoint" for i in range(9)]
    found = {name: errors([0.1 * (i + 1), 0.01]) for i, name in enumerate(names)}
    lines = error_lines(TIMES, 64, found, np.zeros(2), dict.fromkeys(TIMES, 100.0))
    assert max(map(len, lines)) <= 100
    rows = [line.split() for line in lines if line.split()[0] == "20"]
    shown = [cell for row in rows for cell in row[3:-2]]
    assert [cell.split("(")[0][:3] for cell in shown] == [f"{0.1 * (i + 1):.1f}" for i in range(9)]
