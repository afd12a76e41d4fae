"""What a PostgreSQL URL becomes: arguments of psycopg, settings of a transaction, the URL of Dagster's storage."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from viewer_pipeline import postgres_url
from viewer_pipeline.postgres_url import LIBPQ_PARAMETERS, PostgresUrl, system_ca_bundle
from viewer_pipeline.session_settings import PINNED

PRISMA = (
    "postgresql://u:p@host:5432/db?schema=public&sslmode=require&connection_limit=5&pool_timeout=10"
    "&pgbouncer=true&connect_timeout=5"
)
SYSTEM = system_ca_bundle()
LOGIN = {"user": "u", "password": "p", "host": "host", "port": "5432", "dbname": "db"}


def arguments(url: str) -> dict[str, Any]:
    """Return the arguments of psycopg, without our defaults."""
    without_settings = PostgresUrl.of(url).arguments({})
    assert without_settings.pop("options") == ""
    return without_settings


def tls(parameters: str) -> dict[str, Any]:
    """Return the TLS arguments of psycopg."""
    text = arguments(f"postgresql://host/db?{parameters}")
    return {name: value for name, value in text.items() if name.startswith("ssl")}


def test_the_url_of_prisma() -> None:
    """Every parameter has its meaning, and none is refused or dropped."""
    url = PostgresUrl.of(PRISMA)
    assert url.arguments({}) == {
        **LOGIN,
        "sslmode": "require",
        "connect_timeout": "5",
        "options": "",
        "prepare_threshold": None,
    }
    assert (url.schema, url.pgbouncer, url.reply_seconds, url.dropped) == ("public", True, None, ())
    assert url.session_settings({"lock_timeout": "20s"}) == {
        "lock_timeout": "20s",
        "search_path": '"public"',
        **PINNED,
    }


@pytest.mark.parametrize(
    ("url", "text"),
    [
        ("postgres://u:p@host:5432/db", LOGIN),
        ("postgresql://host", {"host": "host"}),
        ("postgresql://u:a%40b%3A%2F%25%26@host", {"user": "u", "password": "a@b:/%&", "host": "host"}),
        ("postgresql://u:a?b@host/db", {"user": "u", "password": "a?b", "host": "host", "dbname": "db"}),
        (
            "postgresql://host/db?user=u%40x&password=a%26b",
            {"host": "host", "dbname": "db", "user": "u@x", "password": "a&b"},
        ),
        ("postgresql://host/db?password=abc==", {"host": "host", "dbname": "db", "password": "abc=="}),
        ("postgresql://[::1]:5433/db", {"host": "::1", "port": "5433", "dbname": "db"}),
        ("postgresql:///db?host=/run/pg", {"host": "/run/pg", "dbname": "db"}),
        ("postgresql://%2Frun%2Fpg/db", {"host": "/run/pg", "dbname": "db"}),
        (
            "postgresql://u:p@localhost/db?host=/run/pg",
            {"user": "u", "password": "p", "host": "/run/pg", "dbname": "db"},
        ),
        ("postgresql://host/db?ssl=true", {"host": "host", "dbname": "db", "sslmode": "require"}),
        ("postgresql://host/db?application_name=web&", {"host": "host", "dbname": "db", "application_name": "web"}),
        (
            "postgresql://a:1,b/db?target_session_attrs=any",
            {"host": "a,b", "port": "1,", "dbname": "db", "target_session_attrs": "any"},
        ),
        (
            "postgresql://a:1,b:2/db",
            {"host": "a,b", "port": "1,2", "dbname": "db", "target_session_attrs": "read-write"},
        ),
    ],
)
def test_what_libpq_reads(url: str, text: dict[str, str]) -> None:
    """Schemes, escapes, sockets and several hosts, of which the one is wanted that takes writes."""
    assert arguments(url) == text


def test_url_overrides_defaults() -> None:
    """Arguments and time-outs of ours fill in what the URL leaves open; nothing overrides what statements depend on."""
    url = PostgresUrl.of(
        "postgresql://host?connect_timeout=9&options=-c%20lock-timeout=1s%20--geqo=off%20-c%20a.b=x%20-ctimezone=CET"
    )
    assert url.arguments({"connect_timeout": 5, "client_encoding": "utf8"}) == {
        "host": "host",
        "connect_timeout": "9",
        "client_encoding": "utf8",
        "options": "",
    }
    assert url.session_settings({"lock_timeout": "20s", "statement_timeout": "60s"}) == {
        "lock_timeout": "1s",
        "statement_timeout": "60s",
        "geqo": "off",
        "a.b": "x",
        **PINNED,
    }
    assert PINNED["timezone"] == "UTC"


@pytest.mark.parametrize(
    ("schema", "path"),
    [
        ("public", '"public"'),
        ("Streamix", '"Streamix"'),
        ("my-app", '"my-app"'),
        ("my%20app", '"my app"'),
        ("my+app", '"my app"'),
        ("a%22b", '"a""b"'),
        ("a%5Cb", '"a\\b"'),
    ],
)
def test_a_schema(schema: str, path: str) -> None:
    """It becomes the search path, one name however it is spelled, whatever `options` say."""
    for url in (f"postgresql://?schema={schema}", f"postgresql://?options=-csearch_path%3Dother&schema={schema}"):
        assert PostgresUrl.of(url).session_settings({})["search_path"] == path


def test_another_schema() -> None:
    """Dagster's tables are looked for in a schema of their own, in the same database."""
    url = PostgresUrl.of("postgresql://host/db?schema=public")
    assert url.in_schema("dagster").session_settings({})["search_path"] == '"dagster"'
    assert url.schema == "public"
    assert PostgresUrl.of("postgresql://host/db").schema is None
    assert PostgresUrl.of("postgresql://host/db?schema=").schema is None


def test_what_is_left_of_options_is_for_a_pooler() -> None:
    """Settings are set after connecting; behind PgBouncer nothing is prepared."""
    url = PostgresUrl.of("postgresql://host?pgbouncer=true&schema=s&options=endpoint=x%20-c%20jit=off%20-c%20broken")
    assert url.arguments({}) == {"host": "host", "options": "endpoint=x -c broken", "prepare_threshold": None}
    assert url.session_settings({"lock_timeout": "20s", "jit": "on"}) == {
        "lock_timeout": "20s",
        "jit": "off",
        "search_path": '"s"',
        **PINNED,
    }
    assert "prepare_threshold" not in arguments("postgresql://host?pgbouncer=false")


@pytest.mark.parametrize(("text", "seconds"), [("7", 7.0), ("0", None), ("120", 120.0)])
def test_socket_timeout(text: str, seconds: float | None) -> None:
    """How long an answer is awaited; 0 is for ever, and then the bound is ours."""
    assert PostgresUrl.of(f"postgresql://host?socket_timeout={text}").reply_seconds == seconds


@pytest.mark.parametrize(
    ("parameters", "text"),
    [
        ("sslmode=require&sslrootcert=system", {"sslmode": "require", "sslrootcert": "system"}),  # libpq refuses it
        ("sslrootcert=system", {"sslmode": "verify-full", "sslrootcert": SYSTEM}),
        ("sslmode=verify-ca", {"sslmode": "verify-ca"}),
        ("sslaccept=strict", {"sslmode": "verify-full", "sslrootcert": SYSTEM}),
        ("sslmode=require&sslaccept=strict", {"sslmode": "verify-full", "sslrootcert": SYSTEM}),
        ("sslmode=verify-ca&sslaccept=strict", {"sslmode": "verify-ca"}),
        ("sslmode=disable&sslaccept=strict", {"sslmode": "disable"}),
        ("sslaccept=strict&sslrootcert=a.pem", {"sslmode": "verify-full", "sslrootcert": "a.pem"}),
        ("sslaccept=strict&sslcert=a.pem", {"sslmode": "verify-full", "sslrootcert": "a.pem"}),
        ("schema=s&sslmode=require&sslcert=a.pem", {"sslmode": "require", "sslrootcert": "a.pem"}),
        ("sslaccept=accept_invalid_certs", {"sslmode": "require"}),
        ("sslaccept=accept_invalid_certs&sslcert=a.pem", {"sslmode": "require"}),
        ("sslaccept=accept_invalid_certs&sslmode=verify-full", {"sslmode": "verify-full"}),
        ("sslcert=c.pem", {"sslcert": "c.pem"}),
        ("schema=s&sslcert=c.pem&sslkey=k.pem", {"sslcert": "c.pem", "sslkey": "k.pem"}),
        ("sslcert=c.pem&sslkey=k.pem&sslpassword=x", {"sslcert": "c.pem", "sslkey": "k.pem", "sslpassword": "x"}),
    ],
)
def test_tls(parameters: str, text: dict[str, str]) -> None:
    """Prisma's words in libpq's; libpq's own stay, and nothing makes a check weaker than it was asked for."""
    assert tls(parameters) == text


def test_authorities_of_the_system(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file that SSL_CERT_FILE names, else one of the usual places, else wherever libpq looks."""
    own, usual = tmp_path / "own.pem", tmp_path / "usual.pem"
    usual.touch()
    monkeypatch.setattr(postgres_url, "BUNDLES", (str(tmp_path / "gone.pem"), str(usual)))
    monkeypatch.setenv("SSL_CERT_FILE", str(own))
    assert system_ca_bundle() == str(usual)
    own.touch()
    assert system_ca_bundle() == str(own)
    monkeypatch.setattr(postgres_url, "BUNDLES", ())
    own.unlink()
    assert system_ca_bundle() == "system"


def test_what_means_nothing_is_dropped_by_name() -> None:
    """Not its value; and not a name that is none, or that may be the rest of a password."""
    dropped = PostgresUrl.of("postgresql://h/d?foo=secret&sslidentity=i.p12&ssl=on&a%20b=1&supa.base-x=1").dropped
    assert dropped == ("foo", "ssl", "***", "supa.base-x", "sslidentity")
    assert PostgresUrl.of("postgresql://h/d?password=ab&cd=ef&gh=ij&sslmode=require&foo=1").dropped == (
        "***",
        "***",
        "foo",
    )
    assert arguments("postgresql://h/d?foo=secret&sslidentity=i.p12") == {"host": "h", "dbname": "d"}


@pytest.mark.parametrize(
    ("parameters", "text"),
    [
        ("pgbouncer=yes", "expected pgbouncer=false or pgbouncer=true"),
        ("sslaccept=secret", "expected sslaccept=strict or sslaccept=accept_invalid_certs"),
        ("socket_timeout=secret", "expected socket_timeout= in whole seconds"),
        ("socket_timeout=-1", "expected socket_timeout= in whole seconds"),
        ("password=ab&secret", "expected name=value for each parameter (write & in a value as %26)"),
        ("application_name=%zz", "PostgreSQL's client library does not understand it"),
    ],
)
def test_what_is_wrong(parameters: str, text: str) -> None:
    """The error names the expected form, and quotes nothing."""
    with pytest.raises(ValueError, match=re.escape(text)) as raised:
        PostgresUrl.of(f"postgresql://u:secret@h/d?{parameters}")
    assert "secret" not in str(raised.value)
    assert raised.value.__suppress_context__ or raised.value.__context__ is None


def test_a_password_is_not_in_its_representation() -> None:
    """It may end up in a log or a traceback."""
    url = PostgresUrl.of("postgresql://u:secret@h/d?sslpassword=secret&schema=s&options=-c%20my.secret=secret")
    assert "secret" not in repr(url)


TEXT = st.text(st.characters(codec="utf-8", exclude_characters="\x00"), min_size=1, max_size=12)


@given(user=TEXT, password=TEXT, database=TEXT, schema=TEXT, name=TEXT)
def test_whatever_the_characters(user: str, password: str, database: str, schema: str, name: str) -> None:
    """Percent-encoded, everything arrives as it is, for every connection."""
    encoded = [quote(text, safe="") for text in (user, password, database, schema, name)]
    url = PostgresUrl.of("postgresql://{}:{}@h:1,i:2/{}?schema={}&application_name={}".format(*encoded))
    text = url.arguments({})
    expected = {"user": user, "password": password, "dbname": database, "application_name": name}
    assert {name: text[name] for name in expected} == expected
    assert url.schema == schema


def test_every_parameter_of_libpq_goes_on_working() -> None:
    """None is treated as Prisma's or dropped."""
    for name in LIBPQ_PARAMETERS - {"options"}:
        assert arguments(f"postgresql://?{name}=1").get(name) == "1"
