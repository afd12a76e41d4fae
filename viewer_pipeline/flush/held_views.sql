-- name: views_counted_before
-- Return, for each of some VODs, the views that the ledger has of it, wherever they are by now: in the total, parked,
-- discarded or held. Without VODs that have none.
SELECT vod_id, least(sum(views), 9223372036854775807)::bigint
FROM (
    SELECT vod_id, view_count::numeric - baseline FROM viewer.vod_view_counts WHERE vod_id = ANY(%(vod_ids)s)
    UNION ALL
    SELECT vod_id, views FROM viewer.parked WHERE vod_id = ANY(%(vod_ids)s)
    UNION ALL
    SELECT vod_id, views FROM viewer.held WHERE vod_id = ANY(%(vod_ids)s)
    UNION ALL
    SELECT subject COLLATE "C", value::numeric FROM viewer.rejected
    WHERE source = 'parked' AND value ~ '^[0-9]+$' AND subject = ANY(%(vod_ids)s)
) AS counted (vod_id, views)
GROUP BY vod_id
HAVING sum(views) > 0
