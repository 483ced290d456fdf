"""Files as people have them: read as they are meant, or refused with what to do."""

import shutil

import numpy as np
import pytest

from data_generation.populations.cell_flags import with_flags
from data_generation.populations.datasets import generate_dataset
from data_generation.populations.reading import read_file, read_snapshots
from data_generation.populations.settings import DataSettings

anndata = pytest.importorskip("anndata")
pandas = pytest.importorskip("pandas")

LINES = ["time,x,y", "d0,1,2", "d0,3,4", "d1.5,5,6", "d1.5,7,9"]
PLAIN = [np.array([[1, 2], [3, 4]]), np.array([[5, 6], [7, 9]])]


def holds(content, arrays, times):
    np.testing.assert_allclose(content.train.time_values(), times)
    for found, expected in zip(content.train.arrays(), arrays, strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-6)


def blank(lines):
    return ["", lines[0], "  ", *lines[1:3], ",,", *lines[3:], "", ""]


FORMS = {
    "plain": "\n".join(LINES),
    "blank lines": "\n".join(blank(LINES)),
    "Windows": "\r\n".join(LINES) + "\r\n",
    "CR": "\r".join(LINES) + "\r",
    "BOM": "\ufeff" + "\n".join(LINES),
    "quotes": "\n".join('"' + line.replace(",", '","') + '"' for line in LINES),
    "all of them": "\ufeff" + "\r".join(blank(['"time","x","y"', *LINES[1:]])),
}


@pytest.mark.parametrize("name", FORMS)
@pytest.mark.parametrize("suffix", ["csv", "tsv"])
def test_tables(tmp_path, name, suffix):
    text = FORMS[name].replace(",", "\t") if suffix == "tsv" else FORMS[name]
    (tmp_path / f"x.{suffix}").write_bytes(text.encode())
    content = read_file(tmp_path / f"x.{suffix}")
    holds(content, PLAIN, [0, 1.5])
    assert content.unit == "day"


GENES = "gene,c1,c2,c3\ntime,0,0,1\nGata1,1,2,3\n"
BARCODES = ",AAACCTGA-1,AAACGGGT-1,AAAGATGC-1\nGata1,1,2,3\nSox2,1,2,3\n"
REFUSED = {
    "genes as rows": (GENES, "line 2 begins with 'time', as if rows were genes: .*T.to_csv"),
    "barcodes above": (BARCODES, "no column 'time' or 't' .*barcodes of cells.*T.to_csv"),
    "barcodes beside": (",Gata1,Sox2\nAAACCTGA-1,1,2\n", "the columns are , Gata1, Sox2$"),
    "semicolons": ("time;x\n0;1,5\n", "separated by ';': write them with commas"),
    "tabs": ("time\tx\n0\t1\n", r"separated by '\\t': write them"),
    "an open quote": ('time,x\n0,1\n1,"2\n1,3\n', "line 3: .*is a quote left open"),
    "UTF-16": ("time,x\n0,1\n".encode("utf-16"), "UTF-16: save it as UTF-8"),
    "no time": (
        "time,x\n0,1\n\nnoon,2\n",
        "line 4: .*'noon'; .* --time-map='noon'=0,..., or remove",
    ),
    "no flag": ("day,x\n0,1\n", r"no column 'time' or 't' \(--time-key\)"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_tables_that_are_refused_name_line_and_remedy(tmp_path, name):
    text, message = REFUSED[name]
    (tmp_path / "x.csv").write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(ValueError, match=message) as error:
        read_file(tmp_path / "x.csv")
    assert "\n" not in str(error.value)


def test_other_layouts_of_arrays_are_said_how_to_convert(tmp_path):
    rng = np.random.default_rng(0)
    path = tmp_path / "x.npz"
    np.savez(path, trajectories=rng.normal(size=(3, 8, 2)), about=np.array(["me"]))
    with pytest.raises(ValueError, match=r"np.savez\(NEW, points=a\['trajectories'\]\)"):
        read_file(path)
    rows, times = rng.normal(size=(8, 2)), np.repeat([0.0, 1.0], 4)
    np.savez(path, train_x=rows, train_t=times[:, None])
    remedy = r"points=a\['train_x'\], times=a\['train_t'\].ravel\(\)\), after a = np.load"
    with pytest.raises(ValueError, match=remedy):
        read_file(path)
    np.savez(path, points=rows, times=times)  # as it was told
    assert read_file(path).train.n_snapshots == 2
    np.savez(path, points=rng.normal(size=(2, 8)), times=times)
    with pytest.raises(ValueError, match="rows must be particles: give points.T"):
        read_file(path)
    np.savez(path, points=rows, times=np.array(["2h", "1 day"])[(times > 0).astype(int)])
    assert read_file(path).unit == "hour"


def written(path, day, **uns):
    """Cells of an AnnData file, three components, their variance falling."""
    rng = np.random.default_rng(0)
    obs = pandas.DataFrame({"day": day}, index=[f"cell{i}" for i in range(len(day))])
    data = anndata.AnnData(X=rng.normal(size=(len(day), 4)).astype(np.float32), obs=obs, uns=uns)
    data.obsm["X_pca"] = rng.normal(size=(len(day), 3)) * [5, 2, 1]
    data.obs["total"] = [100.0 if label == day[0] else 250.0 for label in day]
    data.write_h5ad(path)
    return data


DAYS = ["d0"] * 16 + ["d2.5"] * 20


def test_units_masses_and_times_of_labels_are_kept(tmp_path):
    path = tmp_path / "x.h5ad"
    early = ["early"] * 16 + ["late"] * 20
    written(path, early, cells={"late": 250, "early": 100}, listed=np.array([100, 250]))
    common = {"load_from_file": str(path), "data_dir": str(tmp_path), "test_ratio": 0.0}
    for mass_key in ("total", "listed", "cells"):
        data = generate_dataset(
            DataSettings(**common, time_key="day", time_map="early=0,late=2.5", mass_key=mass_key)
        )
        assert data.metadata["masses"] == [100, 250]
        assert data.metadata["times"]["train"] == [0, 2.5]
    written(path, DAYS)
    data = generate_dataset(DataSettings(**common, time_key="day", dataset_name="days"))
    assert data.metadata["time_unit"] == "day"
    assert data.metadata["masses"] is None


@pytest.mark.parametrize(
    ("held", "message"),
    [
        (np.array([1.0, 2.0, 3.0]), "one number for each of 2 times or 36 cells, got .*3"),
        (np.array([1.0, 0.0]), r"\(--mass-key\) at 2.5 must be positive, got 0"),
        ({"d0": 1}, "says nothing of 2.5"),
        ({"0": 1, "2.5": 3}, "in no unit, the times are in day"),
        (np.arange(1.0, 37.0), "cells at 0 have several masses"),
    ],
)
def test_masses_that_are_none(tmp_path, held, message):
    written(tmp_path / "x.h5ad", DAYS, held=held)
    with pytest.raises(ValueError, match=message):
        read_file(tmp_path / "x.h5ad", time_key="day", mass_key="held")


def test_masses_of_tables_and_arrays(tmp_path):
    lines = ["time,x,n", "0,1,10", "0,3,10", "1,5,30", "1,7,30"]
    (tmp_path / "x.csv").write_text("\n".join(lines))
    content = read_file(tmp_path / "x.csv", mass_key="n")
    np.testing.assert_array_equal(content.masses, [10, 30])
    assert content.train.dimension == 1
    with pytest.raises(ValueError, match=r"no 'm' in the columns \(--mass-key\)"):
        read_file(tmp_path / "x.csv", mass_key="m")
    points = np.random.default_rng(0).normal(size=(3, 8, 2))
    np.savez(tmp_path / "x.npz", points=points, n=np.array([1, 2, 4]))
    np.testing.assert_array_equal(read_file(tmp_path / "x.npz", mass_key="n").masses, [1, 2, 4])
    settings = DataSettings(
        load_from_file=str(tmp_path / "x.npz"),
        data_dir=str(tmp_path),
        mass_key="n",
        leave_one_out=1,
        n_gmm_components=0,
    )
    assert generate_dataset(settings).metadata["masses"] == [1, 4]
    np.save(tmp_path / "x.npy", points)
    with pytest.raises(ValueError, match="--mass-key is for files that hold more than one array"):
        read_file(tmp_path / "x.npy", mass_key="n")


def test_what_is_wrong_with_cells_is_said_in_flags(tmp_path):
    path = tmp_path / "x.h5ad"
    data = written(path, DAYS)
    with pytest.raises(ValueError, match=r"no 'dya' in obs \(--time-key\).*did you mean 'day'"):
        read_file(path, time_key="dya")
    with pytest.raises(ValueError, match=r"no 'X' in obsm \(--representation\).*scanpy.pp.pca"):
        read_file(path, time_key="day", representation="X")
    data[2:].copy().write_h5ad(path)
    with pytest.warns(UserWarning, match=r"a time has 14 cells .*\(--n-components\)"):
        read_file(path, time_key="day")
    data.obsm["X_pca"][[3, 5], 1] = np.nan
    data.write_h5ad(path)
    with pytest.raises(ValueError, match=r"2 of 36 cells have NaN .*: cell3, cell5$"):
        read_file(path, time_key="day")
    data.T.write_h5ad(path)
    with pytest.raises(ValueError, match="it is in var: cells must be the rows, .*adata.T"):
        read_file(path, time_key="day")
    data.obs["day"] = ["early"] * 16 + ["d2"] * 20
    data.write_h5ad(path)
    with pytest.raises(ValueError, match=r"'early'; .*--time-map='early'=0,\.\.\., or remove"):
        read_file(path, time_key="day")


def test_a_folder_of_zarr_names_the_remedy(tmp_path):
    (tmp_path / "x.zarr").mkdir()
    with pytest.raises(ValueError, match=r"anndata.read_zarr\(FOLDER\).write_h5ad\(FILE\)"):
        read_snapshots(tmp_path / "x.zarr")
    shutil.rmtree(tmp_path / "x.zarr")


def test_what_is_quoted_in_a_message_is_no_argument():
    text = "no 'time_key' in obs (time_key); take n_components, not my_use_rep"
    assert (
        with_flags(text) == "no 'time_key' in obs (--time-key); take --n-components, not my_use_rep"
    )


@pytest.mark.parametrize("said", ["early", "early=0,late=", "=1_0", ""])
def test_a_map_that_is_none(said):
    with pytest.raises(ValueError, match="time_map must be like early=0,late=2.5"):
        DataSettings(load_from_file="x.csv", time_map=said)


def test_cells_that_are_fine_are_said_nothing_of(tmp_path, no_warning):
    written(tmp_path / "x.h5ad", DAYS)
    with no_warning():
        read_file(tmp_path / "x.h5ad", time_key="day")
