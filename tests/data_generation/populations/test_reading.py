"""Every accepted file, and every way in which one can be wrong."""

import os
import sys
import warnings
from types import SimpleNamespace

import anndata
import h5py
import numpy as np
import pandas
import pytest
from scipy import sparse

from data_generation.populations.cells import read_cells
from data_generation.populations.principal_components import named_as_components
from data_generation.populations.reading import read_file, read_populations, read_snapshots
from jkonet_star.cells.representation import coordinates

COUNTS = (7, 4, 9)


@pytest.fixture
def cells():
    """Unequal snapshots, in shuffled rows, with the times of each row."""
    generator = np.random.default_rng(0)
    times = np.repeat([0.0, 1.5, 4.0], COUNTS)
    order = generator.permutation(len(times))
    points = generator.normal(size=(len(times), 3)).astype(np.float32)
    return points[order], times[order]


def assert_holds(snapshots, points, times):
    assert np.asarray(snapshots.times).tolist() == sorted(set(times.tolist()))
    for found, time in zip(snapshots.arrays(), sorted(set(times.tolist())), strict=True):
        np.testing.assert_array_equal(found, points[times == time].astype(np.float32))


def write_csv(path, header, rows):
    path.write_text("\n".join([",".join(header), *(",".join(map(str, r)) for r in rows)]) + "\n")
    return path


def test_npy_takes_its_times_from_dt(tmp_path):
    points = np.random.default_rng(0).normal(size=(4, 5, 2))
    np.save(tmp_path / "x.npy", points)
    snapshots = read_snapshots(tmp_path / "x.npy", dt=0.25)
    np.testing.assert_allclose(snapshots.times, [0, 0.25, 0.5, 0.75])
    np.testing.assert_array_equal(snapshots.points, points.astype(np.float32))


@pytest.mark.parametrize("label", ["times", "labels"])
def test_labelled_npz_of_unequal_counts(tmp_path, cells, label):
    points, times = cells
    np.savez(tmp_path / "x.npz", points=points, **{label: times})
    snapshots = read_snapshots(tmp_path / "x.npz")
    assert tuple(len(p) for p in snapshots.arrays()) == COUNTS
    assert_holds(snapshots, points, times)


@pytest.mark.parametrize("kept", [None, 2])
def test_trajectorynet_layout_is_standardised_over_all_cells(tmp_path, kept):
    generator = np.random.default_rng(0)
    components = generator.normal(3.0, [5, 4, 3, 2, 1, 1, 1], size=(60, 7))
    labels = np.repeat([0, 1, 2], 20)
    np.savez(tmp_path / "eb.npz", pcs=components, sample_labels=labels, other=np.zeros(3))
    snapshots = read_snapshots(tmp_path / "eb.npz", n_components=kept)
    everything = np.concatenate(snapshots.arrays())
    assert everything.shape == (60, kept or 5)
    np.testing.assert_allclose(everything.mean(axis=0), 0, atol=1e-6)
    np.testing.assert_allclose(everything.std(axis=0), 1, rtol=1e-5)
    # An affine map of each component, so correlations stay.
    assert np.corrcoef(everything[:, 1], components[:, 1])[0, 1] > 1 - 1e-9


def test_dense_npz_with_its_own_test_population_and_dt(tmp_path):
    train, test = np.random.default_rng(0).normal(size=(2, 3, 6, 2)).astype(np.float32)
    np.savez(tmp_path / "x.npz", train=train, test=test[:, :4], dt=0.01)
    snapshots, held_out = read_populations(tmp_path / "x.npz", dt=9.0)
    np.testing.assert_array_equal(snapshots.points, train)
    np.testing.assert_array_equal(held_out.points, test[:, :4])
    np.testing.assert_allclose(snapshots.times, [0, 0.01, 0.02], rtol=1e-6)
    np.testing.assert_array_equal(held_out.times, snapshots.times)


def test_dense_npz_with_times(tmp_path):
    points = np.random.default_rng(0).normal(size=(3, 6, 2))
    np.savez(tmp_path / "x.npz", points=points, times=[0, 1, 5])
    snapshots, held_out = read_populations(tmp_path / "x.npz")
    assert np.asarray(snapshots.times).tolist() == [0, 1, 5]
    assert held_out is None


@pytest.mark.parametrize(("column", "key"), [("time", None), ("t", None), ("day", "day")])
def test_csv(tmp_path, cells, column, key):
    points, times = cells
    rows = [(f"cell{i}", i, *p, t) for i, (p, t) in enumerate(zip(points, times, strict=True))]
    path = write_csv(tmp_path / "x.csv", ["cell", "", "a", "b", "c", column], rows)
    assert_holds(read_snapshots(path, time_key=key), points, times)


def test_csv_of_a_spreadsheet(tmp_path):
    """A byte order mark, carriage returns and blank lines."""
    text = "time,x\r\n0,1.0\r\n0,2.0\r\n\r\n1,3.0\r\n1,4.0\r\n"
    (tmp_path / "x.csv").write_bytes(b"\xef\xbb\xbf" + text.encode())
    snapshots = read_snapshots(tmp_path / "x.csv")
    np.testing.assert_array_equal(np.asarray(snapshots.points)[..., 0], [[1, 2], [3, 4]])


def test_fewer_coordinates_of_unnamed_columns_are_principal_components(tmp_path, cells):
    """Against the eigenvectors of the covariance; the first columns are what they must not be."""
    points, times = cells
    points = points * np.float32([0.1, 1.0, 3.0]) + 7  # most of the variance in the last column
    np.savez(tmp_path / "x.npz", points=points, times=times)
    with pytest.warns(UserWarning, match="2 of 3 columns .* principal components .* 99.* % of the"):
        content = read_file(tmp_path / "x.npz", n_components=2)
    exact = points.astype(np.float64)
    _, vectors = np.linalg.eigh(np.cov(exact.T))
    leading = vectors[:, [2, 1]]
    leading = leading * np.sign(leading[np.abs(leading).argmax(axis=0), [0, 1]])
    np.testing.assert_allclose(content.projection.loadings, leading, atol=1e-6)
    np.testing.assert_allclose(content.projection.mean, exact.mean(axis=0))
    expected = (exact - exact.mean(axis=0)) @ leading
    for found, time in zip(content.train.arrays(), sorted(set(times)), strict=True):
        np.testing.assert_allclose(found, expected[times == time], atol=1e-5)
    with pytest.raises(ValueError, match=r"x\.npz: --n-components is 4, the data have 3"):
        read_snapshots(tmp_path / "x.npz", n_components=4)
    assert_holds(read_snapshots(tmp_path / "x.npz", n_components=3), points, times)


def test_a_held_out_population_is_mapped_as_the_training_one(tmp_path):
    train, test = np.random.default_rng(0).normal(size=(2, 3, 6, 4))
    np.savez(tmp_path / "x.npz", train=train, test=test)
    with pytest.warns(UserWarning, match="principal components"):
        content = read_file(tmp_path / "x.npz", n_components=2)
    for snapshots, points in ((content.train, train), (content.held_out, test)):
        np.testing.assert_allclose(snapshots.points, content.projection(points), atol=1e-5)
    np.testing.assert_allclose(np.concatenate(content.train.arrays()).mean(axis=0), 0, atol=1e-6)


@pytest.mark.filterwarnings("error::UserWarning")
def test_fewer_coordinates_of_components_are_the_leading_ones(tmp_path, cells):
    points, times = cells
    rows = [(*p, t) for p, t in zip(points, times, strict=True)]
    path = write_csv(tmp_path / "x.csv", ["PC1", "PC2", "PC3", "time"], rows)
    assert_holds(read_snapshots(path, n_components=2), points[:, :2], times)


@pytest.mark.parametrize(
    ("names", "components"),
    [
        (["PC1", "PC2"], True),
        (["pca_0", "pca_1", "pca_2"], True),
        (["X_pca-1", "X_pca-2"], True),
        (["Component 1"], True),
        (["PC2", "PC1"], False),
        (["PC5", "PC6"], False),
        (["PC1", "PC2", "SOX2"], False),
        (["SOX2", "PCNA"], False),
        (["x1", "x2"], False),
        ([], False),
    ],
)
def test_the_names_of_components(names, components):
    assert named_as_components(names) == components


def table(tmp_path, n=12, **columns):
    """A table of two times and one coordinate with these columns before it."""
    generator = np.random.default_rng(1)
    columns |= {"x": generator.normal(size=n).round(3), "time": np.repeat([0, 1], n // 2)}
    return write_csv(tmp_path / "x.csv", list(columns), list(zip(*columns.values(), strict=True)))


@pytest.mark.parametrize("name", ["id", "Unnamed: 0", "cell", "cell_id", "barcode", "Index"])
def test_numbers_that_name_the_rows_are_no_coordinate(tmp_path, name):
    path = table(tmp_path, **{name: 10 * np.arange(12) + 4711})
    with pytest.warns(UserWarning, match=f"'{name}' numbers the rows and is passed over"):
        assert read_snapshots(path).dimension == 1


@pytest.mark.parametrize(
    ("name", "values", "said"),
    [
        ("cluster", np.arange(12) % 3, "'cluster' is taken as a coordinate; remove it if it is"),
        ("cell", np.arange(12) + 0.5, "'cell' is taken as a coordinate"),
        ("q", np.arange(12)[::-1] + 5, "'q' holds consecutive whole numbers, .* call it 'id'"),
    ],
)
def test_what_may_be_no_coordinate_is_said(tmp_path, name, values, said):
    with pytest.warns(UserWarning, match=said):
        assert read_snapshots(table(tmp_path, **{name: values})).dimension == 2


def test_many_doubtful_columns_are_one_line(tmp_path):
    columns = {f"q{i}": np.arange(12) for i in range(30)}
    with pytest.warns(UserWarning, match=r"'q0' \(and 29 other columns\)") as said:
        read_snapshots(table(tmp_path, **columns))
    assert len(said) == 1


@pytest.mark.filterwarnings("error::UserWarning")
def test_coordinates_of_their_own_are_said_nothing_of(tmp_path):
    read_snapshots(table(tmp_path, y=np.arange(12) ** 2, gene=np.repeat([0, 1, 2], 4)))


@pytest.mark.parametrize("n_times", [150, 299])
def test_a_pseudotime_is_no_time(tmp_path, n_times):
    times = np.sort(np.arange(300) % n_times) / n_times
    path = write_csv(tmp_path / "x.csv", ["time", "x"], [(t, t * t) for t in times])
    with pytest.raises(ValueError, match=f"300 particles at {n_times} distinct times .*pseudotime"):
        read_snapshots(path)


@pytest.mark.parametrize(
    ("n_times", "each", "doubtful"), [(60, 5, True), (21, 9, True), (21, 10, False), (20, 9, False)]
)
def test_many_times_of_few_particles_are_said(n_times, each, doubtful, tmp_path):
    times = np.repeat(np.arange(n_times) / 7, each)
    points = np.random.default_rng(0).normal(size=(len(times), 2))
    np.savez(tmp_path / "x.npz", points=points, times=times)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        assert read_snapshots(tmp_path / "x.npz").n_snapshots == n_times
    assert len(said) == doubtful
    for warning in said:
        assert f"{n_times} distinct times (times) have {each} particles each" in str(
            warning.message
        )
        assert "pseudotime" in str(warning.message)


def test_times_of_single_particles_are_said(tmp_path):
    times = np.repeat([0, 1, 2, 3], [9, 1, 8, 1])
    np.savez(tmp_path / "x.npz", points=np.random.default_rng(0).normal(size=(19, 2)), times=times)
    with pytest.warns(UserWarning, match=r"2 of 4 times \(times\) have a single particle each"):
        assert read_snapshots(tmp_path / "x.npz").n_snapshots == 4


def write_h5ad(path, points, times, kind, **entries):
    labels = times if kind == "number" else [str(t) for t in times]
    column = pandas.Categorical(labels) if kind == "category" else labels
    obs = pandas.DataFrame({"time": column, "batch": "one"})
    obs.index = obs.index.astype(str)
    data = anndata.AnnData(X=np.zeros((len(points), 2), np.float32), obs=obs)
    data.obsm["X_pca"] = points
    data.obsm["X_umap"] = points[:, ::-1].copy()
    for name, entry in entries.items():
        data.obsm[name] = entry.set_index(obs.index) if hasattr(entry, "columns") else entry
    data.write_h5ad(path)
    return path


@pytest.mark.parametrize("kind", ["number", "category", "text"])
def test_h5ad(tmp_path, cells, kind):
    path = write_h5ad(tmp_path / "x.h5ad", *cells, kind)
    assert_holds(read_snapshots(path), *cells)
    points, times = cells
    assert_holds(read_snapshots(path, representation="X_umap"), points[:, ::-1], times)


def test_h5ad_names_what_is_available(tmp_path, cells):
    path = write_h5ad(tmp_path / "x.h5ad", *cells, "number")
    with pytest.raises(ValueError, match="no 'day' in obs.*available: time, batch"):
        read_snapshots(path, time_key="day")
    with pytest.raises(ValueError, match="no 'X_phate' in obsm.*available: X_pca, X_umap"):
        read_snapshots(path, representation="X_phate")
    with pytest.raises(ValueError, match="entries that are no times: 'one'"):
        read_snapshots(path, time_key="batch")


def test_h5ad_of_a_sparse_matrix_and_of_a_table(tmp_path, cells):
    points, times = cells
    path = write_h5ad(tmp_path / "x.h5ad", points, times, "number", other=sparse.csr_matrix(points))
    assert_holds(read_snapshots(path, representation="other"), points, times)
    frame = pandas.DataFrame(points, columns=["a", "b", "c"])
    path = write_h5ad(tmp_path / "x.h5ad", points, times, "number", other=frame)
    assert_holds(read_snapshots(path, representation="other"), points, times)
    frame["type"] = "neuron"
    path = write_h5ad(tmp_path / "x.h5ad", points, times, "number", other=frame)
    with pytest.raises(ValueError, match="columns that are no numbers: type; remove them, or name"):
        read_snapshots(path, representation="other")
    text = np.array([["a"]] * len(points), dtype=object)
    path = write_h5ad(tmp_path / "x.h5ad", points, times, "number", other=text)
    with pytest.raises(
        ValueError, match=r"obsm\['other'\] must hold real numbers.*--representation"
    ):
        read_snapshots(path, representation="other")


def test_a_sparse_matrix_too_large_for_an_array_names_the_remedy():
    wide = sparse.csr_matrix((3, 10**8))
    with pytest.raises(ValueError, match=r"would take 2.24 GiB as an array.*scanpy\.pp\.pca"):
        coordinates(SimpleNamespace(obsm={"X_pca": wide}))


def test_fewer_coordinates_of_an_h5ad(tmp_path, cells):
    points, times = cells
    path = write_h5ad(tmp_path / "x.h5ad", points, times, "number")
    assert_holds(read_snapshots(path, n_components=2), points[:, :2], times)
    assert_holds(
        read_snapshots(path, representation="X_umap", n_components=3), points[:, ::-1], times
    )
    with pytest.raises(
        ValueError, match="first 2 of 3 columns .*'X_umap'.* no principal components"
    ):
        read_snapshots(path, representation="X_umap", n_components=2)


def test_an_h5ad_is_not_believed(tmp_path, cells):
    """Arrays that are announced and not there, links to other files, and data kept elsewhere."""
    points, times = cells
    path = write_h5ad(tmp_path / "x.h5ad", points, times, "number")
    whole = path.read_bytes()

    def refused(change, reason):
        path.write_bytes(whole)
        with h5py.File(path, "r+") as file:
            change(file)
        with pytest.raises(ValueError, match=reason):
            read_snapshots(path)

    def huge(file):
        file["obsm"].create_dataset("X_other", (10**9, 50), "f8", chunks=(1000, 50))

    refused(huge, "unpack to 4000000.* bytes, at most 268435456")
    refused(
        lambda f: f["uns"].__setitem__("a", h5py.ExternalLink("/etc/passwd", "/")), "link to else"
    )
    refused(lambda f: f["uns"].__setitem__("a", h5py.SoftLink("/")), "link to elsewhere")
    refused(
        lambda f: f["uns"].create_dataset("a", (4,), "u1", external=[("/etc/passwd", 0, 4)]),
        "kept in another file",
    )

    def matrix(file):  # which is not read
        del file["X"]
        file.create_dataset("X", (10**9, 50), "f8", chunks=(1000, 50))

    path.write_bytes(whole)
    with h5py.File(path, "r+") as file:
        matrix(file)
    with pytest.raises(ValueError, match="unpack to"):
        read_cells(path)


def test_h5ad_without_anndata_names_the_extra(tmp_path, monkeypatch):
    (tmp_path / "x.h5ad").write_bytes(b"something")
    monkeypatch.setitem(sys.modules, "anndata", None)
    with pytest.raises(ImportError, match=r"jkonet-diffusions\[bio\]"):
        read_snapshots(tmp_path / "x.h5ad")


GOOD = np.random.default_rng(0).normal(size=(3, 5, 2))
ROWS = np.random.default_rng(0).normal(size=(6, 2))
LABELS = np.repeat([0, 1], 3)


def with_nan(array):
    array = np.array(array, float)
    array.flat[3] = np.nan
    return array


def npy(path, array, **options):
    with path.open("wb") as file:
        np.save(file, array, **options)


BAD_ARRAYS = [
    ("npy", GOOD[0], r"shape \(5, 2\)"),
    ("npy", GOOD[:1], "at least two snapshots"),
    ("npy", with_nan(GOOD), "NaN or inf"),
    ("npy", np.full((2, 3, 2), 1e300), "do not fit single precision"),
    ("npy", GOOD.astype(str), "real numbers, got dtype <U"),
    ("npy", GOOD + 1j, "real numbers, got dtype complex"),
    ("npy", np.zeros((3, 0, 2)), "is empty"),
    ("npz", {"points": ROWS}, r"needs `times`"),
    ("npz", {"pcs": ROWS}, "needs `sample_labels`"),
    ("npz", {"pcs": ROWS, "sample_labels": LABELS}, "5 components are asked for"),
    ("npz", {"pcs": np.ones((6, 5)), "sample_labels": LABELS}, "component 0 .* is constant"),
    ("npz", {"weights": ROWS}, "holds 'weights'; expected"),
    ("npz", {}, "holds nothing"),
    ("npz", {"points": ROWS, "times": LABELS[:4]}, r"\(6, 2\) and times \(4,\)"),
    ("npz", {"points": ROWS, "times": np.zeros(6)}, "at least two snapshots"),
    ("npz", {"points": ROWS, "times": with_nan(LABELS)}, "1 of 6 times are NaN or inf"),
    ("npz", {"points": with_nan(ROWS), "times": LABELS}, "NaN or inf"),
    ("npz", {"points": ROWS, "times": np.arange(6)}, "every particle has its own time"),
    ("npz", {"points": GOOD, "times": [0, 2, 1]}, "strictly increasing"),
    ("npz", {"train": GOOD, "test": GOOD[:2]}, "do not match"),
    ("npz", {"train": GOOD, "dt": [0.1, 0.2]}, "one number"),
    ("npz", {"train": GOOD, "dt": -0.1}, "strictly increasing"),
    ("npz", {"points": np.zeros((0, 2)), "times": np.zeros(0)}, "no particles"),
]


@pytest.mark.parametrize(("suffix", "content", "reason"), BAD_ARRAYS)
def test_bad_arrays_are_one_line_that_names_file_and_reason(tmp_path, suffix, content, reason):
    path = tmp_path / f"cells.{suffix}"
    np.savez(path, **content) if suffix == "npz" else npy(path, content)
    with pytest.raises(ValueError, match=reason) as error:
        read_snapshots(path)
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)


BAD_TABLES = [
    ("x,y\n1,2\n", "no column 'time' or 't' .*the columns are x, y"),
    ("time,x\n", "no particles"),
    ("time,x\n0,1\n0,oops\n1,2\n", "line 3: 'oops' in column 'x'"),
    ("time,x\n0,1\n0,\n1,2\n", "line 3: '' in column 'x'"),
    ("time,x\n0,1\n0\n1,2\n", "line 3 has 1 fields, the header has 2"),
    ("time,x\nday 0,1\nday 0,3\n1,2\n", "different kinds: 'day 0', '1'"),
    ("time,x\n0,1\n0,nan\n1,2\n1,3\n", "line 3: 'nan' in column 'x' is not finite"),
    ("time,x\n0,1\n0,inf\n1,2\n1,3\n", "line 3: 'inf' in column 'x' is not finite"),
    ("time,name\n0,a\n0,b\n1,c\n", "no numeric column beside 'time'"),
    ("time,x,x\n0,1,1\n", "'x' occurs twice"),
    ("time,x\n0,1_0\n0,2\n1,3\n1,4\n", "line 2: '1_0' in column 'x' is not a number"),
    ("time,x\n0,1\n0,\uff12\n1,3\n1,4\n", "line 3: .* in column 'x' is not a number"),
    ("time,x\n0_1,1\n0,2\n1,3\n1,4\n", "entries that are no times: '0_1'"),
    ('time,"x\ny"\n0,1\n0,2\n1,3\n', r"the name 'x\\ny' of a column has control characters"),
    ('time,"x\x1b[31m"\n0,1\n0,2\n1,3\n', r"the name 'x\\x1b\[31m' of a column"),
    ("time,x\n0," + 200_000 * "1" + "\n", "field larger than field limit"),
    ("time,x\n0,1e999\n0,2\n1,3\n1,4\n", "line 2: '1e999' in column 'x' is not finite"),
    ("time,x\n0,1\n0,2\n", "at least two snapshots"),
    ("\n\n", "the file is empty"),
]


@pytest.mark.parametrize(("text", "reason"), BAD_TABLES)
def test_bad_tables_name_the_line(tmp_path, text, reason):
    path = tmp_path / "cells.csv"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ValueError, match=reason) as error:
        read_snapshots(path)
    assert str(path) in str(error.value)


def good_bytes(tmp_path, suffix):
    path = tmp_path / f"good.{suffix}"
    if suffix == "npy":
        npy(path, GOOD)
    elif suffix == "npz":
        np.savez(path, train=GOOD)
    else:
        write_h5ad(path, ROWS, LABELS.astype(float), "number")
    return path.read_bytes()


@pytest.mark.parametrize("suffix", ["npy", "npz", "h5ad"])
def test_damaged_files(tmp_path, suffix):
    """Empty, foreign, and cut at many places: a ValueError that names the file, never another."""
    good = good_bytes(tmp_path, suffix)
    path = tmp_path / f"cells.{suffix}"
    cuts = np.linspace(1, len(good) - 1, 12).astype(int)
    contents = [b"", b"time,x\n0,1\n", b"\x80\x05N.", bytes(range(256)) * 8]
    for content in contents + [good[:cut] for cut in cuts]:
        path.write_bytes(content)
        with pytest.raises(ValueError, match=r"cells\.") as error:
            read_snapshots(path)
        assert "\n" not in str(error.value)


def test_flipped_bytes_in_an_archive_are_noticed(tmp_path):
    good = bytearray(good_bytes(tmp_path, "npz"))
    good[len(good) // 3] ^= 0xFF
    path = tmp_path / "cells.npz"
    path.write_bytes(bytes(good))
    with pytest.raises(ValueError, match=r"cells\.npz"):
        read_snapshots(path)


def test_binary_csv(tmp_path):
    (tmp_path / "cells.csv").write_bytes(b"\x93NUMPY\xff\xfe\x00")
    with pytest.raises(ValueError, match="not a text file"):
        read_snapshots(tmp_path / "cells.csv")


def test_an_announced_array_larger_than_memory(tmp_path):
    path = tmp_path / "cells.npy"
    with path.open("wb") as file:
        np.lib.format.write_array_header_1_0(
            file, {"descr": "<f8", "fortran_order": False, "shape": (2**20, 2**20, 2**10)}
        )
    with pytest.raises(ValueError, match=r"cells\.npy"):
        read_snapshots(path)


def test_nothing_is_unpickled(tmp_path):
    class Bomb:
        def __reduce__(self):
            return (open, (str(tmp_path / "went-off"), "w"))

    for suffix, save in (("npy", npy), ("npz", lambda p, a, **o: np.savez(p, points=a, **o))):
        path = tmp_path / f"cells.{suffix}"
        save(path, np.array([Bomb(), Bomb()], dtype=object))
        with pytest.raises(ValueError, match=r"cells\."):
            read_snapshots(path)
    assert not (tmp_path / "went-off").exists()


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("missing.npz", "no such file"),
        ("folder.npz", "is a folder"),
        ("pipe.npz", "is not a file"),
        (
            "cells.txt",
            r"unknown file type '\.txt' \(accepted: \.npy, \.npz, \.csv, \.tsv, \.h5ad\)",
        ),
    ],
)
def test_paths(tmp_path, name, reason):
    (tmp_path / "folder.npz").mkdir()
    os.mkfifo(tmp_path / "pipe.npz")
    (tmp_path / "cells.txt").write_text("time x")
    with pytest.raises(ValueError, match=reason):
        read_snapshots(tmp_path / name)
