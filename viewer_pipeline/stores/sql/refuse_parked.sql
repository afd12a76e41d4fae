-- Note why parked views could still not be counted.
UPDATE viewer.parked SET reason = %(reason)s, refused_at = now() WHERE vod_id = ANY(%(vod_ids)s)
