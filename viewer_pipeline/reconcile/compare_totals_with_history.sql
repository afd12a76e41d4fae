-- name: reconcile_totals
-- Return the VODs whose total does not match: total - baseline + parked + discarded = the views of days that only
-- daily_views holds, plus the ledger from then on, plus flushes that came too late for their day. One pass, unordered.
-- Flushes of `reconcile` are no views. Views that retention pruned name no VOD: see pruned_views. The last two columns are
-- the same in each row: the missing views of VODs that have neither a total nor parked views, and those of other VODs.
WITH part AS (
    SELECT
        c.vod_id COLLATE "C" AS vod_id, c.delta AS history, NULL::bigint AS total, NULL::bigint AS baseline,
        NULL::numeric AS parked, NULL::numeric AS discarded
    FROM viewer.flush AS f JOIN viewer.flush_batch AS b USING (seq)
    CROSS JOIN unnest(b.vod_ids, b.deltas) AS c (vod_id, delta)
    WHERE viewer.counts_views(f.mode)
        AND (
            f.taken_at >= (SELECT from_at FROM viewer.ledger_kept)
            OR NOT EXISTS (
                SELECT FROM viewer.daily_rollup AS r
                WHERE f.taken_at >= r.starts_at AND f.taken_at < r.ends_at AND r.through @> f.seq
                    AND r.day < (SELECT from_day FROM viewer.ledger_kept)
            )
        )
    UNION ALL
    SELECT vod_id, views, NULL, NULL, NULL, NULL FROM viewer.daily_views
    WHERE day < (SELECT from_day FROM viewer.ledger_kept)
    UNION ALL
    SELECT vod_id, NULL, view_count, baseline, NULL, NULL FROM viewer.vod_view_counts
    UNION ALL
    SELECT vod_id, NULL, NULL, NULL, views, NULL FROM viewer.parked
    UNION ALL
    SELECT subject COLLATE "C", NULL, NULL, NULL, NULL, sum(value::numeric) FROM viewer.rejected
    WHERE source = 'parked' AND value ~ '^[0-9]+$' AND NOT starts_with(reason, 'no row came')
    GROUP BY subject
), unequal AS (
    SELECT
        vod_id, coalesce(sum(history), 0) AS history, max(total) AS total, coalesce(max(baseline), 0) AS baseline,
        coalesce(max(parked), 0) AS parked, coalesce(max(discarded), 0) AS discarded
    FROM part
    GROUP BY vod_id
    HAVING coalesce(sum(history), 0) - coalesce(max(discarded), 0)
        <> coalesce(max(total)::numeric - max(baseline), 0) + coalesce(max(parked), 0)
), missing AS (
    SELECT
        unequal.*, total IS NULL AND parked = 0 AS absent,
        greatest(baseline + history - discarded - parked - coalesce(total, 0), 0) AS views
    FROM unequal
)
SELECT
    vod_id, history, total, baseline, parked, discarded,
    coalesce(sum(views) FILTER (WHERE absent) OVER (), 0), coalesce(sum(views) FILTER (WHERE NOT absent) OVER (), 0)
FROM missing

-- name: ledger_position
-- Return the flushes that are committed now.
SELECT viewer.ledger_position()::text

-- name: pruned_views
-- Return how many parked views retention has pruned; their record names no VOD.
SELECT coalesce(sum(value::numeric), 0) FROM viewer.rejected
WHERE source = 'parked' AND value ~ '^[0-9]+$' AND starts_with(reason, 'no row came')
