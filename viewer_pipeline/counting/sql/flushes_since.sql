-- What was committed above a flush, by mode.
SELECT mode, count(*), sum(counters), sum(views), max(seq), max(committed_at)
FROM viewer.flush WHERE seq > %(seq)s
GROUP BY mode ORDER BY mode
