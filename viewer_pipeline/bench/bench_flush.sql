-- name: create_raw_counts
-- Create the table of the reference, with the same columns and indexes as the totals.
CREATE TABLE raw_counts (LIKE viewer.vod_view_counts INCLUDING ALL)

-- name: set_fillfactor
-- Set the storage parameter of the totals, which LIKE does not copy.
ALTER TABLE raw_counts SET (fillfactor = 50)

-- name: upsert_raw_counts
-- Upsert the rows of the table `stage`, sorted.
INSERT INTO raw_counts AS t (vod_id, view_count, last_flush, updated_at)
SELECT vod_id, delta, 1, statement_timestamp() FROM stage ORDER BY vod_id COLLATE "C"
ON CONFLICT (vod_id) DO UPDATE SET
    view_count = t.view_count + excluded.view_count, last_flush = excluded.last_flush, updated_at = excluded.updated_at
