-- Somebody has looked.
UPDATE viewer.incident SET acknowledged_at = clock_timestamp()
WHERE acknowledged_at IS NULL AND kind = ANY(%(kinds)s)
