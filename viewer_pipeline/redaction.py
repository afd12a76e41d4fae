"""Passwords in URLs and messages, replaced by `***`. Pure."""

from __future__ import annotations

import re

# The name of an option that holds a secret, and its value up to the next name: an unencoded & is part of the password.
_PASSWORD_OPTION = re.compile(
    r"(?i)((?:password|passwd|secret|token|api_?key|scram_\w+_key)=)"
    r"(?:'[^']*'?|[^&\s]*(?:&(?![a-z_][\w.-]*=)[^&\s]*)*)"
)


def redact_url(url: str) -> str:
    """Return one URL, well-formed or not, with every password in it replaced by `***`, whatever characters it has."""
    scheme = re.match(r"(?:[A-Za-z][\w+.-]*://)?", url)[0]  # type: ignore[index]  # matches the empty string
    rest = re.sub(r":.*@", ":***@", url.removeprefix(scheme), flags=re.DOTALL)
    return _PASSWORD_OPTION.sub(r"\1***", scheme + rest)


def redact_text(text: str) -> str:
    """Return a text with the passwords of the URLs in it replaced by `***`."""
    return _PASSWORD_OPTION.sub(r"\1***", re.sub(r":(?!//)\S*@", ":***@", text))
