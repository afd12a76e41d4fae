"""Passwords in URLs and messages, replaced by `***`. Pure."""

from __future__ import annotations

import re

# The name of an option that holds a secret, and its value up to the next name: an unencoded & is part of the password.
_SECRET_NAME = r"(?:password|passwd|pass|(?<![a-z_])auth|secret|token|api_?key|scram_\w+_key)"  # noqa: S105 - names
_OPTION_NAME = rf"(?i)({_SECRET_NAME}=)"
_OPTION_IN_TEXT = re.compile(_OPTION_NAME + r"(?:'[^']*'?|[^&\s]*(?:&(?![a-z_][\w.-]*=)[^&\s]*)*)")
_OPTION_OF_URL = re.compile(_OPTION_NAME + r"(?:'[^']*'?)?[^&\s]*(?:[&\s](?![a-z_][\w.-]*=)[^&\s]*)*")
# A scheme, maybe behind a quote or a blank that does not belong to the URL.
_SCHEME = re.compile(r"(?:['\"\s]*[A-Za-z][\w+.-]*://)?")


def is_secret(name: str) -> bool:
    """Whether a parameter of this name holds a secret."""
    return re.search(rf"(?i){_SECRET_NAME}$", name) is not None


def redact_url(url: str) -> str:
    """Return one URL, well-formed or not, with every password in it replaced by `***`, whatever characters it has."""
    scheme = _SCHEME.match(url)[0]  # type: ignore[index]  # matches the empty string
    rest = re.sub(r":.*@", ":***@", url.removeprefix(scheme), flags=re.DOTALL)
    return _OPTION_OF_URL.sub(r"\1***", scheme + rest)


def redact_text(text: str) -> str:
    """Return a text with the passwords of the URLs in it replaced by `***`."""
    return _OPTION_IN_TEXT.sub(r"\1***", re.sub(r":(?!//)\S*@", ":***@", text))
