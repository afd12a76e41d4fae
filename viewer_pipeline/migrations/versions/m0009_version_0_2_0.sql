-- name: upgrade
-- The identity of the ledger, columns for a Redis Cluster, names from the glossary.
-- `format` has no default on purpose: version 0.1.0 does not know the column, so what it would commit is refused.
CREATE TABLE viewer.ledger (
    singleton boolean PRIMARY KEY DEFAULT TRUE CHECK (singleton),
    ledger_id uuid NOT NULL DEFAULT gen_random_uuid(),
    made_at timestamptz NOT NULL DEFAULT clock_timestamp()
);
INSERT INTO viewer.ledger DEFAULT VALUES;

ALTER TABLE viewer.flush ADD COLUMN format smallint NOT NULL DEFAULT 1;
ALTER TABLE viewer.flush ALTER COLUMN format DROP DEFAULT;

COMMENT ON TABLE viewer.ledger IS 'The id of this ledger, which the marker in Redis names: docs/how-to/clones.md';
COMMENT ON COLUMN viewer.flush.format IS 'Of the protocol that committed it; 1 is that of version 0.1.0';

ALTER TABLE viewer.flush ADD COLUMN stream smallint NOT NULL DEFAULT 0 CHECK (stream >= 0);
ALTER TABLE viewer.flush_batch
    ADD COLUMN stream smallint NOT NULL DEFAULT 0 CHECK (stream >= 0),
    ADD COLUMN shard smallint NOT NULL DEFAULT 0 CHECK (shard >= 0);

CREATE TABLE viewer.rejected_count (
    source text NOT NULL,
    reason text NOT NULL,
    inputs bigint NOT NULL,
    counted_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    reported bigint NOT NULL DEFAULT 0,
    reported_before bigint NOT NULL DEFAULT 0,
    reported_by text NOT NULL DEFAULT '',
    PRIMARY KEY (source, reason)
);
-- Of messages, version 0.1.0 recorded only examples.
INSERT INTO viewer.rejected_count (source, reason, inputs, counted_at)
SELECT source, reason, count(*), max(seen_at) FROM viewer.rejected WHERE source <> 'parked' GROUP BY source, reason;
UPDATE viewer.rejected_count SET reported = inputs, reported_before = inputs;
CREATE TABLE viewer.rejected_through (cuts_channel text PRIMARY KEY, segment bigint NOT NULL);

COMMENT ON TABLE viewer.rejected IS 'Examples of input that can never be a count, each once; parked views that were dropped';
COMMENT ON TABLE viewer.rejected_count IS 'How many inputs were rejected, by source and reason: docs/how-to/producers.md';
COMMENT ON COLUMN viewer.rejected_count.reported IS 'Of them, those that the run `reported_by` and earlier ones have reported';
COMMENT ON TABLE viewer.rejected_through IS 'The last segment whose rejected messages are counted, by key space in Redis';

ALTER TABLE viewer.incident RENAME COLUMN said TO message;
ALTER TABLE viewer.flush_sums RENAME TO run_metrics;
ALTER TABLE viewer.parked_look RENAME TO parked_cursor;
ALTER TABLE viewer.parked_cursor RENAME COLUMN one TO singleton;
ALTER TABLE viewer.ledger_kept RENAME COLUMN one TO singleton;
ALTER TABLE viewer.baseline_taken RENAME COLUMN one TO singleton;

COMMENT ON COLUMN viewer.flush.stream IS 'Numbering that `seq` belongs to; 0 on a single Redis';
COMMENT ON COLUMN viewer.flush_batch.stream IS 'Stream of the flush';
COMMENT ON COLUMN viewer.flush_batch.shard IS 'Shard of Redis that the counters belong to; 0 on a single Redis';
COMMENT ON TABLE viewer.incident IS
    'What a run detected and an operator must examine; open until `viewer-pipeline acknowledge`';
COMMENT ON TABLE viewer.run_metrics IS
    'Totals over runs for metrics, added to at the end of each run: committed and superseded flushes, failed runs. '
    'What a run that failed or was killed had committed is in the ledger alone';
COMMENT ON COLUMN viewer.run_metrics.buckets IS
    'Of committed flushes: how many took how long; not cumulative, bounds in flush/run_metrics.py, none for the last';
COMMENT ON TABLE viewer.parked_cursor IS 'Id after which the next scan of parked views starts';

-- name: downgrade
-- Restore the schema of 0.1.0. Redis keeps the names and the format of this version: 0.1.0 still refuses to run.
ALTER TABLE viewer.baseline_taken RENAME COLUMN singleton TO one;
ALTER TABLE viewer.ledger_kept RENAME COLUMN singleton TO one;
ALTER TABLE viewer.parked_cursor RENAME COLUMN singleton TO one;
ALTER TABLE viewer.parked_cursor RENAME TO parked_look;
ALTER TABLE viewer.run_metrics RENAME TO flush_sums;
ALTER TABLE viewer.incident RENAME COLUMN message TO said;
DROP TABLE viewer.rejected_through, viewer.rejected_count;
ALTER TABLE viewer.flush_batch DROP COLUMN shard, DROP COLUMN stream;
ALTER TABLE viewer.flush DROP COLUMN stream;
ALTER TABLE viewer.flush DROP COLUMN format;
DROP TABLE viewer.ledger;
