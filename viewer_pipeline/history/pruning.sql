-- name: first_flush
-- Return when the first flush of the ledger read its counters. Repairs are no views.
SELECT min(taken_at) FROM viewer.flush WHERE viewer.counts_views(mode)

-- name: ledger_days
-- Return the days that have flushes: their number, whether the day was rolled up, whether all of them are, the first one that
-- is not settled, and whether the ledger of the day is complete.
SELECT
    f.day, count(*), sum(f.batches), sum(f.views), bool_or(r.day IS NOT NULL), bool_and(coalesce(r.through @> f.seq, FALSE)),
    min(f.seq) FILTER (WHERE NOT %(settled)s::int8multirange + viewer.closed_flushes() @> f.seq), f.day >= max(k.from_day)
FROM (
    SELECT (%(days)s::date[])[width_bucket(taken_at, %(starts)s::timestamptz[])] AS day, seq, batches, views
    FROM viewer.flush
    WHERE taken_at >= %(starts_at)s AND taken_at < %(ends_at)s AND viewer.counts_views(mode)
) AS f
CROSS JOIN viewer.ledger_kept AS k
LEFT JOIN viewer.daily_rollup AS r USING (day)
GROUP BY 1 ORDER BY 1

-- name: keep_ledger_from
-- Set the day from which the ledger is complete, and its first moment. They only move forward.
UPDATE viewer.ledger_kept SET from_day = %(day)s, from_at = greatest(from_at, %(starts_at)s) WHERE from_day < %(day)s

-- name: prune_ledger
-- Delete a chunk of settled flushes of pruned days, and add them to pruned_flushes. Never deletes a repair, which has no
-- other record, nor the newest flush of a stream, whose number the next one follows. Flushes that held views are in no roll-up. Returns
-- numbers of flushes, batches and views.
WITH old AS MATERIALIZED (
    SELECT f.seq, sum(f.batches) OVER (ORDER BY f.taken_at, f.seq) - f.batches AS batches_before
    FROM (
        SELECT f.seq, f.batches, f.taken_at
        FROM viewer.flush AS f
        JOIN viewer.daily_rollup AS r ON f.taken_at >= r.starts_at AND f.taken_at < r.ends_at
        CROSS JOIN viewer.ledger_kept AS k
        CROSS JOIN (SELECT %(settled)s::int8multirange + viewer.closed_flushes()) AS s (settled)
        WHERE f.taken_at < k.from_at AND r.day < k.from_day
            AND (r.through @> f.seq OR f.mode = 'hold') AND s.settled @> f.seq
            AND NOT starts_with(f.mode, 'reconcile')
            AND f.seq NOT IN (SELECT upper(of_stream) - 1 FROM unnest(viewer.ledger_position()) AS of_stream)
        ORDER BY f.taken_at, f.seq LIMIT %(flushes)s
    ) AS f
), chunk AS MATERIALIZED (
    SELECT seq FROM old WHERE batches_before < %(batches)s
), batches AS (
    DELETE FROM viewer.flush_batch AS b USING chunk WHERE b.seq = chunk.seq RETURNING b.seq
), flushes AS (
    DELETE FROM viewer.flush AS f USING chunk WHERE f.seq = chunk.seq
    RETURNING f.seq, f.mode, f.counters, f.views, f.committed_at
), recorded AS (
    INSERT INTO viewer.pruned_flushes AS p (mode, stream, flushes, counters, views, last_seq, last_committed_at)
    SELECT mode, viewer.stream_of(seq), count(*), sum(counters), sum(views), max(seq), max(committed_at)
    FROM flushes GROUP BY 1, 2
    ON CONFLICT (mode, stream) DO UPDATE SET
        flushes = p.flushes + excluded.flushes,
        counters = p.counters + excluded.counters,
        views = p.views + excluded.views,
        last_seq = greatest(p.last_seq, excluded.last_seq),
        last_committed_at = greatest(p.last_committed_at, excluded.last_committed_at)
)
SELECT (SELECT count(*) FROM flushes), (SELECT count(*) FROM batches), (SELECT coalesce(sum(views), 0) FROM flushes)

-- name: prune_rejected
-- Delete a chunk of old rejected input; not the records of discarded and pruned views, which explain totals.
DELETE FROM viewer.rejected WHERE digest IN (
    SELECT digest FROM viewer.rejected
    WHERE seen_at < now() - make_interval(days => %(days)s) AND source <> 'parked'
    LIMIT %(limit)s
)

-- name: count_old_rejected
-- Count rejected input that is older than this many days.
SELECT count(*) FROM viewer.rejected
WHERE seen_at < now() - make_interval(days => %(days)s) AND source <> 'parked'

-- name: count_old_parked
-- Count the VODs without a row whose parked views are older than this many days, and these views.
SELECT count(*), coalesce(sum(c.views), 0) FROM viewer.parked AS c
WHERE c.first_seen < now() - make_interval(days => %(days)s)
    AND c.updated_at < now() - make_interval(days => %(days)s)
    AND NOT EXISTS (SELECT FROM {table} AS t WHERE t.{id} = {key})
