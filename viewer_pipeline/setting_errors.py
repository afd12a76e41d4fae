"""The message on settings that cannot be used: each variable, its value without secrets, and what is expected. Pure."""

from __future__ import annotations

from pydantic import ValidationError

from viewer_pipeline.redaction import redact_url

SECRETS = ("ALERT_WEBHOOK_URL",)  # anybody who knows it can post there: its path is often a token
MAX_VALUE_CHARACTERS = 300


def describe_invalid_settings(error: ValidationError) -> str:
    """Return one sentence for each invalid value."""
    return "; ".join(_describe_invalid_value(e["loc"], e["input"], e["msg"]) for e in error.errors())


def _describe_invalid_value(location: tuple[int | str, ...], value: object, message: str) -> str:
    message = message.removeprefix("Value error, ")
    if not location:  # of a check over several settings, whose message names them
        return message
    name = str(location[0]).upper()
    if name in SECRETS:
        value = "***"
    return f"{name}={_shortened(redact_url(str(value)))!r}: {message}"


def _shortened(text: str) -> str:
    return text if len(text) <= MAX_VALUE_CHARACTERS else text[:MAX_VALUE_CHARACTERS] + "…"
