-- How many VODs without a row have parked views that are older than so many days, and how many views.
SELECT count(*), coalesce(sum(c.views), 0) FROM viewer.parked AS c
WHERE c.first_seen < now() - make_interval(days => %(days)s)
    AND c.updated_at < now() - make_interval(days => %(days)s)
    AND NOT EXISTS (SELECT FROM {table} AS t WHERE t.{id} = {key})
