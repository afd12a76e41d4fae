-- name: total_adjustments
-- Return the deltas to some totals. `history` is that of each VOD up to a position; flushes since then are added here, so
-- that all of it is read at one moment. Columns: id, delta (not zero), and whether it can be applied: the new total
-- fits, and it is the total that must be wrong, not the parked views.
WITH due AS (
    SELECT d.vod_id COLLATE "C" AS vod_id, d.history
    FROM unnest(%(vod_ids)s::text[], %(history)s::numeric[]) AS d (vod_id, history)
), since AS (
    SELECT c.vod_id COLLATE "C" AS vod_id, sum(c.delta) AS views
    FROM unnest(viewer.ledger_position() - %(position)s::int8multirange) AS new (seqs)
    JOIN viewer.flush AS f ON f.seq >= lower(new.seqs) AND f.seq < upper(new.seqs)
    JOIN viewer.flush_batch AS b USING (seq)
    CROSS JOIN unnest(b.vod_ids, b.deltas) AS c (vod_id, delta)
    WHERE viewer.counts_views(f.mode) AND c.vod_id = ANY(%(vod_ids)s)
    GROUP BY c.vod_id COLLATE "C"
), discarded AS (
    SELECT subject COLLATE "C" AS vod_id, sum(value::numeric) AS views FROM viewer.rejected
    WHERE source = 'parked' AND value ~ '^[0-9]+$' AND NOT starts_with(reason, 'no row came')
        AND subject = ANY(%(vod_ids)s)
    GROUP BY subject
), pruned AS (
    SELECT coalesce(sum(value::numeric), 0) AS views FROM viewer.rejected
    WHERE source = 'parked' AND value ~ '^[0-9]+$' AND starts_with(reason, 'no row came')
), adjustment AS (
    SELECT
        due.vod_id, t.view_count, t.vod_id IS NULL AND p.vod_id IS NOT NULL AS parked_alone,
        due.history + coalesce(s.views, 0) - coalesce(d.views, 0) - coalesce(p.views, 0)
            - coalesce(t.view_count::numeric - t.baseline, 0) AS delta
    FROM due
    LEFT JOIN since AS s USING (vod_id)
    LEFT JOIN discarded AS d USING (vod_id)
    LEFT JOIN viewer.parked AS p USING (vod_id)
    LEFT JOIN viewer.vod_view_counts AS t USING (vod_id)
)
SELECT
    a.vod_id, a.delta,
    NOT a.parked_alone AND coalesce(a.view_count, 0) + a.delta BETWEEN 0 AND 9223372036854775807
        AND pruned.views = %(pruned)s
FROM adjustment AS a CROSS JOIN pruned
WHERE a.delta <> 0
ORDER BY a.vod_id

-- name: target_adjustments
-- Return the deltas to some rows of the user's table. Columns: id, delta, the current count, and whether the column can
-- hold the total.
SELECT s.vod_id, s.views - coalesce(t.{count}, 0), coalesce(t.{count}, 0), s.views BETWEEN 0 AND {max_count}
FROM (
    SELECT {key} AS key, min(c.vod_id) AS vod_id, sum(c.view_count) AS views
    FROM viewer.vod_view_counts AS c
    WHERE c.vod_id = ANY(%(vod_ids)s)
    GROUP BY 1
) AS s
JOIN {table} AS t ON t.{id} = s.key
WHERE coalesce(t.{count}, 0) <> s.views
ORDER BY s.vod_id

-- name: adjust_target
-- Add deltas to rows of the user's table whose count has not changed. Locks them in the order of their ids.
WITH due AS MATERIALIZED (
    SELECT {key} AS key, c.delta, c.expected
    FROM unnest(%(vod_ids)s::text[], %(deltas)s::bigint[], %(counts)s::bigint[]) AS c (vod_id, delta, expected)
    ORDER BY 1
)
UPDATE {table} AS t
SET {count} = coalesce(t.{count}, 0) + due.delta
FROM due
WHERE t.{id} = due.key AND coalesce(t.{count}, 0) = due.expected
