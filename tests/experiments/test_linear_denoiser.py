"""Statistics, chunks and settings of the two denoiser experiments, without running them."""

import csv
import json
import math

import numpy as np
import pytest

from diffusions.linear_denoiser.model import OneStepModel
from experiments.linear_denoiser import evaluation, learned_evaluation
from experiments.linear_denoiser.settings import (
    LearnedDenoiserSettings,
    LinearDenoiserSettings,
)
from experiments.run.folder import open_run
from experiments.run.repetitions import run_chunks
from experiments.run.tables import mean_and_error, wilson_interval, write_table


@pytest.mark.parametrize(("k", "n"), [(0, 1), (0, 300), (7, 20), (300, 300)])
def test_wilson_interval(k, n):
    """Its ends are where the observed share is z standard errors of the true one away."""
    z = 1.959963984540054
    low, high = wilson_interval(k, n)
    for end, side in ((low, 1), (high, -1)):
        wanted = side * z * np.sqrt(end * (1 - end) / n)
        assert k / n - end == pytest.approx(wanted, abs=1e-12)
    assert 0 <= low < high <= 1


def test_mean_and_error():
    mean, error = mean_and_error(np.array([1.0, 2.0, 6.0]))
    assert mean == 3.0
    assert error == pytest.approx(np.sqrt(7 / 3))
    assert mean_and_error(np.array([math.inf, 1.0])) == (math.inf, None)
    assert mean_and_error(np.array([2.0])) == (2.0, None)


def folder(tmp_path):
    return open_run(str(tmp_path), "run", "run", {}, resume=False, overwrite=False)


def test_chunks_continue_where_a_run_was_cut_off(tmp_path):
    run = folder(tmp_path)
    chunks = [{"first": k, "count": 2} for k in range(4)]

    def compute(chunk):
        if chunk["first"] == 2 and not resumed:
            raise KeyboardInterrupt
        computed.append(chunk["first"])
        return {"value": [chunk["first"] / 3, math.inf]}

    resumed, computed = False, []
    with pytest.raises(KeyboardInterrupt):
        run_chunks(run, chunks, compute, columns=["value"])
    file = run.path / "metrics.jsonl"
    with file.open("a") as stream:
        stream.write('{"epoch": 3, "fir')  # a kill in the middle of a row
    resumed = True
    rows = run_chunks(run, chunks, compute, columns=["value"])
    assert computed == [0, 1, 2, 3]
    assert [row["first"] for row in rows] == [0, 1, 2, 3]
    written = [json.loads(line) for line in file.read_text().splitlines()]
    assert [row["epoch"] for row in written] == [1, 2, 3, 4]
    values = np.array([row["value"] for row in rows], np.float64)
    np.testing.assert_array_equal(values[:, 0], np.arange(4) / 3)
    assert np.isinf(values[:, 1]).all()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"epoch": 3}, "row 2 of the run's metrics.jsonl is not of its repetitions"),
        ({"first": 7}, "row 2 of the run's metrics.jsonl is not of its repetitions"),
        ({"value": [1.0]}, "row 2 of the run's metrics.jsonl has other value"),
        ({"value": [[1.0], [2.0]]}, "row 2 of the run's metrics.jsonl has other value"),
        ({"value": {}}, "line 2: 'value' must be a number or a list of numbers"),
    ],
)
def test_rows_of_other_repetitions_are_not_taken(change, message, tmp_path):
    run = folder(tmp_path)
    chunks = [{"first": k, "count": 2} for k in range(3)]
    rows = [{"epoch": k + 1, "first": k, "count": 2, "value": [0.5, 1.5]} for k in range(2)]
    run.log([rows[0], rows[1] | change])
    with pytest.raises(ValueError, match=message):
        run_chunks(run, chunks, lambda chunk: {}, columns=["value"])


def test_more_rows_than_repetitions(tmp_path):
    run = folder(tmp_path)
    run.log([{"epoch": k + 1, "first": k, "count": 1, "value": [0.5]} for k in range(2)])
    with pytest.raises(ValueError, match="row 2 .* is not of its repetitions"):
        run_chunks(run, [{"first": 0, "count": 1}], lambda chunk: {}, columns=["value"])


def test_a_table_is_written_with_every_column(tmp_path):
    write_table(tmp_path / "table.csv", [{"n": 1, "kl": math.inf}, {"n": 2, "kl": None}])
    with (tmp_path / "table.csv").open() as stream:
        assert list(csv.DictReader(stream)) == [{"n": "1", "kl": "inf"}, {"n": "2", "kl": ""}]


def test_the_linear_summary():
    """Two chunks of unequal length, two sizes, one of them with an infinite KL."""
    names = ("train_log_pairs", "train_log_cross", "original_log_pairs", "original_log_cross")
    logs = {name: [[-1.0, -k], [-2.0, -k]] for k, name in enumerate(names)}
    rows = [
        {"kl": [["inf", 3.0], ["inf", 5.0]], "log_affinity": [["-inf", -1.0]] * 2}
        | {"mean_variance": [[0.5, 1.0], [0.7, 1.0]], "delta_sign": [[-1.0, 1.0], [-1.0, -1.0]]}
        | {"delta_log": [[0.0, math.log(2.0)], [0.0, math.log(3.0)]], **logs},
        {"kl": [["inf", 7.0]], "log_affinity": [["-inf", -1.0]], "mean_variance": [[0.6, 1.0]]}
        | {"delta_sign": [[-1.0, 1.0]], "delta_log": [[0.0, 0.0]]}
        | {name: values[:1] for name, values in logs.items()},
    ]
    small, large = evaluation.summarise(rows, OneStepModel(dimension=4), (3, 9))
    assert (small["n"], small["kl"], small["hellinger_squared"]) == (3, math.inf, 1.0)
    assert small["kl_standard_error"] is None
    assert small["mean_variance"] == pytest.approx(0.6)
    assert small["mean_variance_standard_error"] == pytest.approx(0.1 / math.sqrt(3))
    assert small["p_delta_positive"] == 0.0 < small["p_delta_positive_high"]
    assert (large["kl"], large["kl_standard_error"]) == (5.0, pytest.approx(2 / math.sqrt(3)))
    assert large["hellinger_squared"] == pytest.approx(1 - math.exp(-1))
    assert large["p_delta_positive"] == pytest.approx(2 / 3)
    assert large["delta"] == pytest.approx((2 - 3 + 1) / 3)
    # pairs - 2 cross: exp(0) - 2 exp(-1) for every repetition.
    assert large["distance_train"] == pytest.approx(1.0 - 2 * math.exp(-1))
    assert (small["kl_leading_order"], large["kl_leading_order"] > 0) == (math.inf, True)
    assert (small["kl_expected"], large["kl_expected"] > large["kl_leading_order"]) == (
        math.inf,
        True,
    )
    assert (small["hellinger_squared_expected"], large["hellinger_squared_expected"]) == (1.0, None)


def learned_rows():
    return [
        {
            "n": 5,
            "delta": [1.0, -1.0],
            "distance_train": [2.0, 2.0],
            "distance_original": [1.0, 3.0],
        }
        | {"loss": [0.1, 0.2], "generated_mean": [0.0, 0.0], "generated_std": [1.0, 1.0]},
        {"n": 5, "delta": [3.0], "distance_train": [4.0], "distance_original": [1.0]}
        | {"loss": [0.3], "generated_mean": [0.0], "generated_std": [1.0]},
    ]


def test_the_learned_summary_and_its_running_averages():
    (row,) = learned_evaluation.summarise(learned_rows(), (5,))
    assert row["delta"] == 1.0
    assert row["delta_standard_error"] == pytest.approx(2 / math.sqrt(3))
    assert row["p_delta_positive"] == pytest.approx(2 / 3)
    assert row["validation_loss"] is None
    averages = learned_evaluation.running_averages(learned_rows(), (5,))
    assert [a["repetitions"] for a in averages] == [1, 2, 3]
    assert [a["delta"] for a in averages] == [1.0, 0.0, 1.0]
    assert [a["p_delta_positive"] for a in averages] == pytest.approx([1.0, 0.5, 2 / 3])


def test_quick_mode_changes_only_what_is_not_given():
    quick = LearnedDenoiserSettings(quick=True, n_train=(7,), learning_rate=1e-3)
    assert (quick.n_train, quick.n_simulations) == ((7,), 10)
    assert (quick.epochs, quick.learning_rate) == (30, 1e-3)
    assert quick.channels == (16, 32, 64, 64)
    full = LearnedDenoiserSettings()
    assert (full.n_simulations, full.epochs, full.learning_rate) == (500, 10, 2e-4)
    assert full.n_train[:2] + full.n_train[-1:] == (50, 150, 1050)


@pytest.mark.parametrize(
    ("settings", "arguments", "message"),
    [
        (LinearDenoiserSettings, {"n_train": ()}, "n_train"),
        (LinearDenoiserSettings, {"n_train": (1, 5)}, "each of n_train must be at least 2, got 1"),
        (LinearDenoiserSettings, {"n_train": (5, 5)}, "different integers"),
        (LinearDenoiserSettings, {"time": 0.0}, r"time must lie in \(0, 40\], got 0.0"),
        (LinearDenoiserSettings, {"noise_scale": -1.0}, "noise_scale"),
        (LinearDenoiserSettings, {"times": (1.0, 1.0)}, "times must be different"),
        (LinearDenoiserSettings, {"times": (1.0,)}, "--times needs --mode=memorisation"),
        (
            LinearDenoiserSettings,
            {"mode": "memorisation", "time": 1.0},
            "--time needs --mode=curves",
        ),
        (LinearDenoiserSettings, {"precision": "float16"}, "unknown precision"),
        (LinearDenoiserSettings, {"std": math.nan}, "std must be positive"),
        (LearnedDenoiserSettings, {"n_pixels": 12}, "multiple of 8"),
        (LearnedDenoiserSettings, {"mean_list": (1.0, 2.0)}, "of one length, got 2, 1 and 0"),
        (LearnedDenoiserSettings, {"channels": (4, 8, 8)}, "four even numbers"),
        (LearnedDenoiserSettings, {"channels": (4, 6, 8, 8)}, "heads must divide"),
        (LearnedDenoiserSettings, {"beta_small": 0.1}, "beta_small <= beta_large"),
        (LearnedDenoiserSettings, {"validation_fraction": 1.0}, "validation_fraction"),
        (LearnedDenoiserSettings, {"n_simulations": -1}, "n_simulations"),
    ],
)
def test_settings_are_checked(settings, arguments, message):
    with pytest.raises(ValueError, match=message):
        settings(**arguments)
