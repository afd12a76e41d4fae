"""A Dagster instance on the PostgreSQL of a test, and the worker's HTTP server on both servers."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from viewer_pipeline.orchestration.instance import open_instance
from viewer_pipeline.settings import Settings
from viewer_pipeline_tests.dagster_world import DagsterWorld
from viewer_pipeline_tests.http_world import HttpWorld


@pytest.fixture
def dagster_settings(database_url: str, redis_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """Settings with a home of their own; what `open_instance` exports is taken back."""
    settings = Settings(database_url=database_url, redis_url=redis_url, viewer_home=tmp_path)
    for name, value in settings.environment().items():
        monkeypatch.setenv(name, value)
    return settings


@pytest.fixture
def dagster(dagster_settings: Settings) -> Iterator[DagsterWorld]:
    """An instance with our dagster.yaml."""
    with open_instance(dagster_settings) as instance:
        yield DagsterWorld(instance)


@pytest.fixture
def http(dagster_settings: Settings) -> Iterator[HttpWorld]:
    """The worker's HTTP server, not started; a test may change the settings before."""
    world = HttpWorld(dagster_settings)
    yield world
    world.stop()
