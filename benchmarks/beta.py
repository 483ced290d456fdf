"""How well the diffusion coefficient is known: estimates beside the Cramer-Rao bound.

    python benchmarks/beta.py --seeds=20 --particles=1000

Pure diffusion from the uniform law on [-4, 4]^2, beta 0.2, five steps of 0.01, with three sets of
features for a potential that is not there; then Styblinski-Tang with the Oakley-O'Hagan interaction,
with the drift's relative L2 error of the estimate and of the closed form on exact couplings, over a
population of its own, seed by seed. `--seeds=0` leaves the first part out. `--rough` measures something
else: beta of potentials that the features do not explain, beside what the features alone leave over.

The bound is for independent snapshots of law rho_t = heat semigroup of rho_0, d = 2 coordinates:

    I(beta) = d sum_t int (d rho_t / d beta)^2 / rho_t dx,   std(beta) >= (N I)^{-1/2},             (1)

numerically from the exact density; 'unknown rho_0' takes out what a change of the initial density
could explain. For paired snapshots with known pairs it is beta sqrt(2 / (d steps N)).
"""

import argparse
import time

import jax
import numpy as np
from scipy.stats import norm

TAU, STEPS, BETA = 0.01, 5, 0.2


def density(x: np.ndarray, t: float, beta: float) -> np.ndarray:
    """Of one coordinate at time t."""
    s = np.sqrt(2 * beta * t)
    return (norm.cdf((x + 4) / s) - norm.cdf((x - 4) / s)) / 8


def cramer_rao(n: int) -> tuple[float, float]:
    """Bounds (1) on the standard deviation: known and unknown initial density."""
    h, width = 0.005, 0.02
    x = np.arange(-5.5, 5.5, h) + h / 2
    starts = np.arange(-4, 4, width) + width / 2
    information, cross = 0.0, np.zeros(len(starts))
    nuisance = np.diag(np.full(len(starts), 8 / width))
    for k in range(1, STEPS + 1):
        t, step = k * TAU, 1e-4
        rho = density(x, t, BETA)
        slope = (density(x, t, BETA + step) - density(x, t, BETA - step)) / (2 * step)
        kept = rho > 1e-14
        s = np.sqrt(2 * BETA * t)
        kernel = norm.pdf((x[kept, None] - starts) / s) / s
        information += 2 * np.sum(slope[kept] ** 2 / rho[kept]) * h
        nuisance += kernel.T @ (kernel / rho[kept, None]) * h
        cross += kernel.T @ (slope[kept] / rho[kept]) * h
    # Both coordinates have a marginal of their own to know.
    effective = information - 2 * cross @ np.linalg.solve(nuisance, cross)
    return 1 / np.sqrt(n * information), 1 / np.sqrt(n * effective)


def relative_error(found: list[np.ndarray], truth: list[np.ndarray]) -> float:
    """In L2 over all particles."""
    missed = sum(((a - b) ** 2).sum() for a, b in zip(found, truth, strict=True))
    return float(np.sqrt(missed / sum((b**2).sum() for b in truth)))


def rough(n: int, n_seeds: int) -> None:
    """Beta of paired snapshots of the paper's roughest potentials, medians over seeds."""
    from data_generation.populations.particles import simulate
    from jkonet_star.internal_energy import estimate
    from jkonet_star.settings import FeatureSettings
    from jkonet_star.snapshots import snapshots_from_arrays
    from jkonet_star.solvers.linear_model import linear_model
    from jkonet_star.solvers.registry import Terms

    with_rest = estimate.fit_unexplained
    print("potential, true beta: features alone, found, its standard error, CPU s of both")
    for name in ("relu", "holder_table", "cross_in_tray", "friedman", "moon", "styblinski_tang"):
        for beta in (0.0, 0.01, 0.1):
            rows = []
            for seed in range(n_seeds):
                x = simulate(
                    jax.random.key(seed), potential=name, beta=beta, n_particles=n, dimension=2,
                    n_timesteps=STEPS, dt=TAU,
                )  # fmt: skip
                generator = np.random.default_rng(seed)
                snapshots = snapshots_from_arrays(
                    [generator.permutation(np.asarray(p)) for p in x], dt=TAU
                )
                model = linear_model(Terms(potential=True), snapshots, FeatureSettings())
                row = []
                for estimate.fit_unexplained in (lambda *_, **__: None, with_rest):
                    start = time.process_time()
                    found = estimate.estimate_internal(*model, snapshots, regime="paired")
                    row += [found.beta, found.standard_error, time.process_time() - start]
                rows.append(row)
            alone, _, before, value, error, after = np.median(rows, axis=0)
            print(
                f"{name:16s} {beta:5g}: {alone:9.4g} {value:9.4g} {error:9.2g} "
                f"{before:5.1f} {after:5.1f}",
                flush=True,
            )


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--particles", type=int, default=1000)
    parser.add_argument("--drift-seeds", type=int, default=5)
    parser.add_argument("--rough", action="store_true")
    arguments = parser.parse_args()
    if arguments.rough:
        rough(arguments.particles, arguments.drift_seeds)
        return
    from data_generation.populations.particles import drift, simulate
    from jkonet_star.energies.models import LinearEnergy
    from jkonet_star.internal_energy.estimate import estimate_internal
    from jkonet_star.internal_energy.euler_steps import drift_features
    from jkonet_star.settings import FeatureSettings, InternalSettings
    from jkonet_star.snapshots import snapshots_from_arrays
    from jkonet_star.solvers.linear import solve_linear
    from jkonet_star.solvers.linear_model import linear_model
    from jkonet_star.solvers.problem import prepare
    from jkonet_star.solvers.registry import Terms

    n = arguments.particles
    known, unknown = cramer_rao(n)
    matched = BETA * np.sqrt(2 / (2 * STEPS * n))
    print(
        f"Cramer-Rao, N = {n}: known rho_0 {known:.4f}, unknown {unknown:.4f}, pairs {matched:.4f}"
    )

    def data(seed: int, unpaired: bool, **names):
        x = simulate(
            jax.random.key(seed), beta=BETA, n_particles=n, dimension=2, n_timesteps=STEPS, dt=TAU,
            unpaired=unpaired, **names,
        )  # fmt: skip
        generator = np.random.default_rng(seed)
        return snapshots_from_arrays([generator.permutation(np.asarray(p)) for p in x], dt=TAU)

    def report(name: str, values: list, seconds: list, paired: int, more: str = "") -> None:
        print(
            f"{name:42s} {np.mean(values):.4f} +- {np.std(values, ddof=1):.4f}  "
            f"taken as paired {paired:2d}/{len(values)}  {np.median(seconds):5.2f} s  {more}",
            flush=True,
        )

    quadratic = FeatureSettings(degree=2, total_degree=2, radial="none")
    for unpaired in (False, True):
        for name, settings in (
            ("absent", None),
            ("quadratic", quadratic),
            ("full", FeatureSettings()),
        ):
            values, seconds, paired = [], [], 0
            if not arguments.seeds:
                continue
            for seed in range(arguments.seeds):
                snapshots = data(seed, unpaired, potential="none")
                model, constants = (
                    LinearEnergy(dimension=2, potential_features=None, interaction_features=None),
                    {},
                )
                if settings is not None:
                    terms = Terms(potential=True)
                    model, constants = linear_model(terms, snapshots, settings)
                start = time.process_time()
                result = estimate_internal(model, constants, snapshots)
                seconds.append(time.process_time() - start)
                values.append(result.beta)
                paired += result.paired
            report(f"{'unpaired' if unpaired else 'paired'}, V {name}", values, seconds, paired)
    names = {"potential": "styblinski_tang", "interaction": "oakley_ohagan"}
    for unpaired in (False, True) if arguments.seeds else (True,):
        values, seconds, errors, closed, paired = [], [], [], [], 0
        for seed in range(arguments.drift_seeds):
            snapshots = data(seed, unpaired, **names)
            terms = Terms(potential=True, interaction=True)
            model, constants = linear_model(terms, snapshots, FeatureSettings())
            start = time.process_time()
            result = estimate_internal(model, constants, snapshots)
            seconds.append(time.process_time() - start)
            values.append(result.beta)
            paired += result.paired
            test = [
                np.asarray(p, np.float64) for p in data(1000 + seed, False, **names).points[:-1]
            ]
            weights = [np.full(len(p), 1 / len(p)) for p in test]
            truth = [-np.asarray(drift(np.float32(p), **names)) for p in test]
            units = constants["units"]
            scaled = [(p - np.asarray(units.center)) / float(units.length) for p in test]
            features = drift_features(model, constants, scaled, scaled, weights)
            features = [float(units.speed) * g for g in features]
            own = [np.tensordot(g, result.drift_coefficients, axes=1).T for g in features]
            errors.append(relative_error(own, truth))
            problem = prepare(
                snapshots,
                "jkonet-star-linear",
                key=jax.random.key(seed),
                internal=InternalSettings(drift="couplings"),
            )
            params = solve_linear(problem, FeatureSettings())[0].params
            theta = np.concatenate([params["potential"], params["interaction"]])
            own = [np.tensordot(g, theta, axes=1).T for g in features]
            closed.append(relative_error(own, truth))
            print(
                f"  seed {seed}: beta {result.beta:.3f} (standard error "
                f"{result.standard_error:.3f}), drift error {errors[-1]:.3f}, closed form on "
                f"couplings {closed[-1]:.3f}, {seconds[-1]:.0f} CPU s",
                flush=True,
            )
        drift_report = f"drift error {np.mean(errors):.3f}, closed form {np.mean(closed):.3f}"
        label = f"{'unpaired' if unpaired else 'paired'}, V and U, true drift"
        report(label, values, seconds, paired, drift_report)


if __name__ == "__main__":
    main()
