-- Note that the baseline was taken: of how many VODs, and how many views.
INSERT INTO viewer.baseline_taken AS b (source, vods, views)
SELECT %(source)s, count(*), coalesce(sum(baseline), 0) FROM viewer.vod_view_counts WHERE baseline <> 0
ON CONFLICT (one) DO UPDATE SET
    taken_at = excluded.taken_at, source = excluded.source, vods = excluded.vods, views = excluded.views
RETURNING taken_at, source, vods, views
