-- Which parked VODs can be counted now: their row is there, and has room for their views. Looks at the newest ones and
-- at some after an id, and passes over those that were refused within so many hours. Locks nothing.
WITH looked AS MATERIALIZED (
    SELECT c.vod_id, c.views, {key} AS key
    FROM (
        (SELECT vod_id, views, refused_at FROM viewer.parked ORDER BY first_seen DESC LIMIT %(newest)s)
        UNION
        (
            SELECT vod_id, views, refused_at FROM viewer.parked
            WHERE vod_id > %(after)s ORDER BY vod_id LIMIT %(some)s
        )
    ) AS c
    WHERE c.refused_at IS NULL OR c.refused_at < now() - make_interval(hours => %(hours)s)
)
SELECT looked.vod_id
FROM looked JOIN {table} AS t ON t.{id} = looked.key
WHERE coalesce(t.{count}, 0) <= {most} - looked.views
ORDER BY looked.vod_id COLLATE "C"
