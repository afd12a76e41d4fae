"""The first day of `daily_views`: that of the installation."""

from __future__ import annotations

import logging
from datetime import UTC, date, datetime

import pytest

from viewer_pipeline.history.first_day import FIRST_RELEASE, first_day_of_history
from viewer_pipeline.settings import Settings
from viewer_pipeline_tests.support.ledger_world import ONE, History, at
from viewer_pipeline_tests.support.world import World

MARCH = date(2026, 3, 1)


@pytest.fixture
def settings(database_url: str) -> Settings:
    """The database of this test."""
    return Settings(database_url=database_url)


def test_of_a_new_installation_it_is_today(settings: Settings, world: World) -> None:
    """Before the first flush, also before the migration: nothing is missing that cannot have been there."""
    assert first_day_of_history(settings) == datetime.now(UTC).date()
    world.execute("DROP SCHEMA viewer CASCADE")
    assert first_day_of_history(settings) == datetime.now(UTC).date()


def test_it_is_the_day_of_the_first_flush(settings: Settings, world: World) -> None:
    """In UTC; also once that flush has left the ledger. Days that were rolled up without views do not count."""
    history = History(world)
    history.flush(at(MARCH, "00:00:00"), {"a": 1})
    history.flush(at(MARCH + ONE), {"a": 1})
    assert first_day_of_history(settings) == MARCH
    history.roll_up(MARCH - 5 * ONE, MARCH + 2 * ONE)
    world.execute("DELETE FROM viewer.flush_batch WHERE seq = 1")
    world.execute("DELETE FROM viewer.flush WHERE seq = 1")
    assert first_day_of_history(settings) == MARCH
    assert first_day_of_history(settings.copy_unvalidated(history_start=MARCH - 9 * ONE)) == MARCH - 9 * ONE


def test_without_a_database_it_is_early(caplog: pytest.LogCaptureFixture) -> None:
    """Too many days are shown, none is refused. A database that does not answer is logged."""
    assert first_day_of_history(Settings()) == FIRST_RELEASE
    assert caplog.records == []
    with caplog.at_level(logging.WARNING):
        assert first_day_of_history(Settings(database_url="postgresql://u@127.0.0.1:1/nothing")) == FIRST_RELEASE
    assert "first_day_not_read" in caplog.text
