"""The types of settings: which values a variable accepts, and the message on what is expected. Pure.

URLs are checked without a library's parser: those cite the password in their errors.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import date
from difflib import get_close_matches
from typing import Annotated, Literal, get_args
from zoneinfo import ZoneInfo, available_timezones

from croniter import croniter
from pydantic import AfterValidator, BeforeValidator, Field

from viewer_pipeline.postgres_url import PostgresUrl
from viewer_pipeline.redis_url import REDIS_SCHEMES, RedisUrl
from viewer_pipeline.sql_identifiers import parse_column, parse_table

NO_TIME_ZONES = {"localtime", "posixrules", "Factory"}  # files beside those of the zones
POSTGRES_SCHEMES = ("postgresql", "postgres")


def _url_with_scheme(*schemes: str) -> AfterValidator:
    expected = f"expected a URL that starts with {' or '.join(scheme + '://' for scheme in schemes)}"

    def check(url: str) -> str:
        if not url.startswith(tuple(scheme + "://" for scheme in schemes)):
            raise ValueError(expected)
        if re.search(r"\s", url):
            raise ValueError(f"{expected} and has no blanks (write %20)")
        if not _ports_are_valid(url):
            raise ValueError(f"{expected}, with a port between 1 and 65535 if any")
        return url

    return AfterValidator(check)


def _ports_are_valid(url: str) -> bool:
    authority = re.split(r"[/?]", url.partition("://")[2].rpartition("@")[2], maxsplit=1)[0]
    ports = re.findall(r":([^:,\]]*)(?=,|$)", authority)
    return all(not port or (port.isascii() and port.isdigit() and 1 <= int(port) <= 65535) for port in ports)


def _accepted_by(parse: Callable[[str], object]) -> AfterValidator:
    def check(text: str) -> str:
        parse(text)
        return text

    return AfterValidator(check)


def _check_encoded_login(url: str) -> None:
    # libpq would take the rest of the password for the host, and cite it in its errors.
    login = re.split(r"[/?]", url.partition("://")[2], maxsplit=1)[0].rpartition("@")[0]
    if "@" in login:
        raise ValueError("expected @ in user and password to be written as %40")
    if re.search(r"%(?![0-9A-Fa-f]{2})", login):
        raise ValueError("expected % in user and password to be written as %25")


def _check_cron(expression: str) -> None:
    # As Dagster reads it: five fields, and no 30th of February.
    valid = len(expression.split()) == 5 and croniter.is_valid(expression)
    if valid:
        fields = croniter.expand(expression)[0]
        valid = not (fields[3] == [2] and fields[2] in ([30], [31]))
    if not valid:
        raise ValueError("expected five cron fields such as `* * * * *`")


def _require_date_first(value: object) -> object:
    # pydantic takes `0` for a time, the first of 1970: all days since then would be partitions of `daily_views`.
    if isinstance(value, str) and not re.match(r"[0-9]{4}-[0-9]{2}-[0-9]{2}([T ]|$)", value):
        raise ValueError("expected a day, such as 2026-01-31")
    return value


def _parse_time_zone(value: object) -> object:
    # zoneinfo finds files by name: also those with leap seconds, and the zone of this machine, which have no IANA name.
    if not isinstance(value, str):
        return value
    if not value.startswith(("right/", "posix/")) and value not in NO_TIME_ZONES:
        try:
            return ZoneInfo(value)
        except (KeyError, OSError, ValueError):  # no such zone, a directory, no relative path
            pass
    similar = get_close_matches(value, sorted(available_timezones() - NO_TIME_ZONES), 1)
    raise ValueError(f"expected the IANA name of a time zone, such as {similar[0] if similar else 'Europe/Berlin'}")


def _lower_level(value: object) -> object:
    # Only a level: the message on anything else cites it as it was written.
    return value.lower() if isinstance(value, str) and value.lower() in get_args(LowerCaseLevel) else value


def _check_base_url(url: str) -> None:
    # It is shown in a page, without a login.
    if re.search(r"[@?#]", url):
        raise ValueError("expected an address such as https://dagster.example.com, without login, ? and #")


DatabaseUrl = Annotated[
    str, _url_with_scheme(*POSTGRES_SCHEMES), _accepted_by(_check_encoded_login), _accepted_by(PostgresUrl.of)
]
RedisServerUrl = Annotated[str, _url_with_scheme(*REDIS_SCHEMES), _accepted_by(RedisUrl.of)]
BrokerUrl = Annotated[str, _url_with_scheme("redis", "rediss"), _accepted_by(RedisUrl.of)]
HttpUrl = Annotated[str, _url_with_scheme("https", "http")]
BaseUrl = Annotated[HttpUrl, _accepted_by(_check_base_url)]
RedisName = Annotated[str, Field(min_length=1, max_length=200)]
TableName = Annotated[str, _accepted_by(parse_table)]
ColumnName = Annotated[str, _accepted_by(parse_column)]
CronExpression = Annotated[str, _accepted_by(_check_cron)]
Day = Annotated[date, BeforeValidator(_require_date_first)]
TimeZone = Annotated[ZoneInfo, BeforeValidator(_parse_time_zone)]
LowerCaseLevel = Literal["debug", "info", "warning", "error"]
PubSubMode = Literal["increment", "announce"]
RedisWithoutMarker = Literal["hold", "count"]
LogLevel = Annotated[LowerCaseLevel, BeforeValidator(_lower_level)]
LogFormat = Literal["text", "json"]
