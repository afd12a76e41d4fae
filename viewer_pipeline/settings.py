"""Every environment variable, read once. No other module reads the environment."""

from __future__ import annotations

import os
from functools import lru_cache
from pathlib import Path
from typing import Any, Self
from zoneinfo import ZoneInfo

from pydantic import Field, ValidationError, ValidationInfo, field_validator, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from viewer_pipeline.command_to_type import command_to_type
from viewer_pipeline.env_file import ENV_FILE, read_env_file
from viewer_pipeline.errors import NoServer, SettingsError
from viewer_pipeline.home_lock_and_server_urls import SETTINGS, is_home_directory_locked, read_settings_of_running_up
from viewer_pipeline.postgres_url import PostgresUrl
from viewer_pipeline.redis_names import DEFAULT_PREFIX, check_redis_names
from viewer_pipeline.redis_url import RedisUrl
from viewer_pipeline.setting_errors import describe_invalid_settings
from viewer_pipeline.setting_text_checks import check_setting_text
from viewer_pipeline.setting_types import (
    BaseUrl,
    BrokerUrl,
    ColumnName,
    CronExpression,
    DatabaseUrl,
    Day,
    HttpUrl,
    LogFormat,
    LogLevel,
    PubSubMode,
    RedisName,
    RedisServerUrl,
    RedisWithoutMarker,
    TableName,
    TimeZone,
)
from viewer_pipeline.streams import MAX_PARTS
from viewer_pipeline.unknown_setting_names import UnknownVariable, find_unknown_variables

COMPLETE_VARIABLE = "VIEWER_SETTINGS_COMPLETE"  # marks an environment that contains all settings; not one of them
DAGSTER_SCHEMA = "dagster"  # of DATABASE_URL
GRPC_PROXY_VARIABLES = ("grpc_proxy", "https_proxy", "http_proxy", "no_grpc_proxy", "no_proxy")  # as gRPC reads them
SQL_NAMES = ("target_table", "target_id_column", "target_count_column")
LAUNCH_SECONDS = 180  # of a run, until its process has begun: a busy machine needs more than Dagster's limit of 60
MIN_SENSOR_SECONDS = 5  # the shortest interval Dagster's daemon supports
FLUSH_COUNTERS, TARGET_FLUSH_COUNTERS = 10_000, 4_000
RUN_COUNTERS = 500_000
FRESHNESS_INTERVALS, FRESHNESS_FLOOR_MS = 10, 300_000


class Settings(BaseSettings):
    """The settings; field `batch_size` is the environment variable `BATCH_SIZE`."""

    model_config = SettingsConfigDict(env_file=ENV_FILE, env_ignore_empty=True, extra="ignore", frozen=True)

    database_url: DatabaseUrl | None = Field(
        None,
        description="PostgreSQL: `postgresql://user:password@host:port/database`, with libpq's or Prisma's parameters",
    )
    redis_url: RedisServerUrl | None = Field(
        None,
        description="Redis: `redis://`, `rediss://`, `unix://`, `redis+sentinel://host:port,host:port/service/db`"
        " or `redis+cluster://host:port,host:port`",
    )
    target_table: TableName | None = Field(
        None,
        description="your own table that gets the counts: `Vod` or `schema.table`, taken exactly as written"
        " (default: none, totals are in `viewer.vod_view_counts` alone)",
    )
    target_id_column: ColumnName = Field(
        "id", description="its column with the VOD's id: text, varchar, uuid, integer or bigint, with a unique index"
    )
    target_count_column: ColumnName = Field(
        "viewCount", description="its column with the count: smallint, integer or bigint"
    )
    target_exclusive: bool = Field(
        False, description="`true`: no other program writes that count, so `reconcile` compares it with the totals"
    )
    parked_retention_days: int | None = Field(
        None, ge=1, le=36_500, description="days after which parked views of a missing VOD are pruned (default: never)"
    )
    history_start: Day | None = Field(
        None,
        description="first day of `daily_views`; earlier days are not rolled up (default: the day of the first flush)",
    )
    history_timezone: TimeZone = Field(
        ZoneInfo("UTC"),
        description="IANA name of the time zone of days: of `daily_views`, daily schedules and the status page."
        " To change it later, run a backfill",
    )
    ledger_retention_days: int = Field(
        30, ge=0, le=36_500, description="days that the ledger is kept once it is rolled up and settled; `0`: for ever"
    )
    run_retention_days: int = Field(
        7, ge=0, le=36_500, description="days that successful runs stay in Dagster; `0`: for ever"
    )
    failed_run_retention_days: int = Field(
        30, ge=0, le=36_500, description="days that failed and canceled runs stay in Dagster; `0`: for ever"
    )
    rejected_retention_days: int | None = Field(
        None, ge=1, le=36_500, description="days after which rejected input is pruned (default: never)"
    )
    alert_webhook_url: HttpUrl | None = Field(
        None, description="webhook to which failed runs are posted as JSON (default: none, they are only logged)"
    )
    redis_wait_replicas: int = Field(
        0, ge=0, le=100, description="replicas that must acknowledge the read counters before they are committed"
    )
    redis_wait_aof: int = Field(
        0, ge=0, le=1, description="`1`: the append-only file must have them too (Redis 7.2 or newer)"
    )
    redis_wait_timeout_ms: int = Field(
        3000, ge=1, le=60_000, description="how long a run waits for them before it fails and is retried"
    )
    postgres_wait_standbys: int = Field(
        0,
        ge=0,
        le=100,
        description="standbys of PostgreSQL that must have a flush on disk before it is subtracted from Redis",
    )
    postgres_wait_timeout_ms: int = Field(
        10_000, ge=1, le=600_000, description="how long a run waits for them before it fails; a later run continues"
    )
    redis_without_marker: RedisWithoutMarker = Field(
        "hold",
        description="what happens to views in a Redis that has lost its marker and that may have been counted before:"
        " `hold` them until somebody decides, or `count` them again",
    )
    batch_size: int = Field(
        100, ge=1, le=5000, description="counters in a batch: bounds how long one script blocks Redis"
    )
    flush_streams: int = Field(
        1,
        ge=1,
        le=MAX_PARTS,
        description="parts into which the VODs are cut; each is flushed by itself, side by side with the others."
        " To change it later, run `streams apply`",
    )
    batch_interval_ms: int = Field(
        30_000, ge=1, le=86_400_000, description="shortest time between two flushes by the sensor (at least 5 s)"
    )
    flush_max_counters: int | None = Field(
        None,
        ge=1,
        le=1_000_000,
        description="counters in one transaction: bounds how long rows are locked"
        " (default: 10000, with `TARGET_TABLE` 4000)",
    )
    run_max_counters: int = Field(
        RUN_COUNTERS,
        ge=1,
        le=100_000_000,
        description="counters that one run reads: bounds its memory. The next run starts at once while some remain",
    )
    pubsub_mode: PubSubMode = Field(
        "increment",
        description="`increment`: messages carry the views; `announce`: producers increment the counters themselves",
    )
    pubsub_channel: RedisName = Field("view_count_updates", description="channel on which producers publish")
    totals_channel: RedisName = Field(
        "view_count_totals", description="channel on which the new totals are published after each flush"
    )
    counter_prefix: RedisName = Field(
        DEFAULT_PREFIX, description="prefix of the keys of the counters; each pipeline on a Redis needs its own"
    )
    sweep_cron: CronExpression = Field("* * * * *", description="when all counters are scanned, announced or not (UTC)")
    sensor_scan_max_keys: int = Field(
        100_000,
        ge=0,
        le=1_000_000,
        description="keys that each tick of the sensor scans for counters nobody announced; `0`: none",
    )
    sensor_scan_max_percent: int = Field(
        2, ge=1, le=100, description="percentage of Redis' time that this scan may take if there are more keys"
    )
    health_check_port: int = Field(
        3003, ge=1, le=65535, description="port of the worker's status page, `/health`, `/ping`, `/metrics`"
    )
    health_check_host: str = Field("127.0.0.1", min_length=1, description="address on which they are served")
    freshness_limit_ms: int | None = Field(
        None,
        ge=1,
        description="age of the oldest pending view at which `/health` turns unhealthy"
        " (default: ten times `BATCH_INTERVAL_MS`, at least 5 minutes)",
    )
    log_level: LogLevel = Field(
        "info",
        description="`debug` (also decisions), `info`, `warning` or `error`, in any case;"
        " of other libraries only warnings",
    )
    log_format: LogFormat = Field(
        "text", description="`text` (key=value) or `json`, one event a line; Dagster's own lines are always JSON"
    )
    otel_exporter_otlp_endpoint: HttpUrl | None = Field(
        None,
        description="OTLP/HTTP address of a collector, such as `http://localhost:4318`, that gets traces of flush runs;"
        " needs the extra `otel` (default: none)",
    )
    dagster_database_url: DatabaseUrl | None = Field(
        None,
        description="Dagster's own storage (default: the schema `dagster` of `DATABASE_URL`)",
    )
    dagster_ui_url: BaseUrl | None = Field(
        None, description="address of Dagster's UI, to which the worker's status page links (default: no links)"
    )
    dagster_home: Path | None = Field(None, description="Dagster's directory (default: `VIEWER_HOME/dagster`)")
    celery_broker_url: BrokerUrl | None = Field(
        None,
        description="Redis by which runs are sent to Celery workers on any machine; needs the extra `celery`"
        " (default: runs are processes of the code server)",
    )
    warm_runs: bool = Field(
        True,
        description="`true`: runs are forked from a process that has imported everything (on Linux);"
        " `false`: each is a new Python process",
    )
    viewer_home: Path = Field(Path(".viewer"), description="where the embedded servers keep their data")
    shutdown_timeout_ms: int = Field(
        25_000, ge=0, le=3_600_000, description="how long a stop may take to fold and flush the remaining views"
    )

    @field_validator("*", mode="before")
    @classmethod
    def _text_is_visible(cls, value: object, info: ValidationInfo) -> object:
        """Refuse blanks, invisible characters and quotes around any value, whatever its type would make of them."""
        if isinstance(value, str):
            check_setting_text(value, is_sql_name=info.field_name in SQL_NAMES)
        return value

    @model_validator(mode="after")
    def _redis_names_do_not_overlap_own_keys(self) -> Self:
        """Refuse names that overlap with our own keys and channels: the marker could be taken for a counter."""
        check_redis_names(self.counter_prefix, self.pubsub_channel, self.totals_channel)
        return self

    @property
    def freshness_limit_seconds(self) -> float:
        """Age of the oldest pending view at which /health is unhealthy."""
        default_ms = max(FRESHNESS_INTERVALS * self.batch_interval_ms, FRESHNESS_FLOOR_MS)
        return (default_ms if self.freshness_limit_ms is None else self.freshness_limit_ms) / 1000

    @property
    def max_counters_per_flush(self) -> int:
        """Most counters of one transaction.

        Fewer with a target table: its rows are wide, and editors of the same rows wait for the transaction.
        """
        return self.flush_max_counters or (FLUSH_COUNTERS if self.target_table is None else TARGET_FLUSH_COUNTERS)

    @property
    def sensor_interval_seconds(self) -> int:
        """Whole seconds between two ticks of the sensor, at least 5."""
        return max(MIN_SENSOR_SECONDS, -(-self.batch_interval_ms // 1000))

    @property
    def dagster_directory(self) -> Path:
        """The absolute path of DAGSTER_HOME."""
        return (self.dagster_home or self.viewer_home / "dagster").absolute()

    @property
    def sensor_scan_max_seconds(self) -> float:
        """Time of Redis that the scan of one tick may take."""
        return self.sensor_interval_seconds * self.sensor_scan_max_percent / 100

    def require_database_url(self) -> str:
        """Return DATABASE_URL. Raises NoServer if it is not set."""
        return self._require_url("DATABASE_URL", self.database_url, "postgresql://user@host:port/database")

    def require_redis_url(self) -> str:
        """Return REDIS_URL. Raises NoServer if it is not set."""
        return self._require_url("REDIS_URL", self.redis_url, "redis://host:port/0")

    def _require_url(self, name: str, url: str | None, form: str) -> str:
        if url is None:
            home = self.viewer_home.absolute()
            if own := read_settings_of_running_up(home).get(SETTINGS, {}).get(name.lower()):
                message = f"`up` of VIEWER_HOME={home} uses your server {own}, and {name} is not set here"
                raise NoServer(message, f"set {name} as for `up`; passwords are not passed on")
            if is_home_directory_locked(home):
                message = f"`up` of VIEWER_HOME={home} is starting, and {name} is not set"
                raise NoServer(message, f"try again in some seconds, or set {name}={form}")
            message = f"nothing runs for VIEWER_HOME={home}, and {name} is not set"
            raise NoServer(message, f"start `{command_to_type('up')}` for this VIEWER_HOME, or set {name}={form}")
        return url

    def require_dagster_database_url(self) -> str:
        """Return DAGSTER_DATABASE_URL, else DATABASE_URL. Raises SettingsError if neither is set."""
        return self.dagster_database_url or self.require_database_url()

    def require_celery_broker_url(self) -> str:
        """Return CELERY_BROKER_URL. Raises SettingsError if it is not set."""
        if self.celery_broker_url is None:
            raise SettingsError("CELERY_BROKER_URL is not set", "set it as for the daemon, redis://host:port/0")
        return self.celery_broker_url

    def dagster_storage_url(self) -> PostgresUrl:
        """Return the URL of Dagster's storage: DAGSTER_DATABASE_URL, else a schema of DATABASE_URL."""
        if self.dagster_database_url is not None:
            return PostgresUrl.of(self.dagster_database_url)
        return PostgresUrl.of(self.require_database_url()).in_schema(DAGSTER_SCHEMA)

    def dropped_parameters(self) -> dict[str, str]:
        """Return the unknown parameters of the database URLs, which are dropped: variable -> names."""
        urls = {"DATABASE_URL": self.database_url, "DAGSTER_DATABASE_URL": self.dagster_database_url}
        dropped = {name: ", ".join(PostgresUrl.of(url).dropped) for name, url in urls.items() if url is not None}
        return {name: names for name, names in dropped.items() if names}

    def ignored_redis_parameters(self) -> tuple[str, ...]:
        """Return the parameters of REDIS_URL that are known and have no effect."""
        return () if self.redis_url is None else RedisUrl.of(self.redis_url).ignored

    def child_process_environment(self) -> dict[str, str]:
        """Return the environment of a child process: that of this process, with these settings in it.

        Settings without a value are unset in the child, whatever `.env` contains: it does not read that file again.
        Raises SettingsError if Dagster would have no storage.
        """
        self.dagster_storage_url()
        dumped = {name.upper(): value for name, value in self.model_dump().items()}
        return {
            "DAGSTER_GRPC_TIMEOUT_SECONDS": str(LAUNCH_SECONDS),
            **environment_without_settings(),
            **{name: str(value) for name, value in dumped.items() if value is not None},
            "DAGSTER_HOME": str(self.dagster_directory),
            "VIEWER_HOME": str(self.viewer_home.absolute()),
            "OPENBLAS_NUM_THREADS": "1",  # numpy would start threads when it is imported: a fork is not safe then
            "grpc_proxy": "",  # outranks http_proxy and https_proxy: gRPC connects to the code server directly
            COMPLETE_VARIABLE: "1",
        }

    def export_to_os_environ(self) -> None:
        """Put these settings into the environment of this process, where Dagster's storage and home are read."""
        environment = self.child_process_environment()
        for name in os.environ.keys() - environment.keys():
            del os.environ[name]
        os.environ.update(environment)

    def copy_unvalidated(self, **updates: Any) -> Self:
        """Return a copy with some values replaced, without validation of them."""
        return self.model_copy(update=updates)


SETTING_NAMES = [name.upper() for name in Settings.model_fields]


def load_settings(**given: str) -> Settings:
    """Read the environment, and `.env` in the working directory. `given`: values that take precedence over both.

    Raises SettingsError, which names each unusable variable with its value and what is expected.
    """
    try:
        if is_child_process():
            return _parse(*(variable for variable in os.environ.items() if variable[0].upper() in SETTING_NAMES))
        read_env_file(SETTING_NAMES, os.environ)  # refuses lines that pydantic skips
        return Settings(**given)  # type: ignore[arg-type] # text, which is parsed as that of a variable is
    except UnicodeDecodeError:
        raise SettingsError("the file .env in the working directory is not UTF-8") from None
    except OSError as error:
        raise SettingsError(f"the file .env in the working directory cannot be read: {error.strerror}") from None
    except ValidationError as error:
        raise SettingsError(describe_invalid_settings(error)) from None


@lru_cache(maxsize=1)
def _parse(*_variables: tuple[str, str]) -> Settings:
    """Read the environment alone. Once, until one of the variables changes: a run needs its settings in four places."""
    return Settings(_env_file=None)


def environment_without_settings() -> dict[str, str]:
    """Return the variables of this process that are not settings."""
    return {name: value for name, value in os.environ.items() if name.upper() not in SETTING_NAMES}


def read_grpc_proxy_variables() -> dict[str, str]:
    """Return those of GRPC_PROXY_VARIABLES that are set: not settings of ours, but Dagster's own commands use them."""
    return {name: os.environ[name] for name in GRPC_PROXY_VARIABLES if name in os.environ}


def is_child_process() -> bool:
    """Whether the environment is one of `child_process_environment`: `.env` is in it, and warnings were logged."""
    return COMPLETE_VARIABLE in os.environ


def unknown_variables() -> list[UnknownVariable]:
    """Return the variables in `.env` that are no settings, and those of the environment that were meant as one."""
    return find_unknown_variables(SETTING_NAMES, os.environ, read_env_file(SETTING_NAMES, os.environ))
