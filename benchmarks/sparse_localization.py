r"""Message-passing denoiser: CPU time and memory beside a module that stores every hidden unit.

    python benchmarks/sparse_localization.py
    python benchmarks/sparse_localization.py --sizes=350,128 --hidden=32,64,128

The naive module is the architecture written down directly in PyTorch: its message layer holds
[batch, n, n, hidden]. It needs the extra `torch`; without it its row says so. Both get the same
parameters and the same observations; `difference` is the largest |u - u'| between the two. Milliseconds
are processor time on one thread, per sample, for both in one run: what a busy machine does to the clock
is no part of them.

Operations per second count, per pair of nodes, hidden unit and layer, the four of a forward pass that
`blocked_messages` names (a multiply-add counts two: five). The peak of the fused network is XLA's own
count for the compiled program (arguments, results, temporaries); that of the naive one is the growth of
the process.
"""

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any

from measurement import (
    ONE_THREAD,
    Table,
    arguments_of,
    describe_machine,
    measure_apart,
    median_seconds,
    numbers,
    one_processor,
    peak_memory,
    write_output,
)

LAYERS = 10
OPERATIONS_PER_UNIT = 5


def inputs(n: int, batch: int, k: int) -> dict[str, Any]:
    """Observations at t = n, vectors to start from, and the truth; NumPy, the same for everyone."""
    import numpy as np

    u, noise = np.zeros((batch, n), np.float32), np.empty((batch, n, n), np.float32)
    start = np.empty((batch, n), np.float32)
    for i in range(batch):  # each from its own stream: batches of any size begin alike
        rng = np.random.default_rng(i)
        if i % 2 == 0:
            u[i, rng.permutation(n)[:k]] = rng.choice([-1, 1], k) / np.sqrt(k)
        noise[i] = rng.standard_normal((n, n), np.float32) / np.sqrt(np.float32(n))
        start[i] = rng.standard_normal(n, np.float32)
    return {
        "u": u,
        "edges": u[:, :, None] * u[:, None, :] + (noise + noise.swapaxes(1, 2)) / 2,
        "start": start / np.linalg.norm(start, axis=1, keepdims=True),
        "t": np.full(batch, n, np.float32),
    }


def measure_fused(request: dict[str, Any]) -> dict[str, Any]:
    """The network of this repository."""
    import jax
    import jax.numpy as jnp
    import numpy as np

    from diffusions.networks.message_passing import MessagePassingDenoiser
    from diffusions.sparse_estimators import squared_distance

    n, batch, hidden, k = (request[name] for name in ("n", "batch", "hidden", "k"))
    data = {name: jnp.asarray(x) for name, x in inputs(n, batch, k).items()}
    model = MessagePassingDenoiser(n_nonzero=k, n_layers=LAYERS, hidden=hidden)
    arrays = (data["edges"], data["t"], data["start"])
    # Larger than drawn: nodes that hardly differ would be chosen by rounding.
    params = jax.tree.map(lambda x: 3 * x, model.init(jax.random.key(0), *arrays))

    def loss(params: Any, *arrays: Any) -> Any:
        return squared_distance(model.apply(params, *arrays, train=True), data["u"]).mean()

    result: dict[str, Any] = {}
    for name, function in (("forward", model.apply), ("gradient", jax.value_and_grad(loss))):
        begin = time.perf_counter()
        program = jax.jit(function).lower(params, *arrays).compile()
        result[f"{name}_compile"] = time.perf_counter() - begin
        memory = program.memory_analysis()
        held = (
            memory.temp_size_in_bytes + memory.argument_size_in_bytes + memory.output_size_in_bytes
        )
        result[f"{name}_floats"] = held / 4 / batch / n**2
        result[name] = (
            median_seconds(
                lambda p=program: jax.block_until_ready(p(params, *arrays)), request["repeat"]
            )
            / batch
        )
    if request.get("weights"):
        flat = {
            jax.tree_util.keystr(path, simple=True, separator="."): np.asarray(leaf)
            for path, leaf in jax.tree_util.tree_leaves_with_path(params["params"])
        }
        estimate = model.apply(params, *arrays, train=True)
        np.savez(request["weights"], **flat, estimate=np.asarray(estimate))
    operations = OPERATIONS_PER_UNIT * LAYERS * hidden * n**2
    return result | {"rate": operations / result["forward"] / 1e9}


def naive_module(hidden: int, k: int) -> Any:
    """The denoiser as one would first write it in PyTorch."""
    import torch
    from torch import nn

    def mlp(inputs: int, width: int) -> nn.Sequential:
        return nn.Sequential(nn.Linear(inputs, width), nn.LeakyReLU(0.01), nn.Linear(width, 1))

    class Naive(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.message = nn.ModuleList(mlp(3, hidden) for _ in range(LAYERS))
            self.update = nn.ModuleList(mlp(2, 16) for _ in range(LAYERS))
            self.logit_alpha = nn.Parameter(torch.zeros(LAYERS))
            self.readout = mlp(2, 4)
            self.direct = nn.Parameter(torch.ones(()))
            self.log_scale = nn.Parameter(torch.zeros(()))

        def forward(self, edges: Any, t: Any, v: Any) -> Any:
            n = edges.shape[-1]
            for _ in range(3):
                v = torch.einsum("bij,bj->bi", edges, v)
                v = v / v.norm(dim=1, keepdim=True).clamp(min=1e-5)
            for layer in range(LAYERS):
                receivers = v[:, :, None].expand(-1, -1, n)
                pairs = torch.stack([receivers, receivers.transpose(1, 2), edges], dim=-1)
                received = self.message[layer](pairs)[..., 0].mean(dim=2)
                update = self.update[layer](torch.stack([v, received], dim=-1))[..., 0]
                alpha = 0.85 * torch.sigmoid(self.logit_alpha[layer])
                v = alpha * v + (1 - alpha) * update
            s = torch.tanh(torch.exp(self.log_scale) * t / n)[:, None].expand_as(v)
            v = self.direct * v * s + self.readout(torch.stack([v, s], dim=-1))[..., 0]
            soft = torch.softmax(v.abs() / 0.2, dim=1)
            hard = torch.zeros_like(v).scatter(1, v.abs().topk(k, dim=1).indices, 1.0)
            return v * (hard + soft - soft.detach())

    return Naive()


def measure_naive(request: dict[str, Any]) -> dict[str, Any]:
    """The naive module, with the parameters that the fused network had."""
    import numpy as np
    import torch

    torch.set_num_threads(1)
    n, batch, hidden, k = (request[name] for name in ("n", "batch", "hidden", "k"))
    data = {name: torch.from_numpy(x) for name, x in inputs(n, batch, k).items()}
    module = naive_module(hidden, k)
    stored = {name: torch.from_numpy(x) for name, x in np.load(request["weights"]).items()}
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            parameter.copy_(_parameter(stored, name).reshape(parameter.shape))
    arrays = (data["edges"], data["t"], data["start"])

    def forward() -> Any:
        with torch.no_grad():
            return module(*arrays)

    def gradient() -> None:
        module.zero_grad()
        u, x = module(*arrays), data["u"]
        d, s = u - x, u + x
        parts = (d**2).sum(1) * (s**2).sum(1) + (d * s).sum(1) ** 2
        (0.5 * parts).mean().backward()

    before = peak_memory()
    result: dict[str, Any] = {"threads": torch.get_num_threads()}
    difference = (forward()[: len(stored["estimate"])] - stored["estimate"][:batch]).abs().max()
    for name, run in (("forward", forward), ("gradient", gradient)):
        result[name] = median_seconds(run, request["repeat"]) / batch
        result[f"{name}_floats"] = (peak_memory() - before) / 4 / batch / n**2
    return result | {"difference": float(difference)}


def _parameter(stored: dict[str, Any], name: str) -> Any:
    """A PyTorch parameter out of the stacked ones."""
    part, *rest = name.split(".")
    if not rest:
        return stored[name]
    layer = int(rest[0]) if part in ("message", "update") else None
    number, kind = rest[-2:]
    leaf = {"0weight": "kernel", "0bias": "bias", "2weight": "output", "2bias": "output_bias"}
    found = stored[f"{part}.{leaf[number + kind]}"]
    return found if layer is None else found[layer]


def define(parser: argparse.ArgumentParser) -> None:
    """The options."""
    parser.add_argument("--sizes", type=numbers, default=[350], help="n")
    parser.add_argument("--hidden", type=numbers, default=[32, 128], help="units; naive: the first")
    parser.add_argument("--batch", type=int, default=32, help="samples of the fused network")
    parser.add_argument("--naive-batch", type=int, default=4)
    parser.add_argument("--nonzero", type=int, default=20, help="k")
    parser.add_argument("--repeat", type=int, default=5)


def main() -> None:
    """Prints the table."""
    arguments = arguments_of(__doc__, define)
    if arguments.measure:
        one_processor()
        kinds = {"fused": measure_fused, "naive": measure_naive}
        print(json.dumps(kinds[arguments.measure["kind"]](arguments.measure)))
        return
    print(describe_machine())
    table = Table(
        [
            ("kind", "module", 7, "s"),
            ("n", "n", 4, "d"),
            ("hidden", "hidden", 6, "d"),
            ("batch", "batch", 5, "d"),
            ("forward_ms", "forward CPU ms", 14, ".2f"),
            ("gradient_ms", "gradient CPU ms", 15, ".2f"),
            ("forward_floats", "peak/n^2", 8, ".2f"),
            ("gradient_floats", "with grad", 9, ".2f"),
            ("rate", "Gop/s", 6, ".1f"),
            ("forward_gain", "x faster", 8, ".1f"),
            ("gradient_gain", "x (grad)", 8, ".1f"),
            ("difference", "difference", 10, ".1e"),
        ]
    )
    with tempfile.TemporaryDirectory() as folder:
        for n in arguments.sizes:
            for number, hidden in enumerate(arguments.hidden):
                weights = str(Path(folder) / f"{n}_{hidden}.npz")
                request = {"n": n, "hidden": hidden, "k": arguments.nonzero, "weights": weights}
                request["repeat"] = arguments.repeat
                fused = _measured(arguments, request | {"kind": "fused", "batch": arguments.batch})
                if number == 0 and "failed" not in fused:
                    naive = _measured(
                        arguments, request | {"kind": "naive", "batch": arguments.naive_batch}
                    )
                    table.add(naive)
                    if "failed" not in naive:
                        fused["forward_gain"] = naive["forward"] / fused["forward"]
                        fused["gradient_gain"] = naive["gradient"] / fused["gradient"]
                table.add(fused)
    write_output(arguments.output, rows=table.rows)


def _measured(arguments: argparse.Namespace, request: dict[str, Any]) -> dict[str, Any]:
    row = request | measure_apart(__file__, request, arguments.timeout, **ONE_THREAD)
    if "failed" not in row:
        row |= {f"{name}_ms": 1e3 * row[name] for name in ("forward", "gradient")}
    return row


if __name__ == "__main__":
    main()
