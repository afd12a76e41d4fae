-- What was committed above a flush, by mode; not what `reconcile` adjusted, which is no view and may be below zero.
SELECT mode, count(*), sum(counters), sum(views), max(seq), max(committed_at)
FROM viewer.flush WHERE seq > %(seq)s AND NOT starts_with(mode, 'reconcile')
GROUP BY mode ORDER BY mode
