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
