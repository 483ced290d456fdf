"""What scripts ask of a folder, and write: a place that takes files, JSON, a checksum."""

import hashlib
import json
import math
import os
from pathlib import Path
from typing import Any

from diffusions.files import write_text


def check_writable(folder: Path) -> None:
    """Raises ValueError unless `folder` exists, or can be made, and takes new files."""
    existing = folder
    while not existing.exists() and existing != existing.parent:
        existing = existing.parent
    if not existing.is_dir():
        raise ValueError(f"cannot write to {folder}: {existing} is not a folder")
    if not os.access(existing, os.W_OK | os.X_OK):
        raise ValueError(f"cannot write to {folder}: no permission in {existing}")


def write_json(file: Path, content: Any) -> None:
    """Writes JSON, whole."""
    write_text(file, json.dumps(plain(content), indent=1) + "\n")


def plain(content: Any) -> Any:
    """The same content with non-finite numbers as text: JSON has no NaN."""
    if isinstance(content, dict):
        return {k: plain(v) for k, v in content.items()}
    if isinstance(content, list | tuple):
        return [plain(v) for v in content]
    if isinstance(content, float) and not math.isfinite(content):
        return str(content)
    return content


def sha256(file: Path) -> str:
    """Checksum of a file's bytes, in hexadecimal."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
