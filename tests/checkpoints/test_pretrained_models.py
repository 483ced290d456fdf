"""What ships opens by name and is what its card says; damage is named; the first schema opens."""

import dataclasses
import json
import shutil
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import checkpoints
from checkpoints import load_energy, load_network, pretrained_models
from checkpoints.pretrained_models import (
    ModelCard,
    load_pretrained,
    pretrained_card,
    pretrained_folder,
    pretrained_names,
)
from data_generation.sparse_rank_one import observations, sample_keys, sparse_vectors
from diffusions.networks.message_passing import start_vectors
from diffusions.sparse_estimators import squared_distance

OPTIMISED = True  # numbers that were shipped, and their last bits

DATA = Path(__file__).parent / "data"
EXPECTED = json.loads((DATA / "expected.json").read_text())


def test_the_registry_is_the_folder():
    assert "sparse_n64_k6" in checkpoints.pretrained_names()
    assert checkpoints.load_pretrained is load_pretrained
    for name in pretrained_names():
        assert pretrained_folder(name).parent == pretrained_models.FOLDER


@pytest.mark.parametrize("name", pretrained_names())
def test_every_model_opens_and_is_what_its_card_says(name):
    model, card = load_pretrained(name), pretrained_card(name)
    n_parameters = sum(leaf.size for leaf in jax.tree.leaves(model.params))
    assert f"{n_parameters:,} parameters" in card.architecture
    for field in dataclasses.fields(ModelCard):
        assert getattr(card, field.name) not in ("", (), {}), field.name
    text = str(card)
    for part in (card.title, card.data, card.command, card.licence, card.limits, name):
        assert part in text
    for metric in card.metrics:
        assert np.isfinite(metric.value)
        assert metric.command.startswith("python ")
        assert f"| {metric.name} | {metric.value:.4g}" in text
    assert "|" not in "".join(metric.name for metric in card.metrics)


def test_the_sparse_denoiser_is_as_good_as_its_card_says():
    network, t, n = load_pretrained("sparse_n64_k6"), 64.0, 64

    @jax.jit
    def errors(key):
        own, noise, start = (sample_keys(k, 0, 100) for k in jax.random.split(key, 3))
        u, times = sparse_vectors(own, n, 6), jnp.full(100, t)
        edges = observations(noise, u, times)
        found = network.module.apply(network.params, edges, times, start_vectors(start, n))
        return squared_distance(found, u)

    drawn = np.concatenate([errors(key) for key in jax.random.split(jax.random.key(8), 4)])
    (metric,) = [m for m in pretrained_card("sparse_n64_k6").metrics if m.name.endswith("t = n")]
    error = np.hypot(metric.standard_error, drawn.std() / np.sqrt(len(drawn)))
    assert abs(drawn.mean() - metric.value) < 3 * error


@pytest.mark.parametrize(
    ("name", "hint"),
    [("sparse_n64", r"; did you mean sparse_n64_k6.*\?"), ("nothing", ""), ("../pretrained", "")],
)
def test_unknown_names_get_the_accepted_ones(name, hint):
    with pytest.raises(ValueError, match=rf"no pretrained model '{name}'{hint} \(there are: .*k6"):
        load_pretrained(name)


@pytest.fixture
def copy(tmp_path, monkeypatch):
    """The shipped models in a folder that may be damaged, energies among them."""
    folder = tmp_path / "pretrained"
    shutil.copytree(pretrained_models.FOLDER / "sparse_n64_k6", folder / "network")
    shutil.copytree(DATA / "energy_network_schema_1", folder / "energy")
    monkeypatch.setattr(pretrained_models, "FOLDER", folder)
    return folder


@pytest.mark.parametrize("kind", ["network", "energy"])
def test_damage_and_newer_releases_are_named(copy, kind):
    assert pretrained_names() == ("energy", "network")
    load_pretrained(kind)
    description = copy / kind / f"{kind}.json"
    text = description.read_text()
    description.write_text(text.replace('"schema_version": 1', '"schema_version": 9'))
    with pytest.raises(
        ValueError, match="schema version 9; this release reads up to [14]: upgrade"
    ):
        load_pretrained(kind)
    description.write_text(text[:100])
    with pytest.raises(ValueError, match="damaged"):
        load_pretrained(kind)
    description.write_text(text)
    largest = max((copy / kind / "arrays").rglob("*"), key=lambda p: p.stat().st_size)
    content = bytearray(largest.read_bytes())
    content[len(content) // 2] ^= 1
    largest.write_bytes(bytes(content))
    with pytest.raises(ValueError, match="is damaged: its arrays are not those that were saved"):
        load_pretrained(kind)
    description.unlink()
    with pytest.raises(ValueError, match=f"no pretrained model '{kind}'"):
        load_pretrained(kind)


def test_cards_that_cannot_be_read_are_named(copy):
    with pytest.raises(ValueError, match=r"card .*energy.card.json is missing"):
        pretrained_card("energy")
    for damage in ("{", "[]", '{"metrics": [{}]}', '{"metrics": []}'):
        (copy / "energy" / "card.json").write_text(damage)
        with pytest.raises(ValueError, match="is damaged"):
            pretrained_card("energy")


@pytest.mark.parametrize("name", ["energy_network_schema_1", "energy_linear_schema_1"])
def test_energies_of_the_first_schema_predict_what_they_did(name):
    energy, expected = load_energy(DATA / name), EXPECTED[name]
    x = jnp.asarray(EXPECTED["x"])
    np.testing.assert_allclose(energy.potential(x), expected["potential"], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(energy.drift(x), expected["drift"], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(energy.beta, expected["beta"], rtol=1e-6)
    np.testing.assert_array_equal(energy.times, np.float32([0.0, 0.1, 0.3]))


def test_networks_of_the_first_schema_predict_what_they_did():
    network, expected = load_network(DATA / "network_schema_1"), EXPECTED["network_schema_1"]
    x, level = jnp.asarray(EXPECTED["x"]), jnp.asarray(expected["log_snr"])
    np.testing.assert_allclose(
        network.module.apply(network.params, x, level), expected["noise"], rtol=1e-5, atol=1e-6
    )
    assert network.about == {"prediction": "epsilon"}
    np.testing.assert_array_equal(network.extra["mean"], [1.0, 2.0])
