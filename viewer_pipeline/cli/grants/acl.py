"""The ACL line that creates a Redis user with only the rights needed here. Pure."""

from __future__ import annotations

import re

from viewer_pipeline.flush.counter_validation import counter_pattern
from viewer_pipeline.layout import Layout
from viewer_pipeline.redis_names import CHANGED, MARKER, presence_channel
from viewer_pipeline.redis_url import RedisUrl
from viewer_pipeline.settings import Settings
from viewer_pipeline.stores.table_privileges_and_redis_commands import CLUSTER_COMMANDS, REDIS_COMMANDS
from viewer_pipeline.streams import MAX_STREAM

PASSWORD = "<SHA-256>"  # noqa: S105 - not 64 hexadecimal digits: Redis refuses the line until a digest is put there


def acl_line(user: str, settings: Settings, password_sha256: str = PASSWORD) -> str:
    """Return the line for the prompt of redis-cli, or a file that it reads; the digest is hexadecimal."""
    layout = Layout.of(settings.redis_url or "", settings.counter_prefix)
    names = layout.names
    ours = dict.fromkeys([*names.pipeline_keys, *names.registration_keys()])
    keys = [f"~{_acl_pattern(counter_pattern(names.prefix))}", *(f"~{_exact_pattern(key)}" for key in ours)]
    if layout.cluster:
        keys.append(f"~{_exact_pattern(layout.marker_beginning)}*")
    keys += _patterns_of_streams(layout)
    listened = (settings.pubsub_channel, presence_channel(settings.pubsub_channel), settings.totals_channel)
    channels = [*(f"&{_exact_pattern(channel)}" for channel in listened), f"&{_exact_pattern(names.cuts)}*"]
    rights = ["on", f"#{password_sha256}", "resetkeys", *keys, "resetchannels", *channels, "-@all"]
    return _acl_setuser(user, [*rights, *(f"+{command}" for command in needed_commands(settings))])


def _patterns_of_streams(layout: Layout) -> list[str]:
    """Return patterns of markers and changed sets of streams: FLUSH_STREAMS may change, and a new number has new names.

    With digits, because a star would match those of other pipelines as well.
    """
    names, digit = layout.names, "[0-9]"
    endings = (names.marker.removeprefix(MARKER), names.changed.removeprefix(CHANGED))
    marker, changed = map(_exact_pattern, endings)
    if layout.cluster:
        marker = f"{_exact_pattern(layout.marker_beginning.removeprefix(MARKER))}*"
    numbers = [digit * digits for digits in range(1, len(str(MAX_STREAM)) + 1)]
    parts = [f"{digit * part}of{digit * parts}" for part, parts in ((1, 1), (1, 2), (2, 2))]
    return [f"~{MARKER}@{number}{marker}" for number in numbers] + [f"~{CHANGED}@{part}{changed}" for part in parts]


def needed_commands(settings: Settings) -> list[str]:
    """Return the commands that are sent under these settings."""
    needed = list(REDIS_COMMANDS)
    if settings.redis_wait_replicas:
        needed.append("wait")
    if settings.redis_wait_aof:
        needed.append("waitaof")
    if settings.redis_url is not None:
        url = RedisUrl.of(settings.redis_url)
        needed += CLUSTER_COMMANDS if url.cluster else ()
        needed += ("select",) if url.database else ()
    return sorted(needed)


def _acl_setuser(user: str, rights: list[str]) -> str:
    return " ".join(["ACL SETUSER", *map(_quote_word, [user, *rights])])


def _quote_word(text: str) -> str:
    """Return a word as redis-cli reads it: one with quotes in it stands in quotes."""
    if re.search(r"""["'\x00-\x20]""", text) is None:
        return text
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _exact_pattern(channel: str) -> str:
    return _acl_pattern(counter_pattern(channel).removesuffix("*"))


def _acl_pattern(pattern: str) -> str:
    """Return a pattern as ACLs take it, which cannot hold blanks: any character stands for one."""
    return re.sub(r"\s", "?", pattern)
