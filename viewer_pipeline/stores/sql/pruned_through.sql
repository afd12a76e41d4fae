-- The highest flush that retention deleted.
SELECT coalesce(max(last_seq), 0) FROM viewer.pruned_flushes
