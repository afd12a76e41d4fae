"""The SBOM of a release must describe this version, with the packages of the lock."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tools.release_version import project_version
from tools.sbom import locked_versions, sbom_errors

ROOT = Path(__file__).parents[2]


def written(path: Path, **changes: Any) -> Path:
    """Write a short SBOM of this version with one dependency, and changes to its top level."""
    (redis,) = locked_versions(ROOT)["redis"]
    program = {"bom-ref": "program", "name": "viewer-pipeline", "version": project_version(ROOT)}
    sbom = {
        "metadata": {"component": program},
        "components": [{"bom-ref": "redis", "name": "redis", "version": redis}],
        "dependencies": [{"ref": "program", "dependsOn": ["redis"]}, {"ref": "redis"}],
        **changes,
    }
    file = path / "sbom.cdx.json"
    file.write_text(json.dumps(sbom), encoding="utf-8")
    return file


def test_packages_of_the_lock_are_accepted(tmp_path: Path) -> None:
    """In their versions."""
    assert list(sbom_errors(written(tmp_path), ROOT)) == []


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        (
            {"metadata": {"component": {"bom-ref": "program", "name": "viewer-pipeline", "version": "0.0.9"}}},
            "describes viewer-pipeline 0.0.9, not viewer-pipeline",
        ),
        (
            {"components": [{"bom-ref": "redis", "name": "redis", "version": "0.1"}]},
            "redis 0.1 is not in requirements.lock",
        ),
        (
            {"components": [{"bom-ref": "redis", "name": "Left.Pad", "version": "1"}]},
            "left-pad 1 is not in requirements.lock",
        ),
        ({"dependencies": [{"ref": "program"}]}, "names no dependencies"),
        (
            {"dependencies": [{"ref": "program", "dependsOn": ["dagster"]}]},
            "dagster is a dependency and not a component",
        ),
        ({"externalReferences": [{"url": "file:///home/me/viewer.whl"}]}, "names files of the machine"),
    ],
)
def test_other_contents_are_errors(tmp_path: Path, changes: dict[str, Any], error: str) -> None:
    """Each is reported with the package."""
    (message,) = sbom_errors(written(tmp_path, **changes), ROOT)
    assert error in message


def test_versions_of_the_lock() -> None:
    """Names are normalized; a package with extras or markers is found."""
    locked = locked_versions(ROOT)
    assert all(len(locked[name]) == 1 for name in ("dagster", "psycopg", "pydantic-core", "uvicorn"))
    assert len(locked["numpy"]) >= 1
