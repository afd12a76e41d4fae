"""The rules of the protocol, each broken on purpose: what is replaced in the code, and which tests must notice."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

RULES = "viewer_pipeline_tests/faults/test_rules.py"
CRASHES = "viewer_pipeline_tests/faults/test_crashes.py"
DISASTERS = "viewer_pipeline_tests/faults/test_disasters.py"
FOLDS = "viewer_pipeline_tests/integration/test_folds.py"
EXACTNESS = "viewer_pipeline_tests/faults/test_exactness.py"
TARGET = "viewer_pipeline_tests/integration/test_target.py"
PARKED = "viewer_pipeline_tests/integration/test_parked.py"
TARGET_FAULTS = "viewer_pipeline_tests/faults/test_target_faults.py"
AMBIGUOUS = "viewer_pipeline_tests/faults/test_ambiguous_redis.py"
DURABILITY = "viewer_pipeline_tests/faults/test_durability.py"
SUBSCRIBER = "viewer_pipeline_tests/integration/test_subscriber.py"
STREAM = "viewer_pipeline_tests/unit/test_stream.py"
FAILOVER = "viewer_pipeline_tests/faults/test_failover.py"
POSTGRES_FAILOVER = "viewer_pipeline_tests/faults/test_postgres_failover.py"
SENTINEL = "viewer_pipeline_tests/faults/test_sentinel.py"

RECONCILE = "viewer_pipeline_tests/integration/test_reconcile.py"
RECONCILE_CRASHES = "viewer_pipeline_tests/faults/test_reconcile_crashes.py"
RETENTION = "viewer_pipeline_tests/integration/test_retention.py"
DAILY = "viewer_pipeline_tests/integration/test_daily.py"
RUN_HISTORY = "viewer_pipeline_tests/integration/test_run_history.py"
BASELINE = "viewer_pipeline_tests/integration/test_baseline.py"

COUNTING = "viewer_pipeline/counting/"
WORKER = "viewer_pipeline/worker/"

Change = tuple[str, str, str]


@dataclass(frozen=True)
class Breach:
    """One breach. `old` is in `file` just once; so it is with `also`: file, old, new."""

    rule: str
    said: str
    file: str
    old: str
    new: str
    tests: tuple[str, ...] = (RULES, CRASHES, DISASTERS)
    also: tuple[Change, ...] = ()

    @property
    def changes(self) -> tuple[Change, ...]:
        """Return all that is replaced: file, old, new."""
        return ((self.file, self.old, self.new), *self.also)

    def apply(self, root: Path) -> None:
        """Break it in a copy of the repository. Raises ValueError where the code is not what it was."""
        for file, old, new in self.changes:
            path = root / file
            text = path.read_text(encoding="utf-8")
            if text.count(old) != 1:
                raise ValueError(f"{self.rule} {self.said}: {old!r} is {text.count(old)} times in {file}")
            path.write_text(text.replace(old, new), encoding="utf-8")


BREACHES = (
    Breach(
        "R1",
        "totals are committed apart from the ledger",
        COUNTING + "ledger.py",
        "        return upsert(connection, flush)\n",
        "        pass\n    return upsert(connection, flush)\n",
    ),
    Breach(
        "R2",
        "settling deletes counters instead of lowering them",
        COUNTING + "lua/settle.lua",
        "        left = redis.pcall('DECRBY', KEYS[i], delta)",
        "        left = 0",
    ),
    Breach(
        "R3",
        "the next number is taken whatever was committed since the read",
        COUNTING + "flush.py",
        "        flush = _flush_of(snapshot, base, after, rows)\n",
        "        with ledger.connect() as other:\n"
        "            base = max(base, last_flush(other).seq)\n"
        "        flush = _flush_of(snapshot, base, None, rows)\n",
    ),
    Breach(
        "R3",
        "counters are read before what the ledger holds is settled",
        COUNTING + "flush.py",
        "            marker, findings.settled_before = settle_through(redis, connection, marker, last.seq, findings)\n",
        "            early = redis.read(_candidates(stores.redis, request))\n"
        "            marker, findings.settled_before = settle_through(redis, connection, marker, last.seq, findings)\n"
        "            redis.read = lambda *_: early\n",
    ),
    Breach(
        "R4",
        "the marker is not looked at: a script that is sent twice subtracts twice",
        COUNTING + "lua/settle.lua",
        "if seq < at_seq or (seq == at_seq and batch <= at_batch) then",
        "if false then",
    ),
    Breach(
        "R4",
        "the marker is not advanced with the subtraction",
        COUNTING + "lua/settle.lua",
        "redis.call('HSET', KEYS[1], 'seq', ARGV[1], 'batch', ARGV[2], 'of', ARGV[3])",
        "redis.call('HSET', KEYS[1], 'batch', at[2])",
    ),
    Breach(
        "R5",
        "batches settle in any order",
        COUNTING + "lua/settle.lua",
        "if at_seq ~= tonumber(ARGV[4]) or at_batch ~= tonumber(ARGV[5]) then",
        "if false then",
    ),
    Breach(
        "R6",
        "a new number is above the ledger's only",
        COUNTING + "flush.py",
        "            base = max(last.seq, marker.seq)\n",
        "            base = last.seq\n",
    ),
    Breach(
        "R6",
        "a run goes on although the ledger that it read from was rolled back",
        COUNTING + "sql/insert_flush.sql",
        "    AND (%(after)s::uuid IS NULL OR EXISTS (SELECT FROM viewer.flush WHERE flush_id = %(after)s))",
        "    AND (%(after)s::uuid IS NULL OR TRUE)",
    ),
    Breach(
        "R7",
        "nothing is waited for between the last read and the commit",
        COUNTING + "redis_store.py",
        "        self.durability.wait(self.client, self.url)\n",
        "",
        (DURABILITY,),
    ),
    Breach(
        "R7",
        "the wait is for what was there before the counters were read",
        COUNTING + "flush.py",
        "        readings = redis.read(_candidates(stores.redis, request))\n",
        "        redis.durability.wait(redis.client, redis.url)\n"
        "        redis.durability = type(redis.durability)()\n"
        "        readings = redis.read(_candidates(stores.redis, request))\n",
        (DURABILITY,),
    ),
    Breach(
        "R7",
        "the append-only file is not waited for",
        COUNTING + "durability.py",
        "            if not synced:\n",
        "            if False:\n",
        (DURABILITY,),
    ),
    Breach(
        "R7",
        "a WAITAOF that answers before anything is on disk is believed",
        COUNTING + "durability.py",
        '    if sync == "always" or waits:\n',
        "    if True:\n",
        (DURABILITY,),
    ),
    Breach(
        "R7",
        "settling and reading go on over a connection that was made again",
        COUNTING + "one_connection.py",
        '    options |= {"retry": Retry(NoBackoff(), 0), "redis_connect_func": _Once()}\n',
        "",
        (DURABILITY,),
    ),
    Breach(
        "R8",
        "an unknown COMMIT is taken for none",
        COUNTING + "ledger.py",
        "            if self.holds(flush.flush_id):",
        "            if False and self.holds(flush.flush_id):",
    ),
    Breach(
        "R10",
        "counters that messages raise expire a day later",
        COUNTING + "lua/fold.lua",
        "        done = redis.pcall('INCRBY', KEYS[i], views[i - 2])\n",
        "        done = redis.pcall('INCRBY', KEYS[i], views[i - 2])\n        redis.call('EXPIRE', KEYS[i], 86400)\n",
    ),
    Breach(
        "R10",
        "the marker expires where no run renews it",
        COUNTING + "lua/begin.lua",
        "redis.call('HSET', KEYS[1], 'run', ARGV[1])\n",
        "redis.call('HSET', KEYS[1], 'run', ARGV[1])\nredis.call('EXPIRE', KEYS[1], 86400)\n",
    ),
    Breach(
        "R11",
        "a run only reads: a Redis that takes no writes is noticed after the commit",
        COUNTING + "lua/begin.lua",
        "redis.call('HSET', KEYS[1], 'run', ARGV[1])\n",
        "if redis.call('EXISTS', KEYS[1]) == 1 then\n"
        "    local m = redis.call('HMGET', KEYS[1], 'seq', 'batch', 'of', 'epoch')\n"
        "    return {0, m[1], m[2], m[3], m[4]}\n"
        "end\n",
        also=(
            (
                COUNTING + "redis_store.py",
                '            pipe.hset(MARKER_KEY, "run", run_id)\n',
                '            pipe.hget(MARKER_KEY, "run")\n',
            ),
        ),
    ),
    Breach(
        "epoch",
        "a flush is subtracted from whatever Redis is there",
        COUNTING + "lua/settle.lua",
        "if (at[4] or '') ~= ARGV[6] then",
        "if false then",
    ),
    Breach(
        "epoch",
        "flushes of another epoch are not passed over",
        COUNTING + "settler.py",
        "batch if batch.epoch == marker.epoch else batch.passed_over() for batch in due",
        "batch for batch in due",
    ),
    Breach(
        "epoch",
        "no second look after the last read",
        COUNTING + "flush.py",
        "    if now is None or now.epoch != marker.epoch or now[:2] < marker[:2]:\n",
        "    if False:\n",
    ),
    Breach(
        "fold",
        "a segment is written whenever it is sent",
        COUNTING + "lua/fold.lua",
        "if segment <= tonumber(at[2] or 0) or segment < begun then",
        "if false then",
        (FOLDS, EXACTNESS),
    ),
    Breach(
        "fold",
        "a part of a segment is written whenever it is sent",
        COUNTING + "lua/fold.lua",
        "    if tonumber(ARGV[3]) <= tonumber(at[4]) then",
        "    if false then",
        (FOLDS, EXACTNESS),
    ),
    Breach(
        "lease",
        "whoever lost the lease may still fold",
        COUNTING + "lua/fold.lua",
        "if at[1] ~= ARGV[1] then",
        "if false then",
        (FOLDS, EXACTNESS),
    ),
    Breach(
        "stream",
        "messages that arrive together with the confirmation of a subscription are heard twice",
        "viewer_pipeline/worker/subscription.py",
        "            self._early = self.read(",
        "            self._early += self.read(",
        (SUBSCRIBER,),
    ),
    Breach(
        "stream",
        "what was heard before a loss gets another number than others have it under",
        "viewer_pipeline/worker/stream.py",
        "            self._add(self.last + 1, views)",
        "            self._add(self.last + 2, views)",
        (STREAM, EXACTNESS),
    ),
    Breach(
        "R1",
        "the user's table is written apart from the ledger",
        COUNTING + "ledger.py",
        "            return _transact(connection, flush, lambda c, f: add_to_target(c, target, f.seq, f.counters))\n",
        "            with connection.transaction():\n"
        "                if not _claim(connection, flush):\n"
        "                    return None\n"
        "                _copy_batches(connection, flush.batches)\n"
        "            with connection.transaction():\n"
        "                return add_to_target(connection, target, flush.seq, flush.counters)\n",
        (TARGET_FAULTS,),
    ),
    Breach(
        "parked",
        "views of VODs that are not there are dropped",
        COUNTING + "sql/upsert_target.sql",
        "    WHERE touched.key IS NULL\n",
        "    WHERE FALSE\n",
        (TARGET, PARKED),
    ),
    Breach(
        "parked",
        "parked views stay parked when they are counted",
        COUNTING + "sql/apply_parked.sql",
        "    DELETE FROM viewer.parked AS p USING due JOIN touched USING (key) WHERE p.vod_id = due.vod_id\n",
        "    DELETE FROM viewer.parked AS p USING due JOIN touched USING (key) WHERE FALSE\n",
        (TARGET, PARKED),
    ),
    Breach(
        "parked",
        "parked views are counted without holding them",
        COUNTING + "sql/lock_parked.sql",
        "FOR NO KEY UPDATE OF t, p SKIP LOCKED",
        "",
        (PARKED,),
    ),
    Breach(
        "target",
        "the count is set instead of added to",
        COUNTING + "sql/upsert_target.sql",
        "SET {count} = coalesce(t.{count}, 0) + s.delta",
        "SET {count} = (SELECT sum(view_count) FROM viewer.vod_view_counts WHERE vod_id = s.key) + s.delta",
        (TARGET,),
    ),
    Breach(
        "target",
        "ids that are one in the table's type are not added up",
        COUNTING + "target.py",
        '_SUMS = "SELECT key, sum(delta) AS delta FROM due WHERE key IS NOT NULL GROUP BY key ORDER BY key"',
        '_SUMS = "SELECT key, delta FROM due WHERE key IS NOT NULL ORDER BY key"',
        (TARGET,),
    ),
    Breach(
        "target",
        "a row that cannot be written fails the flush",
        COUNTING + "target_upsert.py",
        "    return not (_NOT_OF_A_FUNCTION if error.diag.context else _NOT_OF_A_ROW).match(error.sqlstate)\n",
        "    return False\n",
        (TARGET,),
    ),
    Breach(
        "told",
        "only the run that made the marker anew can tell that Redis was emptied",
        COUNTING + "lua/begin.lua",
        "(made == 1 or marker[5]) and 1 or 0",
        "made",
        (AMBIGUOUS,),
    ),
    Breach(
        "hints",
        "an announcement is taken back although new views came in",
        COUNTING + "lua/forget.lua",
        "if type(value) ~= 'string' or not string.match(value, '^[1-9]%d*$') then",
        "if true then",
        (AMBIGUOUS,),
    ),
    Breach(
        "hints",
        "a request for a sweep is taken back by one that was begun before it",
        COUNTING + "lua/swept.lua",
        "if redis.call('HGET', KEYS[1], 'sweep') == ARGV[1] then",
        "if true then",
        (AMBIGUOUS,),
    ),
    Breach(
        "repair",
        "a repair leaves nothing in the ledger",
        COUNTING + "reconcile/adjust.py",
        "            if totals is not None:\n",
        '            self.connection.execute("DELETE FROM viewer.flush_batch WHERE seq = %s", [flush.seq])\n'
        "            if totals is not None:\n",
        (RECONCILE,),
    ),
    Breach(
        "repair",
        "totals are mended apart from the ledger",
        COUNTING + "reconcile/adjust.py",
        "                totals = self.stores.ledger.commit(self.connection, flush, upsert)\n",
        "                totals = self.stores.ledger.commit(self.connection, flush, lambda *_: dict)\n"
        "                if totals is not None:\n"
        "                    with self.connection.transaction():\n"
        "                        totals = upsert(self.connection, flush)\n",
        (RECONCILE_CRASHES,),
    ),
    Breach(
        "repair",
        "what is to be mended is reckoned before the base is fixed",
        COUNTING + "reconcile/adjust.py",
        "            last = last_flush(self.connection)\n            deltas = plan()\n",
        "            deltas = plan()\n            last = last_flush(self.connection)\n",
        (RECONCILE,),
    ),
    Breach(
        "repair",
        "a repair is subtracted from Redis",
        COUNTING + "sql/batches_beyond.sql",
        "    CASE WHEN starts_with(f.mode, 'reconcile') THEN '{}' ELSE b.vod_ids END,\n"
        "    CASE WHEN starts_with(f.mode, 'reconcile') THEN '{}' ELSE b.deltas END,\n",
        "    b.vod_ids, b.deltas,\n",
        (RECONCILE,),
    ),
    Breach(
        "repair",
        "a repair counts as views",
        COUNTING + "sql/reconcile_totals.sql",
        "    WHERE NOT starts_with(f.mode, 'reconcile')\n        AND (",
        "    WHERE (",
        (RECONCILE,),
    ),
    Breach(
        "undo",
        "whoever undoes a repair again takes it back twice",
        COUNTING + "reconcile/undo.py",
        "    flush_id = uuid5(UNDO, str(adjustment.flush_id))\n",
        '    flush_id = uuid5(UNDO, str(__import__("uuid").uuid4()))\n',
        (RECONCILE,),
    ),
    Breach(
        "snapshot",
        "a comparison is of several moments",
        COUNTING + "reconcile/snapshot.py",
        "psycopg.IsolationLevel.REPEATABLE_READ",
        "psycopg.IsolationLevel.READ_COMMITTED",
        (RECONCILE,),
    ),
    Breach(
        "baseline",
        "totals change while the baseline is taken",
        COUNTING + "baseline.py",
        '        connection.execute(SQL["lock_totals"])\n',
        "",
        (BASELINE,),
    ),
    Breach(
        "daily",
        "a day that is added up again is added to what is there",
        COUNTING + "daily.py",
        '("delete_daily_views", "insert_daily_views", "note_rollup")',
        '("insert_daily_views", "note_rollup")',
        (DAILY,),
        also=(
            (
                COUNTING + "sql/insert_daily_views.sql",
                "GROUP BY 1, 2\n",
                "GROUP BY 1, 2\nON CONFLICT (day, vod_id) DO UPDATE SET views = daily_views.views + excluded.views\n",
            ),
        ),
    ),
    Breach(
        "daily",
        "flushes that commit while a day is added up are noted, and not added",
        COUNTING + "sql/note_rollup.sql",
        "        AND seq <= %(through)s AND NOT",
        "        AND (seq <= %(through)s OR TRUE) AND NOT",
        (DAILY,),
    ),
    Breach(
        "retention",
        "days that are not added up are dropped",
        COUNTING + "retention.py",
        "    if one.rolled_up is None:\n",
        '    if (one.rolled_up or 0) < one.last_flush:\n        return ""\n    if one.rolled_up is None:\n',
        (RETENTION,),
    ),
    Breach(
        "retention",
        "days that are not settled are dropped",
        COUNTING + "retention.py",
        "    if one.last_flush > settled:\n",
        "    if False:\n",
        (RETENTION,),
    ),
    Breach(
        "retention",
        "flushes of a day that has left are dropped, settled or not",
        COUNTING + "sql/prune_ledger.sql",
        " AND f.seq <= %(settled)s AND NOT",
        " AND %(settled)s >= 0 AND NOT",
        (RETENTION,),
    ),
    Breach(
        "retention",
        "a flush that came too late for its day is dropped with it",
        COUNTING + "sql/prune_ledger.sql",
        "            AND f.seq <= r.last_flush AND f.seq <= %(settled)s",
        "            AND f.seq <= %(settled)s",
        (RETENTION,),
    ),
    Breach(
        "retention",
        "repairs are dropped with the days that they were made on",
        COUNTING + "sql/prune_ledger.sql",
        "%(settled)s AND NOT starts_with(f.mode, 'reconcile')\n",
        "%(settled)s\n",
        (RETENTION,),
    ),
    Breach(
        "retention",
        "the run of a latest materialization is deleted",
        "viewer_pipeline/orchestration/run_history.py",
        "        GROUP BY asset_key, partition\n",
        "        GROUP BY asset_key\n",
        (RUN_HISTORY,),
    ),
    Breach(
        "demoted",
        "a connection stays with a primary that was demoted",
        COUNTING + "refusals.py",
        "            if is_demotion(reply):\n",
        "            if False:\n",
        (FAILOVER,),
    ),
    Breach(
        "demoted",
        "other connections of a client stay with a primary that was demoted",
        COUNTING + "refusals.py",
        "        if self._refused or self._known != self._refusals.demotions:\n",
        "        if self._refused:\n",
        (FAILOVER,),
    ),
    Breach(
        "demoted",
        "a connection stays with a server that refuses writes for another reason",
        COUNTING + "refusals.py",
        "        if self._refused or self._known != self._refusals.demotions:\n",
        "        if self._known != self._refusals.demotions:\n",
        (FAILOVER,),
    ),
    Breach(
        "demoted",
        "what Redis 6.2 says of a script that is refused is not understood",
        COUNTING + "refusals.py",
        '    r"(?:Error running script .*?: -)?"\n',
        "",
        (FAILOVER, SENTINEL),
    ),
    Breach(
        "demoted",
        "a command that is sent again asks no Sentinel",
        COUNTING + "refusals.py",
        "        if self._sock is None and isinstance(self, SentinelManagedConnection):\n",
        "        if False:\n",
        (SENTINEL,),
    ),
    Breach(
        "demoted",
        "the subscription stays with a primary that was demoted",
        WORKER + "subscriber.py",
        "            self._follow()\n",
        "",
        (FAILOVER,),
    ),
    Breach(
        "demoted",
        "one that stands by never notices that its server was demoted",
        WORKER + "folder.py",
        "                    self._store.require_writes()\n",
        "                    pass\n",
        (FAILOVER,),
    ),
    Breach(
        "demoted",
        "the subscription is given up while the address leads to the demoted server only",
        WORKER + "subscriber.py",
        "            self._store.require_writes()\n        except TransientError:\n",
        "            pass\n        except TransientError:\n",
        (FAILOVER,),
    ),
    Breach(
        "demoted",
        "views without a number are dropped at the move to another server",
        WORKER + "subscriber.py",
        "        if self._stream.numbered or not self._stream.total() or now >= self._unnumbered_until:\n",
        "        if now <= self._unnumbered_until:\n",
        (FAILOVER,),
    ),
    Breach(
        "delivery",
        "a subscription on another server than the commands is kept",
        WORKER + "subscriber.py",
        "            self._delivery.check(subscription, self._stream.last)\n",
        "",
        (FAILOVER,),
    ),
    Breach(
        "delivery",
        "one that stands by never notices that its subscription is on another server",
        WORKER + "folder.py",
        "            self._delivery.folded(lease.folded)\n",
        "",
        (FAILOVER,),
    ),
    Breach(
        "delivery",
        "a backlog is taken for another server",
        WORKER + "delivery.py",
        "            if subscription.echoed == self._number:\n",
        "            if subscription.echoed >= 0:\n",
        (FAILOVER,),
    ),
    Breach(
        "stop",
        "a stop tries once to fold what is in memory",
        WORKER + "leaving.py",
        "            if time.monotonic() + attempts.pause > self._deadline:\n",
        "            if True:\n",
        (FAILOVER,),
        also=(
            (
                WORKER + "leaving.py",
                "                attempts.failed()\n                self._refused(error)\n                continue\n",
                "                self._refused(error)\n                return\n",
            ),
        ),
    ),
    Breach(
        "R8",
        "a standby, or a primary that was set read-only, is believed about an unknown COMMIT",
        COUNTING + "ledger.py",
        "        if standby or read_only:\n",
        "        if False:\n",
        (POSTGRES_FAILOVER,),
    ),
    Breach(
        "standby",
        "the ledger of a standby is believed",
        COUNTING + "ledger.py",
        "            if not any_server and (reason := read_only_reason(connection)):\n",
        "            if False and (reason := read_only_reason(connection)):\n",
        (POSTGRES_FAILOVER,),
    ),
    Breach(
        "standby",
        "a PostgreSQL that refuses writes fails a run for good",
        COUNTING + "ledger.py",
        "        if refuses_writes(error):\n",
        "        if False:\n",
        (POSTGRES_FAILOVER,),
    ),
    Breach(
        "standby",
        "a connection that was refused a write is used again",
        COUNTING + "postgres_client.py",
        "                self.close()\n            raise\n",
        "                pass\n            raise\n",
        (POSTGRES_FAILOVER,),
    ),
)
