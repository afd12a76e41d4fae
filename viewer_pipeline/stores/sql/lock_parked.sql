-- Lock parked rows and their rows of the user's table, both or neither, without waiting for anybody; return the ids.
SELECT p.vod_id
FROM viewer.parked AS p JOIN {table} AS t ON t.{id} = {key}
WHERE p.vod_id = ANY(%(vod_ids)s)
ORDER BY p.vod_id COLLATE "C"
FOR NO KEY UPDATE OF t, p SKIP LOCKED
