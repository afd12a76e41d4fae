-- Add up the ledger by day (UTC) and VOD. Repairs are no views. What no bigint can hold, the check daily_equals_ledger tells.
INSERT INTO viewer.daily_views (day, vod_id, views)
SELECT (f.taken_at AT TIME ZONE 'UTC')::date, c.vod_id COLLATE "C", least(sum(c.delta), 9223372036854775807)
FROM viewer.flush AS f
JOIN viewer.flush_batch AS b USING (seq)
CROSS JOIN unnest(b.vod_ids, b.deltas) AS c (vod_id, delta)
WHERE f.taken_at >= %(start)s::date::timestamp AT TIME ZONE 'UTC'
    AND f.taken_at < %(end)s::date::timestamp AT TIME ZONE 'UTC'
    AND f.seq <= %(through)s AND NOT starts_with(f.mode, 'reconcile')
GROUP BY 1, 2
