-- name: read_baseline
-- Return when and from where the baseline was taken; no row if it was not.
SELECT taken_at, source, vods, views FROM viewer.baseline_taken

-- name: lock_baseline
-- Exclude other transactions that take the baseline, until this one ends.
SELECT pg_advisory_xact_lock(hashtextextended('viewer.baseline_taken', 0))

-- name: lock_totals
-- Exclude all other changes of totals until this transaction ends: flushes, and parked views that are counted.
LOCK TABLE viewer.vod_view_counts IN SHARE ROW EXCLUSIVE MODE

-- name: record_baseline
-- Record that the baseline was taken, with the number of VODs and of views.
INSERT INTO viewer.baseline_taken AS b (source, vods, views)
SELECT %(source)s, count(*), coalesce(sum(baseline), 0) FROM viewer.vod_view_counts WHERE baseline <> 0
ON CONFLICT (singleton) DO UPDATE SET
    taken_at = excluded.taken_at, source = excluded.source, vods = excluded.vods, views = excluded.views
RETURNING taken_at, source, vods, views

-- name: baseline_from_target
-- Set the baseline of each row of the user's table that has a count or a total: its count, less the views counted into
-- it. Where several ids become one value in the type of its id column, one of them gets the baseline. Returns nothing.
WITH target_counts AS (
    SELECT
        coalesce(c.vod_id, t.{id}::text) AS vod_id,
        coalesce(c.view_count - c.baseline, 0) AS counted,
        coalesce(t.{count}, 0) - coalesce(sum(c.view_count - c.baseline) OVER same_row, 0) AS baseline,
        row_number() OVER (same_row ORDER BY c.vod_id = t.{id}::text DESC, c.vod_id) AS number
    FROM {table} AS t LEFT JOIN viewer.vod_view_counts AS c ON t.{id} = {key}
    WHERE c.vod_id IS NOT NULL OR coalesce(t.{count}, 0) <> 0
    WINDOW same_row AS (PARTITION BY t.{id})
)
INSERT INTO viewer.vod_view_counts AS v (vod_id, view_count, baseline, last_flush, updated_at)
SELECT t.vod_id, t.counted + b.baseline, b.baseline, 0, statement_timestamp()
FROM target_counts AS t
CROSS JOIN LATERAL (SELECT CASE WHEN t.number = 1 THEN t.baseline ELSE 0 END AS baseline) AS b
ON CONFLICT (vod_id) DO UPDATE SET
    view_count = excluded.view_count, baseline = excluded.baseline, updated_at = excluded.updated_at
WHERE v.baseline <> excluded.baseline

-- name: baseline_from_counts
-- Set the baseline of these VODs to these counts.
INSERT INTO viewer.vod_view_counts AS v (vod_id, view_count, baseline, last_flush, updated_at)
SELECT vod_id, count, count, 0, statement_timestamp()
FROM unnest(%(vod_ids)s::text[], %(counts)s::bigint[]) AS c (vod_id, count)
ORDER BY vod_id COLLATE "C"
ON CONFLICT (vod_id) DO UPDATE SET
    view_count = v.view_count - v.baseline + excluded.baseline, baseline = excluded.baseline,
    updated_at = excluded.updated_at
WHERE v.baseline <> excluded.baseline
