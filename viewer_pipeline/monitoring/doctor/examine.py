"""The whole examination: everything side by side, each part with an end, whatever hangs."""

from __future__ import annotations

from collections.abc import Callable, Container
from contextlib import closing

from viewer_pipeline.flush.ledger import Ledger
from viewer_pipeline.flush.redis_store import RedisStore
from viewer_pipeline.ingest.subscriber_state import SubscriberState
from viewer_pipeline.monitoring.background_probe import Question
from viewer_pipeline.monitoring.doctor.clocks import judge_clocks
from viewer_pipeline.monitoring.doctor.dagster import examine_dagster
from viewer_pipeline.monitoring.doctor.finding import REASONS, Finding
from viewer_pipeline.monitoring.doctor.keyspace import judge_keyspace, read_keyspace
from viewer_pipeline.monitoring.doctor.listener import judge_listeners, judge_shared_channel, read_listeners
from viewer_pipeline.monitoring.doctor.pipeline import examine_pipeline
from viewer_pipeline.monitoring.doctor.postgres_judgements import judge_postgres
from viewer_pipeline.monitoring.doctor.postgres_reading import read_postgres
from viewer_pipeline.monitoring.doctor.producers import Listening, open_wire
from viewer_pipeline.monitoring.doctor.pubsub_mode import Heard, judge_producers
from viewer_pipeline.monitoring.doctor.redis_judgements import judge_redis
from viewer_pipeline.monitoring.doctor.redis_reading import read_redis
from viewer_pipeline.monitoring.doctor.settings_judgements import judge_settings
from viewer_pipeline.monitoring.doctor.target import examine_target
from viewer_pipeline.settings import Settings
from viewer_pipeline.stores.redis import connect
from viewer_pipeline.target.table import TargetNames

PATIENCE_SECONDS = 15.0  # for a part, beyond what it means to take
ANSWER_SECONDS = 3.0  # for a command of Redis
ORDER = list(REASONS)
# By a part: the servers that it needs.
SERVERS = {
    "target": ("postgres",),
    "dagster_storage": ("postgres",),
    "pipeline": ("postgres", "redis"),
    "keyspace": ("redis",),
    "producers": ("redis",),
}


class Doctor:
    """Looks at what the settings name. Writes to neither server."""

    def __init__(self, settings: Settings, seconds: float, patience: float = PATIENCE_SECONDS) -> None:
        self._settings, self._seconds, self._patience = settings, seconds, patience
        self._database_url, self._redis_url = settings.require_database_url(), settings.require_redis_url()
        self._client = connect(self._redis_url, seconds=ANSWER_SECONDS, retries=0)
        self._store = RedisStore(self._client, self._redis_url, settings.counter_prefix)
        self._ahead: dict[str, float] = {}

    def examine(self) -> list[Finding]:
        """Return all findings, in the order of the report. A server that hangs or refuses is a finding itself."""
        asked = [(name, seconds, Question(name, find)) for name, (find, seconds) in self._parts().items()]
        for _, _, question in asked:
            question.start()
            question.ask()
        findings, lost = [judge_settings(self._settings)], dict[str, str]()
        for name, seconds, question in asked:
            answer = question.answer(seconds + self._patience)
            findings += answer.value or []
            if answer.value is None:
                lost[name] = answer.why_none
            question.close()
        findings += [_lost(name, why, lost) for name, why in lost.items()]
        clocks = judge_clocks(self._ahead.get("postgres"), self._ahead.get("redis"))
        return sorted([*findings, *([clocks] if clocks else [])], key=lambda finding: ORDER.index(finding.name))

    def _parts(self) -> dict[str, tuple[Callable[[], list[Finding]], float]]:
        """Return what is looked at side by side, by the finding that stands for it; and how long each means to take."""
        return {
            "postgres": (self._postgres, 0.0),
            "target": (lambda: list(examine_target(self._ledger())), 0.0),
            "redis": (self._redis, 0.0),
            "pipeline": (lambda: list(examine_pipeline(self._store, self._ledger())), 0.0),
            "keyspace": (self._keyspace, 0.0),
            "producers": (self._producers, self._seconds),
            "dagster_storage": (lambda: list(examine_dagster(self._settings)), 0.0),
        }

    def _ledger(self) -> Ledger:
        return Ledger(self._database_url, TargetNames.of(self._settings))

    def _postgres(self) -> list[Finding]:
        reading = read_postgres(self._ledger())
        self._ahead["postgres"] = reading.clock_ahead
        return list(judge_postgres(reading))

    def _redis(self) -> list[Finding]:
        reading = read_redis(self._client, self._settings)
        self._ahead["redis"] = reading.clock_ahead
        return list(judge_redis(reading, self._settings))

    def _keyspace(self) -> list[Finding]:
        return list(judge_keyspace(read_keyspace(self._store), self._settings.counter_prefix))

    def _producers(self) -> list[Finding]:
        channel = self._settings.pubsub_channel
        space = SubscriberState.read(self._store).id
        with closing(open_wire(self._client, self._store, channel)) as wire:
            listeners = read_listeners(self._store, channel, space, own=1)
            listening = Listening(wire, self._store, self._ledger(), channel, space)
            listening.listen(self._seconds)
        heard = listening.traffic
        producers = judge_producers(
            Heard(
                self._seconds,
                heard.messages,
                heard.rejected,
                heard.views,
                listening.evidence,
                channel,
                self._settings.pubsub_mode,
                listeners.others,
            )
        )
        shared = judge_shared_channel(listeners, channel, self._settings.pubsub_mode)
        return [producers, shared, judge_listeners(listeners, channel)]


def _lost(name: str, why: str, lost: Container[str]) -> Finding:
    """Return what stands for findings that could not be made; a server out of reach is told once."""
    if server := next((server for server in SERVERS.get(name, ()) if server in lost), ""):
        return Finding(name, "warning", f"could not be looked at: see {server}", "run doctor again once that works")
    do = (
        "see that URL, network and login are right and the server runs; then run doctor again for what it could not see"
    )
    return Finding(name, "problem", why, do)
