-- upgrade: move what version 0.1.0 kept under fixed names to the names and fields of this one. Safe to repeat.
-- KEYS: marker, changed set and subscriber of 0.1.0; marker, changed set and subscriber of this pipeline; registry.
-- ARGV: counter prefix; ledger, empty while it has no id; place of its database; the marker's flush as it was read, empty
--       if there is none; the id of that flush; 1 to move, 0 to check only whether that is possible.
-- Returns {1} moved, {0} nothing to move, {-1, worker} while a worker of 0.1.0 is alive, {-2} the marker has moved since
-- it was read, {-3, reason, detail} if another pipeline counts the same keys.
if not is_old(KEYS[1], KEYS[3]) then
    return {0}
end
-- One of the two keys may be of this version already. Then it is not read: its fields have another meaning.
local function read(key, ...)
    if redis.call('HEXISTS', key, 'format') == 1 then
        return {}
    end
    return redis.call('HMGET', key, ...)
end
local old = read(KEYS[1], 'seq', 'batch', 'of', 'epoch', 'untold', 'run')
local sub = read(KEYS[3], 'id', 'turn', 'heard', 'cut', 'folded', 'segment', 'part', 'of', 'sweep', 'until', 'who',
    'holder')
if sub[12] and (tonumber(sub[10] or 0) or 0) > now_ms() then
    return {-1, sub[11] or ''}
end
if sub[1] and redis.call('PUBSUB', 'NUMSUB', 'viewer:cuts:' .. sub[1])[2] > 0 then
    return {-1, 'on standby'}
end
local other, known = overlapping(KEYS[7], ARGV[1]), redis.call('HGET', KEYS[7], ARGV[1])
if other then
    return {-3, 'overlap', other}
end
local ledger = ARGV[2]
if known and ledger ~= '' then
    ledger = string.match(known, '^%S+') or ''
    if not is_same_ledger(ledger, ARGV[2]) then
        return {-3, 'ledger', known}
    end
end
if ARGV[6] == '0' then
    return {1}
end
if (old[1] or '') ~= ARGV[4] then
    return {-2}
end

local function fields(names, values)
    local arguments = {}
    for i, name in ipairs(names) do
        if values[i] then
            arguments[#arguments + 1] = name
            arguments[#arguments + 1] = values[i]
        end
    end
    return arguments
end
-- A program of 0.1.0 may have run on a Redis that lost the sentences which keep it out: what this version has settled and
-- folded since stays. A worker of this version that started before the move has written an id of its key space only.
local marker_is_new = redis.call('HEXISTS', KEYS[4], 'flush') == 1
local subscriber_is_new = redis.call('HEXISTS', KEYS[6], 'term') == 1
-- The first write, because it can fail (out of memory, a replica): then nothing has been moved. After it, nothing may end
-- the script: all types have been checked, except those of the changed sets.
redis.call('HSET', KEYS[7], ARGV[1], ledger .. ' ' .. ARGV[3])
if old[1] then
    redis.call('DEL', KEYS[1])
end
if old[1] and not marker_is_new then
    redis.call('HSET', KEYS[4], 'format', FORMAT, 'ledger', ledger, 'place', ARGV[3], 'flush_id', ARGV[5],
        unpack(fields({'flush', 'batch', 'batches', 'epoch', 'unreported', 'run'}, old)))
end
if sub[1] then
    redis.call('DEL', KEYS[3])
end
if sub[1] and not subscriber_is_new then
    redis.call('HSET', KEYS[6], 'format', FORMAT, 'ledger', ledger, 'place', ARGV[3],
        unpack(fields({'id', 'term', 'last_message', 'cut', 'folded', 'segment', 'part', 'parts', 'sweep'}, sub)))
end
if KEYS[2] ~= KEYS[5] and redis.call('TYPE', KEYS[2])['ok'] == 'zset'
    and redis.call('RENAMENX', KEYS[2], KEYS[5]) == 0 then
    -- If another program took the name, nothing can be moved: sweeps find all counters.
    redis.pcall('ZUNIONSTORE', KEYS[5], 2, KEYS[5], KEYS[2], 'AGGREGATE', 'MIN')
    redis.call('DEL', KEYS[2])
end
keep_old_version_out(KEYS[1], KEYS[3])
return {1}
