-- name: baseline_taken
-- When, and from where, the baseline was taken; no row before that.
SELECT taken_at, source, vods, views FROM viewer.baseline_taken

-- name: lock_baseline
-- Until this transaction ends, let nobody else take the baseline.
SELECT pg_advisory_xact_lock(hashtextextended('viewer.baseline_taken', 0))

-- name: lock_totals
-- Let nobody else change a total until this transaction ends: neither a flush, nor who counts parked views.
LOCK TABLE viewer.vod_view_counts IN SHARE ROW EXCLUSIVE MODE

-- name: note_baseline
-- Note that the baseline was taken: of how many VODs, and how many views.
INSERT INTO viewer.baseline_taken AS b (source, vods, views)
SELECT %(source)s, count(*), coalesce(sum(baseline), 0) FROM viewer.vod_view_counts WHERE baseline <> 0
ON CONFLICT (singleton) DO UPDATE SET
    taken_at = excluded.taken_at, source = excluded.source, vods = excluded.vods, views = excluded.views
RETURNING taken_at, source, vods, views

-- name: baseline_from_target
-- Take what is in the user's table, less what was counted into it, as the baseline of each of its rows that has a count
-- or a total. Where several ids are one in the type of its column, one of them has it. Returns nothing.
WITH found AS (
    SELECT
        coalesce(c.vod_id, t.{id}::text) AS vod_id,
        coalesce(c.view_count - c.baseline, 0) AS counted,
        coalesce(t.{count}, 0) - coalesce(sum(c.view_count - c.baseline) OVER same, 0) AS before,
        row_number() OVER (same ORDER BY c.vod_id = t.{id}::text DESC, c.vod_id) AS number
    FROM {table} AS t LEFT JOIN viewer.vod_view_counts AS c ON t.{id} = {key}
    WHERE c.vod_id IS NOT NULL OR coalesce(t.{count}, 0) <> 0
    WINDOW same AS (PARTITION BY t.{id})
)
INSERT INTO viewer.vod_view_counts AS v (vod_id, view_count, baseline, last_flush, updated_at)
SELECT vod_id, counted + b.baseline, b.baseline, 0, statement_timestamp()
FROM found CROSS JOIN LATERAL (SELECT CASE WHEN number = 1 THEN before ELSE 0 END AS baseline) AS b
ON CONFLICT (vod_id) DO UPDATE SET
    view_count = excluded.view_count, baseline = excluded.baseline, updated_at = excluded.updated_at
WHERE v.baseline <> excluded.baseline

-- name: baseline_from_counts
-- Take these counts as the baseline of these VODs.
INSERT INTO viewer.vod_view_counts AS v (vod_id, view_count, baseline, last_flush, updated_at)
SELECT vod_id, count, count, 0, statement_timestamp()
FROM unnest(%(vod_ids)s::text[], %(counts)s::bigint[]) AS c (vod_id, count)
ORDER BY vod_id COLLATE "C"
ON CONFLICT (vod_id) DO UPDATE SET
    view_count = v.view_count - v.baseline + excluded.baseline, baseline = excluded.baseline,
    updated_at = excluded.updated_at
WHERE v.baseline <> excluded.baseline
