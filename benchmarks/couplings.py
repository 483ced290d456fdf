"""Time and memory of one step's coupling, by method and population size.

    python benchmarks/couplings.py --sizes=1000,2000,5000 --methods=exact,sinkhorn
    python benchmarks/couplings.py --sizes=20000 --dimensions=2,10,50 --populations=independent \
        --methods=assignment,blocks,semidiscrete,low-rank --drift

Every measurement runs in a process of its own, so that its peak memory is its own; the first
coupling compiles and is not counted, unless it is the only one. Populations are either `matched`
(the second is the first, moved: easy for the assignment) or `independent`. `assignment` is the optimum
of equal populations by SciPy, in 8 n^2 bytes; `blocks` are exact, of 1000. Seconds are the processor's.
"""

import argparse
import itertools
import json
import resource
import statistics
import subprocess
import sys
import time

# Seconds that a coupling of 1000 particles takes at most, and the power with which it grows:
# used only to skip what would take too long.
PREDICTED = {
    "exact": (0.3, 2.2),
    "sinkhorn": (0.9, 2.1),
    "low-rank": (3.0, 1.2),
    "semidiscrete": (0.3, 1.8),
    "assignment": (0.1, 2.4),
    "blocks": (0.3, 1.0),
}
DT = 0.01


def gradient(x):
    """Of the Styblinski-Tang potential."""
    return 2 * x**3 - 16 * x + 2.5


def populations(n: int, kind: str, d: int):
    """Two snapshots: uniform particles, and the same or others a Styblinski-Tang step later."""
    import numpy as np

    from jkonet_star.snapshots import snapshots_from_arrays

    generator = np.random.default_rng(0)
    x = generator.uniform(-4, 4, (n, d))
    start = x if kind == "matched" else generator.uniform(-4, 4, (n, d))
    y = generator.permutation(start - DT * gradient(start))
    return snapshots_from_arrays([x, y], dt=DT)


def assigned(snapshots):
    """The optimum of two equal populations: couplings, and the mean squared displacement."""
    import jax.numpy as jnp
    import numpy as np
    from scipy.optimize import linear_sum_assignment
    from scipy.spatial.distance import cdist

    from jkonet_star import Couplings

    x, y = (np.asarray(points, np.float64) for points in snapshots.points)
    distances = cdist(x, y, "sqeuclidean")
    source, target = linear_sum_assignment(distances)
    couplings = Couplings(
        step=jnp.zeros(len(x), jnp.int32),
        source=jnp.asarray(source, jnp.int32),
        target=jnp.asarray(target, jnp.int32),
        weight=jnp.full(len(x), 1 / len(x)),
    )
    return couplings, float(distances[source, target].mean())


def drift_error(snapshots, couplings) -> float:
    """|grad V - truth| over |truth|, root mean squares over particles, of a network that is learned."""
    import jax
    import numpy as np

    from jkonet_star import NetworkSettings, fit

    network = NetworkSettings(epochs=30, batch_size=1000)
    energy = fit(snapshots, couplings=couplings, key=jax.random.key(0), network=network)
    x = snapshots.points[0][:5000]
    truth = gradient(np.asarray(x))
    error = np.asarray(jax.vmap(jax.grad(energy.potential))(x)) - truth
    return float(np.sqrt((error**2).sum() / (truth**2).sum()))


def measure(method: str, n: int, kind: str, d: int, arguments: argparse.Namespace) -> None:
    """Prints one measurement as a line of JSON."""
    import jax

    from jkonet_star.settings import CouplingSettings
    from jkonet_star.transport.couplings import couple

    snapshots = populations(n, kind, d)
    blocks = method == "blocks"
    seconds = []
    for repetition in range(arguments.repetitions + 1):
        start = time.process_time()
        if method == "assignment":
            couplings, cost = assigned(snapshots)
            report = None
        else:
            settings = CouplingSettings(
                method="exact" if blocks else method,
                batch_size=1000 if blocks else -1,
                epsilon=arguments.epsilon,
            )
            couplings, (report,) = couple(snapshots, settings, key=jax.random.key(repetition))
            cost = report.cost
        seconds.append(time.process_time() - start)
        if seconds[0] > 20:
            break
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (
        1 if sys.platform == "darwin" else 1024
    )
    result = {
        "seconds": statistics.median(seconds[1:] or seconds),
        "peak": peak,
        "cost": cost,
        "pairs": len(couplings.weight),
        "dropped": report.dropped_mass if report else 0.0,
        "off": report.marginal_error if report else 0.0,
        "converged": report.converged if report else True,
        "drift": drift_error(snapshots, couplings) if arguments.drift else None,
        "device": jax.default_backend(),
    }
    print(json.dumps(result))


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", default="1000,2000,5000,10000,20000")
    parser.add_argument("--dimensions", default="2")
    parser.add_argument("--drift", action="store_true", help="learn an energy from each coupling")
    parser.add_argument("--methods", default="exact,sinkhorn,low-rank")
    parser.add_argument("--populations", default="matched,independent")
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--epsilon", type=float, default=0.001)
    parser.add_argument("--longest", type=float, default=120, help="seconds worth waiting for")
    parser.add_argument("--measure", nargs=4, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure:
        method, n, kind, d = arguments.measure
        measure(method, int(n), kind, int(d), arguments)
        return
    print(
        f"{'population':12} {'d':>3} {'method':12} {'n':>6} {'seconds':>9} {'peak MB':>8} {'cost':>9} "
        f"{'above':>7} {'pairs':>7} {'dropped':>7} {'off':>6} {'drift':>6} converged"
    )
    optimum: dict[tuple[str, str, str], float] = {}
    for kind, d, method, n in itertools.product(
        *(
            getattr(arguments, f).split(",")
            for f in ("populations", "dimensions", "methods", "sizes")
        )
    ):
        row = f"{kind:12} {d:>3} {method:12} {n:>6}"
        base, power = PREDICTED[method]
        predicted = base * (int(n) / 1000) ** power
        if predicted > arguments.longest:
            print(f"{row}   skipped: about {predicted:.0f} s")
            continue
        command = [sys.executable, __file__, "--measure", method, n, kind, d]
        command += [f"--repetitions={arguments.repetitions}", f"--epsilon={arguments.epsilon}"]
        command += ["--drift"] * arguments.drift
        limit = 10 * arguments.longest
        try:
            finished = subprocess.run(command, capture_output=True, text=True, timeout=limit)
        except subprocess.TimeoutExpired:
            print(f"{row}   stopped after {limit:.0f} s")
            continue
        if finished.returncode:
            print(f"{row}   failed: {finished.stderr.strip().splitlines()[-1:]}")
            continue
        result = json.loads(finished.stdout.splitlines()[-1])
        if method in ("assignment", "exact"):
            optimum[kind, d, n] = result["cost"]
        best = optimum.get((kind, d, n))
        above = "" if best is None else f"{100 * (result['cost'] / best - 1):.2f} %"
        drift = "" if result["drift"] is None else f"{result['drift']:.3f}"
        print(
            f"{row} {result['seconds']:9.2f} {result['peak'] / 2**20:8.0f} {result['cost']:9.5f} "
            f"{above:>7} {result['pairs']:7d} {result['dropped']:7.3f} {result['off']:6.3f} "
            f"{drift:>6} {result['converged']} ({result['device']})",
            flush=True,
        )


if __name__ == "__main__":
    main()
