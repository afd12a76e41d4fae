"""The message on settings that cannot be used: each variable, its value without secrets, and what is expected. Pure."""

from __future__ import annotations

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from viewer_pipeline.redaction import redact_url

SECRETS = ("ALERT_WEBHOOK_URL",)  # anybody who knows it can post there: its path is often a token
MAX_VALUE_CHARACTERS = 300
EXPECTATIONS = {  # by Pydantic's type of error
    "int_parsing": "expected a whole number",
    "int_from_float": "expected a whole number",
    "bool_parsing": "expected true or false",
    "literal_error": "expected {expected}",
    "greater_than_equal": "expected at least {ge}",
    "less_than_equal": "expected at most {le}",
}


def describe_invalid_settings(error: ValidationError) -> str:
    """Return one sentence for each invalid value."""
    return "; ".join(_describe_invalid_value(e["loc"], e["input"], _expectation(e)) for e in error.errors())


def _expectation(details: ErrorDetails) -> str:
    """Return what is expected in our words, as far as Pydantic's differ: its messages speak of an input."""
    known = EXPECTATIONS.get(details["type"])
    return known.format_map(details.get("ctx", {})) if known else details["msg"].removeprefix("Value error, ")


def _describe_invalid_value(location: tuple[int | str, ...], value: object, message: str) -> str:
    if not location:  # of a check over several settings, whose message names them
        return message
    name = str(location[0]).upper()
    if name in SECRETS:
        value = "***"
    return f"{name}={_shortened(redact_url(str(value)))!r}: {message}"


def _shortened(text: str) -> str:
    return text if len(text) <= MAX_VALUE_CHARACTERS else text[:MAX_VALUE_CHARACTERS] + "…"
