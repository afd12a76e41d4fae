-- Give the parked views of one VOD up; what was given up stays on record among the rejected. Returns the views.
WITH gone AS (
    DELETE FROM viewer.parked WHERE vod_id = %(vod_id)s RETURNING vod_id, views
), recorded AS (
    INSERT INTO viewer.rejected (digest, source, subject, value, reason)
    SELECT sha256(convert_to(gen_random_uuid()::text, 'UTF8')), 'parked', left(vod_id, 300), views::text, %(reason)s
    FROM gone
)
SELECT views FROM gone
