-- name: oldest_unsettled
-- Flushes beyond the marker, and the age in seconds of the oldest.
SELECT count(*), extract(epoch FROM clock_timestamp() - min(committed_at))::float8 FROM viewer.flush
WHERE seq > %(seq)s OR (seq = %(seq)s AND batches > %(batch)s)
