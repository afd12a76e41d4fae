-- What a run has committed above a flush, in order.
SELECT seq, counters, views, batches FROM viewer.flush
WHERE seq > %(base)s AND run_id = %(run_id)s
ORDER BY seq
