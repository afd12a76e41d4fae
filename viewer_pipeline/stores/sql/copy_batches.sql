-- The batches of a flush.
COPY viewer.flush_batch (seq, batch, vod_ids, deltas) FROM STDIN (FORMAT BINARY)
