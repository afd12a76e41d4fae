-- open_streams: make the markers with which streams begin, once the streams before them are settled. Safe to repeat.
-- Begins with `claim`.
-- KEYS: markers of the streams before, then those of the new ones; in a cluster those of one shard.
-- ARGV: ledger; place of its database; its timeline; how many streams were before; flush, batch and epoch of each of them, as
--       they were when all was settled; then the number and the epoch with which each new one begins.
-- Returns 1; 0 if a marker from before has moved, so that it is to be settled again; -1 if a new one exists already, of another
-- plan. `hold` passes from any of the streams before to all new ones: their counters are the same (R16).
local ledger, place, timeline, before = unpack(ARGV, 1, 4)
local hold
for i = 1, tonumber(before) do
    local at = redis.call('HMGET', KEYS[i], 'flush', 'batch', 'epoch', 'hold', 'ledger')
    local expected = 3 * i + 1
    if at[1] ~= ARGV[expected + 1] or at[2] ~= ARGV[expected + 2] or at[3] ~= ARGV[expected + 3] or at[5] ~= ledger then
        return 0
    end
    hold = at[4] or hold
end
local first = 4 + 3 * before
for i = before + 1, #KEYS do
    local epoch = redis.call('HGET', KEYS[i], 'epoch')
    if epoch and epoch ~= ARGV[first + 2 * (i - before)] then
        return -1
    end
end
for i = before + 1, #KEYS do
    local number = first + 2 * (i - before)
    if redis.call('HSETNX', KEYS[i], 'flush', ARGV[number - 1]) == 1 then
        redis.call('HSET', KEYS[i], 'batch', 0, 'batches', 0, 'flush_id', '', 'epoch', ARGV[number], 'ledger', ledger,
            'place', place, 'timeline', timeline, 'format', FORMAT, 'seq', OLD)
    end
    if hold then
        redis.call('HSET', KEYS[i], 'hold', hold)
    end
end
return 1
