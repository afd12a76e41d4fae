-- The most viewed VODs of a day.
SELECT vod_id, views FROM viewer.daily_views WHERE day = %(day)s ORDER BY views DESC, vod_id LIMIT %(limit)s
