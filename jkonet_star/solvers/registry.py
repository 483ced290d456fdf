"""Names of solvers, what each learns, and where it is. Imports no JAX.

A solver is a class that follows `jkonet_star.solvers.interface.Solver`. An own one is given to `fit`
as an object, or by a name:

    register_solver(
        "my-solver", "my_package.my_module:MySolver", terms=Terms(potential=True), settings={},
    )

An installed package makes its solvers known without being imported: each is an entry point of the
group `GROUP`, of the solver's name, at a `RegisteredSolver` in a module that imports no JAX.
"""

import dataclasses
import functools
import importlib
from collections.abc import Iterator, Mapping, MutableMapping
from importlib.metadata import EntryPoint, entry_points
from typing import TYPE_CHECKING, Any

from diffusions.checks import check_fields, one_of, shown
from jkonet_star.settings import (
    SCHEMES,
    BilevelSettings,
    FeatureSettings,
    NetworkSettings,
    Scheme,
)

if TYPE_CHECKING:
    from jkonet_star.solvers.interface import Solver


GROUP = "jkonet_star.solvers"
"""Of entry points."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Terms:
    """What is learned.

    Attributes:
        potential: V.
        interaction: U.
        internal: beta.
        time_varying: V depends on time.
        circulation: a velocity without divergence beside V.
    """

    potential: bool = False
    interaction: bool = False
    internal: bool = False
    time_varying: bool = False
    circulation: bool = False

    def __post_init__(self):
        check_fields(self)
        if not (self.potential or self.interaction):
            raise ValueError("terms must have a potential or an interaction, got neither")


@dataclasses.dataclass(frozen=True, kw_only=True)
class RegisteredSolver:
    """A named solver.

    Attributes:
        place: `package.module:Class`, imported when it is used.
        terms: what it learns; the class is given them.
        settings: keyword of the class -> class of its settings.
        options: further arguments of the class.
        default_scheme: that its fit is made for.
        trained: by epochs of gradient steps, and not solved.
        side_by_side: several populations of one shape may be trained in one program.
    """

    place: str
    terms: Terms
    settings: Mapping[str, type]
    options: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    default_scheme: Scheme = "explicit"
    trained: bool = True
    side_by_side: bool = False

    def make(self, **settings: Any) -> "Solver":
        """The solver.

        Args:
            settings: of these the class gets those that it has a keyword for, and defaults else.

        Raises:
            ValueError: there is no such class.
        """
        module, _, name = self.place.partition(":")
        made = {key: settings.get(key) or kind() for key, kind in self.settings.items()}
        try:
            kind = getattr(importlib.import_module(module), name)
        except (ImportError, AttributeError) as error:
            raise ValueError(f"the solver at {self.place} cannot be loaded: {error}") from error
        return kind(terms=self.terms, **self.options, **made)


class KnownSolvers(MutableMapping[str, RegisteredSolver]):
    """By name: what is registered in this process, then what installed packages declare.

    Looking for names reads what the packages declare; only what is asked for by its name is imported.
    A declared name that is registered already keeps its meaning.
    """

    def __init__(self) -> None:
        self._registered: dict[str, RegisteredSolver] = {}

    @functools.cached_property
    def _declared(self) -> dict[str, EntryPoint]:
        return {point.name: point for point in entry_points(group=GROUP)}

    def __getitem__(self, name: str) -> RegisteredSolver:
        """Raises KeyError for an unknown name, ValueError for a declared one that cannot be loaded."""
        if name not in self._registered:
            self._registered[name] = _loaded(self._declared[name])
        return self._registered[name]

    def __setitem__(self, name: str, entry: RegisteredSolver) -> None:
        self._registered[name] = entry

    def __delitem__(self, name: str) -> None:
        del self._registered[name]

    def __contains__(self, name: object) -> bool:
        return name in self._registered or name in self._declared

    def __iter__(self) -> Iterator[str]:
        return iter({**self._registered, **self._declared})

    def __len__(self) -> int:
        return len({**self._registered, **self._declared})

    def setdefault(self, name: str, entry: RegisteredSolver) -> RegisteredSolver:  # type: ignore[override]
        """The one that is registered by a name, which is the given one where there was none."""
        return self._registered.setdefault(name, entry)


def _loaded(point: EntryPoint) -> RegisteredSolver:
    """What an installed package declares.

    Raises:
        ValueError: it cannot be loaded, whatever the reason, or is something else.
    """
    try:
        entry = point.load()
    except Exception as error:
        raise ValueError(
            f"the solver {point.name!r} at {point.value} cannot be loaded: {error}"
        ) from error
    if not isinstance(entry, RegisteredSolver):
        raise ValueError(
            f"the solver {point.name!r} at {point.value} must be a RegisteredSolver, got "
            f"{shown(entry)}"
        )
    return entry


SOLVERS = KnownSolvers()
"""By name."""


def register_solver(
    name: str, place: str, *, terms: Terms, settings: Mapping[str, type], **more: Any
) -> None:
    """Makes a solver known by a name: to `fit`, to `experiments.train` and to sweeps.

    Args:
        name: new.
        place: `package.module:Class` of a `jkonet_star.solvers.interface.Solver`.
        terms: what it learns.
        settings: keyword of the class -> class of its settings.
        more: further fields of `RegisteredSolver`.

    Raises:
        ValueError: the name is taken by another solver, or the place is no `package.module:Class`.
    """
    if not all(part.isidentifier() for part in place.replace(":", ".", 1).split(".")) or (
        place.count(":") != 1
    ):
        raise ValueError(f"a solver's place must be package.module:Class, got {place!r}")
    entry = RegisteredSolver(place=place, terms=terms, settings=settings, **more)
    if SOLVERS.setdefault(name, entry) != entry:
        raise ValueError(f"solver {name!r} is registered already")


_NETWORK = {"network": NetworkSettings}
AUTO = "auto"
"""The solver that chooses between others."""
_TERMS = {
    "": Terms(potential=True, interaction=True, internal=True),
    "-potential": Terms(potential=True),
    "-potential-internal": Terms(potential=True, internal=True),
    "-time-potential": Terms(potential=True, time_varying=True),
    "-interaction": Terms(interaction=True),
}
_FAMILIES: tuple[tuple[str, tuple[str, ...], dict[str, Any]], ...] = (
    (
        "jkonet-star",
        ("", "-potential", "-potential-internal", "-time-potential"),
        {
            "place": "jkonet_star.solvers.network:Network",
            "settings": _NETWORK,
            "side_by_side": True,
        },
    ),
    (
        "jkonet-star-linear",
        ("", "-potential", "-potential-internal", "-interaction"),
        {
            "place": "jkonet_star.solvers.linear:Linear",
            "settings": {"features": FeatureSettings},
            "trained": False,
        },
    ),
    (
        "ijkonet",
        ("", "-potential", "-time-potential"),
        {
            "place": "jkonet_star.baselines.ijkonet:IJKOnet",
            "settings": _NETWORK,
            "default_scheme": "implicit",
        },
    ),
    (
        "stitching",
        ("", "-potential", "-time-potential"),
        {"place": "jkonet_star.baselines.stitching:Stitching", "settings": _NETWORK},
    ),
)
for _family, _names, _fields in _FAMILIES:
    for _name in _names:
        register_solver(_family + _name, terms=_TERMS[_name], **_fields)
register_solver(
    AUTO,
    "jkonet_star.solvers.choice:Auto",
    terms=_TERMS["-potential"],
    settings=_NETWORK,
)
for _name, _options in (
    ("jkonet", {"transport_map": "input-convex"}),
    ("jkonet-vanilla", {"transport_map": "mlp"}),
    ("jkonet-monge-gap", {"transport_map": "mlp", "monge_gap": True}),
):
    register_solver(
        _name,
        "jkonet_star.solvers.bilevel:Bilevel",
        terms=_TERMS["-potential"],
        settings=_NETWORK | {"bilevel": BilevelSettings},
        options=_options,
        default_scheme="implicit",
    )


def known_solver(solver: "str | Solver") -> "RegisteredSolver | Solver":
    """What is known of a solver without making it: the entry of its name, or itself.

    Raises:
        ValueError: no solver has that name, or it is neither.
    """
    if not isinstance(solver, str):
        if isinstance(solver, type) or not hasattr(solver, "prepare"):
            raise ValueError(
                f"solver must be a name, or a solver such as Network(), got {shown(solver)}"
            )
        return solver
    one_of("solver", solver, tuple(SOLVERS))
    return SOLVERS[solver]


def with_circulation(solver: "Solver") -> "Solver":
    """The same solver, which also learns a velocity without divergence.

    Raises:
        ValueError: it cannot.
    """
    if not solver.may_circulate:
        raise ValueError(
            "a circulation is learned by the network and the linear solvers, not by "
            f"{type(solver).__name__}"
        )
    terms = dataclasses.replace(solver.terms, circulation=True)
    return dataclasses.replace(solver, terms=terms)  # type: ignore[type-var]


def scheme_of(scheme: str, solver: "str | Solver") -> str:
    """The scheme that is meant: `auto` is the one that a solver's fit is made for.

    The bilevel solvers fit JKO steps, which are implicit, whatever the scheme; it then says only how
    the learned energy predicts (the published code: explicitly).

    Raises:
        ValueError: an unknown solver or scheme.
    """
    known = known_solver(solver)
    if scheme == "auto":
        return known.default_scheme
    one_of("scheme", scheme, SCHEMES)
    return scheme
