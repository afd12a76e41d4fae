-- name: upgrade
-- Batches of a single Redis have no epoch of their own, and are not in the index: they cost what they did.
ALTER TABLE viewer.flush_batch ADD COLUMN epoch text;
CREATE INDEX flush_batch_of_shard ON viewer.flush_batch (shard, seq, batch) WHERE shard > 0;
COMMENT ON COLUMN viewer.flush_batch.shard IS
    'Part of Redis that the counters belong to: the hash slot + 1 in a cluster, 0 on a single Redis';
COMMENT ON COLUMN viewer.flush_batch.epoch IS
    'In a cluster, of the marker of the shard when the counters were read; on a single Redis, the flush has it';

-- name: downgrade
-- Refuse to lose which shard a batch belongs to.
DO $$
BEGIN
    IF EXISTS (SELECT FROM viewer.flush_batch WHERE shard > 0) THEN
        RAISE EXCEPTION 'viewer.flush_batch has batches of a Redis Cluster, which the version before cannot settle';
    END IF;
END $$;
DROP INDEX viewer.flush_batch_of_shard;
ALTER TABLE viewer.flush_batch DROP COLUMN epoch;
COMMENT ON COLUMN viewer.flush_batch.shard IS 'Shard of Redis that the counters belong to; 0 on a single Redis';
