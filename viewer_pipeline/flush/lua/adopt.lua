-- adopt: give marker, subscriber and registry entry of a pipeline to another ledger. Safe to repeat.
-- KEYS: marker, subscriber, registry, marker and subscriber of version 0.1.0, marker and subscriber.
-- ARGV: counter prefix; ledger; place of its database; flush, batch and epoch of the marker as it was read, empty if
--       there was none; 1 to continue from the end of the new ledger, else 0; its last flush, number of batches, flush
--       id; the epoch of the marker then; the ledger of the marker as it was read.
-- Returns {1}; {0} if the marker has moved since; {-1, worker} while a worker of the other ledger holds the lease;
-- {-2, reason, detail} if a newer program wrote the marker, or because of another pipeline; nothing was written then.
local reason, detail = format_refusal(redis.call('HGET', KEYS[1], 'format'))
if reason then
    return {-2, reason, detail}
end
local at = redis.call('HMGET', KEYS[1], 'flush', 'batch', 'epoch', 'ledger')
if (at[1] or '') ~= ARGV[4] or (at[2] or '') ~= ARGV[5] or (at[3] or '') ~= ARGV[6] or (at[4] or '') ~= ARGV[12] then
    return {0}
end
-- If the entry was lost, other pipelines may have been entered meanwhile.
local overlap = redis.call('HEXISTS', KEYS[3], ARGV[1]) == 0 and overlapping(KEYS[3], ARGV[1])
if overlap then
    return {-2, 'overlap', overlap}
end
local second = prefix_of(KEYS[3], ARGV[2], ARGV[1])
if second then
    return {-2, 'second', second}
end
local lease = redis.call('HMGET', KEYS[2], 'expires', 'worker', 'ledger', 'holder')
local other = not lease[3] or not is_same_ledger(lease[3], ARGV[2])
if lease[4] and other and is_held(lease[1]) then
    return {-1, lease[2] or ''}
end
redis.call('HSET', KEYS[3], ARGV[1], ARGV[2] .. ' ' .. ARGV[3])
keep_old_version_out(KEYS[4], KEYS[5])
if at[1] then
    redis.call('HSET', KEYS[1], 'ledger', ARGV[2], 'place', ARGV[3])
end
if at[1] and ARGV[7] == '1' then
    redis.call('HSET', KEYS[1], 'flush', ARGV[8], 'batch', ARGV[9], 'batches', ARGV[9], 'flush_id', ARGV[10],
        'epoch', ARGV[11])
    redis.call('HDEL', KEYS[1], 'missing')
end
if redis.call('HEXISTS', KEYS[2], 'ledger') == 1 then
    redis.call('HSET', KEYS[2], 'ledger', ARGV[2], 'place', ARGV[3], 'expires', 0)
    redis.call('HDEL', KEYS[2], 'holder', 'worker')
end
return {1}
