-- How much rejected input is older than so many days.
SELECT count(*) FROM viewer.rejected
WHERE seen_at < now() - make_interval(days => %(days)s) AND source <> 'parked'
