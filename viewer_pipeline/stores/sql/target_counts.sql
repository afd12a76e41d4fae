-- The counts of some rows of the user's table.
SELECT c.vod_id, coalesce(t.{count}, 0)
FROM unnest(%(vod_ids)s::text[]) AS c (vod_id) JOIN {table} AS t ON t.{id} = {key}
