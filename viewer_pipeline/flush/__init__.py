"""The main job: drain, aggregate, commit, settle, verify; and whose the counters are."""
