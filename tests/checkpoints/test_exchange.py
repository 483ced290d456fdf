"""Models leave the house whole, and run elsewhere without it."""

import importlib.metadata
import json
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest
import yaml

from checkpoints import export, load_energy, load_network, load_pretrained, save_energy
from checkpoints.energies import FittedEnergy
from checkpoints.exchange.programs import energy_programs, network_program
from checkpoints.exchange.tensors import read_tensors, save_tensors
from checkpoints.networks import save_network
from checkpoints.pretrained_models import pretrained_card
from data_generation.populations.particles import simulate
from diffusions.networks.unet import UNet
from jkonet_star import FeatureSettings, NetworkSettings, fit, snapshots_from_arrays

pytest.importorskip("safetensors")
pytest.importorskip("flatbuffers")


def learned(solver, *, origin=0.0, **settings) -> FittedEnergy:
    points = simulate(jax.random.key(0), potential="sphere", n_particles=60)
    snapshots = snapshots_from_arrays(list(np.float64(points) + origin), None, dt=0.01)
    return fit(snapshots, solver=solver, key=jax.random.key(1), **settings)


@pytest.fixture(scope="module")
def energies():
    few = {"network": NetworkSettings(epochs=2, hidden=(8,))}
    return {
        "network": learned("jkonet-star-potential", **few),
        "moving": learned("jkonet-star-time-potential", **few),
        "interacting": learned("jkonet-star-linear", features=FeatureSettings(degree=2)),
        "far": learned("jkonet-star-potential", origin=1e6, **few),
    }


X = np.random.default_rng(0).normal(size=(7, 2)).astype(np.float32)
Y = np.random.default_rng(1).normal(size=(5, 2)).astype(np.float32)


def same(a, b):
    jax.tree.map(np.testing.assert_array_equal, a, b)


@pytest.mark.parametrize("name", ["network", "moving", "interacting"])
def test_programs_compute_what_the_energy_does(name, energies):
    energy = energies[name]
    programs = energy_programs(energy)
    inputs = (X, Y) if energy.model.has_interaction else (X,)
    t = np.float32(0.01)
    call = {k: jax.export.deserialize(bytearray(p.content)).call for k, p in programs.items()}
    wanted = energy.drift(X, Y, t=0.01)
    scale = float(jnp.abs(wanted).max())
    np.testing.assert_allclose(call["drift"](*inputs, t), wanted, atol=2e-5 * scale)
    np.testing.assert_allclose(
        call["potential"](X, t), energy.potential(X, 0.01), rtol=2e-5, atol=2e-5 * scale
    )
    if name == "interacting":  # an energy in closed form
        return
    # Its gradient is there, too, and any number of points.
    slope = jax.grad(lambda x: call["potential"](x, t).sum())(jnp.asarray(X[:3]))
    np.testing.assert_allclose(
        slope, energy.gradients(X[:3], jnp.ones(3) / 3, 0.01)[0], atol=2e-4 * scale
    )


def test_an_energy_far_from_zero_is_exported_in_the_units_of_its_data(energies):
    energy = energies["far"]
    drift = jax.export.deserialize(bytearray(energy_programs(energy)["drift"].content)).call
    near = np.round(X * 8) / 8  # whose sums with 1e6 single precision holds to a sixteenth
    wanted = energy.drift(np.float64(near) + 1e6, t=0.0)
    np.testing.assert_allclose(
        drift(np.float32(near + 1e6), np.float32(0.0)), wanted, atol=0.05 * np.abs(wanted).max()
    )


def test_a_stack_is_no_program(energies):
    stack = jax.tree.map(lambda x: jnp.stack([x, x]), energies["network"])
    with pytest.raises(ValueError, match="stack of 2 energies"):
        energy_programs(stack)


def test_a_network_of_images_is_a_program_of_any_number_of_them():
    module = UNet(out_channels=1, width=4, multipliers=(1,), blocks_per_level=1, groups=2)
    made = jax.random.normal(jax.random.key(0), (3, 2, 2, 2)), jnp.array([0.1, 0.5, 0.9])
    params = jax.jit(module.init)(jax.random.key(2), *made)
    program = network_program(module, params, image=(2, 2))
    found = jax.export.deserialize(bytearray(program.content)).call(*made)
    np.testing.assert_allclose(found, jax.jit(module.apply)(params, *made), atol=1e-5)
    assert (program.inputs, program.output) == (
        "float32 (n, 2, 2, 2), float32 (n)",
        "float32 (n, 2, 2, 1)",
    )
    for wrong in (None, (4,)):
        with pytest.raises(ValueError, match="--image-size"):
            network_program(module, params, image=wrong)


ELSEWHERE = """
import sys
from pathlib import Path
for name in ("checkpoints", "jkonet_star", "diffusions", "data_generation", "flax"):
    sys.modules[name] = None
import numpy as np
from jax import export
program, *inputs = sys.argv[1:]
call = export.deserialize(bytearray(Path(program).read_bytes())).call
np.save("found.npy", call(*(np.load(file) for file in inputs)))
"""


def run_elsewhere(folder: Path, program: Path, *inputs):
    files = []
    for k, array in enumerate(inputs):
        files.append(str(folder / f"{k}.npy"))
        np.save(files[-1], array)
    command = [sys.executable, "-c", ELSEWHERE, str(program), *files]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return np.load(folder / "found.npy")


def test_a_shipped_energy_runs_in_a_process_without_this_project(tmp_path):
    out = tmp_path / "deep" / "energy"
    assert export.run(["--model=styblinski_tang", f"--out={out}"]) == 0
    assert sorted(p.name for p in out.iterdir()) == [
        *("README.md", "drift.jax_export", "model.safetensors", "potential.jax_export"),
    ]
    energy = load_pretrained("styblinski_tang")
    found = run_elsewhere(tmp_path, out / "drift.jax_export", X, np.float32(0.0))
    np.testing.assert_allclose(found, energy.drift(X), rtol=1e-4, atol=1e-4)
    same(load_energy(out / "model.safetensors").params, energy.params)


def test_shipped_networks_are_exported(tmp_path):
    for name, more in (("dino", ()), ("sparse_n64_k6", ())):
        out = tmp_path / name
        assert export.run([f"--model={name}", f"--out={out}", *more]) == 0
        network, shipped = load_network(out / "model.safetensors"), load_pretrained(name)
        same(network.params, shipped.params)
        same(network.extra, shipped.extra)
        assert (network.module, network.about) == (shipped.module, shipped.about)
    call = jax.export.deserialize(
        bytearray((tmp_path / "sparse_n64_k6" / "network.jax_export").read_bytes())
    ).call
    edges = jax.random.normal(jax.random.key(0), (2, 64, 64)) / 8
    edges, t = edges + edges.mT, jnp.array([20.0, 60.0])
    start = jax.random.normal(jax.random.key(1), (2, 64))
    wanted = shipped.module.apply(shipped.params, edges, t, start)
    np.testing.assert_allclose(call(edges, t, start), wanted, atol=1e-5)


def test_the_card_has_a_header_that_hubs_read_and_lines_that_run(tmp_path, monkeypatch):
    assert export.run(["--model=dino", f"--out={tmp_path / 'dino'}"]) == 0
    text = (tmp_path / "dino" / "README.md").read_text()
    _, header, body = text.split("---\n", 2)
    told = yaml.safe_load(header)
    assert told["library_name"] == "jkonet-diffusions"
    assert "jax" in told["tags"]
    assert str(pretrained_card("dino").metrics[0].value) in body, "what was measured of it"
    monkeypatch.chdir(tmp_path / "dino")
    for snippet in body.split("```python\n")[1:]:
        exec(snippet.split("```")[0], {})


def test_a_run_is_exported_with_what_it_says_of_itself(tmp_path, energies):
    run = tmp_path / "run"
    stack = jax.tree.map(lambda x: x[None], energies["network"])
    save_energy(run / "energy", stack)
    (run / "config.json").write_text("{}")
    (run / "summary.json").write_text(json.dumps({"verdict": "better than nothing"}))
    assert export.run([f"--model={run}", f"--out={tmp_path / 'out'}"]) == 0
    assert "better than nothing" in (tmp_path / "out" / "README.md").read_text()
    same(load_energy(tmp_path / "out" / "model.safetensors"), energies["network"])


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--model=nothing"], "no saved model, no run of one, and none of dino"),
        (["--model=sparse_pixels"], "height and width of its images: --image-size"),
        (["--model=dino", "--image-size=8,8"], "has no images"),
        (["--model=dino", "--image-size=8"], "image_size must have at least 2 entries"),
        (["--model=styblinski_tang", "--image-size=8,8"], "is an energy and has no images"),
        (["--model=dino", "--seed=1"], "dino is one model, so leave --seed out"),
        ([], "--model is missing"),
    ],
)
def test_what_cannot_be_exported_is_said_and_leaves_nothing(flags, said, tmp_path, capsys):
    assert export.run([*flags, f"--out={tmp_path / 'out'}"]) == 2
    assert said in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_nothing_is_overwritten(tmp_path, capsys):
    (tmp_path / "mine").write_text("precious")
    assert export.run(["--model=dino", f"--out={tmp_path / 'mine'}"]) == 2
    assert "never overwrites" in capsys.readouterr().err
    save_tensors(_file(tmp_path), "energy", {}, {"a": np.ones(1)})
    with pytest.raises(ValueError, match="already exists"):
        save_tensors(_file(tmp_path), "energy", {}, {"a": np.ones(1)})


def _file(folder):
    return folder / "model.safetensors"


def test_arrays_come_back_bit_for_bit(tmp_path):
    arrays = {"a": {"b": np.arange(6, dtype=np.float32).reshape(2, 3).T}, "c": np.int32(3)}
    save_tensors(_file(tmp_path), "network", {"schema_version": 1}, arrays)
    same(read_tensors(_file(tmp_path)), arrays)


def damaged(folder, change):
    content = bytearray(_file(folder).read_bytes())
    change(content)
    _file(folder).write_bytes(content)


def test_damage_is_noticed(tmp_path, energies):
    from jkonet_star.described import describe

    version, description, arrays = describe(energies["network"])
    told = {"schema_version": version, **description}
    save_tensors(_file(tmp_path), "energy", told, arrays)
    whole = _file(tmp_path).read_bytes()

    def flip(content):
        content[-3] ^= 1

    damaged(tmp_path, flip)
    with pytest.raises(ValueError, match="not those that were saved"):
        load_energy(_file(tmp_path))
    _file(tmp_path).write_bytes(whole[:-10])
    with pytest.raises(ValueError, match="no complete safetensors file"):
        load_energy(_file(tmp_path))
    _file(tmp_path).write_bytes(whole)
    with pytest.raises(ValueError, match="holds no saved network but a saved energy"):
        load_network(_file(tmp_path))
    with pytest.raises(ValueError, match="is not there"):
        load_energy(tmp_path / "other.safetensors")
    _file(tmp_path).unlink()
    save_tensors(_file(tmp_path), "energy", {**told, "schema_version": 99}, arrays)
    with pytest.raises(ValueError, match="upgrade jkonet-diffusions"):
        load_energy(_file(tmp_path))


def test_folders_open_with_the_next_api_of_orbax(tmp_path, energies):
    if tuple(map(int, importlib.metadata.version("orbax-checkpoint").split(".")[:2])) < (0, 12):
        pytest.skip("this release of Orbax has no such API yet, or reads no older folders by it")
    v1 = ocp.v1
    save_energy(tmp_path / "energy", energies["network"])
    read = v1.load_pytree(tmp_path / "energy" / "arrays")
    same(read["params"], energies["network"].params)
    module, params = UNet(out_channels=1, width=8, groups=4), {"params": {"w": jnp.ones(3)}}
    save_network(tmp_path / "network", module, params, {})
    same(v1.load_pytree(tmp_path / "network" / "arrays")["params"], params)
