-- name: rollup_of_day
-- Return when a day was rolled up with these bounds, and through which flushes; no row if it was not yet.
SELECT rolled_at, through::text FROM viewer.daily_rollup
WHERE day = %(day)s AND starts_at = %(starts_at)s AND ends_at = %(ends_at)s

-- name: flushes_since_rollup
-- Flushes of a day after its rollup, as many from the oldest on as have so many counters; and when the last was taken.
SELECT array_agg(seq), max(taken_at)
FROM (
    SELECT seq, taken_at, sum(counters) OVER (ORDER BY taken_at, seq) AS counters
    FROM (
        SELECT seq, taken_at, counters FROM viewer.flush
        WHERE NOT %(rolled_through)s::int8multirange @> seq AND taken_at >= %(starts_at)s
            AND viewer.counts_views(mode)
        ORDER BY taken_at, seq LIMIT 1000
    ) AS since
) AS flushes
WHERE counters <= %(max_counters)s

-- name: views_with_new
-- Views of VODs on a day: what is rolled up (day NULL: nothing), and some flushes since. Of the known VODs, and of those with most new views.
SELECT new.vod_id, new.views + coalesce(d.views, 0)
FROM (
    SELECT c.vod_id, sum(c.delta) AS views, row_number() OVER (ORDER BY sum(c.delta) DESC) AS place
    FROM viewer.flush_batch AS b CROSS JOIN unnest(b.vod_ids, b.deltas) AS c (vod_id, delta)
    WHERE b.seq = ANY(%(seqs)s)
    GROUP BY c.vod_id
) AS new
LEFT JOIN viewer.daily_views AS d ON d.day = %(day)s::date AND d.vod_id = new.vod_id COLLATE "C"
WHERE new.place <= %(limit)s OR new.vod_id = ANY(%(vod_ids)s)
