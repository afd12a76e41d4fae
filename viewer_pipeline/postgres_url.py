"""A PostgreSQL URL as libpq or Prisma writes it, and what each of our clients connects with because of it.

The only place where the parameters of a connection come from (docs/how-to/connection-strings.md lists them).
"""

from __future__ import annotations

import re
import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Self
from urllib.parse import unquote, unquote_plus

from psycopg import ProgrammingError
from psycopg.conninfo import conninfo_to_dict
from psycopg.pq import Conninfo

LIBPQ = frozenset(option.keyword.decode() for option in Conninfo.get_defaults())
PRISMAS = frozenset(
    {
        "schema",
        "pgbouncer",
        "socket_timeout",
        "sslaccept",
        "sslidentity",
        # of its pool, without effect: we open one connection a step
        "connection_limit",
        "pool_timeout",
        "statement_cache_size",
        "max_connection_lifetime",
        "max_idle_connection_lifetime",
    }
)
SECRET = frozenset({"password", "sslpassword"})  # an & in it that is not encoded makes the rest of it a parameter
# Authorities that the system trusts, where there is no SSL_CERT_FILE: Debian, Red Hat, Alpine and macOS.
BUNDLES = ("/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt", "/etc/ssl/cert.pem")
NAME = re.compile(r"[A-Za-z_][\w.-]{0,40}", re.ASCII)


@dataclass(frozen=True)
class PostgresUrl:
    """What a URL says. `dropped`: names of parameters that mean nothing to us."""

    parameters: Mapping[str, str] = field(repr=False)  # libpq's, without `options`
    settings: Mapping[str, str] = field(repr=False)  # PostgreSQL's, that `options` sets
    options: tuple[str, ...] = field(repr=False)  # the rest of them, perhaps for a pooler
    schema: str | None  # of the user's tables
    pgbouncer: bool
    answer_seconds: float | None  # longest wait for an answer
    dropped: tuple[str, ...]

    @classmethod
    def of(cls, url: str) -> Self:
        """Read a URL. Raises ValueError, which says what is wrong and cites no part that may be secret."""
        head, query = _halves(url)
        said, prismas, dropped = _sorted_out(query)
        parameters = _read_by_libpq(f"{head}?{'&'.join(said)}")
        settings, options = _settings_in(parameters.pop("options", ""))
        if "," in parameters.get("host", ""):  # a standby is of no use to us
            parameters.setdefault("target_session_attrs", "read-write")
        return cls(
            _with_prismas_tls(parameters, prismas),
            settings,
            options,
            prismas.get("schema") or None,
            _one_of("pgbouncer", prismas, "false", "true") == "true",
            _seconds("socket_timeout", prismas),
            tuple(dropped),
        )

    @property
    def place(self) -> str:
        """Return host, port and database, for people; without login."""
        host, port = self.parameters.get("host", "local socket"), self.parameters.get("port", "5432")
        return f"{host}:{port}/{self.parameters.get('dbname', self.parameters.get('user', ''))}"

    def in_schema(self, schema: str) -> Self:
        """Return it with another schema."""
        return replace(self, schema=schema)

    def session_settings(self, ours: Mapping[str, str]) -> dict[str, str]:
        """Return PostgreSQL's settings that our statements need: what the URL says goes before `ours`."""
        search_path = {} if self.schema is None else {"search_path": _quoted(self.schema)}
        return {**ours, **self.settings, **search_path}

    def arguments(self, ours: Mapping[str, Any], settings: Mapping[str, str]) -> dict[str, Any]:
        """Return what `psycopg.connect` takes: what the URL says goes before `ours`.

        A PgBouncer that pools transactions refuses settings at the start. They are for each transaction then:
        `session_settings`, by SET LOCAL.
        """
        options = [*self.options]
        if not self.pgbouncer:
            options += [f"-c{name}={value}" for name, value in self.session_settings(settings).items()]
        found = {**ours, **self.parameters}
        if options:
            found["options"] = " ".join(re.sub(r"([\\\s])", r"\\\1", word) for word in options)
        return found | ({"prepare_threshold": None} if self.pgbouncer else {})

    def sqlalchemy_url(self) -> str:
        """Return it, password and all, for SQLAlchemy with psycopg2: on psycopg 3, dagster-postgres fails."""
        from sqlalchemy.engine import URL  # noqa: PLC0415 - for Dagster's storage only

        said: dict[str, Any] = self.arguments({}, {})
        host, port = said.get("host", ""), said.get("port", "")
        plain = bool(host) and not host.startswith("/") and "," not in host + port
        return URL.create(
            "postgresql+psycopg2",
            username=said.pop("user", None),
            password=said.pop("password", None),
            host=said.pop("host", None) if plain else None,
            port=int(said.pop("port")) if plain and port else None,
            database=said.pop("dbname", None),
            query=said,
        ).render_as_string(hide_password=False)


def _halves(url: str) -> tuple[str, str]:
    """Part a URL at its query, as libpq does: there may be a question mark in the password."""
    start = url.index("://") + 3
    if login := re.compile(r"[^@/]*@").match(url, start):
        start = login.end()
    head, _, query = url[start:].partition("?")
    return url[:start] + head, query


def _sorted_out(query: str) -> tuple[list[str], dict[str, str], list[str]]:
    """Return what libpq is told, as it was written; Prisma's own parameters; the names of those that are dropped."""
    said, prismas, dropped, in_secret = list[str](), dict[str, str](), list[str](), False
    for parameter in filter(None, query.split("&")):
        key, equals, value = parameter.partition("=")
        name = unquote(key)
        if not equals:
            raise ValueError("expected name=value for each parameter (write & in a value as %26)")
        if name in LIBPQ or parameter == "ssl=true":
            said.append(f"{key}={value.replace('=', '%3D')}")
        elif name in PRISMAS:
            prismas[name] = unquote_plus(value)
        else:
            dropped.append(name if NAME.fullmatch(name) and not in_secret else "***")
        in_secret = name in SECRET or (in_secret and name not in LIBPQ | PRISMAS)
    if "sslidentity" in prismas:  # PKCS #12, which libpq does not read
        dropped.append("sslidentity")
    return said, prismas, dropped


def _read_by_libpq(url: str) -> dict[str, str]:
    try:
        return {name: str(value) for name, value in conninfo_to_dict(url).items() if value is not None}
    except ProgrammingError:
        raise ValueError("PostgreSQL's client library does not understand it") from None


def _settings_in(options: str) -> tuple[dict[str, str], tuple[str, ...]]:
    """Part `options` into settings (-c name=value, --name=value) and other words, as PostgreSQL reads them."""
    settings, others = dict[str, str](), list[str]()
    words = iter([re.sub(r"\\(.)", r"\1", word) for word in re.findall(r"(?:\\.|[^\s\\])+", options)])
    for word in words:
        written = next(words, "") if word == "-c" else word[2:]
        name, equals, value = written.partition("=")
        if word.startswith(("-c", "--")) and equals:
            settings[name.replace("-", "_")] = value
        else:
            others += [word, written] if word == "-c" else [word]
    return settings, tuple(others)


def _with_prismas_tls(said: dict[str, str], prismas: Mapping[str, str]) -> dict[str, str]:
    """Say `sslaccept`, and a `sslcert` of Prisma's (the server's authority, not our certificate), in libpq's words."""
    accept = _one_of("sslaccept", prismas, "", "strict", "accept_invalid_certs")
    if prismas and "sslkey" not in said and "sslcert" in said:
        authority = said.pop("sslcert")
        if accept != "accept_invalid_certs":  # libpq would check the server by it even so
            said.setdefault("sslrootcert", authority)
    if accept == "strict" and said.get("sslmode") not in ("disable", "verify-ca", "verify-full"):
        said |= {"sslmode": "verify-full", "sslrootcert": said.get("sslrootcert", "system")}
    elif accept == "accept_invalid_certs":
        said.setdefault("sslmode", "require")
    if said.get("sslrootcert") == "system" and said.get("sslmode", "verify-full") == "verify-full":
        said |= {"sslmode": "verify-full", "sslrootcert": system_authorities()}
    return said


def system_authorities() -> str:
    """Return a file for `sslrootcert=system`, which a client library out of a wheel looks for where it was built."""
    places = (ssl.get_default_verify_paths().cafile, *BUNDLES)
    return next((place for place in places if place and Path(place).exists()), "system")


def _one_of(name: str, said: Mapping[str, str], default: str, *values: str) -> str:
    value = said.get(name, default)
    if value not in (default, *values):
        raise ValueError(f"expected {' or '.join(f'{name}={known}' for known in (default, *values) if known)}")
    return value


def _seconds(name: str, said: Mapping[str, str]) -> float | None:
    """Return a number of seconds; None where it is 0, which is for ever: our own bound holds then."""
    value = said.get(name, "0")
    if not re.fullmatch(r"\d{1,6}", value, re.ASCII):
        raise ValueError(f"expected {name}= in whole seconds")
    return float(value) or None


def _quoted(schema: str) -> str:
    return '"' + schema.replace('"', '""') + '"'
