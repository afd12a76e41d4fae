-- name: view_totals
-- Views of the days that are rolled up and of the flushes since: one row a day, and those of a quarter of an hour. A late
-- flush of an earlier day is missing until that day is rolled up again. And the number of rows of the totals: counted if
-- there are few, else from PostgreSQL's statistics.
SELECT
    (SELECT coalesce(sum(views), 0) FROM viewer.daily_rollup) + (
        SELECT coalesce(sum(f.views), 0)
        FROM unnest((
            SELECT int8multirange(int8range(0, NULL)) - coalesce(range_agg(of_stream), '{}')
            FROM viewer.daily_rollup CROSS JOIN unnest(through) AS of_stream
        )) AS since (seqs)
        JOIN viewer.flush AS f ON f.seq >= lower(since.seqs) AND f.seq < coalesce(upper(since.seqs), 9223372036854775807)
        WHERE viewer.counts_views(f.mode)
    ),
    CASE
        WHEN estimate < %(counted_vods)s THEN (SELECT count(*) FROM viewer.vod_view_counts)
        ELSE estimate::bigint
    END
FROM (
    SELECT greatest(reltuples, pg_stat_get_live_tuples(oid)) AS estimate
    FROM pg_class WHERE oid = 'viewer.vod_view_counts'::regclass
) AS statistics
