"""The rules of the protocol, each broken on purpose: what is replaced in the code, and which tests must notice."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

RULES = "viewer_pipeline_tests/faults/test_rules.py"
CRASHES = "viewer_pipeline_tests/faults/test_crashes.py"
DISASTERS = "viewer_pipeline_tests/faults/test_disasters.py"
FOLDS = "viewer_pipeline_tests/integration/test_fold_store.py"
EXACTNESS = "viewer_pipeline_tests/faults/test_exactness.py"
TARGET = "viewer_pipeline_tests/integration/test_target.py"
PARKED = "viewer_pipeline_tests/integration/test_parked.py"
TARGET_FAULTS = "viewer_pipeline_tests/faults/test_target_faults.py"
AMBIGUOUS = "viewer_pipeline_tests/faults/test_ambiguous_redis.py"
DURABILITY = "viewer_pipeline_tests/faults/test_durability.py"
SUBSCRIBER = "viewer_pipeline_tests/integration/test_subscriber.py"
STREAM = "viewer_pipeline_tests/unit/test_segment_buffer.py"
TERMINAL = "viewer_pipeline_tests/faults/test_terminal.py"
STOP_SIGNALS = "viewer_pipeline_tests/unit/test_stop_signals.py"
FAILOVER = "viewer_pipeline_tests/faults/test_failover.py"
POSTGRES_FAILOVER = "viewer_pipeline_tests/faults/test_postgres_failover.py"
SENTINEL = "viewer_pipeline_tests/faults/test_sentinel.py"

RECONCILE = "viewer_pipeline_tests/integration/test_reconcile.py"
RECONCILE_CRASHES = "viewer_pipeline_tests/faults/test_reconcile_crashes.py"
RETENTION = "viewer_pipeline_tests/integration/test_retention.py"
DAILY = "viewer_pipeline_tests/integration/test_daily.py"
RUN_HISTORY = "viewer_pipeline_tests/integration/test_run_history.py"
BASELINE = "viewer_pipeline_tests/integration/test_baseline.py"

UPGRADE = "viewer_pipeline_tests/faults/test_upgrade.py"
UPGRADE_REFUSED = "viewer_pipeline_tests/integration/test_upgrade_refused.py"
OLD_VERSION = "viewer_pipeline_tests/faults/test_old_version_refused.py"


PIPELINES = "viewer_pipeline_tests/faults/test_pipelines.py"

BEGIN_WRITES = (
    "redis.call('HSET', KEYS[1], 'run', ARGV[1], 'format', FORMAT, 'ledger', ledger, 'place', ARGV[8],\n"
    "    'seq', OLD)\n"
)

LOST_ENTRY = "if owner and not same_ledger(owner, ledger) then"

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
        "viewer_pipeline/flush/transaction.py",
        "        return upsert(connection, flush)\n",
        "        pass\n    return upsert(connection, flush)\n",
    ),
    Breach(
        "R2",
        "settling deletes counters instead of lowering them",
        "viewer_pipeline/flush/lua/settle.lua",
        "        left = redis.pcall('DECRBY', KEYS[i], delta)",
        "        left = 0",
    ),
    Breach(
        "R3",
        "the next number is taken whatever was committed since the read",
        "viewer_pipeline/flush/commit.py",
        "            flush = plan_flush(snapshot, base, after, rows)\n",
        "            from viewer_pipeline.flush.ledger_queries import last_flush\n"
        "            with stores.ledger.connect() as other:\n"
        "                base = max(base, last_flush(other).seq)\n"
        "            flush = plan_flush(snapshot, base, None, rows)\n",
    ),
    Breach(
        "R3",
        "counters are read before what the ledger holds is settled",
        "viewer_pipeline/flush/drain.py",
        "            marker, settled_before, settle_notes = settle_through(redis, connection, marker, last.seq)\n",
        "            early = redis.read(_candidates(stores.redis, request))\n"
        "            marker, settled_before, settle_notes = settle_through(redis, connection, marker, last.seq)\n"
        "            redis.read = lambda *_: early\n",
    ),
    Breach(
        "R4",
        "the marker is not looked at: a script that is sent twice subtracts twice",
        "viewer_pipeline/flush/lua/settle.lua",
        "if flush < at_flush or (flush == at_flush and batch <= at_batch) then",
        "if false then",
    ),
    Breach(
        "R4",
        "the marker is not advanced with the subtraction",
        "viewer_pipeline/flush/lua/settle.lua",
        "redis.call('HSET', KEYS[1], 'flush', ARGV[1], 'batch', ARGV[2], 'batches', ARGV[3], 'flush_id', ARGV[4])",
        "redis.call('HSET', KEYS[1], 'batch', at[2])",
    ),
    Breach(
        "R5",
        "batches settle in any order",
        "viewer_pipeline/flush/lua/settle.lua",
        "if at_flush ~= tonumber(ARGV[5]) or at_batch ~= tonumber(ARGV[6]) then",
        "if false then",
    ),
    Breach(
        "R6",
        "a new number is above the ledger's only",
        "viewer_pipeline/flush/drain.py",
        "            base = max(last.seq, marker.seq)\n",
        "            base = last.seq\n",
    ),
    Breach(
        "R6",
        "a run goes on although the ledger that it read from was rolled back",
        "viewer_pipeline/flush/transaction.sql",
        "%(after)s = (SELECT flush_id FROM viewer.flush ORDER BY seq DESC LIMIT 1)",
        "TRUE",
    ),
    Breach(
        "R7",
        "nothing is waited for between the last read and the commit",
        "viewer_pipeline/flush/redis_store.py",
        "        self.durability.wait(self._client, self.url)\n",
        "",
        (DURABILITY,),
    ),
    Breach(
        "R7",
        "the wait is for what was there before the counters were read",
        "viewer_pipeline/flush/drain.py",
        "        readings = redis.read(_candidates(stores.redis, request))\n",
        "        redis.durability.wait(redis._client, redis.url)\n"
        "        redis.durability = type(redis.durability)()\n"
        "        readings = redis.read(_candidates(stores.redis, request))\n",
        (DURABILITY,),
    ),
    Breach(
        "R7",
        "the append-only file is not waited for",
        "viewer_pipeline/stores/durability.py",
        "            if not synced:\n",
        "            if False:\n",
        (DURABILITY,),
    ),
    Breach(
        "R7",
        "a WAITAOF that answers before anything is on disk is believed",
        "viewer_pipeline/stores/durability.py",
        '    if sync == "always" or waits:\n',
        "    if True:\n",
        (DURABILITY,),
    ),
    Breach(
        "R7",
        "settling and reading go on over a connection that was made again",
        "viewer_pipeline/stores/one_connection.py",
        '    options |= {"retry": Retry(NoBackoff(), 0), "redis_connect_func": _Once()}\n',
        "",
        (DURABILITY,),
    ),
    Breach(
        "R8",
        "an unknown COMMIT is taken for none",
        "viewer_pipeline/flush/ledger.py",
        "            if self.holds(flush.flush_id):",
        "            if False and self.holds(flush.flush_id):",
    ),
    Breach(
        "R10",
        "counters that messages raise expire a day later",
        "viewer_pipeline/ingest/lua/fold.lua",
        "        raised = redis.pcall('INCRBY', KEYS[i], views[i - 2])\n",
        "        raised = redis.pcall('INCRBY', KEYS[i], views[i - 2])\n        redis.call('EXPIRE', KEYS[i], 86400)\n",
    ),
    Breach(
        "R10",
        "the marker expires where no run renews it",
        "viewer_pipeline/flush/lua/begin.lua",
        BEGIN_WRITES,
        BEGIN_WRITES + "redis.call('EXPIRE', KEYS[1], 86400)\n",
    ),
    Breach(
        "R11",
        "a run only reads: a Redis that takes no writes is noticed after the commit",
        "viewer_pipeline/flush/lua/begin.lua",
        BEGIN_WRITES,
        "if redis.call('HEXISTS', KEYS[1], 'flush') == 1 then\n"
        "    local fields = {'flush', 'batch', 'batches', 'epoch', 'flush_id', 'ledger', 'missing'}\n"
        "    return {0, unpack(redis.call('HMGET', KEYS[1], unpack(fields)))}\n"
        "end\n" + BEGIN_WRITES,
        also=(("viewer_pipeline/flush/lua/confirm.lua", "    redis.call('HSET', KEYS[1], 'run', ARGV[1])\n", ""),),
    ),
    Breach(
        "epoch",
        "a flush is subtracted from whatever Redis is there",
        "viewer_pipeline/flush/lua/settle.lua",
        "(at[3] or '') ~= ARGV[7] or",
        "false or",
    ),
    Breach(
        "epoch",
        "flushes of another epoch are not skipped",
        "viewer_pipeline/flush/settle.py",
        "batch if batch.epoch == marker.epoch else batch.skipped() for batch in due",
        "batch for batch in due",
    ),
    Breach(
        "epoch",
        "no second look after the last read",
        "viewer_pipeline/flush/drain.py",
        "    if now is None or (now.epoch, now.ledger) != (marker.epoch, marker.ledger) or now[:2] < marker[:2]:\n",
        "    if False:\n",
    ),
    Breach(
        "fold",
        "a segment is written whenever it is sent",
        "viewer_pipeline/ingest/lua/fold.lua",
        "if number <= tonumber(folded or 0) or number < begun_number then",
        "if false then",
        (FOLDS, EXACTNESS),
    ),
    Breach(
        "fold",
        "a part of a segment is written whenever it is sent",
        "viewer_pipeline/ingest/lua/fold.lua",
        "    if tonumber(part) <= tonumber(written) then",
        "    if false then",
        (FOLDS, EXACTNESS),
    ),
    Breach(
        "lease",
        "whoever lost the lease may still fold",
        "viewer_pipeline/ingest/lua/fold.lua",
        "holder ~= token or",
        "false or",
        (FOLDS, EXACTNESS),
    ),
    Breach(
        "stream",
        "messages that arrive together with the confirmation of a subscription are heard twice",
        "viewer_pipeline/ingest/subscription.py",
        "            self._early = self.read(",
        "            self._early += self.read(",
        (SUBSCRIBER,),
    ),
    Breach(
        "stream",
        "what was heard before a loss gets another number than others have it under",
        "viewer_pipeline/ingest/segment_buffer.py",
        "            self._add(self.last_cut + 1, views)",
        "            self._add(self.last_cut + 2, views)",
        (STREAM, EXACTNESS),
    ),
    Breach(
        "R1",
        "the user's table is written apart from the ledger",
        "viewer_pipeline/flush/ledger.py",
        "            return transaction.transact("
        "connection, flush, lambda c, f: add_to_target(c, target, f.seq, f.counters))\n",
        "            with connection.transaction():\n"
        "                if not transaction.claim(connection, flush):\n"
        "                    return None\n"
        "                transaction.copy_batches(connection, flush.batches)\n"
        "            with connection.transaction():\n"
        "                return add_to_target(connection, target, flush.seq, flush.counters)\n",
        (TARGET_FAULTS,),
    ),
    Breach(
        "parked",
        "views of VODs that are not there are dropped",
        "viewer_pipeline/target/upsert.sql",
        "    WHERE touched.key IS NULL\n",
        "    WHERE FALSE\n",
        (TARGET, PARKED),
    ),
    Breach(
        "parked",
        "parked views stay parked when they are counted",
        "viewer_pipeline/target/parked.sql",
        "    DELETE FROM viewer.parked AS p USING due JOIN touched USING (key) WHERE p.vod_id = due.vod_id\n",
        "    DELETE FROM viewer.parked AS p USING due JOIN touched USING (key) WHERE FALSE\n",
        (TARGET, PARKED),
    ),
    Breach(
        "parked",
        "parked views are counted without holding them",
        "viewer_pipeline/target/parked.sql",
        "FOR NO KEY UPDATE OF t, p SKIP LOCKED",
        "",
        (PARKED,),
    ),
    Breach(
        "target",
        "the count is set instead of added to",
        "viewer_pipeline/target/upsert.sql",
        "SET {count} = coalesce(t.{count}, 0) + s.delta",
        "SET {count} = (SELECT sum(view_count) FROM viewer.vod_view_counts WHERE vod_id = s.key) + s.delta",
        (TARGET,),
    ),
    Breach(
        "target",
        "ids that are equal in the table's type are not merged",
        "viewer_pipeline/target/table.py",
        '_MERGED = "SELECT key, sum(delta) AS delta FROM due WHERE key IS NOT NULL GROUP BY key ORDER BY key"',
        '_MERGED = "SELECT key, delta FROM due WHERE key IS NOT NULL ORDER BY key"',
        (TARGET,),
    ),
    Breach(
        "target",
        "a row that cannot be written fails the flush",
        "viewer_pipeline/target/upsert.py",
        "    return not (_NOT_OF_A_FUNCTION if error.diag.context else _NOT_OF_A_ROW).match(error.sqlstate)\n",
        "    return False\n",
        (TARGET,),
    ),
    Breach(
        "told",
        "only the run that made the marker anew can tell that Redis was emptied",
        "viewer_pipeline/flush/lua/begin.lua",
        "(made == 1 or unreported) and 1 or 0",
        "made",
        (AMBIGUOUS,),
    ),
    Breach(
        "hints",
        "an announcement is taken back although new views came in",
        "viewer_pipeline/flush/lua/discard.lua",
        "if type(value) ~= 'string' or not string.match(value, '^[1-9]%d*$') then",
        "if true then",
        (AMBIGUOUS,),
    ),
    Breach(
        "hints",
        "a request for a sweep is taken back by one that was begun before it",
        "viewer_pipeline/flush/lua/swept.lua",
        "redis.call('HGET', KEYS[1], 'sweep') == ARGV[1] and",
        "true and",
        (AMBIGUOUS,),
    ),
    Breach(
        "repair",
        "a repair leaves nothing in the ledger",
        "viewer_pipeline/reconcile/adjust.py",
        "            if totals is not None:\n",
        '            self.connection.execute("DELETE FROM viewer.flush_batch WHERE seq = %s", [flush.seq])\n'
        "            if totals is not None:\n",
        (RECONCILE,),
    ),
    Breach(
        "repair",
        "totals are repaired apart from the ledger",
        "viewer_pipeline/reconcile/adjust.py",
        "                totals = self.stores.ledger.commit(self.connection, flush, upsert)\n",
        "                totals = self.stores.ledger.commit(self.connection, flush, lambda *_: dict)\n"
        "                if totals is not None:\n"
        "                    with self.connection.transaction():\n"
        "                        totals = upsert(self.connection, flush)\n",
        (RECONCILE_CRASHES,),
    ),
    Breach(
        "repair",
        "what is to be repaired is computed before the base is fixed",
        "viewer_pipeline/reconcile/adjust.py",
        "            last = last_flush(self.connection)\n            deltas = plan()\n",
        "            deltas = plan()\n            last = last_flush(self.connection)\n",
        (RECONCILE,),
    ),
    Breach(
        "repair",
        "a repair is subtracted from Redis",
        "viewer_pipeline/flush/ledger_queries.sql",
        "    CASE WHEN starts_with(f.mode, 'reconcile') THEN '{}' ELSE b.vod_ids END,\n"
        "    CASE WHEN starts_with(f.mode, 'reconcile') THEN '{}' ELSE b.deltas END,\n",
        "    b.vod_ids, b.deltas,\n",
        (RECONCILE,),
    ),
    Breach(
        "repair",
        "a repair counts as views",
        "viewer_pipeline/reconcile/compare_totals.sql",
        "    WHERE NOT starts_with(f.mode, 'reconcile')\n        AND (",
        "    WHERE (",
        (RECONCILE,),
    ),
    Breach(
        "undo",
        "whoever undoes a repair again takes it back twice",
        "viewer_pipeline/reconcile/undo.py",
        "    flush_id = uuid5(UNDO, str(adjustment.flush_id))\n",
        '    flush_id = uuid5(UNDO, str(__import__("uuid").uuid4()))\n',
        (RECONCILE,),
    ),
    Breach(
        "snapshot",
        "a comparison is of several moments",
        "viewer_pipeline/reconcile/snapshot.py",
        "psycopg.IsolationLevel.REPEATABLE_READ",
        "psycopg.IsolationLevel.READ_COMMITTED",
        (RECONCILE,),
    ),
    Breach(
        "baseline",
        "totals change while the baseline is taken",
        "viewer_pipeline/history/baseline.py",
        '        connection.execute(SQL["lock_totals"])\n',
        "",
        (BASELINE,),
    ),
    Breach(
        "daily",
        "a day that is added up again is added to what is there",
        "viewer_pipeline/history/daily.py",
        '("delete_daily_views", "insert_daily_views", "record_rollup")',
        '("insert_daily_views", "record_rollup")',
        (DAILY,),
        also=(
            (
                "viewer_pipeline/history/daily.sql",
                "GROUP BY 1, 2\n",
                "GROUP BY 1, 2\nON CONFLICT (day, vod_id) DO UPDATE SET views = daily_views.views + excluded.views\n",
            ),
        ),
    ),
    Breach(
        "daily",
        "flushes that commit while a day is added up are noted, and not added",
        "viewer_pipeline/history/daily.sql",
        "        AND seq <= %(through)s AND NOT",
        "        AND (seq <= %(through)s OR TRUE) AND NOT",
        (DAILY,),
    ),
    Breach(
        "retention",
        "days that are not added up are dropped",
        "viewer_pipeline/history/retention.py",
        "    if ledger_day.rolled_up is None:\n",
        '    if (ledger_day.rolled_up or 0) < ledger_day.last_flush:\n        return ""\n'
        "    if ledger_day.rolled_up is None:\n",
        (RETENTION,),
    ),
    Breach(
        "retention",
        "days that are not settled are dropped",
        "viewer_pipeline/history/retention.py",
        "    if ledger_day.last_flush > settled:\n",
        "    if False:\n",
        (RETENTION,),
    ),
    Breach(
        "retention",
        "flushes of a day that has left are dropped, settled or not",
        "viewer_pipeline/history/retention.sql",
        " AND f.seq <= %(settled)s AND NOT",
        " AND %(settled)s >= 0 AND NOT",
        (RETENTION,),
    ),
    Breach(
        "retention",
        "a flush that came too late for its day is dropped with it",
        "viewer_pipeline/history/retention.sql",
        "            AND f.seq <= r.last_flush AND f.seq <= %(settled)s",
        "            AND f.seq <= %(settled)s",
        (RETENTION,),
    ),
    Breach(
        "retention",
        "repairs are dropped with the days that they were made on",
        "viewer_pipeline/history/retention.sql",
        "%(settled)s AND NOT starts_with(f.mode, 'reconcile')\n",
        "%(settled)s\n",
        (RETENTION,),
    ),
    Breach(
        "retention",
        "the run of a latest materialization is deleted",
        "viewer_pipeline/orchestration/run_history.sql",
        "    GROUP BY asset_key, partition\n",
        "    GROUP BY asset_key\n",
        (RUN_HISTORY,),
    ),
    Breach(
        "stop",
        "a closed terminal ends the worker without folding what it received",
        "viewer_pipeline/stop_signals.py",
        "        signal.signal(signal.SIGHUP, on_signal)\n",
        "        pass\n",
        (TERMINAL,),
    ),
    Breach(
        "stop",
        "SIGHUP counts as a request: one that a shell sends after the kernel ends the worker at once",
        "viewer_pipeline/stop_signals.py",
        "        if number != signal.SIGHUP:\n",
        "        if True:\n",
        (STOP_SIGNALS,),
    ),
    Breach(
        "stop",
        "a connection takes the place of a closed standard stream",
        "viewer_pipeline/cli/main.py",
        "        open_closed_streams()\n",
        "",
        (TERMINAL,),
    ),
    Breach(
        "stop",
        "a stop fails when its log has no reader",
        "viewer_pipeline/standard_streams.py",
        "            except OSError:\n                break\n",
        "            except ZeroDivisionError:\n                break\n",
        (TERMINAL,),
    ),
    Breach(
        "R19",
        "all pipelines have the same names in Redis",
        "viewer_pipeline/redis_names.py",
        "        if prefix == DEFAULT_PREFIX:\n",
        "        if prefix:\n",
        (PIPELINES,),
    ),
    Breach(
        "R19",
        "overlapping prefixes are not noticed",
        "viewer_pipeline/flush/lua/claim.lua",
        "if other ~= prefix and (starts_with(other, prefix) or starts_with(prefix, other)) then",
        "if false then",
        (PIPELINES,),
    ),
    Breach(
        "R19",
        "any ledger may settle the counters of a prefix",
        "viewer_pipeline/flush/lua/claim.lua",
        "    return id and id == other_id and oid == other_oid\n",
        "    return true\n",
        (PIPELINES,),
        also=(("viewer_pipeline/flush/lua/begin.lua", "if has and has ~= ledger then", "if false then"),),
    ),
    Breach(
        "R19",
        "a database that was cloned is taken for the original",
        "viewer_pipeline/flush/lua/claim.lua",
        "id == other_id and oid == other_oid",
        "id == other_id",
        (PIPELINES,),
        also=(("viewer_pipeline/flush/lua/begin.lua", "if has and has ~= ledger then", "if false then"),),
    ),
    Breach(
        "R19",
        "only the registry says whose the marker is",
        "viewer_pipeline/flush/lua/begin.lua",
        "if has and has ~= ledger then",
        "if false then",
        (PIPELINES,),
        also=(("viewer_pipeline/flush/lua/claim.lua", LOST_ENTRY, "if false then"),),
    ),
    Breach(
        "R19",
        "one that is refused takes the entry that was lost",
        "viewer_pipeline/flush/lua/claim.lua",
        LOST_ENTRY,
        "if false then",
        (PIPELINES,),
    ),
    Breach(
        "R19",
        "adopt believes the marker alone: what else refuses the owner stays",
        "viewer_pipeline/flush/adoption.py",
        "{before, *recorded} == {identity.key}",
        "before == identity.key",
        (PIPELINES,),
    ),
    Breach(
        "R20",
        "flushes that are gone are forgotten with the run that noticed",
        "viewer_pipeline/flush/settle.py",
        "        marker = add_missing(connection, marker)\n",
        "        pass\n",
        (PIPELINES,),
    ),
    Breach(
        "R19",
        "only the registry says whose the lease is",
        "viewer_pipeline/ingest/lua/lease.lua",
        "    if ledger and ledger ~= claimed then\n",
        "    if false then\n",
        (PIPELINES,),
    ),
    Breach(
        "R19",
        "the settling script asks for the epoch only: a run subtracts after an adoption",
        "viewer_pipeline/flush/lua/settle.lua",
        " or (at[4] or '') ~= ARGV[8] then",
        " then",
        (PIPELINES,),
        also=(
            (
                "viewer_pipeline/flush/settle.py",
                "    if marker is not None and marker.ledger != known.ledger:\n",
                "    if False:\n",
            ),
        ),
    ),
    Breach(
        "R19",
        "counters that were read before an adoption are committed",
        "viewer_pipeline/flush/drain.py",
        "(now.epoch, now.ledger) != (marker.epoch, marker.ledger)",
        "now.epoch != marker.epoch",
        (PIPELINES,),
    ),
    Breach(
        "R19",
        "a marker of any format is read",
        "viewer_pipeline/flush/lua/claim.lua",
        "    if format and format ~= FORMAT then",
        "    if false then",
        (PIPELINES,),
    ),
    Breach(
        "R20",
        "a marker is settled by whichever flush has its number",
        "viewer_pipeline/flush/ownership.sql",
        "(seq = %(seq)s::bigint AND flush_id::text <> %(flush_id)s)",
        "(FALSE AND %(seq)s::bigint = 0 AND %(flush_id)s = '')",
        (PIPELINES,),
    ),
    Breach(
        "R20",
        "which flushes a restored ledger had lost is not kept",
        "viewer_pipeline/flush/lua/settle.lua",
        "if ARGV[12] ~= '' then",
        "if false then",
        (PIPELINES,),
    ),
    Breach(
        "R20",
        "adopt asks for no history",
        "viewer_pipeline/flush/adoption.py",
        '    if misfit and mode != "from-here":\n',
        "    if False:\n",
        (PIPELINES,),
    ),
    Breach(
        "R20",
        "adopt leaves the counters to the flushes that the other ledger has",
        "viewer_pipeline/flush/lua/adopt.lua",
        "if at[1] and ARGV[7] == '1' then",
        "if false then",
        (PIPELINES,),
    ),
    Breach(
        "upgrade",
        "which batch was settled last is forgotten in the move",
        "viewer_pipeline/flush/lua/upgrade.lua",
        "{'flush', 'batch', 'batches', 'epoch', 'unreported', 'run'}",
        "{'flush', 'none', 'batches', 'epoch', 'unreported', 'run'}",
        (UPGRADE,),
    ),
    Breach(
        "upgrade",
        "a segment that was begun is folded from the beginning",
        "viewer_pipeline/flush/lua/upgrade.lua",
        "'folded', 'segment', 'part', 'parts', 'sweep'}",
        "'folded', 'none', 'part', 'parts', 'sweep'}",
        (UPGRADE,),
    ),
    Breach(
        "upgrade",
        "that Redis was emptied is not reported",
        "viewer_pipeline/flush/lua/upgrade.lua",
        "'epoch', 'unreported', 'run'}",
        "'epoch', 'none', 'run'}",
        (UPGRADE,),
    ),
    Breach(
        "upgrade",
        "announcements are left under the old name",
        "viewer_pipeline/flush/lua/upgrade.lua",
        "redis.call('RENAMENX', KEYS[2], KEYS[5]) == 0 then",
        "false then",
        (UPGRADE,),
    ),
    Breach(
        "upgrade",
        "the marker does not name its flush",
        "viewer_pipeline/flush/upgrade.py",
        'row[0] if row else ""',
        '""',
        (UPGRADE,),
    ),
    Breach(
        "upgrade",
        "the state is moved although the marker has moved",
        "viewer_pipeline/flush/lua/upgrade.lua",
        "if (old[1] or '') ~= ARGV[4] then",
        "if false then",
        (UPGRADE,),
    ),
    Breach(
        "upgrade",
        "the state of another pipeline is taken",
        "viewer_pipeline/flush/upgrade.py",
        "    if seq.isdigit() and int(seq) and not last_flush(connection).seq:\n",
        "    if False:\n",
        (UPGRADE,),
    ),
    Breach(
        "upgrade",
        "what an old program made later takes the place of the marker",
        "viewer_pipeline/flush/lua/upgrade.lua",
        "local marker_is_new = redis.call('HEXISTS', KEYS[4], 'flush') == 1",
        "local marker_is_new = false",
        (UPGRADE,),
    ),
    Breach(
        "upgrade",
        "the id of a worker that came early takes the place of the half-folded segment",
        "viewer_pipeline/flush/lua/upgrade.lua",
        "local subscriber_is_new = redis.call('HEXISTS', KEYS[6], 'term') == 1",
        "local subscriber_is_new = KEYS[6] ~= KEYS[3] and redis.call('HEXISTS', KEYS[6], 'id') == 1",
        (UPGRADE,),
    ),
    Breach(
        "upgrade",
        "the old state is deleted before anything that can fail",
        "viewer_pipeline/flush/lua/upgrade.lua",
        "local marker_is_new = redis.call(",
        "redis.call('DEL', KEYS[1], KEYS[3])\nlocal marker_is_new = redis.call(",
        (UPGRADE,),
    ),
    Breach(
        "upgrade",
        "nothing keeps an old program away from Redis",
        "viewer_pipeline/flush/lua/claim.lua",
        "    redis.call('HSET', marker, 'format', FORMAT, 'seq', OLD)\n"
        "    redis.call('HSET', subscriber, 'format', FORMAT, 'until', OLD)\n",
        "    redis.call('HSET', marker, 'format', FORMAT)\n    redis.call('HSET', subscriber, 'format', FORMAT)\n",
        (OLD_VERSION,),
    ),
    Breach(
        "upgrade",
        "an old program may commit",
        "viewer_pipeline/migrations/versions/m0009_version_0_2_0.sql",
        "ALTER TABLE viewer.flush ALTER COLUMN format DROP DEFAULT;\n",
        "",
        (OLD_VERSION,),
    ),
    Breach(
        "upgrade",
        "a worker that holds the lease is not noticed",
        "viewer_pipeline/flush/lua/upgrade.lua",
        "if sub[12] and (tonumber(sub[10] or 0) or 0) > now_ms() then",
        "if false then",
        (UPGRADE_REFUSED,),
    ),
    Breach(
        "upgrade",
        "a worker that stands by is not noticed",
        "viewer_pipeline/flush/lua/upgrade.lua",
        "if sub[1] and redis.call('PUBSUB', 'NUMSUB', 'viewer:cuts:' .. sub[1])[2] > 0 then",
        "if false then",
        (UPGRADE_REFUSED,),
    ),
    Breach(
        "upgrade",
        "a worker is noticed when PostgreSQL has been migrated",
        "viewer_pipeline/stack/server_migration.py",
        "            require_upgradable(stores)\n",
        "            pass\n",
        (UPGRADE_REFUSED,),
    ),
    Breach(
        "upgrade",
        "a daemon is not waited for",
        "viewer_pipeline/stack/server_migration.py",
        "            _require_no_old_daemon(settings, on_progress)\n",
        "",
        (UPGRADE_REFUSED,),
    ),
    Breach(
        "upgrade",
        "a run is not looked for",
        "viewer_pipeline/stack/server_migration.py",
        "            _require_no_old_run(settings)\n",
        "",
        (UPGRADE_REFUSED,),
    ),
    Breach(
        "demoted",
        "a connection stays with a primary that was demoted",
        "viewer_pipeline/stores/refusals.py",
        "            if is_demotion(reply):\n",
        "            if False:\n",
        (FAILOVER,),
    ),
    Breach(
        "demoted",
        "other connections of a client stay with a primary that was demoted",
        "viewer_pipeline/stores/refusals.py",
        "        if self._refused or self._known != self._refusals.demotions:\n",
        "        if self._refused:\n",
        (FAILOVER,),
    ),
    Breach(
        "demoted",
        "a connection stays with a server that refuses writes for another reason",
        "viewer_pipeline/stores/refusals.py",
        "        if self._refused or self._known != self._refusals.demotions:\n",
        "        if self._known != self._refusals.demotions:\n",
        (FAILOVER,),
    ),
    Breach(
        "demoted",
        "what Redis 6.2 says of a script that is refused is not understood",
        "viewer_pipeline/stores/refusals.py",
        '    r"(?:Error running script .*?: -)?"\n',
        "",
        (FAILOVER, SENTINEL),
    ),
    Breach(
        "demoted",
        "a command that is sent again asks no Sentinel",
        "viewer_pipeline/stores/refusals.py",
        "        if self._sock is None and isinstance(self, SentinelManagedConnection):\n",
        "        if False:\n",
        (SENTINEL,),
    ),
    Breach(
        "demoted",
        "the subscription stays with a primary that was demoted",
        "viewer_pipeline/ingest/subscriber.py",
        "            self._failover.check_demotion()\n",
        "",
        (FAILOVER,),
        also=(("viewer_pipeline/ingest/subscriber.py", "            self._failover.check_location()\n", ""),),
    ),
    Breach(
        "demoted",
        "one that stands by never notices that its server was demoted",
        "viewer_pipeline/ingest/folder.py",
        "                self.store.require_writes()\n",
        "                pass\n",
        (FAILOVER,),
    ),
    Breach(
        "demoted",
        "the subscription is given up while the address leads to the demoted server only",
        "viewer_pipeline/ingest/failover.py",
        "            self._store.require_writes()\n        except TransientError:\n",
        "            pass\n        except TransientError:\n",
        (FAILOVER,),
    ),
    Breach(
        "demoted",
        "views without a number are dropped at the move to another server",
        "viewer_pipeline/ingest/failover.py",
        "        if self._all_numbered() or now >= self._unnumbered_until:\n",
        "        if now <= self._unnumbered_until:\n",
        (FAILOVER,),
    ),
    Breach(
        "delivery",
        "a subscription on another server than the commands is kept",
        "viewer_pipeline/ingest/subscriber.py",
        "            folder.cut_delivery.check(subscription, self._buffer.last_cut)\n",
        "",
        (FAILOVER,),
    ),
    Breach(
        "delivery",
        "one that stands by never notices that its subscription is on another server",
        "viewer_pipeline/ingest/folder.py",
        "        self.cut_delivery.on_folded(result.folded)\n",
        "",
        (FAILOVER,),
        also=(("viewer_pipeline/ingest/subscriber.py", "            self._failover.check_location()\n", ""),),
    ),
    Breach(
        "delivery",
        "a backlog is taken for another server",
        "viewer_pipeline/ingest/cut_delivery.py",
        "            if subscription.echoed == self._number:\n",
        "            if subscription.echoed >= 0:\n",
        (FAILOVER,),
    ),
    Breach(
        "stop",
        "a stop tries once to fold what is in memory",
        "viewer_pipeline/ingest/shutdown.py",
        "            if time.monotonic() + attempts.pause > self.deadline:\n",
        "            if True:\n",
        (FAILOVER,),
        also=(
            (
                "viewer_pipeline/ingest/shutdown.py",
                "attempts.failed()\n                folder.on_refused(error)\n                continue\n",
                "folder.on_refused(error)\n                return\n",
            ),
        ),
    ),
    Breach(
        "delivery",
        "after an outage, one that came meanwhile folds before the holder that has heard all",
        "viewer_pipeline/ingest/lua/lease.lua",
        "        if others or outage then\n",
        "        if false then\n",
        (FAILOVER,),
    ),
    Breach(
        "delivery",
        "a holder that follows to the new primary hands over to one that has heard less",
        "viewer_pipeline/ingest/subscriber.py",
        "        moved = self._failover.take_moved()\n",
        "        moved = False\n",
        (FAILOVER,),
    ),
    Breach(
        "R8",
        "a standby, or a primary that was set read-only, is believed about an unknown COMMIT",
        "viewer_pipeline/flush/ledger.py",
        "        if standby or read_only:\n",
        "        if False:\n",
        (POSTGRES_FAILOVER,),
    ),
    Breach(
        "standby",
        "the ledger of a standby is believed",
        "viewer_pipeline/flush/ledger.py",
        "            if not any_server and (reason := read_only_reason(connection)):\n",
        "            if False and (reason := read_only_reason(connection)):\n",
        (POSTGRES_FAILOVER,),
    ),
    Breach(
        "standby",
        "a PostgreSQL that refuses writes fails a run for good",
        "viewer_pipeline/stores/postgres_errors.py",
        "        if refuses_writes(error):\n",
        "        if False:\n",
        (POSTGRES_FAILOVER,),
    ),
    Breach(
        "standby",
        "a connection that was refused a write is used again",
        "viewer_pipeline/stores/postgres.py",
        "                self.close()\n            raise\n",
        "                pass\n            raise\n",
        (POSTGRES_FAILOVER,),
    ),
    Breach(
        "delivery",
        "a subscription stays with a server that became a replica of the new primary",
        "viewer_pipeline/ingest/subscriber.py",
        "            self._failover.check_location()\n",
        "",
        (FAILOVER,),
    ),
)
