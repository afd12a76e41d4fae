-- adopt_shard: give the marker of a shard of a cluster to another ledger. Safe to repeat.
-- KEYS: marker.
-- ARGV: ledger; place of its database; flush, batch, epoch and ledger of the marker as it was read; 1 to continue from the
--       end of the new ledger, else 0; its last flush, number of batches, flush id; the epoch of the marker then.
-- Returns 1; 0 if the marker has moved since.
local at = redis.call('HMGET', KEYS[1], 'flush', 'batch', 'epoch', 'ledger')
if at[4] == ARGV[1] and (ARGV[7] == '0' or at[3] == ARGV[11]) then
    return 1
end
if at[1] ~= ARGV[3] or at[2] ~= ARGV[4] or (at[3] or '') ~= ARGV[5] or (at[4] or '') ~= ARGV[6] then
    return 0
end
redis.call('HSET', KEYS[1], 'ledger', ARGV[1], 'place', ARGV[2])
if ARGV[7] == '1' then
    redis.call('HSET', KEYS[1], 'flush', ARGV[8], 'batch', ARGV[9], 'batches', ARGV[9], 'flush_id', ARGV[10],
        'epoch', ARGV[11])
    redis.call('HDEL', KEYS[1], 'missing')
end
return 1
