"""What the scripts' settings accept, and what they say of the rest."""

import pytest

from experiments.populations.settings import EvaluateSettings, TrainSettings


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"solver": "jkonet-star-potentail"}, "unknown solver .*; did you mean jkonet-star-potent"),
        ({"solver": "xyzzy"}, r"unknown solver 'xyzzy' \(accepted: jkonet-star, jkonet-star-pot"),
        ({"scheme": "implict"}, "unknown scheme 'implict'; did you mean implicit"),
        ({"eval": "test"}, "unknown eval 'test'; did you mean test_data"),
        ({"eval_every": 0}, "eval_every must be at least 1, got 0"),
        ({"wasserstein_order": 3}, "wasserstein_order must be at most 2, got 3"),
        ({"seeds": ()}, r"seeds must have at least 1 entry, got \(\)"),
        ({"seeds": (1, 1)}, r"seeds must be different, got \(1, 1\)"),
        ({"seeds": (0, -1)}, "each of seeds must be at least 0, got -1"),
        ({"seeds": (2**32,)}, "each of seeds must be at most 4294967295, got 4294967296"),
        ({"resume": True}, "resume needs run_name"),
        ({"resume": True, "run_name": "a", "overwrite": True}, "give one of them"),
        ({"run_name": ""}, "run_name must name one folder, got ''"),
        ({"run_name": "../elsewhere"}, "run_name must name one folder"),
        ({"run_name": "a/b"}, "run_name must name one folder"),
        ({"run_name": "a\\b"}, "run_name must name one folder"),
        ({"run_name": ".hidden"}, "run_name must name one folder"),
        ({"run_name": ".."}, "run_name must name one folder"),
    ],
)
def test_bad_training_settings(changes, message):
    with pytest.raises(ValueError, match=message):
        TrainSettings(**changes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({}, "--run is required"),
        ({"run": ""}, "--run is required"),
        ({"run": "r", "eval": "train"}, "unknown eval 'train'; did you mean train_data"),
        ({"run": "r", "wasserstein_order": 0}, "wasserstein_order must be at least 1, got 0"),
    ],
)
def test_bad_evaluation_settings(changes, message):
    with pytest.raises(ValueError, match=message):
        EvaluateSettings(**changes)


def test_good_settings():
    settings = TrainSettings(seeds=(0, 2**32 - 1), run_name="a.b-c_d", resume=True)
    assert settings.seeds == (0, 4294967295)
    assert EvaluateSettings(run="runs/demo").eval == "test_data"
