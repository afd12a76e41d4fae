-- How many VODs have parked views that are older than so many days, and how many views.
SELECT count(*), coalesce(sum(views), 0) FROM viewer.parked
WHERE first_seen < now() - make_interval(days => %(days)s) AND updated_at < now() - make_interval(days => %(days)s)
