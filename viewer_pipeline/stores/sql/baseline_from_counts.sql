-- Take these counts as the baseline of these VODs.
INSERT INTO viewer.vod_view_counts AS v (vod_id, view_count, baseline, last_flush, updated_at)
SELECT vod_id, count, count, 0, statement_timestamp()
FROM unnest(%(vod_ids)s::text[], %(counts)s::bigint[]) AS c (vod_id, count)
ORDER BY vod_id COLLATE "C"
ON CONFLICT (vod_id) DO UPDATE SET
    view_count = v.view_count - v.baseline + excluded.baseline, baseline = excluded.baseline,
    updated_at = excluded.updated_at
WHERE v.baseline <> excluded.baseline
