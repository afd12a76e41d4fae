-- The totals of some VODs.
SELECT vod_id, view_count FROM viewer.vod_view_counts WHERE vod_id = ANY(%(vod_ids)s)
