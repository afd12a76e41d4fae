-- What a run has committed above a flush, in order; not what `reconcile` did under the same run.
SELECT seq, counters, views, batches FROM viewer.flush
WHERE seq > %(base)s AND run_id = %(run_id)s AND NOT starts_with(mode, 'reconcile')
ORDER BY seq
