"""Every environment variable, read once. No other module reads the environment."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from croniter import croniter
from pydantic import AfterValidator, Field, ValidationError, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from viewer_pipeline.errors import SettingsError
from viewer_pipeline.identifiers import parse_column, parse_table
from viewer_pipeline.postgres_url import PostgresUrl
from viewer_pipeline.redis_names import CHANNEL_NAMESPACES, DEFAULT_PREFIX, KEY_NAMESPACES

PubSubMode = Literal["increment", "announce"]
LogLevel = Literal["debug", "info", "warning", "error"]
LogFormat = Literal["text", "json"]

POSTGRES_SCHEMES = ("postgresql", "postgres")
REDIS_SCHEMES = ("redis", "rediss", "unix", "redis+sentinel", "rediss+sentinel")
STORAGE_VARIABLE = "VIEWER_DAGSTER_STORAGE_URL"  # what dagster.yaml reads; made from the settings, not one of them
DAGSTER_SCHEMA = "dagster"  # of DATABASE_URL
SECRET = ("ALERT_WEBHOOK_URL",)  # who knows it can post there: its path is often a token
SHOWN_CHARACTERS = 300  # of a bad value in an error
SENSOR_FLOOR_SECONDS = 5  # Dagster's daemon looks at sensors no more often
FLUSH_COUNTERS, TARGET_FLUSH_COUNTERS = 10_000, 4_000
FRESHNESS_INTERVALS, FRESHNESS_FLOOR_MS = 10, 300_000


def _url_of(schemes: tuple[str, ...]) -> AfterValidator:
    expected = f"expected a URL that starts with {' or '.join(scheme + '://' for scheme in schemes)}"

    def check(url: str) -> str:
        if not url.startswith(tuple(scheme + "://" for scheme in schemes)):
            raise ValueError(expected)
        if re.search(r"\s", url):
            raise ValueError(f"{expected} and has no blanks (write %20)")
        if not _port_is_a_port(url):
            raise ValueError(f"{expected}, with a port between 1 and 65535 if any")
        return url

    return AfterValidator(check)


def _port_is_a_port(url: str) -> bool:
    """Look at the port of each host, without a URL parser: those cite the password in their errors."""
    authority = re.split(r"[/?]", url.partition("://")[2].rpartition("@")[2], maxsplit=1)[0]
    ports = re.findall(r":([^:,\]]*)(?=,|$)", authority)
    return all(not port or (port.isascii() and port.isdigit() and 1 <= int(port) <= 65535) for port in ports)


def _cron(expression: str) -> str:
    # As Dagster sees it: five fields, and no 30th of February.
    valid = len(expression.split()) == 5 and croniter.is_valid(expression)
    if valid:
        fields = croniter.expand(expression)[0]
        valid = not (fields[3] == [2] and fields[2] in ([30], [31]))
    if not valid:
        raise ValueError("expected five cron fields such as `* * * * *`")
    return expression


def _login_is_encoded(url: str) -> str:
    # libpq would take the rest of the password for the host, and cite it in its errors.
    login = re.split(r"[/?]", url.partition("://")[2], maxsplit=1)[0].rpartition("@")[0]
    if "@" in login:
        raise ValueError("expected @ in user and password to be written as %40")
    if re.search(r"%(?![0-9A-Fa-f]{2})", login):
        raise ValueError("expected % in user and password to be written as %25")
    return url


def _names_a_service(url: str) -> str:
    path = url.partition("://")[2].rpartition("@")[2].partition("?")[0].split("/")
    if "+sentinel://" in url and not (
        2 <= len(path) <= 3 and all(path[:2]) and re.fullmatch(r"\d*", path[-1] if path[2:] else "")
    ):
        raise ValueError("expected redis+sentinel://host:port,host:port/service/db, the db a number or left out")
    return url


def _reads_as(parse: Callable[[str], object]) -> AfterValidator:
    def check(text: str) -> str:
        parse(text)
        return text

    return AfterValidator(check)


def _is_understood(url: str) -> str:
    PostgresUrl.of(url)
    return url


DatabaseUrl = Annotated[
    str, _url_of(POSTGRES_SCHEMES), AfterValidator(_login_is_encoded), AfterValidator(_is_understood)
]
RedisUrl = Annotated[str, _url_of(REDIS_SCHEMES), AfterValidator(_names_a_service)]
RedisName = Annotated[str, Field(min_length=1, max_length=200)]


class Settings(BaseSettings):
    """What the environment says; field `batch_size` is the variable `BATCH_SIZE`."""

    model_config = SettingsConfigDict(env_file=".env", env_ignore_empty=True, extra="ignore", frozen=True)

    database_url: DatabaseUrl | None = Field(
        None,
        description="PostgreSQL: `postgresql://user:password@host:port/database`, with libpq's or Prisma's parameters",
    )
    redis_url: RedisUrl | None = Field(
        None,
        description="Redis: `redis://`, `rediss://`, `unix://` or `redis+sentinel://host:port,host:port/service/db`",
    )
    target_table: Annotated[str, _reads_as(parse_table)] | None = Field(
        None,
        description="your own table that gets the counts: `Vod` or `schema.table`, taken exactly as written"
        " (default: none, totals are in `viewer.vod_view_counts` alone)",
    )
    target_id_column: Annotated[str, _reads_as(parse_column)] = Field(
        "id", description="its column with the VOD's id: text, varchar, uuid, integer or bigint, with a unique index"
    )
    target_count_column: Annotated[str, _reads_as(parse_column)] = Field(
        "viewCount", description="its column with the count: smallint, integer or bigint"
    )
    target_exclusive: bool = Field(
        False, description="`true`: nobody else writes that count, so `reconcile` compares it with the totals"
    )
    parked_retention_days: int | None = Field(
        None,
        ge=1,
        le=36_500,
        description="days after which parked views are given up for a VOD that never came (default: never)",
    )
    history_start: date = Field(
        date(2026, 1, 1), description="first day (UTC) of `daily_views`; days before it are not added up"
    )
    ledger_retention_days: int = Field(
        30, ge=0, le=36_500, description="days that the ledger is kept once it is added up and settled; `0`: for ever"
    )
    run_retention_days: int = Field(
        7, ge=0, le=36_500, description="days that Dagster keeps runs that succeeded; `0`: for ever"
    )
    failed_run_retention_days: int = Field(
        30, ge=0, le=36_500, description="days that Dagster keeps runs that failed or were canceled; `0`: for ever"
    )
    rejected_retention_days: int | None = Field(
        None, ge=1, le=36_500, description="days after which rejected input is forgotten (default: never)"
    )
    alert_webhook_url: Annotated[str, _url_of(("https", "http"))] | None = Field(
        None, description="where failed runs are posted as JSON (default: nowhere, they are logged)"
    )
    redis_wait_replicas: int = Field(
        0, ge=0, le=100, description="replicas that must have what was read before it is committed"
    )
    redis_wait_aof: int = Field(
        0, ge=0, le=1, description="`1`: the append-only file must have it too (Redis 7.2 or newer)"
    )
    redis_wait_timeout_ms: int = Field(
        3000, ge=1, le=60_000, description="how long a run waits for them before it gives up, to be tried again"
    )
    batch_size: int = Field(100, ge=1, le=5000, description="counters in a batch: bounds how long a script holds Redis")
    batch_interval_ms: int = Field(
        30_000, ge=1, le=86_400_000, description="how often the sensor may launch a flush (5 s at least)"
    )
    flush_max_counters: int | None = Field(
        None,
        ge=1,
        le=1_000_000,
        description="counters in one transaction: bounds row locks and the reader's window"
        " (default: 10000, with `TARGET_TABLE` 4000)",
    )
    pubsub_mode: PubSubMode = Field(
        "increment", description="`increment`: messages carry the views; `announce`: the producer has counted already"
    )
    pubsub_channel: RedisName = Field("view_count_updates", description="channel that producers publish on")
    totals_channel: RedisName = Field(
        "view_count_totals", description="channel on which the new totals are published after each flush"
    )
    counter_prefix: RedisName = Field(
        DEFAULT_PREFIX,
        description="what the key of a counter begins with; each pipeline on a Redis needs one of its own",
    )
    sweep_cron: Annotated[str, AfterValidator(_cron)] = Field(
        "* * * * *", description="when all counters are looked for, announced or not (UTC)"
    )
    health_check_port: int = Field(
        3003, ge=1, le=65535, description="port of the worker's `/health`, `/ping`, `/metrics`"
    )
    health_check_host: str = Field("127.0.0.1", min_length=1, description="address that they are served on")
    freshness_limit_ms: int | None = Field(
        None,
        ge=1,
        description="age of the oldest pending view at which `/health` turns unhealthy"
        " (default: ten times `BATCH_INTERVAL_MS`, 5 minutes at least)",
    )
    log_level: LogLevel = Field("info", description="`debug`, `info`, `warning` or `error`; for Dagster as well")
    log_format: LogFormat = Field(
        "text", description="`text` (key=value) or `json`, one event a line; Dagster's services always write JSON"
    )
    dagster_database_url: DatabaseUrl | None = Field(
        None,
        description="Dagster's own storage, not behind PgBouncer (default: the schema `dagster` of `DATABASE_URL`)",
    )
    dagster_home: Path | None = Field(None, description="Dagster's directory (default: `VIEWER_HOME/dagster`)")
    viewer_home: Path = Field(Path(".viewer"), description="where the embedded servers keep their data")
    shutdown_timeout_ms: int = Field(
        25_000, ge=0, le=3_600_000, description="how long a stop may take to fold and flush what remains"
    )

    @model_validator(mode="after")
    def _names_do_not_collide(self) -> Self:
        """Keep the names of the producers apart from ours: a counter that is our marker would be subtracted."""
        for key in KEY_NAMESPACES:
            if key.startswith(self.counter_prefix):
                raise ValueError(f"COUNTER_PREFIX={self.counter_prefix!r}: our own key {key} begins with it")
            if self.counter_prefix.startswith(key):
                raise ValueError(f"COUNTER_PREFIX={self.counter_prefix!r}: names that begin with {key} are ours")
        for name, channel in (("PUBSUB_CHANNEL", self.pubsub_channel), ("TOTALS_CHANNEL", self.totals_channel)):
            for namespace in CHANNEL_NAMESPACES:
                if channel.startswith(namespace):
                    raise ValueError(f"{name}={channel!r}: names that begin with {namespace} are ours")
        if self.pubsub_channel == self.totals_channel:
            raise ValueError(
                f"TOTALS_CHANNEL={self.totals_channel!r}: expected another name than PUBSUB_CHANNEL, or the worker"
                " would hear its own totals as views"
            )
        return self

    @model_validator(mode="after")
    def _dagster_reaches_postgres_itself(self) -> Self:
        """Refuse PgBouncer for Dagster: it needs a schema for its session, and sets time-outs for it."""
        name, url = "DAGSTER_DATABASE_URL", self.dagster_database_url
        if url is None:
            name, url = "DATABASE_URL", self.database_url
        if url is not None and PostgresUrl.of(url).pgbouncer:
            raise ValueError(
                f"{name} has pgbouncer=true, and Dagster cannot keep its tables behind a PgBouncer that pools"
                " transactions: set DAGSTER_DATABASE_URL to PostgreSQL's own address (what Prisma calls directUrl),"
                f" such as postgresql://user:password@host:5432/database?schema={DAGSTER_SCHEMA}"
            )
        return self

    @property
    def freshness_limit_seconds(self) -> float:
        """Age of the oldest pending view at which something is wrong."""
        default_ms = max(FRESHNESS_INTERVALS * self.batch_interval_ms, FRESHNESS_FLOOR_MS)
        return (default_ms if self.freshness_limit_ms is None else self.freshness_limit_ms) / 1000

    @property
    def flush_counters(self) -> int:
        """How many counters one transaction takes at most.

        With a target table fewer: its rows are wide, and people who edit them wait for the transaction.
        """
        return self.flush_max_counters or (FLUSH_COUNTERS if self.target_table is None else TARGET_FLUSH_COUNTERS)

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

    def dagster_storage(self) -> PostgresUrl:
        """Return where Dagster's storage is: in a schema of its own, or wherever DAGSTER_DATABASE_URL says."""
        if self.dagster_database_url is not None:
            return PostgresUrl.of(self.dagster_database_url)
        return PostgresUrl.of(self.require_database_url()).in_schema(DAGSTER_SCHEMA)

    def dagster_storage_url(self) -> str:
        """Return the URL of Dagster's storage, in the form that dagster-postgres needs."""
        return self.dagster_storage().sqlalchemy_url()

    def dropped_parameters(self) -> dict[str, str]:
        """Return the names of those parameters of the database URLs that mean nothing to us: variable -> names."""
        urls = {"DATABASE_URL": self.database_url, "DAGSTER_DATABASE_URL": self.dagster_database_url}
        dropped = {name: ", ".join(PostgresUrl.of(url).dropped) for name, url in urls.items() if url is not None}
        return {name: names for name, names in dropped.items() if names}

    def environment(self) -> dict[str, str]:
        """Return the environment of this process with these settings in it, for a child or for Dagster itself.

        What is not set here is not set there, whatever `.env` says: STORAGE_VARIABLE tells that it was read already.
        """
        dumped = {name.upper(): value for name, value in self.model_dump().items()}
        return {
            **{name: value for name, value in os.environ.items() if name not in dumped},
            **{name: str(value) for name, value in dumped.items() if value is not None},
            "DAGSTER_HOME": str(self.dagster_directory),
            "VIEWER_HOME": str(self.viewer_home.absolute()),
            STORAGE_VARIABLE: self.dagster_storage_url(),
        }

    def export(self) -> None:
        """Put these settings into the environment of this process, where Dagster looks for them."""
        environment = self.environment()
        for name in os.environ.keys() - environment.keys():
            del os.environ[name]
        os.environ.update(environment)

    def changed(self, **updates: Any) -> Self:
        """Return a copy with some values replaced."""
        return self.model_copy(update=updates)


def load_settings() -> Settings:
    """Read the environment (and `.env` in the working directory).

    Raises SettingsError, which names each unusable variable, its value and what is expected.
    """
    try:
        return Settings(_env_file=None) if STORAGE_VARIABLE in os.environ else Settings()
    except UnicodeDecodeError:
        raise SettingsError("the file .env in the working directory is not UTF-8") from None
    except ValidationError as error:
        complaints = [_complaint(e["loc"], e["input"], e["msg"]) for e in error.errors()]
        raise SettingsError("; ".join(complaints)) from None


def _complaint(location: tuple[int | str, ...], value: object, message: str) -> str:
    if not location:  # said by the model, about settings that do not go together
        return message.removeprefix("Value error, ")
    name = str(location[0]).upper()
    if name in SECRET:
        value = "***"
    return f"{name}={_shortened(hide_password(str(value)))!r}: {message.removeprefix('Value error, ')}"


def _shortened(text: str) -> str:
    return text if len(text) <= SHOWN_CHARACTERS else text[:SHOWN_CHARACTERS] + "…"


# Whatever such a name ends in, and up to the next name: an & that nobody encoded is still of the password.
_PASSWORD_OPTION = re.compile(
    r"(?i)((?:password|passwd|secret|token|api_?key|scram_\w+_key)=)"
    r"(?:'[^']*'?|[^&\s]*(?:&(?![a-z_][\w.-]*=)[^&\s]*)*)"
)


def hide_password(url: str) -> str:
    """Return one URL, well-formed or not, with every password in it replaced by `***`, whatever characters it has."""
    scheme = found.group() if (found := re.match(r"[A-Za-z][\w+.-]*://", url)) else ""
    rest = re.sub(r":.*@", ":***@", url[len(scheme) :], flags=re.DOTALL)
    return _PASSWORD_OPTION.sub(r"\1***", scheme + rest)


def without_password(text: str) -> str:
    """Return a text with the passwords of the URLs in it replaced by `***`."""
    return _PASSWORD_OPTION.sub(r"\1***", re.sub(r":(?!//)\S*@", ":***@", text))
