"""The arithmetic that a script says is the one it computes in."""

import jax
import pytest

from data_generation import __main__ as script
from data_generation.scripts import device
from data_generation.scripts.device import device_name, precision, unused_gpu
from diffusions.devices import Members


@pytest.fixture
def card(tmp_path, monkeypatch):
    """A folder of devices with a card in it, and nothing said of the platform."""
    if jax.default_backend() != "cpu":
        pytest.skip("a GPU is in use")
    before = jax.config.jax_platforms
    jax.config.update("jax_platforms", None)
    (tmp_path / "nvidia0").touch()
    monkeypatch.setattr(device, "NVIDIA_DEVICES", f"{tmp_path}/nvidia[0-9]*")
    yield tmp_path / "nvidia0"
    jax.config.update("jax_platforms", before)


def test_a_card_that_is_not_used_is_told_of(card, capsys):
    assert "extra cuda12 or cuda13" in unused_gpu()
    arguments = [f"--data-dir={card.parent}", "--n-particles=20", "--n-gmm-components=0"]
    assert script.run([*arguments, "--n-timesteps=1"]) == 0
    assert f"{device_name()}, float32\n  no GPU is in use although" in capsys.readouterr().out


def test_no_card_or_a_platform_that_was_chosen_is_not(card, monkeypatch):
    jax.config.update("jax_platforms", "cpu")
    assert unused_gpu() is None
    jax.config.update("jax_platforms", None)
    card.rename(card.with_name("nvidiactl"))
    assert unused_gpu() is None


def test_single_precision_is_what_is_said_by_itself():
    assert precision() == "float32"
    assert precision("bfloat16") == "bfloat16"


def test_the_mode_of_64_bits_is_said(double_precision):
    assert precision() == "float32, 64-bit mode on"
    assert precision("float64") == "float64"


def test_the_precision_of_products_is_said():
    with jax.default_matmul_precision("bfloat16"):
        assert precision() == "float32, matrix products in bfloat16"


def test_a_script_says_it(double_precision, tmp_path, capsys):
    arguments = [f"--data-dir={tmp_path}", "--n-particles=20", "--n-gmm-components=0"]
    assert script.run([*arguments, "--n-timesteps=1"]) == 0
    assert f"{device_name()}, float32, 64-bit mode on\n" in capsys.readouterr().out


@pytest.mark.parametrize(("since", "said"), [((0, 0), False), ((99, 0), True)])
def test_a_jax_that_shuffles_otherwise_on_every_device_is_said(monkeypatch, since, said):
    monkeypatch.setattr(device, "SAME_BATCHES", since)
    monkeypatch.setattr(device, "devices_in_use", lambda: jax.devices() * 2)
    monkeypatch.setattr(Members, "n_devices", 2)
    assert ("other random batches" in device.division("2 seeds", Members(2))) == said
