"""Saved energies come back bit for bit, or are refused with one clear error."""

import dataclasses
import hashlib
import json
import shutil
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest

from checkpoints import load_energy, save_energy
from jkonet_star.energies.features import make_features
from jkonet_star.energies.models import LinearEnergy, NetworkEnergy, Units
from jkonet_star.fit_report import CoupledStep, FitReport, MemberReport
from jkonet_star.fitted import FittedEnergy
from jkonet_star.settings import FeatureSettings

OPTIMISED = True  # numbers that were shipped, and their last bits

DATA = Path(__file__).parent / "data"
TIMES = np.array([0.0, 0.1, 0.3], np.float32)
NETWORKS = {
    "potential": {},
    "all-learned": {"has_interaction": True, "internal": "learned"},
    "beta-given": {"internal": "given"},
    "time-varying": {"time_varying": True, "activation": "tanh", "hidden": (5,)},
    "interaction-only": {"has_potential": False, "has_interaction": True},
}
FEATURES = {
    "published": FeatureSettings(degree=2, radial_centers=3),
    "monomials-only": FeatureSettings(degree=3, total_degree=4, radial="none"),
    "radial-only": FeatureSettings(degree=0, radial="inverse-multiquadric", radial_centers=2),
    "trigonometric": FeatureSettings(
        degree=2, trigonometric=True, radial="thin-plate", radial_width=0.3, radial_centers=2
    ),
}


def network(name="potential", *, dimension=2, seed=0):
    model = NetworkEnergy(**{"dimension": dimension, "hidden": (4, 3), **NETWORKS[name]})
    rng = np.random.default_rng(seed)
    scalars = {
        f.name: jnp.float32(rng.uniform(0.1, 2.0))
        for f in dataclasses.fields(Units)
        if f.name != "center"
    }
    return FittedEnergy(
        model=model,
        scheme="implicit",
        params=model.init(jax.random.key(seed)),
        constants=Units(center=jnp.asarray(rng.normal(size=dimension), jnp.float32), **scalars),
        times=jnp.asarray(TIMES),
    )


def linear(
    name="published", *, terms=("potential", "interaction"), internal="none", seed=0, dimension=2
):
    rng = np.random.default_rng(seed)
    sample = rng.normal(size=(40, dimension))
    features, constants, params = {}, {}, {}
    for term in ("potential", "interaction"):
        features[term] = None
        if term in terms:
            features[term], centers = make_features(FEATURES[name], sample)
            constants[term] = jnp.asarray(centers, jnp.float32)
            params[term] = jnp.asarray(rng.normal(size=features[term].n_features), jnp.float32)
    if internal != "none":
        params["internal"] = jnp.float32(0.1)
    model = LinearEnergy(
        dimension=dimension,
        potential_features=features["potential"],
        interaction_features=features["interaction"],
        internal=internal,
    )
    return FittedEnergy(
        model=model,
        scheme="explicit",
        params=params,
        constants=constants,
        times=jnp.asarray(TIMES),
    )


def stack(*energies):
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *energies)


ENERGIES = {
    **{f"network-{name}": (network, name, {}) for name in NETWORKS},
    **{f"linear-{name}": (linear, name, {}) for name in FEATURES},
    "linear-learned": (linear, "published", {"internal": "learned"}),
    "linear-given": (linear, "published", {"internal": "given", "terms": ("potential",)}),
    "linear-k-means": (linear, "published", {"dimension": 3}),
    "linear-interaction": (linear, "published", {"terms": ("interaction",)}),
}


def assert_same(found, expected):
    """The same model, scheme, structure, types and bits."""
    assert found.model == expected.model
    assert hash(found.model) == hash(expected.model)
    assert found.scheme == expected.scheme
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        assert isinstance(a, jax.Array)
        assert (a.dtype, a.shape) == (b.dtype, b.shape)
        assert np.asarray(a).tobytes() == np.asarray(b).tobytes()


@pytest.mark.parametrize("name", ENERGIES)
def test_one_energy_and_a_stack_come_back_bit_for_bit(name, tmp_path):
    make, kind, options = ENERGIES[name]
    single = make(kind, **options)
    stacked = stack(single, make(kind, **options, seed=1))
    for folder, energy in (("single", single), ("stacked", stacked)):
        save_energy(tmp_path / "deep" / folder, energy)
        assert_same(load_energy(tmp_path / "deep" / folder), energy)
    assert sorted(p.name for p in (tmp_path / "deep").iterdir()) == ["single", "stacked"]


def test_a_run_is_opened_by_its_folder_and_one_seed_is_one_energy(tmp_path):
    single = network()
    stacked = stack(single, network(seed=1))
    for name, energies in (("one", stack(single)), ("two", stacked), ("none", None)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text("{}")
        if energies is not None:
            save_energy(tmp_path / name / "energy", energies)
    assert_same(load_energy(tmp_path / "one"), single)
    assert_same(load_energy(tmp_path / "two"), stacked)
    with pytest.raises(ValueError, match="none is a run that has no energy, or is not finished"):
        load_energy(tmp_path / "none")


@pytest.mark.parametrize("make", [network, linear])
def test_a_loaded_energy_needs_no_new_compilation(make, tmp_path):
    energy = make()
    save_energy(tmp_path / "energy", energy)
    traced = []

    @jax.jit
    def drift(fitted, x):
        traced.append(1)
        return fitted.drift(x)

    x = jnp.asarray(np.random.default_rng(1).normal(size=(6, 2)), jnp.float32)
    before = drift(energy, x)
    np.testing.assert_array_equal(drift(load_energy(tmp_path / "energy"), x), before)
    assert len(traced) == 1


def test_values_that_are_not_finite_survive(tmp_path):
    energy = network()
    odd = jnp.asarray([jnp.nan, -jnp.inf, -0.0], jnp.float32)
    save_energy(tmp_path / "energy", energy.replace(times=odd))
    assert np.asarray(load_energy(tmp_path / "energy").times).tobytes() == np.asarray(odd).tobytes()


def contents(folder):
    return {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_nothing_is_overwritten(tmp_path):
    save_energy(tmp_path / "energy", network())
    (tmp_path / "file").write_text("precious")
    (tmp_path / "empty").mkdir()
    before = contents(tmp_path)
    for name in ("energy", "file", "empty"):
        with pytest.raises(ValueError, match=f"{name} already exists; .* never overwritten"):
            save_energy(tmp_path / name, network(seed=1))
    assert contents(tmp_path) == before


def test_an_interrupted_save_leaves_no_energy_and_does_not_hinder_the_next(tmp_path, monkeypatch):
    def interrupted(*args, **kwargs):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("checkpoints.array_folder.json.dumps", interrupted)
        with pytest.raises(KeyboardInterrupt):
            save_energy(tmp_path / "energy", network())
    assert not (tmp_path / "energy").exists()
    with pytest.raises(ValueError, match="holds no saved energy"):
        load_energy(tmp_path / "energy")
    save_energy(tmp_path / "energy", network(seed=1))
    assert_same(load_energy(tmp_path / "energy"), network(seed=1))
    assert [p.name for p in tmp_path.iterdir()] == ["energy"]


def edited(**changes):
    def edit(folder):
        file = folder / "energy.json"
        description = {**json.loads(file.read_text()), **changes}
        file.write_text(json.dumps({k: v for k, v in description.items() if v is not None}))

    return edit


def written(text):
    return lambda folder: (folder / "energy.json").write_text(text)


def cut(folder):
    file = folder / "energy.json"
    file.write_text(file.read_text()[:-30])


def without_arrays(folder):
    (folder / "arrays").rename(folder / "elsewhere")


def truncated_arrays(folder):
    for file in (folder / "arrays").rglob("*"):
        if file.is_file() and file.parent.name == "d":
            file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def one_bit(folder):
    for file in (folder / "arrays").rglob("*"):
        if file.is_file() and file.parent.name == "d":
            content = bytearray(file.read_bytes())
            content[len(content) // 2] ^= 1
            file.write_bytes(bytes(content))


def truncated_metadata(folder):
    file = folder / "arrays" / "_METADATA"
    file.write_text(file.read_text()[:40])


def binary(folder):
    (folder / "energy.json").write_bytes(b"\xff\xfe\x00")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (cut, r"energy\.json is damaged"),
        (binary, r"energy\.json is damaged"),
        (written("[1, 2]"), r"energy\.json is damaged"),
        (written(""), r"energy\.json is damaged"),
        (edited(schema_version=None), r"energy\.json is damaged"),
        (edited(schema_version="1"), "is damaged: its schema_version is '1'"),
        (edited(schema_version=5), "has schema version 5; .* upgrade jkonet-diffusions"),
        (edited(kind=None), "is damaged"),
        (edited(kind="tabular"), "is damaged: unknown kind 'tabular'"),
        (edited(model={"dimension": 2}), "is damaged"),
        (edited(model={"dimension": 2, "hidden": [4, 3], "depth": 1}), "is damaged"),
        (edited(checksums=None), "is damaged"),
        (one_bit, "is damaged: its arrays are not those that were saved"),
        (edited(scheme=None), "is damaged"),
        (without_arrays, "is damaged"),
        (truncated_arrays, "is damaged"),
        (truncated_metadata, "is damaged"),
    ],
)
@pytest.mark.parametrize("make", [network, linear])
def test_a_damaged_energy_is_one_clear_error(make, damage, message, tmp_path):
    save_energy(tmp_path / "energy", make())
    damage(tmp_path / "energy")
    with pytest.raises(ValueError, match=message) as error:
        load_energy(tmp_path / "energy")
    assert str(tmp_path / "energy") in str(error.value)
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 500


def test_arrays_that_are_announced_and_not_there_are_not_made(tmp_path):
    """With checksums that agree: a kilobyte of description of a gigabyte of zeros."""
    save_energy(tmp_path / "energy", network())
    arrays = tmp_path / "energy" / "arrays"
    shutil.rmtree(arrays)
    with ocp.Checkpointer(ocp.PyTreeCheckpointHandler(use_ocdbt=False)) as checkpointer:
        checkpointer.save(arrays, {"params": np.zeros(3, np.float32)})
    described = arrays / "params" / ".zarray"
    content = json.loads(described.read_text()) | {"shape": [2**28], "chunks": [2**20]}
    described.write_text(json.dumps(content | {"fill_value": 0}))
    checksums = {
        file.relative_to(arrays.parent).as_posix(): hashlib.sha256(file.read_bytes()).hexdigest()
        for file in arrays.rglob("*")
        if file.is_file()
    }
    edited(checksums=checksums)(tmp_path / "energy")
    with pytest.raises(ValueError, match="would take 1073741824 bytes, at most 268435456"):
        load_energy(tmp_path / "energy")


def test_a_missing_folder_and_a_file_in_its_place(tmp_path):
    (tmp_path / "file").touch()
    for name in ("missing", "file", ""):
        with pytest.raises(ValueError, match=r"holds no saved energy \(energy.json is missing\)"):
            load_energy(tmp_path / name)


def report(members):
    step = CoupledStep(method="sinkhorn", pairs=3, marginal_error=1e-60, converged=False)
    own = [MemberReport(losses=[1.0, None], diverged=i or None) for i in range(members)]
    return FitReport(
        solver="jkonet-star-potential",
        scheme="implicit",
        couplings=[step],
        epochs=2,
        loss_epochs=[1, 2],
        members=own,
        warnings=["diverged"],
    )


def test_how_it_was_fitted_comes_back(tmp_path):
    single = network()
    for name, energy, n in (("one", single, 1), ("two", stack(single, single), 2)):
        save_energy(tmp_path / name, energy.with_report(report(n)))
        loaded = load_energy(tmp_path / name)
        assert loaded.report == report(n)
        assert_same(loaded, energy)
    assert loaded.diverged == (None, 1)
    assert load_energy(tmp_path / "one").diverged is None
    save_energy(tmp_path / "none", single)
    assert load_energy(tmp_path / "none").report is None
    for folder in (DATA / "energy_linear_schema_1", DATA / "energy_network_schema_1"):
        assert load_energy(folder).report is None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"solver": 3}, "solver must be text, got 3"),
        ({"members": []}, "a report of 0 energies does not fit"),
        ({"couplings": [{"pairs": 1}]}, "has no method"),
    ],
)
def test_a_damaged_report_is_one_clear_error(change, message, tmp_path):
    save_energy(tmp_path / "energy", network().with_report(report(1)))
    file = tmp_path / "energy" / "energy.json"
    content = json.loads(file.read_text())
    content["report"] |= change
    file.write_text(json.dumps(content))
    with pytest.raises(ValueError, match=f"the energy in .* is damaged: .*{message}"):
        load_energy(tmp_path / "energy")


def test_what_older_releases_do_not_know_is_of_a_schema_that_they_refuse_by_name(tmp_path):
    plain = linear("monomials-only", terms=("potential",))
    turning = plain.replace(
        model=dataclasses.replace(
            plain.model,
            circulation_features=plain.model.potential_features,
            circulation_planes=((0, 1),),
        )
    )
    n = turning.model.n_circulation
    turning = turning.replace(params={**plain.params, "circulation": jnp.ones(n)})
    for name, energy, version in (("plain", plain, 3), ("turning", turning, 4)):
        save_energy(tmp_path / name, energy)
        written = json.loads((tmp_path / name / "energy.json").read_text())
        assert written["schema_version"] == version
        assert load_energy(tmp_path / name).has_circulation == (version == 4)
