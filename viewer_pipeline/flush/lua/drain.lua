-- drain: of one shard of a cluster, write the id and the timeline of the run into the marker, create it if there is none,
-- and return it together with counters as of this moment. Safe to repeat.
-- All keys are declared, so that Redis refuses the script while some of them are at another node (rule R15).
-- KEYS: marker, then counters, all in one slot.
-- ARGV: run id; the ledger's last seq, its number of batches and its flush id; the epoch of a new marker; ledger, as the
--       registry has it; place of its database; the timeline in which the last seq was read; the timeline that this run saw
--       in the marker before it read that, after a '='; empty if none.
-- Returns {made, fields of the marker, ...}: made is 1 if there was no marker; then the value of each counter, nil where a
-- key is missing or no string. A marker that is made where the ledger has flushes gets `hold` (rule R16).
-- If the marker has a third timeline, that stays: the ledger must be read again, as PostgreSQL may have lost flushes since.
-- Refused: {-1, reason, detail}; then nothing was written.
local format, has, place = unpack(redis.call('HMGET', KEYS[1], 'format', 'ledger', 'place'))
local reason, detail = format_refusal(format)
if reason then
    return {-1, reason, detail}
end
if has and has ~= ARGV[6] then
    return {-1, 'ledger', has .. ' ' .. (place or '')}
end
redis.call('HSET', KEYS[1], 'run', ARGV[1], 'format', FORMAT, 'ledger', ARGV[6], 'place', ARGV[7])
local made = redis.call('HSETNX', KEYS[1], 'flush', ARGV[2])
if made == 1 then
    redis.call('HSET', KEYS[1], 'batch', ARGV[3], 'batches', ARGV[3], 'flush_id', ARGV[4], 'epoch', ARGV[5])
    if ARGV[2] ~= '0' then
        redis.call('HSET', KEYS[1], 'hold', ARGV[5])
    end
end
if made == 1 or '=' .. (redis.call('HGET', KEYS[1], 'timeline') or '') == ARGV[9] then
    redis.call('HSET', KEYS[1], 'timeline', ARGV[8])
end
local reply = read_marker(KEYS[1])
table.insert(reply, 1, made)
if #KEYS > 1 then
    local values = redis.call('MGET', unpack(KEYS, 2))
    for i = 1, #KEYS - 1 do
        reply[#reply + 1] = values[i]
    end
end
return reply
