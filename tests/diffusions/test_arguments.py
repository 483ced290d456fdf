"""Public functions take lists, NumPy arrays, seeds and raw keys, and refuse wrong ranks by name."""

import dataclasses
import importlib
import inspect
import pkgutil
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import data_generation
import diffusions
import jkonet_star
from diffusions import metrics, samplers, sparse_estimators
from diffusions.arguments import as_key, checked
from diffusions.density.exact import gaussian, gaussian_mixture
from diffusions.density.gaussian_reference import fitted_reference, standard_reference
from diffusions.density.likelihood import nll
from diffusions.density.log_snr import LogSNRLaw, law_from_spectrum
from diffusions.linear_denoiser.distance import log_pairs
from diffusions.linear_denoiser.model import OneStepModel
from diffusions.processes import OrnsteinUhlenbeck, corrupt
from diffusions.stochastic_localization import euler
from diffusions.typing import Array, Bool, Float, HostArray, Int, Key, Keys

KEY = jax.random.key(0)


@checked
def mean(
    x: Float[Array, "n d"],
    y: Float[Array, "m d"] | None = None,
    *,
    weights: Float[Array, "n"] | None = None,
    t: Float[Array, ""] | float = 0.0,
):
    """What it was given."""
    return x, y, weights, t


@checked
def mixed(i: Int[Array, "n"], told: Bool[Array, "n"], x: Float[Array, "*batch n 2"]):
    """What it was given."""
    return i, told, x


@checked
def on_host(x: Float[Array, "n d"] | HostArray):
    """What it was given."""
    return x


@checked
def random(key: Key, keys: Keys | None = None):
    """What it was given."""
    return key, keys


def test_what_is_given_becomes_arrays():
    x, y, weights, t = mean([[1, 2], [3, 4]], np.zeros((3, 2)), weights=(1, 2.5), t=0.5)
    assert isinstance(x, jax.Array)
    assert [a.dtype for a in (x, y, weights)] == [jnp.float32] * 3
    np.testing.assert_array_equal(x, [[1, 2], [3, 4]])
    assert t == 0.5
    i, told, x = mixed([1, 2, 3], [True, False, True], np.zeros((4, 5, 3, 2), np.int64))
    assert i.dtype == jnp.int32
    assert told.dtype == jnp.bool_
    assert x.dtype == jnp.float32
    assert mean(jnp.zeros((2, 2), jnp.bfloat16))[0].dtype == jnp.bfloat16
    (row,) = mean([jnp.ones(3)])[0]
    np.testing.assert_array_equal(row, np.ones(3))


def test_double_precision_stays_where_it_is_welcome():
    assert on_host(np.full((1, 1), 1 + 1e-12)).tolist() == [[1 + 1e-12]]
    assert on_host([[1 + 1e-12]]).tolist() == [[1 + 1e-12]]
    assert isinstance(on_host(jnp.ones((1, 1))), jax.Array)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([1.0, 2.0],), r"x must be of shape \[n, d\], got float32 of shape \(2,\)"),
        ((np.zeros((2, 3)), np.zeros((2, 2))), r"y must be of shape \[m, d\] with d = 3, got "),
        ((np.zeros((2, 3)), None, [1.0]), r"weights must be of shape \[n\] with n = 2, got"),
        (([[1.0, 2.0], [3.0]],), "x must be an array of real numbers, got list"),
        (("text",), "x must be an array of real numbers, got"),
        (([["a"]],), "x must be an array of real numbers, got"),
        ((np.ma.masked_equal(np.eye(2), 0.0),), "masked entries in x: leave out"),
        (([np.ma.masked_equal(np.ones(2), 1.0)],), "masked entries in x"),
        ((np.zeros((1, 1), complex),), "x must be an array of real numbers, got complex"),
        (
            (np.zeros((1, 1)), None, None, [1.0, 2.0]),
            r"t must be of shape \[\], got float32 of sha",
        ),
    ],
)
def test_what_does_not_fit_is_refused_by_name(arguments, message):
    x, y, weights, t = (*arguments, None, None, None)[:4]
    with pytest.raises(ValueError, match=message):
        mean(x, y, weights=weights, t=0.0 if t is None else t)


def test_kinds_are_not_mixed_up():
    with pytest.raises(ValueError, match="i must be an array of integers, got float"):
        mixed([1.5], [True], [[1.0, 2.0]])
    with pytest.raises(ValueError, match="told must be an array of true or false, got int"):
        mixed([1], [1], [[1.0, 2.0]])
    with pytest.raises(ValueError, match=r"x must be of shape \[\*batch, n, 2\] with n = 1, got"):
        mixed([1], [True], [[1.0, 2.0, 3.0]])


def test_checks_are_of_shapes_alone_and_hold_under_transformations():
    x, y = jnp.zeros((5, 4, 2)), jnp.zeros((5, 3, 2))
    found = jax.jit(jax.vmap(lambda a, b: mean(a, b)[0] + 1.0))(x, y)
    assert found.shape == (5, 4, 2)
    with pytest.raises(ValueError, match=r"y must be of shape \[m, d\] with d = 2"):
        jax.jit(jax.vmap(mean))(x, jnp.zeros((5, 3, 1)))
    np.testing.assert_array_equal(jax.grad(lambda a: mean(a)[0].sum())(x[0]), np.ones((4, 2)))


@pytest.mark.parametrize(
    "key",
    [0, np.int64(0), jnp.asarray(0), jax.random.PRNGKey(0), np.asarray(jax.random.PRNGKey(0)), KEY],
    ids=["seed", "NumPy", "array", "raw", "raw on the host", "typed"],
)
def test_every_form_of_a_key_is_the_same_key(key):
    np.testing.assert_array_equal(jax.random.key_data(random(key)[0]), jax.random.key_data(KEY))
    jitted = jax.jit(lambda k: jax.random.normal(random(k)[0]))
    if not isinstance(key, int):
        assert float(jitted(key)) == float(jax.random.normal(KEY))


def test_raw_keys_of_several_seeds():
    raw = jnp.stack([jax.random.PRNGKey(0), jax.random.PRNGKey(1)])
    _, keys = random(0, raw)
    assert keys.shape == (2,)
    np.testing.assert_array_equal(jax.random.key_data(keys), raw)
    with pytest.raises(ValueError, match=r"key must be one key, got key<fry> of shape \(2,\)"):
        random(raw)


@pytest.mark.parametrize(
    "key", [1.5, "0", True, [0, 1], np.zeros(3), np.zeros(3, np.uint32), 2**80]
)
def test_what_is_no_key_is_refused_with_the_remedy(key):
    with pytest.raises(
        ValueError, match=r"key must be a key such as jax.random.key\(0\), or a seed"
    ):
        as_key(key)


UNCHECKED = {
    # Host values, files and imports; constructors of pytrees and callbacks.
    "diffusions": (
        "arguments",
        "checks",
        "late_imports",
        "linear_denoiser.expectation",
        "linear_denoiser.theory",
        "memory",
    ),
}
ENTRANCES = {
    "jkonet_star": ("densities", "evaluation", "fitted", "fitting", "transport.couplings"),
    "data_generation": ("gaussians", "populations.particles", "sparse_rank_one"),
}
INSIDE = {
    # Called by this project's own code alone.
    *("data_units", "linear_model", "named_key", "drift", "summarise"),
    *("scan_steps", "scan_with_memory"),
    *("check_couplings", "moved_couplings", "FittedEnergy.seen_from", "beside"),
}


def public_functions():
    for package in (diffusions, jkonet_star, data_generation):
        name = package.__name__
        for info in pkgutil.walk_packages(package.__path__, f"{name}."):
            inner = info.name.removeprefix(f"{name}.")
            if info.ispkg or inner.startswith("networks.") or inner in UNCHECKED.get(name, ()):
                continue
            if name in ENTRANCES and inner not in ENTRANCES[name]:
                continue
            module = importlib.import_module(info.name)
            for item in vars(module).values():
                if getattr(item, "__module__", None) != module.__name__:
                    continue
                if inspect.isclass(item) and not item.__name__.startswith("_"):
                    if not getattr(item, "_is_protocol", False):
                        for method in vars(item).values():
                            if callable(method) and not inspect.isclass(method):
                                yield module, f"{item.__name__}.", method
                elif callable(item):
                    yield module, "", item


def takes_arrays(function):
    try:
        hints = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):
        return False
    text = " ".join(str(p.annotation) for p in hints)
    return any(word in text for word in ("Float[", "Int[", "Bool[", "Key[", "snapshots.Snapshots"))


FUNCTIONS = {
    f"{module.__name__}.{prefix}{function.__name__}": function
    for module, prefix, function in public_functions()
    if not getattr(function, "__name__", "_").startswith("_")
    and f"{prefix}{function.__name__}" not in INSIDE
    and takes_arrays(function)
}
FIRST = types.SimpleNamespace(dimension=3, means=np.zeros((2, 3)))


def test_the_walk_finds_the_public_functions():
    assert len(FUNCTIONS) > 100
    assert "jkonet_star.fitting.fit" in FUNCTIONS
    assert "diffusions.samplers.Model.velocity" in FUNCTIONS


@pytest.mark.parametrize("name", FUNCTIONS)
def test_every_public_function_refuses_wrong_ranks_and_types_by_name(name):
    function = FUNCTIONS[name]
    assert hasattr(function, "checked_arguments"), f"{name} is not checked"
    parameters = list(inspect.signature(function).parameters)
    for argument, rule in function.checked_arguments.items():
        wrong = ["text"]
        if rule.arrays and rule.arrays[0].kind != "key":
            least = max(len(r.axes) for r in rule.arrays)
            variadic = any(a == "..." or a.startswith("*") for r in rule.arrays for a in r.axes)
            # Of as many axes as there are none; or fewer than those that must be there.
            if not variadic:
                wrong.append(
                    np.zeros((1,) * (least + 1), {"bool": bool}.get(rule.arrays[0].kind, int))
                )
            elif least > 1:
                wrong.append(np.zeros((), {"bool": bool}.get(rule.arrays[0].kind, int)))
        elif rule.arrays:
            wrong += [0.5, jax.random.split(KEY, 2)[None]]
        for value in wrong:
            given = dict.fromkeys(parameters)
            given[parameters[0]] = (
                FIRST if parameters[0] not in function.checked_arguments else None
            )
            given[argument] = value
            with pytest.raises(ValueError, match=rf"^{argument} must be "):
                function(**given)


def identity(z, t):
    return 0.5 * z


MODEL = samplers.Model(identity, OrnsteinUhlenbeck())
LAW = LogSNRLaw()
POINTS = [[0.0, 1.0], [2.0, 0.5], [1.0, -1.0]]
EDGES = [[[1.0, 0.5], [0.5, 2.0]]]
CALLS = {
    "mmd_squared": lambda f: metrics.mmd_squared(f(POINTS), f(POINTS), metrics.polynomial_kernel),
    "gaussian_kl": lambda f: metrics.gaussian_kl(f([0.0]), f([[1.0]]), f([1.0]), f([[2.0]])),
    "ddim": lambda f: samplers.ddim(MODEL, KEY, f(POINTS), f([1.0, 0.5, 0.1])),
    "ancestral": lambda f: samplers.ancestral(MODEL, 0, f(POINTS), f([1.0, 0.5, 0.1])),
    "corrupt": lambda f: corrupt(OrnsteinUhlenbeck(), 0, f(POINTS), f([0.1, 0.2, 0.3]))[0],
    "nll": lambda f: nll(identity, 0, f(POINTS), LAW, standard_reference(2)).value,
    "reference": lambda f: fitted_reference(f(POINTS)).log_density(f(POINTS)),
    "gaussian": lambda f: gaussian(f([0.0]), f([[1.0]])).log_density(f([[1.0], [2.0]])),
    "mixture": lambda f: gaussian_mixture(f([1.0]), f([[0.0]]), f([[[2.0]]])).sample(0, 3),
    "law": lambda f: law_from_spectrum(f([1.0, 2.0])).loc,
    "linear denoiser": lambda f: OneStepModel(dimension=2).corrupt(0, f(POINTS)),
    "log_pairs": lambda f: log_pairs(OneStepModel(dimension=2), f(POINTS)),
    "spectral": lambda f: sparse_estimators.spectral(f(EDGES), 1),
    "posterior": lambda f: sparse_estimators.posterior_mean(
        sparse_estimators.sparse_prior(2, 1), f(EDGES), f([1.0])
    ),
    "euler": lambda f: euler(
        jax.random.split(KEY, 3),
        lambda keys, y, t: -y,
        lambda keys: jnp.zeros((3, 2)),
        f(POINTS),
        f([0.0, 0.5]),
    ),
}


@pytest.mark.parametrize("name", CALLS)
def test_lists_and_numpy_arrays_give_what_arrays_give(name):
    expected = np.asarray(CALLS[name](lambda values: jnp.asarray(values, jnp.float32)))
    for convert in (list, np.asarray, lambda values: np.asarray(values, np.float32)):
        np.testing.assert_allclose(CALLS[name](convert), expected, rtol=1e-6, atol=1e-7)


def test_examples_of_another_size_than_the_reference():
    with pytest.raises(ValueError, match=r"examples of shape \(3,\) do not have the 2 coordinates"):
        standard_reference(2).log_density([[1.0, 2.0, 3.0]])


def test_dimensions_that_an_object_knows():
    with pytest.raises(ValueError, match=r"x must be of shape \[batch, d\] with d = 1, got"):
        gaussian([0.0], [[1.0]]).log_density([[1.0, 2.0]])
    with pytest.raises(ValueError, match=r"points must be of shape \[n, d\] with d = 3, got"):
        log_pairs(OneStepModel(dimension=3), POINTS)


def test_instances_of_classes_are_asked_for():
    @dataclasses.dataclass
    class Other:
        dimension: int = 2

    with pytest.raises(ValueError, match="model must be of OneStepModel, got Other"):
        log_pairs(Other(), POINTS)


def test_an_argument_that_is_not_known_is_one_of_what():
    with pytest.raises(TypeError, match=r"^mean\(\) got an unexpected .* 'z'"):
        mean(np.ones((2, 2)), z=1)
