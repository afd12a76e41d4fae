"""Redis over TLS and with a login of its own, as REDIS_URL says it, on real servers."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from select import select
from typing import Any
from urllib.parse import quote, urlencode, urlsplit

import pytest
import redis
from redis.connection import SSLConnection

from viewer_pipeline.errors import (
    RedisFailed,
    RedisRefusesConnections,
    RedisUnavailable,
    SettingsError,
    ViewerPipelineError,
)
from viewer_pipeline.flush.ledger import Ledger
from viewer_pipeline.flush.redis_store import RedisStore
from viewer_pipeline.flush.stores import Stores
from viewer_pipeline.monitoring.probes import HealthProbes
from viewer_pipeline.redis_url_values import TLS_PARAMETERS
from viewer_pipeline.settings import Settings
from viewer_pipeline.stack.managed_process import ManagedProcess
from viewer_pipeline.stack.ports import LOOPBACK, find_free_port
from viewer_pipeline.stores.redis import connect, redis_errors
from viewer_pipeline_tests.support.certificates import Authority, Certificate
from viewer_pipeline_tests.support.check_results import by_name
from viewer_pipeline_tests.support.proxy import Proxy
from viewer_pipeline_tests.support.servers import tls_binary
from viewer_pipeline_tests.support.subscribers import CHANNEL, SubscriberThread, message
from viewer_pipeline_tests.support.waiting import wait_until
from viewer_pipeline_tests.support.world import PREFIX, World

USER, PASSWORD = "ann@eu:1", "p@ss:w/rd?%41&ü="  # every character that a URL may trip over
LOGIN = f"{quote(USER, safe='')}:{quote(PASSWORD, safe='')}"
MESSAGES = 3000  # published at once: several records of TLS


class Secured:
    """A Redis on a TLS port, with USER as its only login, and the authority that vouches for it."""

    def __init__(self, home: Path) -> None:
        self._binary = tls_binary()
        self._home = home
        self.authority = Authority(home / "authority")
        self.server = self.authority.sign("server")
        self.port = find_free_port()

    def url(self, options: str = "", host: str = LOOPBACK) -> str:
        """URL with the authority in it."""
        return f"rediss://{LOGIN}@{host}:{self.port}/0?ssl_ca_certs={self.authority.certificate}{options}"

    def run(self, name: str, port: int, *lines: str) -> ManagedProcess:
        """Return a server with this configuration besides TLS."""
        configuration = self._home / f"{name}.conf"
        files = {"cert": self.server.certificate, "key": self.server.key, "ca-cert": self.authority.certificate}
        tls = [f"port 0\ntls-port {port}\nbind {LOOPBACK}\ntls-replication yes", f"dir {self._home}"]
        tls += [f"tls-{kind}-file {path}" for kind, path in files.items()]
        configuration.write_text("\n".join([*tls, *lines, ""]))
        command: list[str | Path] = [self._binary, configuration, *(["--sentinel"] if name == "sentinel" else [])]
        return ManagedProcess(name, command, log=self._home / f"{name}.log")

    @contextmanager
    def serving(self, clients: str = "no") -> Iterator[None]:
        """Run it; `clients`: whether they need a certificate."""
        user = f'user "{USER}" on ">{PASSWORD}" ~* &* +@all'
        child = self.run("redis", self.port, 'save ""', f"tls-auth-clients {clients}", "user default off", user)
        child.start()
        try:
            wait_until(lambda: "Ready to accept" in child.log_tail(), 20, f"Redis: {child.log_tail()}")
            yield
        finally:
            child.stop()


@pytest.fixture
def secured(tmp_path: Path) -> Secured:
    """Return one that is not started."""
    return Secured(tmp_path)


def replies(url: str) -> bool:
    """Whether it replies with what is in the URL."""
    with connect(url, retries=0) as client:
        return bool(client.ping())


def refusal(url: str) -> str:
    """Return what a run says of a Redis that it cannot use; it tells no password."""
    with connect(url, retries=0) as client, pytest.raises(ViewerPipelineError) as raised:
        RedisStore(client, url, PREFIX).marker()
    assert isinstance(raised.value, RedisUnavailable | RedisFailed)
    for secret in (PASSWORD, quote(PASSWORD, safe=""), "wrong", "keyword"):
        assert secret not in str(raised.value)
    return str(raised.value)


def test_everything_over_tls(secured: Secured, database_url: str) -> None:
    """Flushes on one connection, a subscriber that receives thousands of messages at once, and health."""
    url = secured.url()
    settings = Settings(redis_url=url, database_url=database_url)
    with secured.serving(), connect(url) as client:
        world = World(Stores(RedisStore(client, url, PREFIX), Ledger(database_url)))
        world.send_many(7)
        world.flush()
        world.assert_all_persisted()
        running = SubscriberThread(settings)
        running.start()
        try:
            with client.pipeline(transaction=False) as pipe:
                for number in range(MESSAGES):
                    pipe.publish(CHANNEL, message(f"a VOD with a long name {number % 10}", 2))
                pipe.execute()
            wait_until(lambda: sum(world.counters().values()) == 2 * MESSAGES, 30, "all messages to be folded")
        finally:
            running.stop()
        probes = HealthProbes(settings)
        try:
            assert "accepts writes" in by_name(probes.check_redis())["redis"].message
        finally:
            probes.close()


def test_whom_it_trusts(secured: Secured, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The authority that is named, for the host that is named, unless the URL says otherwise."""
    other = Authority(tmp_path / "other").certificate
    with secured.serving():
        assert replies(secured.url())
        assert "certificate verify failed" in refusal(secured.url().partition("?")[0])
        elsewhere = secured.url().replace(str(secured.authority.certificate), str(other))
        assert "certificate verify failed" in refusal(elsewhere)
        assert "No such file" in refusal(secured.url() + ".gone")
        assert "certificate is not valid for 'localhost'" in refusal(secured.url(host="localhost"))
        assert replies(secured.url("&ssl_check_hostname=false", host="localhost"))
        assert replies(elsewhere + "&ssl_cert_reqs=none")
        monkeypatch.setenv("SSL_CERT_FILE", str(secured.authority.certificate))  # as an administrator adds it
        assert replies(secured.url().partition("?")[0])


def test_certificates_of_clients(secured: Secured) -> None:
    """Where the server asks for one: with an open key, and with one that has a password."""
    ours, locked = secured.authority.sign("ours"), secured.authority.sign("locked", password="keyword")
    with secured.serving(clients="yes"):
        assert replies(secured.url(_certificate_parameters(ours)))
        assert replies(secured.url(f"{_certificate_parameters(locked)}&ssl_password=keyword"))
        assert refusal(secured.url())  # the message depends on which side closes first
        wrong = secured.url(f"{_certificate_parameters(locked)}&ssl_password=keyword").replace(LOGIN, "ann:wrong")
        assert "invalid username-password pair" in refusal(wrong)
        assert "PEM" in refusal(secured.url(f"{_certificate_parameters(locked)}&ssl_password=wrong"))


def _certificate_parameters(certificate: Certificate) -> str:
    return f"&ssl_certfile={certificate.certificate}&ssl_keyfile={certificate.key}"


def test_sentinels_over_tls(secured: Secured, monkeypatch: pytest.MonkeyPatch) -> None:
    """With `rediss+sentinel` they are spoken to as Redis is, also where a server's session tickets arrive at once."""
    connect_only = SSLConnection._connect

    def connect_and_await_tickets(connection: SSLConnection) -> Any:
        socket = connect_only(connection)  # type: ignore[no-untyped-call]  # so in redis-py
        if socket.version() == "TLSv1.3":
            wait_until(lambda: select([socket], [], [], 0)[0], 20, "session tickets")
        return socket

    monkeypatch.setattr(SSLConnection, "_connect", connect_and_await_tickets)
    port = find_free_port()
    login = f'sentinel auth-user views "{USER}"\nsentinel auth-pass views "{PASSWORD}"'
    sentinel = secured.run(
        "sentinel", port, "tls-auth-clients no", f"sentinel monitor views {LOOPBACK} {secured.port} 1", login
    )
    url = f"rediss+sentinel://{LOGIN}@{LOOPBACK}:{port}/views/0?ssl_ca_certs={secured.authority.certificate}"
    with secured.serving():
        sentinel.start()
        try:
            wait_until(lambda: "+monitor master" in sentinel.log_tail(), 20, f"Sentinel: {sentinel.log_tail()}")
            assert replies(url)
            assert refusal(url.partition("?")[0])
        finally:
            sentinel.stop()


def test_options_of_tls_need_tls() -> None:
    """With `redis://` they would do nothing: refused at once, without the password."""
    with pytest.raises(SettingsError) as raised:
        connect("redis://ann:secret@host/0?ssl_password=secret&ssl_ca_certs=a.pem")
    assert str(raised.value) == (
        "Settings are not usable: REDIS_URL='redis://ann:***@host/0?ssl_password=***&ssl_ca_certs=a.pem':"
        " ssl_password='***': expected rediss:// with it, redis:// uses no TLS"
    )


def test_certificate_checks_as_celery_writes_them(redis_url: str, tmp_path: Path) -> None:
    """On a real TLS connection; replies stay bytes with `decode_responses=true`."""
    authority = Authority(tmp_path / "authority")
    locked = authority.sign("locked", password="keyword")
    with Proxy.of(redis_url, 6379, authority.sign("server")) as proxy:
        url = proxy.url(redis_url).replace("redis://", "rediss://")
        for checked in ("CERT_REQUIRED", "CERT_OPTIONAL", "required"):
            assert "certificate verify failed" in refusal(f"{url}?ssl_cert_reqs={checked}")
        for unchecked in ("CERT_NONE", "none", "ssl.CERT_NONE"):
            assert replies(f"{url}?ssl_cert_reqs={unchecked}")
        assert "PEM" in refusal(f"{url}?ssl_cert_reqs=none{_certificate_parameters(locked)}")  # asks nobody
        assert replies(f"{url}?ssl_cert_reqs=none{_certificate_parameters(locked)}&ssl_password=keyword")
        with connect(f"{url}?ssl_cert_reqs=CERT_NONE&decode_responses=true&protocol=3&retry_on_timeout=yes") as client:
            client.set("name", "value")
            assert client.get("name") == b"value"


TLS_VALUES = ["CERT_NONE", "none", "optional", "true", "771", "TLSv1.3", "/no/such/file", "HIGH", "VERIFY_X509_STRICT"]
PEM = "-----BEGIN CERTIFICATE-----\nbad\n-----END CERTIFICATE-----"


@pytest.mark.parametrize("name", TLS_PARAMETERS)
def test_tls_parameters_against_a_server_without_tls(redis_url: str, name: str) -> None:
    """Whatever value is accepted, connecting fails with an error of ours, and never with a traceback."""
    accepted = 0
    for value in (*TLS_VALUES, PEM):
        url = f"{redis_url.replace('redis://', 'rediss://')}?{urlencode({name: value})}"
        with suppress(SettingsError), connect(url + "&ssl_certfile=/no/such/file", retries=0) as client:
            accepted += 1
            with pytest.raises((RedisUnavailable, RedisRefusesConnections)), redis_errors(url):
                client.ping()
    assert accepted


@pytest.fixture
def acl_url(client: redis.Redis, redis_url: str) -> Iterator[str]:
    """URL of the embedded Redis with a login of its own."""
    client.acl_setuser(USER, enabled=True, passwords=[f"+{PASSWORD}"], keys=["*"], channels=["*"], categories=["+@all"])
    yield redis_url.replace("redis://", f"redis://{LOGIN}@")
    client.acl_deluser(USER)


def test_an_acl_user(world: World, acl_url: str, database_url: str) -> None:
    """Name and password, percent-encoded, for flushes, the subscriber and health."""
    settings = Settings(redis_url=acl_url, database_url=database_url)
    with connect(acl_url) as client:
        assert client.acl_whoami() == USER
        World(Stores(RedisStore(client, acl_url, PREFIX), world.stores.ledger)).flush()
    world.send_many(3)
    running = SubscriberThread(settings)
    running.start()
    try:
        listeners = [line for line in world.client.client_list() if line["sub"] != "0"]
        assert {line["user"] for line in listeners} == {USER}
    finally:
        running.stop()
    probes = HealthProbes(settings)
    try:
        assert "accepts writes" in by_name(probes.check_redis())["redis"].message
    finally:
        probes.close()


def test_a_wrong_login(acl_url: str) -> None:
    """The error names the reason, and neither password."""
    where = urlsplit(acl_url).netloc.rpartition("@")[2]
    for login in (f"{quote(USER, safe='')}:wrong", f"nobody:{quote(PASSWORD, safe='')}"):
        assert "invalid username-password pair" in refusal(f"redis://{login}@{where}/0")
