"""What version 0.1.0 left in Redis, moved to the names and fields of this version. It is a stopped upgrade."""

from __future__ import annotations

from typing import Any

from viewer_pipeline.counting.flush import Stores
from viewer_pipeline.counting.redis_client import Script, redis_errors
from viewer_pipeline.counting.refusals import refusal
from viewer_pipeline.counting.statements import SQL
from viewer_pipeline.errors import MarkerMoved, OldVersionRuns
from viewer_pipeline.redis_names import OLD_CHANGED, OLD_MARKER, OLD_SUBSCRIBER, REGISTRY_KEY

REFUSED = -3
UPGRADE = Script.load("claim", "upgrade")


def require_no_old_worker(stores: Stores) -> None:
    """Raise OldVersionRuns while a worker of version 0.1.0 holds its lease, or stands by."""
    client, url = stores.redis.client, stores.redis.url
    with redis_errors(url):
        fields: Any = client.hmget(OLD_SUBSCRIBER, ["format", "until", "who", "holder", "id"])
        form, until, who, holder, key_space = fields
        if form or key_space is None:
            return
        now = stores.redis.now().timestamp() * 1000
        subscribers: Any = client.pubsub_numsub("viewer:cuts:" + key_space.decode())
    if (holder and until and float(until) > now) or subscribers[0][1]:
        name = (who or b"one that stands by").decode("utf-8", "backslashreplace")
        raise OldVersionRuns(f"worker {name}; stop it, and wait 10 s")


def upgrade_redis(stores: Stores) -> bool:
    """Move marker, changed set and half-folded segment in one script; return whether there was anything to move.

    The pipeline of the settings gets them: version 0.1.0 did not write whose they were. Raises OldVersionRuns.
    """
    redis, names = stores.redis, stores.redis.names
    with redis_errors(redis.url):
        seq: Any = redis.client.hget(OLD_MARKER, "seq")
    with stores.ledger.connect() as connection:
        identity = stores.ledger.identity(connection)
        known = seq is not None and seq.isdigit()
        row = connection.execute(SQL["flush_id_of"], {"seq": int(seq)}).fetchone() if known else None
    keys = [OLD_MARKER, OLD_CHANGED, OLD_SUBSCRIBER, names.marker, names.changed, names.subscriber, REGISTRY_KEY]
    about = [names.prefix, identity.key, identity.place, seq or "", row[0] if row else ""]
    with redis_errors(redis.url):
        outcome, *rest = UPGRADE.run(redis.client, keys, about)
    if outcome == -1:
        raise OldVersionRuns(f"worker {rest[0].decode('utf-8', 'backslashreplace')}; stop it, and migrate again")
    if outcome == REFUSED:
        raise refusal(names.prefix, identity, *rest)
    if outcome < 0:
        raise MarkerMoved("a run of version 0.1.0 settled meanwhile; stop it, and migrate again")
    return bool(outcome)
