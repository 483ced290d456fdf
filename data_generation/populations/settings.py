"""What a dataset is made of, with the published configuration as defaults. Imports no JAX."""

import dataclasses
import re
from pathlib import Path
from typing import Any, Literal, get_args

from data_generation.formats.plain_numbers import pairs
from data_generation.populations.dataset_place import check_source
from diffusions.checks import (
    Count,
    Decay,
    Natural,
    NotNegative,
    PathText,
    Positive,
    Rounds,
    Seed,
    check_fields,
    one_of,
    part_of,
    shown,
)
from jkonet_star.settings import (
    CouplingMethod,
    CouplingSettings,
    DensityMethod,
    DensitySettings,
    KernelDensitySettings,
    TransportSettings,
)

Functional = Literal[
    "none",
    "styblinski_tang",
    "holder_table",
    "cross_in_tray",
    "zigzag_ridge",
    "oakley_ohagan",
    "watershed",
    "moon",
    "ishigami",
    "friedman",
    "sphere",
    "bohachevsky",
    "three_hump_camel",
    "beale",
    "flowers",
    "wavy_plateau",
    "double_exp",
    "relu",
    "rotational",
    "flat",
]
InternalEnergy = Literal["none", "wiener"]

FUNCTIONAL_NAMES: tuple[str, ...] = get_args(Functional)[1:]
"""The named energies of `data_generation.populations.functionals`, without `none`."""

DEFAULT_TEST_RATIO = 0.4

_SIMULATION_ONLY = ("n_timesteps", "n_particles", "dimension", "unpaired", "substeps")
_FILE_ONLY = ("time_key", "time_map", "representation", "n_components", "mass_key")
_NOT_CONTENT = ("load_from_file", "dataset_name", "data_dir", "overwrite")


@dataclasses.dataclass(frozen=True, kw_only=True)
class DataSettings(TransportSettings, KernelDensitySettings):
    """One dataset: simulated, or read from a file.

    Attributes:
        load_from_file: snapshots to read (.npy, .npz, .csv, .tsv, .h5ad) instead of simulating. The
            energies then name the known truth, if there is one.
        potential: potential energy V.
        n_timesteps: steps between snapshots; there is one snapshot more.
        dt: time between snapshots; for a file, only where it holds no times.
        internal: internal energy; `wiener` is beta times the entropy.
        beta: of dX = -grad V dt - (grad U * mu) dt + sqrt(2 beta) dW; needs --internal=wiener.
        interaction: interaction energy U.
        dimension: dimension d of the state space.
        n_particles: particles of the training population, and of the independent test population.
        batch_size: particles per coupled block; negative couples each snapshot in one block.
        n_gmm_components: components of each snapshot's density; 0 fits no density.
        seed: of every random choice.
        dataset_name: name of the folder; made from the settings when absent.
        test_ratio: fraction of the particles held out, in [0, 1); 0 tests on the training
            particles. When absent, simulated data are tested on an independent simulation, a file
            on its own test population or else on 0.4 of its particles.
        split_population: holds out particles of each snapshot separately, not along trajectories.
        leave_one_out: index of an inner snapshot that training does not see.
        sinkhorn: couples entropically with this epsilon, relative to the mean squared distance about
            the snapshots' centres.
        unpaired: makes each snapshot an independent simulation, so that no particle is seen twice.
        substeps: Euler-Maruyama steps per dt.
        coupling: how consecutive snapshots are coupled.
        density: how each snapshot's density is estimated.
        time_key: column of a table (default `time` or `t`) or of AnnData's `obs` (default `time`).
        time_map: times of labels that say none by themselves, such as early=0,late=2.5.
        representation: entry of AnnData's `obsm` (default `X_pca`).
        n_components: coordinates to keep: the leading ones of components, principal components of
            other columns; when absent 5 of TrajectoryNet's layout, and all otherwise.
        mass_key: number of the whole population at each time, for growth: array of .npz, column of a
            table, entry of AnnData's `obs` or `uns`.
        data_dir: folder that holds the dataset folders.
        overwrite: replaces an existing dataset instead of reusing it.
    """

    load_from_file: PathText | None = None
    potential: Functional = "none"
    n_timesteps: Rounds = 5
    dt: Positive = 0.01
    internal: InternalEnergy = "none"
    beta: NotNegative = 0.0
    interaction: Functional = "none"
    dimension: Count = 2
    n_particles: Count = 1000
    batch_size: int = 1000
    n_gmm_components: Natural = 10
    seed: Seed = 0
    dataset_name: str | None = None
    test_ratio: Decay | None = None
    split_population: bool = False
    leave_one_out: Count | None = None
    sinkhorn: Positive | None = None
    unpaired: bool = False
    substeps: Rounds = 1
    coupling: CouplingMethod = "auto"
    density: DensityMethod = "gmm"
    time_key: str | None = None
    time_map: str | None = None
    representation: str | None = None
    n_components: Count | None = None
    mass_key: str | None = None
    data_dir: PathText = "data"
    overwrite: bool = False

    def __post_init__(self):
        one_of("potential", self.potential, ("none", *FUNCTIONAL_NAMES))
        one_of("interaction", self.interaction, ("none", *FUNCTIONAL_NAMES))
        one_of("internal energy", self.internal, get_args(InternalEnergy))
        check_fields(self)
        if self.beta > 0 and self.internal != "wiener":
            raise ValueError(
                f"beta {self.beta} needs --internal=wiener, got --internal={self.internal}"
            )
        regular = self.coupling in ("exact", "semidiscrete")
        if self.sinkhorn is not None and regular:
            raise ValueError(
                f"--sinkhorn makes an entropic coupling; --coupling={self.coupling} excludes it"
            )
        if self.coupling != "low-rank":
            self._refuse(("rank",), "needs --coupling=low-rank")
        if self.coupling != "semidiscrete":
            self._refuse(("passes",), "needs --coupling=semidiscrete")
        else:
            self._refuse(("batch_size",), "is of blocks, which --coupling=semidiscrete has not")
        if regular:
            self._refuse(("max_iterations", "threshold"), f"excludes --coupling={self.coupling}")
        if self.density != "kde":
            self._refuse(("bandwidth_scale",), "needs --density=kde")
        if self.load_from_file is None:
            self._refuse(_FILE_ONLY, "needs --load-from-file")
            self._check_left_out(self.n_timesteps + 1)
        else:
            self._refuse(_SIMULATION_ONLY, "excludes --load-from-file: the file says it")
        if self.dataset_name is not None:
            _check_name(self.dataset_name)
        # They validate their own part.
        _ = self.coupling_settings, self.density_settings, self.times_of_labels

    def _refuse(self, names: tuple[str, ...], why: str) -> None:
        for name in names:
            if getattr(self, name) != DEFAULTS[name]:
                raise ValueError(f"--{name.replace('_', '-')} {why}")

    def _check_left_out(self, n_snapshots: int) -> None:
        if self.leave_one_out is not None:
            check_left_out(self.leave_one_out, n_snapshots)

    @property
    def coupling_settings(self) -> CouplingSettings:
        """The couplings' part."""
        shared: dict[str, Any] = {"batch_size": self.batch_size, **part_of(TransportSettings, self)}
        if self.sinkhorn is None:
            return CouplingSettings(method=self.coupling, **shared)
        method: CouplingMethod = "low-rank" if self.coupling == "low-rank" else "sinkhorn"
        return CouplingSettings(method=method, epsilon=self.sinkhorn, **shared)

    @property
    def density_settings(self) -> DensitySettings:
        """The densities' part."""
        return DensitySettings(
            method=self.density,
            n_components=self.n_gmm_components,
            **part_of(KernelDensitySettings, self),
        )

    @property
    def times_of_labels(self) -> dict[str, float] | None:
        """Label -> time, of `time_map`."""
        return pairs(self.time_map, "time_map")

    def check_inputs(self) -> None:
        """Raises ValueError where the file to read is missing; of a dataset that is there it is not."""
        if self.load_from_file is not None and not (Path(self.data_dir) / self.name).exists():
            check_source(self.load_from_file)

    @property
    def memory_needs(self) -> dict[str, float]:
        """Bytes of the largest arrays, at least; of a file's data its reader knows."""
        if self.load_from_file is not None:
            return {}
        n, d, t = float(self.n_particles), float(self.dimension), self.n_timesteps + 1.0
        block = n if self.batch_size < 0 else min(n, self.batch_size)
        needs = {"the particles (--n-particles, --n-timesteps, --dimension)": 2 * 4 * t * n * d}
        if self.coupling == "exact":
            needs["the costs of an exact coupling (--batch-size)"] = 8 * block**2
        return needs

    def density_memory_needs(self, shape: tuple[int, ...]) -> dict[str, float]:
        """Bytes of the largest arrays of the densities of points of a shape (t, n, d), at least."""
        t, n, d = shape
        largest = 4.0 * min(self.n_gmm_components, n) * max(n, t * d * d)
        return {"the densities (--n-gmm-components)": largest}

    @property
    def content(self) -> dict[str, Any]:
        """The arguments that decide what a dataset holds: two datasets differ only if these do."""
        return {k: v for k, v in dataclasses.asdict(self).items() if k not in _NOT_CONTENT}

    @property
    def name(self) -> str:
        """Name of the dataset's folder: `dataset_name`, or one that spells the settings."""
        if self.dataset_name is not None:
            return self.dataset_name
        if self.load_from_file is None:
            stem = (
                f"potential_{self.potential}_internal_{self.internal}_beta_{self.beta}"
                f"_interaction_{self.interaction}_dt_{self.dt}_T_{self.n_timesteps}"
                f"_dim_{self.dimension}_N_{self.n_particles}_gmm_{self.n_gmm_components}"
                f"_seed_{self.seed}"
            )
            spelled = set(_SPELLED)
        else:
            stem, spelled = _plain(Path(self.load_from_file).stem).lstrip(".-_") or "file", set()
        suffixes = []
        for key, value in self.content.items():
            if key in spelled or value == DEFAULTS[key]:
                continue
            label = _SUFFIXES.get(key, key)
            suffixes.append(f"_{label}" if value is True else f"_{label}_{_plain(str(value))}")
        return stem + "".join(suffixes)


DEFAULTS: dict[str, Any] = {f.name: f.default for f in dataclasses.fields(DataSettings)}
"""What an older dataset was made with, whose arguments lack a setting."""
_SPELLED = (
    "potential",
    "internal",
    "beta",
    "interaction",
    "dt",
    "n_timesteps",
    "dimension",
    "n_particles",
    "n_gmm_components",
    "seed",
)
_SUFFIXES = {
    "batch_size": "batch",
    "test_ratio": "test",
    "n_gmm_components": "gmm",
    "n_components": "components",
    "time_map": "times",
    "mass_key": "masses",
}


def check_left_out(index: int, n_snapshots: int) -> None:
    """Raises ValueError unless `index` is an inner snapshot.

    The first snapshot starts every prediction and the last ends the observed time, so only the ones
    between can be predicted from what remains.
    """
    if n_snapshots < 3:
        raise ValueError(f"leave_one_out needs at least three snapshots, got {n_snapshots}")
    if not 1 <= index <= n_snapshots - 2:
        raise ValueError(
            f"leave_one_out must be an inner snapshot, 1 to {n_snapshots - 2}, got {index}"
        )


def _plain(text: str) -> str:
    """`text` with everything that a folder's name should not hold replaced."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", text)


def _check_name(name: str) -> None:
    if not name or name.startswith((".", "-")) or _plain(name) != name or len(name) > 200:
        raise ValueError(
            f"dataset_name must be at most 200 letters, digits, '.', '_' or '-' and start "
            f"with neither '.' nor '-', got {shown(name)}"
        )
