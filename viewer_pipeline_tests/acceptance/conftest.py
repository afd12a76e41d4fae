"""The package built and installed, once for the tests of this folder."""

from __future__ import annotations

from pathlib import Path

import pytest

from viewer_pipeline_tests.support.installed import built, installed


@pytest.fixture(scope="session")
def distributions(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Wheel and sdist."""
    return built(tmp_path_factory.mktemp("dist"))


@pytest.fixture(scope="session")
def program(distributions: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the `viewer-pipeline` that the wheel installs."""
    return installed(distributions[0], tmp_path_factory.mktemp("installed") / "env")
