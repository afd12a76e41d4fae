"""Refusal of a pipeline by Redis: the replies of the scripts that begin with claim.lua, as errors."""

from __future__ import annotations

from viewer_pipeline.command_to_type import command_to_type
from viewer_pipeline.errors import PipelineRefused
from viewer_pipeline.flush.ledger_identity import LedgerIdentity
from viewer_pipeline.stores.redis import as_text

ADOPT = (
    f"`{command_to_type('docs clones')}` says what to do; `{command_to_type('adopt')}` (the option `--adopt` of `up`"
    " where that starts the servers) gives the counters to this database"
)
FORMAT = "2"  # of marker and subscriber, in Redis: as in claim.lua


def refusal(prefix: str, ledger: LedgerIdentity, reason: bytes, detail: bytes) -> PipelineRefused:
    """Return the error for a reason (`old`, `format`, `overlap`, `second`, `ledger`) and its detail."""
    about = as_text(detail)
    match reason:
        case b"old":
            text = (
                "Redis holds the state of version 0.1.0; stop all of that version, then run"
                f" `{command_to_type('migrate')}`"
            )
        case b"format":
            text = f"the marker has format {about}, and this program knows format {FORMAT} only; use a newer one"
        case b"overlap":
            other, _, place = about.rpartition("\n")  # a prefix may hold one
            text = (
                f"COUNTER_PREFIX={prefix!r} and the prefix {other!r} of the pipeline of {place} overlap, so both would"
                f" count the same keys; choose another prefix, or `{command_to_type(f'retire {other!r}')}` if that"
                " pipeline is gone"
            )
        case b"second":
            text = (
                f"the database {ledger.place} settles the counters {about}* of this Redis already, and a database has"
                f" one prefix; to change it, flush, stop everything, and `{command_to_type(f'retire {about!r}')}`; but"
                " if this is a copy that has the same identity, give it a Redis of its own, or a database of Redis"
            )
        case _:
            key, _, place = about.partition(" ")
            text = (
                f"the counters {prefix}* are settled by the database {place or 'of another ledger'} (ledger {key}), and"
                f" this is {ledger.place} (ledger {ledger.key}); {ADOPT}"
            )
    return PipelineRefused(text)
