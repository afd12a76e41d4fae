-- name: largest_count
-- The largest count of the target table.
SELECT coalesce(max({count}), 0)::bigint FROM {table}
