-- The VODs with the most parked views.
SELECT vod_id, views, reason, first_seen, updated_at
FROM viewer.parked ORDER BY views DESC, vod_id LIMIT %(limit)s
