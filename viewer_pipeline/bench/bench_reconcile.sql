-- name: insert_flushes
-- Insert flushes of 10 000 counters each.
INSERT INTO viewer.flush (seq, flush_id, run_id, mode, taken_at, counters, views, batches, format)
SELECT s, gen_random_uuid(), 'bench', 'sweep', now(), 10000, 50000, 100, 2
FROM generate_series(1, %(totals)s / 10000) AS s

-- name: insert_batches
-- Insert 100 batches for each flush: every id once, in another order than that of the totals.
INSERT INTO viewer.flush_batch (seq, batch, vod_ids, deltas)
SELECT s, b, array(
    SELECT 'clx' || lpad(((i::bigint * 7919) %% %(totals)s)::text, 8, '0') || 'k3j4h5g6f7d8s9'
    FROM generate_series((s - 1) * 10000 + (b - 1) * 100, (s - 1) * 10000 + b * 100 - 1) AS i
), array_fill(5::bigint, ARRAY[100])
FROM generate_series(1, %(totals)s / 10000) AS s, generate_series(1, 100) AS b

-- name: insert_totals
-- Insert the totals that these flushes make, with ids as long as a cuid.
INSERT INTO viewer.vod_view_counts (vod_id, view_count, last_flush, updated_at)
SELECT 'clx' || lpad(((i::bigint * 104729) %% %(totals)s)::text, 8, '0') || 'k3j4h5g6f7d8s9', 5, 1, now()
FROM generate_series(0, %(totals)s - 1) AS i

-- name: insert_vods
-- Insert the rows of the user's table, each with 100 views from before.
INSERT INTO public."Vod" ("id", "channelId", "title", "s3Bucket", "s3Region", "s3Key", "viewCount")
SELECT
    'clx' || lpad(((i::bigint * 104729) %% %(totals)s)::text, 8, '0') || 'k3j4h5g6f7d8s9',
    'channel', 'A title', 'vods', 'eu-central-1', 'index.m3u8', 105
FROM generate_series(0, %(totals)s - 1) AS i

-- name: falsify_totals
-- Falsify some totals.
UPDATE viewer.vod_view_counts SET view_count = view_count + 1 WHERE starts_with(vod_id, 'clx000')

-- name: read_totals
-- Read all totals: the reference.
SELECT count(*), sum(view_count), max(vod_id) FROM viewer.vod_view_counts
