"""Denoisers on disk, and the layout of the published state dicts."""

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from checkpoints.message_passing import SHIPPED, load_denoiser, save_denoiser
from checkpoints.torch.message_passing import from_state_dict, import_message_passing
from diffusions.networks.message_passing import MessagePassingDenoiser, start_vectors

OPTIMISED = True  # numbers that were shipped, and their last bits

LAYERS, HIDDEN = 2, 5


def state_dict(direct=True):
    """A state dict in the published layout, of random numbers."""
    rng = np.random.default_rng(0)

    def draw(*shape):
        return rng.normal(size=shape).astype(np.float32)

    found = {"log_scale": draw(1), "tiny_decoder.0.weight": draw(4, 2)}
    found |= {"tiny_decoder.0.bias": draw(4), "tiny_decoder.2.weight": draw(1, 4)}
    found["tiny_decoder.2.bias"] = draw(1)
    if direct:
        found["readout_coefs"] = draw(1)
    for layer in range(LAYERS):
        for name, inputs, width in (("msg_mlps", 3, HIDDEN), ("upd_mlps", 2, 3)):
            found[f"{name}.{layer}.0.weight"] = draw(width, inputs)
            found[f"{name}.{layer}.0.bias"] = draw(width)
            found[f"{name}.{layer}.2.weight"] = draw(1, width)
            found[f"{name}.{layer}.2.bias"] = draw(1)
        found[f"logit_alpha.{layer}"] = draw(1)
    return found


def reference(weights, edges, t, v, k):
    """The published network for one sample, read from its own names."""
    n = len(v)

    def mlp(name, x):
        hidden = x @ weights[f"{name}.0.weight"].T + weights[f"{name}.0.bias"]
        hidden = np.maximum(hidden, 0.01 * hidden)
        return (hidden @ weights[f"{name}.2.weight"].T + weights[f"{name}.2.bias"])[..., 0]

    for _ in range(3):
        v = edges @ v
        v = v / np.linalg.norm(v)
    for layer in range(LAYERS):
        receiver, sender = np.meshgrid(v, v, indexing="ij")
        a = mlp(f"msg_mlps.{layer}", np.stack([receiver, sender, edges], -1)).mean(axis=1)
        alpha = 0.85 / (1 + np.exp(-weights[f"logit_alpha.{layer}"][0]))
        v = alpha * v + (1 - alpha) * mlp(f"upd_mlps.{layer}", np.stack([v, a], -1))
    s = np.tanh(np.exp(weights["log_scale"][0]) * t / n)
    c = weights["readout_coefs"][0] if "readout_coefs" in weights else 0.0
    v = c * v * s + mlp("tiny_decoder", np.stack([v, np.full(n, s)], -1))
    u = np.where(np.abs(v) >= np.sort(np.abs(v))[-k], v, 0)
    return u / max(np.linalg.norm(u), 1)


@pytest.mark.parametrize("direct", [True, False])
def test_imported_weights_are_the_published_network(tmp_path, direct):
    weights = state_dict(direct)
    import_message_passing(weights, tmp_path / "imported", n=12, k=3)
    found = load_denoiser(tmp_path / "imported")
    assert found.n == 12
    assert found.model.direct_readout == direct
    rng = np.random.default_rng(1)
    edges = rng.normal(size=(2, 12, 12))
    edges = (edges + edges.swapaxes(1, 2)) / 2
    start = np.asarray(start_vectors(jax.random.split(jax.random.key(0), 2), 12), np.float64)
    ours = jax.jit(found.model.apply)(
        found.params, jnp.asarray(edges, jnp.float32), jnp.array([3.0, 20.0]), jnp.asarray(start)
    )
    wide = {name: x.astype(np.float64) for name, x in weights.items()}
    for i, t in enumerate((3.0, 20.0)):
        np.testing.assert_allclose(ours[i], reference(wide, edges[i], t, start[i], 3), atol=1e-5)


def changed(change):
    weights = state_dict()
    change(weights)
    return weights


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda w: w.clear(), "no weights of a message-passing denoiser"),
        (lambda w: w.pop("upd_mlps.1.0.bias"), "lack upd_mlps.1.0.bias"),
        (lambda w: w.update(other=np.zeros(1)), "hold other"),
        (lambda w: w.update({"log_scale": np.array([np.nan])}), "log_scale is not finite"),
        (
            lambda w: w.update({"msg_mlps.1.0.weight": np.zeros((HIDDEN, 4), np.float32)}),
            "differ in shape",
        ),
    ],
)
def test_other_weights_are_refused(tmp_path, change, message):
    with pytest.raises(ValueError, match=message):
        import_message_passing(changed(change), tmp_path / "x", n=12, k=3)
    assert not (tmp_path / "x").exists()


def test_k_is_checked():
    with pytest.raises(ValueError, match="k must be"):
        from_state_dict(state_dict(), n=12, k=13)


def test_what_is_saved_is_loaded_and_never_overwritten(tmp_path):
    denoiser = from_state_dict(state_dict(), n=12, k=3)
    save_denoiser(tmp_path / "one", denoiser)
    again = load_denoiser(tmp_path / "one")
    assert again.model == denoiser.model
    jax.tree.map(np.testing.assert_array_equal, again.params, denoiser.params)
    with pytest.raises(ValueError, match="already exists"):
        save_denoiser(tmp_path / "one", denoiser)


def damage(path, how):
    file = path / "network.json"
    description = json.loads(file.read_text())
    if how == "version":
        description["schema_version"] = 99
    elif how == "model":
        description["module"]["hidden"] = HIDDEN + 1
    elif how == "arrays":
        victim = max((p for p in (path / "arrays").rglob("*") if p.is_file()), key=_size)
        victim.write_bytes(victim.read_bytes()[:-1] + b"x")
    file.write_text("{" if how == "json" else json.dumps(description))


def _size(file: Path) -> int:
    return file.stat().st_size


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("version", "schema version 99"),
        ("model", "damaged: .*shape"),
        ("arrays", "not those that were saved"),
        ("json", "damaged"),
    ],
)
def test_damage_is_named(tmp_path, how, message):
    path = tmp_path / "one"
    save_denoiser(path, from_state_dict(state_dict(), n=12, k=3))
    damage(path, how)
    with pytest.raises(ValueError, match=message):
        load_denoiser(path)


def test_nothing_there_is_named(tmp_path):
    with pytest.raises(ValueError, match="holds no saved network"):
        load_denoiser(tmp_path)


def test_the_shipped_denoiser_opens():
    found = load_denoiser(SHIPPED)
    assert (found.n, found.model.n_nonzero) == (64, 6)
    assert found.model == MessagePassingDenoiser(n_nonzero=6)
    losses = np.loadtxt(SHIPPED / "losses.txt")
    assert len(losses) == 1200
    assert losses[-300:].min() < losses[:30].min()
