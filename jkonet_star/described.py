"""A fitted energy as plain values and named arrays, and back: what every file format needs.

The description alone says how to rebuild the model, so that an energy opens without the code that
trained it. A user's own Flax module is not rebuilt, since no file may say what code is imported: it is
given again. Arrays are dictionaries of arrays, none of them empty:

    params, constants, times; origin and start, where the data have them; growth, where it was learned;
    replicates: all these of the replicates, where there are any
"""

import dataclasses
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from diffusions.checks import Count, record
from diffusions.shapes import check_shapes
from jkonet_star.energies.models import EnergyModel, LinearEnergy, NetworkEnergy, Units
from jkonet_star.fit_report import FitReport
from jkonet_star.fitted import FittedEnergy
from jkonet_star.growth_rate import GrowthRate, SmoothField
from jkonet_star.settings import Scheme

NEWEST = 4
"""Of the schema: replicates, growth, a circulation, substeps. 2 has units of linear energies and the
origin, 3 widths among the radial centres; earlier ones are read."""
_PLAIN = 3
"""What has none of these is written so, for the releases that read no more."""
_OPTIONAL = ("origin", "start")
_PER_STEP = ("middles", "mean_features", "offsets")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Description:
    """What is told of an energy beside its arrays; JSON."""

    kind: Literal["network", "linear"]
    model: dict[str, Any]
    scheme: Scheme
    report: FitReport | None = None
    modules: dict[str, str] = dataclasses.field(default_factory=dict)  # classes of own ones
    growth: Literal["none", "relative", "absolute"] = "none"
    substeps: Count = 1


_FEATURES = ("potential", "interaction", "circulation")
_MODULES = ("potential_module", "interaction_module")
_CIRCULATION = ("circulation_planes", "circulation_features")
_MODELS: dict[str, type[EnergyModel]] = {"network": NetworkEnergy, "linear": LinearEnergy}


def _check_arrays(model: EnergyModel, arrays: dict[str, Any]) -> None:
    """Raises ValueError unless the arrays are those of the model."""
    d = model.dimension
    if any(not 0 <= i < j < d for i, j in model.circulation_planes):
        raise ValueError(f"its circulation has planes that are not in dimension {d}")
    vector, scalar = jax.ShapeDtypeStruct((d,), jnp.float32), jax.ShapeDtypeStruct((), jnp.float32)
    units = {f.name: vector if f.name == "center" else scalar for f in dataclasses.fields(Units)}
    wanted: dict[str, Any] = {
        "times": jax.ShapeDtypeStruct(arrays["times"].shape[-1:], jnp.float32),
        "constants": units,
    }
    if isinstance(model, NetworkEnergy):
        wanted["params"] = jax.eval_shape(model.init, jax.random.key(0))
    else:
        wanted["params"], wanted["constants"] = {}, {}
        if "units" in arrays.get("constants", {}):
            wanted["constants"]["units"] = units
        for name in _FEATURES:
            features = getattr(model, f"{name}_features")
            if features is None:
                continue
            if features.dimension != d or any(len(e) != d for e in features.exponents):
                raise ValueError(f"its {name} has features of another dimension than {d}")
            wanted["params"][name] = jax.ShapeDtypeStruct((features.n_features,), jnp.float32)
            if features.n_centers:
                columns = d + (features.width is None)
                centers = jax.ShapeDtypeStruct((features.n_centers, columns), jnp.float32)
                wanted["constants"][name] = centers
        if model.circulation_features is not None:
            n = model.n_circulation
            wanted["params"]["circulation"] = jax.ShapeDtypeStruct((n,), jnp.float32)
        if model.internal != "none":
            wanted["params"]["internal"] = scalar
    wanted |= {name: shape for name, shape in _optional(d).items() if name in arrays}
    if "growth" in arrays:
        process = arrays["growth"]["process"]
        n_points, n_times = process["points"].shape[-2], process["times"].shape[-1]
        shapes = _growth_shapes(d, arrays["times"].shape[-1] - 1, n_points, n_times)
        wanted["growth"] = jax.tree.map(
            lambda shape: jax.ShapeDtypeStruct(shape, jnp.float32),
            shapes,
            is_leaf=lambda leaf: isinstance(leaf, tuple),
        )
    check_shapes(arrays, wanted, stack=arrays["times"].shape[:-1])


def _optional(d: int) -> dict[str, jax.ShapeDtypeStruct]:
    return {
        "origin": jax.ShapeDtypeStruct((d,), jnp.float32),
        "start": jax.ShapeDtypeStruct((), jnp.float32),
    }


def _growth_shapes(d: int, n_steps: int, n_points: int, n_times: int) -> dict[str, Any]:
    """Of the arrays of a `GrowthRate`, from those that are free."""
    n_features = (1 + n_points) * n_times
    return {
        "process": {
            "center": (d,),
            "width": (),
            "points": (n_points, d),
            "whitening": (n_points, n_points),
            "times": (n_times,),
            "time_length": (),
            "time_whitening": (n_times, n_times),
            "change": (),
            "amplitude": (),
        },
        "theta": (n_features,),
        "middles": (n_steps,),
        "mean_features": (n_steps, n_features),
        "offsets": (n_steps,),
    }


def describe(energy: FittedEnergy) -> tuple[int, dict[str, Any], dict[str, Any]]:
    """The version of the schema, the description, which is JSON, and the arrays.

    Args:
        energy: with or without leading seed axes.

    Raises:
        ValueError: this is no energy of a kind that is known.
    """
    if not isinstance(energy, FittedEnergy):
        raise ValueError(f"energy must be a FittedEnergy, got {type(energy).__name__}")
    kinds = [name for name, kind in _MODELS.items() if type(energy.model) is kind]
    if not kinds:
        raise ValueError(
            f"the energy's model is a {type(energy.model).__name__}, and those that can be written are "
            "NetworkEnergy and LinearEnergy"
        )
    own = {name: getattr(energy.model, name, None) for name in _MODULES}
    own = {name: type(module).__name__ for name, module in own.items() if module is not None}
    model = energy.model
    if isinstance(model, NetworkEnergy):
        model = dataclasses.replace(model, potential_module=None, interaction_module=None)
    left_out = _MODULES if model.has_circulation else (*_MODULES, *_CIRCULATION)
    description: dict[str, Any] = {
        "kind": kinds[0],
        "model": {k: v for k, v in dataclasses.asdict(model).items() if k not in left_out},
        "scheme": energy.scheme,
        **({"modules": own} if own else {}),
    }
    rate = energy.growth_rate
    if rate is not None:
        description["growth"] = "absolute" if rate.absolute else "relative"
    if energy.substeps != 1:
        description["substeps"] = energy.substeps
    if energy.report is not None:
        description["report"] = dataclasses.asdict(energy.report)
    arrays = _arrays(energy)
    if energy.replicates is not None:
        arrays["replicates"] = _arrays(energy.replicates)
    is_plain = rate is None and energy.replicates is None and not model.has_circulation
    is_plain = is_plain and energy.substeps == 1
    version = _PLAIN if is_plain else NEWEST
    return version, description, arrays


def _arrays(energy: FittedEnergy) -> dict[str, Any]:
    constants = energy.constants
    if isinstance(constants, Units):
        constants = _fields(constants)
    elif "units" in constants:
        constants = {**constants, "units": _fields(constants["units"])}
    # Orbax takes no empty arrays: features without radial functions have no centres.
    constants = {
        name: value
        for name, value in constants.items()
        if isinstance(value, dict) or np.size(value)
    }
    arrays = {"params": energy.params, "constants": constants, "times": energy.times}
    for name in _OPTIONAL:
        if getattr(energy, name) is not None:
            arrays[name] = getattr(energy, name)
    if energy.growth_rate is not None:
        rate = energy.growth_rate
        named = {name: getattr(rate, name) for name in ("theta", *_PER_STEP)}
        arrays["growth"] = {"process": _fields(rate.process), **named}
    return arrays


def _fields(arrays: Units | SmoothField) -> dict[str, Any]:
    return {f.name: getattr(arrays, f.name) for f in dataclasses.fields(arrays)}


def _growth_rate(arrays: dict[str, Any], kind: str) -> GrowthRate | None:
    """What was saved of it."""
    if (kind == "none") != ("growth" not in arrays):
        raise ValueError(f"its growth is {kind}, and its arrays say otherwise")
    if kind == "none":
        return None
    found = dict(arrays["growth"])
    process = SmoothField(**found.pop("process"))
    return GrowthRate(process=process, absolute=kind == "absolute", **found)


@dataclasses.dataclass(frozen=True)
class Blueprint:
    """A description that was read, and the model that it tells of.

    Attributes:
        model: with a user's own modules, where it has any.
    """

    model: EnergyModel
    _told: Description

    @classmethod
    def read(
        cls,
        description: dict[str, Any],
        where: str,
        *,
        potential: nn.Module | None = None,
        interaction: nn.Module | None = None,
    ) -> "Blueprint":
        """What a description says.

        Args:
            description: of `describe`, and anything else.
            where: it is, for messages.
            potential: the own module of V, where the energy was learned with one.
            interaction: likewise of U.

        Raises:
            ValueError: it is damaged, or needs an own module that is not given.
        """
        given = {"potential_module": potential, "interaction_module": interaction}
        try:
            told = record(Description, description, more=True)
            if not told.model.keys().isdisjoint(_MODULES):
                raise ValueError("its model names modules")
            model = record(_MODELS[told.kind], told.model, "its model")
        except Exception as error:
            raise damaged(where, error) from error
        _check_own(where, told.modules, given)
        if isinstance(model, NetworkEnergy):
            model = dataclasses.replace(
                model, potential_module=potential, interaction_module=interaction
            )
        return cls(model, told)

    def energy(self, arrays: dict[str, Any]) -> FittedEnergy:
        """The energy of these arrays.

        Raises:
            Exception: they are not those of the model.
        """
        arrays = dict(arrays)
        replicates = arrays.pop("replicates", None)
        energy = _energy(self.model, self._told, arrays).with_report(self._told.report)
        if replicates is None:
            return energy
        return energy.with_replicates(_energy(self.model, self._told, replicates))


def _energy(model: EnergyModel, told: Description, arrays: dict[str, Any]) -> FittedEnergy:
    """Raises ValueError unless the arrays are those of the model."""
    _check_arrays(model, arrays)
    constants = arrays.get("constants", {})
    if isinstance(model, NetworkEnergy):
        constants = Units(**constants)
    else:
        if "units" in constants:
            constants["units"] = Units(**constants["units"])
        stack = arrays["times"].shape[:-1]
        for name in _FEATURES:
            features = getattr(model, f"{name}_features")
            if features is not None and features.n_centers == 0:
                constants[name] = jnp.zeros((*stack, 0, model.dimension))
    return FittedEnergy(
        model=model,
        scheme=told.scheme,
        params=arrays["params"],
        constants=constants,
        times=arrays["times"],
        growth_rate=_growth_rate(arrays, told.growth),
        substeps=told.substeps,
        **{name: arrays[name] for name in _OPTIONAL if name in arrays},
    )


def damaged(where: str, error: Exception) -> ValueError:
    """That an energy is not what was saved."""
    return ValueError(f"the energy in {where} is damaged: {' '.join(str(error).split())[:200]}")


def _check_own(where: str, told: dict[str, str], given: dict[str, nn.Module | None]) -> None:
    """Raises ValueError unless the given modules are of the classes that the file tells."""
    for name, module in given.items():
        found = None if module is None else type(module).__name__
        if found != told.get(name):
            keyword = name.removesuffix("_module")
            raise ValueError(
                f"the {keyword} of the energy in {where} is "
                f"{'none of ours' if name in told else 'no own module'}: give "
                f"{keyword}={told[name] + '(...)' if name in told else 'nothing'}, got {found}"
            )
