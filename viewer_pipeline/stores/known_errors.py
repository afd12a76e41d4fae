"""A known message of a server or its client library: our class, a sentence and a remedy for it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from viewer_pipeline.errors import ViewerPipelineError


@dataclass(frozen=True)
class KnownError:
    """One row of a table of messages.

    Attributes:
        pattern: a regular expression, searched in the message.
        error: the class that callers get: it decides whether the work is tried again.
        sentence: what is wrong. Groups of the pattern stand in it in braces, and values that the caller adds.
        remedy: what to do, in the same form.
        codes: the error codes that the message may have; an empty one: it has none, as that of a failed connection.

    """

    pattern: str
    error: type[ViewerPipelineError]
    sentence: str
    remedy: str
    codes: tuple[str, ...] = ("",)

    @property
    def documentation(self) -> tuple[str, str]:
        """Sentence and remedy as docs/how-to/connection-errors.md has them: with … where values stand."""
        return re.sub(r"\{\w+\}", "…", self.sentence), re.sub(r"\{\w+\}", "…", self.remedy)

    def match(self, message: str, code: str) -> re.Match[str] | None:
        """Return the match, if this row describes the message."""
        return re.search(self.pattern, message, re.MULTILINE) if code in self.codes else None

    def build_error(self, where: str, quotation: str, values: Mapping[str, str]) -> ViewerPipelineError:
        """Return our error: where it happened, the sentence, and the message as it came."""
        sentence = self.sentence.format_map(values)
        return self.error(f"{where}: {sentence} ({quotation})", self.remedy.format_map(values))


def find_known_error(
    table: Iterable[KnownError], message: str, code: str = ""
) -> tuple[KnownError, dict[str, str]] | None:
    """Return the first row that describes a message, with the groups of its pattern. Pure."""
    for row in table:
        if match := row.match(message, code):
            return row, {name: value or "" for name, value in match.groupdict().items()}
    return None
