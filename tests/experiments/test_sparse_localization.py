"""Settings, schedule, training and measures of the sparse rank-one experiment."""

import dataclasses
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from diffusions.networks import blocked_messages
from experiments.run.folder import open_run
from experiments.sparse_localization import __main__ as sparse_localization
from experiments.sparse_localization import figures, sampling
from experiments.sparse_localization.measurement import (
    SquaredErrors,
    batch_sizes,
    compare,
    half_way,
    norm_distance,
    squared_errors,
)
from experiments.sparse_localization.sampling import generate
from experiments.sparse_localization.settings import CurriculumSettings, SparseSettings
from experiments.sparse_localization.training import Curriculum

SMALL = CurriculumSettings(
    layers=2,
    depths=(1, 2),
    deepen_at=(2,),
    hidden=4,
    update_hidden=3,
    readout_hidden=2,
    epochs=(4, 2, 6),
    samples_per_epoch=16,
    train_batch_size=8,
    noise_free_every=3,
    settle_epochs=2,
    learning_rates=(3e-2, 1e-2, 7e-3),
)


def curriculum(settings=SMALL, seed=0):
    return Curriculum(8, 2, 0.5, settings.scaled(8), jax.random.key(seed))


@pytest.mark.parametrize(
    ("settings", "change", "message"),
    [
        (SparseSettings, {"mode": "trian"}, "did you mean train"),
        (SparseSettings, {"n": 5, "k": 6}, "k must be at most n = 5"),
        (SparseSettings, {"zero_probability": 1.0}, "zero_probability"),
        (SparseSettings, {"times": (1.0, -2.0)}, "each of times"),
        (SparseSettings, {"mode": "train", "checkpoint": ("a",)}, "makes a checkpoint"),
        (
            SparseSettings,
            {"mode": "evaluate", "run_name": "a", "resume": True},
            "--resume continues --mode=train and --mode=generate",
        ),
        (CurriculumSettings, {"epochs": (1, 2)}, "epochs must have at least 3 entries"),
        (CurriculumSettings, {"samples_per_epoch": 30}, "multiple of train_batch_size"),
        (CurriculumSettings, {"layers": 9}, "must be --layers=9"),
        (CurriculumSettings, {"depths": (7, 10)}, "one number more"),
        (CurriculumSettings, {"deepen_at": (150, 600)}, "within the 600 epochs"),
        (CurriculumSettings, {"settle_epochs": 300}, "settle_epochs"),
        (CurriculumSettings, {"noise_free_every": 1}, "noise_free_every 1"),
    ],
)
def test_bad_settings_are_named(settings, change, message):
    with pytest.raises(ValueError, match=message):
        settings(**change)


def test_times_are_in_proportion_to_n_unless_given():
    published = CurriculumSettings().scaled(350)
    assert (published.time_step, published.largest_time) == (0.5, 700.0)
    assert published.heavy_from == (400.0, 325.0, 205.0)
    half = CurriculumSettings(time_step=1.0).scaled(175)
    assert (half.time_step, half.largest_time, half.heavy_from[2]) == (1.0, 350.0, 102.5)
    with pytest.raises(ValueError, match="heavy_from"):
        CurriculumSettings(heavy_from=(800.0, 300.0, 200.0)).scaled(350)


def test_the_published_schedule():
    schedule = Curriculum(
        350, 20, 0.5, CurriculumSettings().scaled(350), jax.random.key(0)
    ).schedule
    assert np.bincount(schedule.stage).tolist() == [600, 300, 300]
    assert np.flatnonzero(schedule.begins).tolist() == [600, 900]
    assert [int((schedule.depth == d).sum()) for d in (7, 9, 10)] == [150, 100, 950]
    noise_free = np.flatnonzero(schedule.noise_free)
    assert len(noise_free) == 50
    assert noise_free.min() == 905
    candidates = np.flatnonzero(schedule.candidate)
    assert candidates.min() == 250
    assert not set(candidates) & set(noise_free)
    assert not set(candidates) & set(range(900, 912))


def test_training_times_have_the_weights_of_the_stage():
    training = Curriculum(350, 20, 0.5, CurriculumSettings().scaled(350), jax.random.key(0))
    here = jax.tree.map(lambda column: jnp.asarray(column)[950], training.schedule)
    t = np.asarray(training._times(jax.random.key(1), 20_000, here))
    assert stats.binomtest(int((t > 205).sum()), t.size, 0.95).pvalue > 1e-4
    assert t.min() >= 0.5
    assert t.max() <= 700
    np.testing.assert_array_equal(np.mod(t, 0.5), 0)
    late = t[t > 205]
    assert stats.kstest((late - 205) / 495, "uniform").pvalue > 1e-4
    free = jax.tree.map(lambda column: jnp.asarray(column)[905], training.schedule)
    assert (training._times(jax.random.key(1), 5, free) == 10_000).all()


@pytest.fixture(scope="module", autouse=True)
def small_blocks():
    """The same sums in blocks that compile in a fraction of the time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(blocked_messages, "_BLOCK", 2)
        yield


@pytest.fixture(scope="module")
def trained():
    """All epochs of the small curriculum, one at a time, with the state after each."""
    training = curriculum()
    step = jax.jit(training.train, static_argnames="n_epochs")
    states, rows = [training.initial()], []
    for _ in range(12):
        state, row = step(states[-1], n_epochs=1)
        states.append(state)
        rows.append({name: np.asarray(value)[0] for name, value in row.items()})
    return step, states, rows


def equal(a, b):
    return all(
        np.array_equal(x, y) for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    )


@pytest.mark.slow
def test_chunks_of_epochs_change_no_bit(trained):
    step, states, _ = trained
    middle, _ = step(states[0], n_epochs=6)
    assert equal(middle, states[6])
    assert equal(step(middle, n_epochs=6)[0], states[12])


def test_layers_that_are_not_in_use_stay_as_they_were(trained):
    _, states, rows = trained
    assert [row["depth"] for row in rows[:4]] == [1, 1, 2, 2]
    kernels = [np.asarray(s.params["params"]["message"]["kernel"]) for s in states[:5]]
    np.testing.assert_array_equal(kernels[0][1], kernels[2][1])
    assert (kernels[0][0] != kernels[2][0]).any()
    assert (kernels[2][1] != kernels[3][1]).any()


def test_the_best_epoch_is_kept_and_starts_the_next_stage(trained):
    _, states, rows = trained
    losses = [row["loss"] for row in rows]
    for stage, candidates in ((1, [2, 3]), (2, [4, 5]), (3, [8 + i for i in (0, 1, 2, 3)])):
        candidates = [e for e in candidates if not rows[e]["noise_free"]]
        best = min(candidates, key=lambda e: losses[e])
        last = max(e for e, row in enumerate(rows) if row["stage"] == stage)
        assert equal(states[last + 1].best, states[best + 1].params)
        assert states[last + 1].best_loss == losses[best]
    assert [e for e, row in enumerate(rows) if row["noise_free"]] == [8, 11]


def test_a_stage_begins_with_the_best_and_a_new_optimizer(trained):
    step, states, _ = trained
    # Whatever the parameters and moments are when stage 1 ends, only its best counts.
    spoilt = dataclasses.replace(
        states[4],
        params=jax.tree.map(lambda x: x + 1, states[4].params),
        optimizer_state=jax.tree.map(lambda x: x + 1, states[4].optimizer_state),
    )
    assert equal(step(spoilt, n_epochs=1)[0], states[5])


@pytest.mark.slow
def test_kept_data_repeat_and_fresh_data_do_not():
    def noise_free_losses(fresh):
        settings = dataclasses.replace(
            SMALL, fresh_data=fresh, learning_rates=(1e-30,) * 3, samples_per_epoch=32,
            train_batch_size=16, noise_free_every=2, weight_decay=0.0,
        )  # fmt: skip
        training = curriculum(settings)
        state = training.initial()
        zeros = jax.tree.map(jnp.zeros_like, state.params)
        _, rows = jax.jit(training.train, static_argnames="n_epochs")(
            dataclasses.replace(state, params=zeros, best=zeros), n_epochs=12
        )
        return np.asarray(rows["loss"])[7::2]

    # Weights of zero that stand still take every start to the estimate zero: only the vectors differ.
    assert np.ptp(noise_free_losses(False)) < 0.2 * np.ptp(noise_free_losses(True))


def zero(keys, edges, t):
    return jnp.zeros(edges.shape[:2])


def leading_vector(keys, edges, t):
    return edges[:, 0] / jnp.linalg.norm(edges[:, 0], axis=1, keepdims=True)


def measured(batch_size, **options):
    return squared_errors(
        jax.random.key(0), {"zero": zero, "row": leading_vector}, (5.0, 50.0),
        n=6, k=2, zero_probability=0.5, n_samples=37, batch_size=batch_size, **options,
    )  # fmt: skip


def test_errors_do_not_depend_on_the_batches():
    whole, parts = measured(37), measured(8)
    for name in whole:
        np.testing.assert_allclose(whole[name].errors, parts[name].errors, rtol=1e-4, atol=1e-5)
        np.testing.assert_array_equal(whole[name].nonzero, parts[name].nonzero)
    # The estimate zero is wrong by 1 where x is not zero.
    np.testing.assert_allclose(whole["zero"].errors, whole["zero"].nonzero, rtol=1e-5)
    assert (whole["zero"].nonzero[0] != whole["zero"].nonzero[1]).any()


def test_means_and_standard_errors():
    errors = SquaredErrors(
        np.array([[0.0, 0.2, 1.0, 0.6, 0.8]]), np.array([[False, False, True, True, True]])
    )
    np.testing.assert_allclose(errors.mean, 0.52)
    np.testing.assert_allclose(
        errors.standard_error, np.std([0, 0.2, 1, 0.6, 0.8], ddof=1) / 5**0.5
    )
    (low, low_error), (high, high_error) = errors.given(False), errors.given(True)
    np.testing.assert_allclose([low[0], high[0]], [0.1, 0.8])
    np.testing.assert_allclose(
        [low_error[0], high_error[0]], [0.1, np.std([1, 0.6, 0.8], ddof=1) / 3**0.5]
    )
    mean, error = errors.at_share(0.25)
    np.testing.assert_allclose(mean, 0.275)
    np.testing.assert_allclose(error, np.hypot(0.075, 0.25 * high_error[0]))


SHARE, PUBLISHED_COUNT, OWN_COUNT = 0.494, 15_000, 400


def simulated(rng, rate, repetitions, size, share=0.5):
    """Errors of 0 and 1, the latter with this probability, and only where x is not zero."""
    nonzero = rng.random((repetitions, size)) < share
    missed = nonzero & (rng.random((repetitions, size)) < rate / share)
    return SquaredErrors(missed.astype(float), nonzero)


@pytest.mark.parametrize("rate", [0.494, 0.3, 0.03, 0.0015])
def test_z_scores_are_standard_normal_under_the_same_law(rate):
    """From early times, where all is missed, to late ones, where most samples have not one miss."""
    rng = np.random.default_rng(0)
    repetitions = 2000
    times = tuple(range(1, repetitions + 1))
    published = rng.binomial(PUBLISHED_COUNT, rate, repetitions) / PUBLISHED_COUNT
    reference = {0: SHARE, **dict(zip(times, published.tolist(), strict=True))}
    ours = simulated(rng, rate, repetitions, OWN_COUNT)
    found = compare(ours, times, reference, PUBLISHED_COUNT)
    z = np.array(list(found["z"].values()))
    assert z.shape == (repetitions,)
    assert abs(z.mean()) < 4 / np.sqrt(repetitions)
    assert z.std() == pytest.approx(1.0, abs=0.06)
    # A proportion of few misses is a Poisson number: its tail is that of half a miss.
    rare = rate * OWN_COUNT < 5
    assert (np.abs(z) < 1.96).mean() == pytest.approx(0.95, abs=0.035 if rare else 0.015)
    assert np.abs(z).max() < (7 if rare else 4.5)
    if rare:
        assert (ours.mean == 0).mean() > 0.5  # where our own standard error is zero
    else:
        assert stats.kstest(z + rng.normal(0, 0.02, repetitions), "norm").pvalue > 1e-3


@pytest.mark.parametrize("rate", [0.3, 0.03, 0.0015])
def test_z_scores_at_the_published_share_are_standard_normal(rate):
    """The published samples have this very share of non-zero ones, ours another."""
    rng = np.random.default_rng(1)
    repetitions = 2000
    times = tuple(range(1, repetitions + 1))
    nonzero = round(SHARE * PUBLISHED_COUNT)
    missed = rng.binomial(nonzero, rate / SHARE, repetitions)
    reference = {0: SHARE, **dict(zip(times, (missed / PUBLISHED_COUNT).tolist(), strict=True))}
    ours = simulated(rng, rate * 0.5 / SHARE, repetitions, OWN_COUNT)
    z = np.array(list(compare(ours, times, reference, PUBLISHED_COUNT)["z_at_share"].values()))
    assert z.std() == pytest.approx(1.0, abs=0.06)
    assert abs(z.mean()) < 4 / np.sqrt(repetitions)
    # Where every estimate is zero the share is all there is, and it agrees.
    blind = SquaredErrors(ours.nonzero[:2].astype(float), ours.nonzero[:2])
    exact = compare(blind, (1, 2), {1: SHARE, 2: SHARE + 0.0006}, PUBLISHED_COUNT)["z_at_share"]
    assert exact["1"] == pytest.approx(0.0, abs=1e-6)
    assert abs(exact["2"]) < 1


def test_z_scores_of_errors_that_are_neither_are_not_too_large():
    """Errors between 0 and 1 spread less than misses of the same mean."""
    rng = np.random.default_rng(2)
    times = tuple(range(1, 501))

    def drawn(size):
        return SquaredErrors(rng.beta(0.3, 1.2, (500, size)), np.ones((500, size), bool))

    reference = {0: SHARE, **dict(zip(times, drawn(1000).mean.tolist(), strict=True))}
    z = np.array(list(compare(drawn(400), times, reference, 1000)["z"].values()))
    assert 0.5 < z.std() < 1.0


def test_references_are_mean_squared_errors(tmp_path, capsys):
    file = tmp_path / "numbers.txt"
    for values in (["nan"] + ["0.1"] * 69, ["0"] * 70, ["0.5", "-0.1"] + ["0.1"] * 68):
        file.write_text("\n".join(values))
        arguments = ["--mode=evaluate", f"--reference={file}", f"--runs-dir={tmp_path}"]
        assert sparse_localization.run(arguments) == 2
        assert "mean squared errors" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("norms", "p", "expected"),
    [
        ([0, 0, 1, 1], 0.5, 0.0),
        ([0, 0, 0, 0], 0.5, 0.5),
        ([0.25, 0.75], 0.5, 0.25),
        ([0, 1, 1], 0.5, 1 / 6),
        ([0.006] * 500, 0.5, 0.5),
    ],
)
def test_the_distance_of_norms(norms, p, expected):
    norms = np.asarray(norms, float)
    assert norm_distance(norms, p) == pytest.approx(expected)
    # The area between the distribution functions; that of the law is p between its atoms.
    middle = (np.arange(100_000) + 0.5) / 100_000
    area = np.mean(abs(np.mean(norms[:, None] <= middle, axis=0) - p))
    assert norm_distance(norms, p) == pytest.approx(area, abs=1e-4)


def test_batches_are_even_and_fit():
    assert batch_sizes(10, 350, 4) == (3, 4)
    assert batch_sizes(9, 350, 4) == (3, 3)
    n_batches, size = batch_sizes(15_000, 350)
    assert n_batches * size >= 15_000 > (n_batches - 1) * size
    assert batch_sizes(5, 10**6) == (5, 1)


def sharp(keys, edges, t):
    return 0.3 * leading_vector(keys, edges + jnp.eye(6), t)


def generated(batch_size=2, run=None, seed=0):
    times = np.linspace(0, 12, 13, dtype=np.float32)
    return generate(
        jax.random.key(seed), sharp, times, n=6, n_samples=5, batch_size=batch_size, run=run
    )


def test_generation_does_not_depend_on_batches_or_cuts(monkeypatch):
    whole = generated(5)
    np.testing.assert_allclose(whole, generated(2), atol=1e-4)
    monkeypatch.setattr(sampling, "PIECES", 5)  # of three steps, the last piece of one
    np.testing.assert_allclose(whole, generated(5), atol=1e-6)
    assert np.ptp(whole, axis=0).max() > 0.01


def test_generation_says_beforehand_what_it_takes(capsys, monkeypatch):
    advance = sampling._Sampler.advance

    def first(self, *arguments):
        assert "3 x 2 samples at once (--batch-size), 12 steps each" in capsys.readouterr().out
        monkeypatch.undo()
        return advance(self, *arguments)

    monkeypatch.setattr(sampling._Sampler, "advance", first)
    generated(2)
    generated(2)
    said = capsys.readouterr().out
    assert "GB for arrays" in said
    assert "by the clock" in said


@pytest.mark.parametrize("states", [1, 4, 11, 15])
def test_an_interrupted_generation_ends_with_the_same_bits(states, tmp_path, monkeypatch):
    """In the first, second and third batch of three, with pieces of three steps."""
    monkeypatch.setattr(sampling, "PIECES", 5)
    monkeypatch.setattr(sampling, "SECONDS_BETWEEN_STATES", 0.0)
    whole = generated()
    run = open_run(str(tmp_path), "run", "run", {}, resume=False, overwrite=False)
    save, saved = sampling.save_state, []

    def killed(folder, step, state):
        save(folder, step, state)
        saved.append(step)
        if len(saved) == states:
            raise KeyboardInterrupt

    monkeypatch.setattr(sampling, "save_state", killed)
    if states < 12:
        with pytest.raises(KeyboardInterrupt):
            generated(run=run)
    else:
        generated(run=run)
    assert saved[-1] == min(states, 12)
    advanced, advance = [], sampling._Sampler.advance

    def counted(self, batch, piece, y):
        advanced.append((batch, piece))
        return advance(self, batch, piece, y)

    monkeypatch.setattr(sampling._Sampler, "advance", counted)
    # More memory is free by now: the batches stay those of the run.
    np.testing.assert_array_equal(generated(5, run=run), whole)
    assert len(advanced) == 12 - saved[states - 1] if states < 12 else not advanced


def test_a_state_of_other_samples_is_refused(tmp_path):
    run = open_run(str(tmp_path), "run", "run", {}, resume=False, overwrite=False)
    run.log([{"epoch": 0, "batch_size": 2}])
    sampling.save_state(run.checkpoints, 3, {"y": np.zeros((2, 5, 5), np.float32)})
    with pytest.raises(ValueError, match="cannot restore the state"):
        generated(run=run)


def test_where_half_of_the_error_is_left():
    def errors(*of_nonzero):
        values = np.array([[0.0, 0.0, value, value] for value in of_nonzero])
        return SquaredErrors(values, np.tile([False, False, True, True], (len(values), 1)))

    assert half_way(errors(1.0, 0.75, 0.25, 0.0), (5.0, 10.0, 20.0, 30.0), 10, 0.5) == 1.5
    # Times in any order; the prior's share counts, not that of the draws.
    assert half_way(errors(0.25, 1.0, 0.75), (20.0, 5.0, 10.0), 10, 0.9) == pytest.approx(1.5)
    assert half_way(errors(1.0, 0.9), (5.0, 10.0), 10, 0.5) is None
    assert half_way(errors(0.3, 0.2), (5.0, 10.0), 10, 0.5) is None
    # The second time has drawn no zero matrix, so that its mean is not known.
    found = errors(0.75, 0.6, 0.25)
    found.nonzero[1] = True
    assert half_way(found, (10.0, 15.0, 20.0), 10, 0.5) == 1.5


def test_settings_load_no_jax():
    program = (
        "import sys, experiments.sparse_localization\n"
        "print(*sorted({'jax', 'flax', 'optax', 'matplotlib'} & set(sys.modules)))"
    )
    root = Path(__file__).parents[2]
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=root, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == ""


def test_where_no_sample_errs_the_logarithmic_figure_has_a_mark_and_no_fall(tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr(figures, "save_figure", lambda figure, file: drawn.append(figure))
    errors = np.array([[0.5, 0.4], [0.1, 0.0], [0.0, 0.0]])
    found = {"spectral": SquaredErrors(errors, errors > 0)}
    figures.plot_errors(tmp_path / "e.png", (10.0, 20.0, 30.0), 20, found, {}, {})
    linear, logarithmic = drawn[0].axes
    np.testing.assert_allclose(linear.lines[0].get_ydata(), [0.45, 0.05, 0.0])
    np.testing.assert_allclose(logarithmic.lines[0].get_ydata(), [0.45, 0.05, np.nan])
    np.testing.assert_allclose(logarithmic.lines[1].get_xdata(), [1.5])
    assert logarithmic.lines[1].get_marker() == "v"


@pytest.mark.parametrize("last", [0.0, 0.2])
def test_the_errors_find_room_on_their_page(last, tmp_path, no_warning):
    """Matplotlib warns where none is left for the axes: with or without an error that is zero."""
    errors = np.array([[0.5, 0.4], [0.1, 0.2], [last, last]])
    found = {"amp": SquaredErrors(errors, errors > 0)}
    with no_warning():
        figures.plot_errors(tmp_path / "e.png", (10.0, 20.0, 30.0), 20, found, {}, {20.0: 0.1})
    assert (tmp_path / "e.png").stat().st_size > 5000
