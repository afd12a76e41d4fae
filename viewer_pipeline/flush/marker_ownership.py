"""Ownership: whether the marker in Redis belongs to this ledger. Checked before anything of it is used."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import closing
from typing import NamedTuple

import psycopg

from viewer_pipeline.command_to_type import command_to_type
from viewer_pipeline.errors import PipelineRefused, ViewerPipelineError
from viewer_pipeline.flush.counter_reader import Pipeline
from viewer_pipeline.flush.ledger import Ledger
from viewer_pipeline.flush.ledger_identity import UNKNOWN, LedgerIdentity
from viewer_pipeline.flush.ledger_row_types import LastFlush
from viewer_pipeline.flush.marker import Marker
from viewer_pipeline.flush.open_store import open_store
from viewer_pipeline.flush.pipeline_refusal import ADOPT, FORMAT, refusal
from viewer_pipeline.flush.redis_store import RedisStore
from viewer_pipeline.layout import Layout
from viewer_pipeline.settings import Settings
from viewer_pipeline.stores.named_queries import fetch_one, named_queries
from viewer_pipeline.stores.redis import START_SECONDS, connect
from viewer_pipeline.text_formatting import pluralize

SQL = named_queries(__name__)
MAX_NAMED_KEYS = 20  # in the text of an error


def register_pipeline_if_reachable(settings: Settings) -> None:
    """Enter the pipeline of the settings in the registry of its Redis, if both servers answer. Raises PipelineRefused.

    If a server is unreachable now, every run and the worker try again; /health reports the error.
    """
    ledger, url = Ledger.of(settings), settings.require_redis_url()
    with closing(connect(url, seconds=START_SECONDS, retries=0)) as client:
        try:
            with ledger.connect(any_server=True) as connection:
                identity = ledger.identity(connection)
            open_store(client, settings).register_pipeline(identity)
        except PipelineRefused:
            raise
        except ViewerPipelineError:
            return


def is_same_ledger(identity: str, other: str) -> bool:
    """Whether two identities are of the same ledger, as in claim.lua: an unknown system identifier matches any."""
    if identity.count("/") != 2 or other.count("/") != 2:  # another program wrote to the key
        return False
    (ledger_id, system, oid), (other_id, other_system, other_oid) = identity.split("/"), other.split("/")
    same_system = system == other_system or UNKNOWN in (system, other_system)
    return ledger_id == other_id and oid == other_oid and same_system


def read_own_marker(redis: RedisStore, ledger: Ledger, connection: psycopg.Connection) -> Marker | None:
    """Return the marker; None if there is none. Raises PipelineRefused if it belongs to another ledger."""
    if marker := redis.marker():
        identity = ledger.identity(connection)
        if marker.ledger and not is_same_ledger(marker.ledger, identity.key):
            raise refusal(redis.prefix_text, identity, b"ledger", f"{marker.ledger} ".encode())
        require_undiverged_history(connection, marker, identity.place)
    return marker


def find_refusal(redis: RedisStore, ledger: Ledger, connection: psycopg.Connection) -> PipelineRefused | None:
    """Return the error with which a run would be refused now; None if it would not. Writes nothing."""
    names, identity = redis.names, ledger.identity(connection)
    own, *old = redis.read_hashes(
        (names.marker, ("format", "seq")),
        (names.old_marker, ("format", "seq")),
        (names.old_subscriber, ("format", "id")),
    )
    known = redis.known_pipelines()
    new = names.prefix not in {entry.prefix for entry in known}
    if (new and any(given and not form for form, given in old)) or (own[1] and not own[0]):
        return refusal(names.prefix, identity, b"old", b"")
    if own[0] not in (None, FORMAT.encode()):
        return refusal(names.prefix, identity, b"format", own[0])
    conflicts = (_conflict(names.prefix, identity, entry, new=new) for entry in known)
    if conflict := next(filter(None, conflicts), None):
        return conflict
    try:
        read_own_marker(redis, ledger, connection)
    except PipelineRefused as error:
        return error
    return None


def _conflict(prefix: str, identity: LedgerIdentity, entry: Pipeline, *, new: bool) -> PipelineRefused | None:
    """Return the refusal because of an entry of the registry, by the rules of claim.lua; None if there is none."""
    ours = is_same_ledger(entry.ledger, identity.key)
    if entry.prefix == prefix and not ours:
        return refusal(prefix, identity, b"ledger", f"{entry.ledger} {entry.place}".encode())
    if new and (entry.prefix.startswith(prefix) or prefix.startswith(entry.prefix)):
        return refusal(prefix, identity, b"overlap", f"{entry.prefix}\n{entry.place}".encode())
    if new and ours:
        return refusal(prefix, identity, b"second", entry.prefix.encode())
    return None


def detect_missing_flushes(connection: psycopg.Connection, marker: Marker) -> Marker:
    """Return the marker with the flushes up to its own that the ledger lacks; unchanged if it lacks none.

    The run that detected the marker ahead of the ledger may have died between its commit and the first batch that
    records them. (Flushes that retention has deleted look the same, and no ledger in use has them.)
    """
    newest = fetch_one(connection, SQL["newest_through"], seq=marker.seq)[0]
    return marker if newest in (None, marker.seq) else marker._replace(missing_flushes=(newest, marker.seq))


def require_undiverged_history(
    connection: psycopg.Connection, marker: Marker, place: str, last: LastFlush | None = None
) -> None:
    """Raise PipelineRefused if Redis was settled by a copy of this ledger with another history.

    A physical copy of a database has the same identity. But two copies that are both written to have different flushes
    under the same number; and a copy that continued from an older state lacks flushes that the other has. `last` saves
    a query in the usual case: Redis is settled through the end of the ledger.
    """
    at_the_end = last is not None and marker[:1] == last[:1] and marker.flush_id == str(last.flush_id or "")
    if at_the_end and not any(marker.missing_flushes):
        return
    after, through = marker.missing_flushes
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


class Divergence(NamedTuple):
    """A flush of the ledger that a copy of it, by which these shards were settled, does not have under its number."""

    seq: int
    flush_id: str
    shards: list[int]

    def refusal(self, place: str, layout: Layout) -> PipelineRefused:
        """Return the error of a run, which names the markers. `place`: of the ledger."""
        keys = [layout.marker_key(shard) for shard in self.shards]
        names = ", ".join(keys[:MAX_NAMED_KEYS]) + (", …" if len(keys) > MAX_NAMED_KEYS else "")
        return PipelineRefused(
            f"flush {self.seq} of {place} ({self.flush_id}) is not in the history of the database that has settled"
            f" {pluralize(len(keys), 'shard')} of Redis: that is another copy of this database, or PostgreSQL lost"
            f" flushes while a node was down; `{command_to_type('docs redis-cluster')}` says what to do with the"
            f" markers: {names}"
        )


def require_undiverged_shards(
    connection: psycopg.Connection, by_shard: Mapping[int, Marker], place: str, layout: Layout
) -> dict[int, int]:
    """Raise PipelineRefused if shards were settled by a copy of this ledger with another history (rule R20).

    Returns, for the number of each marker whose flush the ledger lacks, the newest flush before it.
    """
    divergence, newest_before = compare_histories(connection, by_shard)
    if divergence is not None:
        raise divergence.refusal(place, layout)
    return newest_before


def compare_histories(
    connection: psycopg.Connection, by_shard: Mapping[int, Marker]
) -> tuple[Divergence | None, dict[int, int]]:
    """Return the shards that were settled by a copy of this ledger with another history, None if there is none.

    And for the number of each marker whose flush the ledger lacks, the newest flush before it.
    """
    markers = by_shard.values()
    distinct = {(marker.seq, marker.flush_id) for marker in markers if marker.flush_id}
    newest_before = dict[int, int]()
    parameters: dict[str, object] = {
        "seqs": [seq for seq, _ in distinct],
        "flush_ids": [flush_id for _, flush_id in distinct],
    }
    for seq, flush_id, newest, newest_id, pruned in connection.execute(SQL["newest_flushes_through"], parameters):
        if newest == seq and newest_id != flush_id:
            shards = [shard for shard, marker in by_shard.items() if marker[0] == seq and marker.flush_id == flush_id]
            return Divergence(seq, newest_id, shards), newest_before
        if newest is not None and newest != seq and seq > pruned:
            newest_before[seq] = newest
    ranges = {marker.missing_flushes for marker in markers if any(marker.missing_flushes)}
    if ranges:
        parameters = {"afters": [after for after, _ in ranges], "throughs": [through for _, through in ranges]}
        if row := connection.execute(SQL["flush_that_was_missing"], parameters).fetchone():
            shards = [
                shard
                for shard, marker in by_shard.items()
                if marker.missing_flushes[0] < row[0] <= marker.missing_flushes[1]
            ]
            return Divergence(row[0], row[1], shards), newest_before
    return None, newest_before
