-- What the ledger holds for some flushes: counters, views and a digest of the contents of each batch, in order.
SELECT b.seq, b.batch, count(*), sum(c.delta),
    sha256(convert_to(string_agg(c.vod_id || E'\x1f' || c.delta, E'\n' ORDER BY c.n), 'UTF8'))
FROM viewer.flush_batch AS b, unnest(b.vod_ids, b.deltas) WITH ORDINALITY AS c (vod_id, delta, n)
WHERE b.seq = ANY(%(seqs)s)
GROUP BY b.seq, b.batch
ORDER BY b.seq, b.batch
