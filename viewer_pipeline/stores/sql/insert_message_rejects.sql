-- Record rejects, once each and in order, while fewer than `keep` rows of their source and reason exist.
WITH new AS (
    SELECT n.*, row_number() OVER (PARTITION BY n.source, n.reason ORDER BY n.nth) AS nth_of_reason
    FROM unnest(%(digests)s::bytea[], %(sources)s::text[], %(subjects)s::text[], %(values)s::text[], %(reasons)s::text[])
        WITH ORDINALITY AS n (digest, source, subject, value, reason, nth)
    WHERE NOT EXISTS (SELECT FROM viewer.rejected AS r WHERE r.digest = n.digest)
), recorded AS (
    SELECT source, reason, (
        SELECT count(*) FROM (
            SELECT FROM viewer.rejected AS r WHERE r.source = n.source AND r.reason = n.reason LIMIT %(keep)s
        ) AS kept
    ) AS rows
    FROM (SELECT DISTINCT source, reason FROM new) AS n
)
INSERT INTO viewer.rejected (digest, source, subject, value, reason)
SELECT digest, source, subject, value, reason FROM new JOIN recorded USING (source, reason)
WHERE recorded.rows + new.nth_of_reason <= %(keep)s
ON CONFLICT (digest) DO NOTHING
