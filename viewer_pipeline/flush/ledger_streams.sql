-- name: open_streams
-- The streams that are not closed.
SELECT stream, part, parts, state, epoch FROM viewer.stream WHERE state <> 'closed' ORDER BY stream

-- name: lock_change
-- Exclude another change of the streams, until this transaction ends.
SELECT pg_advisory_xact_lock(7310579123)

-- name: close_streams
-- Let no flush commit in the active streams any more: waits for transactions that are about to. Plans that were never
-- carried out are closed as well.
UPDATE viewer.stream
SET state = CASE state WHEN 'active' THEN 'closing' ELSE 'closed' END, since = clock_timestamp()
WHERE state IN ('active', 'planned')

-- name: plan_streams
-- Plan a stream for each part, with numbers that no stream had.
INSERT INTO viewer.stream (stream, part, parts, state, epoch)
SELECT (SELECT max(stream) FROM viewer.stream) + 1 + part, part, %(parts)s, 'planned', replace(gen_random_uuid()::text, '-', '')
FROM generate_series(0, %(parts)s - 1) AS part

-- name: activate_streams
-- Let flushes commit in the planned streams, once those before them are settled.
UPDATE viewer.stream
SET state = CASE state WHEN 'planned' THEN 'active' ELSE 'closed' END, since = clock_timestamp()
WHERE state IN ('planned', 'closing')
