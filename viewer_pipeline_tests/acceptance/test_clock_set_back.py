"""`viewer-pipeline up` on a machine whose clock is set back."""

from __future__ import annotations

from datetime import datetime, timedelta
from pathlib import Path

import psycopg

from viewer_pipeline.home_lock_and_server_urls import read_settings_of_running_up
from viewer_pipeline.stores.redis import connect
from viewer_pipeline_tests.support.machine_clock import MachineClock
from viewer_pipeline_tests.support.stack import up, variables
from viewer_pipeline_tests.support.waiting import wait_until
from viewer_pipeline_tests.support.world import PREFIX

SECONDS = 60 + 60  # from one sweep to the next (SWEEP_CRON is every minute), and until its run has ended


def sweeps(database_url: str) -> list[datetime]:
    """Return the times of the scheduled sweeps that have ended, first to last. Each persisted a view."""
    with psycopg.connect(database_url) as connection:
        rows = connection.execute(
            "SELECT t.value FROM dagster.run_tags AS t JOIN dagster.runs AS r USING (run_id)"
            " WHERE t.key = '.dagster/scheduled_execution_time' AND r.pipeline_name = 'flush_views'"
            " AND r.status = 'SUCCESS' ORDER BY r.id"
        ).fetchall()
    return [datetime.fromisoformat(text) for (text,) in rows]


def test_sweeps_go_on_when_the_clock_is_set_back(tmp_path: Path) -> None:
    """Counters that nobody announced are persisted: after six hours back, and in a minute that comes a second time.

    All processes of the stack read the same clock, as on one machine.
    """
    clock = MachineClock.build(tmp_path)
    with up(variables(tmp_path, SENSOR_SCAN_MAX_KEYS="0", **clock.environment)) as stack:
        stack.wait_for_ui()
        urls = read_settings_of_running_up(stack.home)
        with connect(urls["redis_url"]) as client:
            client.incr(PREFIX + "unannounced")
            wait_until(lambda: not client.exists(PREFIX + "unannounced"), SECONDS, "the sweep that the worker requests")

            def sweep(number: int) -> datetime:
                client.incr(PREFIX + "unannounced")
                wait_until(lambda: len(sweeps(urls["database_url"])) == number, SECONDS, f"sweep number {number}")
                return sweeps(urls["database_url"])[-1]

            first = sweep(1)
            clock.set_ahead(timedelta(hours=-6))
            second = sweep(2)
            assert timedelta(hours=5) < first - second < timedelta(hours=6)
            clock.set_time(second - timedelta(seconds=45))
            assert sweep(3) == second
        stack.stop()
