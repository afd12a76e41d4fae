"""Variables that are no settings: typing errors are reported, names of other programs are not."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from viewer_pipeline.cli.command_settings import warn_of_ineffective_settings
from viewer_pipeline.settings import COMPLETE_VARIABLE, Settings, load_settings, unknown_variables
from viewer_pipeline.unknown_setting_names import UnknownVariable, find_unknown_variables

NAMES = [name.upper() for name in Settings.model_fields]

MISSPELLED = {
    "TARGET_TABEL": "TARGET_TABLE",
    "TARGET_TABLES": "TARGET_TABLE",
    "TARGETTABLE": "TARGET_TABLE",
    "target-table": "TARGET_TABLE",
    "\ufeffTARGET_TABLE": "TARGET_TABLE",
    "VIEWER_TARGET_TABLE": "TARGET_TABLE",
    "VIEWER_PIPELINE_TARGET_TABLE": "TARGET_TABLE",
    "BATCH_INTERVALMS": "BATCH_INTERVAL_MS",
    "BATCH_INTERVAL_M": "BATCH_INTERVAL_MS",
    "COUNTERPREFIX": "COUNTER_PREFIX",
    "COUTNER_PREFIX": "COUNTER_PREFIX",
    "PUBSUB_CHANEL": "PUBSUB_CHANNEL",
    "PUB_SUB_CHANNEL": "PUBSUB_CHANNEL",
    "SWEEP_CORN": "SWEEP_CRON",
    "HEALTHCHECK_PORT": "HEALTH_CHECK_PORT",
    "DATABSE_URL": "DATABASE_URL",
    "DATABASE_ULR": "DATABASE_URL",
    "DATABESE_URL": "DATABASE_URL",
    "VIEWER_DATABASE_URL": "DATABASE_URL",
    "REDIS_RUL": "REDIS_URL",
    "LOG_LEVLE": "LOG_LEVEL",
    "LOG_LEEVL": "LOG_LEVEL",
    "BATCH_SZIE": "BATCH_SIZE",
    "VIEWER_HOM": "VIEWER_HOME",
}

OTHER_PROGRAMS = """
    PATH HOME USER SHELL LANG LC_ALL TERM PWD OLDPWD SHLVL HOSTNAME LOGNAME MAIL TZ TMPDIR TEMP EDITOR PAGER DISPLAY
    SSH_AUTH_SOCK XDG_RUNTIME_DIR XDG_CONFIG_HOME DBUS_SESSION_BUS_ADDRESS LD_LIBRARY_PATH PYTHONPATH
    PYTHONUNBUFFERED PYTHONDONTWRITEBYTECODE VIRTUAL_ENV PIP_INDEX_URL NODE_ENV NODE_OPTIONS NPM_CONFIG_CACHE
    npm_config_loglevel JAVA_HOME GOPATH GOMEMLIMIT RUST_LOG RUST_BACKTRACE CI DEBUG VERBOSE PORT HOST HTTP_PROXY
    HTTPS_PROXY NO_PROXY http_proxy no_proxy SSL_CERT_FILE REQUESTS_CA_BUNDLE SOURCE_DATE_EPOCH INVOCATION_ID
    JOURNAL_STREAM NOTIFY_SOCKET MAINPID PGHOST PGPORT PGUSER PGPASSWORD PGDATABASE PGSSLMODE PGOPTIONS PGDATA
    POSTGRES_URL POSTGRES_HOST POSTGRES_USER POSTGRES_PASSWORD POSTGRES_DB POSTGRES_URI DATABASE_URI DATABASE_URLS
    DATABASE_URL2 DATABASE_URL_TEST DATABASE_HOST DATABASE_PORT DATABASE_NAME DATABASE_USER DATABASE_PASSWORD
    DATABASE_PRIVATE_URL DATABASE_PUBLIC_URL DATABASE_POOL_SIZE DATABASE_DIALECT TEST_DATABASE_URL
    SHADOW_DATABASE_URL DIRECT_URL DIRECT_DATABASE_URL DATABASEURL DB_URL DB_HOST MYSQL_URL MONGO_URL MONGODB_URI
    AMQP_URL CLICKHOUSE_URL ELASTICSEARCH_URL REDIS_URI REDIS_URLS REDIS_URL_1 REDISURL REDIS_HOST REDIS_PORT
    REDIS_PASSWORD REDIS_DB REDIS_USER REDIS_TLS_URL REDIS_PREFIX REDIS_ADDR REDIS_CACHE_URL REDIS_PORT_6379_TCP
    REDIS_SERVICE_HOST REDISCLOUD_URL LOG_LEVELS LOGLEVEL LOG_FILE LOG_DIR LOG_PATH LOG_FORMATS LOG_FORMATTER
    LOGFORMAT LOG_FMT LOG_COLOR LOG_TO_STDOUT KLOG_LEVEL GLOG_LEVEL SLOG_LEVEL BLOG_LEVEL DJANGO_LOG_LEVEL
    UVICORN_LOG_LEVEL ROOT_LOG_LEVEL OTEL_LOG_LEVEL LOG_QUERIES BATCHSIZE BATCH_SIZES PATCH_SIZE MATCH_SIZE
    BATCH_COUNT BATCH_TIMEOUT BATCH_TIMEOUT_MS BATCH_MAX_SIZE MAX_BATCH_SIZE BATCH_JOB_ID BATCH_INTERVAL
    BATCH_DELAY_MS AWS_BATCH_JOB_ID AWS_BATCH_JOB_ATTEMPT AWS_REGION AWS_ACCESS_KEY_ID FLUSH_INTERVAL
    FLUSH_INTERVAL_MS TARGET TARGET_ENV TARGET_ARCH TARGET_DIR TARGET_HOST TARGET_DATABASE TARGET_PORT
    PUBSUB_PROJECT_ID PUBSUB_EMULATOR_HOST PUBSUB_TOPIC PUBSUB_SUBSCRIPTION CHANNEL PREFIX KEY_PREFIX CRON SCHEDULE
    HEALTH_CHECK_PATH HEALTH_CHECK_URL HEALTH_CHECK_INTERVAL HEALTHCHECK_URL HEALTHCHECK_PATH HEALTH_PORT
    HEALTH_CHECK_TIMEOUT SHUTDOWN_TIMEOUT GRACEFUL_SHUTDOWN_TIMEOUT RETENTION_DAYS LOG_RETENTION_DAYS
    BACKUP_RETENTION_DAYS HISTORY HISTFILE HISTSIZE HISTCONTROL WEBHOOK_URL SLACK_WEBHOOK_URL ALERT_EMAIL
    ALERTMANAGER_URL SENTRY_DSN DAGSTER_HOST DAGSTER_PG_URL DAGSTER_RUN_JOB_NAME DAGSTER_CURRENT_IMAGE
    DAGSTER_CODE_SERVER_PORT KUBERNETES_SERVICE_HOST KUBERNETES_SERVICE_PORT KUBERNETES_PORT_443_TCP
    VIEWER_WORKER_SERVICE_HOST VIEWER_SERVICE_PORT VIEWER_WORKER_PORT_3003_TCP VIEWER_URL VIEWER_TEST_WAITS
    COMPOSE_PROJECT_NAME COMPOSE_FILE DOCKER_HOST BUILDKIT_HOST DYNO HEROKU_APP_NAME RAILWAY_ENVIRONMENT
    FLY_APP_NAME VERCEL_URL NEXT_PUBLIC_API_URL SECRET_KEY API_KEY
"""


def of_environment(*names: str) -> dict[str, str | None]:
    """Return what is reported of an environment: variable -> setting."""
    return {v.name: v.meant for v in find_unknown_variables(NAMES, dict.fromkeys(names, "x"), {})}


@pytest.mark.parametrize(("name", "meant"), MISSPELLED.items())
def test_misspelled_names(name: str, meant: str) -> None:
    """Separators, the program's name in front, one letter too many, too few, another, or two exchanged."""
    assert of_environment(name) == {name.replace("\ufeff", r"\ufeff"): meant}


@pytest.mark.parametrize("setting", NAMES)
def test_a_letter_is_missing(setting: str) -> None:
    """Of any setting, any letter inside."""
    for position in range(1, len(setting) - 1):
        if setting[position] != "_":
            name = setting[:position] + setting[position + 1 :]
            assert of_environment(name) == {name: setting}


def test_names_of_other_programs() -> None:
    """No name that is commonly seen in an environment is reported, also with none of our settings in it."""
    names = OTHER_PROGRAMS.split()
    assert len(set(names)) > 200
    assert of_environment(*names) == {}


def test_settings_in_any_case() -> None:
    """As pydantic reads them."""
    assert of_environment(*NAMES, *map(str.lower, NAMES)) == {}


def test_the_setting_is_set_as_well() -> None:
    """Then the other name is that of another program; an empty value is none."""
    misspelled = {"TARGET_TABEL": "Vod"}
    assert find_unknown_variables(NAMES, {**misspelled, "target_table": "Vod"}, {}) == []
    assert find_unknown_variables(NAMES, misspelled, {"TARGET_TABLE": "Vod"}) == []
    assert len(find_unknown_variables(NAMES, {**misspelled, "TARGET_TABLE": ""}, {})) == 1


def test_names_in_the_env_file() -> None:
    """All that are not settings, with the one that was meant if there is one; never a line of a key."""
    lines = {"BATCH_SIZE": "7", "log_level": "info", "DATABASE_URI": "x", "NEXT_TOKEN": "x"}
    of_compose = {"POSTGRES_PASSWORD": "x", "COMPOSE_PROFILES": "redis"}
    unknown = find_unknown_variables(NAMES, {}, {**lines, **of_compose, "wGk3pQzSecret": "="})
    assert unknown == [
        UnknownVariable("DATABASE_URI", ".env", "DATABASE_URL"),
        UnknownVariable("NEXT_TOKEN", ".env", None),
        UnknownVariable("wGk3…", ".env", None),
    ]
    (other,) = find_unknown_variables(NAMES, {"DATABASE_URL": "x"}, {"DATABASE_URI": "x"})
    assert other.meant is None


@pytest.fixture
def _unknown_names(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """One in the environment, others in `.env`."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / ".env").write_text("BATCH_SIZE=7\nOTHER=s3cret\nTZ=s3cret\n")
    monkeypatch.setenv("PUBSUB_CHANEL", "s3cret")


@pytest.mark.usefixtures("_unknown_names")
def test_one_warning_for_each_misspelled_name(caplog: pytest.LogCaptureFixture) -> None:
    """Where it was found and what was probably meant, never its value; other names in `.env` are one line."""
    warn_of_ineffective_settings(load_settings())
    assert [record.getMessage() for record in caplog.records] == [
        "unknown_setting variable=PUBSUB_CHANEL found_in=environment probably_meant=PUBSUB_CHANNEL",
        'unknown_names_in_env_file names="OTHER, TZ"',
    ]
    assert [record.levelno for record in caplog.records] == [logging.WARNING] * 2


@pytest.mark.usefixtures("_unknown_names")
def test_a_child_repeats_no_warning(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """Its parent has logged them."""
    settings = load_settings().copy_unvalidated(database_url="postgresql://host/views?foo=1")
    assert len(unknown_variables()) == 3
    monkeypatch.setenv(COMPLETE_VARIABLE, "1")
    warn_of_ineffective_settings(settings)
    assert caplog.records == []


def test_settings_in_lower_case(monkeypatch: pytest.MonkeyPatch) -> None:
    """They are read, and do not hide what a child process is given."""
    monkeypatch.setenv("batch_size", "3")
    monkeypatch.setenv("target_table", "Vod")
    settings = load_settings()
    assert (settings.batch_size, settings.target_table) == (3, "Vod")
    child = settings.copy_unvalidated(database_url="postgresql://host/views", batch_size=4, target_table=None)
    environment = child.child_process_environment()
    values = {name: value for name, value in environment.items() if name.upper() in ("BATCH_SIZE", "TARGET_TABLE")}
    assert values == {"BATCH_SIZE": "4"}
