-- name: force_index_scans
-- For the rest of this transaction: find rows of the user's table by their ids, in the order of the ids, whatever their
-- number; and bound the wait for a locked row, because other transactions wait for the rows that this one has locked. To
-- compile these statements (jit) takes far longer than to run them: the planner expects many rows to park, mostly none are.
SELECT
    set_config('enable_seqscan', 'off', TRUE), set_config('jit', 'off', TRUE),
    set_config('lock_timeout', %(lock_timeout)s, TRUE)

-- name: begin_writing
-- For the rest of this transaction: no baseline is taken, because it must not find the user's table changed and the totals
-- not yet. And triggers of the user's table see what the role, the database or the server sets; statements of ours that
-- follow neither read nor write a time as text.
LOCK TABLE viewer.vod_view_counts IN ROW EXCLUSIVE MODE;
SET LOCAL timezone TO DEFAULT;
SET LOCAL datestyle TO DEFAULT;
SET LOCAL intervalstyle TO DEFAULT;
SET LOCAL row_security TO DEFAULT

-- name: update_target
-- Add a range of the counters of one flush to the user's table; park what that table cannot take. Returns the ids of the
-- parked VODs: all others are to be added to the totals. `key` is the id in the type of the table's column, NULL if the
-- type has no such value; `merged` has one row per key, and may omit rows that another transaction has locked. Rows are
-- locked in the order of their ids, until the COMMIT.
WITH due AS MATERIALIZED (
    SELECT c.vod_id, c.delta, {key} AS key
    FROM viewer.flush_batch AS b, unnest(b.vod_ids, b.deltas) AS c (vod_id, delta)
    WHERE b.seq = %(seq)s
    ORDER BY c.vod_id COLLATE "C"
    OFFSET %(skip)s LIMIT %(take)s
), merged AS MATERIALIZED (
    {merged}
), touched AS (
    UPDATE {table} AS t
    SET {count} = coalesce(t.{count}, 0) + s.delta
    FROM merged AS s
    WHERE t.{id} = s.key AND coalesce(t.{count}, 0) <= {max_count} - s.delta
    RETURNING s.key
), parked AS (
    INSERT INTO viewer.parked AS p (vod_id, views, reason, last_flush, updated_at)
    SELECT
        due.vod_id, due.delta,
        CASE
            WHEN due.key IS NULL THEN {no_key}
            WHEN NOT EXISTS (SELECT FROM {table} AS t WHERE t.{id} = due.key) THEN {no_row}
            WHEN merged.key IS NULL THEN {locked}
            WHEN EXISTS (
                SELECT FROM {table} AS t WHERE t.{id} = due.key AND coalesce(t.{count}, 0) > {max_count} - merged.delta
            ) THEN {no_room}
            ELSE {not_written}
        END,
        %(seq)s, statement_timestamp()
    FROM due LEFT JOIN merged USING (key) LEFT JOIN touched USING (key)
    WHERE touched.key IS NULL
    ORDER BY due.vod_id COLLATE "C"
    ON CONFLICT (vod_id) DO UPDATE SET
        views = p.views + excluded.views,
        reason = excluded.reason,
        last_flush = excluded.last_flush,
        updated_at = excluded.updated_at
    RETURNING vod_id
)
SELECT vod_id FROM parked

-- name: add_range_to_totals
-- Add a range of the counters of one flush to the totals, without those that were parked; return the new totals.
INSERT INTO viewer.vod_view_counts AS t (vod_id, view_count, last_flush, updated_at)
SELECT d.vod_id, d.delta, %(seq)s, statement_timestamp()
FROM (
    SELECT c.vod_id, c.delta
    FROM viewer.flush_batch AS b, unnest(b.vod_ids, b.deltas) AS c (vod_id, delta)
    WHERE b.seq = %(seq)s
    ORDER BY c.vod_id COLLATE "C"
    OFFSET %(skip)s LIMIT %(take)s
) AS d
WHERE (d.vod_id = ANY(%(parked)s)) IS NOT TRUE
ORDER BY d.vod_id COLLATE "C"
ON CONFLICT (vod_id) DO UPDATE SET
    view_count = t.view_count + excluded.view_count,
    last_flush = excluded.last_flush,
    updated_at = excluded.updated_at
RETURNING vod_id, view_count

-- name: park_rows
-- Park the views of a range of the counters of a flush, because the user's table refused them.
INSERT INTO viewer.parked AS p (vod_id, views, reason, last_flush, updated_at, refused_at)
SELECT c.vod_id, c.delta, %(reason)s, %(seq)s, statement_timestamp(), statement_timestamp()
FROM viewer.flush_batch AS b, unnest(b.vod_ids, b.deltas) AS c (vod_id, delta)
WHERE b.seq = %(seq)s
ORDER BY c.vod_id COLLATE "C"
OFFSET %(skip)s LIMIT %(take)s
ON CONFLICT (vod_id) DO UPDATE SET
    views = p.views + excluded.views,
    reason = excluded.reason,
    last_flush = excluded.last_flush,
    updated_at = excluded.updated_at,
    refused_at = excluded.refused_at
