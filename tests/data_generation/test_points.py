"""Files of points."""

import numpy as np
import pytest

from data_generation.points import points_data

POINTS = np.random.default_rng(0).normal([5.0, -1.0, 0.0], [0.1, 20.0, 1.0], (60, 3))


@pytest.mark.parametrize("name", ["p.npy", "named.csv", "bare.CSV"])
def test_points_are_read_standardised_and_split(tmp_path, name):
    file = tmp_path / name
    if name.endswith("npy"):
        np.save(file, POINTS)
    else:
        header = "x,y,z" if name == "named.csv" else ""
        np.savetxt(file, POINTS, delimiter=",", header=header, comments="")
    data = points_data(file, 3, validation_ratio=0.2)
    assert (data.train.shape, data.validation.shape) == ((48, 3), (12, 3))
    np.testing.assert_allclose(data.mean, POINTS.mean(axis=0), rtol=1e-9)
    whole = np.concatenate([data.validation, data.train]) * data.deviation + data.mean
    np.testing.assert_allclose(np.sort(whole, axis=0), np.sort(POINTS, axis=0), atol=1e-4)
    again = points_data(file, 3, validation_ratio=0.2)
    np.testing.assert_array_equal(again.train, data.train)
    assert (points_data(file, 4, validation_ratio=0.2).train != data.train).any()
    assert len(points_data(file, 3, n_points=40).train) == 36


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("1,2\n3,nan\n5,6\n7,9", "point 2 is not finite"),
        ("1,2\n3,2\n5,2\n7,2", "column 2 is the same"),
        ("1,2,3\n3,4,8\n", "holds 2 points in 3 dimensions, at least 4"),
        ("1,2\n3,4\n5,5.5", "3 points, of which 1 are held out"),
        ("1,2\n3\n", "line 2 has 1 numbers, not 2"),
        ("a,b\n1,2\n1,x\n", "line 3: 'x' is not a number"),
        ("", "holds no points"),
    ],
)
def test_what_has_no_density(tmp_path, content, message):
    file = tmp_path / "p.csv"
    file.write_text(content)
    with pytest.raises(ValueError, match=message):
        points_data(file, 0)


def test_a_column_that_varies_only_in_what_is_not_taken(tmp_path):
    points = np.stack([np.arange(50.0), np.zeros(50)], axis=1)
    points[17, 1] = 1.0
    np.save(tmp_path / "p.npy", points)
    assert np.isfinite(points_data(tmp_path / "p.npy", 0).train).all()
    with pytest.raises(ValueError, match="column 2 is the same for all 5 points that are taken"):
        points_data(tmp_path / "p.npy", 0, n_points=5)


def test_files_that_are_none(tmp_path):
    with pytest.raises(ValueError, match="no file"):
        points_data(tmp_path / "p.npy", 0)
    with pytest.raises(ValueError, match=r"\.npy or \.csv"):
        points_data(tmp_path / "p.txt", 0)
    np.save(tmp_path / "p.npy", np.zeros((3, 4, 5)))
    with pytest.raises(ValueError, match="a row per point"):
        points_data(tmp_path / "p.npy", 0)
