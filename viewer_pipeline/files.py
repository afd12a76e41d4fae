"""Writing files: replaced in one step, or readable only for their owner."""

from __future__ import annotations

import os
from pathlib import Path


def write_atomically_if_changed(path: Path, text: str) -> None:
    """Replace the file in one step, unless it holds this text: a reader sees the old text or the new one."""
    if path.exists() and path.read_bytes() == text.encode():
        return
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(path)


def write_private(path: Path, text: str) -> None:
    """Replace a file in one step by one that only its owner can read."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.unlink(missing_ok=True)
    with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as handle:
        handle.write(text)
    temporary.replace(path)
