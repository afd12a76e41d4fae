-- name: create_raw_upserted
-- Create the table of the first reference, with the same columns and indexes as the totals.
CREATE TABLE raw_upserted (LIKE viewer.vod_view_counts INCLUDING ALL) WITH (fillfactor = 50)

-- name: create_raw_merged
-- Create that of the second reference, with the rows of the first.
CREATE TABLE raw_merged (LIKE viewer.vod_view_counts INCLUDING ALL) WITH (fillfactor = 50);
INSERT INTO raw_merged (vod_id, view_count, last_flush, updated_at)
SELECT vod_id, view_count, last_flush, updated_at FROM raw_upserted ORDER BY vod_id COLLATE "C"

-- name: upsert_raw
-- Add the rows of the table `stage`, sorted: the statement locks each row, and logs the lock, before it updates it.
INSERT INTO raw_upserted AS t (vod_id, view_count, last_flush, updated_at)
SELECT vod_id, delta, 1, statement_timestamp() FROM stage ORDER BY vod_id COLLATE "C"
ON CONFLICT (vod_id) DO UPDATE SET
    view_count = t.view_count + excluded.view_count, last_flush = excluded.last_flush, updated_at = excluded.updated_at

-- name: merge_raw
-- The same with less work for each row.
MERGE INTO raw_merged AS t USING stage AS s ON t.vod_id = s.vod_id
WHEN MATCHED THEN UPDATE SET
    view_count = t.view_count + s.delta, last_flush = 1, updated_at = statement_timestamp()
WHEN NOT MATCHED THEN INSERT (vod_id, view_count, last_flush, updated_at)
    VALUES (s.vod_id, s.delta, 1, statement_timestamp())

-- name: update_raw
-- The same for rows that exist, where flushes use no MERGE: before PostgreSQL 17.7.
UPDATE raw_merged AS t SET view_count = t.view_count + s.delta, last_flush = 1, updated_at = statement_timestamp()
FROM stage AS s WHERE t.vod_id = s.vod_id

-- name: analyze_stage
-- Let PostgreSQL know how many rows there are.
ANALYZE stage
