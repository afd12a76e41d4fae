"""REDIS_URL: what each parameter means, which have no effect, and which are refused by name."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

import pytest
import redis
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from redis.connection import URL_QUERY_ARGUMENT_PARSERS, AbstractConnection, Connection, SSLConnection, parse_url

from viewer_pipeline.checks import CheckResult
from viewer_pipeline.cli.command_settings import warn_of_ineffective_settings
from viewer_pipeline.errors import SettingsError
from viewer_pipeline.monitoring.doctor.settings_contradictions import evaluate_settings
from viewer_pipeline.redis_url import ALIASES, IGNORED, INSTEAD, RedisUrl, is_cluster_url
from viewer_pipeline.redis_url_values import PARAMETERS, SENTINEL_PARAMETERS, TLS_PARAMETERS
from viewer_pipeline.settings import Settings, load_settings
from viewer_pipeline.stores.redis import connect

# Arguments of redis-py that no URL can hold: objects, and what the address of the URL names.
NOT_FOR_URLS = {
    *("cache", "cache_config", "command_packer", "connection_class", "connection_pool", "credential_provider"),
    *("driver_info", "event_dispatcher", "from_url", "himport_registry", "host", "maint_notifications_config"),
    *("maint_notifications_pool_handler", "maintenance_notification_hash", "maintenance_state"),
    *("orig_host_address", "orig_socket_connect_timeout", "orig_socket_timeout"),
    *("oss_cluster_maint_notifications_handler", "parser_class", "path", "port", "redis_connect_func", "retry"),
    *("auto_close_connection_pool", "socket_keepalive_options", "socket_type", "ssl_ocsp_context", "unix_socket_path"),
    *("ssl_ocsp_expected_cert", "kwargs", "self", "cache_factory"),
}
SAMPLES = {
    "client_name": "web",
    "db": "3",
    "password": "secret",
    "sentinel_password": "secret",
    "sentinel_username": "watch",
    "socket_connect_timeout": "2.5",
    "socket_timeout": "10",
    "ssl": "true",
    "ssl_ca_certs": "/a+b.pem",
    "ssl_ca_data": "-----BEGIN CERTIFICATE-----",
    "ssl_ca_path": "/certificates",
    "ssl_cert_reqs": "CERT_OPTIONAL",
    "ssl_certfile": "/cert.pem",
    "ssl_check_hostname": "No",
    "ssl_ciphers": "HIGH",
    "ssl_exclude_verify_flags": "[VERIFY_X509_STRICT, VERIFY_CRL_CHECK_LEAF]",
    "ssl_include_verify_flags": "VERIFY_X509_PARTIAL_CHAIN",
    "ssl_keyfile": "/key.pem",
    "ssl_min_version": "TLSv1.3",
    "ssl_password": "secret",
    "username": "ann",
}
ROOT = Path(__file__).parents[2]


def url_with(name: str, value: str) -> str:
    """Return a URL in which this parameter is allowed."""
    beside = "&ssl_certfile=/cert.pem" if name == "ssl_keyfile" else ""
    address = "rediss+sentinel://host/views" if name in SENTINEL_PARAMETERS else "rediss://host"
    return f"{address}?{urlencode({name: value})}{beside}"


def error_of(url: str) -> str:
    """Return what is wrong with a URL."""
    with pytest.raises(ValueError, match="expected") as raised:
        RedisUrl.of(url)
    return str(raised.value)


def test_every_argument_of_redis_py_is_decided() -> None:
    """It has an effect, has none, or is refused; one that a newer redis-py brings fails this test."""
    constructors: list[Any] = [redis.Redis, AbstractConnection, Connection, SSLConnection, redis.ConnectionPool]
    arguments = {name for made in constructors for name in inspect.signature(made.__init__).parameters}
    arguments |= URL_QUERY_ARGUMENT_PARSERS.keys()
    decided = PARAMETERS.keys() | IGNORED | INSTEAD.keys() | NOT_FOR_URLS
    assert arguments - decided - {"max_connections", "connection_kwargs"} == set()
    for name in NOT_FOR_URLS:
        assert "that `viewer-pipeline docs connection-strings` lists" in error_of(f"redis://host?{name}=x")


def test_each_parameter_by_itself() -> None:
    """redis-py's connections take every one that has an effect."""
    assert SAMPLES.keys() == PARAMETERS.keys()
    for name, value in SAMPLES.items():
        client = connect(url_with(name, value))
        client.connection_pool.make_connection()
        if name in TLS_PARAMETERS or name in ("client_name", "username", "password"):
            assert name in client.connection_pool.connection_kwargs


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("none", "none"),
        ("CERT_NONE", "none"),
        ("cert_required", "required"),
        ("Optional", "optional"),
        ("ssl.CERT_REQUIRED", "required"),
    ],
)
def test_the_check_of_certificates(text: str, value: str) -> None:
    """In the forms of redis-py, Celery and Python."""
    assert RedisUrl.of(f"rediss://host?ssl_cert_reqs={text}").parameters["ssl_cert_reqs"] == value


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("redis://host?socket_timeout=abc", "socket_timeout='abc': expected a number of seconds, at least 0.1"),
        ("redis://host?socket_timeout=0", "socket_timeout='0': expected a number of seconds, at least 0.1"),
        ("redis://host?socket_timeout=inf", "socket_timeout='inf': expected a number of seconds, at least 0.1"),
        (
            "redis://host?socket_connect_timeout=-1",
            "socket_connect_timeout='-1': expected a number of seconds, at least",
        ),
        ("redis://host?db=xyz", "db='xyz': expected the number of a database"),
        ("redis://host?virtual_host=-1", "virtual_host='-1': expected the number of a database"),
        ("redis://host?db=\u0663", "db='\u0663': expected the number of a database"),
        ("redis://host/1?db=2", "db='2': expected one db, not two that differ"),
        ("redis://host?db=1&db=2", "expected one value of db, not two that differ"),
        ("redis://host/xyz", "expected the number of a database after the host, such as redis://host:6379/0"),
        ("redis://host/1/2", "expected the number of a database after the host, such as redis://host:6379/0"),
        ("redis://host/0#part", "expected the number of a database after the host, such as redis://host:6379/0"),
        ("redis://host?client_name=a+b", "client_name='a b': expected 1 to 100 printable ASCII characters without bl"),
        ("redis://host?ssl=true", "ssl='true': expected rediss:// instead of this parameter"),
        ("rediss://host?tls=false", "tls='false': expected redis:// instead of this parameter"),
        ("redis://host?ssl_cert_reqs=none", "ssl_cert_reqs='none': expected rediss:// with it, redis:// uses no TLS"),
        ("rediss://host?ssl_cert_reqs=maybe", "ssl_cert_reqs='maybe': expected none, optional or required, or Celery"),
        ("rediss://host?ssl_check_hostname=maybe", "ssl_check_hostname='maybe': expected true or false"),
        ("rediss://host?ssl_min_version=5", "ssl_min_version='5': expected TLSv1.2 or TLSv1.3"),
        ("rediss://host?ssl_ciphers=NOTHING", "ssl_ciphers='NOTHING': expected ciphers that OpenSSL knows"),
        ("rediss://host?ssl_include_verify_flags=A", "ssl_include_verify_flags='A': expected names of Python's ssl.V"),
        ("rediss://host?ssl_keyfile=a", "ssl_keyfile: expected ssl_certfile with it"),
        ("rediss://host?ssl_ca_certs=a%00b", "ssl_ca_certs='a\\x00b': expected text without control characters"),
        ("rediss://host?ssl_ca_data=x", "ssl_ca_data='x': expected certificates in PEM form"),
        (
            "rediss://host?ssl_validate_ocsp=true",
            "ssl_validate_ocsp='true': expected no check by OCSP, which is not su",
        ),
        ("redis://host?keyPrefix=a:", "keyPrefix='a:': expected COUNTER_PREFIX with that prefix in it instead of this"),
        (
            "rediss://host?skip_verify=true",
            "skip_verify='true': expected ssl_cert_reqs=none or ssl_cert_reqs=required ",
        ),
        (
            "rediss://host?ssl_cert_req=none",
            "ssl_cert_req='none': expected a parameter that `viewer-pipeline docs connection-strings` lists",
        ),
        (
            "redis://host?api_token=secret",
            "api_token='***': expected a parameter that `viewer-pipeline docs connection-strings` lists",
        ),
        ("redis://host?sentinel_password=secret", "sentinel_password='***': expected redis+sentinel:// with it"),
        (
            "redis://host?auth=secret",
            "auth='***': expected a parameter that `viewer-pipeline docs connection-strings` lists",
        ),
        ("redis://host?db", "expected name=value for each parameter (write & in a value as %26)"),
        ("rediss://host?ssl_password=se&cret=x", "expected name=value for each parameter (write & in a value as %26)"),
        (
            "redis://:se/cret@host",
            "expected @, / and ? in user, password and parameters to be written as %40, %2F and ",
        ),
        (
            "redis://:1?a=secret@host",
            "expected @, / and ? in user, password and parameters to be written as %40, %2F an",
        ),
        ("redis://one,two", "expected one host; several only in redis+sentinel://host:port,host:port/service"),
        ("redis+cluster://host/1", "db=1: expected redis+cluster://host:port,host:port without a database: a cluster"),
        ("redis+cluster://host?db=2", "db=2: expected redis+cluster://host:port,host:port without a database"),
        ("redis+cluster://host?sentinel_password=x", "sentinel_password='***': expected redis+sentinel:// with it"),
        ("redis://a..b", "expected a host name or an address, and a port between 1 and 65535 if any"),
        ("redis://" + "a" * 64, "expected a host name or an address, and a port between 1 and 65535 if any"),
        ("redis://a%00b", "expected a host name or an address, and a port between 1 and 65535 if any"),
        ("redis://host:0", "expected a host name or an address, and a port between 1 and 65535 if any"),
        ("redis://host:\u0661", "expected a host name or an address, and a port between 1 and 65535 if any"),
        ("unix://run/redis.sock", "expected unix:///path/redis.sock?db=0"),
        ("unix:///run/%00", "expected unix:///path/redis.sock?db=0"),
        (
            "redis+sentinel://host",
            "expected redis+sentinel://host:port,host:port/service/db, the db a number or left ou",
        ),
        ("http://host", "expected a URL that starts with redis:// or rediss:// or unix:// or redis+sentinel:// or "),
    ],
)
def test_refused_urls(url: str, expected: str) -> None:
    """The error names the parameter, its value and what is expected; no secret."""
    message = error_of(url)
    assert message.startswith(expected)
    assert "secret" not in message
    assert "cret" not in message


def test_cluster() -> None:
    """Several nodes of it, or its configuration endpoint; it has one database."""
    url = RedisUrl.of("rediss+cluster://ann:word@one,two:7001/0?socket_timeout=2")
    assert (url.cluster, url.tls, url.addresses) == (True, True, (("one", 6379), ("two", 7001)))
    assert url.parameters == {"db": 0, "username": "ann", "password": "word"}
    assert [is_cluster_url(text) for text in ("redis+cluster://host", "redis://host", "cluster")] == [
        True,
        False,
        False,
    ]


def test_a_misspelled_parameter() -> None:
    """The error names the one that was probably meant."""
    assert error_of("rediss://host?ssl_cert_req=none").endswith("lists; did you mean ssl_cert_reqs?")


@pytest.mark.parametrize(
    "url",
    [
        "redis://",
        "redis://host",
        "redis://host:6380/12",
        "redis://host/?db=4",
        "redis://ann:p%40ss%2Fw%3Ard@host/0",
        "redis://:p%25ss@host",
        "redis://ann@host",
        "redis://:a:b@host",
        "redis://host?username=ann&password=a%2Bb+c",
        "redis://host:6379/0?password=p@ss",
        "redis://[::1]:6380/1",
        "rediss://host?ssl_ca_certs=%2Fa%2520b.pem&ssl_certfile=a&ssl_keyfile=b&ssl_password=c+d",
        "unix:///run/redis.sock",
        "unix://ann:word@/run/redis%201.sock?db=2",
    ],
)
def test_addresses_and_logins_are_those_of_redis_py(url: str) -> None:
    """Where the same URL works in an application, it leads to the same server, login and database here."""
    theirs = parse_url(url)  # type: ignore[no-untyped-call]  # so in redis-py
    theirs.pop("connection_class", None)
    mine = RedisUrl.of(url)
    address: dict[str, Any] = (
        {"path": mine.socket_path} if mine.socket_path else dict(zip(("host", "port"), mine.addresses[0], strict=True))
    )
    default = {} if mine.socket_path else {"host": "localhost", "port": 6379}
    assert default | theirs == {**address, **mine.parameters}


@pytest.mark.parametrize(
    ("url", "number"),
    [
        ("redis://host", 0),
        ("redis://host:6379/0", 0),
        ("redis://u:p@host:6379/12", 12),
        ("redis://host?db=4", 4),
        ("redis://host?virtual_host=4", 4),
        ("unix:///run/redis.sock?db=2", 2),
        ("unix:///run/redis/7", 0),
        ("redis+sentinel://a:1,b:2/service/5", 5),
        ("redis+sentinel://a:1,b:2/service", 0),
    ],
)
def test_database_of(url: str, number: int) -> None:
    """Of the path or the parameter."""
    assert RedisUrl.of(url).database == number


def test_sentinels() -> None:
    """Their addresses, login and service."""
    url = RedisUrl.of("rediss+sentinel://:word@a:1,[::1]/my%20views?sentinel_username=u&sentinel_password=%26x")
    assert (url.addresses, url.service, url.tls) == ((("a", 1), ("::1", 26379)), "my views", True)
    assert (url.parameters, url.sentinel_parameters) == ({"password": "word"}, {"username": "u", "password": "&x"})


def test_parameters_without_effect_change_nothing() -> None:
    """Replies stay bytes, and time-outs, attempts and health checks ours, whatever the values are."""
    plain = connect("redis://host").connection_pool.connection_kwargs
    own = {name: value for name, value in plain.items() if name not in ("demotion_counter", "himport_registry")}
    for value in ("true", "0", "abc", "4"):
        url = f"redis://host?{urlencode(dict.fromkeys(IGNORED, value))}"
        assert connect(url).connection_pool.connection_kwargs.items() >= own.items()
        assert set(RedisUrl.of(url).ignored) == IGNORED
    assert "decode_responses" not in plain


def test_timeouts() -> None:
    """Those of the URL hold where the caller has none of its own, and are bounded."""
    url = "redis://host?socket_timeout=20&socket_connect_timeout=999"
    for client, expected in (
        (connect("redis://host"), (5, 3)),
        (connect(url), (20, 20)),
        (connect(url, seconds=0.7), (0.7, 0.7)),
        (connect("redis://host?socket_timeout=999"), (60, 3)),
    ):
        arguments = client.connection_pool.connection_kwargs
        assert (arguments["socket_timeout"], arguments["socket_connect_timeout"]) == expected


@hypothesis_settings(deadline=None)
@given(
    name=st.sampled_from(sorted({*PARAMETERS, *IGNORED, *INSTEAD, *ALIASES, *NOT_FOR_URLS})),
    value=st.text(max_size=12) | st.sampled_from(["true", "0", "-1", "1e999", "None", "CERT_", "771", "\x00", "nan"]),
)
def test_no_value_ends_in_a_traceback(name: str, value: str) -> None:
    """It is accepted by redis-py, or refused with a message."""
    try:
        client = connect(url_with(name, value))
    except SettingsError as error:
        assert str(error).startswith("Settings are not usable: REDIS_URL='redis")  # noqa: PT017 - one of two outcomes
    else:
        client.connection_pool.make_connection()


def test_settings_are_checked_when_they_are_loaded(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Each command, `doctor` included, reports variable, URL without its password, parameter and value."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("REDIS_URL", "redis://:word@host/0?socket_timeout=abc")
    with pytest.raises(SettingsError) as raised:
        load_settings()
    assert str(raised.value) == (
        "Settings are not usable: REDIS_URL='redis://:***@host/0?socket_timeout=abc':"
        " socket_timeout='abc': expected a number of seconds, at least 0.1"
    )


def test_parameters_without_effect_are_reported(caplog: pytest.LogCaptureFixture) -> None:
    """By the doctor, and in the log of the worker."""
    settings = Settings(redis_url="redis://:word@host/0?decode_responses=true&max_connections=7&db=0")
    names = "decode_responses, max_connections"
    message = f"all settings are valid; parameters of REDIS_URL without effect: {names}"
    assert evaluate_settings(settings, []) == CheckResult("settings", "healthy", message)
    with caplog.at_level("INFO"):
        warn_of_ineffective_settings(settings)
    assert caplog.messages == [f'redis_url_parameters_ignored ignored="{names}"']


def test_the_page_on_connection_strings_has_every_parameter() -> None:
    """In its tables for Redis."""
    page = (ROOT / "docs/how-to/connection-strings.md").read_text(encoding="utf-8").partition("## Redis")[2]
    known = [*PARAMETERS, *IGNORED, *INSTEAD, *ALIASES]
    assert [name for name in known if f"`{name}`" not in page and f"`{name}=" not in page] == []


def test_a_key_whose_password_is_not_given() -> None:
    """OpenSSL does not ask for it on the terminal: the process would wait there."""
    assert RedisUrl.of("rediss://host?ssl_certfile=a&ssl_keyfile=b").parameters["ssl_password"] == ""


def test_quoted_characters_in_a_login() -> None:
    """A password with every character that a URL may trip over; # needs no quoting."""
    password = "p@ss:w/rd?%41&\u00fc=#"
    assert RedisUrl.of(f"redis://:{quote(password, safe='')}@host").parameters["password"] == password
    assert RedisUrl.of("redis://:a#b@host").parameters == {"password": "a#b"}
