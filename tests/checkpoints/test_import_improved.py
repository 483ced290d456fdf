"""Weights of improved DDPM: the architecture is read off them, and they compute what they did."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from checkpoints import import_torch, load_network
from checkpoints.torch.improved_unet import improved_unet_from_state_dict
from diffusions.processes import cosine_betas
from experiments.information_theoretic.saved import saved_denoiser

GROUPS, HEADS = 4, 2
TINY = {"width": 8, "multipliers": (1, 2), "blocks": 2, "attention": (1,)}


def shapes(width, multipliers, blocks, attention, channels=3, out=6):
    """Name -> shape, written from the description of the network."""
    found = {}

    def layer(name, *shape):
        found[f"{name}.weight"], found[f"{name}.bias"] = shape, shape[:1]

    def block(name, into, out):
        layer(f"{name}.in_layers.0", into)
        layer(f"{name}.in_layers.2", out, into, 3, 3)
        layer(f"{name}.emb_layers.1", 2 * out, 4 * width)
        layer(f"{name}.out_layers.0", out)
        layer(f"{name}.out_layers.3", out, out, 3, 3)
        if into != out:
            layer(f"{name}.skip_connection", out, into, 1, 1)

    def attended(name, size):
        layer(f"{name}.norm", size)
        layer(f"{name}.qkv", 3 * size, size, 1)
        layer(f"{name}.proj_out", size, size, 1)

    layer("time_embed.0", 4 * width, width)
    layer("time_embed.2", 4 * width, 4 * width)
    layer("input_blocks.0.0", width, channels, 3, 3)
    skips, now = [width], width
    for level, multiplier in enumerate(multipliers):
        for _ in range(blocks):
            name = f"input_blocks.{len(skips)}"
            block(f"{name}.0", now, width * multiplier)
            now = width * multiplier
            if level in attention:
                attended(f"{name}.1", now)
            skips.append(now)
        if level < len(multipliers) - 1:
            layer(f"input_blocks.{len(skips)}.0.op", now, now, 3, 3)
            skips.append(now)
    block("middle_block.0", now, now)
    attended("middle_block.1", now)
    block("middle_block.2", now, now)
    place = 0
    for level in reversed(range(len(multipliers))):
        for i in range(blocks + 1):
            name, size = f"output_blocks.{place}", width * multipliers[level]
            block(f"{name}.0", now + skips.pop(), size)
            now, part = size, 1
            if level in attention:
                attended(f"{name}.1", now)
                part = 2
            if level > 0 and i == blocks:
                layer(f"{name}.{part}.conv", now, now, 3, 3)
            place += 1
    layer("out.0", now)
    layer("out.2", out, now, 3, 3)
    return found


def random_weights(**options):
    rng = np.random.default_rng(0)
    return {
        name: rng.normal(size=shape).astype(np.float32)
        * np.float32(0.4 if len(shape) == 1 else 1.2 / np.sqrt(np.prod(shape[1:])))
        for name, shape in shapes(**{**TINY, **options}).items()
    }


def silu(x):
    return x / (1 + np.exp(-x))


class Reference:
    """The forward pass on (batch, channels, height, width), in double precision."""

    def __init__(self, weights):
        self.w = {name: np.asarray(array, np.float64) for name, array in weights.items()}

    def affine(self, name, x):
        return x @ self.w[f"{name}.weight"].T + self.w[f"{name}.bias"]

    def norm(self, name, x):
        y = x.reshape(len(x), GROUPS, -1)
        y = (y - y.mean(axis=2, keepdims=True)) / np.sqrt(y.var(axis=2, keepdims=True) + 1e-5)
        y = y.reshape(*x.shape[:2], -1) * self.w[f"{name}.weight"][:, None]
        return (y + self.w[f"{name}.bias"][:, None]).reshape(x.shape)

    def conv(self, name, x, stride=1):
        kernel = self.w[f"{name}.weight"]
        side = kernel.shape[-1] // 2
        y = jax.lax.conv_general_dilated(
            jnp.asarray(x), jnp.asarray(kernel), (stride, stride), [(side, side)] * 2
        )
        return np.asarray(y) + self.w[f"{name}.bias"][:, None, None]

    def block(self, name, x, e):
        h = self.conv(f"{name}.in_layers.2", silu(self.norm(f"{name}.in_layers.0", x)))
        told = self.affine(f"{name}.emb_layers.1", silu(e))[:, :, None, None]
        scale, shift = np.split(told, 2, axis=1)
        h = self.norm(f"{name}.out_layers.0", h) * (1 + scale) + shift
        h = self.conv(f"{name}.out_layers.3", silu(h))
        if f"{name}.skip_connection.weight" in self.w:
            x = self.conv(f"{name}.skip_connection", x)
        return x + h

    def attention(self, name, x):
        n, c, *sides = x.shape
        y = self.norm(f"{name}.norm", x).reshape(n, c, -1)
        qkv = np.einsum("oc,nct->not", self.w[f"{name}.qkv.weight"][..., 0], y)
        qkv = qkv + self.w[f"{name}.qkv.bias"][:, None]
        outputs = []
        for head in np.split(qkv, HEADS, axis=1):
            q, k, v = np.split(head, 3, axis=1)
            logits = np.einsum("nct,ncs->nts", q, k) / np.sqrt(q.shape[1])
            p = np.exp(logits - logits.max(axis=2, keepdims=True))
            outputs.append(np.einsum("nts,ncs->nct", p / p.sum(axis=2, keepdims=True), v))
        y = np.einsum(
            "oc,nct->not",
            self.w[f"{name}.proj_out.weight"][..., 0],
            np.concatenate(outputs, axis=1),
        )
        return x + (y + self.w[f"{name}.proj_out.bias"][:, None]).reshape(n, c, *sides)

    def parts(self, name, x, e):
        """An entry of a list of blocks: whatever it consists of, in order."""
        part = 0
        while any(key.startswith(f"{name}.{part}.") for key in self.w):
            here = f"{name}.{part}"
            if f"{here}.in_layers.0.weight" in self.w:
                x = self.block(here, x, e)
            elif f"{here}.qkv.weight" in self.w:
                x = self.attention(here, x)
            elif f"{here}.op.weight" in self.w:
                x = self.conv(f"{here}.op", x, stride=2)
            elif f"{here}.conv.weight" in self.w:
                x = self.conv(f"{here}.conv", x.repeat(2, axis=2).repeat(2, axis=3))
            else:
                x = self.conv(here, x)
            part += 1
        return x

    def entries(self, name):
        return 1 + max(int(key.split(".")[1]) for key in self.w if key.startswith(name))

    def __call__(self, x, told):
        half = self.w["time_embed.0.weight"].shape[1] // 2
        angles = told[:, None] * 10000.0 ** (-np.arange(half) / half)
        e = np.concatenate([np.cos(angles), np.sin(angles)], axis=1)
        e = self.affine("time_embed.2", silu(self.affine("time_embed.0", e)))
        skips = []
        for i in range(self.entries("input_blocks")):
            x = self.parts(f"input_blocks.{i}", x, e)
            skips.append(x)
        x = self.parts("middle_block", x, e)
        for i in range(self.entries("output_blocks")):
            x = self.parts(f"output_blocks.{i}", np.concatenate([x, skips.pop()], axis=1), e)
        return self.conv("out.2", silu(self.norm("out.0", x)))


def test_imported_weights_compute_what_they_did(double_precision):
    weights = random_weights()
    module, params = improved_unet_from_state_dict(weights, heads=HEADS, groups=GROUPS)
    x = np.random.default_rng(1).normal(size=(3, 3, 8, 12))
    steps = np.array([3, 1321, 3998])
    expected = Reference(weights)(x, steps / 4)[:, :3]  # the rest is a variance
    kept = np.cumprod(1 - cosine_betas(4000))[steps]
    z = jnp.asarray(x.transpose(0, 2, 3, 1), jnp.float32)
    log_snr = jnp.asarray(np.log(kept / (1 - kept)), jnp.float32)
    found = np.asarray(jax.jit(module.apply)(params, z, log_snr)).transpose(0, 3, 1, 2)
    scale = abs(expected).max()
    assert scale > 0.1
    np.testing.assert_allclose(found, expected, atol=5e-5 * scale)


def test_the_cosine_is_that_of_its_authors():
    """alpha_bar itself wherever no step is cut, and steps of at most .999."""
    betas = cosine_betas(4000)
    u = np.arange(1, 4001) / 4000
    f = np.cos((u + 0.008) / 1.008 * np.pi / 2) ** 2 / np.cos(0.008 / 1.008 * np.pi / 2) ** 2
    uncut = betas < 0.999
    assert uncut.sum() == 3999
    np.testing.assert_allclose(np.cumprod(1 - betas)[uncut], f[uncut], rtol=1e-9)
    assert betas.max() == 0.999


def test_the_published_architecture_is_recognised():
    published = shapes(128, (1, 2, 2, 2), 3, (1, 2))
    assert sum(np.prod(shape) for shape in published.values()) == 52_546_438
    weights = {name: np.broadcast_to(np.float32(0), shape) for name, shape in published.items()}
    module, params = improved_unet_from_state_dict(weights)
    assert (module.width, module.multipliers, module.blocks_per_level) == (128, (1, 2, 2, 2), 3)
    assert (module.attention_levels, module.heads, module.style) == ((1, 2), 4, "improved")
    assert sum(leaf.size for leaf in jax.tree.leaves(params)) == 52_542_979


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda w: w.clear(), r"improved DDPM's U-Net: they lack input_blocks\.0\.0\.weight"),
        (lambda w: w.pop("middle_block.1.qkv.bias"), r"lack middle_block\.1\.qkv\.bias"),
        (lambda w: w.pop("output_blocks.5.0.in_layers.0.bias"), "lack output_blocks"),
        (
            lambda w: [w.pop(k) for k in list(w) if k.startswith("output_blocks.5.")],
            r"\[2, 2\] residual blocks per level on the way down and 5 on the way up",
        ),
        (lambda w: w.update({"label_emb.weight": np.zeros((10, 32))}), "hold label_emb.weight"),
        (lambda w: w["out.2.bias"].fill(np.nan), "conv_out.bias is not finite"),
        (
            lambda w: w.update({"input_blocks.1.0.emb_layers.1.bias": np.zeros(8)}),
            "without scale and shift",
        ),
        (
            lambda w: w.update({"out.2.weight": np.zeros((4, 8, 3, 3)), "out.2.bias": np.zeros(4)}),
            "output has 4 channels for images of 3",
        ),
    ],
)
def test_weights_of_another_network_are_refused(change, message):
    weights = random_weights()
    change(weights)
    with pytest.raises(ValueError, match=message):
        improved_unet_from_state_dict(weights, heads=HEADS, groups=GROUPS)


def test_heads_must_divide_the_channels():
    with pytest.raises(ValueError, match="5 heads do not divide 16 channels"):
        improved_unet_from_state_dict(random_weights(), heads=5, groups=GROUPS)


def test_the_script_imports_it_as_a_density(tmp_path, capsys):
    """What was imported is opened as what it is: a denoiser of the log SNR."""
    weights = random_weights(width=32, multipliers=(1,), blocks=1, attention=())
    pytest.importorskip("safetensors.numpy").save_file(weights, tmp_path / "unet.safetensors")
    arguments = [f"--weights={tmp_path / 'unet.safetensors'}", f"--out={tmp_path / 'out'}"]
    assert import_torch.run(["--kind=ddpm-unet", "--heads=2", *arguments]) == 2
    assert "--heads needs --kind=improved-ddpm-unet" in capsys.readouterr().err
    assert import_torch.run(["--kind=improved-ddpm-unet", "--heads=2", *arguments]) == 0
    assert "heads=2, noise_steps=cosine-4000" in capsys.readouterr().out
    module, params = improved_unet_from_state_dict(weights, heads=2)
    network = load_network(tmp_path / "out")
    assert network.module == module
    saved = saved_denoiser(tmp_path / "out")
    assert (saved.law, saved.reference) == (None, None)
    z, a = jnp.ones((1, 4, 4, 3)), jnp.zeros(1)
    np.testing.assert_array_equal(saved.denoiser(z, a), module.apply(params, z, a))
