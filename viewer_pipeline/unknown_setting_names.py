"""Variables that are no settings, and were probably meant as settings. Pure."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Literal

PREFIXES = ("VIEWERPIPELINE", "VIEWER", "")  # an operator may expect the program's name in front
# Many programs read these, and names like them (DATABASE_URI, LOGLEVEL, KLOG_LEVEL, LOG_LEVELS, PATCH_SIZE).
COMMON_SETTINGS = frozenset({"DATABASE_URL", "REDIS_URL", "LOG_LEVEL", "LOG_FORMAT", "BATCH_SIZE"})
# Other names in .env may be a line of a key or certificate without quotes around it.
CONVENTIONAL_NAME = re.compile(r"[A-Z_][A-Z0-9_]*|[a-z_][a-z0-9_]*")
READ_BY_COMPOSE = frozenset(
    {"COMPOSE_PROFILES", "POSTGRES_PASSWORD"}
)  # docker-compose.yaml takes them from the same .env


@dataclass(frozen=True)
class UnknownVariable:
    """A variable that no setting has the name of.

    Attributes:
        name: as it was given, with escapes for invisible characters. Its value may be a secret and is not kept.
        place: where it was found.
        meant: the setting with nearly the same name, if there is one without a value.

    """

    name: str
    place: Literal["environment", ".env"]
    meant: str | None


def find_unknown_variables(
    settings: Collection[str], environment: Mapping[str, str], env_file: Mapping[str, str | None]
) -> list[UnknownVariable]:
    """Find variables that have no effect. Upper and lower case are the same.

    Many programs share the environment: of it, only names are returned that are like that of a setting without a value.
    Few share `.env`: of it, all names are returned that are not settings.
    """
    given = {name.upper() for variables in (environment, env_file) for name, value in variables.items() if value}
    unset = [name for name in settings if name not in given]
    unknown = list[UnknownVariable]()
    for name in environment:
        meant = similar_setting(name, unset)
        if name.upper() not in settings and meant and not _is_common_variant(name, meant):
            unknown.append(UnknownVariable(_visible(name), "environment", meant))
    for name in env_file:
        if name.upper() not in (*settings, *READ_BY_COMPOSE):
            meant = similar_setting(name, unset)
            is_name = meant or CONVENTIONAL_NAME.fullmatch(name)
            unknown.append(UnknownVariable(_visible(name if is_name else f"{name[:4]}…"), ".env", meant))
    return unknown


def similar_setting(name: str, settings: Collection[str]) -> str | None:
    """Return the setting whose name differs by separators, a prefix, and at most one typing error.

    A name with a digit has none: `DATABASE_URL2` is the second of another program.
    """
    letters = _letters(name)
    if re.search("[0-9]", name):
        return None
    candidates = [letters.removeprefix(prefix) for prefix in PREFIXES if letters.startswith(prefix)]
    return next((s for s in settings for c in candidates if _within_one_edit(c, _letters(s))), None)


def _is_common_variant(name: str, setting: str) -> bool:
    """Whether other programs may use this name: it differs from that of a common setting at the ends, if at all."""
    letters, expected = _letters(name), _letters(setting)
    are_ends_equal = (letters[0], letters[-1]) == (expected[0], expected[-1])
    is_misspelled = letters != expected and (are_ends_equal or sorted(letters) == sorted(expected))
    return setting in COMMON_SETTINGS and not is_misspelled and not letters.startswith("VIEWER")


def _visible(name: str) -> str:
    return name if name.isprintable() else ascii(name)[1:-1]


def _letters(name: str) -> str:
    return re.sub("[^A-Z]", "", name.upper())


def _within_one_edit(first: str, second: str) -> bool:
    """Whether at most one letter is missing, added or replaced, or two neighbours are exchanged."""
    start = _common_start(first, second)
    first, second = first[start:], second[start:]
    end = _common_start(first[::-1], second[::-1])
    first, second = first[: len(first) - end], second[: len(second) - end]
    return max(len(first), len(second)) <= 1 or (len(first) == 2 and first == second[::-1])


def _common_start(first: str, second: str) -> int:
    pairs = zip(first, second, strict=False)
    return next((i for i, (a, b) in enumerate(pairs) if a != b), min(len(first), len(second)))
