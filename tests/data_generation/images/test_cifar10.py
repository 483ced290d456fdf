"""CIFAR-10 and Fashion-MNIST from files in their official layouts, and what is wrong with files."""

import gzip
import hashlib
import io
import pickle
import struct
import tarfile
import tracemalloc
import urllib.error

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from data_generation.images import cifar10, downloads, idx
from data_generation.images.batches import as_bytes, image_batch, normalised
from data_generation.images.cifar10 import download_cifar10, read_cifar10
from data_generation.images.datasets import ImageData, load_images, padded, subset, synthetic_images
from data_generation.images.idx import download_fashion_mnist, read_fashion_mnist, read_idx

N = 7
STEMS = [f"data_batch_{i}" for i in range(1, 6)] + ["test_batch"]


def batch(seed, n=N):
    rng = np.random.default_rng(seed)
    return (
        rng.integers(0, 256, (n, 32, 32, 3), dtype=np.uint8),
        rng.integers(0, 10, n, dtype=np.int32),
    )


def planes(pictures):
    """Red, green and blue planes, each row by row, written out pixel by pixel."""
    rows = np.empty((len(pictures), 3072), np.uint8)
    for i, picture in enumerate(pictures):
        for channel in range(3):
            for row in range(32):
                start = 1024 * channel + 32 * row
                rows[i, start : start + 32] = picture[row, :, channel]
    return rows


def write_binary(folder):
    folder.mkdir(parents=True)
    for seed, stem in enumerate(STEMS):
        pictures, labels = batch(seed)
        records = np.concatenate([labels[:, None].astype(np.uint8), planes(pictures)], axis=1)
        (folder / f"{stem}.bin").write_bytes(records.tobytes())


def write_python(folder, *, as_python_2):
    folder.mkdir(parents=True)
    for seed, stem in enumerate(STEMS):
        pictures, labels = batch(seed)
        data = planes(pictures)
        if as_python_2:
            content = python_2_pickle(data, labels.tolist())
        else:
            content = pickle.dumps({"data": data, "labels": labels.tolist()}, protocol=2)
        (folder / stem).write_bytes(content)


def python_2_pickle(data, labels):
    """The opcodes that Python 2 wrote with protocol 2: byte strings, and NumPy's own reduction."""

    def text(value):
        return b"T" + struct.pack("<i", len(value)) + value

    array = (
        b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85" + text(b"b") + b"\x87R"
        b"(K\x01M" + struct.pack("<H", data.shape[0]) + b"M" + struct.pack("<H", data.shape[1])
        + b"\x86cnumpy\ndtype\n" + text(b"u1") + b"K\x00K\x01\x87R(K\x03" + text(b"|")
        + b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89" + text(data.tobytes()) + b"tb"
    )  # fmt: skip
    items = b"](" + b"".join(b"K" + bytes([label]) for label in labels) + b"e"
    return b"\x80\x02}(" + text(b"data") + array + text(b"labels") + items + b"u."


def idx_bytes(array):
    return (
        bytes([0, 0, 8, array.ndim])
        + struct.pack(f">{array.ndim}I", *array.shape)
        + array.astype(np.uint8).tobytes()
    )


def write_fashion(folder, *, compressed=True):
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    arrays = {}
    for split, name in (("train", "train"), ("test", "t10k")):
        arrays[split] = (
            rng.integers(0, 256, (5, 28, 28), dtype=np.uint8),
            rng.integers(0, 10, 5, dtype=np.uint8),
        )
        for array, file in zip(
            arrays[split], (f"{name}-images-idx3-ubyte", f"{name}-labels-idx1-ubyte"), strict=True
        ):
            content = idx_bytes(array)
            if compressed:
                (folder / f"{file}.gz").write_bytes(gzip.compress(content))
            else:
                (folder / file).write_bytes(content)
    return arrays


@pytest.fixture(params=["binary", "python-2", "python-3"])
def layout(request, tmp_path):
    if request.param == "binary":
        write_binary(tmp_path / "cifar-10-batches-bin")
    else:
        write_python(tmp_path / "cifar-10-batches-py", as_python_2=request.param == "python-2")
    return tmp_path


def test_every_layout_gives_the_same_images(layout):
    for folder in (layout, next(layout.iterdir())):
        train, labels = read_cifar10(folder, records=N)
        expected = [batch(seed) for seed in range(5)]
        np.testing.assert_array_equal(train, np.concatenate([e[0] for e in expected]))
        np.testing.assert_array_equal(labels, np.concatenate([e[1] for e in expected]))
        test, test_labels = read_cifar10(folder, "test", records=None)
        np.testing.assert_array_equal(test, batch(5)[0])
        np.testing.assert_array_equal(test_labels, batch(5)[1])
        assert train.dtype == np.uint8
        assert labels.dtype == np.int32


def test_the_hand_written_pickle_is_what_a_python_2_reader_expects():
    pictures, labels = batch(0)
    content = pickle.loads(python_2_pickle(planes(pictures), labels.tolist()), encoding="bytes")
    np.testing.assert_array_equal(content[b"data"], planes(pictures))
    assert content[b"labels"] == labels.tolist()


class Attack:
    def __init__(self, function, *arguments):
        self.reduced = (function, arguments)

    def __reduce__(self):
        return self.reduced


def test_a_pickle_that_calls_something_is_refused_and_calls_nothing(tmp_path):
    write_python(tmp_path / "py", as_python_2=False)
    marker = tmp_path / "called"
    attack = pickle.dumps({"data": Attack(marker.mkdir), "labels": []}, protocol=2)
    (tmp_path / "py" / "data_batch_2").write_bytes(attack)
    with pytest.raises(ValueError, match="it asks for") as error:
        read_cifar10(tmp_path / "py", records=N)
    assert "data_batch_2" in str(error.value)
    assert "\n" not in str(error.value)
    assert not marker.exists()


def damage_truncate(file):
    file.write_bytes(file.read_bytes()[:-5])


def damage_drop_a_record(file):
    file.write_bytes(file.read_bytes()[:-3073])


def damage_label(file):
    file.write_bytes(b"\x0b" + file.read_bytes()[1:])


def damage_empty(file):
    file.write_bytes(b"")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (damage_truncate, "truncated"),
        (damage_drop_a_record, "6 images, expected 7"),
        (damage_label, "label 11"),
        (damage_empty, "0 bytes"),
        (lambda file: file.unlink(), "incomplete: data_batch_4.bin is missing"),
    ],
)
def test_what_is_wrong_with_a_binary_file_is_said(tmp_path, damage, message):
    write_binary(tmp_path / "bin")
    damage(tmp_path / "bin" / "data_batch_4.bin")
    with pytest.raises(ValueError, match=message) as error:
        read_cifar10(tmp_path / "bin", records=N)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"\x80\x02}q\x00.", "not both there"),
        (b"GIF89a", "damaged"),
        (pickle.dumps([1, 2], protocol=2), "no dict"),
        (
            pickle.dumps({"data": np.zeros((2, 3072), np.int16), "labels": [0, 1]}, protocol=2),
            "not uint8",
        ),
        (
            pickle.dumps({"data": np.zeros((2, 3072), np.uint8), "labels": [0]}, protocol=2),
            "1 labels for 2 images",
        ),
        (
            pickle.dumps({"data": np.zeros((2, 3072), np.uint8), "labels": [0, -1]}, protocol=2),
            "label -1, expected 0 to 9",
        ),
        (
            pickle.dumps({"data": np.zeros((1, 3072), np.uint8), "labels": [10**30]}, protocol=2),
            "label 1000000000000000000000000000000, expected 0 to 9",
        ),
        (b"\x80\x02c__builtin__\nbytes\nJ\xff\xff\xff\x7f\x85R.", "TypeError"),
        (
            pickle.dumps({"data": 1, "labels": [0]}, protocol=0),
            "the operation MARK|UNICODE|PUT|DICT",
        ),
    ],
)
def test_what_is_wrong_with_a_pickle_is_said(tmp_path, content, message):
    (tmp_path / "test_batch").write_bytes(content)
    with pytest.raises(ValueError, match=message):
        read_cifar10(tmp_path, "test", records=None)


def test_checksums_and_missing_folders(tmp_path):
    write_binary(tmp_path / "bin")
    with pytest.raises(ValueError, match="published 5dd7e06a14cb22eb9f671a540d1b7c25"):
        read_cifar10(tmp_path / "bin", verify=True, records=N)
    with pytest.raises(ValueError, match="no folder"):
        read_cifar10(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="holds no CIFAR-10"):
        read_cifar10(tmp_path / "empty")


@pytest.fixture
def archive(tmp_path):
    write_binary(tmp_path / "cifar-10-batches-bin")
    file = tmp_path / "source.tar.gz"
    with tarfile.open(file, "w:gz") as members:
        members.add(tmp_path / "cifar-10-batches-bin", "cifar-10-batches-bin")
        outside = tarfile.TarInfo("../outside")
        outside.size = 1
        members.addfile(outside, io.BytesIO(b"x"))
    return file


@pytest.fixture
def published(monkeypatch):
    """The network: address -> content; what is not there is not found."""
    files = {}

    def open_url(url):
        if url not in files:
            raise urllib.error.URLError("not found")
        response = io.BytesIO(files[url])
        response.headers = {"Content-Length": str(len(files[url]))}
        return response

    monkeypatch.setattr(downloads, "open_url", open_url)
    return files


URL = "https://example.org/archive.tar.gz"


def test_the_download_is_checked_and_complete(archive, tmp_path, published):
    published[URL] = archive.read_bytes()
    checksum = hashlib.md5(archive.read_bytes()).hexdigest()
    home = tmp_path / "home" / "data"
    folder = download_cifar10(home, url=URL, archive_md5=checksum)
    np.testing.assert_array_equal(read_cifar10(folder, "test", records=N)[0], batch(5)[0])
    assert [p.name for p in home.iterdir()] == ["cifar-10-batches-bin"]
    assert not (tmp_path / "home" / "outside").exists()
    # What is there is kept: the second call has no source at all.
    published.clear()
    assert download_cifar10(home, url=URL, archive_md5="") == folder


def test_a_download_of_something_else_leaves_nothing(archive, tmp_path, published):
    published[URL] = archive.read_bytes()
    home = tmp_path / "home"
    with pytest.raises(ValueError, match="delivered another file"):
        download_cifar10(home, url=URL, archive_md5="0" * 32)
    with pytest.raises(ValueError, match=r"cannot download .* \(not found\)"):
        download_cifar10(home, url="https://example.org/nowhere.tar.gz")
    assert list(home.iterdir()) == []


def test_fashion_mnist_is_fetched_file_by_file(tmp_path, published, monkeypatch):
    arrays = write_fashion(tmp_path / "source")
    files = {p.name: p.read_bytes() for p in (tmp_path / "source").iterdir()}
    monkeypatch.setattr(
        idx, "_MD5", {name: hashlib.md5(content).hexdigest() for name, content in files.items()}
    )
    published |= {f"{idx.URL}/{name}": content for name, content in files.items()}
    folder = download_fashion_mnist(tmp_path / "home")
    np.testing.assert_array_equal(
        read_fashion_mnist(folder, verify=True)[0][..., 0], arrays["train"][0]
    )
    published.clear()
    download_fashion_mnist(folder)  # all are there


@pytest.mark.parametrize("compressed", [True, False])
def test_fashion_mnist(tmp_path, compressed):
    arrays = write_fashion(tmp_path / "fashion", compressed=compressed)
    for split in ("train", "test"):
        pictures, labels = read_fashion_mnist(tmp_path / "fashion", split)
        np.testing.assert_array_equal(pictures, arrays[split][0][..., None])
        np.testing.assert_array_equal(labels, arrays[split][1])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"\x00\x00\x08\x01\x00\x00\x00\x05abc", "truncated or damaged: 3 bytes"),
        (b"\x00\x00\x0d\x01\x00\x00\x00\x01abcd", "type 13"),
        (b"\x00\x00\x08\x02\x00\x00", "header says 2 axes"),
        (b"\x00\x00\x08\x21" + b"\x00\x00\x00\x01" * 33 + b"a", "header says 33 axes"),
        (b"\x00\x00\x08\x01\x00\x00\x00\x02abc", "more bytes for shape"),
        (b"\x00\x00\x08\x02" + b"\xff" * 8, "would take 18446744065119617025 bytes"),
        (b"hello world", "no idx file"),
    ],
)
def test_what_is_wrong_with_an_idx_file_is_said(tmp_path, content, message):
    file = tmp_path / "some-idx"
    file.write_bytes(content)
    with pytest.raises(ValueError, match=message):
        read_idx(file)
    with pytest.raises(ValueError, match="no file"):
        read_idx(tmp_path / "nowhere")
    damaged = tmp_path / "some-idx.gz"
    damaged.write_bytes(gzip.compress(content))
    with pytest.raises(ValueError, match=message):
        read_idx(damaged)


def test_a_compressed_file_that_was_cut_off(tmp_path):
    file = tmp_path / "some-idx.gz"
    whole = gzip.compress(b"\x00\x00\x08\x01\x00\x00\x00\x03abc")
    file.write_bytes(whole)
    assert bytes(read_idx(file)) == b"abc"
    for kept in (len(whole) - 6, len(whole) // 2, 5):
        file.write_bytes(whole[:kept])
        with pytest.raises(ValueError, match="cannot read"):
            read_idx(file)


def test_a_compressed_file_is_unpacked_as_far_as_its_header_says(tmp_path):
    file = tmp_path / "some-idx.gz"
    file.write_bytes(gzip.compress(b"\x00\x00\x08\x01\x00\x00\x00\x05" + bytes(64 << 20)))
    assert file.stat().st_size < 100_000
    tracemalloc.start()
    with pytest.raises(ValueError, match="more bytes for shape"):
        read_idx(file)
    assert tracemalloc.get_traced_memory()[1] < 8 << 20
    tracemalloc.stop()
    # What it says itself is bounded by its size.
    file.write_bytes(gzip.compress(b"\x00\x00\x08\x01\x40\x00\x00\x00" + bytes(100)))
    with pytest.raises(ValueError, match="would take 1073741824 bytes, at most 268435456"):
        read_idx(file)


def test_one_interface(tmp_path, monkeypatch):
    write_binary(tmp_path / "cifar")
    write_fashion(tmp_path / "fashion")
    # The files here hold fewer images than the official ones, which the loader insists on.
    with pytest.raises(ValueError, match="7 images, expected 10000"):
        load_images("cifar10", path=tmp_path / "cifar")
    monkeypatch.setitem(cifar10.read_cifar10.__kwdefaults__, "records", N)
    data = load_images("cifar10", path=tmp_path / "cifar")
    assert len(data) == 5 * N
    assert data.classes[3] == "cat"
    data = load_images("fashion-mnist", "test", path=tmp_path / "fashion")
    assert data.images.shape == (5, 28, 28, 1)
    assert data.classes == idx.CLASSES
    with pytest.raises(ValueError, match="needs the folder"):
        load_images("cifar10")
    with pytest.raises(ValueError, match="unknown image dataset 'imagenet'"):
        load_images("imagenet")
    with pytest.raises(ValueError, match="unknown split"):
        load_images("synthetic", "validation")


def test_a_subset_is_random_reproducible_and_keeps_pairs():
    n = 50
    data = ImageData(
        images=np.arange(n, dtype=np.uint8)[:, None, None, None] * np.ones((1, 4, 4, 1), np.uint8),
        labels=np.arange(n, dtype=np.int32) % 4,
        classes=tuple("abcd"),
    )
    part = subset(data, 10, seed=1)
    kept = part.images[:, 0, 0, 0]
    assert len(set(kept.tolist())) == 10
    np.testing.assert_array_equal(part.labels, kept % 4)
    np.testing.assert_array_equal(subset(data, 10, seed=1).images, part.images)
    assert (subset(data, 10, seed=2).images != part.images).any()
    only = subset(data, None, classes=(1, 3))
    assert set(only.labels.tolist()) == {1, 3}
    assert len(only) == 25
    with pytest.raises(ValueError, match="1 to 50 images, got 51"):
        subset(data, 51)
    with pytest.raises(ValueError, match="no class 4"):
        subset(data, 3, classes=(4,))


def test_borders_are_black_and_centred():
    data = synthetic_images(3, size=28, channels=1)
    wide = padded(data, 8).images
    assert wide.shape == (3, 32, 32, 1)
    np.testing.assert_array_equal(wide[:, 2:30, 2:30], data.images)
    assert wide.sum(dtype=np.int64) == data.images.sum(dtype=np.int64)
    np.testing.assert_array_equal(padded(data, 4).images, data.images)


def test_synthetic_images_are_reproducible_and_their_labels_visible():
    data = load_images("synthetic")
    np.testing.assert_array_equal(data.images, load_images("synthetic").images)
    held_out = load_images("synthetic", "test")
    assert not (held_out.images[:100] == data.images[:100]).all(axis=(1, 2, 3)).any()
    assert set(data.labels.tolist()) == set(range(len(data.classes)))

    # Labels are worth something: a nearest class mean of the edges beats chance (1/4) clearly.
    def edges(pictures):
        grey = pictures.astype(float).mean(axis=-1)
        spectrum = abs(np.fft.rfft2(grey - grey.mean(axis=(1, 2), keepdims=True)))[:, :8, :8]
        return spectrum / np.linalg.norm(spectrum, axis=(1, 2), keepdims=True)

    train, test = edges(data.images), edges(held_out.images)
    means = np.stack([train[data.labels == c].mean(axis=0) for c in range(4)])
    guess = ((test[:, None] - means) ** 2).sum(axis=(2, 3)).argmin(axis=1)
    assert (guess == held_out.labels).mean() > 0.4


def test_bytes_and_floats():
    every = np.arange(256, dtype=np.uint8).reshape(1, 16, 16, 1)
    values = normalised(jnp.asarray(every))
    np.testing.assert_allclose(values.ravel(), np.arange(256) / 127.5 - 1, atol=1e-7)
    np.testing.assert_array_equal(as_bytes(values), every)
    np.testing.assert_array_equal(as_bytes(values * 3)[0, 0, 0, 0], 0)
    np.testing.assert_array_equal(as_bytes(values * 3)[0, -1, -1, 0], 255)


def test_a_batch_is_gathered_and_half_of_it_mirrored():
    pictures = jnp.asarray(batch(0, n=20)[0])
    indices = jnp.asarray(np.random.default_rng(0).integers(0, 20, 400))
    straight = np.asarray(pictures[indices])
    made = as_bytes(jax.jit(image_batch)(jax.random.key(0), pictures, indices))
    same = np.asarray((made == straight).all(axis=(1, 2, 3)))
    mirrored = np.asarray((made == straight[:, :, ::-1]).all(axis=(1, 2, 3)))
    assert (same ^ mirrored).all()
    assert abs(mirrored.mean() - 0.5) < 0.1
    again = as_bytes(image_batch(jax.random.key(0), pictures, indices))
    np.testing.assert_array_equal(made, again)
    plain = as_bytes(image_batch(jax.random.key(0), pictures, indices, flip=False))
    np.testing.assert_array_equal(plain, straight)


def test_an_archive_of_something_else_leaves_nothing(tmp_path, published):
    file = tmp_path / "other.tar.gz"
    with tarfile.open(file, "w:gz") as members:
        members.add(__file__, "other.py")
    published[URL] = file.read_bytes()
    checksum = hashlib.md5(file.read_bytes()).hexdigest()
    home = tmp_path / "home"
    with pytest.raises(ValueError, match=r"holds no data_batch_1\.bin"):
        download_cifar10(home, url=URL, archive_md5=checksum)
    assert list(home.iterdir()) == []
