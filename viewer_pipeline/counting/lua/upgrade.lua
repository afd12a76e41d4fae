-- upgrade: move what version 0.1.0 kept under fixed names to the names and fields of this one. Safe to repeat.
-- KEYS: marker, changed set and subscriber of 0.1.0; marker, changed set and subscriber of this pipeline; registry.
-- ARGV: counter prefix; ledger; place of its database; the marker's flush as it was looked at, empty if there is none;
--       the id of that flush.
-- Returns {1} moved, {0} there is nothing to move, {-1, who} while a worker of 0.1.0 is alive, {-2} the marker has moved
-- since it was looked at, {-3, reason, detail} where another pipeline is known that counts the same keys.
if not is_old(KEYS[1], KEYS[3]) then
    return {0}
end
local old = redis.call('HMGET', KEYS[1], 'seq', 'batch', 'of', 'epoch', 'untold', 'run')
local sub = redis.call('HMGET', KEYS[3], 'id', 'turn', 'heard', 'cut', 'folded', 'segment', 'part', 'of', 'sweep',
    'until', 'who', 'holder')
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
if sub[12] and (tonumber(sub[10] or 0) or 0) > now then
    return {-1, sub[11] or ''}
end
if sub[1] and redis.call('PUBSUB', 'NUMSUB', 'viewer:cuts:' .. sub[1])[2] > 0 then
    return {-1, 'one that stands by'}
end
if (old[1] or '') ~= ARGV[4] then
    return {-2}
end
local other, known = overlapping(KEYS[7], ARGV[1]), redis.call('HGET', KEYS[7], ARGV[1])
if other then
    return {-3, 'overlap', other}
end
if known and not same_ledger(string.match(known, '^%S+'), ARGV[2]) then
    return {-3, 'ledger', known}
end
local function fields(names, values)
    local pairs_of_them = {}
    for i, name in ipairs(names) do
        if values[i] then
            pairs_of_them[#pairs_of_them + 1] = name
            pairs_of_them[#pairs_of_them + 1] = values[i]
        end
    end
    return pairs_of_them
end
redis.call('DEL', KEYS[1], KEYS[3])
if old[1] then
    redis.call('HSET', KEYS[4], 'format', FORMAT, 'ledger', ARGV[2], 'place', ARGV[3], 'flush_id', ARGV[5],
        unpack(fields({'flush', 'batch', 'batches', 'epoch', 'unreported', 'run'}, old)))
end
if sub[1] then
    redis.call('HSET', KEYS[6], 'format', FORMAT, 'ledger', ARGV[2], 'place', ARGV[3],
        unpack(fields({'id', 'term', 'last_message', 'cut', 'folded', 'segment', 'part', 'parts', 'sweep'}, sub)))
end
if KEYS[2] ~= KEYS[5] and redis.call('EXISTS', KEYS[2]) == 1 then
    redis.call('RENAMENX', KEYS[2], KEYS[5])
end
redis.call('HSET', KEYS[7], ARGV[1], ARGV[2] .. ' ' .. ARGV[3])
guard(KEYS[1], KEYS[3])
return {1}
