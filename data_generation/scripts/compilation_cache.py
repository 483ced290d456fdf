"""Where JAX keeps compiled programs from one run to the next. Imports no JAX.

Compilation is most of a short run. JAX reads its settings from the environment when it is first
imported, so that a script chooses the folder before it imports anything heavy:

    Linux     $XDG_CACHE_HOME or ~/.cache, then jkonet-diffusions/JAX-MACHINE
    macOS     ~/Library/Caches, then the same
    Windows   %LOCALAPPDATA%, then the same

MACHINE stands for the processor's instructions: programs for a CPU may not run on another one, and home
folders are shared in clusters. JAX's own variables, such as JAX_COMPILATION_CACHE_DIR, win.

What JAX reads from the folder it executes. One in which somebody else can put something, whoever chose
it, is not used: that is said in a line, and everything works without, slower.
"""

import contextlib
import errno
import hashlib
import os
import platform
import re
import stat
import sys
import warnings
from collections.abc import Iterator, Mapping
from importlib import metadata
from pathlib import Path

from diffusions.checks import shown

FLAG_HELP = (
    "Where compiled programs are kept, so that the next run starts sooner: auto (the user's cache "
    "folder, or JAX_COMPILATION_CACHE_DIR), off, or a folder."
)

MOST_BYTES, MOST_PROGRAMS = 2 << 30, 20_000
"""What the user's cache folder may hold; the oldest programs go first."""

# Seconds that a compilation takes at least to be worth a file; with JAX's own default, 1, the many
# small programs of a start are compiled every time.
_WORTHWHILE = "0"
# Names that JAX and XLA give.
_OF_JAX = re.compile(r"-(cache|atime)$|^xla_|^\.lockfile$")
_DIRECTORY = "JAX_COMPILATION_CACHE_DIR"
_ENABLED = "JAX_ENABLE_COMPILATION_CACHE"
_LEAST_SECONDS = "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"


@contextlib.contextmanager
def compilation_cache(choice: str) -> Iterator[None]:
    """Chooses the folder for JAX, which is imported inside.

    Where JAX is imported already, in a notebook or a test, the process has chosen: `auto` changes
    nothing there, and another choice holds inside only.

    Args:
        choice: `auto`, `off`, or a folder.

    Raises:
        ValueError: the named folder cannot be made or written, or holds other things.
        UserWarning: somebody else can write into the folder, which is not used therefore.
    """
    if "jax" in sys.modules:
        with contextlib.nullcontext() if choice == "auto" else _configured(choice):
            yield
        return
    wanted = _environment(choice)
    before = {name: os.environ.get(name) for name in wanted}
    os.environ.update(wanted)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def _environment(choice: str) -> dict[str, str]:
    """JAX's variables."""
    if choice == "off":
        return {_ENABLED: "false"}
    wanted = {} if _LEAST_SECONDS in os.environ else {_LEAST_SECONDS: _WORTHWHILE}
    if choice != "auto":
        folder_of_choice = _named_folder(choice)
        if folder_of_choice is None:
            return {_ENABLED: "false"}
        return wanted | {_DIRECTORY: folder_of_choice, _ENABLED: "true"}
    if given := os.environ.get(_DIRECTORY):
        return wanted if _is_trusted(given) else {_ENABLED: "false"}
    try:
        caches = user_cache()
        folder = caches / _version_and_machine()
        for part in (caches, folder):
            # Before anything is put into it; a link to a folder is one of somebody's choice.
            if part.exists() and not _is_trusted(part):
                return {_ENABLED: "false"}
            _make_private(part)
        if not _is_trusted(folder):
            return {_ENABLED: "false"}
        _prune(caches)
    except (OSError, RuntimeError):  # of Path.home, where the user has no home at all
        return {}  # without a home to write to, everything works, slower
    return wanted | {_DIRECTORY: str(folder)} if os.access(folder, os.W_OK) else {}


def _make_private(folder: Path) -> None:
    """Makes a folder, and what is missing above it, for the user only."""
    for part in (*reversed(folder.parents), folder):
        if not part.exists():
            part.mkdir(mode=0o700, exist_ok=True)
    if not folder.is_dir():
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(folder))


def _is_trusted(folder: str | Path) -> bool:
    """Whether nobody else can put programs there; a warning says what lets them."""
    reason = None if "://" in str(folder) else why_untrusted(Path(folder))
    if reason is not None:
        warnings.warn(
            f"compiled programs are not kept: {reason}, and JAX executes what it finds there "
            "(--compilation-cache names another folder, or off)",
            UserWarning,
            stacklevel=2,
        )
    return reason is None


def why_untrusted(folder: Path) -> str | None:
    """What lets somebody else put something into a folder, or None.

    It must be the user's own and writable by nobody else; so must everything above it be the user's
    or the system's, unless it is a place such as /tmp, where only the owner can rename what is there.
    """
    if not hasattr(os, "getuid"):
        return None  # Windows keeps the folders of users apart by itself
    folder = folder.absolute()
    if folder.is_symlink():
        return f"{folder} is a symbolic link"
    above = folder.parent.resolve()
    for place in (folder, above, *above.parents):
        try:
            told = place.stat()
        except FileNotFoundError:
            continue  # who makes it decides
        if told.st_uid not in ((os.getuid(),) if place == folder else (os.getuid(), 0)):
            return f"{place} belongs to another user"
        writers = stat.S_IWGRP | stat.S_IWOTH if place == folder else stat.S_IWOTH
        if told.st_mode & writers and (place == folder or not told.st_mode & stat.S_ISVTX):
            return f"{place} can be written by others"
    return None


@contextlib.contextmanager
def _configured(choice: str) -> Iterator[None]:
    """The same for a JAX that has read its environment."""
    import jax
    from jax.experimental.compilation_cache import compilation_cache as cache

    folder = None if choice == "off" else _named_folder(choice)
    if folder is None:
        wanted: dict[str, object] = {"jax_enable_compilation_cache": False}
    else:
        wanted = {
            "jax_enable_compilation_cache": True,
            "jax_compilation_cache_dir": folder,
            "jax_persistent_cache_min_compile_time_secs": float(_WORTHWHILE),
        }
    before = {name: getattr(jax.config, name) for name in wanted}
    try:
        for name, value in wanted.items():
            jax.config.update(name, value)
        cache.reset_cache()
        yield
    finally:
        for name, value in before.items():
            jax.config.update(name, value)
        cache.reset_cache()


def about_cache(message: str) -> tuple[str | None, str]:
    """What JAX says of every single program that its cache cannot give or take, as one line for all.

    Returns:
        reading or writing, and the line; None and the message where that is of something else.
    """
    told = re.match(
        r"Error (reading|writing) persistent compilation cache entry for '[^']*': (.*)", message
    )
    if told is None:
        return None, message
    folder, (kind, reason) = sys.modules["jax"].config.jax_compilation_cache_dir, told.groups()
    if kind == "writing":
        return kind, f"compiled programs cannot be kept in {folder}: {reason}"
    return kind, (
        f"compiled programs in {folder} cannot be read, and are compiled anew in every run: {reason}; "
        "if they are damaged, delete the folder"
    )


def keep_cache_from_jobs() -> None:
    """Jobs started from here choose a folder of their own: they may run on another processor."""
    folder = os.environ.get(_DIRECTORY)
    if folder and Path(folder).is_relative_to(user_cache()):
        del os.environ[_DIRECTORY]


def user_cache(environment: Mapping[str, str] = os.environ, system: str = sys.platform) -> Path:
    """The folder of this project's caches below the user's."""
    if system == "win32":
        parent = environment.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local"
    elif system == "darwin":
        parent = Path.home() / "Library" / "Caches"
    else:
        parent = environment.get("XDG_CACHE_HOME", "")
        if not os.path.isabs(parent):  # the specification: a relative one is to be ignored
            parent = Path.home() / ".cache"
    return Path(parent) / "jkonet-diffusions"


def _version_and_machine() -> str:
    instructions = platform.machine() + platform.processor()
    with contextlib.suppress(OSError):
        # x86 lists its instructions as flags, ARM as features.
        found = re.search(r"(?im)^(flags|features)\b.*$", Path("/proc/cpuinfo").read_text())
        instructions += found[0] if found else ""
    machine = hashlib.sha256(instructions.encode()).hexdigest()[:8]
    return f"{metadata.version('jax')}-{machine}"


def _named_folder(choice: str) -> str | None:
    """The folder that was named, made where it is not there; None, and a warning, if untrusted."""
    if not choice:
        raise ValueError("--compilation-cache must be auto, off or a folder, got ''")
    if "://" in choice:
        return choice  # a store that JAX opens
    folder = Path(choice).expanduser().absolute()
    if folder.exists() and not _is_trusted(folder):
        return None
    if folder.is_dir():
        foreign = [name for name in sorted(os.listdir(folder)) if not _OF_JAX.search(name)]
        if foreign:
            raise ValueError(
                f"--compilation-cache={choice}: the folder holds other things, such as "
                f"{shown(foreign[0])}; programs want a folder of their own"
            )
    try:
        _make_private(folder)
    except OSError as error:
        raise ValueError(f"--compilation-cache={choice}: {error.strerror or error}") from error
    if not os.access(folder, os.W_OK):
        raise ValueError(f"--compilation-cache={choice}: the folder cannot be written")
    return str(folder) if _is_trusted(folder) else None


def _prune(caches: Path, most_bytes: int = MOST_BYTES, most_programs: int = MOST_PROGRAMS) -> None:
    """Removes the oldest programs, of whatever release of JAX, beyond a total size and number."""
    programs = []
    for file in caches.glob("*/*-cache"):
        with contextlib.suppress(FileNotFoundError):  # another run prunes as well
            told = file.stat()
            programs.append((told.st_mtime, told.st_size, file))
    total = 0
    for number, (_, size, file) in enumerate(sorted(programs, reverse=True), start=1):
        total += size
        if total > most_bytes or number > most_programs:
            file.unlink(missing_ok=True)
