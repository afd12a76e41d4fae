"""Commands use the settings of the `up` of their VIEWER_HOME, where their own environment sets none."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest

from viewer_pipeline.cli.command_settings import load_settings_with_running_servers
from viewer_pipeline.errors import NoServer
from viewer_pipeline.home_lock_and_server_urls import SERVERS_FILE, SETTINGS, lock_home_directory
from viewer_pipeline.settings import COMPLETE_VARIABLE, Settings
from viewer_pipeline.settings_of_running_up import (
    OF_A_PROCESS,
    SHARED,
    URLS,
    load_settings_and_find_servers,
    settings_for_servers_file,
)

DATABASE, REDIS = "postgresql://viewer:w0rd@127.0.0.1:5432/viewer", "redis://127.0.0.1:6379/0"
OF_UP = {
    "pubsub_mode": "announce",
    "counter_prefix": "shop:",
    "history_timezone": "Asia/Tokyo",
    "history_start": "2026-01-02",
    "target_exclusive": "true",
    "batch_interval_ms": "5000",
    "log_format": "json",
    "health_check_port": "4711",
}


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A VIEWER_HOME on which an `up` with embedded servers and some settings runs."""
    monkeypatch.setenv("VIEWER_HOME", str(tmp_path))
    with lock_home_directory(tmp_path):
        write_servers_file(tmp_path, {"database_url": DATABASE, "redis_url": REDIS}, **OF_UP)
        yield tmp_path


def write_servers_file(home: Path, chosen: dict[str, str], **given: str) -> None:
    """Write the file as `up` does. `chosen`: its own servers."""
    settings = Settings(_env_file=None, **given)  # type: ignore[arg-type] # text, as in the environment
    (home / SERVERS_FILE).write_text(json.dumps({**chosen, SETTINGS: settings_for_servers_file(settings)}))


def differences(caplog: pytest.LogCaptureFixture) -> list[str]:
    """Return the warnings of a command that starts now."""
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        load_settings_with_running_servers()
    return [record.getMessage() for record in caplog.records]


@pytest.mark.usefixtures("home")
def test_what_is_not_set_is_that_of_up(caplog: pytest.LogCaptureFixture) -> None:
    """Except for what each process has of its own; with the types of settings, and without a warning."""
    settings = load_settings_and_find_servers()
    assert (settings.pubsub_mode, settings.counter_prefix, settings.redis_url) == ("announce", "shop:", REDIS)
    assert (settings.history_timezone, settings.target_exclusive) == (ZoneInfo("Asia/Tokyo"), True)
    assert (str(settings.history_start), settings.sensor_interval_seconds) == ("2026-01-02", 5)
    assert (settings.log_format, settings.health_check_port) == ("text", 3003)
    assert differences(caplog) == []


@pytest.mark.usefixtures("home")
def test_what_is_set_wins_and_both_values_are_named(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """In a warning for each that differs. One with the same value is no difference."""
    for name, value in {"COUNTER_PREFIX": "x:", "PUBSUB_MODE": "announce", "TARGET_TABLE": "Vod"}.items():
        monkeypatch.setenv(name, value)
    settings = load_settings_and_find_servers()
    assert (settings.counter_prefix, settings.target_table) == ("x:", "Vod")
    assert settings.history_timezone == ZoneInfo("Asia/Tokyo")
    assert differences(caplog) == [
        'setting_differs_from_running_up variable=TARGET_TABLE value=Vod value_of_running_up="not set"',
        "setting_differs_from_running_up variable=COUNTER_PREFIX value=x: value_of_running_up=shop:",
    ]


@pytest.mark.usefixtures("home")
def test_settings_of_other_servers_are_not_used(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """It is another pipeline: the servers are named, without a password, and no other setting is compared."""
    monkeypatch.setenv("REDIS_URL", "redis://:s3cret@host:1/0")
    monkeypatch.setenv("PUBSUB_MODE", "increment")
    settings = load_settings_and_find_servers()
    assert (settings.counter_prefix, settings.database_url) == ("vod:views:", DATABASE)
    assert differences(caplog) == [
        f"setting_differs_from_running_up variable=REDIS_URL value=redis://:***@host:1/0 value_of_running_up={REDIS}"
    ]


def test_own_servers_of_up(home: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """Their passwords are not recorded: they are to be set again, and then the other settings are those of `up`."""
    urls = {"database_url": DATABASE, "redis_url": "redis://:s3cret@host:1/0"}
    write_servers_file(home, {}, counter_prefix="shop:", dagster_database_url=DATABASE + "2", **urls)
    recorded = (home / SERVERS_FILE).read_text()
    assert "w0rd" not in recorded
    assert "s3cret" not in recorded
    with pytest.raises(NoServer, match=r"uses your server redis://:\*\*\*@host:1/0, and REDIS_URL is not set") as error:
        load_settings_and_find_servers().require_redis_url()
    assert error.value.remedy == "set REDIS_URL as for `up`; passwords are not passed on"
    for name, url in urls.items():
        monkeypatch.setenv(name.upper(), url)
    assert load_settings_and_find_servers().counter_prefix == "shop:"
    (difference,) = differences(caplog)
    assert difference.startswith('setting_differs_from_running_up variable=DAGSTER_DATABASE_URL value="not set"')
    assert difference.endswith(" value_of_running_up=postgresql://viewer:***@127.0.0.1:5432/viewer2")


@pytest.mark.usefixtures("home")
def test_a_child_process_has_all_settings(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """What its parent has given to it is not changed by an `up` that was started later."""
    monkeypatch.setenv(COMPLETE_VARIABLE, "1")
    assert load_settings_and_find_servers().counter_prefix == "vod:views:"
    assert differences(caplog) == []


def test_nothing_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """A file that an `up` has left which was killed is not read."""
    monkeypatch.setenv("VIEWER_HOME", str(tmp_path))
    write_servers_file(tmp_path, {"redis_url": REDIS}, **OF_UP)
    settings = load_settings_and_find_servers()
    assert (settings.counter_prefix, settings.redis_url) == ("vod:views:", None)
    assert differences(caplog) == []


def test_every_setting_is_shared_or_of_a_process() -> None:
    """A name in a list that is no setting would have no effect."""
    assert set(SHARED) | set(URLS) | set(OF_A_PROCESS) == set(Settings.model_fields)
