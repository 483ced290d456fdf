"""Verdicts say the right thing for both outcomes, of results whose law is known."""

import json
import math

import numpy as np
import pytest

from diffusions.linear_denoiser.model import OneStepModel
from experiments.information_theoretic.verdict import verdict as density_verdict
from experiments.linear_denoiser.verdict import (
    curves_verdict,
    learned_verdict,
    map_verdict,
    memory,
)
from experiments.reports.results import verdict as shown
from experiments.run.verdicts import Difference, Verdict, joined
from experiments.sparse_localization.measurement import SquaredErrors
from experiments.sparse_localization.verdict import errors_verdict, samples_verdict
from experiments.sparse_pixels.verdict import verdict as pixels_verdict

MODEL = OneStepModel(dimension=100, mean=10.0, std=1.0)


def test_chance_is_that_of_students_t():
    """Of many means of pure noise about one in a hundred is clear; of as many comparisons, none."""
    draws = np.random.default_rng(0).normal(size=(4000, 6))
    found = [Difference.of(row) for row in draws]
    share = np.mean([bool(d.clear()) for d in found])
    assert 0.005 < share < 0.017
    assert not any(d.clear(comparisons=40_000) for d in found)


@pytest.mark.parametrize(
    ("values", "clear", "words"),
    [
        ([-1.0, -1.1, -0.9], True, "1 +- 0.058 dB below"),
        ([1.0, -1.1, 0.3], None, "0.0667 +- 0.62 dB above"),
        ([1.0, -1.0, 0.3] * 4, False, "0.1 +- 0.25 dB above"),
        ([2.0], None, "2 dB above"),
        ([np.nan] * 20, None, "nan dB above"),
    ],
)
def test_differences_in_words(values, clear, words):
    found = Difference.of(np.array(values))
    assert found.clear() is clear
    assert found.words("dB") == words
    doubt = {True: "", False: " (within chance)", None: " (too few to tell)"}[clear]
    assert found.beside("it", "dB") == f"{words} it{doubt}"


def test_sides_of_chance():
    few, many = 4, 400
    assert [Difference(v, 0.1, many).side() for v in (-1.0, 0.1, 1.0)] == [-1, 0, 1]
    assert [Difference(v, 0.1, few).side() for v in (-1.0, 0.1, 1.0)] == [-1, None, 1]


def test_a_verdict_is_said_kept_and_led_with(capsys):
    good, bad = Verdict("as it should be", False), Verdict("collapsed", True)
    assert good.said() == {"verdict": "as it should be", "beaten": False}
    both = joined([good, bad])
    entries = json.loads(json.dumps(both.said()))
    assert capsys.readouterr().out.splitlines() == [
        "  as it should be",
        "  warning: as it should be; collapsed",
    ]
    page = shown(entries)
    assert "As it should be; collapsed." in page
    assert "notice" in page
    assert "notice" not in shown(good._asdict() | {"verdict": good.text})


def test_of_a_density():
    better, level = Difference(-0.5, 0.02, 400), Difference(0.01, 0.02, 400)
    above, exact = Difference(0.2, 0.01, 400), Difference(0.002, 0.01, 400)

    def of(gaussian, truth, *remarks):
        about = {"examples": "400 validation points", "unit": "nats", "remarks": remarks}
        return density_verdict(1.234, gaussian, truth, **about)

    assert of(better, above) == (
        "the mean negative log likelihood of 400 validation points is 1.234 nats, "
        "0.5 +- 0.02 below that of a Gaussian and 0.2 +- 0.01 above the exact one",
        False,
    )
    assert "the exact one within chance (0.002 +- 0.01 above it)" in of(better, exact).text
    beaten = of(above, above, "and the integral is cut")
    assert beaten.beaten
    assert beaten.text.startswith("no better than a Gaussian: ")
    assert beaten.text.endswith("; and the integral is cut")
    # Gaussian data: nothing is better than a Gaussian, and nothing is wrong.
    assert of(level, exact).text.startswith("the mean")
    for known in (above, None):
        as_good = of(level, known)
        assert as_good.text.startswith("no better than a Gaussian: ")
        assert "(within chance)" in as_good.text
        assert not as_good.beaten
    few = of(better._replace(n_values=2), Difference(17.5, 12.0, 2))
    assert "17.5 +- 12 above the exact one (too few to tell)" in few.text
    assert "within chance" not in few.text


NAN = float("nan")


def nothing(kind):
    """The verdict of a system on a result that is not a number."""
    none, short = Difference(NAN, NAN, 500), np.full(50, NAN)
    if kind == "density":
        return density_verdict(NAN, none, none, examples="500 points", unit="nats")
    if kind == "samples":
        return samples_verdict(np.full(500, NAN), 0.5)
    if kind == "errors":
        lost = SquaredErrors(np.full((3, 200), NAN), np.ones((3, 200), bool))
        return errors_verdict({"network": lost, "amp": errors(0.5)}, ("network",), {})
    if kind == "images":
        return pixels_verdict({"sample_mean": short, "kriging": np.ones(50)}, 8, None)
    if kind == "curves":
        return curves_verdict(rows(kl=NAN, kl_standard_error=None), MODEL, 300)
    if kind == "map":
        row = {"n": 4, "n_over_d": 1.0, "gap": NAN, "train_loss_z": None, "test_loss_z": None}
        return map_verdict([row], 300)
    return learned_verdict([{"n": 50, "generated_mean": NAN, "generated_std": NAN}], 0.5, 0.2, 300)


@pytest.mark.parametrize(
    "kind", ["density", "samples", "errors", "images", "curves", "map", "learned"]
)
def test_what_is_not_finite_is_called_so_and_beaten(kind):
    found = nothing(kind)
    assert found.beaten
    assert found.text.startswith("not finite: ")
    assert not any(word in found.text for word in ("chance", "agree", "collapse", "no better"))


def rows(kl=12.32, variance=0.56, **more):
    row = {
        "n": 1000,
        "kl": kl,
        "kl_expected": 12.32,
        "kl_standard_error": 0.01,
        "mean_variance": variance,
        "mean_variance_expected": 0.56,
        "mean_variance_standard_error": 0.001,
        "p_delta_positive_low": 0.6,
        "p_delta_positive_high": 0.8,
    }
    return [row | more]


def test_of_the_linear_denoiser():
    good = curves_verdict(rows(kl=12.33), MODEL, 300)
    assert good.text == (
        "measured KL and variance agree with their exact expectation (up to 1 standard errors in "
        f"2 numbers); KL to the truth is 12.33 at n = 1000, and {MODEL.limiting_kl:.4g} for n "
        "without end; at n = 1000 fresh points are nearer"
    )
    assert not good.beaten
    bad = curves_verdict(rows(variance=0.57), MODEL, 300)
    assert bad.beaten
    assert "contradict" in bad.text
    # A few points beyond the dimension a standard error tells nothing.
    assert not curves_verdict(rows(variance=0.57, n=103), MODEL, 300).beaten
    none = {"kl": math.inf, "kl_expected": math.inf, "kl_standard_error": None}
    none |= {"mean_variance_standard_error": None}
    alone = curves_verdict(rows(**none), MODEL, 1)
    assert not alone.beaten
    assert "infinite up to n = 1000" in alone.text
    few = curves_verdict(rows(kl=12.32 + 1.0), MODEL, 2)
    assert few.text.startswith(
        "2 repetitions are too few to contradict the exact expectation of KL and variance "
        "(up to 1e+02 standard errors"
    )
    assert not few.beaten


def test_of_memory():
    sizes = {25: (0.0, 0.1), 50: (0.1, 0.4), 100: (0.3, 0.7), 900: (0.6, 0.9)}
    table = [
        {"n": n, "p_delta_positive_low": low, "p_delta_positive_high": high}
        for n, (low, high) in sizes.items()
    ]
    assert memory(table) == (
        "at n = 25, 50 training points are nearer to what is generated than fresh ones (memorised); "
        "at n = 100 neither is nearer for certain; at n = 900 fresh points are nearer"
    )


def test_of_a_map_of_memorisation():
    def table(z):
        return [
            {"n": n, "n_over_d": n / 16, "gap": gap, "train_loss_z": z, "test_loss_z": None}
            for n, gap in ((4, 8.0), (4, 2.0), (64, 0.5), (64, 0.25))
        ]

    good = map_verdict(table(1.0), 100)
    assert not good.beaten
    assert "by 2 to 8 at n/d = 0.25 and 0.25 to 0.5 at n/d = 4, over the times" in good.text
    assert map_verdict(table(6.0), 100).beaten


def test_of_a_learned_denoiser():
    def of(mean, std):
        row = {"generated_mean": mean, "generated_std": std, "generated_mean_standard_error": 0.01}
        row |= {"n": 50, "p_delta_positive_low": 0.2, "p_delta_positive_high": 0.7}
        return learned_verdict([row], 0.5, 0.2, 10)

    assert of(0.51, 0.18) == (
        "at n = 50 generated pixels are 0.51 +- 0.18, those of the data 0.5 +- 0.2; "
        "at n = 50 neither is nearer for certain",
        False,
    )
    assert of(0.9, 0.18).beaten
    assert of(0.5, 0.01).beaten


def errors(share, seed=0, nonzero=None):
    """Of an estimator that misses this share of what is not zero."""
    nonzero = np.tile(np.arange(200) % 2 == 0, (3, 1)) if nonzero is None else nonzero
    missed = np.random.default_rng(seed).random(nonzero.shape) < share
    return SquaredErrors((nonzero & missed).astype(float), nonzero)


def test_of_sparse_denoisers():
    found = {"network": errors(0.2), "spectral": errors(0.9, 1), "amp": errors(0.6, 2)}
    crossings = {"network": 0.4, "spectral": None, "amp": 0.55}
    good = errors_verdict(found, ("network",), crossings)
    assert not good.beaten
    assert "below that of AMP, the best of 2 that learn nothing; half of the signal" in good.text
    assert good.text.endswith("t/n = 0.4 for the network and 0.55 for AMP on")
    worse = errors_verdict(found | {"network": errors(0.85, 3)}, ("network",), crossings)
    assert worse.beaten
    assert "above that of AMP" in worse.text
    collapsed = errors_verdict(found | {"network": errors(1.0)}, ("network",), {})
    assert collapsed.beaten
    assert collapsed.text.startswith("collapsed: ")
    alone = errors_verdict({"a": errors(0.2), "b": errors(0.3, 1)}, ("a", "b"), {})
    assert not alone.beaten
    level = errors_verdict(found | {"network": errors(0.6, 5)}, ("network",), crossings)
    assert "that of AMP, the best of 2 that learn nothing (within chance)" in level.text
    assert not level.beaten
    one = {name: SquaredErrors(e.errors[:, :1], e.nonzero[:, :1]) for name, e in found.items()}
    too_few = errors_verdict(one | {"network": one["amp"]}, ("network",), {})
    assert "collapsed" not in too_few.text
    assert "(too few to tell)" in too_few.text
    assert not too_few.beaten
    nothing_found = errors_verdict({"network": errors(1.0)}, ("network",), {})
    assert nothing_found.text.endswith(", and no better than the estimate zero")
    assert not nothing_found.beaten
    assert "the mean of 2 networks" in alone.text
    assert "below that of the estimate zero" in alone.text


def test_of_samples():
    norms = np.where(np.arange(500) < 240, 1.0, 0.0)
    assert samples_verdict(norms, 0.5) == (
        "240 of 500 samples have a norm above 1/2, which agrees with the 0.5 of the true law",
        False,
    )
    collapsed = samples_verdict(norms * 0.4, 0.5)
    assert collapsed.beaten
    assert collapsed.text.startswith("the sampling collapses to zero: 0 of 500")
    assert samples_verdict(np.ones(500), 0.5).text.startswith("too many: 500 of 500")
    fewer = samples_verdict(np.where(np.arange(10_000) < 4600, 1.0, 0.0), 0.5)
    assert fewer.text.startswith("too few: 4600 of 10000")
    assert fewer.beaten
    assert "too few to tell from the 0.5" in samples_verdict(np.ones(1), 0.5).text


def test_of_images():
    noise = np.random.default_rng(0).normal(scale=0.1, size=50)
    psnr = {"mean": np.full(50, 10.0), "kriging": np.full(50, 15.0) + noise}
    psnr |= {"sample_mean": np.full(50, 17.0), "regression": np.full(50, 17.5)}
    coverage = {"coverage": {"50%": 0.49, "80%": 0.6}}
    good = pixels_verdict(psnr, 8, coverage)
    assert not good.beaten
    assert good.text.startswith(
        "the mean of 8 samples has a PSNR of 17 dB on unseen pixels, 1.99 +- "
    )
    assert (
        "dB above kriging, the best that learns nothing, and 0.5 +- 0 dB below one-shot"
        in good.text
    )
    assert good.text.endswith("the draws' 80% intervals hold 60% of those pixels (too narrow)")
    calibrated = pixels_verdict(psnr, 8, {"coverage": {"80%": 0.78}}).text
    assert calibrated.endswith("(calibrated)")
    level = pixels_verdict(psnr | {"sample_mean": np.full(50, 15.0)}, 1, None)
    assert not level.beaten
    assert level.text.startswith("no better than kriging: a single sample has")
    assert "(within chance)" in level.text
    assert pixels_verdict(psnr | {"sample_mean": np.full(50, 14.0)}, 1, None).beaten
    one = {name: values[:1] for name, values in psnr.items()}
    alone = pixels_verdict(one | {"sample_mean": np.full(1, 12.0)}, 1, None)
    assert not alone.beaten
    assert alone.text.startswith("a single sample has")
    assert "dB below kriging, the best that learns nothing (too few to tell)" in alone.text
