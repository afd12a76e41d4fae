-- name: lock_counted_through
-- Until the transaction ends, no other worker counts rejected messages. Returns the last segment that was counted.
INSERT INTO viewer.rejected_through AS t (cuts_channel, segment) VALUES (%(channel)s, 0)
ON CONFLICT (cuts_channel) DO UPDATE SET segment = t.segment
RETURNING segment

-- name: set_counted_through
-- Record the last segment whose rejected messages are counted.
UPDATE viewer.rejected_through SET segment = %(number)s WHERE cuts_channel = %(channel)s

-- name: add_rejected_counts
-- Add to the numbers of rejected inputs. Sorted, so that two transactions lock rows in the same order.
INSERT INTO viewer.rejected_count AS c (source, reason, inputs)
SELECT source, reason, inputs FROM jsonb_to_recordset(%(counts)s) AS new (source text, reason text, inputs bigint)
ORDER BY source, reason
ON CONFLICT (source, reason) DO UPDATE SET inputs = c.inputs + excluded.inputs, counted_at = clock_timestamp()

-- name: rejected_counts
-- The numbers of rejected inputs, most inputs first, and how long ago the last of them was counted.
SELECT source, reason, inputs, extract(epoch FROM clock_timestamp() - counted_at)::float8
FROM viewer.rejected_count ORDER BY inputs DESC, source, reason

-- name: rejected_examples
-- The newest of up to 1000 examples, for each of the last reasons of which an input was counted in these seconds.
SELECT left(example.subject, %(length)s), last.reason
FROM (
    SELECT source, reason, counted_at FROM viewer.rejected_count
    WHERE counted_at > clock_timestamp() - make_interval(secs => %(seconds)s)
    ORDER BY counted_at DESC LIMIT %(reasons)s
) AS last CROSS JOIN LATERAL (
    SELECT subject FROM (
        SELECT subject, seen_at FROM viewer.rejected AS r
        WHERE r.source = last.source AND r.reason = last.reason LIMIT 1000
    ) AS few ORDER BY seen_at DESC LIMIT 1
) AS example
ORDER BY last.counted_at DESC

-- name: report_newly_rejected
-- What was rejected since another run asked; the same again for the same run.
UPDATE viewer.rejected_count
SET reported_before = CASE WHEN reported_by = %(run_id)s THEN reported_before ELSE reported END,
    reported = inputs,
    reported_by = %(run_id)s
WHERE inputs > reported OR reported_by = %(run_id)s
RETURNING source, reason, inputs - reported_before
