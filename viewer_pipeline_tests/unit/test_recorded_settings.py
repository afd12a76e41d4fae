"""Which settings are recorded, and which of them count as lost."""

from __future__ import annotations

from typing import Any

import pytest

from viewer_pipeline.flush.recorded_settings import RECORDED, find_lost_settings, settings_to_record
from viewer_pipeline.monitoring.health_rules import LOST_SETTINGS, evaluate_lost_settings
from viewer_pipeline.settings import Settings

STREAMIX = {"PUBSUB_MODE": "announce", "TARGET_TABLE": "Vod"}


def test_only_other_values_than_the_default_are_recorded() -> None:
    """A column only with its table."""
    assert settings_to_record(Settings()) == {}
    assert settings_to_record(Settings(target_id_column="vod", batch_size=7)) == {}
    settings = Settings(pubsub_mode="announce", target_table="Vod", target_id_column="vod", redis_wait_replicas=1)
    assert settings_to_record(settings) == {**STREAMIX, "TARGET_ID_COLUMN": "vod", "REDIS_WAIT_REPLICAS": "1"}


@pytest.mark.parametrize(
    ("recorded", "now", "lost"),
    [
        ({}, {}, {}),
        ({}, {"pubsub_mode": "announce", "target_table": "Vod"}, {}),
        (STREAMIX, {"pubsub_mode": "announce", "target_table": "Vod"}, {}),
        (STREAMIX, {"pubsub_mode": "announce", "target_table": "Other"}, {}),  # another one is set on purpose
        (STREAMIX, {"target_table": "Vod"}, {"PUBSUB_MODE": "announce"}),
        (STREAMIX, {"pubsub_mode": "announce"}, {"TARGET_TABLE": "Vod"}),
        (STREAMIX, {}, STREAMIX),
        ({"TARGET_TABLE": "Vod", "TARGET_COUNT_COLUMN": "n"}, {"target_table": "Vod"}, {"TARGET_COUNT_COLUMN": "n"}),
        ({"TARGET_TABLE": "Vod", "TARGET_COUNT_COLUMN": "n"}, {"target_table": "Other"}, {}),
        ({"REDIS_WAIT_REPLICAS": "1"}, {"redis_wait_replicas": 2}, {}),
        ({"A_SETTING_OF_A_LATER_VERSION": "1"}, {}, {}),
    ],
)
def test_find_lost_settings(recorded: dict[str, str], now: dict[str, Any], lost: dict[str, str]) -> None:
    """A setting is lost if it is back at its default."""
    assert find_lost_settings(recorded, Settings(**now)) == lost


def test_evaluate_lost_settings() -> None:
    """The message has both values, the remedy lines for `.env`."""
    result = evaluate_lost_settings(STREAMIX, Settings())
    assert result.status == "degraded"
    assert result.message == (
        "PUBSUB_MODE is increment, and was announce before: messages are added to counters that producers raise"
        " themselves, so views count twice; TARGET_TABLE is not set, and was Vod before: views are not added to this"
        " table any more"
    )
    assert "put PUBSUB_MODE=announce, TARGET_TABLE=Vod into `.env`" in result.remedy
    assert "acknowledge --settings`" in result.remedy
    assert evaluate_lost_settings({}, Settings()).passed
    assert LOST_SETTINGS.keys() <= set(RECORDED)
