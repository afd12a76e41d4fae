-- Add to some rows of the user's table, where the count is still what was seen. Locks them in the order of their ids.
WITH due AS MATERIALIZED (
    SELECT {key} AS key, c.delta, c.seen
    FROM unnest(%(vod_ids)s::text[], %(deltas)s::bigint[], %(seen)s::bigint[]) AS c (vod_id, delta, seen)
    ORDER BY 1
)
UPDATE {table} AS t
SET {count} = coalesce(t.{count}, 0) + due.delta
FROM due
WHERE t.{id} = due.key AND coalesce(t.{count}, 0) = due.seen
