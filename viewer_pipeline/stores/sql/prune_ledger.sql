-- Delete some flushes of days that are final, and settled; their sums stay. Never a repair, which is its own record, nor
-- the newest flush, whose number the next one follows. Returns how many flushes, batches and views.
WITH old AS MATERIALIZED (
    SELECT f.seq, sum(f.batches) OVER (ORDER BY f.taken_at, f.seq) - f.batches AS batches_before
    FROM (
        SELECT f.seq, f.batches, f.taken_at
        FROM viewer.flush AS f
        JOIN viewer.daily_rollup AS r ON r.day = (f.taken_at AT TIME ZONE 'UTC')::date
        CROSS JOIN viewer.ledger_kept AS k
        WHERE f.taken_at < k.from_day::timestamp AT TIME ZONE 'UTC'
            AND f.seq <= r.last_flush AND f.seq <= %(settled)s AND NOT starts_with(f.mode, 'reconcile')
            AND f.seq < (SELECT max(seq) FROM viewer.flush)
        ORDER BY f.taken_at, f.seq LIMIT %(flushes)s
    ) AS f
), chunk AS MATERIALIZED (
    SELECT seq FROM old WHERE batches_before < %(batches)s
), batches AS (
    DELETE FROM viewer.flush_batch AS b USING chunk WHERE b.seq = chunk.seq RETURNING b.seq
), flushes AS (
    DELETE FROM viewer.flush AS f USING chunk WHERE f.seq = chunk.seq
    RETURNING f.seq, f.mode, f.counters, f.views, f.committed_at
), noted AS (
    INSERT INTO viewer.pruned_flushes AS p (mode, flushes, counters, views, last_seq, last_committed_at)
    SELECT mode, count(*), sum(counters), sum(views), max(seq), max(committed_at) FROM flushes GROUP BY mode
    ON CONFLICT (mode) DO UPDATE SET
        flushes = p.flushes + excluded.flushes,
        counters = p.counters + excluded.counters,
        views = p.views + excluded.views,
        last_seq = greatest(p.last_seq, excluded.last_seq),
        last_committed_at = greatest(p.last_committed_at, excluded.last_committed_at)
)
SELECT (SELECT count(*) FROM flushes), (SELECT count(*) FROM batches), (SELECT coalesce(sum(views), 0) FROM flushes)
