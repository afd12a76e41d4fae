"""The parameters of a Redis URL that have an effect, each with the parser of its value. Pure.

A parser raises ValueError with what is expected.
"""

from __future__ import annotations

import re
import ssl
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

MAX_SECONDS = 60.0  # a step of a run must end
TRUE, FALSE = ("true", "1", "yes", "on", "t", "y"), ("false", "0", "no", "off", "f", "n")
TLS_VERSIONS = {
    **dict.fromkeys(("1.2", "771"), ssl.TLSVersion.TLSv1_2),
    **dict.fromkeys(("1.3", "772"), ssl.TLSVersion.TLSv1_3),
}


def _flag(text: str) -> bool:
    if text.lower() not in TRUE + FALSE:
        raise ValueError("true or false")
    return text.lower() in TRUE


def _seconds(text: str) -> float:
    if not re.fullmatch(r"[0-9]{1,9}(\.[0-9]{1,9})?", text) or float(text) < 0.1:
        raise ValueError("a number of seconds, at least 0.1")
    return min(float(text), MAX_SECONDS)


def _database(text: str) -> int:
    if not re.fullmatch(r"[0-9]{1,9}", text):
        raise ValueError("the number of a database")
    return int(text)


def _client_name(text: str) -> str:
    if not re.fullmatch(r"[!-~]{1,100}", text):
        raise ValueError("1 to 100 printable ASCII characters without blanks")
    return text


def _text(text: str) -> str:
    if not text.isprintable():
        raise ValueError("text without control characters")
    return text


def _certificates(text: str) -> str:
    if not text.isascii() or "-----BEGIN CERTIFICATE-----" not in text:
        raise ValueError("certificates in PEM form")
    return text


def _certificate_check(text: str) -> str:
    """Accept redis-py's form, Celery's (CERT_NONE), and that of Python (ssl.CERT_NONE), in any case."""
    match = re.fullmatch(r"(?:(?:ssl|VerifyMode)\.)?(?:CERT_)?(none|optional|required)", text, re.IGNORECASE)
    if match is None:
        raise ValueError("none, optional or required, or Celery's CERT_NONE, CERT_OPTIONAL or CERT_REQUIRED")
    return match[1].lower()


def _tls_version(text: str) -> ssl.TLSVersion:
    """Accept redis-py's number (771), and names such as TLSv1.2."""
    name = text.lower().removeprefix("tls").removeprefix("v").replace("_", ".")
    if name not in TLS_VERSIONS:
        raise ValueError("TLSv1.2 or TLSv1.3")
    return TLS_VERSIONS[name]


def _ciphers(text: str) -> str:
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).set_ciphers(text)
    except (ssl.SSLError, ValueError):
        raise ValueError("ciphers that OpenSSL knows") from None
    return text


def _verify_flags(text: str) -> list[ssl.VerifyFlags]:
    names = [name.strip() for name in text.strip("[]").split(",")]
    if not set(names) <= set(ssl.VerifyFlags.__members__):
        raise ValueError("names of Python's ssl.VerifyFlags such as VERIFY_X509_STRICT, separated by commas")
    return [ssl.VerifyFlags[name] for name in names]


Parsers = Mapping[str, Callable[[str], Any]]
TLS_PARAMETERS: Parsers = MappingProxyType(
    {
        "ssl_ca_certs": _text,
        "ssl_ca_path": _text,
        "ssl_ca_data": _certificates,
        "ssl_cert_reqs": _certificate_check,
        "ssl_certfile": _text,
        "ssl_check_hostname": _flag,
        "ssl_ciphers": _ciphers,
        "ssl_exclude_verify_flags": _verify_flags,
        "ssl_include_verify_flags": _verify_flags,
        "ssl_keyfile": _text,
        "ssl_min_version": _tls_version,
        "ssl_password": str,
    }
)
SENTINEL_PARAMETERS: Parsers = MappingProxyType({"sentinel_username": str, "sentinel_password": str})
PARAMETERS: Parsers = MappingProxyType(
    {
        "client_name": _client_name,
        "db": _database,
        "password": str,
        "socket_connect_timeout": _seconds,
        "socket_timeout": _seconds,
        "ssl": _flag,
        "username": str,
        **TLS_PARAMETERS,
        **SENTINEL_PARAMETERS,
    }
)
