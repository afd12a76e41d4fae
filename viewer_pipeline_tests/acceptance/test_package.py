"""Wheel and sdist: complete, without other files, and the installed program runs them."""

from __future__ import annotations

import shutil
import tarfile
import tomllib
import zipfile
from pathlib import Path

import pytest

from viewer_pipeline_tests.support.distribution_errors import (
    checkout_files,
    sdist_errors,
    uncommitted_files,
    wheel_errors,
)
from viewer_pipeline_tests.support.installed import ROOT, checked

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
VERSION: str = PROJECT["version"]


def test_wheel_contains_exactly_the_package(distributions: tuple[Path, Path]) -> None:
    """All files of the package and all pages, and no images, tests, linter configuration or lock."""
    assert list(wheel_errors(distributions[0], ROOT, VERSION)) == []


def test_sdist_contains_exactly_the_checkout(distributions: tuple[Path, Path]) -> None:
    """The package, its tests and its documents; no caches and no local data."""
    assert list(sdist_errors(distributions[1], ROOT, VERSION)) == []


@pytest.mark.parametrize("name", ["viewer_pipeline/.env", "viewer_pipeline_tests/conftest.py", "licenses/LICENSE"])
def test_other_files_in_the_wheel_are_errors(distributions: tuple[Path, Path], tmp_path: Path, name: str) -> None:
    """Left over from a trial, or in the wrong place."""
    wheel = Path(shutil.copy(distributions[0], tmp_path))
    with zipfile.ZipFile(wheel, "a") as archive:
        archive.writestr(name, "")
    assert list(wheel_errors(wheel, ROOT, VERSION)) == [f"{wheel.name}: {name} does not belong there"]


@pytest.mark.parametrize(
    "name",
    [
        "viewer_pipeline/py.typed",
        "viewer_pipeline/target/table.sql",
        "viewer_pipeline/docs/guarantees.md",
        f"viewer_pipeline-{VERSION}.dist-info/licenses/LICENSE",
    ],
)
def test_missing_files_in_the_wheel_are_errors(distributions: tuple[Path, Path], tmp_path: Path, name: str) -> None:
    """The marker of types, SQL, a page, the license."""
    wheel = tmp_path / distributions[0].name
    with zipfile.ZipFile(distributions[0]) as whole, zipfile.ZipFile(wheel, "w") as rest:
        for entry in whole.namelist():
            if entry != name:
                rest.writestr(entry, whole.read(entry))
    assert list(wheel_errors(wheel, ROOT, VERSION)) == [f"{wheel.name}: {name} is missing"]


@pytest.mark.parametrize(
    ("old", "new", "error"),
    [
        ("License-Expression: MIT", "License-Expression: None of these", "'None of these'"),
        ("License-File: LICENSE\n", "", "License-File is"),
        ("Requires-Python: >=3.11", "Requires-Python: 3.11 or newer", "'3.11 or newer'"),
        ("Description-Content-Type: text/markdown", "Description-Content-Type: text/x-rst", "is 'text/x-rst'"),
        ("Version: {version}\n", "Version: 9.9.9\n", "Version is '9.9.9'"),
        ("Requires-Python:", "Requires-Cpython:", "requires-cpython"),
    ],
)
def test_metadata_that_pypi_refuses_is_an_error(
    distributions: tuple[Path, Path], tmp_path: Path, old: str, new: str, error: str
) -> None:
    """Also metadata that is valid but not ours."""
    name = f"viewer_pipeline-{VERSION}.dist-info/METADATA"
    wheel = tmp_path / distributions[0].name
    with zipfile.ZipFile(distributions[0]) as whole, zipfile.ZipFile(wheel, "w") as changed:
        for entry in whole.namelist():
            text = whole.read(entry)
            if entry == name:
                assert text.count(old.format(version=VERSION).encode()) == 1
                text = text.replace(old.format(version=VERSION).encode(), new.encode())
            changed.writestr(entry, text)
    errors = list(wheel_errors(wheel, ROOT, VERSION))
    assert len(errors) == 1
    assert error in errors[0]


def test_other_files_in_the_sdist_are_errors(distributions: tuple[Path, Path], tmp_path: Path) -> None:
    """A file that the checkout has not, and one that is missing."""
    sdist = tmp_path / distributions[1].name
    directory = f"viewer_pipeline-{VERSION}"
    with tarfile.open(distributions[1]) as whole, tarfile.open(sdist, "w:gz") as changed:
        for member in whole.getmembers():
            if member.name != f"{directory}/requirements.lock":
                changed.addfile(member, whole.extractfile(member) if member.isfile() else None)
        changed.addfile(tarfile.TarInfo(f"{directory}/views.csv"))
    assert list(sdist_errors(sdist, ROOT, VERSION)) == [
        f"{sdist.name}: {directory}/requirements.lock is missing",
        f"{sdist.name}: {directory}/views.csv does not belong there",
    ]


def test_uncommitted_files_are_detected(tmp_path: Path) -> None:
    """A release is built from a commit: neither changed nor new files, except those that Git ignores."""
    git = ("git", "-C", tmp_path, "-c", "user.name=test", "-c", "user.email=test@example.com")
    checked(*git, "init", "--quiet")
    for name, text in (("kept", "1"), ("changed", "1"), (".gitignore", "ignored\n")):
        (tmp_path / name).write_text(text, encoding="utf-8")
    checked(*git, "add", ".")
    checked(*git, "commit", "--quiet", "--message", "all")
    assert list(uncommitted_files(tmp_path)) == []
    for name in ("changed", "new", "ignored"):
        (tmp_path / name).write_text("2", encoding="utf-8")
    assert list(uncommitted_files(tmp_path)) == ["changed: not as in the commit", "new: not as in the commit"]


def test_program_runs_the_installed_package(program: Path, tmp_path: Path) -> None:
    """It imports the installed files and not the checkout; its version is that of pyproject.toml."""
    code = "import viewer_pipeline.cli; print(viewer_pipeline.cli.__file__)"
    path = Path(checked(program.with_name("python"), "-I", "-c", code, cwd=tmp_path).strip())
    assert path.is_relative_to(program.parents[1])
    assert checked(program, "--version", cwd=tmp_path) == f"viewer-pipeline, version {PROJECT['version']}\n"
    assert "dynamic" not in PROJECT


def test_installed_program_prints_its_pages(program: Path, tmp_path: Path) -> None:
    """Without the checkout; a topic may be written as a link to its page."""
    page = (ROOT / "docs/how-to/clones.md").read_text(encoding="utf-8")
    for topic in ("clones", "how-to/clones.md", "../how-to/clones.md#adopt"):
        assert checked(program, "docs", topic, cwd=tmp_path) == page
    listed = checked(program, "docs", cwd=tmp_path).splitlines()
    assert listed == sorted(listed)
    pages = [name for name in checkout_files(ROOT) if name.startswith("docs/") and name.endswith(".md")]
    assert len(listed) == len([name for name in pages if "/adr/0" not in name])
