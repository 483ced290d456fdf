"""Archives and lines that do not fit: an error that names the file, and what was there is whole."""

import contextlib
import resource
import warnings

import numpy as np
import pytest

from data_generation.formats.array_files import read_npz, write_npz
from diffusions.files import append_bytes


@contextlib.contextmanager
def files_of_at_most(size):
    """A file that grows beyond it is refused, as by a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("compressed", [False, True])
def test_archives_are_those_of_numpy(compressed, tmp_path):
    rng = np.random.default_rng(0)
    arrays = {
        "a": rng.normal(size=(3, 4)).astype(np.float32),
        "b": np.arange(5),
        "c": np.array(1.5),
    }
    write_npz(tmp_path / "ours.npz", arrays, compressed=compressed)
    save = np.savez_compressed if compressed else np.savez
    save(tmp_path / "theirs.npz", **arrays)
    assert (tmp_path / "ours.npz").read_bytes() == (tmp_path / "theirs.npz").read_bytes()


def test_objects_are_refused(tmp_path):
    with pytest.raises(ValueError, match="Object arrays"):
        write_npz(tmp_path / "x.npz", {"a": np.array([{}])})
    assert not list(tmp_path.iterdir())


@pytest.mark.filterwarnings("error::pytest.PytestUnraisableExceptionWarning")
def test_an_archive_that_does_not_fit_leaves_the_old_one(tmp_path):
    file = tmp_path / "x.npz"
    write_npz(file, {"a": np.arange(3)})
    with (
        files_of_at_most(10_000),
        warnings.catch_warnings(),
        pytest.raises(OSError, match=r"x\.npz'$"),
    ):
        write_npz(file, {"a": np.zeros(100_000)})
    np.testing.assert_array_equal(read_npz(file)["a"], np.arange(3))
    assert [p.name for p in tmp_path.iterdir()] == ["x.npz"]


def test_lines_are_appended_all_or_none(tmp_path):
    file = tmp_path / "lines"
    append_bytes(file, b"one\n")
    append_bytes(file, b"two\n")
    with files_of_at_most(1000), pytest.raises(OSError, match="lines'$"):
        append_bytes(file, b"x" * 5000)
    assert file.read_bytes() == b"one\ntwo\n"
