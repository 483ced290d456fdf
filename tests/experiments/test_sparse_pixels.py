"""Settings, batches, samplers and measures of the sparse-pixel experiment."""

import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import experiments
from data_generation.images.datasets import synthetic_images
from diffusions.density.exact import gaussian
from diffusions.images.sparse_denoising import SparseDenoising
from diffusions.networks.flops import matmul_flops
from diffusions.predictions import convert
from diffusions.processes import LinearBetaDDPM, RectifiedFlow
from diffusions.samplers import Model, prior
from experiments.sparse_pixels.evaluation import Held, quality, unseen_psnr
from experiments.sparse_pixels.perceptual import Perceptual
from experiments.sparse_pixels.sampling import SamplerSpec, sampled, told_put_back
from experiments.sparse_pixels.settings import SAMPLERS, VARIANTS, SparsePixelsSettings
from experiments.sparse_pixels.task import SparseTask, averaged

# The packages under test: of this tree, or of an installed wheel.
ROOT = Path(experiments.__file__).parents[1]
PROCESSES = {"ddpm": (LinearBetaDDPM(), "epsilon"), "flow": (RectifiedFlow(), "velocity")}
MEAN, COVARIANCE = jnp.asarray([0.4, -0.2]), jnp.asarray([[0.3, 0.1], [0.1, 0.2]])


def task(**changes):
    given = {"dataset": "synthetic", "preset": "cpu", "n_train": 40, "n_test": 3, "batch_size": 16}
    return SparseTask(SparsePixelsSettings(**(given | changes)).resolved())


def test_the_original_is_the_preset_paper():
    settings = SparsePixelsSettings(dataset="synthetic", model="ddpm", supervision="full-input")
    made = task(**{f.name: getattr(settings, f.name) for f in dataclasses.fields(settings)})
    shapes = jax.eval_shape(made.initial, jax.random.key(0))
    assert sum(leaf.size for leaf in jax.tree.leaves(shapes)) == 56_909_571
    assert made.counts(32) == (204, 204)
    original = {
        **{"epochs": 50, "batch_size": 128, "learning_rate": 2e-4, "clip_norm": 1.0},
        **{"told_weight": 0.05, "noising_steps": 1000, "beta_min": 1e-4, "beta_max": 0.02},
        **{"sampler": "ddpm", "steps": 1000, "panel_every": 5, "residual": False},
    }
    assert {name: getattr(made.settings, name) for name in original} == original
    assert made.denoising.visible == "full"


def test_the_best_that_was_measured_is_the_default():
    for preset in ("paper", "cpu"):
        made = SparsePixelsSettings(dataset="synthetic", preset=preset).resolved()
        assert (made.supervision, made.unseen, made.residual) == ("observed", "simulated", True)
        assert (made.impose, made.preconditioned, made.sampler) == (True, True, "ddim")


@pytest.mark.parametrize("name", VARIANTS)
def test_variants_are_what_the_flags_say(name):
    flags = VARIANTS[name]
    by_name, by_flags = (
        SparsePixelsSettings(dataset="synthetic", **given).resolved()
        for given in ({"variant": name}, flags)
    )
    assert dataclasses.replace(by_name, variant=None) == by_flags
    # What is said by itself holds beside the name.
    other = SparsePixelsSettings(dataset="synthetic", variant=name, preconditioned=False)
    assert other.resolved().preconditioned is False


def test_settings_load_nothing_heavy():
    program = (
        "import sys; from experiments import sparse_pixels; "
        'sys.exit(f\'{sorted({"jax", "numpy", "flax"} & set(sys.modules))}\' '
        "if {'jax', 'numpy', 'flax'} & set(sys.modules) else 0)"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=False)
    assert done.returncode == 0


def model_of(name):
    process, prediction = PROCESSES[name]
    epsilon = gaussian(MEAN, COVARIANCE).denoiser(process)

    def denoiser(z, t):
        return convert(process, z, t, epsilon(z, t), "epsilon", prediction)

    return Model(denoiser, process, prediction)


@pytest.mark.parametrize("process", PROCESSES)
@pytest.mark.parametrize("sampler", SAMPLERS)
def test_every_sampler_returns_the_data_law(sampler, process):
    model = model_of(process)
    start = {"ddpm": 1000.0, "flow": 1.0}[process]
    z = prior(jax.random.key(0), (20_000, 2), model.process, start)
    if process == "flow":
        # The exact velocity is 0 / 0 where nothing of the data, or of the noise, is left.
        exact = model.denoiser
        model = model._replace(denoiser=lambda z, t: exact(z, jnp.clip(t, 1e-4, 1 - 1e-4)))
    steps = 500 if sampler == "ddpm" else 100
    x = sampled(model, jax.random.key(1), z, SamplerSpec(sampler, steps), None)
    np.testing.assert_allclose(x.mean(axis=0), MEAN, atol=0.03)
    np.testing.assert_allclose(np.cov(x.T), COVARIANCE, atol=0.035)


@pytest.mark.parametrize("process", PROCESSES)
@pytest.mark.parametrize("sampler", SAMPLERS)
def test_a_step_is_one_call_of_the_network(sampler, process):
    made, prediction = PROCESSES[process]
    matrix = jnp.eye(4)
    model = Model(lambda z, t: z @ matrix, made, prediction)
    spec = SamplerSpec(sampler, 7)
    z = jnp.zeros((3, 4))
    flops = matmul_flops(lambda z: sampled(model, jax.random.key(0), z, spec, None), z)
    exact = {"ode-heun": 14, "ode-rk4": 28}.get(sampler, 7)
    if process == "ddpm" and exact > 7:  # the last step is Euler's
        exact = exact * 6 // 7 + 1
    assert flops == exact * matmul_flops(lambda z: z @ matrix, z)
    assert exact <= spec.calls <= exact + 3


@pytest.mark.parametrize("sampler", ["ddim", "ode-heun", "sde"])
def test_told_pixels_are_put_back(sampler):
    process, _ = PROCESSES["flow"]
    denoising = SparseDenoising(process=process, prediction="velocity", residual=True)
    images = jax.random.uniform(jax.random.key(0), (2, 6, 6, 1), minval=-1.0)
    told = jnp.zeros(images.shape, bool).at[:, ::2, ::2].set(True)
    condition = denoising.condition(images, told, 9)
    model = Model(lambda z, t: 0.3 * z, process, "velocity")
    z = prior(jax.random.key(1), images.shape, process, 1.0)
    constrain = told_put_back(denoising, condition)
    u = sampled(model, jax.random.key(2), z, SamplerSpec(sampler, 6), constrain)
    found = denoising.image(condition, u)
    np.testing.assert_allclose(np.asarray(found)[told], np.asarray(images)[told], atol=1e-5)
    assert abs(np.asarray(found - images)[~np.asarray(told)]).max() > 0.05


def test_batches_visit_every_image_with_masks_of_the_epoch():
    made = task(unet="tiny")
    batches = made.batches(jax.random.key(3))
    indices = np.asarray(batches["indices"]).ravel()
    assert sorted(indices[indices >= 0]) == list(range(40))
    first = jax.tree.map(lambda a: a[0], batches)
    told, asked = (np.asarray(m) for m in made.training_masks(first, 32))
    assert (told.sum(axis=(1, 2)) == 204).all()
    assert (asked.sum(axis=(1, 2)) == 204).all()
    again = made.training_masks(first, 32)
    np.testing.assert_array_equal(told, again.conditioning)
    other = jax.tree.map(lambda a: a[0], made.batches(jax.random.key(4)))
    other["indices"] = first["indices"]
    assert (made.training_masks(other, 32).conditioning != told).any()
    fixed = task(mask_mode="fixed")
    one, two = (fixed.training_masks(b, 32).target for b in (first, other))
    np.testing.assert_array_equal(one, two)


@pytest.mark.parametrize("supervision", ["observed", "full-input"])
def test_a_batch_s_loss_and_unseen_pixels(supervision):
    # The whole path from the bytes on, fixed masks and mirroring included.
    made = task(supervision=supervision, mask_mode="fixed")
    batch = jax.tree.map(lambda a: a[0], made.batches(jax.random.key(3)))
    everyone = dict.fromkeys(batch) | {
        "indices": jnp.arange(40),
        "epoch": batch["epoch"],
        "draw": batch["draw"],
    }
    masks = made.training_masks(everyone, 32)
    seen = np.asarray(masks.conditioning | masks.target)

    def network(params, labels, *, dropout=None):
        return lambda channels, t: jnp.tanh(
            channels[..., :3] + channels.mean(axis=(1, 2, 3), keepdims=True)
        )

    made.network = network
    losses = []
    for unseen in (0, 255):
        train = np.asarray(made.train)
        made.train = jnp.asarray(np.where(seen, train, unseen).astype(np.uint8))
        losses.append(float(made.loss(None, batch, jax.random.key(5))[0]))
    assert (losses[0] == losses[1]) == (supervision == "observed")


def test_averaged_images():
    images = jnp.arange(16.0).reshape(1, 4, 4, 1)
    np.testing.assert_array_equal(averaged(images, 2)[0, :, :, 0], [[2.5, 4.5], [10.5, 12.5]])
    np.testing.assert_array_equal(averaged(images, 4), images)


def test_quality_of_known_errors():
    truth = np.asarray(synthetic_images(4, seed=3).images, np.float32) / 127.5 - 1
    told = np.zeros(truth.shape, bool)
    told[:, ::2] = True
    held = Held(truth, told, ~told, np.zeros(4, np.int32))
    wrong = truth + np.where(told, 0.5, 0.2).astype(np.float32)
    found = quality(wrong, held)
    assert found["psnr_unseen"] == pytest.approx(20.0, abs=1e-3)
    assert found["rmse_unseen"] == pytest.approx(0.2, rel=1e-4)
    assert found["psnr"] == pytest.approx(10 * np.log10(4 / 0.145), abs=1e-3)
    assert found["ssim"] < 1
    perfect = quality(truth, held)
    assert perfect["ssim"] == pytest.approx(1.0)
    assert perfect["frechet"] == pytest.approx(0.0, abs=1e-4)
    # Equal images are as good as bytes can say.
    rounding = 10 * np.log10(4 * 12 * 127.5**2)
    np.testing.assert_allclose(unseen_psnr(truth, held), rounding)
    assert perfect["psnr"] == pytest.approx(rounding)


def write_safetensors(file, arrays):
    header, place = {}, 0
    for name, array in arrays.items():
        ends = [place, place + array.nbytes]
        header[name] = {"dtype": "F32", "shape": list(array.shape), "data_offsets": ends}
        place = ends[1]
    text = json.dumps(header).encode()
    content = b"".join(array.tobytes() for array in arrays.values())
    file.write_bytes(len(text).to_bytes(8, "little") + text + content)


def test_distances_by_the_users_weights(tmp_path):
    # LPIPS of four channels a layer, through a file; both networks have tests of their own.
    rng, weights, channels = np.random.default_rng(0), {}, 3
    for piece, (number, side) in enumerate(((0, 11), (3, 5), (6, 3), (8, 3), (10, 3))):
        kernel = rng.standard_normal((4, channels, side, side)).astype(np.float32)
        weights[f"net.slice{piece + 1}.{number}.weight"] = kernel
        weights[f"lin{piece}.model.1.weight"] = rng.uniform(size=(1, 4, 1, 1)).astype(np.float32)
        channels = 4
    file = tmp_path / "lpips.safetensors"
    write_safetensors(file, weights)
    settings = SparsePixelsSettings(dataset="synthetic", lpips_weights=str(file))
    judge = Perceptual(settings, (32, 32, 1))
    truth = rng.uniform(-1, 1, (13, 32, 32, 1)).astype(np.float32)
    noise = rng.standard_normal(truth.shape).astype(np.float32)
    assert judge(truth, truth) == {"lpips": 0.0}
    near, far = (judge(truth + size * noise, truth)["lpips"] for size in (0.1, 1.0))
    assert 0 < near < far
    other = dataclasses.replace(settings, inception_weights=str(file))
    with pytest.raises(ValueError, match="cannot be used as weights of that network: .*Conv2d_1a"):
        Perceptual(other, (32, 32, 1))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"eta": 1.5}, "eta"),
        ({"churn": -1.0}, "churn"),
        ({"compare_steps": (0,)}, "compare_steps"),
        ({"compare_samplers": ("euler",)}, "ode-euler"),
        ({"beta_min": 0.5}, "betas"),
        ({"resolutions": (16, 16)}, "resolutions"),
        ({"told_weight": -1.0}, "told_weight"),
        ({"dropout": 1.0}, "dropout"),
        ({"mode": "test"}, "train"),
        ({"variant": "residual", "supervision": "full-input"}, "leave one of them out"),
    ],
)
def test_settings_that_make_no_sense(wrong, message):
    with pytest.raises(ValueError, match=message):
        SparsePixelsSettings(dataset="synthetic", **wrong)


@pytest.mark.parametrize(
    ("sampler", "order", "steps"),
    [("ddim", 2, 10), ("ddim", 1, 20), ("sde", 2, 20), ("ddpm", 2, 20)],
)
def test_the_small_preset_takes_few_steps_where_few_are_right(sampler, order, steps):
    given = SparsePixelsSettings(dataset="synthetic", preset="cpu", sampler=sampler, order=order)
    assert given.resolved().steps == steps
