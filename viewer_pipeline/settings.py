"""Every environment variable, read once. No other module reads the environment."""

from __future__ import annotations

import os
import re
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, Literal, Self
from urllib.parse import SplitResult, quote, urlsplit, urlunsplit

from cronsim import CronSim, CronSimError
from pydantic import AfterValidator, Field, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from viewer_pipeline.errors import SettingsError

PubSubMode = Literal["increment", "announce"]
LogLevel = Literal["debug", "info", "warning", "error"]

POSTGRES_SCHEMES = ("postgresql", "postgres")
REDIS_SCHEMES = ("redis", "rediss", "unix")
STORAGE_VARIABLE = "VIEWER_DAGSTER_STORAGE_URL"  # what dagster.yaml reads; made from the settings, not one of them
SENSOR_FLOOR_SECONDS = 5  # Dagster's daemon looks at sensors no more often


def _url_of(schemes: tuple[str, ...]) -> AfterValidator:
    def check(url: str) -> str:
        scheme = urlsplit(url).scheme
        if scheme not in schemes or "://" not in url:
            raise ValueError(f"expected a URL that starts with {' or '.join(s + '://' for s in schemes)}")
        return url

    return AfterValidator(check)


def _cron(expression: str) -> str:
    try:
        CronSim(expression, datetime.now(UTC))
    except CronSimError as error:
        raise ValueError(f"expected five cron fields such as `* * * * *` ({error})") from None
    if len(expression.split()) != 5:
        raise ValueError("expected five cron fields such as `* * * * *`")
    return expression


PostgresUrl = Annotated[str, _url_of(POSTGRES_SCHEMES)]
RedisUrl = Annotated[str, _url_of(REDIS_SCHEMES)]
RedisName = Annotated[str, Field(min_length=1, max_length=200)]


class Settings(BaseSettings):
    """What the environment says; field `batch_size` is the variable `BATCH_SIZE`."""

    model_config = SettingsConfigDict(env_file=".env", env_ignore_empty=True, extra="ignore", frozen=True)

    database_url: PostgresUrl | None = Field(
        None, description="PostgreSQL: `postgresql://user:password@host:port/database`"
    )
    redis_url: RedisUrl | None = Field(None, description="Redis: `redis://`, `rediss://` or `unix://`")
    batch_size: int = Field(100, ge=1, le=5000, description="counters in a batch: bounds how long a script holds Redis")
    batch_interval_ms: int = Field(
        30_000, ge=1, le=86_400_000, description="how often the sensor may launch a flush (5 s at least)"
    )
    flush_max_counters: int = Field(
        10_000, ge=1, le=1_000_000, description="counters in one transaction: bounds row locks and the reader's window"
    )
    pubsub_mode: PubSubMode = Field(
        "increment", description="`increment`: messages carry the views; `announce`: the producer has counted already"
    )
    pubsub_channel: RedisName = Field("view_count_updates", description="channel that producers publish on")
    counter_prefix: RedisName = Field("vod:views:", description="what the key of a counter begins with")
    sweep_cron: Annotated[str, AfterValidator(_cron)] = Field(
        "* * * * *", description="when all counters are looked for, announced or not (UTC)"
    )
    log_level: LogLevel = Field("info", description="`debug`, `info`, `warning` or `error`")
    dagster_database_url: PostgresUrl | None = Field(
        None, description="Dagster's own storage (default: the schema `dagster` of `DATABASE_URL`)"
    )
    dagster_home: Path | None = Field(None, description="Dagster's directory (default: `VIEWER_HOME/dagster`)")
    viewer_home: Path = Field(Path(".viewer"), description="where the embedded servers keep their data")
    shutdown_timeout_ms: int = Field(
        25_000, ge=0, le=3_600_000, description="how long a stop of `up` may take before what is left is killed"
    )

    @property
    def sensor_interval_seconds(self) -> int:
        """Whole seconds between two looks of the sensor, 5 at least."""
        return max(SENSOR_FLOOR_SECONDS, -(-self.batch_interval_ms // 1000))

    @property
    def dagster_directory(self) -> Path:
        """Where Dagster keeps what is not in its database; absolute."""
        return (self.dagster_home or self.viewer_home / "dagster").absolute()

    def require_database_url(self) -> str:
        """Return DATABASE_URL, or say what to do without one."""
        if self.database_url is None:
            raise SettingsError("DATABASE_URL is not set; expected postgresql://user:password@host:port/database")
        return self.database_url

    def require_redis_url(self) -> str:
        """Return REDIS_URL, or say what to do without one."""
        if self.redis_url is None:
            raise SettingsError("REDIS_URL is not set; expected redis://host:port/0")
        return self.redis_url

    def dagster_storage_url(self) -> str:
        """Return the URL of Dagster's storage, in the form that dagster-postgres needs.

        SQLAlchemy 2.1 opens a plain `postgresql://` with psycopg 3, on which dagster-postgres fails at its first event.
        """
        if self.dagster_database_url is not None:
            return _with_driver(urlsplit(self.dagster_database_url))
        parts = urlsplit(self.require_database_url())
        option = "options=" + quote("-csearch_path=dagster", safe="")
        return _with_driver(parts._replace(query=f"{parts.query}&{option}" if parts.query else option))

    def environment(self) -> dict[str, str]:
        """Return the environment of this process with these settings in it, for a child or for Dagster itself."""
        dumped = self.model_dump(exclude_none=True)
        return {
            **os.environ,
            **{name.upper(): str(value) for name, value in dumped.items()},
            "DAGSTER_HOME": str(self.dagster_directory),
            "VIEWER_HOME": str(self.viewer_home.absolute()),
            STORAGE_VARIABLE: self.dagster_storage_url(),
        }

    def export(self) -> None:
        """Put these settings into the environment of this process, where Dagster looks for them."""
        os.environ.update(self.environment())

    def changed(self, **updates: Any) -> Self:
        """Return a copy with some values replaced."""
        return self.model_copy(update=updates)


def _with_driver(parts: SplitResult) -> str:
    return urlunsplit(parts._replace(scheme="postgresql+psycopg2"))


def load_settings() -> Settings:
    """Read the environment (and `.env` in the working directory).

    Raises SettingsError, which names each unusable variable, its value and what is expected.
    """
    try:
        return Settings()
    except ValidationError as error:
        complaints = [_complaint(e["loc"], e["input"], e["msg"]) for e in error.errors()]
        raise SettingsError("; ".join(complaints)) from None


def _complaint(location: tuple[int | str, ...], value: object, message: str) -> str:
    name = str(location[0]).upper() if location else "?"
    return f"{name}={without_password(str(value))!r}: {message.removeprefix('Value error, ')}"


def without_password(text: str) -> str:
    """Return `text` with the passwords of URLs in it, also of malformed ones, replaced by `***`."""
    return re.sub(r":(?!//)\S*@", ":***@", re.sub(r"(?i)(password=)[^&\s]*", r"\1***", text))
