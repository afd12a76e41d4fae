"""The settings that decide where views come from and go to, recorded in Redis: a start that lacks one is reported.

A setting that was exported in one shell is missing in the next. Then nothing fails, but views stop to go to the user's
table, or count twice. So worker and runs add what they have to a record, and remove nothing from it: a setting that is
back at its default is lost until it is set again or the record is replaced.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import orjson

from viewer_pipeline.command_to_type import command_to_type
from viewer_pipeline.flush.redis_store import RedisStore
from viewer_pipeline.settings import Settings

FIELD = "settings"  # of the hash `viewer:subscriber`
TARGET_TABLE = "TARGET_TABLE"
FLUSH_STREAMS = "FLUSH_STREAMS"
TARGET_SETTINGS = (TARGET_TABLE, "TARGET_ID_COLUMN", "TARGET_COUNT_COLUMN")
RECORDED = (
    "PUBSUB_MODE",
    "PUBSUB_CHANNEL",
    "TOTALS_CHANNEL",
    *TARGET_SETTINGS,
    FLUSH_STREAMS,
    "REDIS_WAIT_REPLICAS",
    "REDIS_WAIT_AOF",
    "POSTGRES_WAIT_STANDBYS",
)


def settings_to_record(settings: Settings) -> dict[str, str]:
    """Return those of RECORDED whose value is not the default, by name; columns only of a table that is set."""
    values: dict[str, str] = {}
    for name in RECORDED:
        value: Any = getattr(settings, name.lower())
        if value != Settings.model_fields[name.lower()].default and (
            settings.target_table or name not in TARGET_SETTINGS
        ):
            values[name] = str(value)
    return values


def read_recorded_settings(store: RedisStore) -> dict[str, str]:
    """Return the record; empty if there is none, or none that can be read: it is a hint, and must stop nothing."""
    (value,) = store.subscriber_fields([FIELD])
    try:
        recorded = orjson.loads(value or b"{}")
    except orjson.JSONDecodeError:
        return {}
    return {str(name): str(value) for name, value in recorded.items()} if isinstance(recorded, dict) else {}


def record_settings_in_redis(store: RedisStore, settings: Settings) -> dict[str, str]:
    """Add the settings in use to the record; return the lost ones, with their recorded values. Safe to repeat."""
    recorded, used = read_recorded_settings(store), settings_to_record(settings)
    kept = {name: value for name, value in recorded.items() if not _is_column_of_other_table(name, recorded, used)}
    if (merged := kept | used) != recorded:
        store.write_subscriber_field(FIELD, orjson.dumps(merged, option=orjson.OPT_SORT_KEYS))
    return find_lost_settings(merged, settings)


def replace_recorded_settings(store: RedisStore, settings: Settings) -> dict[str, str]:
    """Record the settings in use and no others, because the change was meant; return those that were lost before."""
    lost = find_lost_settings(read_recorded_settings(store), settings)
    store.write_subscriber_field(FIELD, orjson.dumps(settings_to_record(settings), option=orjson.OPT_SORT_KEYS))
    return lost


def record_flush_streams(store: RedisStore, settings: Settings) -> None:
    """Record the number of streams that the settings have: the streams of the ledger were changed to it."""
    recorded, used = read_recorded_settings(store), settings_to_record(settings)
    others = {name: value for name, value in recorded.items() if name != FLUSH_STREAMS}
    if (merged := others | {name: value for name, value in used.items() if name == FLUSH_STREAMS}) != recorded:
        store.write_subscriber_field(FIELD, orjson.dumps(merged, option=orjson.OPT_SORT_KEYS))


def find_lost_settings(recorded: Mapping[str, str], settings: Settings) -> dict[str, str]:
    """Return the recorded settings that are back at their default, with their recorded values. Pure."""
    used = settings_to_record(settings)
    return {
        name: value
        for name, value in recorded.items()
        if name in RECORDED and name not in used and not _is_column_of_other_table(name, recorded, used)
    }


def remedy_of_lost_settings(lost: Mapping[str, str]) -> str:
    """Return what to do about lost settings. Pure."""
    lines = ", ".join(f"{name}={value}" for name, value in lost.items())
    return (
        f"put {lines} into `.env`, or where its service has its settings, and restart; if the change is meant, run"
        f" `{command_to_type('acknowledge --settings')}`"
    )


def _is_column_of_other_table(name: str, recorded: Mapping[str, str], used: Mapping[str, str]) -> bool:
    """Whether this is a column of a table in whose place another one is set now."""
    if name not in TARGET_SETTINGS[1:] or TARGET_TABLE not in used:
        return False
    return used[TARGET_TABLE] != recorded.get(TARGET_TABLE)
