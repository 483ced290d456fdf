"""Weights of PyTorch: read without it, refused where they could do harm, and computing the same."""

import io
import json
import os
import pickle
import struct
import tracemalloc
import zipfile
from collections import OrderedDict
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from checkpoints import import_torch
from checkpoints.networks import load_network
from checkpoints.torch.ddpm_unet import unet_from_state_dict
from checkpoints.torch.state_dict import read_state_dict

OPTIMISED = True  # numbers that were shipped, and their last bits

PUBLISHED = Path(__file__).parents[3] / "shared/data/sparse_diffusion/model_4173183967.pth"
RNG = np.random.default_rng(0)


# writing what PyTorch writes


class Named:
    """Pickles as a global name, as PyTorch's classes and functions do."""

    def __init__(self, module, name):
        self.module, self.name = module, name


class Call:
    def __init__(self, function, *arguments):
        self.function, self.arguments = function, arguments

    def __reduce__(self):
        return self.function, self.arguments


class Storage:
    def __init__(self, key, kind, n_elements):
        self.key, self.kind, self.n_elements = key, kind, n_elements


class Pickler(pickle._Pickler):
    """The pure Python pickler, which can be told to write names that cannot be imported here."""

    def persistent_id(self, thing):
        if isinstance(thing, Storage):
            return ("storage", Named("torch", thing.kind), thing.key, "cuda:0", thing.n_elements)
        return None

    def save(self, thing, save_persistent_id=True):
        if isinstance(thing, Named):
            self.write(pickle.GLOBAL + f"{thing.module}\n{thing.name}\n".encode())
        elif isinstance(thing, Call):
            self.save(thing.function)
            self.save(thing.arguments)
            self.write(pickle.REDUCE)
        else:
            super().save(thing, save_persistent_id)


def tensor(key, kind, n_elements, shape, strides, offset=0):
    rebuild = Named("torch._utils", "_rebuild_tensor_v2")
    hooks = OrderedDict()
    return Call(rebuild, Storage(key, kind, n_elements), offset, shape, strides, False, hooks)


def write_pth(file, state, storages, *, byteorder=b"little", compression=zipfile.ZIP_STORED):
    content = io.BytesIO()
    Pickler(content, protocol=2).dump(state)
    with zipfile.ZipFile(file, "w", compression) as archive:
        archive.writestr("model/data.pkl", content.getvalue())
        archive.writestr("model/byteorder", byteorder)
        for key, data in storages.items():
            archive.writestr(f"model/data/{key}", data)


def save_pth(file, arrays, **options):
    state, storages = OrderedDict(), {}
    for i, (name, array) in enumerate(arrays.items()):
        array = np.asarray(array, "<f4", order="C")
        strides = tuple(n // 4 for n in array.strides)
        state[name] = tensor(str(i), "FloatStorage", array.size, array.shape, strides)
        storages[str(i)] = array.tobytes()
    write_pth(file, state, storages, **options)


def save_safetensors(file, arrays, *, names=None):
    header, data = {"__metadata__": {"format": "pt"}}, b""
    types = {"f": "F", "i": "I", "u": "U"}
    for name, array in arrays.items():
        kind = (names or {}).get(name) or f"{types[array.dtype.kind]}{8 * array.itemsize}"
        end = len(data) + array.nbytes
        header[name] = {"dtype": kind, "shape": array.shape, "data_offsets": [len(data), end]}
        data += array.tobytes()
    text = json.dumps(header).encode()
    file.write_bytes(struct.pack("<Q", len(text)) + text + data)


# reading


def some_arrays():
    return {
        "a.weight": RNG.normal(size=(3, 4, 2)).astype(np.float32),
        "scalar": np.float32(2.5).reshape(()),
        "empty": np.zeros((0, 3), np.float32),
    }


@pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_a_state_dict_comes_back(tmp_path, compression):
    arrays = some_arrays()
    save_pth(tmp_path / "w.pth", arrays, compression=compression)
    save_safetensors(tmp_path / "w.safetensors", arrays)
    for file in ("w.pth", "w.safetensors"):
        found = read_state_dict(tmp_path / file)
        assert list(found) == list(arrays)
        for name, array in arrays.items():
            np.testing.assert_array_equal(found[name], array)
            assert found[name].shape == array.shape


def test_views_of_a_shared_storage_and_every_type(tmp_path):
    numbers = np.arange(24, dtype=np.float32)
    halves = np.array([1.5, -2.0], np.float16)
    bfloat = (np.array([1.0, -3.25], np.float32).view(np.uint32) >> 16).astype(np.uint16)
    state = {
        "whole": tensor("0", "FloatStorage", 24, (4, 6), (6, 1)),
        "transposed": tensor("0", "FloatStorage", 24, (6, 4), (1, 6)),
        "part": tensor("0", "FloatStorage", 24, (2, 3), (6, 2), 7),
        "expanded": tensor("0", "FloatStorage", 24, (3, 2), (0, 1)),
        "half": tensor("1", "HalfStorage", 2, (2,), (1,)),
        "bfloat": tensor("2", "BFloat16Storage", 2, (2,), (1,)),
        "long": tensor("3", "LongStorage", 1, (), ()),
        "parameter": Call(
            Named("torch._utils", "_rebuild_parameter"),
            tensor("0", "FloatStorage", 24, (2,), (1,)),
            True,
            OrderedDict(),
        ),
    }
    storages = {
        "0": numbers.tobytes(),
        "1": halves.tobytes(),
        "2": bfloat.tobytes(),
        "3": np.int64(-7).tobytes(),
    }
    write_pth(tmp_path / "w.pth", {"epoch": 3, "state_dict": state}, storages)
    found = read_state_dict(tmp_path / "w.pth")
    np.testing.assert_array_equal(found["whole"], numbers.reshape(4, 6))
    np.testing.assert_array_equal(found["transposed"], numbers.reshape(4, 6).T)
    np.testing.assert_array_equal(found["part"], numbers.reshape(4, 6)[1:3, 1::2])
    np.testing.assert_array_equal(found["expanded"], np.tile(numbers[:2], (3, 1)))
    np.testing.assert_array_equal(found["half"], halves)
    np.testing.assert_array_equal(found["bfloat"], [1.0, -3.25])
    assert found["long"] == -7
    np.testing.assert_array_equal(found["parameter"], [0, 1])
    save_safetensors(tmp_path / "w.safetensors", {"b": bfloat}, names={"b": "BF16"})
    np.testing.assert_array_equal(read_state_dict(tmp_path / "w.safetensors")["b"], [1.0, -3.25])


def test_a_file_that_calls_something_is_refused_and_calls_nothing(tmp_path):
    marker = tmp_path / "called"
    attack = Call(Named("os", "mkdir"), str(marker))
    write_pth(tmp_path / "w.pth", {"a": attack}, {})
    # The attack works on whoever trusts the file.
    with zipfile.ZipFile(tmp_path / "w.pth") as archive:
        pickle.loads(archive.read("model/data.pkl"))
    assert marker.is_dir()
    marker.rmdir()
    with pytest.raises(ValueError, match=r"it asks for os\.mkdir"):
        read_state_dict(tmp_path / "w.pth")
    assert not marker.exists()


@pytest.mark.parametrize(
    ("state", "storages", "message"),
    [
        ({"a": tensor("0", "FloatStorage", 4, (5,), (1,))}, {"0": bytes(16)}, "does not fit"),
        ({"a": tensor("0", "FloatStorage", 4, (2, 2), (3, 1))}, {"0": bytes(16)}, "does not fit"),
        ({"a": tensor("0", "FloatStorage", 4, (4,), (1,), 1)}, {"0": bytes(16)}, "does not fit"),
        ({"a": tensor("0", "FloatStorage", 4, (4,), (-1,))}, {"0": bytes(16)}, "whole numbers"),
        ({"a": tensor("0", "FloatStorage", 4, (4, 1), (1,))}, {"0": bytes(16)}, "2 sizes"),
        ({"a": tensor("0", "FloatStorage", 4, (4,), (1,))}, {"0": bytes(12)}, "is 12 bytes"),
        ({"a": tensor("0", "FloatStorage", 4, (4,), (1,))}, {}, "missing"),
        ({"a": tensor("0", "QInt8Storage", 4, (4,), (1,))}, {"0": bytes(4)}, "QInt8Storage"),
        (
            {"a": tensor("0", "FloatStorage", 1, (2**28, 8), (0, 0))},
            {"0": bytes(4)},
            "would take 8589934592 bytes, at most 268435456",
        ),
        (
            {f"{i}": tensor("0", "FloatStorage", 1, (2**20,), (0,)) for i in range(65)},
            {"0": bytes(4)},
            "would take 272629760 bytes",
        ),
        ({"a": tensor("0", "FloatStorage", 4, (2**60, 0), (1, 1))}, {"0": bytes(16)}, "whole num"),
        ({"a": tensor("0", "FloatStorage", 4, (1,) * 33, (1,) * 33)}, {"0": bytes(16)}, "33 sizes"),
        ({"a": tensor("0", "FloatStorage", 4, 4, 1)}, {"0": bytes(16)}, "are no tuples"),
        ({"a": tensor("0", "FloatStorage", 2**50, (4,), (1,))}, {"0": bytes(16)}, "as PyTorch"),
        ({"a": 3}, {}, "'a' is no tensor"),
        ([1, 2], {}, "no state dict"),
        ({}, {}, "no state dict"),
    ],
)
def test_what_is_wrong_with_an_archive_is_said(tmp_path, state, storages, message):
    write_pth(tmp_path / "w.pth", state, storages)
    with pytest.raises(ValueError, match=message) as error:
        read_state_dict(tmp_path / "w.pth")
    assert "w.pth" in str(error.value)
    assert "\n" not in str(error.value)


def test_an_archive_that_unpacks_to_more_than_its_size_explains(tmp_path):
    """A thousandth of it on the disk; and one that lies about how much it holds."""
    state = {"a": tensor("0", "FloatStorage", 4, (4,), (1,))}
    bomb = {"0": bytes(16), "1": bytes(260 << 20)}
    write_pth(tmp_path / "w.pth", state, bomb, compression=zipfile.ZIP_DEFLATED)
    assert (tmp_path / "w.pth").stat().st_size < 1 << 20
    with pytest.raises(ValueError, match="would unpack to more than 268435456 bytes"):
        read_state_dict(tmp_path / "w.pth")
    write_pth(tmp_path / "w.pth", state, {"0": bytes(64 << 20)}, compression=zipfile.ZIP_DEFLATED)
    size, said = struct.pack("<I", 64 << 20), struct.pack("<I", 16)
    (tmp_path / "w.pth").write_bytes((tmp_path / "w.pth").read_bytes().replace(size, said))
    tracemalloc.start()
    with pytest.raises(ValueError, match="CRC"):
        read_state_dict(tmp_path / "w.pth")
    assert tracemalloc.get_traced_memory()[1] < 8 << 20
    tracemalloc.stop()


def header_bytes(**entry):
    return json.dumps({"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8], **entry}})


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "neither"),
        (b"\x80\x02}q\x00.", "neither"),
        (struct.pack("<Q", 99) + b"{}", "neither"),
        ("{]", "header is damaged"),
        ("[" * 100_000, "header is damaged: it is nested"),
        (header_bytes(shape=[10**400]), "header is damaged"),
        (header_bytes(shape=[2**60, 0], data_offsets=[0, 0]), "whole numbers"),
        ("[1]", "no JSON object"),
        ("{}", "no tensors"),
        (header_bytes(dtype="F8_E4M3"), "unknown type"),
        (header_bytes(shape=[3]), "does not fit"),
        (header_bytes(data_offsets=[0, 16], shape=[4]), "does not fit"),
        (header_bytes(shape=[-2]), "whole numbers"),
        (header_bytes(data_offsets=[4, 8], shape=[1]), "twice or never"),
        (header_bytes(data_offsets=[0, 4], shape=[1]), "belong to nothing"),
    ],
)
def test_what_is_wrong_with_safetensors_is_said(tmp_path, content, message):
    if isinstance(content, str):
        content = struct.pack("<Q", len(content)) + content.encode() + bytes(8)
    (tmp_path / "w.safetensors").write_bytes(content)
    with pytest.raises(ValueError, match=message):
        read_state_dict(tmp_path / "w.safetensors")


def test_damaged_archives(tmp_path):
    file = tmp_path / "w.pth"
    save_pth(file, some_arrays())
    whole = file.read_bytes()
    file.write_bytes(whole[:-30])
    with pytest.raises(ValueError, match="cannot read the weights"):
        read_state_dict(file)
    # One byte of a tensor: the archive's own checksum tells.
    at = whole.index(np.float32(2.5).tobytes())
    file.write_bytes(whole[:at] + b"\xff" + whole[at + 1 :])
    with pytest.raises(ValueError, match="CRC"):
        read_state_dict(file)
    save_pth(file, some_arrays(), byteorder=b"big")
    with pytest.raises(ValueError, match="little-endian"):
        read_state_dict(file)
    with pytest.raises(ValueError, match="is missing"):
        read_state_dict(tmp_path / "nowhere.pth")


# the U-Net of DDPM


def ddpm_shapes(width, multipliers, layers, attention, channels=3, names="old"):
    """Name -> shape as diffusers has them, and how weights are used: written from its description."""
    shapes = {}
    levels = [width * m for m in multipliers]
    parts = {
        "old": ("query", "key", "value", "proj_attn"),
        "new": ("to_q", "to_k", "to_v", "to_out.0"),
    }[names]

    def layer(name, *shape):
        shapes[f"{name}.weight"] = shape
        shapes[f"{name}.bias"] = shape[:1]

    def resnet(name, into, out):
        layer(f"{name}.norm1", into)
        layer(f"{name}.conv1", out, into, 3, 3)
        layer(f"{name}.time_emb_proj", out, 4 * width)
        layer(f"{name}.norm2", out)
        layer(f"{name}.conv2", out, out, 3, 3)
        if into != out:
            layer(f"{name}.conv_shortcut", out, into, 1, 1)

    def attended(name, size):
        layer(f"{name}.group_norm", size)
        for part in parts:
            layer(f"{name}.{part}", size, size)

    layer("conv_in", width, channels, 3, 3)
    layer("time_embedding.linear_1", 4 * width, width)
    layer("time_embedding.linear_2", 4 * width, 4 * width)
    skips, now = [width], width
    for level, size in enumerate(levels):
        for i in range(layers):
            resnet(f"down_blocks.{level}.resnets.{i}", now, size)
            now = size
            skips.append(now)
            if level in attention:
                attended(f"down_blocks.{level}.attentions.{i}", size)
        if level < len(levels) - 1:
            layer(f"down_blocks.{level}.downsamplers.0.conv", size, size, 3, 3)
            skips.append(now)
    resnet("mid_block.resnets.0", now, now)
    attended("mid_block.attentions.0", now)
    resnet("mid_block.resnets.1", now, now)
    for j, size in enumerate(reversed(levels)):
        for i in range(layers + 1):
            resnet(f"up_blocks.{j}.resnets.{i}", now + skips.pop(), size)
            now = size
            if len(levels) - 1 - j in attention:
                attended(f"up_blocks.{j}.attentions.{i}", size)
        if j < len(levels) - 1:
            layer(f"up_blocks.{j}.upsamplers.0.conv", size, size, 3, 3)
    layer("conv_norm_out", now)
    layer("conv_out", channels, now, 3, 3)
    return shapes


def random_weights(seed=0, names="old", **options):
    rng = np.random.default_rng(seed)
    shapes = ddpm_shapes(**{**TINY, **options}, names=names)
    return {
        name: (rng.normal(size=shape) * (0.4 if len(shape) == 1 else 1.2 / np.sqrt(np.prod(shape[1:]))))
        .astype(np.float32)
        for name, shape in shapes.items()
    }  # fmt: skip


TINY = {"width": 8, "multipliers": (1, 2), "layers": 2, "attention": (1,)}
GROUPS = 4


class ReferenceUNet:
    """DDPM's forward pass on (batch, channels, height, width), in double precision NumPy."""

    def __init__(self, weights, layers, attention):
        self.w = {name: np.asarray(array, np.float64) for name, array in weights.items()}
        self.layers, self.attended = layers, attention

    def norm(self, name, x):
        n, c, h, w = x.shape
        y = x.reshape(n, GROUPS, -1)
        y = (y - y.mean(axis=2, keepdims=True)) / np.sqrt(y.var(axis=2, keepdims=True) + 1e-6)
        scale, bias = self.w[f"{name}.weight"], self.w[f"{name}.bias"]
        return y.reshape(x.shape) * scale[:, None, None] + bias[:, None, None]

    def conv(self, name, x, stride=1):
        kernel, bias = self.w[f"{name}.weight"], self.w[f"{name}.bias"]
        size = kernel.shape[-1]
        if size == 3:
            # Strided ones are padded below and on the right only.
            border = (1, 1) if stride == 1 else (0, 1)
            x = np.pad(x, ((0, 0), (0, 0), border, border))
        h, w = (x.shape[2] - size) // stride + 1, (x.shape[3] - size) // stride + 1
        y = np.zeros((len(x), len(kernel), h, w)) + bias[:, None, None]
        for i in range(size):
            for j in range(size):
                part = x[:, :, i : i + stride * (h - 1) + 1 : stride, j:][
                    ..., : stride * (w - 1) + 1 : stride
                ]
                y += np.einsum("oc,nchw->nohw", kernel[:, :, i, j], part)
        return y

    def linear(self, name, x):
        return x @ self.w[f"{name}.weight"].T + self.w[f"{name}.bias"]

    def resnet(self, name, x, e):
        h = self.conv(f"{name}.conv1", silu(self.norm(f"{name}.norm1", x)))
        h = h + self.linear(f"{name}.time_emb_proj", silu(e))[:, :, None, None]
        h = self.conv(f"{name}.conv2", silu(self.norm(f"{name}.norm2", h)))
        if f"{name}.conv_shortcut.weight" in self.w:
            x = self.conv(f"{name}.conv_shortcut", x)
        return x + h

    def attention(self, name, x):
        n, c, h, w = x.shape
        y = self.norm(f"{name}.group_norm", x).reshape(n, c, h * w).transpose(0, 2, 1)
        q, k, v = (self.linear(f"{name}.{part}", y) for part in ("query", "key", "value"))
        logits = q @ k.transpose(0, 2, 1) / np.sqrt(c)
        p = np.exp(logits - logits.max(axis=2, keepdims=True))
        y = self.linear(f"{name}.proj_attn", p / p.sum(axis=2, keepdims=True) @ v)
        return x + y.transpose(0, 2, 1).reshape(x.shape)

    def __call__(self, x, steps):
        half = len(self.w["conv_in.bias"]) // 2
        angles = steps[:, None] * np.exp(-np.log(10000) * np.arange(half) / (half - 1))
        e = np.concatenate([np.sin(angles), np.cos(angles)], axis=1)
        e = self.linear("time_embedding.linear_1", e)
        e = self.linear("time_embedding.linear_2", silu(e))
        x = self.conv("conv_in", x)
        skips, n_levels = [x], len(TINY["multipliers"])
        for level in range(n_levels):
            for i in range(self.layers):
                x = self.resnet(f"down_blocks.{level}.resnets.{i}", x, e)
                if level in self.attended:
                    x = self.attention(f"down_blocks.{level}.attentions.{i}", x)
                skips.append(x)
            if level < n_levels - 1:
                x = self.conv(f"down_blocks.{level}.downsamplers.0.conv", x, stride=2)
                skips.append(x)
        x = self.resnet("mid_block.resnets.0", x, e)
        x = self.attention("mid_block.attentions.0", x)
        x = self.resnet("mid_block.resnets.1", x, e)
        for j in range(n_levels):
            for i in range(self.layers + 1):
                x = np.concatenate([x, skips.pop()], axis=1)
                x = self.resnet(f"up_blocks.{j}.resnets.{i}", x, e)
                if n_levels - 1 - j in self.attended:
                    x = self.attention(f"up_blocks.{j}.attentions.{i}", x)
            if j < n_levels - 1:
                x = np.repeat(np.repeat(x, 2, axis=2), 2, axis=3)
                x = self.conv(f"up_blocks.{j}.upsamplers.0.conv", x)
        return self.conv("conv_out", silu(self.norm("conv_norm_out", x)))


def silu(x):
    return x / (1 + np.exp(-x))


def test_imported_weights_compute_what_they_did():
    weights = random_weights()
    module, params = unet_from_state_dict(weights, groups=GROUPS)
    rng = np.random.default_rng(1)
    x = rng.normal(size=(3, 3, 8, 12))
    steps = np.array([0.0, 321.0, 999.0])
    expected = ReferenceUNet(weights, TINY["layers"], TINY["attention"])(x, steps)
    kept = np.cumprod(1 - np.linspace(1e-4, 0.02, 1000))[steps.astype(int)]
    levels = jnp.asarray(np.log(kept / (1 - kept)), jnp.float32)
    z = jnp.asarray(x.transpose(0, 2, 3, 1), jnp.float32)
    apply = jax.jit(module.apply)
    found = np.asarray(apply(params, z, levels)).transpose(0, 3, 1, 2)
    scale = abs(expected).max()
    assert scale > 0.1
    np.testing.assert_allclose(found, expected, atol=2e-5 * scale)
    # Between two steps lies what is between them.
    between = apply(params, z, levels.at[1].add(-1e-3))
    assert 0 < abs(np.asarray(between)[1].transpose(2, 0, 1) - expected[1]).max() < 0.2 * scale


@pytest.mark.parametrize("squeezed", [True, False])
def test_both_spellings_of_attention(squeezed):
    old, new = random_weights(names="old"), random_weights(names="new")
    if not squeezed:  # the oldest files have 1 x 1 convolutions
        old = {
            k: v[..., None, None] if ".query." in k and v.ndim == 2 else v for k, v in old.items()
        }
    first, second = (unet_from_state_dict(w, groups=GROUPS) for w in (old, new))
    assert first.module == second.module
    jax.tree.map(np.testing.assert_array_equal, first.params, second.params)


def test_the_published_architecture_is_recognised():
    shapes = ddpm_shapes(128, (1, 2, 2, 2), 2, (1,))
    weights = {name: np.broadcast_to(np.float32(0), shape) for name, shape in shapes.items()}
    module, params = unet_from_state_dict(weights)
    assert (module.width, module.multipliers, module.blocks_per_level) == (128, (1, 2, 2, 2), 2)
    assert module.attention_levels == (1,)
    assert sum(leaf.size for leaf in jax.tree.leaves(params)) == 35_746_307


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda w: w.pop("conv_in.bias"), r"lack conv_in\.bias"),
        (lambda w: w.pop("mid_block.resnets.1.conv2.weight"), "lack mid_block.resnets.1.conv2"),
        (lambda w: w.update(other=np.zeros(2)), "hold other, which nothing takes"),
        (
            lambda w: w.update({"conv_out.weight": np.zeros((3, 9, 3, 3))}),
            "conv_out.kernel has shape",
        ),
        (lambda w: w["conv_out.bias"].fill(np.nan), "conv_out.bias is not finite"),
        (lambda w: w.update({"conv_in.weight": np.zeros((8, 3))}), "expected four axes"),
        (
            lambda w: w.pop("down_blocks.0.resnets.1.conv_shortcut.weight", w.clear()),
            "lack conv_in",
        ),
    ],
)
def test_weights_of_another_network_are_refused(change, message):
    weights = random_weights()
    change(weights)
    with pytest.raises(ValueError, match=message):
        unet_from_state_dict(weights, groups=GROUPS)


# the script


def test_the_script_imports_a_unet(tmp_path, capsys):
    weights = random_weights(width=32, multipliers=(1,), layers=1, attention=())
    save_safetensors(tmp_path / "unet.safetensors", weights)
    arguments = [
        "--kind=ddpm-unet",
        f"--weights={tmp_path / 'unet.safetensors'}",
        f"--out={tmp_path / 'out'}",
    ]
    assert import_torch.run(arguments) == 0
    assert "UNet(" in capsys.readouterr().out
    network = load_network(tmp_path / "out")
    module, params = unet_from_state_dict(weights)
    assert network.module == module
    jax.tree.map(np.testing.assert_array_equal, network.params, params)
    assert network.about["source"] == "unet.safetensors"
    assert network.about["prediction"] == "epsilon"
    assert network.about["condition"] == "log_snr"  # what a density asks for
    # A second import overwrites nothing.
    before = sorted(tmp_path.rglob("*"))
    assert import_torch.run(arguments) == 2
    assert "already exists" in capsys.readouterr().err
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--kind=ddpm-unet"], "--weights is missing"),
        (["--weights=a", "--out=b"], "--kind is missing"),
        (["--kind=ddpm", "--weights=a", "--out=b"], "did you mean ddpm-unet"),
        (
            ["--kind=ddpm-unet", "--weights=a", "--out=b", "--n=3"],
            "--n needs --kind=message-passing",
        ),
        (["--kind=ddpm-unet", "--weights=nowhere.pth", "--out=b"], "nowhere.pth is missing"),
    ],
)
def test_the_script_says_what_is_wrong_in_one_line(
    tmp_path, monkeypatch, capsys, arguments, message
):
    monkeypatch.chdir(tmp_path)
    assert import_torch.run(arguments) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("kind", ["message-passing", "ddpm-unet"])
def test_foreign_weights_leave_no_folder(tmp_path, capsys, kind):
    save_pth(tmp_path / "w.pth", some_arrays())
    arguments = [f"--kind={kind}", f"--weights={tmp_path / 'w.pth'}", f"--out={tmp_path / 'out'}"]
    assert import_torch.run(arguments) == 2
    assert "these are no weights of" in capsys.readouterr().err
    assert os.listdir(tmp_path) == ["w.pth"]


@pytest.mark.skipif(not PUBLISHED.is_file(), reason="the published weights are not here")
def test_the_published_message_passing_weights(tmp_path, capsys):
    weights = read_state_dict(PUBLISHED)
    assert sum(array.size for array in weights.values()) == 2289
    arguments = ["--kind=message-passing", f"--weights={PUBLISHED}", f"--out={tmp_path / 'out'}"]
    assert import_torch.run(arguments) == 0
    assert "n_layers=10" in capsys.readouterr().out
