"""Runs launched and terminated as in Dagster's UI."""

from __future__ import annotations

import re
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any

from viewer_pipeline_tests.support.stack import Stack, query_graphql
from viewer_pipeline_tests.support.waiting import wait_until
from viewer_pipeline_tests.support.world import World

# The sessions of ours that wait for a lock.
WAITING = """SELECT count(*) FROM pg_stat_activity
WHERE datname = current_database() AND application_name = 'viewer-pipeline' AND wait_event_type = 'Lock'"""

ENDED = ("SUCCESS", "FAILURE", "CANCELED")

LAUNCH = """
mutation ($params: ExecutionParams!) {
  launchRun(executionParams: $params) { __typename ... on LaunchRunSuccess { run { runId } } }
}
"""
TERMINATE = """
mutation ($ids: [String!]!, $policy: TerminateRunPolicy!) {
  terminateRuns(runIds: $ids, terminatePolicy: $policy) {
    ... on TerminateRunsResult { terminateRunResults { __typename } }
  }
}
"""
RELOAD = """
mutation { reloadRepositoryLocation(repositoryLocationName: "viewer_pipeline") { __typename } }
"""


class Runs:
    """Launches and terminates runs through GraphQL, as the UI does, and reads their records."""

    def __init__(self, stack: Stack, world: World) -> None:
        self._ui, self._world = stack.wait_for_ui(), world

    def launch(self, job: str, config: dict[str, Any] | None = None) -> str:
        """Launch a run; return its id."""
        selector = {"repositoryLocationName": "viewer_pipeline", "repositoryName": "__repository__", "jobName": job}
        day = {"key": "dagster/partition", "value": datetime.now(UTC).date().isoformat()}
        metadata = {"tags": [day] if job == "roll_up_days" else []}
        params = {"selector": selector, "runConfigData": config or {}, "executionMetadata": metadata}
        launched = list[str]()

        def launch() -> bool:
            with suppress(OSError, KeyError):  # while the code server or the UI restarts
                launched.append(str(query_graphql(self._ui, LAUNCH, params=params)["run"]["runId"]))
            return bool(launched)

        wait_until(launch, 90, f"{job} is launched")
        return launched[0]

    def terminate(self, run_id: str, *, force: bool = False) -> None:
        """Terminate a run as the button in the UI does. `force`: with its option for runs that do not end."""
        policy = "MARK_AS_CANCELED_IMMEDIATELY" if force else "SAFE_TERMINATE"
        query_graphql(self._ui, TERMINATE, ids=[run_id], policy=policy)

    def status(self, run_id: str) -> str:
        """Return its status."""
        [(status,)] = self._world.rows(f"SELECT status FROM dagster.runs WHERE run_id = '{run_id}'")
        return str(status)

    def has_ended(self, run_id: str) -> bool:
        """Whether it has ended, in any way."""
        return self.status(run_id) in ENDED

    def events(self, run_id: str) -> str:
        """Return its events, as they are stored."""
        rows = self._world.rows(f"SELECT event FROM dagster.event_logs WHERE run_id = '{run_id}' ORDER BY id")
        return " ".join(event for (event,) in rows)

    def wait_for(self, run_id: str, *statuses: str) -> str:
        """Wait for one of these statuses, and return it. Prints the events of a run that failed."""
        wait_until(
            lambda: self.status(run_id) in statuses, 120, f"run {run_id} is {statuses}, not {self.status(run_id)}"
        )
        status = self.status(run_id)
        if status == "FAILURE":
            print(self.events(run_id))  # noqa: T201 - pytest shows it
        return status

    def flush(self) -> None:
        """Run a sweep to its end."""
        assert self.wait_for(self.launch("flush_views"), *ENDED) == "SUCCESS"

    def active(self) -> int:
        """Return the number of runs that have not ended."""
        query = "SELECT run_id FROM dagster.runs WHERE status NOT IN ('SUCCESS', 'FAILURE', 'CANCELED')"
        return len(self._world.rows(query))

    def pid(self, run_id: str) -> int:
        """Return the id of its process, as Dagster logged it. Waits for it."""
        query = f"SELECT event FROM dagster.event_logs WHERE run_id = '{run_id}' AND event LIKE '%process for run%'"
        wait_until(lambda: self._world.rows(query), 60, f"the process of run {run_id}")
        match = re.search(r"process for run \(pid: (\d+)\)", str(self._world.rows(query)))
        assert match is not None
        return int(match[1])

    def reload_code_location(self) -> None:
        """Reload it, as the button in the UI does."""
        query_graphql(self._ui, RELOAD)
