-- What nobody has acknowledged, the latest first.
SELECT kind, said, run_id, first_seen, last_seen, occasions, views
FROM viewer.incident WHERE acknowledged_at IS NULL ORDER BY last_seen DESC
