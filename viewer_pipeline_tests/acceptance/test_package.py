"""What is published: complete, nothing but ours, and what runs is what was installed."""

from __future__ import annotations

import tarfile
import tomllib
import zipfile
from pathlib import Path

from viewer_pipeline_tests.support.installed import ROOT, checked

PACKAGE = ROOT / "viewer_pipeline"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
# Files that a program needs and no import misses.
NEEDED = {
    "viewer_pipeline/py.typed",
    "viewer_pipeline/flush/lua/settle.lua",
    "viewer_pipeline/flush/ledger.sql",
    "viewer_pipeline/stack/reaper.py",
    "viewer_pipeline/migrations/env.py",
    "viewer_pipeline/migrations/versions/m0001_ledger_and_totals.py",
    "viewer_pipeline/orchestration/dagster.yaml",
}


def of_the_checkout() -> set[str]:
    """Return the package's files."""
    found = (path for path in PACKAGE.rglob("*") if path.is_file() and "__pycache__" not in path.parts)
    return {path.relative_to(ROOT).as_posix() for path in found}


def test_the_wheel_is_the_package_and_nothing_else(distributions: tuple[Path, Path]) -> None:
    """Every file of it, and no tests, configuration of linters, or lock."""
    with zipfile.ZipFile(distributions[0]) as wheel:
        names = set(wheel.namelist())
    about = f"viewer_pipeline-{PROJECT['version']}.dist-info/"
    assert {name for name in names if not name.startswith(about)} == of_the_checkout()
    assert names >= NEEDED
    assert f"{about}licenses/LICENSE" in names


def test_the_sdist_builds_and_explains_itself(distributions: tuple[Path, Path]) -> None:
    """The package, its tests and documents; nothing that tools leave lying about."""
    with tarfile.open(distributions[1]) as sdist:
        names = {member.name.partition("/")[2] for member in sdist.getmembers() if not member.isdir()}
    assert of_the_checkout() <= names
    assert {"pyproject.toml", "README.md", "LICENSE", "CHANGELOG.md", "env.example", "docs/guarantees.md"} <= names
    assert "viewer_pipeline_tests/conftest.py" in names
    left = (".venv", ".viewer", ".git/", ".mypy_cache", ".ruff_cache", ".pytest_cache", "dist/")
    assert [name for name in names if name.startswith(left) or "__pycache__" in name or name.endswith(".env")] == []


def test_what_runs_is_what_was_installed(program: Path, tmp_path: Path) -> None:
    """Not the checkout; and it knows its version, which stands in pyproject.toml alone."""
    where = "import viewer_pipeline.cli; print(viewer_pipeline.cli.__file__)"
    found = Path(checked(program.with_name("python"), "-I", "-c", where, cwd=tmp_path).strip())
    assert found.is_relative_to(program.parents[1])
    assert checked(program, "--version", cwd=tmp_path) == f"viewer-pipeline, version {PROJECT['version']}\n"
    assert "dynamic" not in PROJECT
