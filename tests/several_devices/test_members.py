"""What is independent is divided among devices, and comes back as it would from one."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusions.devices import Members, devices_in_use, spread_over
from jkonet_star import fit, snapshots_from_arrays
from jkonet_star.settings import NetworkSettings, RefinementSettings

QUICK = NetworkSettings(hidden=(8,), epochs=4, batch_size=16)
TOLERANCE = 5e-6
"""Of parameters of size one after a few steps: another number of members is rounded otherwise. What
they differ by is in proportion to a step, 0.02 by SOAP; drifts differ by a tenth of it."""


@pytest.fixture(scope="module")
def snapshots():
    x = np.random.default_rng(0).normal(size=(40, 2))
    return snapshots_from_arrays([x, 0.9 * x + 0.1, 0.8 * x + 0.2])


def seeds(count):
    return jax.vmap(jax.random.key)(jnp.arange(count))


def on(n_devices):
    return spread_over(jax.devices()[:n_devices])


@pytest.mark.parametrize(
    ("count", "n_devices", "used"),
    [(1, 4, 1), (2, 4, 2), (3, 4, 3), (4, 4, 4), (5, 4, 3), (8, 4, 4), (9, 4, 3), (7, 1, 1)],
)
def test_no_device_is_used_that_would_shorten_nothing(count, n_devices, used):
    with on(n_devices):
        members = Members.of(count)
    assert members.n_devices == used
    longest = -(-count // n_devices)
    assert -(-count // used) == longest
    assert (members.mesh is None) == (used == 1)


def test_nothing_is_shared_outside():
    with on(4):
        assert len(devices_in_use()) == 4
    assert devices_in_use() == ()
    assert Members.of(8).mesh is None
    with pytest.raises(ValueError, match="same number of devices"), spread_over([]):
        pass


def test_members_lie_in_order_and_come_back_without_the_copies():
    tree = {"x": jnp.arange(10.0).reshape(5, 2), "key": seeds(5)}
    with on(4):
        members = Members.of(5)
    placed = members.placed(tree)
    rows = [np.asarray(shard.data)[:, 0].tolist() for shard in placed["x"].addressable_shards]
    assert rows == [[0, 2], [4, 6], [8, 8]]
    own = members.own(placed)
    assert own["x"].sharding.device_set == {jax.devices()[0]}
    assert np.array_equal(own["x"], tree["x"])
    assert np.array_equal(jax.random.key_data(own["key"]), jax.random.key_data(tree["key"]))


def test_a_device_runs_the_program_of_its_members_and_asks_nobody():
    def member(key, matrix):
        def step(total, key):
            end = jax.lax.while_loop(
                lambda a: a < 3.0, lambda a: a + jax.random.uniform(key), total
            )
            return 0.5 * end + jnp.linalg.cholesky(matrix * end).sum(), end

        return jax.lax.scan(step, 0.0, jax.random.split(key, 5))

    def mapped(members):
        return jax.jit(members.vmap(member, (0, None)))

    matrix = 2.0 * jnp.eye(3)
    with on(2):
        members = Members.of(4)
    placed = members.placed(seeds(4)), members.shared(matrix)
    program = mapped(members).lower(*placed).compile()
    found = members.own(program(*placed))
    text = program.as_text()
    assert not any(word in text for word in ("all-reduce", "all-gather", "permute", "all-to-all"))
    expected = mapped(Members(4))(seeds(4), matrix)
    assert jax.tree.all(jax.tree.map(np.allclose, found, expected))


@pytest.mark.parametrize("n_devices", [2, 4])
def test_seeds_learn_what_they_learn_on_one_device(snapshots, n_devices):
    learn = functools.partial(fit, snapshots, key=seeds(5), network=QUICK)
    one = learn()
    with on(n_devices):
        shared = learn()
    assert shared.params["potential"]["params"]["Dense_0"]["kernel"].shape[0] == 5
    for a, b in zip(jax.tree.leaves(one.params), jax.tree.leaves(shared.params), strict=True):
        assert np.allclose(a, b, atol=TOLERANCE, rtol=0)
    assert not np.array_equal(
        *(np.asarray(e.drift(np.ones((1, 2)))) for e in map(one.member, (0, 1)))
    )


def test_the_replicates_of_a_bootstrap_are_shared(snapshots):
    learn = functools.partial(fit, snapshots, key=jax.random.key(0), network=QUICK, bootstrap=19)
    one = learn()
    with on(4):
        shared = learn()
    pairs = zip(*(jax.tree.leaves(e.replicates.params) for e in (one, shared)), strict=True)
    assert all(np.allclose(a, b, atol=TOLERANCE, rtol=0) for a, b in pairs)


def test_a_refinement_is_shared(snapshots):
    learn = functools.partial(
        fit,
        snapshots,
        key=seeds(3),
        network=QUICK,
        refinement=RefinementSettings(refine=3, refine_batch_size=16),
    )
    one = learn()
    with on(2):
        shared = learn()
    for a, b in zip(jax.tree.leaves(one.params), jax.tree.leaves(shared.params), strict=True):
        assert np.allclose(a, b, atol=TOLERANCE, rtol=0)
