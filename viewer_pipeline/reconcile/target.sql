-- name: reconcile_target
-- Rows of the user's table whose count is not the total, or the sum of the totals of all ids that are this one in the
-- type of its column. Returns those ids, the sum and the count, in no order.
SELECT s.vod_ids, s.views, coalesce(t.{count}, 0)
FROM (
    SELECT {key} AS key, array_agg(c.vod_id) AS vod_ids, sum(c.view_count) AS views
    FROM viewer.vod_view_counts AS c
    GROUP BY 1
) AS s
JOIN {table} AS t ON t.{id} = s.key
WHERE coalesce(t.{count}, 0) <> s.views

-- name: has_baseline
-- Whether the counts of the time before were taken as baselines.
SELECT EXISTS (SELECT FROM viewer.baseline_taken)
