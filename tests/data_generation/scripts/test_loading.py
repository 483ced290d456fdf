"""That JAX is loaded is said once, on a terminal, and only where it has to be."""

import sys
import types

import pytest

from data_generation.scripts.loading import loading_said


@pytest.fixture
def unloaded(monkeypatch, tmp_path):
    """A process that has not imported JAX, which is a small module here."""
    (tmp_path / "jax.py").write_text("answer = 42\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "jax")
    return monkeypatch


def stdout(monkeypatch, *, terminal):
    """In the test itself: pytest changes standard output between fixtures and tests."""
    monkeypatch.setattr(sys, "stdout", types.SimpleNamespace(isatty=lambda: terminal))


def loaded():
    """What is said until a script has its imports."""
    said = []
    before = list(sys.meta_path)
    with loading_said(said.append):
        import colorsys  # noqa: F401  a module of no interest

        import jax

        assert jax.answer == 42
        sys.modules.pop("jax")
        import jax
    assert sys.meta_path == before
    return said


def test_the_first_import_is_said_once(unloaded):
    stdout(unloaded, terminal=True)
    assert loaded() == ["loading JAX ..."]


def test_a_file_gets_no_line(unloaded):
    stdout(unloaded, terminal=False)
    assert loaded() == []


def test_a_script_without_jax_says_nothing(unloaded):
    stdout(unloaded, terminal=True)
    before, said = list(sys.meta_path), []
    with pytest.raises(ValueError, match="bad"), loading_said(said.append):
        raise ValueError("bad")
    assert sys.meta_path == before
    assert said == []


def test_what_is_there_is_not_said(unloaded):
    stdout(unloaded, terminal=True)
    unloaded.setitem(sys.modules, "jax", types.SimpleNamespace(answer=42))
    said = []
    with loading_said(said.append):
        import jax

        assert jax.answer == 42
    assert said == []
