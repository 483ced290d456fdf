r"""U-Net on a CPU beside the same network in PyTorch: CPU time and memory on one thread each.

    python benchmarks/unet.py
    python benchmarks/unet.py --tasks=sparse_pixels --rounds=5

The tasks are the networks of the `cpu` presets of `experiments.sparse_pixels` and
`experiments.information_theoretic`, with batches of 16 and 32. The PyTorch module is the architecture
written down directly, with `Conv2d`, `GroupNorm` and `scaled_dot_product_attention`; it needs the extra
`torch`, without which its rows say so. Both get the same parameters and images; `difference` is the
largest |u - u'| of the predictions, or of the gradients relative to the largest entry; above 1e-4 it is
an error.

forward   one prediction of a batch.
step      a gradient step: forward, backward, Adam, on the squared error to given images.

Ours run in a compiled loop of --steps, as training and sampling do; PyTorch's in one of Python.
Processes of both take turns for --rounds; milliseconds are the medians of processor time over all
rounds, per call. MiB are the growth of a process that does only this, from after its imports and
parameters to its peak; ours includes the compiler, but for `again`, of a process that finds the program
in JAX's compilation cache, as every script does from its second run on. `buffers` is XLA's own count
for the compiled loop (arguments, results, temporaries).
"""

import argparse
import json
import statistics
import tempfile
from pathlib import Path
from typing import Any

from measurement import (
    MEBI,
    ONE_THREAD,
    Table,
    arguments_of,
    describe_machine,
    measure_apart,
    median_seconds,
    one_processor,
    peak_memory,
    words,
    write_output,
)

TASKS = {
    # Images per step, channels in and out, radians per unit of time.
    "sparse_pixels": {"batch": 16, "channels": 12, "time_scale": 1000.0},
    "information_theoretic": {"batch": 32, "channels": 6, "time_scale": 50.0},
}
SIDE, COLOURS, RATE = 32, 3, 1e-3
TOLERANCE = 1e-4


def inputs(request: dict[str, Any]) -> dict[str, Any]:
    """Images, times and what is to be predicted; NumPy, the same for both."""
    import numpy as np

    rng = np.random.default_rng(0)
    shape = (request["batch"], SIDE, SIDE)
    return {
        "z": rng.standard_normal((*shape, request["channels"]), np.float32),
        "t": rng.uniform(0.0, 1.0, request["batch"]).astype(np.float32),
        "target": rng.standard_normal((*shape, COLOURS), np.float32),
    }


def measure_ours(request: dict[str, Any]) -> dict[str, Any]:
    """The network of this repository."""
    import jax
    import jax.numpy as jnp
    import numpy as np
    import optax

    from diffusions.networks.presets import UNET_PRESETS
    from diffusions.networks.unet import UNet

    data = {name: jnp.asarray(x) for name, x in inputs(request).items()}
    options = UNET_PRESETS[request["unet"]]
    model = UNet(out_channels=COLOURS, time_scale=request["time_scale"], **options)
    params = jax.jit(model.init)(jax.random.key(0), data["z"][:1], data["t"][:1])
    # A new network predicts zero.
    rng = np.random.default_rng(1)
    params = jax.tree.map(
        lambda x: x + np.float32(0.05) * rng.standard_normal(x.shape, np.float32), params
    )
    optimizer = optax.adam(RATE)

    def loss(params: Any, data: dict[str, Any]) -> Any:
        return jnp.mean((model.apply(params, data["z"], data["t"]) - data["target"]) ** 2)  # type: ignore[operator]

    def forward(params: Any, data: dict[str, Any]) -> Any:
        def body(z: Any, _: None) -> Any:
            made = model.apply(params, z, data["t"])
            return z.at[..., :COLOURS].add(1e-6 * made), None  # type: ignore[operator]

        return jax.lax.scan(body, data["z"], length=request["steps"])[0]

    def step(params: Any, data: dict[str, Any]) -> Any:
        def body(state: Any, _: None) -> Any:
            params, adam = state
            gradient = jax.grad(loss)(params, data)
            updates, adam = optimizer.update(gradient, adam)
            return (optax.apply_updates(params, updates), adam), None

        start = (params, optimizer.init(params))
        return jax.lax.scan(body, start, length=request["steps"])[0][0]

    if request["measured"] == "values":
        values = {
            "prediction": jax.jit(model.apply)(params, data["z"], data["t"]),
            "params": params["params"],
            "gradient": jax.jit(jax.grad(loss))(params, data)["params"],
        }
        flat = jax.tree_util.tree_leaves_with_path(values)
        np.savez(
            request["weights"],
            **{jax.tree_util.keystr(path, simple=True, separator="."): leaf for path, leaf in flat},  # type: ignore[arg-type]
        )
        return {}
    before = peak_memory()
    function = {"forward": forward, "step": step}[request["measured"]]
    program = jax.jit(function).lower(params, data).compile()
    memory = program.memory_analysis()
    held = memory.temp_size_in_bytes + memory.argument_size_in_bytes + memory.output_size_in_bytes
    seconds = median_seconds(
        lambda: jax.block_until_ready(program(params, data)), request["repeat"]
    )
    return {
        "seconds": seconds / request["steps"],
        "memory": peak_memory() - before,
        "buffers": held,
    }


def plain_module(
    channels: int, time_scale: float, width: int, multipliers: tuple[int, ...], **options: Any
) -> Any:
    """The network as one would write it in PyTorch, with our names of layers; images are NCHW."""
    import torch
    from torch import nn
    from torch.nn.functional import interpolate, pad, scaled_dot_product_attention, silu

    blocks, attention_levels = options["blocks_per_level"], options["attention_levels"]
    groups, dim = options.get("groups", 32), 4 * width

    def norm(channels: int) -> nn.GroupNorm:
        return nn.GroupNorm(min(groups, channels), channels, eps=1e-6)

    class Block(nn.Module):
        def __init__(self, into: int, out: int):
            super().__init__()
            self.norm_1, self.conv_1 = norm(into), nn.Conv2d(into, out, 3, padding=1)
            self.time = nn.Linear(dim, out)
            self.norm_2, self.conv_2 = norm(out), nn.Conv2d(out, out, 3, padding=1)
            if into != out:
                self.shortcut = nn.Conv2d(into, out, 1)

        def forward(self, x: Any, e: Any) -> Any:
            h = self.conv_1(silu(self.norm_1(x))) + self.time(silu(e))[:, :, None, None]
            h = self.conv_2(silu(self.norm_2(h)))
            return h + (self.shortcut(x) if hasattr(self, "shortcut") else x)

    class Attention(nn.Module):
        def __init__(self, channels: int):
            super().__init__()
            self.norm, self.qkv = norm(channels), nn.Linear(channels, 3 * channels)
            self.out = nn.Linear(channels, channels)

        def forward(self, x: Any) -> Any:
            h = self.qkv(self.norm(x).flatten(2).transpose(1, 2))
            h = self.out(scaled_dot_product_attention(*h.chunk(3, dim=-1)))
            return x + h.transpose(1, 2).reshape(x.shape)

    class Plain(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            n = len(multipliers)
            out = [width * multiplier for multiplier in multipliers]
            self.time_1, self.time_2 = nn.Linear(width, dim), nn.Linear(dim, dim)
            self.conv_in = nn.Conv2d(channels, width, 3, padding=1)
            sizes, now = [width], width
            for level in range(n):
                for i in range(blocks):
                    self.add_module(f"down_{level}_block_{i}", Block(now, out[level]))
                    now = out[level]
                    if level in attention_levels:
                        self.add_module(f"down_{level}_attention_{i}", Attention(now))
                    sizes.append(now)
                if level < n - 1:
                    self.add_module(f"down_{level}_resize", nn.Conv2d(now, now, 3, stride=2))
                    sizes.append(now)
            self.middle_block_0, self.middle_block_1 = Block(now, now), Block(now, now)
            self.middle_attention = Attention(now)
            for level in reversed(range(n)):
                for i in range(blocks + 1):
                    block = Block(now + sizes.pop(), out[level])
                    self.add_module(f"up_{level}_block_{i}", block)
                    now = out[level]
                    if level in attention_levels:
                        self.add_module(f"up_{level}_attention_{i}", Attention(now))
                if level > 0:
                    self.add_module(f"up_{level}_resize", nn.Conv2d(now, now, 3, padding=1))
            self.norm_out, self.conv_out = norm(now), nn.Conv2d(now, COLOURS, 3, padding=1)

        def forward(self, z: Any, t: Any) -> Any:
            layers, n, half = self._modules, len(multipliers), width // 2
            omega = time_scale * 1e4 ** (-torch.arange(half) / (half - 1))
            angles = t[:, None] * omega
            e = torch.cat([angles.sin(), angles.cos()], dim=1)
            e = self.time_2(silu(self.time_1(e)))

            def at(way: str, level: int, i: int, x: Any) -> Any:
                x = layers[f"{way}_{level}_block_{i}"](x, e)
                return layers[f"{way}_{level}_attention_{i}"](x) if level in attention_levels else x

            x = self.conv_in(z)
            outputs = [x]
            for level in range(n):
                for i in range(blocks):
                    x = at("down", level, i, x)
                    outputs.append(x)
                if level < n - 1:
                    x = layers[f"down_{level}_resize"](pad(x, (0, 1, 0, 1)))
                    outputs.append(x)
            x = self.middle_block_1(self.middle_attention(self.middle_block_0(x, e)), e)
            for level in reversed(range(n)):
                for i in range(blocks + 1):
                    x = at("up", level, i, torch.cat([x, outputs.pop()], dim=1))
                if level > 0:
                    x = layers[f"up_{level}_resize"](interpolate(x, scale_factor=2))
            return self.conv_out(silu(self.norm_out(x)))

    return Plain()


def measure_torch(request: dict[str, Any]) -> dict[str, Any]:
    """The plain module, with the parameters that our network had."""
    import numpy as np
    import torch

    from diffusions.networks.presets import UNET_PRESETS

    torch.set_num_threads(1)
    data = {name: torch.from_numpy(x) for name, x in inputs(request).items()}
    for name in ("z", "target"):
        data[name] = data[name].permute(0, 3, 1, 2).contiguous()
    options = UNET_PRESETS[request["unet"]]
    module = plain_module(request["channels"], request["time_scale"], **options)
    stored = np.load(request["weights"])

    def ours(kind: str, name: str, shape: Any) -> Any:
        layer, _, leaf = name.rpartition(".")
        names = [
            f"{kind}.{layer}.{n}" for n in (("bias",) if leaf == "bias" else ("kernel", "scale"))
        ]
        found = next(stored[n] for n in names if n in stored)
        # (rows, columns, in, out) or (in, out) to (out, in, rows, columns) or (out, in).
        order = (3, 2, 0, 1) if found.ndim == 4 else tuple(reversed(range(found.ndim)))
        return torch.from_numpy(found.transpose(order).copy()).reshape(shape)

    with torch.no_grad():
        for name, parameter in module.named_parameters():
            parameter.copy_(ours("params", name, parameter.shape))
    optimizer = torch.optim.Adam(module.parameters(), lr=RATE)

    def forward() -> Any:
        with torch.no_grad():
            return module(data["z"], data["t"])

    def gradient() -> None:
        optimizer.zero_grad()
        ((module(data["z"], data["t"]) - data["target"]) ** 2).mean().backward()

    def step() -> None:
        gradient()
        optimizer.step()

    if request["measured"] == "values":
        prediction = torch.from_numpy(stored["prediction"]).permute(0, 3, 1, 2)
        differences = [float((forward() - prediction).abs().max())]
        gradient()
        pairs = [(p.grad, ours("gradient", name, p.shape)) for name, p in module.named_parameters()]
        largest = max(float(own.abs().max()) for _, own in pairs)
        differences += [float((found - own).abs().max()) / largest for found, own in pairs]
        n_parameters = sum(p.numel() for p in module.parameters())
        n_ours = sum(stored[name].size for name in stored if name.startswith("params."))
        if max(differences) > TOLERANCE or n_parameters != n_ours:
            raise ValueError(
                f"the networks differ: {n_parameters} and {n_ours} parameters, predictions by "
                f"{differences[0]:.1e}, gradients by {max(differences[1:]):.1e}"
            )
        return {"difference": max(differences)}
    before = peak_memory()
    call = {"forward": forward, "step": step}[request["measured"]]

    def calls() -> None:
        for _ in range(request["steps"]):
            call()

    seconds = median_seconds(calls, request["repeat"])
    return {"seconds": seconds / request["steps"], "memory": peak_memory() - before}


def define(parser: argparse.ArgumentParser) -> None:
    """The options."""
    parser.add_argument("--tasks", type=words, default=list(TASKS))
    parser.add_argument("--unet", default="tiny", help="preset of the network")
    parser.add_argument("--batch", type=int, help="images; absent, the task's")
    parser.add_argument("--steps", type=int, default=4, help="calls of a compiled loop")
    parser.add_argument("--repeat", type=int, default=5, help="loops per process")
    parser.add_argument("--rounds", type=int, default=3, help="processes of each")


def main() -> None:
    """Prints the table."""
    arguments = arguments_of(__doc__, define)
    if arguments.measure:
        one_processor()
        kinds = {"ours": measure_ours, "torch": measure_torch}
        print(json.dumps(kinds[arguments.measure["kind"]](arguments.measure)))
        return
    print(describe_machine())
    table = Table(
        [
            ("task", "task", 21, "s"),
            ("batch", "batch", 5, "d"),
            ("measured", "measured", 8, "s"),
            ("ours_ms", "ours CPU ms", 11, ".1f"),
            ("torch_ms", "PyTorch CPU ms", 14, ".1f"),
            ("gain", "x faster", 8, ".2f"),
            ("ours_mb", "ours MiB", 8, ".0f"),
            ("again_mb", "again MiB", 9, ".0f"),
            ("buffers_mb", "buffers", 7, ".0f"),
            ("torch_mb", "PyTorch MiB", 11, ".0f"),
            ("difference", "difference", 10, ".1e"),
        ]
    )
    with tempfile.TemporaryDirectory() as folder:
        for task in arguments.tasks:
            shared = TASKS[task] | {"task": task, "unet": arguments.unet}
            shared |= {"steps": arguments.steps, "repeat": arguments.repeat}
            shared["weights"] = str(Path(folder) / f"{task}.npz")
            shared["batch"] = arguments.batch or shared["batch"]
            for row in _rows(arguments, shared):
                table.add(row)
    write_output(arguments.output, rows=table.rows)


def _rows(arguments: argparse.Namespace, shared: dict[str, Any]) -> list[dict[str, Any]]:
    programs = {
        "JAX_ENABLE_COMPILATION_CACHE": "true",
        "JAX_COMPILATION_CACHE_DIR": str(Path(shared["weights"]).with_suffix(".programs")),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    }

    def measured(kind: str, what: str, *, again: bool = False) -> dict[str, Any]:
        request = shared | {"kind": kind, "measured": what}
        cache = programs if again else {"JAX_ENABLE_COMPILATION_CACHE": "false"}
        return measure_apart(__file__, request, arguments.timeout, **ONE_THREAD, **cache)

    compared = measured("ours", "values") | measured("torch", "values")
    if "failed" in compared:
        return [shared | compared]
    rows = []
    for what in ("forward", "step"):
        row = shared | compared | {"measured": what}
        for kind in ("ours", "torch"):
            row[kind] = []
        for _ in range(arguments.rounds):
            for kind in ("ours", "torch"):
                found = measured(kind, what)
                if "failed" in found:
                    row["failed"] = found["failed"]
                else:
                    row[kind].append(found)
        for kind in ("ours", "torch"):
            if row[kind]:
                row[f"{kind}_ms"] = 1e3 * statistics.median(one["seconds"] for one in row[kind])
                row[f"{kind}_mb"] = max(one["memory"] for one in row[kind]) / MEBI
        if row["ours"]:
            row["buffers_mb"] = row["ours"][0]["buffers"] / MEBI
            left = measured("ours", what, again=True)  # its programs, for the next one to find
            row["again"] = left if "failed" in left else measured("ours", what, again=True)
            if "failed" in row["again"]:
                row["failed"] = row["again"]["failed"]
            else:
                row["again_mb"] = row["again"]["memory"] / MEBI
        if row["ours"] and row["torch"]:
            row["gain"] = row["torch_ms"] / row["ours_ms"]
        rows.append(row)
    return rows


if __name__ == "__main__":
    main()
