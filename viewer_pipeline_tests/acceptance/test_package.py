"""Wheel and sdist: complete, without other files, and the installed program runs them."""

from __future__ import annotations

import tarfile
import tomllib
import zipfile
from pathlib import Path

from viewer_pipeline_tests.support.installed import ROOT, checked

PACKAGE = ROOT / "viewer_pipeline"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
# Files that the program needs and no import would miss.
REQUIRED = {
    "viewer_pipeline/py.typed",
    "viewer_pipeline/flush/lua/settle.lua",
    "viewer_pipeline/stack/reaper.py",
    "viewer_pipeline/migrations/env.py",
    "viewer_pipeline/migrations/versions/m0007_version_0_1_0.sql",
    "viewer_pipeline/orchestration/dagster.yaml",
}


def checkout_files() -> set[str]:
    """Return the files of the package."""
    files = (path for path in PACKAGE.rglob("*") if path.is_file() and "__pycache__" not in path.parts)
    return {path.relative_to(ROOT).as_posix() for path in files}


def pages() -> set[str]:
    """Return the pages of the documentation, as the wheel contains them."""
    return {f"viewer_pipeline/{page.relative_to(ROOT).as_posix()}" for page in (ROOT / "docs").rglob("*.md")}


def test_wheel_contains_exactly_the_package(distributions: tuple[Path, Path]) -> None:
    """All files of the package and all pages, and no images, tests, linter configuration or lock."""
    with zipfile.ZipFile(distributions[0]) as wheel:
        names = set(wheel.namelist())
    metadata = f"viewer_pipeline-{PROJECT['version']}.dist-info/"
    assert {name for name in names if not name.startswith(metadata)} == checkout_files() | pages()
    assert names >= REQUIRED
    assert f"{metadata}licenses/LICENSE" in names


def test_sdist_contains_tests_and_documents(distributions: tuple[Path, Path]) -> None:
    """The package, its tests and its documents; no caches and no local data."""
    with tarfile.open(distributions[1]) as sdist:
        names = {member.name.partition("/")[2] for member in sdist.getmembers() if not member.isdir()}
    assert checkout_files() <= names
    assert {"pyproject.toml", "README.md", "LICENSE", "CHANGELOG.md", "env.example", "docs/guarantees.md"} <= names
    assert "viewer_pipeline_tests/conftest.py" in names
    local = (".venv", ".viewer", ".git/", ".mypy_cache", ".ruff_cache", ".pytest_cache", "dist/")
    assert [name for name in names if name.startswith(local) or "__pycache__" in name or name.endswith(".env")] == []


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
    assert len(listed) == len([name for name in pages() if "/adr/0" not in name])
