-- name: open_incident
-- Open an incident, or add an occasion to the open incident of its kind.
INSERT INTO viewer.incident AS i (kind, message, run_id, views)
VALUES (%(kind)s, %(message)s, %(run_id)s, %(views)s)
ON CONFLICT (kind) WHERE acknowledged_at IS NULL DO UPDATE SET
    message = excluded.message,
    run_id = excluded.run_id,
    last_seen = excluded.last_seen,
    occasions = i.occasions + 1,
    views = i.views + excluded.views

-- name: open_incidents
-- The incidents that nobody has acknowledged, latest first.
SELECT kind, message, run_id, first_seen, last_seen, occasions, views
FROM viewer.incident WHERE acknowledged_at IS NULL ORDER BY last_seen DESC

-- name: acknowledge_incidents
-- Close the open incidents of some kinds.
UPDATE viewer.incident SET acknowledged_at = clock_timestamp()
WHERE acknowledged_at IS NULL AND kind = ANY(%(kinds)s)
