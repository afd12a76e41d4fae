-- begin: write the id and the timeline of the run, create the marker if there is none, return it. Safe to repeat.
-- KEYS: marker, registry, marker and subscriber of version 0.1.0, marker and subscriber.
-- ARGV: run id; the ledger's last seq, its number of batches and its flush id; the epoch of a new marker; counter prefix;
--       ledger; place of its database; the timeline in which the last seq was read; the timeline that this run saw in the
--       marker before it read that, after a '='; empty if none.
-- Returns {made, fields of the marker}; made is 1 if there was no marker, or if no run has recorded that yet
-- (`unreported`): the run that created it may have died, or never received the reply.
-- A marker that is made where the ledger has flushes gets `hold`: its number, until a sweep has read all counters (R16).
-- If the marker has a third timeline, that stays: the ledger must be read again, as PostgreSQL may have lost flushes since.
-- Refused: {-1, reason, detail}; then nothing was written.
-- A Redis that refuses writes refuses the run here, before anything is committed.
local format, has, place = unpack(redis.call('HMGET', KEYS[1], 'format', 'ledger', 'place'))
local reason, detail = format_refusal(format, redis.call('HGET', KEYS[1], 'seq'))
if reason then
    return {-1, reason, detail}
end
local ledger
ledger, reason, detail = claim({unpack(KEYS, 2)}, ARGV[6], ARGV[7], ARGV[8])
if not ledger then
    return {-1, reason, detail}
end
if has and has ~= ledger then
    return {-1, 'ledger', has .. ' ' .. (place or '')}
end
redis.call('HSET', KEYS[1], 'run', ARGV[1], 'format', FORMAT, 'ledger', ledger, 'place', ARGV[8],
    'seq', OLD)
local made = redis.call('HSETNX', KEYS[1], 'flush', ARGV[2])
if made == 1 then
    redis.call('HSET', KEYS[1], 'batch', ARGV[3], 'batches', ARGV[3], 'flush_id', ARGV[4], 'epoch', ARGV[5])
    if ARGV[2] ~= '0' then
        redis.call('HSET', KEYS[1], 'unreported', 1, 'hold', ARGV[2])
    end
end
if made == 1 or '=' .. (redis.call('HGET', KEYS[1], 'timeline') or '') == ARGV[10] then
    redis.call('HSET', KEYS[1], 'timeline', ARGV[9])
end
local marker = read_marker(KEYS[1])
local unreported = redis.call('HEXISTS', KEYS[1], 'unreported') == 1
return {(made == 1 or unreported) and 1 or 0, unpack(marker)}
