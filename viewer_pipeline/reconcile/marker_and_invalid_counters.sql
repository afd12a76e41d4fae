-- name: oldest_unsettled
-- Count the flushes beyond the marker; return the age of the oldest in seconds.
SELECT count(*), extract(epoch FROM clock_timestamp() - min(committed_at))::float8 FROM viewer.flush
WHERE seq > %(seq)s OR (seq = %(seq)s AND batches > %(batch)s)
