-- name: count_totals
-- Return how many VODs have a total, and their views.
SELECT count(*), coalesce(sum(view_count), 0) FROM viewer.vod_view_counts
