"""The version of a release: in pyproject.toml, in CHANGELOG.md, in the manifests of Kubernetes, and in the tag."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

HEADING = re.compile(r"^## (?P<version>\S+) - (?P<date>.+)$", re.MULTILINE)
DATE = re.compile(r"\d{4}-\d{2}-\d{2}")
IMAGE = re.compile(r"image: .*viewer-pipeline:(\S+)$", re.MULTILINE)
UNRELEASED = "unreleased"


@dataclass(frozen=True)
class Section:
    """One version of CHANGELOG.md: its date, or `unreleased`, and its text without the heading."""

    version: str
    date: str
    text: str


def project_version(root: Path) -> str:
    """Return the version in pyproject.toml."""
    version: str = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"]
    return version


def sections(root: Path) -> list[Section]:
    """Return the versions of CHANGELOG.md, the newest first."""
    text = (root / "CHANGELOG.md").read_text(encoding="utf-8")
    headings = list(HEADING.finditer(text))
    ends = [heading.start() for heading in headings[1:]] + [len(text)]
    return [
        Section(heading["version"], heading["date"], text[heading.end() : end].strip())
        for heading, end in zip(headings, ends, strict=True)
    ]


def version_errors(root: Path, tag: str | None) -> Iterator[str]:
    """Yield what contradicts the version in pyproject.toml. With a tag, the section must have its date."""
    version = project_version(root)
    newest = sections(root)[0]
    if newest.version != version:
        yield f"CHANGELOG.md: its first section is {newest.version}, the version in pyproject.toml is {version}"
    if not newest.text:
        yield f"CHANGELOG.md: section {newest.version} is empty"
    if newest.date != UNRELEASED and not DATE.fullmatch(newest.date):
        yield f"CHANGELOG.md: section {newest.version} has the date {newest.date!r}, not YYYY-MM-DD or {UNRELEASED!r}"
    for manifest in sorted((root / "deploy/kubernetes").rglob("*.yaml")):
        for image in IMAGE.findall(manifest.read_text(encoding="utf-8")):
            if image != version:
                yield f"{manifest.relative_to(root)}: image {image}, the version in pyproject.toml is {version}"
    if tag is None:
        return
    if tag != f"v{version}":
        yield f"tag {tag}: the version in pyproject.toml is {version}, so its tag is v{version}"
    if newest.date == UNRELEASED:
        yield f"CHANGELOG.md: section {newest.version} is {UNRELEASED!r}; a tag needs the date of the release"
