r"""Network training: seconds per epoch and to compile, distance to the arithmetic, no recompilation.

    python benchmarks/training.py
    python benchmarks/training.py --solvers=jkonet-star-potential --sizes=1000 --seeds=1,5

The floor counts the multiplications of matrices alone. A gradient step on one coupling evaluates
grad V = W1 (s1' * W2 (s2' * w3)), with z1 = x W1, z2 = s1 W2 before it, and differentiates |.|^2 of it
by every weight. With a = d h1 and b = h1 h2 the forward pass has a + b, its gradient in x has b + a;
in the reverse pass of these four products each gives one product per operand that depends on the
weights: x W1 one, the others two. In all

    multiply-adds per coupling   (a + b) + (b + a) + (a + 2 b + 2 b + 2 a) = 5 a + 6 b            (1)

with more hidden layers and a time-varying potential alike (d + 1 for d; 6 for each inner product). A
solver with an interaction does (1) for it once per sampled particle. The machine's rate is measured in
the same process, by one large product (its best) and by products of the network's own shape.
"""

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

from measurement import (
    MEBI,
    Table,
    arguments_of,
    describe_machine,
    measure_apart,
    numbers,
    peak_memory,
    words,
    write_output,
)

SOLVERS = (
    "jkonet-star-potential",
    "jkonet-star-time-potential",
    "jkonet-star-potential-internal",
    "jkonet-star",
)
COUPLINGS_PER_CALL = 100_000  # of one seed, so that a call takes seconds, not minutes
COMPILATION = "/jax/core/compile/backend_compile_duration"


def population(n: int, solver: str) -> Any:
    """Styblinski-Tang, with noise and interaction where the solver learns them."""
    import jax
    import numpy as np

    from data_generation.populations.particles import simulate
    from jkonet_star.snapshots import snapshots_from_arrays
    from jkonet_star.solvers.registry import SOLVERS

    terms = SOLVERS[solver].terms
    points = simulate(
        jax.random.key(0),
        potential="styblinski_tang",
        interaction="oakley_ohagan" if terms.interaction else "none",
        beta=0.2 if terms.internal else 0.0,
        n_particles=n,
        dimension=2,
        n_timesteps=5,
        dt=0.01,
    )
    return snapshots_from_arrays(np.asarray(points), dt=0.01)


def floor_flops(problem: Any, settings: Any) -> float:
    """Floating-point operations per epoch and seed, twice equation (1)."""
    d = problem.snapshots.dimension

    def network(inputs: int) -> float:
        widths = (inputs, *settings.hidden)
        products = [m * n for m, n in zip(widths[:-1], widths[1:], strict=True)]
        return 5 * products[0] + 6 * sum(products[1:])

    total = 0.0
    if problem.terms.potential:
        total += network(d + problem.terms.time_varying)
    if problem.terms.interaction:
        total += settings.interaction_samples * network(d)
    return 2.0 * total * problem.conditions.point.shape[0]


def counted_flops(training: Any, keys: Any) -> float | None:
    """What XLA counts for one gradient of one batch, elementwise work included, per coupling."""
    import jax
    import jax.numpy as jnp

    from jkonet_star.solvers.first_order import jko_loss

    solver, data = training.solver, training.data
    size, model = training.facts[0]["batch_size"], solver.model(data)
    params = model.init(keys[0])

    def loss(params: Any, conditions: Any, rows: Any) -> Any:
        return jko_loss(
            model,
            params,
            data.units,
            conditions,
            rows,
            speed=data.units.speed,
            key=keys[0],
            interaction_samples=solver.network.interaction_samples,
            pull_ridge=solver.network.pull_ridge,
        )

    program = jax.jit(jax.grad(loss)).lower(params, data.conditions, jnp.arange(size)).compile()
    analysis = program.cost_analysis()
    return None if not analysis else float(analysis["flops"]) / size


def rate(rows: int, inner: int, columns: int, repetitions: int) -> float:
    """Floating-point operations per second of a chain of products (rows, inner) (inner, columns)."""
    import jax
    import jax.numpy as jnp

    length = max(1, int(2e9 / (2 * rows * inner * columns)))
    x = jnp.full((rows, inner), 1.0 / inner)
    w = jnp.full((inner, columns), 1.0 / columns)

    @jax.jit
    def chain(x: Any, w: Any) -> Any:
        def multiply(x: Any, _: None) -> tuple[Any, None]:
            return x @ w, None

        return jax.lax.scan(multiply, x, None, length=length)[0]

    chain(x, w).block_until_ready()
    seconds = []
    for _ in range(repetitions):
        start = time.perf_counter()
        chain(x, w).block_until_ready()
        seconds.append(time.perf_counter() - start)
    return 2.0 * rows * inner * columns * length / min(seconds)


def measure_epochs(request: dict[str, Any]) -> dict[str, Any]:
    """Seconds per epoch of one solver, size and number of seeds."""
    import jax

    from jkonet_star.settings import NetworkSettings
    from jkonet_star.solvers.network import Network
    from jkonet_star.solvers.problem import prepare
    from jkonet_star.solvers.side_by_side import SideBySide

    settings = NetworkSettings()
    snapshots = population(request["n"], request["solver"])
    start = time.perf_counter()
    problem = prepare(snapshots, request["solver"], key=jax.random.key(0))
    prepared = time.perf_counter() - start
    training = SideBySide(Network(terms=problem.terms, network=settings), problem)
    keys = jax.vmap(jax.random.key)(jax.numpy.arange(request["seeds"]))
    state = training.initial(keys)
    n_pairs = problem.conditions.point.shape[0]
    n_epochs = max(1, COUPLINGS_PER_CALL // n_pairs)
    start = time.perf_counter()
    training.compile(state, keys, n_epochs)
    compiled = time.perf_counter() - start
    state, _ = jax.block_until_ready(training.advance(state, keys, n_epochs))
    seconds = []
    for _ in range(request["repetitions"]):
        start = time.perf_counter()
        state, _ = jax.block_until_ready(training.advance(state, keys, n_epochs))
        seconds.append((time.perf_counter() - start) / n_epochs)
    peak = peak_memory()
    width = max(settings.hidden)
    best = rate(2048, 2048, 2048, request["repetitions"])
    narrow = rate(training.facts[0]["batch_size"], width, width, request["repetitions"])
    flops = request["seeds"] * floor_flops(problem, settings)
    epoch = statistics.median(seconds)
    counted = counted_flops(training, keys)
    return {
        "prepare": prepared,
        "compile": compiled,
        "epoch": epoch,
        "least": min(seconds),
        "pairs": n_pairs,
        "mflops": flops / 1e6,
        "counted": None if counted is None else request["seeds"] * counted * n_pairs / 1e6,
        "best": best / 1e9,
        "narrow": narrow / 1e9,
        "over_best": epoch / (flops / best),
        "over_narrow": epoch / (flops / narrow),
        "peak": peak / MEBI,
        "device": jax.default_backend(),
    }


def measure_compilations(request: dict[str, Any]) -> dict[str, Any]:
    """Programs compiled in each interval between evaluations of the scripts' own training loop."""
    import jax

    from experiments.populations.settings import TrainSettings
    from experiments.populations.training import learn
    from experiments.run.folder import open_run
    from jkonet_star.settings import NetworkSettings
    from jkonet_star.solvers.network import Network
    from jkonet_star.solvers.problem import prepare
    from jkonet_star.solvers.side_by_side import SideBySide

    count = 0

    def heard(event: str, duration: float, **_: Any) -> None:
        nonlocal count
        count += event == COMPILATION

    jax.monitoring.register_event_duration_secs_listener(heard)
    snapshots = population(request["n"], request["solver"])
    problem = prepare(snapshots, request["solver"], key=jax.random.key(0))
    settings = TrainSettings(solver=request["solver"], eval_every=request["eval_every"])
    network = NetworkSettings(epochs=request["evaluations"] * request["eval_every"])
    seconds = dict.fromkeys(("data", "compile", "train", "evaluate"), 0.0)
    counts = []
    with tempfile.TemporaryDirectory() as folder:
        run = open_run(str(Path(folder)), "run", "run", {}, resume=False, overwrite=False)
        write = run.log

        def log(rows: Any) -> None:
            counts.append(count)
            write(rows)

        run.log = log  # type: ignore[method-assign]
        solver = Network(terms=problem.terms, network=network)
        learn(run, SideBySide(solver, problem), settings, snapshots, seconds)
    between = [b - a for a, b in zip(counts[:-1], counts[1:], strict=True)]
    return {"before_first": counts[0], "between": between, "after_last": count - counts[-1]}


def define(parser: argparse.ArgumentParser) -> None:
    """The options."""
    parser.add_argument("--solvers", type=words, default=list(SOLVERS))
    parser.add_argument("--sizes", type=numbers, default=[1000, 10_000], help="particles")
    parser.add_argument("--seeds", type=numbers, default=[1, 5], help="how many side by side")
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--evaluations", type=int, default=5, help="of the compilation count")


def main() -> None:
    """Prints the tables."""
    arguments = arguments_of(__doc__, define)
    if arguments.measure:
        kinds = {"epochs": measure_epochs, "compilations": measure_compilations}
        print(json.dumps(kinds[arguments.measure["kind"]](arguments.measure)))
        return
    print(describe_machine())
    table = Table(
        [
            ("solver", "solver", 30, "s"),
            ("n", "n", 6, "d"),
            ("seeds", "seeds", 5, "d"),
            ("epoch", "s/epoch", 8, ".4f"),
            ("least", "least", 8, ".4f"),
            ("ratio", "/1 seed", 7, ".2f"),
            ("compile", "compile", 7, ".1f"),
            ("prepare", "prepare", 7, ".1f"),
            ("mflops", "Mflop", 7, ".0f"),
            ("counted", "by XLA", 7, ".0f"),
            ("over_narrow", "/floor", 7, ".1f"),
            ("over_best", "/best", 7, ".1f"),
            ("narrow", "GF/s", 6, ".0f"),
            ("best", "best", 6, ".0f"),
            ("peak", "peak MB", 8, ".0f"),
        ]
    )
    for solver in arguments.solvers:
        for n in arguments.sizes:
            alone = None
            for seeds in arguments.seeds:
                row = {"solver": solver, "n": n, "seeds": seeds}
                request = {"kind": "epochs", **row, "repetitions": arguments.repetitions}
                row |= measure_apart(__file__, request, arguments.timeout)
                if "epoch" in row:
                    alone = row["epoch"] if seeds == 1 else alone
                    row["ratio"] = row["epoch"] / alone if alone and seeds != 1 else None
                table.add(row)
    print(
        "\nMflop: equation (1), per epoch; by XLA: with elementwise work, but no exponentials; "
        "/floor and /best: time over the time\nof these products at the rate of the network's "
        "shape (GF/s) and of a large product (best)\n"
    )
    compilations = []
    print("programs compiled in the training loop: before the first evaluation, between, after")
    for solver in arguments.solvers:
        request = {"kind": "compilations", "solver": solver, "n": min(arguments.sizes)}
        request |= {"evaluations": arguments.evaluations, "eval_every": 5}
        result = measure_apart(__file__, request, arguments.timeout)
        compilations.append({"solver": solver, **result})
        if "failed" in result:
            print(f"{solver:30} {result['failed']}")
            continue
        between = ", ".join(map(str, result["between"]))
        print(f"{solver:30} {result['before_first']} | {between} | {result['after_last']}")
    write_output(arguments.output, epochs=table.rows, compilations=compilations)


if __name__ == "__main__":
    main()
