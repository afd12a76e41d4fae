-- Record what can never be a count, once each.
INSERT INTO viewer.rejected (digest, source, subject, value, reason)
SELECT * FROM unnest(%(digests)s::bytea[], %(sources)s::text[], %(subjects)s::text[], %(values)s::text[], %(reasons)s::text[])
ON CONFLICT (digest) DO NOTHING
