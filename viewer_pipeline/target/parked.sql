-- name: next_look
-- Up to which id the last look at parked views came.
SELECT after FROM viewer.parked_cursor

-- name: parked_page
-- The last of some parked ids after an id; NULL where there are fewer, so that the next look begins at the first again.
SELECT max(vod_id) FILTER (WHERE number = %(some)s)
FROM (
    SELECT vod_id, row_number() OVER (ORDER BY vod_id) AS number
    FROM (SELECT vod_id FROM viewer.parked WHERE vod_id > %(after)s ORDER BY vod_id LIMIT %(some)s) AS p
) AS page

-- name: note_look
-- Note up to which id this look at parked views came; '' to begin at the first again.
UPDATE viewer.parked_cursor SET after = %(after)s WHERE after <> %(after)s

-- name: refuse_parked
-- Note why parked views could still not be counted.
UPDATE viewer.parked SET reason = %(reason)s, refused_at = now() WHERE vod_id = ANY(%(vod_ids)s)

-- name: lock_parked
-- Lock parked rows and their rows of the user's table, both or neither, without waiting for anybody; return the ids.
SELECT p.vod_id
FROM viewer.parked AS p JOIN {table} AS t ON t.{id} = {parked_key}
WHERE p.vod_id = ANY(%(vod_ids)s)
ORDER BY p.vod_id COLLATE "C"
FOR NO KEY UPDATE OF t, p SKIP LOCKED

-- name: apply_parked
-- Count parked views whose rows are locked by this transaction: into the user's table and the totals, out of parked.
-- What is left although its row was held is not tried again for an hour. Returns the ids and views of what was counted.
WITH due AS MATERIALIZED (
    SELECT c.vod_id, c.views AS delta, c.last_flush, {key} AS key
    FROM viewer.parked AS c
    WHERE c.vod_id = ANY(%(vod_ids)s)
    ORDER BY c.vod_id COLLATE "C"
), sums AS MATERIALIZED (
    SELECT key, sum(delta) AS delta FROM due WHERE key IS NOT NULL GROUP BY key ORDER BY key
), touched AS (
    UPDATE {table} AS t
    SET {count} = coalesce(t.{count}, 0) + s.delta
    FROM sums AS s
    WHERE t.{id} = s.key AND coalesce(t.{count}, 0) <= {most} - s.delta
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
                SELECT FROM {table} AS t WHERE t.{id} = due.key AND coalesce(t.{count}, 0) > {most} - sums.delta
            ) THEN {no_room}
            ELSE {not_written}
        END
    FROM due JOIN sums USING (key) LEFT JOIN touched USING (key)
    WHERE p.vod_id = due.vod_id AND touched.key IS NULL
)
SELECT due.vod_id, due.delta FROM due JOIN touched USING (key)

-- name: apply_parked_to_totals
-- Count some parked views where there is no table of the user's (any more): into the totals, where there is room.
-- Returns how many VODs and views.
WITH due AS MATERIALIZED (
    SELECT p.vod_id
    FROM viewer.parked AS p LEFT JOIN viewer.vod_view_counts AS t ON t.vod_id = p.vod_id
    WHERE coalesce(t.view_count, 0) <= 9223372036854775807 - p.views
    ORDER BY p.vod_id LIMIT %(some)s
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

-- name: parked_of_flushes
-- What some flushes have parked: VODs whose total does not carry the flush. As far as it is parked still.
SELECT count(DISTINCT c.vod_id), coalesce(sum(c.delta), 0)
FROM viewer.flush_batch AS b
CROSS JOIN unnest(b.vod_ids, b.deltas) AS c (vod_id, delta)
LEFT JOIN viewer.vod_view_counts AS t ON t.vod_id = c.vod_id
WHERE b.seq = ANY(%(seqs)s) AND coalesce(t.last_flush, 0) < b.seq

-- name: prune_parked
-- Give up the parked views of some VODs that have no row, and had no views for so many days; one record of it among the
-- rejected. Views whose row is there may be counted yet: when a look notices it, or when there is room.
-- Returns how many VODs and views.
WITH old AS MATERIALIZED (
    SELECT c.vod_id FROM viewer.parked AS c
    WHERE c.first_seen < now() - make_interval(days => %(days)s)
        AND c.updated_at < now() - make_interval(days => %(days)s)
        AND NOT EXISTS (SELECT FROM {table} AS t WHERE t.{id} = {key})
    ORDER BY c.first_seen LIMIT %(some)s
    FOR UPDATE OF c SKIP LOCKED
), gone AS (
    DELETE FROM viewer.parked AS p USING old WHERE p.vod_id = old.vod_id RETURNING p.views
), given_up AS (
    SELECT count(*) AS vods, coalesce(sum(views), 0) AS views FROM gone
), recorded AS (
    INSERT INTO viewer.rejected (digest, source, subject, value, reason)
    SELECT
        sha256(convert_to(gen_random_uuid()::text, 'UTF8')), 'parked', vods || ' VODs', views::text,
        'no row came for them within PARKED_RETENTION_DAYS=' || %(days)s
    FROM given_up WHERE vods > 0
)
SELECT vods, views FROM given_up

-- name: discard_parked
-- Give the parked views of one VOD up; what was given up stays on record among the rejected. Returns the views.
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
-- Which parked VODs can be counted now: their row is there, and has room for their views. Looks at the newest ones and
-- at some after an id, and passes over those that were refused within so many hours. Locks nothing.
WITH looked AS MATERIALIZED (
    SELECT c.vod_id, c.views, {key} AS key
    FROM (
        (SELECT vod_id, views, refused_at FROM viewer.parked ORDER BY first_seen DESC LIMIT %(newest)s)
        UNION
        (
            SELECT vod_id, views, refused_at FROM viewer.parked
            WHERE vod_id > %(after)s ORDER BY vod_id LIMIT %(some)s
        )
    ) AS c
    WHERE c.refused_at IS NULL OR c.refused_at < now() - make_interval(hours => %(hours)s)
)
SELECT looked.vod_id
FROM looked JOIN {table} AS t ON t.{id} = looked.key
WHERE coalesce(t.{count}, 0) <= {most} - looked.views
ORDER BY looked.vod_id COLLATE "C"
