"""Whether the marker in Redis belongs to this ledger: asked before anything of it is used."""

from __future__ import annotations

import psycopg

from viewer_pipeline.errors import PipelineRefused
from viewer_pipeline.flush.identity import UNKNOWN, LedgerIdentity
from viewer_pipeline.flush.ledger import LastFlush, Ledger
from viewer_pipeline.flush.pipeline_refusal import ADOPT, FORMAT, refusal
from viewer_pipeline.flush.redis_store import Marker, RedisStore
from viewer_pipeline.flush.registry import Pipeline
from viewer_pipeline.redis_names import OLD_MARKER, OLD_SUBSCRIBER
from viewer_pipeline.stores.queries import named_queries

SQL = named_queries(__name__)


def same_ledger(one: str, other: str) -> bool:
    """Whether two identities are of one ledger, as in claim.lua: an unknown system identifier fits any."""
    if one.count("/") != 2 or other.count("/") != 2:  # somebody wrote something else there
        return False
    (id_of_one, system, oid), (id_of_other, other_system, other_oid) = one.split("/"), other.split("/")
    same_system = system == other_system or UNKNOWN in (system, other_system)
    return id_of_one == id_of_other and oid == other_oid and same_system


def own_marker(redis: RedisStore, ledger: Ledger, connection: psycopg.Connection) -> Marker | None:
    """Read the marker; None where there is none. Raises PipelineRefused where it is not of this ledger."""
    if marker := redis.marker():
        identity = ledger.identity(connection)
        if marker.ledger and not same_ledger(marker.ledger, identity.key):
            raise refusal(redis.prefix_text, identity, b"ledger", f"{marker.ledger} ".encode())
        check_history(connection, marker, identity.place)
    return marker


def find_refusal(redis: RedisStore, ledger: Ledger, connection: psycopg.Connection) -> PipelineRefused | None:
    """Return why a run would be refused now; None if it would not. Writes nothing."""
    names, identity = redis.names, ledger.identity(connection)
    own, *old = redis.hash_fields(
        (names.marker, ("format", "seq")), (OLD_MARKER, ("format", "seq")), (OLD_SUBSCRIBER, ("format", "id"))
    )
    known = redis.known_pipelines()
    new = names.prefix not in {entry.prefix for entry in known}
    if (new and any(given and not form for form, given in old)) or (own[1] and not own[0]):
        return refusal(names.prefix, identity, b"old", b"")
    if own[0] not in (None, FORMAT.encode()):
        return refusal(names.prefix, identity, b"format", own[0])
    if found := next(filter(None, (_conflict(names.prefix, identity, entry, new=new) for entry in known)), None):
        return found
    try:
        own_marker(redis, ledger, connection)
    except PipelineRefused as error:
        return error
    return None


def _conflict(prefix: str, identity: LedgerIdentity, entry: Pipeline, *, new: bool) -> PipelineRefused | None:
    """Return why an entry of the registry stands against this pipeline, as claim.lua sees it; None if it does not."""
    ours = same_ledger(entry.ledger, identity.key)
    if entry.prefix == prefix and not ours:
        return refusal(prefix, identity, b"ledger", f"{entry.ledger} {entry.place}".encode())
    if new and (entry.prefix.startswith(prefix) or prefix.startswith(entry.prefix)):
        return refusal(prefix, identity, b"overlap", f"{entry.prefix}\n{entry.place}".encode())
    if new and ours:
        return refusal(prefix, identity, b"second", entry.prefix.encode())
    return None


def noting_lost(connection: psycopg.Connection, marker: Marker) -> Marker:
    """Return the marker with the flushes up to its own that the ledger has not; as it is where there are none.

    The run that saw the marker ahead of the ledger may have died between its commit and the first batch that says so.
    (Flushes that retention has dropped look the same, and no ledger that goes on has them.)
    """
    row = connection.execute(SQL["newest_through"], {"seq": marker.seq}).fetchone()
    newest = row[0] if row else None
    return marker if newest in (None, marker.seq) else marker._replace(missing=(newest, marker.seq))


def check_history(connection: psycopg.Connection, marker: Marker, place: str, last: LastFlush | None = None) -> None:
    """Raise PipelineRefused where Redis was settled by a copy of this ledger that has another history.

    A physical copy of a database has the same identity. But two copies that are both written to have different flushes
    under the same number; and one that went on from an older state has lost flushes that the other still has. `last`
    spares a query in the usual case: Redis is settled up to the ledger's end.
    """
    at_the_end = last is not None and marker[:1] == last[:1] and marker.flush_id == str(last.flush_id or "")
    if at_the_end and not any(marker.missing):
        return
    after, through = marker.missing
    parameters = {
        "seq": marker.seq if marker.flush_id else None,
        "flush_id": marker.flush_id,
        "missing_after": after,
        "missing_through": through,
    }
    row = connection.execute(SQL["history_conflict"], parameters).fetchone()
    if row is not None:
        seq, flush_id = row
        raise PipelineRefused(
            f"flush {seq} of {place} ({flush_id}) is not in the history of the database that has settled Redis"
            f" up to flush {marker.seq} ({marker.flush_id}): that is another copy of this database, or PostgreSQL lost"
            f" flushes in a failover; {ADOPT}"
        )
