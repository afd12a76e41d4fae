"""What is wrong with a wheel or an sdist: missing files, files that do not belong there, metadata that PyPI refuses."""

from __future__ import annotations

import subprocess
import tarfile
import zipfile
from collections.abc import Iterator
from pathlib import Path

from packaging.metadata import Metadata, parse_email

PACKAGE = "viewer_pipeline/"
# Files that the program needs and no import would miss.
REQUIRED = {
    "viewer_pipeline/py.typed",
    "viewer_pipeline/flush/lua/settle.lua",
    "viewer_pipeline/stack/reaper.py",
    "viewer_pipeline/migrations/env.py",
    "viewer_pipeline/migrations/versions/m0007_version_0_1_0.sql",
    "viewer_pipeline/orchestration/dagster.yaml",
}


def checkout_files(root: Path) -> set[str]:
    """Return the files of the checkout that Git tracks or would add, relative to it: all that it does not ignore."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=root, capture_output=True, text=True, check=True).stdout
    return {name for name in listed.split("\0") if name and (root / name).is_file()}


def uncommitted_files(root: Path) -> Iterator[str]:
    """Yield the files that differ from the commit, or are not in it: nobody else could build them."""
    command = ["git", "status", "--porcelain", "--untracked-files=all"]
    listed = subprocess.run(command, cwd=root, capture_output=True, text=True, check=True).stdout
    yield from (f"{line[3:]}: not as in the commit" for line in listed.splitlines())


def wheel_errors(wheel: Path, root: Path, version: str) -> Iterator[str]:
    """Yield what is wrong: it has the files of the package, all pages, the license, and nothing else."""
    files = checkout_files(root)
    metadata = f"viewer_pipeline-{version}.dist-info/"
    pages = {PACKAGE + name for name in files if name.startswith("docs/") and name.endswith(".md")}
    own = {metadata + name for name in ("METADATA", "RECORD", "WHEEL", "entry_points.txt", "licenses/LICENSE")}
    expected = {name for name in files if name.startswith(PACKAGE)} | pages | own
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if not name.endswith("/")}
        text = archive.read(f"{metadata}METADATA") if f"{metadata}METADATA" in names else b""
    yield from _differences(wheel, names, expected | REQUIRED)
    yield from metadata_errors(wheel, text, version)


def sdist_errors(sdist: Path, root: Path, version: str) -> Iterator[str]:
    """Yield what is wrong: it has every file of the checkout, the metadata, and nothing else."""
    directory = f"viewer_pipeline-{version}/"
    with tarfile.open(sdist) as archive:
        names = {member.name for member in archive.getmembers() if not member.isdir()}
        metadata = archive.extractfile(f"{directory}PKG-INFO") if f"{directory}PKG-INFO" in names else None
        text = metadata.read() if metadata else b""
    expected = {"PKG-INFO", *REQUIRED, *checkout_files(root)}
    yield from _differences(sdist, names, {directory + name for name in expected})
    yield from metadata_errors(sdist, text, version)


def metadata_errors(file: Path, text: bytes, version: str) -> Iterator[str]:
    """Yield what PyPI would refuse, by the library with which it decides, and what our release must state."""
    raw, unknown = parse_email(text)
    for name in unknown:
        yield f"{file.name}: unknown or repeated metadata {name}"
    try:
        metadata = Metadata.from_raw(raw)
    except ExceptionGroup as group:
        yield from (f"{file.name}: {error}" for error in group.exceptions)
        return
    stated = {
        "Version": (str(metadata.version), version),
        "License-Expression": (metadata.license_expression, "MIT"),
        "License-File": (metadata.license_files, ["LICENSE"]),
        "Description-Content-Type": (metadata.description_content_type, "text/markdown"),
    }
    yield from (
        f"{file.name}: {name} is {present!r}, not {right!r}"
        for name, (present, right) in stated.items()
        if present != right
    )
    if not metadata.description:
        yield f"{file.name}: it has no description (README.md)"


def _differences(file: Path, names: set[str], expected: set[str]) -> Iterator[str]:
    yield from (f"{file.name}: {name} is missing" for name in sorted(expected - names))
    yield from (f"{file.name}: {name} does not belong there" for name in sorted(names - expected))
