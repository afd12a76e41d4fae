"""Why each check of the doctor matters, in the order of its report. docs/how-to/doctor.md lists every name."""

from __future__ import annotations

from viewer_pipeline.monitoring.dagster_rules import DAEMONS, daemon_check_name

CHECK_RATIONALES_BY_GROUP: dict[str, dict[str, str]] = {
    "settings": {
        "settings": "a misspelled setting has no effect, nor has one of two that contradict each other",
        "lost_settings": "without a setting that was exported before, views count twice or do not reach your table",
    },
    "PostgreSQL": {
        "postgres": "flushes are committed in it",
        "postgres_version": "other versions are not tested",
        "postgres_latency": "a flush makes a dozen round trips, and holds row locks during some of them",
        "postgres_encoding": "ids are Unicode; another encoding cannot hold all of them",
        "postgres_durability": "a commit that PostgreSQL loses in a crash is already subtracted from Redis: lost views",
        "postgres_privileges": "a flush fails at the first right that its role lacks",
        "clock": "Dagster launches nothing before a timestamp in the future, and days are those of the clock",
    },
    "target table": {
        "target": "a flush adds the views to it in its own transaction, and fails where it cannot",
        "target_room": "views that exceed the type of the column are parked, and the table does not show them",
        "parked": "parked views are kept, and the table does not show them",
    },
    "Redis": {
        "redis": "views are counted in it",
        "redis_memory": "an evicted counter is a lost count, and a full Redis refuses views",
        "redis_version": "other versions are not tested",
        "redis_commands": "a flush or a worker fails at the first command that a proxy or rename-command has removed",
        "redis_latency": "draining and settling are round trips",
        "redis_cluster": "a cluster has a marker for each slot, and each command goes to the node of its slot",
        "redis_persistence": "pending views are in Redis alone; what it loses in a crash is lost",
        "redis_durability": "flushes wait for what REDIS_WAIT_* name, so this Redis must be able to confirm it",
    },
    "counters": {
        "freshness": "views that stay pending are not persisted",
        "marker": "counters that two databases settle, or two pipelines count, are lost or counted twice",
        "streams": "runs are refused while the ledger has another number of streams than FLUSH_STREAMS",
        "last_flush": "with a timestamp in the future, views are counted on the wrong day",
        "history_timezone": "days of two time zones overlap or leave a gap, so none is rolled up before a backfill",
        "unsettled": "readers who add counters and totals count unsettled views twice",
        "incidents": "views may be lost",
        "held": "held views are in no total until somebody decides what they are",
        "clone_detection": "it distinguishes a restored or cloned database from the original",
        "timeline": "it shows a run that PostgreSQL may have lost what the run has committed",
        "keyspace": "a sweep scans all keys, counters or not",
        "expiring_counters": "a counter that expires takes its views with it",
        "counter_values": "a value that is no count is never flushed, only recorded in viewer.rejected",
    },
    "producers": {
        "rejected": "input that can never be a count is no view",
        "pubsub_mode": "with the wrong PUBSUB_MODE every view counts twice, or not at all",
        "shared_channel": "each pipeline that counts the messages of a channel counts every one of them",
        "subscriber": "a message is delivered only to clients subscribed at that moment",
    },
    "Dagster": {
        "dagster_storage": "Dagster keeps its runs in it",
        **{daemon_check_name(daemon): "the daemons launch the flushes" for daemon in DAEMONS},
        "single_daemon": "each daemon launches runs, which only add load and may fail",
        "sensor": "it flushes what was announced, or found by its scan",
        "sweep": "it flushes what was neither announced nor found",
        "celery": "with CELERY_BROKER_URL, runs are executed by its workers",
        "flush_runs": "they persist the views",
        "grpc_proxy": "daemon and webserver reach the code server by gRPC; without it no run is launched",
    },
}
CHECK_RATIONALES = {name: reason for group in CHECK_RATIONALES_BY_GROUP.values() for name, reason in group.items()}
