-- name: parked_cursor
-- The id after which the next scan of parked views starts.
SELECT after FROM viewer.parked_cursor

-- name: parked_page
-- The last id of the page of parked ids after an id; NULL for the last page, so that the next scan starts again.
SELECT max(vod_id) FILTER (WHERE number = %(limit)s)
FROM (
    SELECT vod_id, row_number() OVER (ORDER BY vod_id) AS number
    FROM (SELECT vod_id FROM viewer.parked WHERE vod_id > %(after)s ORDER BY vod_id LIMIT %(limit)s) AS p
) AS page

-- name: move_parked_cursor
-- Move the cursor of the scan of parked views; '' is the beginning.
UPDATE viewer.parked_cursor SET after = %(after)s WHERE after <> %(after)s

-- name: refuse_parked
-- Record why parked views could still not be applied.
UPDATE viewer.parked SET reason = %(reason)s, refused_at = now() WHERE vod_id = ANY(%(vod_ids)s)

-- name: lock_parked
-- Lock parked rows and their rows of the user's table, both or neither, without waiting; return the ids.
SELECT p.vod_id
FROM viewer.parked AS p JOIN {table} AS t ON t.{id} = {parked_key}
WHERE p.vod_id = ANY(%(vod_ids)s)
ORDER BY p.vod_id COLLATE "C"
FOR NO KEY UPDATE OF t, p SKIP LOCKED

-- name: apply_parked
-- Apply parked views whose rows this transaction has locked: add them to the user's table and the totals, and delete
-- them here. A row that was not written is not retried for an hour. Returns the ids and views that were applied.
WITH due AS MATERIALIZED (
    SELECT c.vod_id, c.views AS delta, c.last_flush, {key} AS key
    FROM viewer.parked AS c
    WHERE c.vod_id = ANY(%(vod_ids)s)
    ORDER BY c.vod_id COLLATE "C"
), merged AS MATERIALIZED (
    SELECT key, sum(delta) AS delta FROM due WHERE key IS NOT NULL GROUP BY key ORDER BY key
), touched AS (
    UPDATE {table} AS t
    SET {count} = coalesce(t.{count}, 0) + s.delta
    FROM merged AS s
    WHERE t.{id} = s.key AND coalesce(t.{count}, 0) <= {max_count} - s.delta
    RETURNING s.key
), counted AS (
    INSERT INTO viewer.vod_view_counts AS t (vod_id, view_count, last_flush, updated_at)
    SELECT due.vod_id, due.delta, due.last_flush, statement_timestamp()
    FROM due JOIN touched USING (key)
    ORDER BY due.vod_id COLLATE "C"
    ON CONFLICT (vod_id) DO UPDATE SET
        view_count = t.view_count + excluded.view_count,
        last_flush = greatest(t.last_flush, excluded.last_flush),
        updated_at = excluded.updated_at
), gone AS (
    DELETE FROM viewer.parked AS p USING due JOIN touched USING (key) WHERE p.vod_id = due.vod_id
), left_over AS (
    UPDATE viewer.parked AS p
    SET
        refused_at = statement_timestamp(),
        reason = CASE
            WHEN EXISTS (
                SELECT FROM {table} AS t WHERE t.{id} = due.key AND coalesce(t.{count}, 0) > {max_count} - merged.delta
            ) THEN {no_room}
            ELSE {not_written}
        END
    FROM due JOIN merged USING (key) LEFT JOIN touched USING (key)
    WHERE p.vod_id = due.vod_id AND touched.key IS NULL
)
SELECT due.vod_id, due.delta FROM due JOIN touched USING (key)

-- name: apply_parked_to_totals
-- Apply a page of parked views without a target table (any more): to the totals, where they have room.
-- Returns the number of VODs and views.
WITH due AS MATERIALIZED (
    SELECT p.vod_id
    FROM viewer.parked AS p LEFT JOIN viewer.vod_view_counts AS t ON t.vod_id = p.vod_id
    WHERE coalesce(t.view_count, 0) <= 9223372036854775807 - p.views
    ORDER BY p.vod_id LIMIT %(limit)s
    FOR UPDATE OF p SKIP LOCKED
), gone AS (
    DELETE FROM viewer.parked AS p USING due WHERE p.vod_id = due.vod_id RETURNING p.vod_id, p.views, p.last_flush
), counted AS (
    INSERT INTO viewer.vod_view_counts AS t (vod_id, view_count, last_flush, updated_at)
    SELECT vod_id, views, last_flush, statement_timestamp() FROM gone ORDER BY vod_id
    ON CONFLICT (vod_id) DO UPDATE SET
        view_count = t.view_count + excluded.view_count,
        last_flush = greatest(t.last_flush, excluded.last_flush),
        updated_at = excluded.updated_at
)
SELECT count(*), coalesce(sum(views), 0) FROM gone

-- name: still_parked_of_flushes
-- What some flushes have parked and is still parked: VODs whose total does not carry the flush. Most flushes park
-- nothing: then no counter is compared.
SELECT count(DISTINCT c.vod_id), coalesce(sum(c.delta), 0)
FROM viewer.flush_batch AS b
CROSS JOIN unnest(b.vod_ids, b.deltas) AS c (vod_id, delta)
LEFT JOIN viewer.vod_view_counts AS t ON t.vod_id = c.vod_id
WHERE b.seq = ANY(%(seqs)s) AND coalesce(t.last_flush, 0) < b.seq
    AND EXISTS (SELECT FROM viewer.parked WHERE last_flush >= (SELECT min(seq) FROM unnest(%(seqs)s::bigint[]) AS seq))

-- name: prune_parked
-- Delete a page of parked views of VODs that have no row, and had no views for so many days; one record in
-- viewer.rejected. Views whose row exists may still be applied: by the next scan, or once there is room.
-- Returns the number of VODs and views.
WITH old AS MATERIALIZED (
    SELECT c.vod_id FROM viewer.parked AS c
    WHERE c.first_seen < now() - make_interval(days => %(days)s)
        AND c.updated_at < now() - make_interval(days => %(days)s)
        AND NOT EXISTS (SELECT FROM {table} AS t WHERE t.{id} = {key})
    ORDER BY c.first_seen LIMIT %(limit)s
    FOR UPDATE OF c SKIP LOCKED
), gone AS (
    DELETE FROM viewer.parked AS p USING old WHERE p.vod_id = old.vod_id RETURNING p.views
), pruned AS (
    SELECT count(*) AS vods, coalesce(sum(views), 0) AS views FROM gone
), recorded AS (
    INSERT INTO viewer.rejected (digest, source, subject, value, reason)
    SELECT
        sha256(convert_to(gen_random_uuid()::text, 'UTF8')), 'parked', vods || CASE vods WHEN 1 THEN ' VOD' ELSE ' VODs' END, views::text,
        'no row came for them within PARKED_RETENTION_DAYS=' || %(days)s
    FROM pruned WHERE vods > 0
)
SELECT vods, views FROM pruned

-- name: discard_parked
-- Delete the parked views of one VOD, with a record in viewer.rejected. Returns the views.
WITH gone AS (
    DELETE FROM viewer.parked WHERE vod_id = %(vod_id)s RETURNING vod_id, views
), recorded AS (
    INSERT INTO viewer.rejected (digest, source, subject, value, reason)
    SELECT sha256(convert_to(gen_random_uuid()::text, 'UTF8')), 'parked', left(vod_id, 300), views::text, %(reason)s
    FROM gone
)
SELECT views FROM gone

-- name: parked_by_reason
-- Parked views by reason, most views first.
SELECT reason, count(*), sum(views), min(first_seen) FROM viewer.parked GROUP BY reason ORDER BY sum(views) DESC, reason

-- name: largest_parked
-- The VODs with the most parked views.
SELECT vod_id, views, reason, first_seen, updated_at
FROM viewer.parked ORDER BY views DESC, vod_id LIMIT %(limit)s

-- name: parked_ready
-- Parked VODs that the target can take now: their row exists, and has room for their views. Among the newest and the page
-- after an id, without those that were refused within so many hours (by this clock, which may have been set back since).
-- Locks nothing.
WITH page AS MATERIALIZED (
    SELECT c.vod_id, c.views, {key} AS key
    FROM (
        (SELECT vod_id, views, refused_at FROM viewer.parked ORDER BY first_seen DESC LIMIT %(newest)s)
        UNION
        (
            SELECT vod_id, views, refused_at FROM viewer.parked
            WHERE vod_id > %(after)s ORDER BY vod_id LIMIT %(limit)s
        )
    ) AS c
    WHERE c.refused_at IS NULL OR c.refused_at NOT BETWEEN now() - make_interval(hours => %(hours)s) AND now()
)
SELECT page.vod_id
FROM page JOIN {table} AS t ON t.{id} = page.key
WHERE coalesce(t.{count}, 0) <= {max_count} - page.views
ORDER BY page.vod_id COLLATE "C"
