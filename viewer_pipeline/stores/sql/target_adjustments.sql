-- What must be added to some rows of the user's table for their count to be the total; what the count is now; whether
-- the column has room for the total.
SELECT s.vod_id, s.views - coalesce(t.{count}, 0), coalesce(t.{count}, 0), s.views BETWEEN 0 AND {most}
FROM (
    SELECT {key} AS key, min(c.vod_id) AS vod_id, sum(c.view_count) AS views
    FROM viewer.vod_view_counts AS c
    WHERE c.vod_id = ANY(%(vod_ids)s)
    GROUP BY 1
) AS s
JOIN {table} AS t ON t.{id} = s.key
WHERE coalesce(t.{count}, 0) <> s.views
ORDER BY s.vod_id
