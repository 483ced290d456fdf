"""What is written appears whole, at no name that could be foreseen, and through no link."""

import os
import secrets
import time

import pytest

from diffusions import files
from diffusions.files import (
    is_temporary,
    new_file,
    new_folder,
    recover,
    replace_folder,
    sweep,
    write_bytes,
    write_text,
)


def names(folder):
    return sorted(p.name for p in folder.iterdir())


def test_a_file_is_replaced_whole_and_nothing_else_is_left(tmp_path):
    file = tmp_path / "x.txt"
    write_text(file, "old\r\n")
    write_text(file, "new \u00e9\r\n")
    assert file.read_bytes() == b"new \xc3\xa9\r\n"
    write_bytes(file, b"\x00\xff")
    assert file.read_bytes() == b"\x00\xff"
    assert names(tmp_path) == ["x.txt"]
    assert file.stat().st_mode & 0o777 == 0o666 & ~current_umask()


def current_umask():
    mask = os.umask(0)
    os.umask(mask)
    return mask


def test_a_failure_leaves_the_old_file_and_no_other(tmp_path):
    file = tmp_path / "x.h5ad"
    file.write_text("old")

    def cut_off():
        with new_file(file) as temporary:
            temporary.write_text("half of it")
            assert (temporary.suffix, temporary.parent) == (".h5ad", tmp_path)
            assert is_temporary(temporary.name)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        cut_off()
    assert (file.read_text(), names(tmp_path)) == ("old", ["x.h5ad"])


def test_temporary_names_cannot_be_foreseen(tmp_path):
    made = {files.temporary_name(tmp_path / "x.json", ".json").name for _ in range(100)}
    assert len(made) == 100
    assert all(is_temporary(name) and name.startswith(".x.json.new-") for name in made)
    assert not any(map(is_temporary, ("x.json", ".x.json.new", ".x.new-12", "a.new-" + "0" * 16)))
    # A name of as many bytes as a file system takes can be written as well.
    write_text(tmp_path / ("\u00e9" * 127), "long")
    assert names(tmp_path) == ["\u00e9" * 127]


@pytest.mark.parametrize("kind", ["a link to a file", "a link to nothing", "a file"])
def test_nothing_is_written_through_what_lies_at_the_temporary_name(kind, tmp_path, monkeypatch):
    """Even an attacker who knew the name could not have the file of another overwritten."""
    monkeypatch.setattr(secrets, "token_hex", lambda n: "0" * (2 * n))
    victim = tmp_path / "victim"
    trap = files.temporary_name(tmp_path / "x")
    if kind == "a file":
        trap.write_text("precious")
    else:
        trap.symlink_to(victim)
    if kind == "a link to a file":
        victim.write_text("precious")
    with pytest.raises(FileExistsError):
        write_text(tmp_path / "x", "new")
    with pytest.raises(FileExistsError), new_folder(tmp_path / "x"):
        pytest.fail("entered")
    assert not (tmp_path / "x").exists()
    assert victim.exists() is (kind == "a link to a file")
    assert not trap.exists() or trap.read_text() == "precious"


@pytest.mark.parametrize(
    ("make", "kind"),
    [
        (lambda p: p.mkdir(), "a folder"),
        (os.mkfifo, "a pipe"),
        (lambda p: p.symlink_to("/dev/null"), "a device"),
        (lambda p: p.symlink_to("nowhere"), "a link that leads nowhere"),
    ],
)
def test_what_no_file_may_replace_is_refused_by_name(make, kind, tmp_path):
    make(tmp_path / "x")
    before = (tmp_path / "x").lstat()
    with pytest.raises(ValueError, match=f"cannot write to .*x: it is {kind}$"):
        write_text(tmp_path / "x", "new")
    after = (tmp_path / "x").lstat()
    assert (after.st_ino, after.st_mode) == (before.st_ino, before.st_mode)
    assert names(tmp_path) == ["x"]


def test_a_folder_appears_whole_or_not_at_all(tmp_path):
    with new_folder(tmp_path / "made") as temporary:
        (temporary / "x").write_text("x")
        assert names(tmp_path) == [temporary.name]
    assert names(tmp_path) == ["made"]
    with pytest.raises(KeyboardInterrupt), new_folder(tmp_path / "other"):
        raise KeyboardInterrupt
    for made in (tmp_path / "made", tmp_path / "empty", tmp_path / "link"):
        if made.name == "empty":
            made.mkdir()
        if made.name == "link":
            made.symlink_to("nowhere")
        with pytest.raises(FileExistsError), new_folder(made) as temporary:
            (temporary / "y").write_text("y")
    assert names(tmp_path) == ["empty", "link", "made"]
    assert names(tmp_path / "made") == ["x"]


TOKEN = "0123456789abcdef"


def left(folder, name, *, hours):
    """What a kill left so long ago: a file, or a folder with one in it."""
    place = folder / name
    if place.suffix == ".txt":
        place.write_text("half")
        inside = []
    else:
        place.mkdir()
        (place / "x").write_text("half")
        inside = [place / "x"]
    then = time.time() - 3600 * hours
    for path in (*inside, place):
        os.utime(path, (then, then))
    return place


def test_what_a_kill_left_goes_with_the_next_write_after_an_hour(tmp_path):
    old = [f".data.new-{TOKEN}", f".x.txt.new-{TOKEN}.txt", f".there.old-{TOKEN}"]
    for name in old:
        left(tmp_path, name, hours=1.1)
    kept = [
        left(tmp_path, f".young.new-{TOKEN}", hours=0.9),
        left(tmp_path, f".gone.old-{TOKEN}", hours=100),  # nothing else is left of it
        left(tmp_path, ".mine.new-1", hours=100),
        left(tmp_path, "notes.new-" + TOKEN, hours=100),
    ]
    # A folder is as young as the youngest file in it.
    growing = left(tmp_path, f".growing.new-{TOKEN}", hours=5)
    os.utime(growing / "x")
    (tmp_path / "there").mkdir()
    write_text(tmp_path / "new.txt", "x")
    assert names(tmp_path) == sorted([p.name for p in (*kept, growing)] + ["there", "new.txt"])


def test_a_folder_in_use_is_not_abandoned(tmp_path):
    with new_folder(tmp_path / "slow") as temporary:
        long_ago = time.time() - 5 * files.ABANDONED_AFTER
        os.utime(temporary, (long_ago, long_ago))
        files._swept.clear()
        sweep(tmp_path)
        assert temporary.is_dir()
    assert names(tmp_path) == ["slow"]


def test_links_are_removed_and_not_followed(tmp_path):
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious" / "x").write_text("precious")
    trap = tmp_path / f".data.new-{TOKEN}"
    trap.symlink_to(tmp_path / "precious")
    long_ago = time.time() - 5 * files.ABANDONED_AFTER
    os.utime(trap, (long_ago, long_ago), follow_symlinks=False)
    sweep(tmp_path)
    assert names(tmp_path) == ["precious"]
    assert (tmp_path / "precious" / "x").read_text() == "precious"


class KilledError(BaseException):
    pass


@pytest.mark.parametrize("at", [1, 2])
def test_a_kill_while_a_folder_is_replaced_loses_nothing(at, tmp_path, monkeypatch):
    folder = tmp_path / "data"
    for place in (folder, tmp_path / "new"):
        place.mkdir()
        (place / "x").write_text(place.name)
    # Nothing runs after a kill, no handler either.
    rename, left_to_do = os.rename, iter(range(1, 3))

    def killed(*arguments, **more):
        if next(left_to_do, at) >= at:
            raise KilledError
        rename(*arguments, **more)

    monkeypatch.setattr(os, "rename", killed)
    with pytest.raises(KilledError):
        replace_folder(folder, tmp_path / "new")
    monkeypatch.undo()
    assert folder.exists() == (at == 1)
    recover(folder)
    assert (folder / "x").read_text() == "data"
    replace_folder(folder, tmp_path / "new")
    assert (folder / "x").read_text() == "new"
    assert names(tmp_path) == ["data"]
