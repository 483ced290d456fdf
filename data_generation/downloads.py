"""Files from the network: asked for explicitly, checked, and complete or absent."""

import contextlib
import hashlib
import os
import secrets
import urllib.error
import urllib.request
from pathlib import Path

from tqdm import tqdm

_CHUNK = 1 << 20
_TIMEOUT_S = 60


def md5(file: Path) -> str:
    """The MD5 sum that image datasets are published with, in hexadecimal."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()


def check_md5(file: Path, expected: str) -> None:
    """Raises ValueError unless `file` has the published checksum."""
    found = md5(file)
    if found != expected:
        raise ValueError(f"{file} is damaged or another release: MD5 {found}, published {expected}")


def download(url: str, file: Path, expected_md5: str) -> None:
    """Fetches a file to a temporary name, checks it and renames it.

    Args:
        url: where it is published.
        file: where it goes; replaced where it exists.
        expected_md5: published checksum.

    Raises:
        ValueError: the network refuses, breaks off, or delivers something else.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    unfinished = file.with_name(f".{file.name}.{secrets.token_hex(4)}")
    try:
        with (
            urllib.request.urlopen(url, timeout=_TIMEOUT_S) as source,
            unfinished.open("wb") as target,
            tqdm(
                total=int(source.headers.get("Content-Length") or 0) or None,
                unit="B",
                unit_scale=True,
                desc=file.name,
            ) as progress,
        ):
            while chunk := source.read(_CHUNK):
                target.write(chunk)
                progress.update(len(chunk))
        found = md5(unfinished)
        if found != expected_md5:
            raise ValueError(f"{url} delivered another file: MD5 {found}, expected {expected_md5}")
        os.replace(unfinished, file)
    except (urllib.error.URLError, OSError) as error:
        reason = getattr(error, "reason", error)
        raise ValueError(
            f"cannot download {url} ({reason}); fetch it elsewhere and give its folder"
        ) from error
    finally:
        with contextlib.suppress(FileNotFoundError):
            unfinished.unlink()
