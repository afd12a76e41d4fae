"""The version is the same wherever it is written, and a release with another one is refused."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest

from tools.release_version import project_version, sections, version_errors

ROOT = Path(__file__).parents[2]
FILES = ("pyproject.toml", "CHANGELOG.md", "deploy/kubernetes/worker.yaml", "deploy/kubernetes/settings.yaml")


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """Return a copy of the files that name the version, released on a day."""
    for name in FILES:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    version, date = sections(ROOT)[0].version, sections(ROOT)[0].date
    replace(tmp_path / "CHANGELOG.md", f"## {version} - {date}", f"## {version} - 2026-12-01")
    return tmp_path


def replace(file: Path, old: str, new: str) -> None:
    """Replace a text that the file contains."""
    text = file.read_text(encoding="utf-8")
    assert old in text
    file.write_text(text.replace(old, new), encoding="utf-8")


def test_version_is_the_same_everywhere() -> None:
    """Project, newest section of the CHANGELOG, images of the manifests, placeholder of the bug report."""
    assert list(version_errors(ROOT, tag=None)) == []
    version = project_version(ROOT)
    assert f"placeholder: viewer-pipeline {version}," in (ROOT / ".github/ISSUE_TEMPLATE/bug.yml").read_text("utf-8")
    assert f"viewer-pipeline:{version} " in (ROOT / "docs/how-to/kubernetes.md").read_text("utf-8")
    wheels = set(re.findall(r"viewer_pipeline-(.+?)-py3", (ROOT / "docs/install.md").read_text("utf-8")))
    assert wheels == {version}


def test_sections_of_the_changelog() -> None:
    """Each has a date and a text; the first release is the last of them."""
    first = sections(ROOT)[-1]
    assert (first.version, first.date) == ("0.1.0", "2026-11-25")
    assert first.text.startswith("The first release")
    assert all(section.text for section in sections(ROOT))


def test_tag_of_this_version_is_accepted(copy: Path) -> None:
    """With a date in the CHANGELOG."""
    assert list(version_errors(copy, f"v{project_version(ROOT)}")) == []


@pytest.mark.parametrize("tag", ["v9.9.9", "9.9.9", "v0.2", "", "vversion"])
def test_tag_of_another_version_is_refused(copy: Path, tag: str) -> None:
    """The error names both."""
    (error,) = version_errors(copy, tag)
    assert error.startswith(f"tag {tag}: the version in pyproject.toml is {project_version(ROOT)}")


def test_tag_without_a_date_is_refused(copy: Path) -> None:
    """A section that is not released has `unreleased` in place of the date; without a tag that is accepted."""
    version = project_version(ROOT)
    replace(copy / "CHANGELOG.md", f"## {version} - 2026-12-01", f"## {version} - unreleased")
    assert list(version_errors(copy, tag=None)) == []
    (error,) = version_errors(copy, f"v{version}")
    assert "'unreleased'" in error


@pytest.mark.parametrize(
    ("file", "old", "new", "expected"),
    [
        ("CHANGELOG.md", "## {version} - 2026-12-01", "## 9.9.9 - 2026-12-01", "its first section is 9.9.9"),
        ("CHANGELOG.md", "## {version} - 2026-12-01", "## {version} - 1 December", "has the date '1 December'"),
        ("CHANGELOG.md", "## {version} - 2026-12-01", "## {version} - 2026-12-01\n\n## 0 - 2026-01-01", "is empty"),
        ("deploy/kubernetes/worker.yaml", ":{version}", ":9.9.9", "deploy/kubernetes/worker.yaml: image 9.9.9"),
    ],
)
def test_other_versions_are_reported(copy: Path, file: str, old: str, new: str, expected: str) -> None:
    """With the file and both versions."""
    version = project_version(ROOT)
    replace(copy / file, old.format(version=version), new.format(version=version))
    (error,) = version_errors(copy, tag=None)
    assert expected in error
