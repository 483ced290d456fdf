"""Files from the network: asked for explicitly, encrypted on the way, complete or absent.

Size and checksum are watched while a file comes.
"""

import hashlib
import urllib.error
import urllib.request
from http.client import HTTPException
from pathlib import Path
from typing import Any

from data_generation.scripts.progress import progress_bar
from diffusions.files import new_file

MOST_BYTES = 1 << 30
"""Of one file; the largest published one that is asked for here has 170 million."""

_CHUNK = 1 << 20
_TIMEOUT_S = 60
_SHA256_DIGITS = 64


def md5(file: Path) -> str:
    """The MD5 sum that image datasets are published with, in hexadecimal."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()


def check_md5(file: Path, expected: str) -> None:
    """Raises ValueError unless `file` has the published checksum."""
    found = md5(file)
    if found != expected:
        raise ValueError(f"{file} is damaged or another release: MD5 {found}, published {expected}")


def download(url: str, file: Path, expected: str, *, most_bytes: int = MOST_BYTES) -> None:
    """Fetches a file to a temporary name, checks it as it comes, and renames it.

    Args:
        url: where it is published; https, and so are all places that it refers to.
        file: where it goes; replaced where it exists.
        expected: published checksum in hexadecimal: MD5, or SHA-256, told by its length.
        most_bytes: after which the download is broken off.

    Raises:
        ValueError: another kind of address; the network refuses, breaks off, or delivers something
            else or more.
    """
    _check_address(url)
    checksum = "SHA-256" if len(expected) == _SHA256_DIGITS else "MD5"
    file.parent.mkdir(parents=True, exist_ok=True)
    try:
        with new_file(file) as unfinished:
            with open_url(url) as source, unfinished.open("wb") as target:
                announced = int(source.headers.get("Content-Length") or 0)
                found = _copy(source, target, checksum, most_bytes, announced, file.name)
            if found != expected:
                raise ValueError(
                    f"{url} delivered another file: {checksum} {found}, expected {expected}"
                )
    except (urllib.error.URLError, HTTPException, OSError) as error:
        reason = " ".join(str(getattr(error, "reason", error)).split())
        raise ValueError(
            f"cannot download {url} ({reason}); fetch it elsewhere and give its folder"
        ) from error


def _copy(
    source: Any, target: Any, checksum: str, most_bytes: int, announced: int, name: str
) -> str:
    """Copies a stream and returns its checksum."""
    digest = hashlib.sha256() if checksum == "SHA-256" else hashlib.md5(usedforsecurity=False)
    so_far = 0
    with progress_bar(
        total=announced or None, unit="B", unit_scale=True, desc=name, leave=True
    ) as progress:
        while chunk := source.read(_CHUNK):
            so_far += len(chunk)
            if max(so_far, announced) > most_bytes:
                raise OSError(f"it has more than {most_bytes} bytes")
            digest.update(chunk)
            target.write(chunk)
            progress.update(len(chunk))
    if so_far < announced:
        raise OSError(f"it broke off after {so_far} of {announced} bytes")
    return digest.hexdigest()


def _check_address(url: str) -> None:
    if not url.startswith("https://"):
        raise ValueError(f"cannot download {url}: only https addresses are fetched")


class _EncryptedOnly(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, req, fp, code, msg, headers, newurl):
        _check_address(newurl)
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def open_url(url: str) -> Any:
    """The response of an https address, whatever other https addresses lead to it.

    Raises:
        ValueError: it leads elsewhere.
        OSError: the network refuses.
    """
    return urllib.request.build_opener(_EncryptedOnly).open(url, timeout=_TIMEOUT_S)
