"""What a user plugs in: by name, as an object, with own modules; and what is none of these."""

import dataclasses
import subprocess
import sys
import types

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from checkpoints import load_energy, load_network, save_energy, save_network
from diffusions.networks.attention_unet import AttentionUNet
from experiments.populations.learning_settings import LearningSettings
from jkonet_star import (
    FeatureSettings,
    Linear,
    Network,
    NetworkSettings,
    Terms,
    fit,
    register_solver,
    snapshots_from_arrays,
)
from jkonet_star.solvers.registry import SOLVERS

pytestmark = pytest.mark.filterwarnings("ignore")

X = np.random.default_rng(0).normal(size=(40, 2))
WELL = snapshots_from_arrays([X, 0.9 * X, 0.81 * X], dt=0.1)
ONE = NetworkSettings(epochs=1, hidden=(4,))


class Slope(nn.Module):
    """A number per point, or as many as told."""

    size: int = 1

    @nn.compact
    def __call__(self, x):
        y = nn.Dense(self.size)(x)
        return y[..., 0] if self.size == 1 else y


@dataclasses.dataclass(frozen=True, kw_only=True)
class Weak(Linear):
    """Half of what the closed form finds."""

    def energy(self, state, data):
        return super().energy(jax.tree.map(lambda leaf: 0.5 * leaf, state), data)


@pytest.fixture
def weak(monkeypatch):
    """Registered by a user's module, and forgotten again."""
    place = types.ModuleType("a_users_module")
    place.Weak = Weak
    monkeypatch.setitem(sys.modules, place.__name__, place)
    register_solver(
        "weak",
        "a_users_module:Weak",
        terms=Terms(potential=True),
        settings={"features": FeatureSettings},
        trained=False,
    )
    yield "weak"
    del SOLVERS["weak"]


def test_a_registered_solver_is_known_by_its_name(weak):
    features = FeatureSettings(degree=2, radial="none")
    whole = fit(WELL, "jkonet-star-linear-potential", key=0, features=features).drift(X)
    np.testing.assert_allclose(fit(WELL, weak, key=0, features=features).drift(X), 0.5 * whole)
    assert LearningSettings(features=features).of(weak) == (features,)
    assert LearningSettings(features=features).solver(weak).features == features


def test_a_name_is_taken_once(weak):
    entry = SOLVERS[weak]
    fields = {f.name: getattr(entry, f.name) for f in dataclasses.fields(entry)}
    register_solver(weak, **fields)  # the same again, as when a module is loaded twice
    with pytest.raises(ValueError, match="solver 'weak' is registered already"):
        register_solver(weak, **fields | {"trained": True})
    with pytest.raises(ValueError, match=r"must be package.module:Class, got 'a.b'"):
        register_solver("other", **fields | {"place": "a.b"})
    register_solver("gone", **fields | {"place": "nowhere.at_all:C"})
    try:
        with pytest.raises(ValueError, match="nowhere.at_all:C cannot be loaded: No module named"):
            fit(WELL, "gone", key=0)
    finally:
        del SOLVERS["gone"]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Network, r"solver must be a name, or a solver such as Network\(\), got <class"),
        (lambda: Network(terms=Terms(internal=True)), "a potential or an interaction, got neither"),
        (
            lambda: Network(potential=Slope(3), network=ONE),
            r"one number per point, got shape \(3,\)",
        ),
    ],
)
def test_what_is_no_solver_is_refused_in_words(make, message):
    with pytest.raises(ValueError, match=message):
        fit(WELL, make(), key=0)


# In a process of its own, without the checks of types that the tests install.
OF_ANOTHER_TYPE = """
import flax.linen as nn, numpy as np, optax
from jkonet_star import Bilevel, Linear, Network, NetworkSettings, fit, snapshots_from_arrays
well = snapshots_from_arrays(np.arange(12.0).reshape(2, 3, 2))
for make in (
    lambda: fit(well, 42, key=0),
    lambda: Network(potential=nn.Dense),
    lambda: Network(interaction=len),
    lambda: Network(optimizer=optax.adam),
    lambda: Network(network={"epochs": 1}),
    lambda: Network(terms=None),
    lambda: Linear(features=None),
    lambda: Bilevel(bilevel=NetworkSettings()),
):
    try:
        make()
    except ValueError as error:
        print(str(error)[:60])
"""


def test_what_is_of_another_type_is_named():
    done = subprocess.run(
        [sys.executable, "-c", OF_ANOTHER_TYPE], capture_output=True, text=True, check=True
    )
    assert [line.partition(", got")[0] for line in done.stdout.splitlines()] == [
        "solver must be a name, or a solver such as Network()",
        "potential must be a Module",
        "interaction must be a Module",
        "optimizer must be a GradientTransformation",
        "network must be a NetworkSettings",
        "terms must be a Terms",
        "features must be a FeatureSettings",
        "bilevel must be a BilevelSettings",
    ]


def test_energies_of_own_modules_are_given_them_again(tmp_path):
    energy = fit(WELL, Network(potential=Slope(), network=ONE), key=0)
    save_energy(tmp_path / "e", energy)
    again = load_energy(tmp_path / "e", potential=Slope())
    np.testing.assert_array_equal(again.drift(X), energy.drift(X))
    with pytest.raises(ValueError, match=r"none of ours: give potential=Slope\(...\), got None"):
        load_energy(tmp_path / "e")
    with pytest.raises(ValueError, match=r"no own module: give interaction=nothing, got Slope"):
        load_energy(tmp_path / "e", potential=Slope(), interaction=Slope())


def test_networks_of_own_and_of_our_modules(tmp_path):
    ours, own = AttentionUNet(channels=(4, 4, 8, 8), heads=2), Slope(3)
    for name, module, inputs in (
        ("ours", ours, (jnp.zeros((1, 8, 8, 1)), jnp.zeros(1))),
        ("own", own, (jnp.zeros(2),)),
    ):
        params = jax.jit(module.init)(jax.random.key(0), *inputs)
        save_network(tmp_path / name, module, params, {"of": name})
        found = load_network(tmp_path / name, *((own,) if name == "own" else ()))
        assert found.module == module
        assert found.about == {"of": name}
        jax.tree.map(np.testing.assert_array_equal, found.params, params)
    with pytest.raises(ValueError, match="is an own Slope, and none is given"):
        load_network(tmp_path / "own")
    with pytest.raises(ValueError, match="is a 'attention-unet', and a Slope is given"):
        load_network(tmp_path / "ours", own)
    with pytest.raises(ValueError, match="module must be a Flax module, got function"):
        save_network(tmp_path / "no", lambda x: x, {}, {})
