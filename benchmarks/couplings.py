"""Time and memory of one step's coupling, by method and population size.

    python benchmarks/couplings.py --sizes=1000,2000,5000 --methods=exact,sinkhorn

Every measurement runs in a process of its own, so that its peak memory is its own; the first
coupling compiles and is not counted, unless it is the only one. Populations are either `matched`
(the second is the first, moved: easy for the assignment) or `independent`.
"""

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time

# Seconds that a coupling of 1000 particles takes at most, and the power with which it grows:
# used only to skip what would take too long.
PREDICTED = {"exact": (0.3, 2.2), "sinkhorn": (0.9, 2.1), "low-rank": (3.0, 1.2)}


def populations(n: int, kind: str):
    """Two snapshots: uniform particles, and the same or others a Styblinski-Tang step later."""
    import numpy as np

    from jkonet_star.snapshots import snapshots_from_arrays

    generator = np.random.default_rng(0)
    x = generator.uniform(-4, 4, (n, 2))
    start = x if kind == "matched" else generator.uniform(-4, 4, (n, 2))
    y = generator.permutation(start - 0.01 * (2 * start**3 - 16 * start + 2.5))
    return snapshots_from_arrays([x, y], dt=0.01)


def measure(method: str, n: int, kind: str, repetitions: int, epsilon: float) -> None:
    """Prints one measurement as a line of JSON."""
    import jax

    from jkonet_star.settings import CouplingSettings
    from jkonet_star.transport.couplings import couple

    snapshots = populations(n, kind)
    settings = CouplingSettings(method=method, batch_size=-1, epsilon=epsilon)
    seconds, report = [], None
    for repetition in range(repetitions + 1):
        start = time.perf_counter()
        report = couple(snapshots, settings, key=jax.random.key(repetition))[1][0]
        seconds.append(time.perf_counter() - start)
        if seconds[0] > 20:
            break
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (
        1 if sys.platform == "darwin" else 1024
    )
    result = {
        "seconds": statistics.median(seconds[1:] or seconds),
        "peak": peak,
        "cost": report.cost,
        "pairs": report.n_pairs,
        "dropped": report.dropped_mass,
        "converged": report.converged,
        "device": jax.default_backend(),
    }
    print(json.dumps(result))


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", default="1000,2000,5000,10000,20000")
    parser.add_argument("--methods", default="exact,sinkhorn,low-rank")
    parser.add_argument("--populations", default="matched,independent")
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--epsilon", type=float, default=0.001)
    parser.add_argument("--longest", type=float, default=120, help="seconds worth waiting for")
    parser.add_argument("--measure", nargs=3, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure:
        method, n, kind = arguments.measure
        measure(method, int(n), kind, arguments.repetitions, arguments.epsilon)
        return
    print(
        f"{'population':12} {'method':9} {'n':>6} {'seconds':>9} {'peak MB':>8} {'cost':>9} "
        f"{'pairs':>7} {'dropped':>7} converged"
    )
    for kind in arguments.populations.split(","):
        for method in arguments.methods.split(","):
            for n in map(int, arguments.sizes.split(",")):
                row = f"{kind:12} {method:9} {n:6d}"
                base, power = PREDICTED[method]
                predicted = base * (n / 1000) ** power
                if predicted > arguments.longest:
                    print(f"{row}   skipped: about {predicted:.0f} s")
                    continue
                command = [sys.executable, __file__, "--measure", method, str(n), kind]
                command += [f"--repetitions={arguments.repetitions}"]
                command += [f"--epsilon={arguments.epsilon}"]
                try:
                    finished = subprocess.run(
                        command, capture_output=True, text=True, timeout=10 * arguments.longest
                    )
                except subprocess.TimeoutExpired:
                    print(f"{row}   stopped after {10 * arguments.longest:.0f} s")
                    continue
                if finished.returncode:
                    print(f"{row}   failed: {finished.stderr.strip().splitlines()[-1:]}")
                    continue
                result = json.loads(finished.stdout.splitlines()[-1])
                print(
                    f"{row} {result['seconds']:9.2f} {result['peak'] / 2**20:8.0f} "
                    f"{result['cost']:9.5f} {result['pairs']:7d} {result['dropped']:7.3f} "
                    f"{result['converged']} ({result['device']})",
                    flush=True,
                )


if __name__ == "__main__":
    main()
