"""The arithmetic that a script says is the one it computes in."""

import jax

from data_generation import __main__ as script
from data_generation.scripts.device import device_name, precision


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
