"""States of unfinished runs: exact, complete or absent, and never of another structure."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from checkpoints import latest_step, restore_state, save_state
from diffusions.training import initial_state
from jkonet_star.energies.models import NetworkEnergy
from jkonet_star.settings import NetworkSettings
from jkonet_star.solvers.network import make_optimizer

OPTIMISED = True  # numbers that were shipped, and their last bits


def training_state(*, hidden=(4, 3), seed=0, **settings):
    """A state of two seeds with random numbers in every moment and count."""
    model = NetworkEnergy(dimension=2, hidden=hidden)
    optimizer = make_optimizer(NetworkSettings(hidden=hidden, **settings).training("soap"), 4)
    rng = np.random.default_rng(seed)

    def filled(leaf):
        if jnp.issubdtype(leaf.dtype, jnp.integer):
            return jnp.asarray(rng.integers(0, 9, leaf.shape), leaf.dtype)
        return jnp.asarray(rng.normal(size=leaf.shape), leaf.dtype)

    state = jax.eval_shape(
        jax.vmap(lambda key: initial_state(model.init(key), optimizer)),
        jax.random.split(jax.random.key(0), 2),
    )
    return jax.tree.map(filled, state)


def assert_same(found, expected):
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        assert (a.dtype, a.shape) == (b.dtype, b.shape)
        assert np.asarray(a).tobytes() == np.asarray(b).tobytes()


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"schedule": "constant", "gradient_clip": 0.0},
        {"weight_decay": 0.1, "ema_decay": 0.9},
    ],
)
def test_a_training_state_comes_back_bit_for_bit(settings, tmp_path):
    state = training_state(**settings)
    counts = [leaf for leaf in jax.tree.leaves(state) if leaf.dtype == jnp.int32]
    assert counts, "the step counts are integers"
    save_state(tmp_path / "deep" / "checkpoint", 3, state)
    like = training_state(seed=1, **settings)
    assert_same(restore_state(tmp_path / "deep" / "checkpoint", 3, like), state)


def test_a_state_of_host_arrays_is_the_same_state(tmp_path):
    state = training_state()
    save_state(tmp_path, 1, jax.device_get(state))
    assert_same(restore_state(tmp_path, 1, state), state)


def test_every_type_of_array_keeps_its_bits(tmp_path):
    state = {
        "half": jnp.asarray([1.5, jnp.nan, -0.0], jnp.bfloat16),
        "float": jnp.asarray([jnp.inf, 1e-40, -0.0], jnp.float32),
        "count": jnp.asarray(2**31 - 1, jnp.int32),
        "bits": jnp.asarray([2**32 - 1, 0], jnp.uint32),
        "flag": jnp.asarray([True, False]),
        "key": jax.random.key_data(jax.random.key(7)),
        "nothing": optax.EmptyState(),
    }
    save_state(tmp_path, 5, state)
    assert_same(restore_state(tmp_path, 5, state), state)


def test_only_the_newest_state_is_kept(tmp_path):
    first, second = training_state(seed=0), training_state(seed=1)
    save_state(tmp_path, 9, first)
    save_state(tmp_path, 10, second)
    assert [p.name for p in tmp_path.iterdir()] == ["10"]
    assert latest_step(tmp_path) == 10
    assert_same(restore_state(tmp_path, 10, first), second)


def test_a_step_is_replaced_by_a_newer_state_of_the_same_step(tmp_path):
    save_state(tmp_path, 4, training_state(seed=0))
    save_state(tmp_path, 4, training_state(seed=1))
    assert_same(restore_state(tmp_path, 4, training_state()), training_state(seed=1))


def test_the_latest_step_counts_as_a_number_and_ignores_what_is_half_written(tmp_path):
    assert latest_step(tmp_path / "missing") is None
    assert latest_step(tmp_path) is None
    for name in ("9", "100", "200.orbax-checkpoint-tmp-17", "removed-300", "notes", ".400"):
        (tmp_path / name).mkdir()
    assert latest_step(tmp_path) == 100


def test_what_a_kill_left_behind_does_not_hinder_the_next_save(tmp_path):
    for name in ("3.orbax-checkpoint-tmp", "3.orbax-checkpoint-tmp-17", "removed-2"):
        (tmp_path / name / "d").mkdir(parents=True)
        (tmp_path / name / "d" / "half").write_bytes(b"half")
    (tmp_path / "2").mkdir()
    state = training_state()
    save_state(tmp_path, 3, state)
    assert latest_step(tmp_path) == 3
    assert_same(restore_state(tmp_path, 3, state), state)


def test_a_kill_while_the_old_state_is_removed_leaves_the_new_one(tmp_path, monkeypatch):
    def killed(folder, ignore_errors=False):
        if folder.exists():
            raise KeyboardInterrupt

    save_state(tmp_path, 1, training_state(seed=0))
    with monkeypatch.context() as patch:
        patch.setattr("shutil.rmtree", killed)
        with pytest.raises(KeyboardInterrupt):
            save_state(tmp_path, 2, training_state(seed=1))
    assert latest_step(tmp_path) == 2
    assert_same(restore_state(tmp_path, 2, training_state()), training_state(seed=1))


@pytest.mark.parametrize(
    "other",
    [
        lambda: training_state(hidden=(4, 4)),
        lambda: training_state(hidden=(4,)),
        lambda: training_state(hidden=(4, 3, 2)),
        lambda: training_state(schedule="constant"),
        lambda: jax.tree.map(lambda leaf: leaf[:1], training_state()),
        lambda: {"params": training_state().params},
        lambda: {"state": training_state()},
        lambda: training_state().replace(epoch=jnp.zeros(2, jnp.float32)),
        lambda: training_state().replace(ema=None),
    ],
)
def test_a_state_of_another_structure_is_refused(other, tmp_path):
    save_state(tmp_path, 3, training_state())
    with pytest.raises(ValueError, match="cannot restore the state in .*3") as error:
        restore_state(tmp_path, 3, other())
    assert "\n" not in str(error.value)


def test_a_damaged_or_missing_state_is_refused(tmp_path):
    state = training_state()
    with pytest.raises(ValueError, match="cannot restore the state"):
        restore_state(tmp_path, 3, state)
    save_state(tmp_path, 3, state)
    for file in (tmp_path / "3").rglob("*"):
        if file.is_file() and file.parent.name == "d":
            file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    with pytest.raises(ValueError, match="cannot restore the state"):
        restore_state(tmp_path, 3, state)
