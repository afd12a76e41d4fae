"""A PostgreSQL URL in the form of libpq or Prisma, as parameters for each of our clients.

The only source of connection parameters (docs/how-to/connection-strings.md lists them).
"""

from __future__ import annotations

import re
import ssl
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Self
from urllib.parse import unquote, unquote_plus

from psycopg import ProgrammingError
from psycopg.conninfo import conninfo_to_dict
from psycopg.pq import Conninfo

from viewer_pipeline.session_settings import PINNED
from viewer_pipeline.sql_identifiers import quoted

LIBPQ_PARAMETERS = frozenset(option.keyword.decode() for option in Conninfo.get_defaults())
PRISMA_PARAMETERS = frozenset(
    {
        "schema",
        "pgbouncer",
        "socket_timeout",
        "sslaccept",
        "sslidentity",
        # of its pool, without effect: each step opens one connection
        "connection_limit",
        "pool_timeout",
        "statement_cache_size",
        "max_connection_lifetime",
        "max_idle_connection_lifetime",
    }
)
SECRET = frozenset({"password", "sslpassword"})  # an unencoded & in it turns the rest of it into a parameter
# Certificate authorities of the system, without SSL_CERT_FILE: Debian, Red Hat, Alpine and macOS.
BUNDLES = ("/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt", "/etc/ssl/cert.pem")
NAME = re.compile(r"[A-Za-z_][\w.-]{0,40}", re.ASCII)


@dataclass(frozen=True)
class PostgresUrl:
    """A parsed URL. `dropped`: names of parameters that have no effect."""

    parameters: Mapping[str, str] = field(repr=False)  # libpq's, without `options`
    settings: Mapping[str, str] = field(repr=False)  # PostgreSQL's, that `options` sets
    options: tuple[str, ...] = field(repr=False)  # the rest of them, perhaps for a pooler
    schema: str | None  # of the user's tables
    pgbouncer: bool
    reply_seconds: float | None  # time-out of a reply
    dropped: tuple[str, ...]

    @classmethod
    def of(cls, url: str) -> Self:
        """Parse a URL. Raises ValueError, whose message cites no part that may be secret."""
        head, query = _halves(url)
        libpq, prisma, dropped = _split_libpq_and_prisma_parameters(query)
        parameters = _parse_by_libpq(f"{head}?{'&'.join(libpq)}")
        settings, options = _settings_in(parameters.pop("options", ""))
        if "," in parameters.get("host", ""):  # a standby takes no writes
            parameters.setdefault("target_session_attrs", "read-write")
        return cls(
            _with_prisma_tls(parameters, prisma),
            settings,
            options,
            prisma.get("schema") or None,
            _one_of("pgbouncer", prisma, "false", "true") == "true",
            _seconds("socket_timeout", prisma),
            tuple(dropped),
        )

    @property
    def place(self) -> str:
        """Host, port and database, for people; without login."""
        host, port = self.parameters.get("host", "local socket"), self.parameters.get("port", "5432")
        return f"{host}:{port}/{self.parameters.get('dbname', self.parameters.get('user', ''))}"

    def in_schema(self, schema: str) -> Self:
        """Return the URL with another schema."""
        return replace(self, schema=schema)

    def session_settings(self, timeouts: Mapping[str, str]) -> dict[str, str]:
        """Return the settings of a session, in the order to set them: the URL overrides `timeouts`, nothing PINNED."""
        return {**timeouts, **self.settings, **self._search_path_setting(), **PINNED}

    def arguments(self, ours: Mapping[str, Any]) -> dict[str, Any]:
        """Return the arguments of `psycopg.connect`: those of the URL override `ours`.

        `options` contains no settings, because many poolers refuse it; it is empty rather than missing, so that libpq
        does not take PGOPTIONS.
        """
        arguments = {**ours, **self.parameters, "options": _joined(self.options)}
        return arguments | ({"prepare_threshold": None} if self.pgbouncer else {})

    def _search_path_setting(self) -> dict[str, str]:
        return {} if self.schema is None else {"search_path": quoted(self.schema)}


def _halves(url: str) -> tuple[str, str]:
    """Split a URL at its query, as libpq does: the password may contain a question mark."""
    start = url.index("://") + 3
    if login := re.compile(r"[^@/]*@").match(url, start):
        start = login.end()
    head, _, query = url[start:].partition("?")
    return url[:start] + head, query


def _split_libpq_and_prisma_parameters(query: str) -> tuple[list[str], dict[str, str], list[str]]:
    """Return the parameters for libpq, as written; Prisma's own parameters; the names of dropped ones."""
    libpq, prisma, dropped, in_secret = list[str](), dict[str, str](), list[str](), False
    for parameter in filter(None, query.split("&")):
        key, equals, value = parameter.partition("=")
        name = unquote(key)
        if not equals:
            raise ValueError("expected name=value for each parameter (write & in a value as %26)")
        if name in LIBPQ_PARAMETERS or parameter == "ssl=true":
            libpq.append(f"{key}={value.replace('=', '%3D')}")
        elif name in PRISMA_PARAMETERS:
            prisma[name] = unquote_plus(value)
        else:
            dropped.append(name if NAME.fullmatch(name) and not in_secret else "***")
        in_secret = name in SECRET or (in_secret and name not in LIBPQ_PARAMETERS | PRISMA_PARAMETERS)
    if "sslidentity" in prisma:  # PKCS #12, which libpq does not read
        dropped.append("sslidentity")
    return libpq, prisma, dropped


def _parse_by_libpq(url: str) -> dict[str, str]:
    try:
        return {name: str(value) for name, value in conninfo_to_dict(url).items() if value is not None}
    except ProgrammingError:
        raise ValueError("PostgreSQL's client library does not understand it") from None


def _settings_in(options: str) -> tuple[dict[str, str], tuple[str, ...]]:
    """Split `options` into settings (-c name=value, --name=value) and other words, as PostgreSQL does."""
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


def _joined(options: Iterable[str]) -> str:
    return " ".join(re.sub(r"([\\\s])", r"\\\1", word) for word in options)


def _with_prisma_tls(parameters: dict[str, str], prisma: Mapping[str, str]) -> dict[str, str]:
    """Translate Prisma's `sslaccept` and `sslcert` (the server's authority, not our certificate) for libpq."""
    accept = _one_of("sslaccept", prisma, "", "strict", "accept_invalid_certs")
    if prisma and "sslkey" not in parameters and "sslcert" in parameters:
        authority = parameters.pop("sslcert")
        if accept != "accept_invalid_certs":  # libpq would check the server by it even so
            parameters.setdefault("sslrootcert", authority)
    if accept == "strict" and parameters.get("sslmode") not in ("disable", "verify-ca", "verify-full"):
        parameters |= {"sslmode": "verify-full", "sslrootcert": parameters.get("sslrootcert", "system")}
    elif accept == "accept_invalid_certs":
        parameters.setdefault("sslmode", "require")
    if parameters.get("sslrootcert") == "system" and parameters.get("sslmode", "verify-full") == "verify-full":
        parameters |= {"sslmode": "verify-full", "sslrootcert": system_ca_bundle()}
    return parameters


def system_ca_bundle() -> str:
    """Return the file for `sslrootcert=system`: a client library from a wheel searches it where it was built."""
    places = (ssl.get_default_verify_paths().cafile, *BUNDLES)
    return next((place for place in places if place and Path(place).exists()), "system")


def _one_of(name: str, parameters: Mapping[str, str], default: str, *values: str) -> str:
    value = parameters.get(name, default)
    if value not in (default, *values):
        raise ValueError(f"expected {' or '.join(f'{name}={known}' for known in (default, *values) if known)}")
    return value


def _seconds(name: str, parameters: Mapping[str, str]) -> float | None:
    """Return a number of seconds; None for 0, which means forever: our own time-out holds then."""
    value = parameters.get(name, "0")
    if not re.fullmatch(r"\d{1,6}", value, re.ASCII):
        raise ValueError(f"expected {name}= in whole seconds")
    return float(value) or None
