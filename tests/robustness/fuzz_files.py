"""Damaged and edited files of every kind, given to the loaders and to the scripts.

A file is changed by one mutation: bytes flipped, cut, doubled, zeroed or put in; for text and JSON also
values replaced and keys removed. Whoever reads it may refuse it in words, or accept what is still
a right file; a file with a recorded checksum is never accepted when a byte of it has changed.
"""

import dataclasses
import hashlib
import io
import json
import os
import pickle
import random
import re
import shutil
import struct
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import child
import desk
import numpy as np
from report import Report

CANARY = "canary"


@dataclasses.dataclass(frozen=True)
class Target:
    """A file that somebody reads.

    Attributes:
        name: of the reader and the format.
        file: that is changed, below the desk.
        read: the reader; it is given the place where the desk's copy is.
        needs: parts of the desk.
        checked: whether a checksum is recorded of the file's bytes.
        slow: whether the reader is a script, of which fewer are tried.
    """

    name: str
    file: str
    read: Callable[[Path], Any]
    needs: tuple[str, ...]
    checked: bool = False
    slow: bool = False


# mutations


def flip(content: bytes, rng: random.Random) -> bytes:
    """One bit."""
    changed = bytearray(content)
    changed[rng.randrange(len(changed))] ^= 1 << rng.randrange(8)
    return bytes(changed)


def several(content: bytes, rng: random.Random) -> bytes:
    """A few bytes anywhere."""
    changed = bytearray(content)
    for _ in range(rng.randint(2, 20)):
        changed[rng.randrange(len(changed))] = rng.randrange(256)
    return bytes(changed)


def head(content: bytes, rng: random.Random) -> bytes:
    """A few bytes where headers are."""
    changed = bytearray(content)
    for _ in range(rng.randint(1, 4)):
        changed[rng.randrange(min(len(changed), 160))] = rng.choice(
            (0, 255, 127, 128, 39, 40, 48, 57)
        )
    return bytes(changed)


def cut(content: bytes, rng: random.Random) -> bytes:
    """The end is missing."""
    return content[: rng.randrange(len(content))]


def longer(content: bytes, rng: random.Random) -> bytes:
    """Something follows."""
    return content + rng.randbytes(rng.randint(1, 200))


def zeroed(content: bytes, rng: random.Random) -> bytes:
    """A block that never reached the disk."""
    first = rng.randrange(len(content))
    size = min(rng.randint(1, 4096), len(content) - first)
    return content[:first] + bytes(size) + content[first + size :]


def doubled(content: bytes, rng: random.Random) -> bytes:
    """A part twice."""
    first = rng.randrange(len(content))
    last = min(len(content), first + rng.randint(1, 300))
    return content[:last] + content[first:]


def nothing(content: bytes, rng: random.Random) -> bytes:
    """An empty file, or one of zeros."""
    return b"" if rng.random() < 0.5 else bytes(len(content))


class _Calls:
    def __init__(self, file: str):
        self.file = file

    def __reduce__(self):
        return (os.mkdir, (self.file,))


def calls(content: bytes, rng: random.Random) -> bytes:
    """A pickle that makes a folder when it is opened, in one of the wrappings of pickles."""
    program = pickle.dumps(_Calls(CANARY), protocol=rng.choice((0, 2, 4)))
    wrapping = rng.randrange(4)
    if wrapping == 0:
        return program
    file = io.BytesIO()
    if wrapping == 1:
        with zipfile.ZipFile(file, "w") as archive:
            archive.writestr("archive/data.pkl", program)
            archive.writestr("archive/byteorder", "little")
    elif wrapping == 2:
        np.save(file, np.array([_Calls(CANARY)], object), allow_pickle=True)
    else:
        array = np.array([_Calls(CANARY)], object)
        names = dict.fromkeys(("points", "times", "weights"), array)
        np.savez(file, **names)
    return file.getvalue()


def edited(content: bytes, rng: random.Random) -> bytes:
    """Numbers, words and lines of a text replaced."""
    text = content.decode("latin-1")
    parts = text.splitlines(keepends=True)
    if rng.random() < 0.3 and parts:
        parts[rng.randrange(len(parts))] = rng.choice(("", "\n", "x" * 9999, ",,,,\n", "\x00\n"))
        return "".join(parts).encode("latin-1")
    words = list(_WORDS.finditer(text))
    if not words:
        return cut(content, rng)
    word = rng.choice(words)
    new = rng.choice(STRANGE_WORDS)
    return (text[: word.start()] + new + text[word.end() :]).encode("latin-1", "replace")


_WORDS = re.compile(r"[\w.+-]+")
STRANGE_WORDS = (
    *("nan", "inf", "-1", "1e999", "99999999999999999999999999", "", "null", "true", "[]", "{}"),
    *("0", "1_0", "-0", "1e-400", "\x1b[31m", "\\ud800", '"', "'", "[[[[", "2147483648", "0x10"),
    *("*a", "&a [*a, *a]", "!!python/object/apply:os.mkdir [canary]", "- - -", "? :"),
)

STRANGE_VALUES: tuple[Any, ...] = (
    *(None, True, False, 0, -1, 1, 2**31, 10**30, 1e308, -1e308, float("nan"), float("inf"), 0.5),
    *("", "x", "nan", "../../x", "/dev/zero", "a\nb", "\x1b[31m", "experiments.train", "os.system"),
    *([], {}, [[]], [None], [1, "x"], {"x": {}}, ["x"] * 1000, "x" * 100_000),
)


def rewritten(content: bytes, rng: random.Random) -> bytes:
    """Parsed JSON with a value replaced, a key removed, or one added, anywhere."""
    lines = content.decode().splitlines() if b'"epoch"' in content[:20] else [content.decode()]
    number = rng.randrange(len(lines))
    tree = [json.loads(lines[number])]
    places: list[tuple[Any, Any]] = []

    def walk(node: Any) -> None:
        for key in list(node) if isinstance(node, dict) else range(len(node)):
            places.append((node, key))
            if isinstance(node[key], dict | list):
                walk(node[key])

    walk(tree)
    node, key = rng.choice(places)
    kind = rng.random()
    if kind < 0.2 and node is not tree:
        del node[key]
    elif kind < 0.3 and isinstance(node, dict):
        node[rng.choice(("", "x", "schema_version", "__class__"))] = rng.choice(STRANGE_VALUES)
    else:
        node[key] = rng.choice(STRANGE_VALUES)
    lines[number] = json.dumps(tree[0])
    return "\n".join(lines).encode()


def nested(content: bytes, rng: random.Random) -> bytes:
    """JSON or YAML too deep for a stack."""
    depth = rng.choice((900, 100_000))
    return b"[" * depth + b"]" * rng.choice((0, depth))


def npy_header(content: bytes, rng: random.Random) -> bytes:
    """A NumPy header that claims something else, inside an archive too."""
    claims = (
        *(
            b"(9999999999, 9999)",
            b"(2,)",
            b"()",
            b"(-1, 4)",
            b"(1e9,)",
            b"('a',)",
            b"(((((",
            b"(0, 2)",
        ),
        *(b"(True,)", b"(2**62,)"),
    )
    kinds = (
        b"'|O'",
        b"'<f2'",
        b"'|S9'",
        b"'>f4'",
        b"'<c8'",
        b"'<U3'",
        b"'<M8[ns]'",
        b"[('a', '<f4')]",
    )

    def changed(file: bytes) -> bytes:
        first = file.find(b"'shape': (")
        last = file.find(b")", first) + 1
        if first >= 0 and rng.random() < 0.5:
            new = b"'shape': " + rng.choice(claims)
        else:
            first = file.find(b"'descr': ")
            last = file.find(b",", first)
            new = b"'descr': " + rng.choice(kinds)
        if first < 0:
            return flip(file, rng)
        # The header keeps its length, which is written before it.
        end = file.find(b"\n", last)
        header = (file[:first] + new + file[last:end].rstrip()).ljust(end) + b"\n"
        return header[:end] + b"\n" + file[end + 1 :]

    if not zipfile.is_zipfile(io.BytesIO(content)):
        return changed(content)
    out = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as old, zipfile.ZipFile(out, "w") as new:
        chosen = rng.choice(old.namelist())
        for name in old.namelist():
            part = old.read(name)
            new.writestr(name, changed(part) if name == chosen else part)
    return out.getvalue()


def bomb(content: bytes, rng: random.Random) -> bytes:
    """A small archive that is large when it is opened."""
    size = 1 << 33
    packer = zlib.compressobj(9, wbits=31 if rng.random() < 0.5 else -15)
    if rng.random() < 0.5:
        # 16 MB of zeros many times over, so that the file is made quickly.
        block = packer.compress(bytes(1 << 24)) + packer.flush(zlib.Z_FULL_FLUSH)
        return block * 40
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("points.npy", _npy_of(size) + bytes(1 << 22))
        archive.writestr("archive/data.pkl", bytes(1 << 24))
    return out.getvalue()


def _npy_of(size: int) -> bytes:
    text = f"{{'descr': '<f4', 'fortran_order': False, 'shape': ({size // 4},), }}".encode()
    text += b" " * (117 - len(text)) + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text


ANY = (flip, several, head, cut, longer, zeroed, doubled, nothing, calls, flip, several, cut)
TEXT = (*ANY, edited, edited, edited, edited)
JSON = (*TEXT, nested, *((rewritten,) * 12))
ARRAYS = (*ANY, npy_header, npy_header, npy_header, bomb)


def mutations(file: str) -> tuple[Callable[[bytes, random.Random], bytes], ...]:
    """What can be done to a file of that name."""
    suffix = Path(file).suffix
    if suffix in (".json", ".jsonl"):
        return JSON
    if suffix in (".csv", ".yaml", ".txt", ".md"):
        return TEXT
    if suffix in (".npz", ".npy", ".pth"):
        return ARRAYS
    return (*ANY, bomb) if "ubyte" in file else ANY


# data sets whose checksums are right and whose content is not


def _point(array: np.ndarray, value: float) -> np.ndarray:
    changed = array.copy()
    changed.flat[array.size // 2] = value
    return changed


FORGERIES: dict[str, tuple[str, str, Callable[[np.ndarray], np.ndarray]]] = {
    "a point is NaN": ("train", "points", lambda a: _point(a, np.nan)),
    "a point is infinite": ("test", "points", lambda a: _point(a, np.inf)),
    "points are text": ("train", "points", lambda a: a.astype("S8")),
    "points are complex": ("test", "points", lambda a: a.astype(np.complex64)),
    "points have no dimension": ("train", "points", lambda a: a[..., 0]),
    "no particles": ("train", "points", lambda a: a[:, :0]),
    "another dimension": ("test", "points", lambda a: a[..., :1]),
    "times fall": ("train", "times", lambda a: a[::-1].copy()),
    "times stand still": ("train", "times", lambda a: np.zeros_like(a)),
    "a time is NaN": ("test", "times", lambda a: _point(a, np.nan)),
    "a time too many": ("test", "times", lambda a: np.append(a, a[-1] + 1)),
    "a weight of a particle is negative": ("train", "weights", lambda a: _point(a, -1.0)),
    "a weight of a particle is NaN": ("train", "weights", lambda a: _point(a, np.nan)),
    "no weights": ("train", "weights", lambda a: np.zeros_like(a)),
    "a weight of a pair is NaN": ("couplings", "weight", lambda a: _point(a, np.nan)),
    "a weight of a pair is negative": ("couplings", "weight", lambda a: _point(a, -0.5)),
    "a source out of range": ("couplings", "source", lambda a: _point(a, 10**6)),
    "a target out of range": ("couplings", "target", lambda a: _point(a, -1)),
    "a step out of range": ("couplings", "step", lambda a: _point(a, 99)),
    "sources that are no integers": ("couplings", "source", lambda a: a + 0.5),
    "pairs of different lengths": ("couplings", "target", lambda a: a[:-1]),
    "no pairs": ("couplings", "target", lambda a: a[:0]),
}


def _forged(table: Path, folder: Path, report: Report) -> None:
    """Each must be refused: nobody but the content can say that it is wrong."""

    def work(k: int) -> str:
        archive, name, change = list(FORGERIES.values())[k]
        place = folder / str(k)
        desk.copy(table, ("data/plain",), place)
        file, described = place / f"data/plain/{archive}.npz", place / "data/plain/metadata.json"
        with np.load(file) as found:
            arrays = {key: found[key] for key in found.files}
        arrays[name] = change(arrays[name])
        np.savez(file, **arrays)
        metadata = json.loads(described.read_text())
        metadata["checksums"][file.name] = hashlib.sha256(file.read_bytes()).hexdigest()
        metadata["shapes"][archive] = {key: list(a.shape) for key, a in arrays.items()}
        described.write_text(json.dumps(metadata))
        from data_generation.populations.datasets import load_dataset

        try:
            load_dataset(place / "data/plain")
        except ValueError:
            return "refused"
        except Exception as error:  # noqa: BLE001  whatever it is, it is a fault
            return f"FAULT {type(error).__name__}: {error}"[:300]
        return "FAULT accepted"

    folder.mkdir(parents=True)
    for k, said in child.each(len(FORGERIES), work, folder):
        wrong = said.removeprefix("FAULT ") if said.startswith("FAULT ") else ""
        report.add("files, forged", "data set", list(FORGERIES)[k], wrong)


# readers


def _snapshots(name: str, **options: str) -> Callable[[Path], Any]:
    def read(place: Path) -> Any:
        from data_generation.populations.reading import read_populations

        return read_populations(place / name, **options)

    return read


def _call(module: str, function: str, name: str) -> Callable[[Path], Any]:
    def read(place: Path) -> Any:
        import importlib

        return getattr(importlib.import_module(module), function)(place / name)

    return read


def _script(module: str, *arguments: str) -> Callable[[Path], Any]:
    def read(place: Path) -> Any:
        outcome = child.Child(child.script(module, arguments), place).wait()
        ends = (0, 1, 2) if module == "experiments.sweep" else (0, 2)  # 1: runs failed
        if wrong := child.complaint(outcome, ends):
            raise AssertionError(wrong)
        if outcome.status in (1, 2):
            raise ValueError(outcome.err)
        return None

    return read


def _all_targets() -> list[Target]:
    plain, run, sparse = "data/plain", "runs/linear", "runs/sparse/denoiser"
    data = ("data_generation.populations.datasets", "load_dataset", plain)
    energy = ("checkpoints", "load_energy", "runs/network/energy")
    denoiser = ("checkpoints.message_passing", "load_denoiser", sparse)
    network = ("checkpoints", "load_network", "runs/plane/network")
    return [
        *(
            Target(f"snapshots {s}", s, _snapshots(s), (s,))
            for s in ("points.npy", "points.npz", "points.csv")
        ),
        Target(
            "snapshots cells.h5ad",
            "cells.h5ad",
            _snapshots("cells.h5ad", time_key="day", representation="X_scvi"),
            ("cells.h5ad",),
        ),
        Target("data set, metadata", f"{plain}/metadata.json", _call(*data), (plain,)),
        *(
            Target(f"data set, {part}", f"{plain}/{part}", _call(*data), (plain,), checked=True)
            for part in ("train.npz", "test.npz", "couplings.npz")
        ),
        Target(
            "energy, description",
            "runs/network/energy/energy.json",
            _call(*energy),
            ("runs/network/energy",),
        ),
        Target(
            "energy, arrays",
            "runs/network/energy/arrays/d/*",
            _call(*energy),
            ("runs/network/energy",),
            checked=True,
        ),
        Target("denoiser, description", f"{sparse}/*.json", _call(*denoiser), (sparse,)),
        Target(
            "denoiser, arrays", f"{sparse}/arrays/d/*", _call(*denoiser), (sparse,), checked=True
        ),
        Target(
            "network, description",
            "runs/plane/network/network.json",
            _call(*network),
            ("runs/plane/network",),
        ),
        Target(
            "network, arrays",
            "runs/plane/network/arrays/d/*",
            _call(*network),
            ("runs/plane/network",),
            checked=True,
        ),
        *(
            Target(
                f"state dict {s}",
                s,
                _call("checkpoints.torch.state_dict", "read_state_dict", s),
                (s,),
            )
            for s in ("weights.pth", "weights.safetensors")
        ),
        Target(
            "idx images",
            "train-images-idx3-ubyte",
            _call("data_generation.images.idx", "read_idx", "train-images-idx3-ubyte"),
            ("train-images-idx3-ubyte",),
        ),
        *(_cifar(kind) for kind in ("data_batch_1.bin", "data_batch_1")),
        Target(
            "grid",
            "grid.yaml",
            _call("experiments.sweeps.settings", "read_grids", "grid.yaml"),
            ("grid.yaml",),
        ),
        *_scripts(run, plain),
    ]


def _cifar(name: str) -> Target:
    def read(place: Path) -> Any:
        from data_generation.images.cifar10 import read_cifar10

        return read_cifar10(place / "cifar", records=None)

    return Target(f"CIFAR-10 {name}", f"cifar/{name}", read, ("cifar",))


def _scripts(run: str, plain: str) -> list[Target]:
    evaluate = _script("experiments.evaluate", f"--run={run}", "--noplots", "--output=x.json")
    report = _script("experiments.report", f"--run={run}", "--out=x.html")
    page = _script("experiments.report", "--run=runs/network", "--out=x.html")
    judge = _script(
        "experiments.sparse_pixels", "--mode=sample", "--run=runs/pixels", "--output=x", "--noplots"
    )
    again = _script(
        *("experiments.train", "--dataset=plain", "--run-name=network", "--resume", "--epochs=4"),
        *("--eval-every=2", *desk.LEARNING),
    )
    needs = (run, plain)
    return [
        Target("evaluate, config", f"{run}/config.json", evaluate, needs, slow=True),
        Target("evaluate, metadata", f"{plain}/metadata.json", evaluate, needs, slow=True),
        Target("report, config", f"{run}/config.json", report, needs, slow=True),
        Target("report, summary", f"{run}/summary.json", report, needs, slow=True),
        Target("report, metadata", f"{plain}/metadata.json", report, needs, slow=True),
        Target(
            "report, rows", "runs/network/metrics.jsonl", page, ("runs/network", plain), slow=True
        ),
        Target(
            "resumption, config",
            "runs/network/config.json",
            again,
            ("runs/network", plain),
            slow=True,
        ),
        Target(
            "sparse_pixels, config", "runs/pixels/config.json", judge, ("runs/pixels",), slow=True
        ),
        Target(
            "annotate, config",
            "runs/cells/config.json",
            _script(
                "experiments.annotate", "--run=runs/cells", "--h5ad=cells.h5ad", "--out=x.h5ad"
            ),
            ("runs/cells", "cells.h5ad", "data/cells"),
            slow=True,
        ),
        Target(
            "import_torch, weights",
            "weights.pth",
            _script(
                *("checkpoints.import_torch", "--kind=message-passing", "--weights=weights.pth"),
                *("--n=10", "--k=2", "--out=x"),
            ),
            ("weights.pth",),
            slow=True,
        ),
        Target(
            "sweep, grid",
            "grid.yaml",
            _script("experiments.sweep", "--grid=grid.yaml", "--noplots"),
            ("grid.yaml", "data"),
            slow=True,
        ),
    ]


def set_more(table: Path) -> None:
    """The files of CIFAR-10 in both layouts, of three images each."""
    if (table / "cifar").exists():
        return
    (table / "cifar").mkdir()
    rng = np.random.default_rng(0)
    for number in range(1, 6):
        pixels = rng.integers(0, 256, (3, 3072)).astype(np.uint8)
        records = np.concatenate([np.arange(3, dtype=np.uint8)[:, None], pixels], axis=1)
        (table / "cifar" / f"data_batch_{number}.bin").write_bytes(records.tobytes())
        batch = {b"data": pixels, b"labels": [0, 1, 2], b"batch_label": b"x"}
        # As the original's Python 2 wrote them.
        (table / "cifar" / f"data_batch_{number}").write_bytes(pickle.dumps(batch, protocol=2))


# the campaign


def campaign(
    table: Path,
    folder: Path,
    report: Report,
    *,
    trials: int,
    scripts: int,
    seed: int,
    only: str = "",
) -> None:
    """Changes files, and lets them be read.

    Args:
        table: the desk.
        folder: for the places of work.
        report: takes one entry per trial.
        trials: of the loaders, in all.
        scripts: of the scripts, in all.
        seed: of the mutations.
        only: part of the names of the targets to try.
    """
    set_more(table)
    if only in "forged":
        _forged(table, folder / "forged", report)
    targets = [
        t for t in _all_targets() if only in t.name and all((table / n).exists() for n in t.needs)
    ]
    for slow, number in ((False, trials), (True, scripts)):
        chosen = [t for t in targets if t.slow == slow]
        for target in chosen:
            share = max(1, number // len(chosen))
            _try(target, table, folder / target.name.replace(" ", "-"), report, share, seed)


def _try(target: Target, table: Path, folder: Path, report: Report, number: int, seed: int) -> None:
    folder.mkdir(parents=True)
    place = folder / "place"
    prepare(target, table, place)
    rngs = [random.Random(f"{seed} {target.name} {k}") for k in range(number)]
    kinds = [rng.choice(mutations(target.file)) for rng in rngs]
    # The largest file of that name.
    file = max(place.glob(target.file), key=lambda file: (file.stat().st_size, file.name))
    whole = file.read_bytes()

    def work(k: int) -> str:
        if target.slow:
            prepare(target, table, place)
        content = whole if k == number else kinds[k](whole, rngs[k])
        if content == whole and k < number:
            return "read"
        file.write_bytes(content)
        said = _said_of(target, place, content, whole)
        if (place / CANARY).exists() or Path(CANARY).exists():
            return "FAULT executed what the file says"
        return said

    names = [*(kind.__name__ for kind in kinds), "nothing done"]
    by_hand = ((k, work(k)) for k in range(number + 1))
    for k, said in by_hand if target.slow else child.each(number + 1, work, place):
        wrong = said.removeprefix("FAULT ") if said.startswith("FAULT ") else ""
        if k == number:  # otherwise a refusal would prove nothing
            wrong = "" if said == "read" else said
        report.add(
            "files" if not target.slow else "files, by scripts",
            target.name,
            f"{names[k]} {seed}/{k}",
            wrong,
        )
    shutil.rmtree(folder)


def prepare(target: Target, table: Path, place: Path) -> None:
    """A fresh copy of what the reader needs."""
    shutil.rmtree(place, ignore_errors=True)
    desk.copy(table, target.needs, place)


def _said_of(target: Target, place: Path, content: bytes, whole: bytes) -> str:
    """`read`, `refused`, or what went wrong."""
    try:
        target.read(place)
    except ValueError as error:
        text = str(error)
        if not text.strip() or len(text) > 20_000:
            return f"FAULT refused with {len(text)} characters"
        return "refused"
    except AssertionError as error:
        return f"FAULT {error}"
    except BaseException as error:  # noqa: BLE001  whatever it is, it is a fault
        return f"FAULT {type(error).__name__}: {error}"[:300]
    if target.checked and content != whole:
        return "FAULT accepted although its checksum is another"
    return "read"
