-- name: open_incident
-- Open an incident, or add an occasion to the one of its kind that nobody has acknowledged.
INSERT INTO viewer.incident AS i (kind, said, run_id, views)
VALUES (%(kind)s, %(said)s, %(run_id)s, %(views)s)
ON CONFLICT (kind) WHERE acknowledged_at IS NULL DO UPDATE SET
    said = excluded.said,
    run_id = excluded.run_id,
    last_seen = excluded.last_seen,
    occasions = i.occasions + 1,
    views = i.views + excluded.views

-- name: open_incidents
-- What nobody has acknowledged, the latest first.
SELECT kind, said, run_id, first_seen, last_seen, occasions, views
FROM viewer.incident WHERE acknowledged_at IS NULL ORDER BY last_seen DESC

-- name: acknowledge_incidents
-- Somebody has looked.
UPDATE viewer.incident SET acknowledged_at = clock_timestamp()
WHERE acknowledged_at IS NULL AND kind = ANY(%(kinds)s)
