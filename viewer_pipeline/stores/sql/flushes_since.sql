-- What was committed above a flush, by mode; from 0 on together with what retention deleted. Not what `reconcile`
-- adjusted, which is no view and may be below zero.
SELECT mode, sum(flushes)::bigint, sum(counters), sum(views), max(last_seq), max(last_committed_at)
FROM (
    SELECT mode, count(*), sum(counters), sum(views), max(seq), max(committed_at)
    FROM viewer.flush WHERE seq > %(seq)s
    GROUP BY mode
    UNION ALL
    SELECT mode, flushes, counters, views, last_seq, last_committed_at FROM viewer.pruned_flushes WHERE %(seq)s = 0
) AS sums (mode, flushes, counters, views, last_seq, last_committed_at)
WHERE NOT starts_with(mode, 'reconcile')
GROUP BY mode ORDER BY mode
