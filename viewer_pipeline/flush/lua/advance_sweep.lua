-- advance_sweep: store how far a sweep has come; after its last part, remove the request that it fulfils, unless a newer
-- one came in. Safe to repeat.
-- KEYS: subscriber, marker.  ARGV: ledger; epoch; the position as the run read it, empty if there was none; the position
--       that it has come to, empty after the last part; the request when the pass began, empty if there was none; `hold` of
--       the marker when the pass began, empty if there was none; the fields of the request and of the position.
-- Returns 1 if the position is stored, by this call or an earlier one; 0 if another run has moved it since, or the marker
-- has another ledger or epoch by now.
local at = redis.call('HMGET', KEYS[2], 'ledger', 'epoch')
if at[1] ~= ARGV[1] or at[2] ~= ARGV[2] then
    return 0
end
-- This run has read the last part, and knows that all before it was read since the request: wherever the position is.
if ARGV[4] == '' and redis.call('HGET', KEYS[1], ARGV[7]) == ARGV[5] then
    redis.call('HDEL', KEYS[1], ARGV[7])
end
-- All that was in the counters when `hold` was set is in flushes by now.
if ARGV[4] == '' and ARGV[6] ~= '' and redis.call('HGET', KEYS[2], 'hold') == ARGV[6] then
    redis.call('HDEL', KEYS[2], 'hold')
end
local stored = redis.call('HGET', KEYS[1], ARGV[8]) or ''
if stored ~= ARGV[3] then
    return stored == ARGV[4] and 1 or 0
end
if ARGV[4] == '' then
    redis.call('HDEL', KEYS[1], ARGV[8])
else
    redis.call('HSET', KEYS[1], ARGV[8], ARGV[4])
end
return 1
