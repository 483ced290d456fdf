"""NumPy's files come back as NumPy reads them, and headers are not believed."""

import io
import struct
import tracemalloc
import zipfile

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_generation.formats.array_files import npz_names, read_npy, read_npz
from diffusions.alignment import ALIGNMENT

ARRAYS = {
    "floats": np.random.default_rng(0).normal(size=(3, 4, 2)),
    "column-major": np.asfortranarray(np.arange(12, dtype=np.int16).reshape(3, 4)),
    "big-endian": np.arange(5, dtype=">f4"),
    "scalar": np.array(2.5),
    "text": np.array(["a", "bc"]),
    "empty": np.zeros((0, 3)),
    "structured": np.zeros(2, [("a", "<f4"), ("b", "<i8")]),
    "bool": np.array([True, False]),
}


@pytest.mark.parametrize("name", ARRAYS)
def test_what_numpy_saves_comes_back(tmp_path, name):
    np.save(tmp_path / "x.npy", ARRAYS[name])
    found = read_npy(tmp_path / "x.npy")
    np.testing.assert_array_equal(found, ARRAYS[name])
    assert found.dtype == ARRAYS[name].dtype
    assert found.flags.writeable


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_archives_come_back(tmp_path, save):
    save(tmp_path / "x.npz", **ARRAYS)
    assert npz_names(tmp_path / "x.npz") == list(ARRAYS)
    found = read_npz(tmp_path / "x.npz")
    assert list(found) == list(ARRAYS)
    for name, array in ARRAYS.items():
        np.testing.assert_array_equal(found[name], array)
    assert list(read_npz(tmp_path / "x.npz", ["text"])) == ["text"]
    with pytest.raises(ValueError, match="holds no array 'other'"):
        read_npz(tmp_path / "x.npz", ["other"])


def test_arrays_are_read_to_where_they_can_be_taken_over(tmp_path):
    """Once, and without a copy of their bytes beside them."""
    array = np.random.default_rng(0).standard_normal((500_000, 8), np.float32)
    np.savez(tmp_path / "x.npz", x=array)
    tracemalloc.start()
    try:
        found = read_npz(tmp_path / "x.npz")["x"]
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    np.testing.assert_array_equal(found, array)
    assert found.ctypes.data % ALIGNMENT == 0
    assert peak < 1.5 * array.nbytes


def npy(header, content=b"", version=(1, 0)):
    text = header if isinstance(header, bytes) else repr(header).encode()
    return b"\x93NUMPY" + bytes(version) + struct.pack("<H", len(text)) + text + content


def described(shape, descr="<f8", fortran_order=False):
    return {"descr": descr, "fortran_order": fortran_order, "shape": shape}


HOSTILE = [
    (npy(described((2**40,))), "announces .* not the 0 bytes"),
    (npy(described((2**20, 2**20, 2**20)), bytes(64)), "not the 64 bytes"),
    (npy(described((2,)), bytes(15)), "not the 15 bytes"),
    (npy(described((2,)), bytes(17)), "not the 17 bytes"),
    (npy(described((-1, -2)), bytes(16)), "announces"),
    (npy(described((10**400,))), "announces"),
    (npy(described((1,) * 40), bytes(8)), "announces"),
    (npy(described((2**60,), "<U0")), "announces"),
    (npy(described((1,), "|O"), bytes(8)), "Python objects"),
    (npy(described(("a",)), bytes(8)), "header cannot be read"),
    (npy(described((1,), "no such type"), bytes(8)), "header cannot be read"),
    (npy(b"{'descr': '<f8', 'shape': (3"), "header cannot be read"),
    (npy(b'"""'), "header cannot be read"),  # NumPy itself: tokenize.TokenError
    (npy(b"(" * 9000), "header cannot be read"),
    (npy(b"[" * 60_000), "header cannot be read"),
    (npy(b"9" * 9000), "header cannot be read"),
    (npy(b"\xff\xfe"), "header cannot be read"),
    (npy(described((1,)), bytes(8), version=(7, 7)), "header cannot be read"),
    (b"\x93NUMPY", "header cannot be read"),
    (b"PK", "not a NumPy array file"),
    (b"", "not a NumPy array file"),
]


@pytest.mark.parametrize(("content", "reason"), HOSTILE)
def test_headers_are_not_believed(tmp_path, content, reason):
    """At no cost, alone and in an archive."""
    (tmp_path / "x.npy").write_bytes(content)
    with zipfile.ZipFile(tmp_path / "x.npz", "w") as archive:
        archive.writestr("a.npy", content)
    for read, name in ((read_npy, "x.npy"), (read_npz, "x.npz")):
        tracemalloc.start()
        with pytest.raises(ValueError, match=reason) as error:
            read(tmp_path / name)
        assert tracemalloc.get_traced_memory()[1] < 64 << 20
        tracemalloc.stop()
        assert "\n" not in str(error.value)
        assert len(str(error.value)) < 400


def test_an_archive_that_unpacks_to_more_than_its_size_explains(tmp_path):
    with zipfile.ZipFile(tmp_path / "x.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.npy", npy(described((65 << 20,)), bytes(520 << 20)))
    assert (tmp_path / "x.npz").stat().st_size < 1 << 20
    with pytest.raises(ValueError, match="would unpack to more than 268435456 bytes"):
        read_npz(tmp_path / "x.npz")


def test_an_entry_that_lies_about_its_size_is_not_unpacked(tmp_path):
    content = npy(described((1,)), bytes(64 << 20))
    with zipfile.ZipFile(tmp_path / "x.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.npy", content)
    lie = len(content) - (64 << 20) + 8
    whole = (tmp_path / "x.npz").read_bytes()
    (tmp_path / "x.npz").write_bytes(
        whole.replace(struct.pack("<I", len(content)), struct.pack("<I", lie))
    )
    tracemalloc.start()
    with pytest.raises(ValueError, match="damaged or truncated"):
        read_npz(tmp_path / "x.npz")
    assert tracemalloc.get_traced_memory()[1] < 8 << 20
    tracemalloc.stop()


def test_an_archive_that_names_an_array_twice(tmp_path):
    with zipfile.ZipFile(tmp_path / "x.npz", "w") as archive:
        for name in ("a.npy", "a"):
            archive.writestr(name, npy(described((1,)), bytes(8)))
    with pytest.raises(ValueError, match="names an array twice"):
        read_npz(tmp_path / "x.npz")


def saved(array, save):
    content = io.BytesIO()
    save(content, array)
    return content.getvalue()


GOOD = {
    "x.npy": saved(np.arange(6.0).reshape(2, 3), np.save),
    "x.npz": saved(np.arange(6.0).reshape(2, 3), np.savez_compressed),
}


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_damage_is_a_value_error_or_harmless(tmp_path_factory, data):
    """Bytes replaced, cut and inserted anywhere."""
    name = data.draw(st.sampled_from(list(GOOD)))
    content = bytearray(GOOD[name])
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(content) - 1))
        content[at : at + data.draw(st.integers(0, 3))] = data.draw(st.binary(max_size=3))
    file = tmp_path_factory.mktemp("damaged") / name
    file.write_bytes(content)
    try:
        (read_npy if name == "x.npy" else read_npz)(file)
    except ValueError as error:
        assert "\n" not in str(error)  # noqa: PT017
