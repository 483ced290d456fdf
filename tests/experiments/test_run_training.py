"""The driver of all trainings in a folder: cut, logged, ended and continued."""

import json

import jax.numpy as jnp
import numpy as np
import pytest

from checkpoints import latest_step
from experiments.run.folder import RunFolder
from experiments.run.training import chunk_lengths, part_lengths, train_in_chunks, usual_chunk


def program(state, n_epochs):
    """x doubles every epoch; the scalars have a leading axis, as those of several seeds."""

    def advance(state):
        values = [state["x"] * 2.0**e for e in range(1, n_epochs + 1)]
        return {"x": values[-1]}, {"loss": jnp.stack(values, axis=-1)}

    return advance


def start():
    return {"x": jnp.asarray([1.0, -1.0])}


def rows(run):
    return [json.loads(line) for line in (run.path / "metrics.jsonl").read_text().splitlines()]


@pytest.fixture
def run(tmp_path):
    folder = RunFolder(tmp_path / "run")
    folder.path.mkdir()
    return folder


def test_every_epoch_is_logged_and_every_chunk_evaluated_and_kept(run):
    seconds = {}
    order = []

    def evaluate(state, done):
        order.append(("evaluate", done))
        return np.asarray(state["x"])

    def finish(found):
        order.append(("finish", float(found[0])))
        return {"largest": float(found.max())}

    state = train_in_chunks(
        run, start(), program, epochs=5, every=2, seconds=seconds, evaluate=evaluate, finish=finish
    )
    np.testing.assert_array_equal(state["x"], [32.0, -32.0])
    losses = [row["loss"] for row in rows(run) if "loss" in row]
    assert losses == [[2.0**e, -(2.0**e)] for e in range(1, 6)]
    evaluations = [(row["epoch"], row["largest"]) for row in rows(run) if "largest" in row]
    assert evaluations == [(2, 4.0), (4, 16.0), (5, 32.0)]
    assert order[::2] == [("evaluate", n) for n in (2, 4, 5)]
    assert order[1::2] == [("finish", 2.0**n) for n in (2, 4, 5)]
    assert latest_step(run.checkpoints) == 5
    assert seconds.keys() == {"compile", "train", "evaluate"}


def test_a_training_that_was_cut_gives_the_same_rows_and_state(run, tmp_path):
    def broken(found):
        if found == 4:
            raise KeyboardInterrupt
        return {"at": found}

    def count(state, done):
        return done

    with pytest.raises(KeyboardInterrupt):
        train_in_chunks(
            run, start(), program, epochs=5, every=2, seconds={}, evaluate=count, finish=broken
        )
    assert latest_step(run.checkpoints) == 2
    whole = RunFolder(tmp_path / "whole")
    whole.path.mkdir()
    found = [
        train_in_chunks(
            folder,
            start(),
            program,
            epochs=5,
            every=2,
            seconds={},
            evaluate=count,
            finish=lambda done: {"at": done},
        )["x"].tolist()
        for folder in (run, whole)
    ]
    assert found[0] == found[1]
    assert rows(run) == rows(whole)


def test_what_has_ended_is_not_gone_on_with(run):
    asked = []

    def recorded(state, n_epochs):
        asked.append(n_epochs)
        return program(state, n_epochs)

    for _ in range(2):
        state = train_in_chunks(
            run,
            start(),
            recorded,
            epochs=9,
            every=2,
            seconds={},
            ended=lambda state: bool(state["x"][0] > 10.0),
        )
        np.testing.assert_array_equal(state["x"], [16.0, -16.0])
    assert asked == [1, 2]  # the second time nothing is compiled
    assert [row["epoch"] for row in rows(run)] == [1, 2, 3, 4]


def test_a_chunk_is_given_in_about_ten_parts_none_of_a_single_epoch():
    assert [part_lengths(n)[0] for n in (1, 2, 3, 19, 100, 250)] == [1, 2, 3, 19, 10, 25]
    assert part_lengths(97) == [9] * 9 + [16]
    assert part_lengths(194) == [19] * 9 + [23]
    assert part_lengths(201) == [20] * 9 + [21]
    for n in range(2, 1000):
        parts = part_lengths(n)
        assert sum(parts) == n
        assert min(parts) > 1
        assert len(set(parts)) <= 2
        assert 5 <= len(parts) <= 20 or n < 20


def test_a_chunk_of_a_prime_number_of_epochs_is_the_same_training(run):
    asked = []

    def recorded(state, n_epochs):
        asked.append(n_epochs)
        return program(state, n_epochs)

    state = train_in_chunks(run, start(), recorded, epochs=23, every=23, seconds={})
    assert asked == [2, 3]
    np.testing.assert_array_equal(state["x"], [2.0**23, -(2.0**23)])
    assert [row["loss"][0] for row in rows(run)] == [2.0**e for e in range(1, 24)]


def test_parts_of_a_chunk_are_one_program_and_the_same_training(run, capsys):
    asked = []

    def recorded(state, n_epochs):
        asked.append(n_epochs)
        return program(state, n_epochs)

    state = train_in_chunks(run, start(), recorded, epochs=24, every=12, seconds={})
    assert asked == [2]
    np.testing.assert_array_equal(state["x"], [2.0**24, -(2.0**24)])
    assert [row["loss"][0] for row in rows(run)] == [2.0**e for e in range(1, 25)]
    out, err = capsys.readouterr()
    assert out == "  compiling ...\n"
    assert err == ""


def test_ten_evaluations_where_nobody_says():
    chunks = {n: usual_chunk(n) for n in (1, 2, 10, 25, 101, 200, 1000)}
    assert chunks == {1: 1, 2: 1, 10: 1, 25: 5, 101: 11, 200: 20, 1000: 100}
    assert {n: usual_chunk(n, 4) for n in (1, 6, 101, 200)} == {1: 1, 6: 2, 101: 26, 200: 50}
    # Never in one piece: what is killed would begin anew.
    assert {n: usual_chunk(n, 2) for n in (1, 6, 75, 100)} == {1: 1, 6: 3, 75: 38, 100: 50}


def test_a_run_goes_on_by_cuts_of_another_length():
    assert chunk_lengths(0, 7, 3) == [3, 3, 1]
    assert chunk_lengths(3, 7, 3) == [3, 1]
    assert chunk_lengths(4, 7, 3) == [2, 1]
    assert chunk_lengths(7, 7, 3) == chunk_lengths(0, 0, 3) == []
