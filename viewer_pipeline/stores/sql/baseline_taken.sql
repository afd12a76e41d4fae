-- When, and from where, the baseline was taken; no row before that.
SELECT taken_at, source, vods, views FROM viewer.baseline_taken
