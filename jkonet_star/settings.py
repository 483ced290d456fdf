"""Hyper-parameters, with the published configuration as defaults.

This module imports no JAX: scripts make their flags from these classes and answer `--help` or a
mistyped flag before anything heavy is loaded.
"""

import dataclasses
import math
from typing import Annotated, Literal, get_args

from diffusions.checks import (
    Bounds,
    Count,
    Decay,
    Natural,
    NotNegative,
    Positive,
    PositiveShare,
    Rounds,
    Widths,
    check_fields,
    one_of,
    part_of,
)

CouplingMethod = Literal["auto", "exact", "sinkhorn", "low-rank", "semidiscrete"]
DensityMethod = Literal["gmm", "kde"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class TransportSettings:
    """What the iterative transport solvers may be told.

    Attributes:
        tau_a: in (0, 1], below 1 lets mass die (unbalanced transport, OTT-JAX's parametrisation).
        tau_b: in (0, 1], below 1 lets mass be born.
        rank: of the low-rank coupling, which is balanced.
        passes: of the semidiscrete coupling over the particles; it is balanced, too.
        max_iterations: of the entropic solvers.
        threshold: their marginal error at convergence.
    """

    tau_a: PositiveShare = 1.0
    tau_b: PositiveShare = 1.0
    rank: Count = 50
    passes: Count = 50
    max_iterations: Rounds = 5000
    threshold: Positive = 1e-3


@dataclasses.dataclass(frozen=True, kw_only=True)
class CouplingSettings(TransportSettings):
    """How consecutive snapshots are coupled, besides what `TransportSettings` says.

    Attributes:
        method: `exact` is the unregularised optimum; `sinkhorn` and `low-rank` are entropic;
            `semidiscrete` is near the optimum without blocks, in time of the square of the particles;
            `auto` takes `exact` up to the size where it is the cheaper one on this device.
        epsilon: entropic regularisation, relative to the mean squared distance of two particles, one
            of each snapshot, about the centres of their snapshots.
        batch_size: particles per block; blocks are random and coupled separately. Negative: one block,
            as `semidiscrete` always has.
    """

    method: CouplingMethod = "auto"
    epsilon: Positive = 0.0005
    batch_size: int = 1000

    def __post_init__(self):
        one_of("coupling", self.method, get_args(CouplingMethod))
        check_fields(self)
        if self.batch_size == 0:
            raise ValueError("batch_size must be positive, or negative for one block, got 0")
        unbalanced = self.tau_a < 1 or self.tau_b < 1
        if unbalanced and self.method in ("exact", "low-rank", "semidiscrete"):
            raise ValueError(
                f"coupling {self.method!r} is balanced, but tau_a is {self.tau_a} and tau_b is "
                f"{self.tau_b}; unbalanced transport needs 'sinkhorn'"
            )


@dataclasses.dataclass(frozen=True, kw_only=True)
class KernelDensitySettings:
    """What a kernel density may be told.

    Attributes:
        bandwidth_scale: of `kde`, relative to Scott's rule.
    """

    bandwidth_scale: Positive = 1.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class DensitySettings(KernelDensitySettings):
    """How the density of each snapshot is estimated, besides what `KernelDensitySettings` says.

    Attributes:
        method: `gmm`, a Gaussian mixture by expectation maximisation; `kde`, a Gaussian kernel density.
        n_components: mixture components; 0 fits no density (and no internal energy can be learned).
    """

    method: DensityMethod = "gmm"
    n_components: Natural = 10

    def __post_init__(self):
        one_of("density", self.method, get_args(DensityMethod))
        check_fields(self)


Scheme = Literal["explicit", "implicit", "midpoint"]
TransportMapKind = Literal["input-convex", "mlp"]
InnerGradient = Literal["implicit", "unrolled"]
OuterLoss = Literal["divergence", "cost"]
BetaEstimator = Literal["auto", "paired", "unpaired", "first-order"]
DriftSource = Literal["auto", "couplings", "weak-form"]
Resample = Literal["auto", "trajectories", "snapshots"]
SCHEMES: tuple[str, ...] = get_args(Scheme)
Activation = Literal["softplus", "silu", "gelu", "tanh"]
LearningRateSchedule = Literal["cosine", "constant"]
Optimizer = Literal["soap", "adam"]
LEARNING_RATES: dict[Optimizer, float] = {"soap": 2e-2, "adam": 3e-3}
EPOCHS: dict[Optimizer, int] = {"soap": 200, "adam": 1000}
BATCH_SIZE = 250
MANY_COUPLINGS = 4000
EPOCHS_OF_MANY, BATCH_OF_MANY = 100, 125
"""By SOAP with an interaction, where there are so many couplings: as many gradient steps, each of half
the pairs of particles, to the same error in half of the time. From 1250 couplings it is 7 % larger, and
from 80, in few steps, four times as large."""
RadialFunction = Literal[
    "none",
    "constant",
    "linear",
    "thin-plate",
    "cubic",
    "quintic",
    "multiquadric",
    "inverse-multiquadric",
    "inverse-quadratic",
]


@dataclasses.dataclass(frozen=True, kw_only=True)
class InternalSettings:
    """How the weight beta of the internal energy is found, and the drift beside it.

    For the solvers that learn it.

    Attributes:
        beta_estimator: `paired`, by the likelihood of particles that all snapshots share;
            `unpaired`, by moments of snapshots of different particles; `auto` decides between these
            two; `first-order`, as published, along with the other energies from an estimated
            density (badly biased, see `jkonet_star.internal_energy.estimate`).
        drift: `weak-form`, by moments of snapshots of different particles, to which networks are then
            fitted (see `jkonet_star.internal_energy.weak_form_drift`); `couplings`, by first-order
            conditions; `auto` takes the weak form in the explicit scheme, where the snapshots are
            found to show different particles and the features explain them, unless couplings or a
            ridge are given.
    """

    beta_estimator: BetaEstimator = "auto"
    drift: DriftSource = "auto"

    def __post_init__(self):
        check_fields(self)
        one_of("drift", self.drift, get_args(DriftSource))
        if self.drift == "weak-form" and self.beta_estimator in ("paired", "first-order"):
            raise ValueError(
                f"drift 'weak-form' is of snapshots of different particles, but beta_estimator is "
                f"{self.beta_estimator!r}: it must be 'auto' or 'unpaired'"
            )


@dataclasses.dataclass(frozen=True, kw_only=True)
class NetworkSettings:
    """Networks of the energies and their training.

    The published configuration is `optimizer="adam"` in 1000 epochs at a constant 1e-3, `pull_ridge=0`.
    A cosine decay from 3e-3 reaches a lower error in as many on every reference set, and SOAP in a
    fifth of them, with an interaction in a tenth of them and batches of half the size.

    Attributes:
        epochs: passes over all couplings; absent, 200 by SOAP and 1000 by Adam.
        batch_size: couplings per gradient step; absent, 250. Where both are absent and SOAP learns an
            interaction from 4000 couplings or more, 100 epochs in batches of 125.
        hidden: widths of the hidden layers.
        activation: of the hidden layers.
        optimizer: `soap` (see `diffusions.optimizers`) or `adam`; `auto` is SOAP for the first-order
            conditions, and Adam for the bilevel solvers and for the baselines.
        learning_rate: at the start; absent, 2e-2 by SOAP and 3e-3 by Adam.
        schedule: cosine decays the learning rate to zero over the epochs.
        gradient_clip: bound on the gradient's global norm; 0 for none.
        weight_decay: decoupled weight decay, times the learning rate in every step; 0 for none.
        ema_decay: of the average of the parameters that is returned; 0 returns the last ones.
        interaction_samples: particles drawn per coupling for the mean of grad U, with an unbiased
            estimate of the loss; 0 takes the whole snapshot in every gradient step.
        pull_ridge: weight, in the loss of the first-order conditions, of the mean square of grad U * mu
            where a potential is learned as well (`solvers.first_order`, equation (5)): of what explains
            the data about equally well the smallest pull is learned; 0 for none, as published. Bilevel
            solvers and baselines have none.
    """

    epochs: Rounds | None = None
    batch_size: Count | None = None
    hidden: Widths = (64, 64)
    activation: Activation = "softplus"
    optimizer: Literal["auto"] | Optimizer = "auto"
    learning_rate: Positive | None = None
    schedule: LearningRateSchedule = "cosine"
    gradient_clip: NotNegative = 10.0
    weight_decay: NotNegative = 0.0
    ema_decay: Decay = 0.0
    interaction_samples: Natural = 8
    pull_ridge: NotNegative = 1e-3

    def __post_init__(self):
        check_fields(self)
        if self.interaction_samples == 1:
            raise ValueError(
                f"interaction_samples must be 0 or at least 2, got {self.interaction_samples}"
            )

    def training(self, default: Optimizer) -> "NetworkTraining":
        """What absent values and `auto` stand for, of a solver with this optimiser."""
        name = default if self.optimizer == "auto" else self.optimizer
        return NetworkTraining(
            optimizer=name,
            epochs=EPOCHS[name] if self.epochs is None else self.epochs,
            batch_size=self.batch_size or BATCH_SIZE,
            learning_rate=self.learning_rate or LEARNING_RATES[name],
            schedule=self.schedule,
            gradient_clip=self.gradient_clip,
            weight_decay=self.weight_decay,
        )

    @property
    def memory_needs(self) -> dict[str, float]:
        """Bytes of the largest arrays, at least."""
        return {
            "a network this wide (--hidden)": network_bytes(self.hidden),
            "the particles of one mean (--interaction-samples)": 4.0
            * self.interaction_samples
            * max(self.hidden),
        }


@dataclasses.dataclass(frozen=True, kw_only=True)
class NetworkTraining:
    """The optimiser of `NetworkSettings`, of one solver: nothing is absent."""

    optimizer: Optimizer
    epochs: int
    batch_size: int
    learning_rate: float
    schedule: LearningRateSchedule
    gradient_clip: float
    weight_decay: float


def network_bytes(widths: tuple[int, ...]) -> float:
    """Of a multilayer perceptron in training: parameters, gradients and both moments of Adam."""
    return 16.0 * sum(a * b for a, b in zip(widths[:-1], widths[1:], strict=True))


@dataclasses.dataclass(frozen=True, kw_only=True)
class CirculationSettings:
    """Whether anything but an energy moves the population (see `energies.circulation`).

    Attributes:
        circulation: a velocity without divergence is learned beside the potential, by the network and
            the linear solvers without an internal energy. Couplings that transport chose are made anew
            along it.
    """

    circulation: bool = False

    def __post_init__(self):
        check_fields(self)


@dataclasses.dataclass(frozen=True, kw_only=True)
class RefinementSettings:
    """How a learned energy is refined by the laws that it predicts (see `solvers.refinement`).

    Attributes:
        refine: gradient steps; 0 leaves the first-order solution as it is, but stands for 150 with the
            solver auto, which refines whatever it chooses.
        rollout: steps that are predicted from each snapshot; the population of every one of them is
            compared with the observed one.
        refine_batch_size: particles of each snapshot per gradient step.
        refine_learning_rate: of Adam, at the start; a cosine takes it to zero.
        refine_exponent: a of the distance between laws, equation (2) there; 1 is the energy distance
            that judges; less sees finer structure, but near 0 all distances are alike, and near 2 only
            means count.
        first_order_weight: of the first-order loss beside the distance of the laws. It keeps particles
            on the paths of the couplings, where the law alone leaves them free; 0 leaves it out.
    """

    refine: Annotated[int, Bounds(0, 10**6)] = 0
    rollout: Count = 1
    refine_batch_size: Annotated[int, Bounds(2, 100_000)] = 256
    refine_learning_rate: Positive = 3e-3
    refine_exponent: Annotated[float, Bounds(0.1, 1.9)] = 0.5
    first_order_weight: NotNegative = 0.05

    def __post_init__(self):
        check_fields(self)

    def memory_needs_of(self, n_steps: int, n_energies: int) -> dict[str, float]:
        """Bytes of the largest arrays, at least: three matrices of all pairs, and their gradients.

        An exponent other than 1 keeps the distances, too.
        """
        compared = n_energies * n_steps * min(self.rollout, n_steps)
        return {
            "the distances of all pairs (--refine-batch-size)": 24.0
            * compared
            * self.refine_batch_size**2
        }


FEWEST_REPLICATES = 19


@dataclasses.dataclass(frozen=True, kw_only=True)
class BootstrapSettings:
    """How often an energy is learned from resampled particles (see `solvers.resampling`).

    Attributes:
        bootstrap: energies of resampled particles beside the one of all; 0 for none, and at least 19,
            as an interval of level .9 needs.
        resample: `trajectories` of particles that all snapshots show; `snapshots`, each alone; `auto`
            finds out.
    """

    bootstrap: Annotated[int, Bounds(0, 10_000)] = 0
    resample: Resample = "auto"

    def __post_init__(self):
        check_fields(self)
        one_of("resample", self.resample, get_args(Resample))
        if 0 < self.bootstrap < FEWEST_REPLICATES:
            raise ValueError(
                f"bootstrap must be 0 or at least {FEWEST_REPLICATES}, got {self.bootstrap}: fewer "
                "energies tell no interval of level .9"
            )


@dataclasses.dataclass(frozen=True, kw_only=True)
class GrowthSettings:
    """How growth is told from motion (see `growth`, whose equations these are).

    Attributes:
        growth_epsilon: of equation (3), relative as in `CouplingSettings`.
        growth_prices: rho of equation (3) by stage, relative likewise; each compiles one solver.
        growth_rounds: of (3) to (5) at each price; with few of them g is still too small, but
            smoother.
        growth_inducing: points of the features of g.
        growth_width: length of the features of g, relative to the root-mean-square distance from the
            centre.
        motion_width: likewise of the features of the motion.
        growth_amplitude: of g before any data, times the whole time.
        growth_change: share of g that changes in time before any data; near 0, g hardly depends on it.
        motion_ridge: of equation (4), relative to the mass of all steps.
        growth_cells: of each snapshot that take part in equations (3) to (5), the most.
    """

    growth_epsilon: Positive = 0.02
    growth_prices: tuple[float, ...] = (0.65, 0.25, 0.1)
    growth_rounds: Count = 6
    growth_inducing: Count = 60
    growth_width: Positive = 2.0
    motion_width: Positive = 0.7
    growth_amplitude: Positive = 16.0
    growth_change: PositiveShare = 0.03
    motion_ridge: NotNegative = 0.001
    growth_cells: Count = 2000

    def __post_init__(self):
        check_fields(self)
        prices = self.growth_prices
        if not prices or not all(math.isfinite(p) and p > 0 for p in prices):
            raise ValueError(f"growth_prices must be positive and finite, got {prices}")


@dataclasses.dataclass(frozen=True, kw_only=True)
class GrowthChoice(GrowthSettings):
    """Whether growth is learned, besides what `GrowthSettings` says.

    Attributes:
        growth: particles multiply and die, at a rate that is learned beside the energy; the couplings
            are then those that go with it, and predicted particles have weights.
    """

    growth: bool = False

    @property
    def chosen(self) -> GrowthSettings | None:
        """How it is learned; None where it is not."""
        return GrowthSettings(**part_of(GrowthSettings, self)) if self.growth else None


@dataclasses.dataclass(frozen=True, kw_only=True)
class BilevelSettings:
    """The JKO step inside the solvers jkonet, jkonet-vanilla and jkonet-monge-gap (see `bilevel`).

    The published code starts every inner problem anew, differentiates it by unrolling, and compares
    by the entropic cost: --nowarm-start --inner-gradient=unrolled --outer-loss=cost.

    Attributes:
        map_hidden: widths of the hidden layers of the map's network.
        map_learning_rate: of Adam in the inner problem.
        map_first_moment: decay b1 of that Adam.
        map_second_moment: decay b2 of that Adam.
        inner_steps: of Adam per inner problem; with an inner tolerance the most.
        inner_tolerance: ends an inner problem when the gradient's norm is this part of the first
            one's; 0 always takes all steps.
        inner_gradient: `implicit` by the optimality of the inner problem, `unrolled` through its
            steps.
        conjugate_gradients: steps of the implicit gradient's linear solver.
        damping: added to its matrix, relative to the curvature along its right-hand side. The matrix
            is ill-conditioned, and what lies below the damping is not learned.
        warm_start: every inner problem starts from the last map of its step in time.
        transport_weight: of the squared distance in the JKO step; 0 leaves it out.
        positive_weights: the input-convex network is convex by construction.
        weight_penalty: on its negative weights where it is not; 0 for none.
        monge_gap_weight: of the Monge gap in jkonet-monge-gap; 0 for none.
        monge_gap_epsilon: its entropic regularisation, relative to the data's variance per coordinate
            (published: 0.1 in the squared unit of its data); a large one pulls the map away from the
            optimal one.
        monge_gap_iterations: of its Sinkhorn solver.
        outer_loss: Sinkhorn divergence, or the entropic transport cost as published.
        sinkhorn_epsilon: regularisation of the outer loss, relative to the data's variance per
            coordinate (published: 1 in the squared unit of its data, whose variance is about 5).
        sinkhorn_iterations: of the outer loss, the most.
        teacher_forcing: every step starts from the observed population, not from the predicted one.
        matched_batches: a batch follows the couplings through time, so that its snapshots differ by
            motion and not by sampling; otherwise each snapshot is sampled alone.
    """

    map_hidden: Widths = (64, 64)
    map_learning_rate: Positive = 0.01
    map_first_moment: Decay = 0.5
    map_second_moment: Decay = 0.9
    inner_steps: Rounds = 100
    inner_tolerance: NotNegative = 0.0
    inner_gradient: InnerGradient = "implicit"
    conjugate_gradients: Rounds = 10
    damping: NotNegative = 1e-6
    warm_start: bool = True
    transport_weight: NotNegative = 1.0
    positive_weights: bool = True
    weight_penalty: NotNegative = 1.0
    monge_gap_weight: NotNegative = 1.0
    monge_gap_epsilon: Positive = 0.02
    monge_gap_iterations: Rounds = 15
    outer_loss: OuterLoss = "divergence"
    sinkhorn_epsilon: Positive = 0.2
    sinkhorn_iterations: Rounds = 50
    teacher_forcing: bool = False
    matched_batches: bool = True

    def __post_init__(self):
        check_fields(self)
        if self.inner_tolerance and self.inner_gradient == "unrolled":
            raise ValueError(
                "inner_tolerance ends a loop of unknown length, which cannot be unrolled: "
                "inner_gradient must be implicit"
            )

    @property
    def memory_needs(self) -> dict[str, float]:
        """Bytes of the largest arrays, at least."""
        return {"a map this wide (--map-hidden)": network_bytes(self.map_hidden)}


Degree = Annotated[int, Bounds(0, 100)]
"""Of a monomial: float32 holds no larger power of 2.5."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class FeatureSettings:
    """Features of linearly parametrised energies.

    Attributes:
        degree: largest exponent of each coordinate in the monomials; 0 for no monomials.
        total_degree: largest sum of exponents; 0 chooses: no limit for d <= 3, else the largest
            value up to 4 that keeps at most 500 monomials, but at least 2.
        trigonometric: adds the sine and cosine of every monomial.
        radial: the factor of exp(-|x - c|^2 / width); none for no radial functions.
        radial_centers: per axis of the grid for d <= 2; k-means centres in all for d > 2.
        radial_domain: the grid's lower and upper end on every axis, in the unit of the data (published:
            -4,4, the range of its data); absent, the range of a uniform population with the
            data's mean and variance.
        radial_width: the squared length in the exponential, in the squared unit of the data (published:
            0.5); absent, as published relative to the distance of neighbouring centres.
        regularization: ridge added to the normal equations at unit scale (published: 0.01); absent, it
            is chosen by cross-validation.
    """

    degree: Degree = 4
    total_degree: Degree = 0
    trigonometric: bool = False
    radial: RadialFunction = "constant"
    radial_centers: Count = 10
    radial_domain: tuple[float, float] | None = None
    radial_width: Positive | None = None
    regularization: NotNegative | None = None

    def __post_init__(self):
        one_of("radial function", self.radial, get_args(RadialFunction))
        check_fields(self)
        domain = self.radial_domain
        if domain is not None and not domain[0] < domain[1]:
            raise ValueError(f"radial_domain must be two rising numbers, got {domain}")
        if self.degree == 0 and self.radial == "none":
            raise ValueError("degree 0 and radial none leave no features")

    @property
    def memory_needs(self) -> dict[str, float]:
        """Bytes of the largest arrays, at least, whatever the dimension."""
        return self.memory_needs_in(1)

    def memory_needs_in(self, dimension: int) -> dict[str, float]:
        """Bytes of the largest arrays, at least, in a dimension.

        Above three dimensions the monomials up to the total degree are made one by one before those
        of too large an exponent are left out.
        """
        total = self.total_degree or (self.degree if dimension <= 3 else 2)

        def monomials(order: int) -> float:
            return min(math.comb(dimension + order, order), 1e30) - 1 if self.degree else 0

        n_features = monomials(min(total, self.degree)) * (3 if self.trigonometric else 1)
        if self.radial != "none":
            n_features += self.radial_centers ** (dimension if dimension <= 2 else 1)
        made = monomials(total if dimension > 3 else min(total, self.degree))
        return {
            f"the monomials in dimension {dimension} (--degree, --total-degree)": 8.0
            * made
            * dimension,
            f"the normal equations of {n_features:.3g} features (--degree, --radial-centers)": 8.0
            * n_features**2,
        }
