-- name: views_by_bucket
-- Views of the last hours by the time at which their counters were read. Repairs are no views.
SELECT floor(extract(epoch FROM taken_at) / %(seconds)s)::bigint, sum(views)
FROM (
    SELECT taken_at, views, mode FROM viewer.flush
    WHERE taken_at >= to_timestamp(%(start)s)
    ORDER BY taken_at DESC LIMIT %(limit)s
) AS flushes
WHERE viewer.counts_views(mode)
GROUP BY 1

-- name: first_parked_by_reason
-- Parked views by reason, most views first: of the first rows only, since there may be a million.
SELECT reason, count(*), sum(views), min(first_seen)
FROM (SELECT reason, views, first_seen FROM viewer.parked ORDER BY vod_id LIMIT %(limit)s) AS first_rows
GROUP BY reason ORDER BY sum(views) DESC, reason
