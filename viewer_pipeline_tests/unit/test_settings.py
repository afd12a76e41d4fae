"""Settings: accepted values, refused values and their error messages, `.env`, and the environment of children."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any
from unittest.mock import patch
from zoneinfo import ZoneInfo

import pytest
from hypothesis import example, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from psycopg.conninfo import conninfo_to_dict
from pydantic import ValidationError

from viewer_pipeline.errors import SettingsError
from viewer_pipeline.home_lock_and_server_urls import lock_home_directory
from viewer_pipeline.session_settings import PINNED
from viewer_pipeline.settings import Settings, load_settings

DEFAULTS: dict[str, object] = {
    "database_url": None,
    "redis_url": None,
    "redis_wait_replicas": 0,
    "redis_wait_aof": 0,
    "redis_without_marker": "hold",
    "redis_wait_timeout_ms": 3000,
    "postgres_wait_standbys": 0,
    "postgres_wait_timeout_ms": 10_000,
    "batch_size": 100,
    "flush_streams": 1,
    "batch_interval_ms": 30_000,
    "flush_max_counters": None,
    "run_max_counters": 500_000,
    "target_table": None,
    "target_id_column": "id",
    "target_count_column": "viewCount",
    "target_exclusive": False,
    "parked_retention_days": None,
    "history_start": None,
    "history_timezone": ZoneInfo("UTC"),
    "ledger_retention_days": 30,
    "run_retention_days": 7,
    "failed_run_retention_days": 30,
    "rejected_retention_days": None,
    "alert_webhook_url": None,
    "otel_exporter_otlp_endpoint": None,
    "pubsub_mode": "increment",
    "pubsub_channel": "view_count_updates",
    "totals_channel": "view_count_totals",
    "counter_prefix": "vod:views:",
    "sweep_cron": "* * * * *",
    "sensor_scan_max_keys": 100_000,
    "sensor_scan_max_percent": 2,
    "health_check_port": 3003,
    "health_check_host": "127.0.0.1",
    "freshness_limit_ms": None,
    "log_level": "info",
    "log_format": "text",
    "dagster_database_url": None,
    "dagster_ui_url": None,
    "dagster_home": None,
    "celery_broker_url": None,
    "warm_runs": True,
    "viewer_home": Path(".viewer"),
    "shutdown_timeout_ms": 25_000,
}

URL = "postgresql://user:word@host:5432/views"
EXPECTS_POSTGRES = "expected a URL that starts with postgresql:// or postgres://"
EXPECTS_REDIS = (
    "expected a URL that starts with redis:// or rediss:// or unix:// or redis+sentinel:// or rediss+sentinel://"
    " or redis+cluster:// or rediss+cluster://"
)
EXPECTS_BROKER = "expected a URL that starts with redis:// or rediss://"
EXPECTS_SERVICE = "expected redis+sentinel://host:port,host:port/service/db, the db a number or left out"
EXPECTS_TIME_ZONE = "expected the IANA name of a time zone, such as"
EXPECTS_CRON = "expected five cron fields such as `* * * * *`"
NOT_A_NUMBER = "expected a whole number"


@pytest.fixture(autouse=True)
def _nothing_set(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Start each test in an empty directory with none of the variables set."""
    ours = {*Settings.model_fields, "viewer_settings_complete"}
    for name in [name for name in os.environ if name.lower() in ours]:
        monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)


def error_of_settings() -> str:
    """Load unusable settings; return the error message. It has no cause, which would cite passwords."""
    with pytest.raises(SettingsError) as caught:
        load_settings()
    assert (caught.value.__cause__, caught.value.__suppress_context__) == (None, True)
    return str(caught.value)


def dagster_connects_with(settings: Settings) -> dict[str, object]:
    """Return the parameters of connections to Dagster's storage, under libpq's names, and the schema."""
    url = settings.dagster_storage_url()
    return {**url.parameters, "schema": url.schema}


# --- accepted values -----------------------------------------------------------------------------------------------


def test_defaults() -> None:
    """With nothing set, every field has the default that the documents name."""
    assert load_settings().model_dump() == DEFAULTS


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("DATABASE_URL", "postgresql://user:word@host:5432/views", "postgresql://user:word@host:5432/views"),
        ("DATABASE_URL", "postgres://host/views", "postgres://host/views"),
        ("REDIS_URL", "redis://:word@host:6379/0", "redis://:word@host:6379/0"),
        ("REDIS_URL", "rediss://host", "rediss://host"),
        ("REDIS_URL", "unix:///run/redis.sock", "unix:///run/redis.sock"),
        ("REDIS_URL", "redis+sentinel://:word@a:26379,b/views/0", "redis+sentinel://:word@a:26379,b/views/0"),
        ("REDIS_URL", "rediss+sentinel://[::1]:26379/views", "rediss+sentinel://[::1]:26379/views"),
        ("CELERY_BROKER_URL", "redis://:word@broker:6379/1", "redis://:word@broker:6379/1"),
        ("CELERY_BROKER_URL", "rediss://broker", "rediss://broker"),
        ("HISTORY_TIMEZONE", "Europe/Berlin", ZoneInfo("Europe/Berlin")),
        ("HISTORY_TIMEZONE", "Asia/Kolkata", ZoneInfo("Asia/Kolkata")),
        ("BATCH_SIZE", "1", 1),
        ("BATCH_SIZE", "5000", 5000),
        ("BATCH_INTERVAL_MS", "1", 1),
        ("BATCH_INTERVAL_MS", "86400000", 86_400_000),
        ("FLUSH_STREAMS", "1", 1),
        ("FLUSH_STREAMS", "64", 64),
        ("FLUSH_MAX_COUNTERS", "1", 1),
        ("FLUSH_MAX_COUNTERS", "1000000", 1_000_000),
        ("RUN_MAX_COUNTERS", "1", 1),
        ("RUN_MAX_COUNTERS", "100000000", 100_000_000),
        ("PUBSUB_MODE", "increment", "increment"),
        ("PUBSUB_MODE", "announce", "announce"),
        ("PUBSUB_CHANNEL", "c" * 200, "c" * 200),
        ("COUNTER_PREFIX", "v[1]*?:", "v[1]*?:"),
        ("SWEEP_CRON", "*/5 * * * *", "*/5 * * * *"),
        ("SENSOR_SCAN_MAX_KEYS", "0", 0),
        ("SENSOR_SCAN_MAX_KEYS", "1000000", 1_000_000),
        ("SENSOR_SCAN_MAX_PERCENT", "100", 100),
        ("LOG_LEVEL", "debug", "debug"),
        ("LOG_LEVEL", "error", "error"),
        ("LOG_LEVEL", "INFO", "info"),
        ("LOG_LEVEL", "Warning", "warning"),
        ("DAGSTER_DATABASE_URL", "postgresql://host/dagster", "postgresql://host/dagster"),
        ("DAGSTER_HOME", "/var/lib/dagster", Path("/var/lib/dagster")),
        ("VIEWER_HOME", "/var/lib/viewer", Path("/var/lib/viewer")),
        ("SHUTDOWN_TIMEOUT_MS", "0", 0),
        ("SHUTDOWN_TIMEOUT_MS", "3600000", 3_600_000),
    ],
)
def test_good_values(monkeypatch: pytest.MonkeyPatch, name: str, text: str, value: object) -> None:
    """A variable sets the field of its name and no other; bounds are values still."""
    monkeypatch.setenv(name, text)
    assert load_settings().model_dump() == {**DEFAULTS, name.lower(): value}


@pytest.mark.parametrize("name", [name.upper() for name in Settings.model_fields])
def test_empty_variables_are_unset(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """`NAME=` in a compose file means the default, not an empty value."""
    monkeypatch.setenv(name, "")
    assert load_settings().model_dump() == DEFAULTS


@pytest.mark.parametrize(
    "expression",
    ["0 * * * *", "*/15 8-18 * * MON-FRI", "0 0 1 jan *", "0 0 L * *", "0 0 * * 1#5", "0 0 29 2 *", "0  0 * * 7"],
)
def test_cron_expressions(monkeypatch: pytest.MonkeyPatch, expression: str) -> None:
    """Ranges, steps, names, the last day of a month, the fifth Monday."""
    monkeypatch.setenv("SWEEP_CRON", expression)
    assert load_settings().sweep_cron == expression


# --- values that are not --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("DATABASE_URL", "mysql://host/views", EXPECTS_POSTGRES),
        ("DATABASE_URL", "postgresql+psycopg://host/views", EXPECTS_POSTGRES),
        ("DATABASE_URL", "postgresql:/host/views", EXPECTS_POSTGRES),
        ("DATABASE_URL", "host=localhost dbname=views", EXPECTS_POSTGRES),
        ("DATABASE_URL", "views", EXPECTS_POSTGRES),
        ("REDIS_URL", "postgresql://host/views", EXPECTS_REDIS),
        ("REDIS_URL", "unix:/run/redis.sock", EXPECTS_REDIS),
        ("REDIS_URL", "host:6379", EXPECTS_REDIS),
        ("REDIS_URL", "redis+sentinel://host:26379", EXPECTS_SERVICE),
        ("CELERY_BROKER_URL", "amqp://guest@broker", EXPECTS_BROKER),
        ("CELERY_BROKER_URL", "redis+sentinel://a,b/views", EXPECTS_BROKER),
        ("CELERY_BROKER_URL", "redis://broker:0", f"{EXPECTS_BROKER}, with a port between 1 and 65535 if any"),
        ("REDIS_URL", "redis+sentinel://host/", EXPECTS_SERVICE),
        ("REDIS_URL", "redis+sentinel://host,other/views/first", EXPECTS_SERVICE),
        (
            "DATABASE_URL",
            "postgresql://host/views?pgbouncer=1",
            "expected pgbouncer=false or pgbouncer=true",
        ),
        ("DATABASE_URL", "postgresql://[host/views", "PostgreSQL's client library does not understand it"),
        ("REDIS_WAIT_AOF", "2", "expected at most 1"),
        ("REDIS_WAIT_REPLICAS", "-1", "expected at least 0"),
        ("REDIS_WAIT_TIMEOUT_MS", "0", "expected at least 1"),
        ("POSTGRES_WAIT_STANDBYS", "-1", "expected at least 0"),
        ("POSTGRES_WAIT_TIMEOUT_MS", "0", "expected at least 1"),
        ("DAGSTER_DATABASE_URL", "sqlite:///dagster.db", EXPECTS_POSTGRES),
        ("BATCH_SIZE", "0", "expected at least 1"),
        ("BATCH_SIZE", "-5", "expected at least 1"),
        ("BATCH_SIZE", "5001", "expected at most 5000"),
        ("BATCH_SIZE", "many", NOT_A_NUMBER),
        ("BATCH_SIZE", "1.5", NOT_A_NUMBER),
        ("BATCH_SIZE", "1e3", NOT_A_NUMBER),
        ("BATCH_SIZE", "true", NOT_A_NUMBER),
        ("BATCH_INTERVAL_MS", "0", "expected at least 1"),
        ("BATCH_INTERVAL_MS", "86400001", "expected at most 86400000"),
        ("BATCH_INTERVAL_MS", "30s", NOT_A_NUMBER),
        ("RUN_MAX_COUNTERS", "0", "expected at least 1"),
        ("RUN_MAX_COUNTERS", "100000001", "expected at most 100000000"),
        ("FLUSH_STREAMS", "0", "expected at least 1"),
        ("FLUSH_STREAMS", "65", "expected at most 64"),
        ("FLUSH_MAX_COUNTERS", "0", "expected at least 1"),
        ("FLUSH_MAX_COUNTERS", "1000001", "expected at most 1000000"),
        ("SENSOR_SCAN_MAX_KEYS", "1000001", "expected at most 1000000"),
        ("SENSOR_SCAN_MAX_PERCENT", "0", "expected at least 1"),
        ("SHUTDOWN_TIMEOUT_MS", "-1", "expected at least 0"),
        ("SHUTDOWN_TIMEOUT_MS", "3600001", "expected at most 3600000"),
        ("PUBSUB_MODE", "both", "expected 'increment' or 'announce'"),
        ("PUBSUB_MODE", "Increment", "expected 'increment' or 'announce'"),
        ("LOG_LEVEL", "INFOS", "expected 'debug', 'info', 'warning' or 'error'"),
        ("LOG_LEVEL", "10", "expected 'debug', 'info', 'warning' or 'error'"),
        ("PUBSUB_CHANNEL", "c" * 201, "String should have at most 200 characters"),
        ("COUNTER_PREFIX", "p" * 201, "String should have at most 200 characters"),
        ("HISTORY_TIMEZONE", "Europe/Berln", f"{EXPECTS_TIME_ZONE} Europe/Berlin"),
        ("HISTORY_TIMEZONE", "America/New York", f"{EXPECTS_TIME_ZONE} America/New_York"),
        ("HISTORY_TIMEZONE", "+02:00", f"{EXPECTS_TIME_ZONE} Europe/Berlin"),
        ("HISTORY_TIMEZONE", "Europe", f"{EXPECTS_TIME_ZONE} Europe/Rome"),
        ("HISTORY_TIMEZONE", "../etc/passwd", f"{EXPECTS_TIME_ZONE} Europe/Berlin"),
        ("HISTORY_TIMEZONE", "localtime", f"{EXPECTS_TIME_ZONE} Europe/Berlin"),
        ("HISTORY_TIMEZONE", "right/Europe/Berlin", f"{EXPECTS_TIME_ZONE} Europe/Berlin"),
        ("SWEEP_CRON", "* * * *", EXPECTS_CRON),
        ("SWEEP_CRON", "* * * * * *", EXPECTS_CRON),
        ("SWEEP_CRON", "@hourly", EXPECTS_CRON),
        ("SWEEP_CRON", "60 * * * *", EXPECTS_CRON),
        ("SWEEP_CRON", "*/0 * * * *", EXPECTS_CRON),
        ("SWEEP_CRON", "0 24 * * *", EXPECTS_CRON),
        ("SWEEP_CRON", "0 0 30 2 *", EXPECTS_CRON),
        ("SWEEP_CRON", "0 0 * 13 *", EXPECTS_CRON),
        ("SWEEP_CRON", "0 0 * * 8", EXPECTS_CRON),
    ],
)
def test_bad_values(monkeypatch: pytest.MonkeyPatch, name: str, value: str, expected: str) -> None:
    """The complaint names the variable, its value, and what is expected."""
    monkeypatch.setenv(name, value)
    assert error_of_settings() == f"Settings are not usable: {name}={value!r}: {expected}"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("DATABASE_URL", "POSTGRESQL://host/views"),
        ("DATABASE_URL", "postgresql:://host/views"),
        ("DATABASE_URL", "postgresql:host://views"),
        ("REDIS_URL", "REDIS://host"),
    ],
)
def test_a_url_starts_with_its_scheme(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    """What libpq and redis-py would refuse later is refused at the start."""
    monkeypatch.setenv(name, value)
    assert error_of_settings().startswith(
        f"Settings are not usable: {name}={value!r}: expected a URL that starts with "
    )


@pytest.mark.parametrize("expression", ["0 0 LW * *", "0 0 * * 5L", "0 0 * * 1,2#3", "0 0 30 2 1"])
def test_cron_expressions_that_dagster_refuses(monkeypatch: pytest.MonkeyPatch, expression: str) -> None:
    """Otherwise the process would start, and its definitions would not load."""
    monkeypatch.setenv("SWEEP_CRON", expression)
    assert error_of_settings().startswith(f"Settings are not usable: SWEEP_CRON={expression!r}: {EXPECTS_CRON}")


def test_error_names_all_bad_values(monkeypatch: pytest.MonkeyPatch) -> None:
    """One start reports everything that is wrong."""
    monkeypatch.setenv("BATCH_SIZE", "many")
    monkeypatch.setenv("LOG_LEVEL", "loud")
    assert error_of_settings() == (
        f"Settings are not usable: BATCH_SIZE='many': {NOT_A_NUMBER}; "
        "LOG_LEVEL='loud': expected 'debug', 'info', 'warning' or 'error'"
    )


# --- passwords ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["DATABASE_URL", "REDIS_URL", "DAGSTER_DATABASE_URL"])
@pytest.mark.parametrize(
    ("url", "redacted"),
    [
        ("mysql://user:secret@host/db", "mysql://user:***@host/db"),
        ("mysql://:secret@host", "mysql://:***@host"),
        ("postgres:secret@host/db", "postgres:***@host/db"),
        ("postgresql:user:secret@host/db", "postgresql:***@host/db"),
        ("postgresql//user:secret@host/db", "postgresql//user:***@host/db"),
        ("rediss//:secret@host", "rediss//:***@host"),
        ("user:secret@host:5432/db", "user:***@host:5432/db"),
        ("mysql://user:secret@with@at@host/db", "mysql://user:***@host/db"),
        ("mysql://user:secret:with:colons@host/db", "mysql://user:***@host/db"),
        ("mysql://user:secret/with/slashes@host/db", "mysql://user:***@host/db"),
        ("mysql://user:#?secret@host/db", "mysql://user:***@host/db"),
        ("mysql://host/db?user=u&password=secret&a=b", "mysql://host/db?user=u&password=***&a=b"),
        ("mysql://host/db?sslpassword=secret", "mysql://host/db?sslpassword=***"),
        ("mysql://host/db?password=secret&secret&a=b", "mysql://host/db?password=***&a=b"),
        ("mysql://host/db?scram_client_key=secret", "mysql://host/db?scram_client_key=***"),
        ("mysql://host/db?ssl_password=secret", "mysql://host/db?ssl_password=***"),
        ("mysql://user:secret@a:1,b:2/db?sslpassword=secret", "mysql://user:***@a:1,b:2/db?sslpassword=***"),
        ("mysql://user:secret@%2Frun%2Fpg/db", "mysql://user:***@%2Frun%2Fpg/db"),
        ("mysql:///db?host=/run/pg&user=u&password=secret", "mysql:///db?host=/run/pg&user=u&password=***"),
        ("mysql://user:secret@localhost/db?host=/run/pg", "mysql://user:***@localhost/db?host=/run/pg"),
        ("host=h user=u password=secret", "host=h user=u password=***"),
        ("HOST=h PASSWORD=secret", "HOST=h PASSWORD=***"),
    ],
)
def test_errors_have_no_password(monkeypatch: pytest.MonkeyPatch, name: str, url: str, redacted: str) -> None:
    """Also for malformed URLs; the rest of the URL is cited, so that the mistake can be found."""
    monkeypatch.setenv(name, url)
    message = error_of_settings()
    assert "secret" not in message
    assert message.startswith(f"Settings are not usable: {name}={redacted!r}: expected a URL that starts with ")


@pytest.mark.parametrize(
    "url",
    [
        "mysql://user:secret word@host/db",
        "mysql://user:word secret@host/db",
        "mysql://user:word\nsecret@host/db",
        "mysql://user://secret@host/db",
        "host=h password='my secret'",
        "postgresql://user:[secret]@host/db",
        "redis://user:a[secret]b@host/db",
        "redis://user:[secret@host/db",
        "postgresql://user:secret\uff1a@host/db",  # a full-width colon: urlsplit refuses it, and cites the password
        "redis://user:secret\u2100@host/db",
    ],
)
def test_errors_have_no_password_with_odd_characters(monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    """Neither in the value, nor in a message of a URL parser. No value here suits both variables."""
    monkeypatch.setenv("DATABASE_URL", url)
    monkeypatch.setenv("REDIS_URL", url)
    assert "secret" not in error_of_settings()


@hypothesis_settings(deadline=None)
@given(
    form=st.sampled_from(
        ["mysql://user:{}@host/db", "mysql://:{}@host", "postgres:{}@host", "redis//user:{}@host", "redis://user:{}@h"]
    ),
    inner=st.text(st.characters(codec="utf-8", exclude_characters="\x00"), max_size=8)
    | st.text("@:/?#[] \n'\"\\%=&\uff1a", max_size=8),
)
@example(form="redis://user:{}@h", inner="[x]")
@example(form="postgres:{}@host", inner="://")
def test_errors_have_no_part_of_any_password(form: str, inner: str) -> None:
    """With any characters, in any broken form of a URL."""
    environment = dict.fromkeys(("DATABASE_URL", "REDIS_URL"), form.format(f"Qx7{inner}Zk9"))
    with patch.dict(os.environ, environment), pytest.raises(SettingsError) as caught:
        load_settings()
    assert [part for part in ("Qx7", "Zk9") if part in str(caught.value)] == []


# --- .env -----------------------------------------------------------------------------------------------------------


def test_env_file_in_the_working_directory_is_read(tmp_path: Path) -> None:
    """Comments, quotes, `export`, empty and foreign variables are what they are in a shell."""
    (tmp_path / ".env").write_text(
        "# a comment\nBATCH_SIZE=7\nexport LOG_LEVEL=debug\nSWEEP_CRON='0 * * * *'\nREDIS_URL=\nPATH_OF_ANOTHER=1\n"
    )
    assert load_settings().model_dump(exclude_defaults=True) == {
        "batch_size": 7,
        "log_level": "debug",
        "sweep_cron": "0 * * * *",
    }


def test_env_file_elsewhere_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only the working directory counts, not the ones above it."""
    (tmp_path / ".env").write_text("BATCH_SIZE=7\n")
    (tmp_path / "below").mkdir()
    monkeypatch.chdir(tmp_path / "below")
    assert load_settings().batch_size == 100


def test_the_environment_wins_over_the_env_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Variable by variable; an empty one does not hide the file's."""
    (tmp_path / ".env").write_text("BATCH_SIZE=7\nLOG_LEVEL=debug\nPUBSUB_MODE=announce\n")
    monkeypatch.setenv("BATCH_SIZE", "9")
    monkeypatch.setenv("PUBSUB_MODE", "")
    loaded = load_settings()
    assert (loaded.batch_size, loaded.log_level, loaded.pubsub_mode) == (9, "debug", "announce")


def test_bad_values_in_the_env_file_are_named(tmp_path: Path) -> None:
    """As those of the environment are, without their passwords."""
    (tmp_path / ".env").write_text("BATCH_SIZE=0\nREDIS_URL=http://:secret@host\n")
    assert error_of_settings() == (
        f"Settings are not usable: REDIS_URL='http://:***@host': {EXPECTS_REDIS}; BATCH_SIZE='0': expected at least 1"
    )


# --- what is made of the values -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("milliseconds", "seconds"),
    [(1, 5), (4999, 5), (5000, 5), (5001, 6), (30_000, 30), (30_001, 31), (86_400_000, 86_400)],
)
def test_sensor_interval(milliseconds: int, seconds: int) -> None:
    """Whole seconds, rounded up, never below what Dagster's daemon can do."""
    assert Settings(batch_interval_ms=milliseconds).sensor_interval_seconds == seconds


@pytest.mark.parametrize(
    ("given", "directory"),
    [
        ({}, ".viewer/dagster"),
        ({"viewer_home": Path("data")}, "data/dagster"),
        ({"dagster_home": Path("home")}, "home"),
        ({"viewer_home": Path("data"), "dagster_home": Path("home")}, "home"),
    ],
)
def test_dagster_directory(tmp_path: Path, given: dict[str, Any], directory: str) -> None:
    """DAGSTER_HOME, else below VIEWER_HOME; absolute, because children may run elsewhere."""
    assert Settings(**given).dagster_directory == tmp_path / directory


def test_urls_that_are_required() -> None:
    """They are returned as they were given."""
    settings = Settings(database_url=URL, redis_url="redis://host:6379/0")
    assert settings.require_database_url() == URL
    assert settings.require_redis_url() == "redis://host:6379/0"


def test_a_required_url_that_is_missing() -> None:
    """The error names the directory and the variable, and the remedy its form."""
    with pytest.raises(SettingsError) as database:
        Settings().require_database_url()
    with pytest.raises(SettingsError) as redis:
        Settings().require_redis_url()
    with pytest.raises(SettingsError) as storage:
        Settings().dagster_storage_url()
    nothing = f"No server is known: nothing runs for VIEWER_HOME={Path.cwd() / '.viewer'}, and"
    assert str(database.value) == f"{nothing} DATABASE_URL is not set"
    assert str(storage.value) == str(database.value)
    assert str(redis.value) == f"{nothing} REDIS_URL is not set"
    start = "start `viewer-pipeline up` for this VIEWER_HOME, or set "
    assert database.value.remedy == f"{start}DATABASE_URL=postgresql://user@host:port/database"
    assert redis.value.remedy == f"{start}REDIS_URL=redis://host:port/0"


def test_a_required_url_while_up_starts(tmp_path: Path) -> None:
    """Something runs, so the remedy is not to start it."""
    settings = Settings(viewer_home=tmp_path)
    with (
        lock_home_directory(tmp_path),
        pytest.raises(SettingsError, match="is starting, and REDIS_URL is not set") as error,
    ):
        settings.require_redis_url()
    assert error.value.remedy == "try again in some seconds, or set REDIS_URL=redis://host:port/0"
    with pytest.raises(SettingsError, match="nothing runs for VIEWER_HOME="):
        settings.require_redis_url()


def test_a_database_for_dagster_alone_wins() -> None:
    """It is used as it is: no schema is chosen there, and DATABASE_URL is not needed."""
    own = "postgres://user:word@elsewhere/dagster?sslmode=require"
    login = {"user": "user", "password": "word", "host": "elsewhere", "dbname": "dagster", "sslmode": "require"}
    expected = {**login, "schema": None}
    assert dagster_connects_with(Settings(dagster_database_url=own)) == expected
    assert dagster_connects_with(Settings(database_url=URL, dagster_database_url=own)) == expected


@pytest.mark.parametrize(
    "url",
    [
        URL,
        "postgresql://user@host",
        "postgresql://[::1]:5432/views",
        "postgresql://user:a%40b%3A%2F%25@host/views",
        "postgresql://user:a#b@host/views",
        "postgresql://user:a?b@host/views",
        "postgresql://user@/views?host=/run/postgresql",
        "postgresql:///views?host=/run/postgresql&user=user",
        "postgresql:///views",
    ],
)
def test_dagster_connects_as_the_flush_does(url: str) -> None:
    """With what libpq reads from DATABASE_URL, and in its own schema."""
    expected = {**conninfo_to_dict(url), "schema": "dagster"}
    assert dagster_connects_with(Settings(database_url=url)) == expected


@pytest.mark.parametrize(
    ("url", "address"),
    [
        ("postgresql://u:p@a:1,b/views", {"host": "a,b", "port": "1,", "target_session_attrs": "read-write"}),
        ("postgresql://u:p@%2Frun%2Fpg/views", {"host": "/run/pg"}),
        ("postgresql://u:p@localhost/views?host=/run/pg", {"host": "/run/pg"}),
        ("postgres://u:p@a/views?schema=public&connection_limit=5&foo=1", {"host": "a"}),
    ],
)
def test_dagster_understands_every_form(url: str, address: dict[str, str]) -> None:
    """Several hosts, sockets, Prisma's parameters; the schema is Dagster's."""
    login = {"user": "u", "password": "p", "dbname": "views"}
    expected = {**login, **address, "schema": "dagster"}
    assert dagster_connects_with(Settings(database_url=url)) == expected


def test_dagster_in_a_schema_of_its_own_address() -> None:
    """As DAGSTER_DATABASE_URL names it."""
    settings = Settings(database_url=f"{URL}?pgbouncer=true", dagster_database_url="postgresql://host/views?schema=d-1")
    assert dagster_connects_with(settings) == {"host": "host", "dbname": "views", "schema": "d-1"}
    assert settings.dagster_storage_url().schema == "d-1"


def test_parameters_that_are_dropped() -> None:
    """Their names by variable; nothing where there are none."""
    settings = Settings(database_url=f"{URL}?foo=word&schema=public&bar=1", dagster_database_url=f"{URL}?baz=1")
    assert settings.dropped_parameters() == {"DATABASE_URL": "foo, bar", "DAGSTER_DATABASE_URL": "baz"}
    assert Settings(database_url=f"{URL}?schema=public").dropped_parameters() == {}
    assert Settings().dropped_parameters() == {}


def test_options_of_the_database_url_stay() -> None:
    """Dagster's sessions get them, beside its schema."""
    storage = Settings(database_url=f"{URL}?options=-cstatement_timeout%3D5s").dagster_storage_url()
    settings = storage.session_settings({"statement_timeout": "60s"})
    assert {name: value for name, value in settings.items() if name not in PINNED} == {
        "statement_timeout": "5s",
        "search_path": '"dagster"',
    }


def test_a_child_reads_neither_env_file_nor_unset_variables(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A setting without a value has none in a child process either, whatever a variable or .env contains."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / ".env").write_text("TARGET_TABLE=from_file\nBATCH_SIZE=9\n")
    monkeypatch.setenv("DAGSTER_DATABASE_URL", URL)
    assert load_settings().target_table == "from_file"
    settings = load_settings().copy_unvalidated(database_url=URL, target_table=None, dagster_database_url=None)
    with patch.dict(os.environ):
        settings.export_to_os_environ()
        known = load_settings()
    assert (known.database_url, known.target_table, known.dagster_database_url, known.batch_size) == (
        URL,
        None,
        None,
        9,
    )


def test_a_child_parses_its_environment_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Again only if one of the settings has changed, whatever the case of its name."""
    for name, value in Settings(database_url=URL).child_process_environment().items():
        monkeypatch.setenv(name, value)
    first = load_settings()
    monkeypatch.setenv("SOMETHING_ELSE", "changed")
    assert load_settings() is first
    monkeypatch.delenv("BATCH_SIZE")
    monkeypatch.setenv("batch_size", "7")
    assert load_settings().batch_size == 7
    monkeypatch.setenv("BATCH_INTERVAL_MS", "soon")
    with pytest.raises(SettingsError, match="BATCH_INTERVAL_MS"):
        load_settings()


def test_the_env_file_is_read_each_time(tmp_path: Path) -> None:
    """A run of `dagster dev` reads it at its start, although the code server read it before."""
    for size in (7, 8):
        (tmp_path / ".env").write_text(f"BATCH_SIZE={size}\n")
        assert load_settings().batch_size == size


def test_environment_for_a_child(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Every value that is set, as text, with absolute paths, beside the variables of this process."""
    monkeypatch.setenv("SOMETHING_ELSE", "kept")
    settings = Settings(database_url=URL, batch_size=7, viewer_home=Path("data"))
    environment = settings.child_process_environment()
    added = {name: value for name, value in environment.items() if os.environ.get(name) != value}
    assert added == {
        "DATABASE_URL": URL,
        "HISTORY_TIMEZONE": "UTC",
        "LEDGER_RETENTION_DAYS": "30",
        "RUN_RETENTION_DAYS": "7",
        "FAILED_RUN_RETENTION_DAYS": "30",
        "REDIS_WAIT_REPLICAS": "0",
        "REDIS_WAIT_AOF": "0",
        "REDIS_WAIT_TIMEOUT_MS": "3000",
        "POSTGRES_WAIT_STANDBYS": "0",
        "POSTGRES_WAIT_TIMEOUT_MS": "10000",
        "REDIS_WITHOUT_MARKER": "hold",
        "BATCH_SIZE": "7",
        "FLUSH_STREAMS": "1",
        "BATCH_INTERVAL_MS": "30000",
        "RUN_MAX_COUNTERS": "500000",
        "TARGET_ID_COLUMN": "id",
        "TARGET_COUNT_COLUMN": "viewCount",
        "TARGET_EXCLUSIVE": "False",
        "PUBSUB_MODE": "increment",
        "PUBSUB_CHANNEL": "view_count_updates",
        "TOTALS_CHANNEL": "view_count_totals",
        "COUNTER_PREFIX": "vod:views:",
        "SWEEP_CRON": "* * * * *",
        "SENSOR_SCAN_MAX_KEYS": "100000",
        "SENSOR_SCAN_MAX_PERCENT": "2",
        "HEALTH_CHECK_PORT": "3003",
        "HEALTH_CHECK_HOST": "127.0.0.1",
        "LOG_LEVEL": "info",
        "LOG_FORMAT": "text",
        "SHUTDOWN_TIMEOUT_MS": "25000",
        "WARM_RUNS": "True",
        "OPENBLAS_NUM_THREADS": "1",
        "VIEWER_HOME": str(tmp_path / "data"),
        "DAGSTER_HOME": str(tmp_path / "data" / "dagster"),
        "VIEWER_SETTINGS_COMPLETE": "1",
        "DAGSTER_GRPC_TIMEOUT_SECONDS": "180",
        "grpc_proxy": "",
    }
    assert environment["SOMETHING_ELSE"] == "kept"


def test_a_time_limit_of_dagster_that_is_set_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    """The operator knows better."""
    monkeypatch.setenv("DAGSTER_GRPC_TIMEOUT_SECONDS", "90")
    assert Settings(database_url=URL).child_process_environment()["DAGSTER_GRPC_TIMEOUT_SECONDS"] == "90"


def test_error_does_not_cite_the_webhook() -> None:
    """Its address is a secret."""
    with patch.dict(os.environ, ALERT_WEBHOOK_URL="ftp://hooks/T0K3N"), pytest.raises(SettingsError) as raised:
        load_settings()
    expected = "expected a URL that starts with https:// or http://"
    assert str(raised.value) == f"Settings are not usable: ALERT_WEBHOOK_URL='***': {expected}"


@pytest.mark.parametrize("login", ["https://me:T0K3N@dagster.example.com", "http://host/?token=T0K3N"])
def test_address_of_the_ui_has_no_login(login: str) -> None:
    """It is shown in a page, which has no secrets."""
    with patch.dict(os.environ, DAGSTER_UI_URL=login), pytest.raises(SettingsError, match="without login") as raised:
        load_settings()
    assert "T0K3N" not in str(raised.value)
    with patch.dict(os.environ, DAGSTER_UI_URL="https://dagster.example.com/prefix"):
        assert load_settings().dagster_ui_url == "https://dagster.example.com/prefix"


def test_environment_outranks_the_variables_of_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """A child gets replaced values."""
    monkeypatch.setenv("BATCH_SIZE", "3")
    monkeypatch.setenv("DATABASE_URL", URL)
    assert load_settings().copy_unvalidated(batch_size=4).child_process_environment()["BATCH_SIZE"] == "4"


def test_environment_needs_a_database() -> None:
    """Without one, Dagster has no storage."""
    with pytest.raises(SettingsError, match="DATABASE_URL is not set"):
        Settings(redis_url="redis://host").child_process_environment()


def test_a_child_reads_the_same_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Exported and read again in another directory, they are the same, with absolute paths."""
    settings = Settings(database_url=URL, redis_url="redis://host", sweep_cron="0 * * * *", pubsub_mode="announce")
    with patch.dict(os.environ):
        settings.export_to_os_environ()
        (tmp_path / "elsewhere").mkdir()
        monkeypatch.chdir(tmp_path / "elsewhere")
        read = load_settings()
    assert read == settings.copy_unvalidated(
        viewer_home=tmp_path / ".viewer", dagster_home=tmp_path / ".viewer" / "dagster"
    )
    assert read.dagster_storage_url() == settings.dagster_storage_url()


def test_settings_do_not_change() -> None:
    """A changed copy leaves the original; assignment is refused."""
    settings = Settings()
    assert settings.copy_unvalidated(batch_size=7).batch_size == 7
    assert settings.batch_size == 100
    with pytest.raises(ValidationError):
        settings.batch_size = 7  # type: ignore[misc]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"COUNTER_PREFIX": "viewer:"}, "COUNTER_PREFIX='viewer:': our own key viewer:changed begins with it"),
        ({"COUNTER_PREFIX": "v"}, "COUNTER_PREFIX='v': our own key viewer:changed begins with it"),
        ({"COUNTER_PREFIX": "viewer:settled"}, "COUNTER_PREFIX='viewer:settled': our own key viewer:settled"),
        ({"PUBSUB_CHANNEL": "viewer:cuts:1"}, "PUBSUB_CHANNEL='viewer:cuts:1': names that begin with viewer:cuts:"),
        ({"TOTALS_CHANNEL": "viewer:cuts:"}, "TOTALS_CHANNEL='viewer:cuts:': names that begin with viewer:cuts:"),
        ({"PUBSUB_CHANNEL": "one", "TOTALS_CHANNEL": "one"}, "TOTALS_CHANNEL='one': expected another name"),
    ],
)
def test_names_that_collide(settings: dict[str, str], message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A prefix or channel that overlaps with ours is refused: the marker could be taken for a counter."""
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(SettingsError) as caught:
        load_settings()
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("interval_ms", "limit_ms", "seconds"),
    [(30_000, None, 300), (31_000, None, 310), (1_000, None, 300), (30_000, 7_500, 7.5)],
)
def test_freshness_limit(interval_ms: int, limit_ms: int | None, seconds: float) -> None:
    """Ten intervals, at least five minutes, or the setting."""
    settings = Settings(batch_interval_ms=interval_ms, freshness_limit_ms=limit_ms)
    assert settings.freshness_limit_seconds == seconds
