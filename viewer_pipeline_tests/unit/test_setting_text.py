"""Blanks around a value, invisible characters and literal quotes are refused in every setting, also from `.env`."""

from __future__ import annotations

import os
from datetime import date
from pathlib import Path

import pytest

from viewer_pipeline.cli.command_settings import load_settings_with_running_servers
from viewer_pipeline.errors import SettingsError
from viewer_pipeline.settings import Settings, load_settings

# A value of each setting that is accepted, and what it is then. Settings that are not here accept any text.
ACCEPTED = {
    "DATABASE_URL": "postgresql://ann:s3cret@host:5432/views",
    "REDIS_URL": "redis://:s3cret@host:6379/0",
    "DAGSTER_DATABASE_URL": "postgresql://ann:s3cret@host/dagster",
    "CELERY_BROKER_URL": "redis://:s3cret@broker:6379/0",
    "ALERT_WEBHOOK_URL": "https://hooks/s3cret",
    "OTEL_EXPORTER_OTLP_ENDPOINT": "http://collector:4318",
    "DAGSTER_UI_URL": "https://dagster.example.com",
    "TARGET_EXCLUSIVE": "true",
    "WARM_RUNS": "false",
    "HISTORY_START": "2026-02-01",
    "HISTORY_TIMEZONE": "Europe/Berlin",
    "REDIS_WAIT_AOF": "1",
    "PUBSUB_MODE": "announce",
    "REDIS_WITHOUT_MARKER": "count",
    "SWEEP_CRON": "*/5 * * * *",
    "LOG_LEVEL": "debug",
    "LOG_FORMAT": "json",
    "TARGET_TABLE": "shop.video",
}
TEXTS = {"TARGET_ID_COLUMN", "TARGET_COUNT_COLUMN", "PUBSUB_CHANNEL", "TOTALS_CHANNEL", "COUNTER_PREFIX"}
TEXTS |= {"HEALTH_CHECK_HOST", "DAGSTER_HOME", "VIEWER_HOME"}
NAMES = [name.upper() for name in Settings.model_fields]
VALUES = {name: ACCEPTED.get(name, "a1" if name in TEXTS else "50") for name in NAMES}
SQL_NAMES = ("TARGET_TABLE", "TARGET_ID_COLUMN", "TARGET_COUNT_COLUMN")

WINDOWS = "; the file it comes from probably has Windows line endings"
ECHO = "; where it comes from `echo`, as in many Kubernetes Secrets, use `printf`"
QUOTED = "expected no quotes around the value; `docker --env-file` and Kubernetes take them literally"
BLANKS = "expected no blanks around the value"
COMMENT = "expected no comment behind the value; `docker --env-file` and systemd take it literally"
UNREPLACED = "expected a value; nothing has replaced the variable in it"
FORMS = {
    "{}\r": f"expected no carriage return (U+000D){WINDOWS}",
    "{}\r\n": f"expected no carriage return (U+000D){WINDOWS}",
    "{}\n": f"expected no newline (U+000A){ECHO}",
    "\t{}": "expected no tab (U+0009)",
    "{}\x1b": "expected no invisible character (U+001B)",
    "\ufeff{}": "expected no ZERO WIDTH NO-BREAK SPACE (U+FEFF)",
    "{}\u200b": "expected no ZERO WIDTH SPACE (U+200B)",
    "{}\xa0": "expected no NO-BREAK SPACE (U+00A0)",
    " {}": BLANKS,
    "{} ": BLANKS,
    "'{}'": QUOTED,
    '"{}"': QUOTED,
    '"{}': QUOTED,
    "“{}”": QUOTED,
    "„{}“": QUOTED,
    "{} # of the app": COMMENT,
    "${{NAME}}{}": UNREPLACED,
    "{}$(NAME)": UNREPLACED,
    '"{}"\r': f"expected no carriage return (U+000D){WINDOWS}",
}


@pytest.fixture(autouse=True)
def _nothing_set(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Start each test in an empty directory with none of the variables set."""
    for name in [name for name in os.environ if name.upper() in NAMES]:
        monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)


def error_of_settings() -> str:
    """Load unusable settings; return the error message without its start."""
    with pytest.raises(SettingsError) as caught:
        load_settings()
    return str(caught.value).removeprefix("Settings are not usable: ")


@pytest.mark.parametrize("name", NAMES)
def test_values_as_they_should_be(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """They are accepted, so that what follows refuses the form and not the value."""
    monkeypatch.setenv(name, VALUES[name])
    assert load_settings().model_fields_set == {name.lower()}


@pytest.mark.parametrize("name", NAMES)
def test_no_setting_takes_what_nobody_sees(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """The error names the variable, the value without secrets, what is expected, and the probable cause."""
    for form, expected in FORMS.items():
        if name in SQL_NAMES and form in ('"{}"', '"{}'):
            continue
        monkeypatch.setenv(name, form.format(VALUES[name]))
        value = "***" if name == "ALERT_WEBHOOK_URL" else form.format(VALUES[name].replace("s3cret", "***"))
        message = error_of_settings()
        assert "s3cret" not in message
        assert message.startswith(f"{name}=")
        assert message.endswith(f": {expected}")
        if not name.endswith("_URL"):  # of a URL behind an invisible character, more is masked
            assert message == f"{name}={value!r}: {expected}"


@pytest.mark.parametrize("name", NAMES)
def test_blanks_alone_are_not_an_empty_value(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """Somebody meant a value; empty means the default."""
    monkeypatch.setenv(name, "  ")
    value = "***" if name == "ALERT_WEBHOOK_URL" else "  "
    assert error_of_settings() == f"{name}={value!r}: expected a value; leave it empty for the default"


@pytest.mark.parametrize("text", ['"Vod"', '"my table"', '" a"', '"Schema"."my ""odd"" table"', "\"'Vod'\""])
def test_double_quotes_of_sql_names(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    """They are part of the names of tables and columns, which may have blanks inside."""
    monkeypatch.setenv("TARGET_TABLE", text)
    assert load_settings().target_table == text


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("COUNTER_PREFIX", "my views:"),
        ("PUBSUB_CHANNEL", 'it\'s "mine" now'),
        ("PUBSUB_CHANNEL", "views#1$(a)${b}"),
        ("TARGET_TABLE", "Überblick"),
        ("VIEWER_HOME", "/srv/My Data/it's"),
        ("SWEEP_CRON", "0  0 * * 7"),
    ],
)
def test_what_stays_allowed(monkeypatch: pytest.MonkeyPatch, name: str, text: str) -> None:
    """Blanks and quotes inside, letters of any language."""
    monkeypatch.setenv(name, text)
    assert str(getattr(load_settings(), name.lower())) == text


@pytest.mark.parametrize(
    ("url", "redacted"),
    [
        ('"postgresql://u:Qx7@h/db"', '"postgresql://u:***@h/db"'),
        ("postgresql://u:Qx7@h/db\r", "postgresql://u:***@h/db\r"),
        (' "postgresql://u:Qx7@h/db" ', ' "postgresql://u:***@h/db" '),
        ("\ufeffpostgresql://u:Qx7@h/db", "\ufeffpostgresql:***@h/db"),
        ("'postgresql://h/db?password=Qx7'", "'postgresql://h/db?password=***"),
        (
            "postgresql://h/db?password=Qx7 Qx7\nQx7&sslmode=require\r",
            "postgresql://h/db?password=***&sslmode=require\r",
        ),
        ("'postgresql://h/db?password='Qx7'Qx7'", "'postgresql://h/db?password=***"),
    ],
)
@pytest.mark.parametrize("name", ["DATABASE_URL", "REDIS_URL", "DAGSTER_DATABASE_URL"])
def test_passwords_of_malformed_urls(monkeypatch: pytest.MonkeyPatch, name: str, url: str, redacted: str) -> None:
    """They are masked although the URL is not one."""
    monkeypatch.setenv(name, url)
    message = error_of_settings()
    assert "Qx7" not in message
    assert message.startswith(f"{name}={redacted!r}: expected ")


@pytest.mark.parametrize("text", ["0", "86400", "01.02.2026", "2026-1-1"])
def test_days_are_iso_days(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    """A number would be a time after 1970, and all days since then partitions of `daily_views`."""
    monkeypatch.setenv("HISTORY_START", text)
    assert error_of_settings() == f"HISTORY_START={text!r}: expected a day, such as 2026-01-31"


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("HISTORY_START", "2026-02-01T00:00:00Z", date(2026, 2, 1)),
        ("HISTORY_START", "2026-02-01 00:00:00", date(2026, 2, 1)),
        ("BATCH_SIZE", "1_000", 1000),
        ("BATCH_SIZE", "50.0", 50),
        ("BATCH_SIZE", "+5", 5),
    ],
)
def test_other_forms_of_the_same_value(monkeypatch: pytest.MonkeyPatch, name: str, text: str, value: object) -> None:
    """As templates of configuration files write them, and version 0.1.0 took them."""
    monkeypatch.setenv(name, text)
    assert getattr(load_settings(), name.lower()) == value


@pytest.mark.parametrize("start", [b"", b"\xef\xbb\xbf"])
def test_env_file_of_windows(tmp_path: Path, start: bytes) -> None:
    """Its line endings and byte order mark are not part of names and values; its quotes are those of a shell."""
    (tmp_path / ".env").write_bytes(start + b"BATCH_SIZE=7\r\nPUBSUB_CHANNEL=\"views\"\r\nLOG_LEVEL='debug' \r\n\r\n")
    assert load_settings().model_dump(exclude_defaults=True) == {
        "batch_size": 7,
        "pubsub_channel": "views",
        "log_level": "debug",
    }


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (r'PUBSUB_CHANNEL="views\r"', rf"PUBSUB_CHANNEL='views\r': expected no carriage return (U+000D){WINDOWS}"),
        ("PUBSUB_CHANNEL=\"'views'\"", f"PUBSUB_CHANNEL=\"'views'\": {QUOTED}"),
        ("PUBSUB_CHANNEL=' views'", f"PUBSUB_CHANNEL=' views': {BLANKS}"),
    ],
)
def test_values_of_the_env_file(tmp_path: Path, line: str, message: str) -> None:
    """The rule is the same, for what is left after a shell's quotes."""
    (tmp_path / ".env").write_text(line)
    assert error_of_settings().startswith(message)


@pytest.mark.parametrize("line", ["BATCH_SIZE: 7", "batch_size 7", 'PUBSUB_CHANNEL="views', 'A="views\nBATCH_SIZE="7"'])
def test_lines_of_the_env_file_with_a_setting_that_is_not_set(tmp_path: Path, line: str) -> None:
    """They are refused with their number and without their text, which may be a password."""
    (tmp_path / ".env").write_text(f"BATCH_SIZE=8\n\n# a comment\n\n{line}\nLOG_LEVEL=debug\n")
    assert error_of_settings() == (
        "the file .env in the working directory, line 5: expected NAME=value, or a value between two quotes"
    )


@pytest.mark.parametrize("line", ["set -a", ". ./common.env", "KEY='it's'", 'JSON="{"a": 1}"', "NAME: value"])
def test_lines_of_the_env_file_for_other_programs(tmp_path: Path, caplog: pytest.LogCaptureFixture, line: str) -> None:
    """A shell, Node.js or Compose understands them; one warning has their numbers, and the rest is read."""
    (tmp_path / ".env").write_text(f"BATCH_SIZE=8\n{line}\nLOG_LEVEL=debug\n")
    settings = load_settings_with_running_servers()
    assert (settings.batch_size, settings.log_level) == (8, "debug")
    skipped = [record.getMessage() for record in caplog.records if "unknown_names" not in record.getMessage()]
    assert skipped == ["env_file_lines_skipped lines=2"]


def test_variables_in_the_env_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """They are replaced; one that is set nowhere would be replaced by nothing, and name another channel or prefix."""
    monkeypatch.setenv("STAGE", "live")
    (tmp_path / ".env").write_text(
        "APP=shop\nCOUNTER_PREFIX=${APP}:${STAGE}:${REGION:-eu}:\nLOG=${HERE}\nPUBSUB_CHANNEL=views${HERE}\n"
    )
    assert error_of_settings() == (
        "the file .env in the working directory, line 4: PUBSUB_CHANNEL refers to a variable that is not set"
    )
    monkeypatch.setenv("HERE", "")
    settings = load_settings()
    assert (settings.counter_prefix, settings.pubsub_channel) == ("shop:live:eu:", "views")


def test_env_file_that_is_not_utf_8(tmp_path: Path) -> None:
    """What `>` of PowerShell 5 writes is UTF-16."""
    (tmp_path / ".env").write_text("BATCH_SIZE=7\n", encoding="utf-16")
    assert error_of_settings() == "the file .env in the working directory is not UTF-8"
