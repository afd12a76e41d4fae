-- name: future_flushes
-- Flushes of the ledger that were read or committed more than so many seconds in the future.
SELECT count(*) FROM viewer.flush
WHERE greatest(taken_at, committed_at) > clock_timestamp() + make_interval(secs => %(seconds)s)
