-- name: insert_rejects
-- Record rejects, each once, and count those that are new.
WITH new AS (
    INSERT INTO viewer.rejected (digest, source, subject, value, reason)
    SELECT *
    FROM unnest(%(digests)s::bytea[], %(sources)s::text[], %(subjects)s::text[], %(values)s::text[], %(reasons)s::text[])
    ON CONFLICT (digest) DO NOTHING
    RETURNING source, reason
)
INSERT INTO viewer.rejected_count AS c (source, reason, inputs)
SELECT source, reason, count(*) FROM new GROUP BY source, reason ORDER BY source, reason
ON CONFLICT (source, reason) DO UPDATE SET inputs = c.inputs + excluded.inputs, counted_at = clock_timestamp()

-- name: lock_message_rejects
-- Until the transaction ends, no other worker counts recorded messages or adds to them.
SELECT pg_advisory_xact_lock(hashtextextended('viewer.rejected', 0))

-- name: insert_message_rejects
-- Record rejects in order, each once, while fewer than `max_rows` rows of their source and reason exist.
WITH new AS (
    SELECT n.*, row_number() OVER (PARTITION BY n.source, n.reason ORDER BY n.nth) AS nth_of_reason
    FROM unnest(%(digests)s::bytea[], %(sources)s::text[], %(subjects)s::text[], %(values)s::text[], %(reasons)s::text[])
        WITH ORDINALITY AS n (digest, source, subject, value, reason, nth)
    WHERE NOT EXISTS (SELECT FROM viewer.rejected AS r WHERE r.digest = n.digest)
), recorded AS (
    SELECT source, reason, (
        SELECT count(*) FROM (
            SELECT FROM viewer.rejected AS r WHERE r.source = n.source AND r.reason = n.reason LIMIT %(max_rows)s
        ) AS kept
    ) AS rows
    FROM (SELECT DISTINCT source, reason FROM new) AS n
)
INSERT INTO viewer.rejected (digest, source, subject, value, reason)
SELECT digest, source, subject, value, reason FROM new JOIN recorded USING (source, reason)
WHERE recorded.rows + new.nth_of_reason <= %(max_rows)s
ON CONFLICT (digest) DO NOTHING

-- name: recorded_rejects
-- Which of these rejects are recorded already.
SELECT digest FROM viewer.rejected WHERE digest = ANY(%(digests)s)
