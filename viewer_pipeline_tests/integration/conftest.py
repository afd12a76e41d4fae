"""A Dagster instance on the PostgreSQL of a test, and the worker's HTTP server on both servers."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from viewer_pipeline.orchestration import step_errors_and_cancellation
from viewer_pipeline.orchestration.dagster_instance import open_instance
from viewer_pipeline.orchestration.storage_engine import dispose_engines
from viewer_pipeline.settings import Settings
from viewer_pipeline_tests.conftest import TEMPLATE
from viewer_pipeline_tests.support.dagster_world import DagsterWorld
from viewer_pipeline_tests.support.http_world import HttpWorld
from viewer_pipeline_tests.support.servers import NamedPostgres, Postgres

NOWHERE = "redis://127.0.0.1:1/0"


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let Dagster try a step again at once: what is tested is that it does, not for how long it waits before."""
    monkeypatch.setattr(step_errors_and_cancellation, "FIRST_RETRY_SECONDS", 0)


@pytest.fixture(scope="session")
def dagster_template(postgres_server: Postgres, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Name of a database to copy, in which Dagster has made its tables: it takes half a second each time."""
    name = TEMPLATE.replace("viewer", "dagster")
    with psycopg.connect(postgres_server.url_of_database("postgres"), autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name} TEMPLATE {TEMPLATE}")
    home = tmp_path_factory.mktemp("dagster")
    settings = Settings(database_url=postgres_server.url_of_database(name), redis_url=NOWHERE, viewer_home=home)
    with pytest.MonkeyPatch.context() as patch:
        for variable, value in settings.child_process_environment().items():
            patch.setenv(variable, value)
        open_instance(settings).dispose()
    dispose_engines()  # while there is a connection to it, it cannot be copied
    yield name
    if isinstance(postgres_server, NamedPostgres):
        with psycopg.connect(postgres_server.url_of_database("postgres"), autocommit=True) as connection:
            connection.execute(f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture
def dagster_settings(database_url: str, redis_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """Settings with a home of their own; what `open_instance` exports is taken back."""
    settings = Settings(database_url=database_url, redis_url=redis_url, viewer_home=tmp_path)
    for name, value in settings.child_process_environment().items():
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
