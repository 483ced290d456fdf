"""The information-theoretic script by its defaults, at full size, beside the exact density."""

import json

import pytest

from experiments.information_theoretic import __main__ as information_theoretic

NEAR = 0.10
"""Nats; the Gaussian alone is five away, a network that corrects it half a one."""


@pytest.mark.slow
def test_the_datasaurus_is_within_a_tenth_of_a_nat_of_its_exact_density(place):
    flags = ["--dataset=dino", "--noplots", "--run-name=dino", f"--runs-dir={place.runs}"]
    assert information_theoretic.run(flags) == 0
    found = json.loads((place.runs / "dino" / "summary.json").read_text())
    assert abs(found["nll"] - found["nll_true"]) < NEAR
    assert found["nll_gaussian"] - found["nll_true"] > 4
    assert max(found["nats_outside"].values()) < NEAR
