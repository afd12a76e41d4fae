"""PostgreSQL over TLS, as libpq or Prisma says it in a URL: with psycopg for us, with psycopg2 for Dagster."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

import psycopg
import pytest
from sqlalchemy import exc, text

from viewer_pipeline.errors import PostgresRefusesConnections
from viewer_pipeline.flush.ledger import Ledger
from viewer_pipeline.flush.ledger_reads import last_flush
from viewer_pipeline.migrations.migrate import migrate
from viewer_pipeline.orchestration.storage_engine import engine_of
from viewer_pipeline.settings import Settings
from viewer_pipeline.stack.ports import LOOPBACK
from viewer_pipeline.stack.postgres_server import PostgresServer, _find_user_instead_of_root
from viewer_pipeline.streams import WHOLE
from viewer_pipeline_tests.support.certificates import Authority, give
from viewer_pipeline_tests.support.servers import postgres_binaries

SECURED = "SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()"
KEYWORD = "k&y/w:rd"  # of the client's key
CLIENT = "ann"


def tls_binaries() -> Path:
    """Return a PostgreSQL that was built with TLS; the one out of the wheel was not. Skip where there is none."""
    folders = [postgres_binaries(), *(Path(folder) for folder in os.get_exec_path())]
    folders += sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    for folder in folders:
        if (binary := folder / "postgres").exists() and b"libssl" in binary.read_bytes():
            return folder
    pytest.skip("no PostgreSQL with TLS here; on Debian: apt-get install postgresql")


@dataclass(frozen=True)
class Secured:
    """A server with TLS, who vouches for it, and who does not."""

    server: PostgresServer
    authority: Authority
    other: Authority

    def url(self, parameters: str, login: str | None = None, host: str = LOOPBACK) -> str:
        """URL of its database; the names of files are filled in."""
        here = {
            "ca": self.authority.certificate,
            "other": self.other.certificate,
            "keys": self.authority.certificate.parent,
        }
        login = f"viewer:{self.server.password}" if login is None else login
        return f"postgresql://{login}@{host}:{self.server.port}/viewer?{parameters.format(**here)}"


@pytest.fixture(scope="module")
def secured(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Secured]:
    """Run one, migrated; the role `ann` comes in by her certificate alone."""
    home = tmp_path_factory.mktemp("tls")
    binaries = tls_binaries()
    authority, other = Authority(home / "authority"), Authority(home / "other")
    certificate = authority.sign("server")
    authority.sign(CLIENT, password=KEYWORD)
    give(certificate, _find_user_instead_of_root() if os.geteuid() == 0 else None)
    files = [
        f"ssl_cert_file={certificate.certificate}",
        f"ssl_key_file={certificate.key}",
        f"ssl_ca_file={authority.certificate}",
    ]
    server = PostgresServer(home, throw_away=True, binaries=binaries, settings=["ssl=on", *files])
    try:
        server.start()
        access = server.directory / "pg_hba.conf"
        access.write_text(f"hostssl all {CLIENT} all cert\n{access.read_text()}")
        with psycopg.connect(server.url, autocommit=True) as connection:
            connection.execute("SELECT pg_reload_conf()")
            connection.execute(f"CREATE ROLE {CLIENT} LOGIN IN ROLE viewer")
        migrate(server.url, with_dagster=True)
        yield Secured(server, authority, other)
    finally:
        server.stop()


def connects(url: str) -> tuple[bool, bool]:
    """Return whether both drivers come in over TLS."""
    with Ledger(url).connect() as connection:
        assert last_flush(connection, WHOLE).seq == 0
        ours = connection.execute(SECURED).fetchone()
    with engine_of(Settings(database_url=url)).connect() as engine_connection:
        dagsters = engine_connection.execute(text(SECURED)).scalar()
    assert migrate(url, with_dagster=True)[0] is not None
    assert ours is not None
    return bool(ours[0]), bool(dagsters)


@pytest.mark.parametrize(
    ("parameters", "over_tls"),
    [
        ("sslmode=require", True),
        ("ssl=true", True),
        ("sslmode=disable", False),
        ("sslmode=verify-full&sslrootcert={ca}", True),
        ("schema=public&sslmode=require&sslcert={ca}", True),
        ("sslmode=require&sslaccept=strict&sslcert={ca}&connection_limit=5", True),
        ("sslaccept=accept_invalid_certs", True),
        ("sslaccept=accept_invalid_certs&sslcert={other}", True),
        ("sslmode=disable&sslaccept=strict", False),
    ],
)
def test_who_is_let_in(secured: Secured, parameters: str, over_tls: bool) -> None:
    """Over TLS where it is asked for."""
    assert connects(secured.url(parameters)) == (over_tls, over_tls)


@pytest.mark.parametrize("parameters", ["sslmode=require&sslaccept=strict", "sslrootcert=system"])
def test_whom_the_system_trusts(secured: Secured, monkeypatch: pytest.MonkeyPatch, parameters: str) -> None:
    """Where no authority is named: here one that an administrator has added."""
    monkeypatch.setenv("SSL_CERT_FILE", str(secured.authority.certificate))
    assert connects(secured.url(parameters)) == (True, True)
    monkeypatch.setenv("SSL_CERT_FILE", str(secured.other.certificate))
    with pytest.raises(PostgresRefusesConnections, match="certificate verify failed"):
        migrate(secured.url(parameters), with_dagster=True)


@pytest.mark.parametrize(
    ("parameters", "host", "message"),
    [
        ("sslmode=verify-full&sslrootcert={other}", LOOPBACK, "certificate verify failed"),
        ("sslmode=require&sslrootcert={other}", LOOPBACK, "certificate verify failed"),
        ("sslaccept=strict&sslcert={other}", LOOPBACK, "certificate verify failed"),
        ("sslmode=require&sslaccept=strict&sslcert={other}", LOOPBACK, "certificate verify failed"),
        ("sslmode=require&sslaccept=strict", LOOPBACK, "certificate verify failed"),  # none of the system's
        ("sslaccept=strict&sslcert={ca}", "localhost", 'does not match host name "localhost"'),
        ("sslmode=verify-full&sslrootcert={ca}.gone", LOOPBACK, "does not exist"),
    ],
)
def test_whom_we_do_not_trust(secured: Secured, parameters: str, host: str, message: str) -> None:
    """Neither driver comes in, and the password is not in the error."""
    url = secured.url(parameters, host=host)
    with pytest.raises(PostgresRefusesConnections, match=message) as ours, Ledger(url).connect():
        pass
    with pytest.raises(PostgresRefusesConnections, match=message) as migrations:
        migrate(url, with_dagster=True)
    with pytest.raises(exc.OperationalError, match=message):
        engine_of(Settings(database_url=url)).connect()
    for raised in (ours, migrations):
        assert "certificate" in raised.value.remedy
        assert secured.server.password not in str(raised.value)


def test_a_certificate_that_is_missing(secured: Secured) -> None:
    """The role is let in by it alone; and without TLS the server asks for a password instead."""
    with pytest.raises(PostgresRefusesConnections) as raised, Ledger(secured.url("sslmode=require", CLIENT)).connect():
        pass
    assert "the server requires a certificate of the client" in str(raised.value)
    assert "sslcert=…&sslkey=…" in raised.value.remedy


def test_a_certificate_of_ours(secured: Secured) -> None:
    """With the password of its key; without it the connection fails, and the error has no password."""
    files = "sslcert={keys}/ann.pem&sslkey={keys}/ann.key&schema=public"
    url = secured.url(f"sslmode=verify-full&sslrootcert={{ca}}&{files}&sslpassword={quote(KEYWORD, safe='')}", CLIENT)
    assert connects(url) == (True, True)
    wrong = url.replace(quote(KEYWORD, safe=""), "Geheim7Wort")
    with pytest.raises(PostgresRefusesConnections) as raised, Ledger(wrong).connect():
        pass
    assert "sslpassword=***" in str(raised.value)
    assert "a certificate or key file of the URL cannot be used" in str(raised.value)
    assert "Geheim7Wort" not in str(raised.value)
