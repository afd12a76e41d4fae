-- Views of a day by the hour (UTC) in which their counters were read.
SELECT extract(hour FROM taken_at AT TIME ZONE 'UTC')::int, sum(views)
FROM viewer.flush
WHERE taken_at >= %(day)s::date::timestamp AT TIME ZONE 'UTC'
    AND taken_at < (%(day)s::date + 1)::timestamp AT TIME ZONE 'UTC'
    AND NOT starts_with(mode, 'reconcile')
GROUP BY 1
