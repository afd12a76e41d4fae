-- name: reconcile_target
-- Return rows of the user's table whose count differs from the total. Where several ids become one value in the type of
-- its id column, their totals are summed. Columns: the ids, the sum, the count; unordered.
SELECT s.vod_ids, s.views, coalesce(t.{count}, 0)
FROM (
    SELECT {key} AS key, array_agg(c.vod_id) AS vod_ids, sum(c.view_count) AS views
    FROM viewer.vod_view_counts AS c
    GROUP BY 1
) AS s
JOIN {table} AS t ON t.{id} = s.key
WHERE coalesce(t.{count}, 0) <> s.views

-- name: has_baseline
-- Return whether a baseline was taken.
SELECT EXISTS (SELECT FROM viewer.baseline_taken)
