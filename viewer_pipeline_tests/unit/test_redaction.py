"""Passwords of URLs in messages are replaced, and nothing else is."""

from __future__ import annotations

import pytest

from viewer_pipeline.redaction import redact_text


@pytest.mark.parametrize(
    ("text", "redacted"),
    [
        ("postgresql://user:word@host:5432/db", "postgresql://user:***@host:5432/db"),
        ("redis://:word@host:6379/0", "redis://:***@host:6379/0"),
        ("redis://host:6379/0", "redis://host:6379/0"),
        ("redis+sentinel://u:word@a:1,b:2/views/0", "redis+sentinel://u:***@a:1,b:2/views/0"),
        ("redis+sentinel://a/views?sentinel_password=word", "redis+sentinel://a/views?sentinel_password=***"),
        ("unix:///run/redis.sock?password=word&db=1", "unix:///run/redis.sock?password=***&db=1"),
        ("postgresql://user@host/db", "postgresql://user@host/db"),
        ("postgresql://u:word@a:1,b:2/db?sslpassword=word&x=1", "postgresql://u:***@a:1,b:2/db?sslpassword=***&x=1"),
        ("postgresql://host/db?oauth_client_secret=word&a=b", "postgresql://host/db?oauth_client_secret=***&a=b"),
        ("postgresql://host/db?api_key=word&token=word&a=b", "postgresql://host/db?api_key=***&token=***&a=b"),
        ("redis://host?auth=word&pass=word&a=b", "redis://host?auth=***&pass=***&a=b"),
        ("postgresql://host/db?require_auth=md5", "postgresql://host/db?require_auth=md5"),
        ("at postgresql:///db?host=/run&password=word: no", "at postgresql:///db?host=/run&password=*** no"),
        ("rediss://ann:word@host/0?ssl_password=word", "rediss://ann:***@host/0?ssl_password=***"),
        ("", ""),
    ],
)
def test_without_password(text: str, redacted: str) -> None:
    """Only the passwords of URLs are replaced."""
    assert redact_text(text) == redacted
