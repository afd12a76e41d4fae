-- The last flushes, newest first.
SELECT seq, mode, taken_at, committed_at, counters, views, batches, run_id
FROM viewer.flush ORDER BY seq DESC LIMIT %(limit)s
