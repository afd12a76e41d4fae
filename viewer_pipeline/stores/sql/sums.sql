-- What is persisted, parked and rejected, as sums.
SELECT
    (SELECT count(*) FROM viewer.vod_view_counts),
    (SELECT coalesce(sum(view_count - baseline), 0) FROM viewer.vod_view_counts),
    (SELECT count(*) FROM viewer.parked),
    (SELECT coalesce(sum(views), 0) FROM viewer.parked),
    (SELECT count(*) FROM viewer.rejected)
