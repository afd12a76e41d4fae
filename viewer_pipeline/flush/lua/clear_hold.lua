-- clear_hold: remove `hold` from the marker of a shard, once a sweep has read all its counters. Safe to repeat.
-- KEYS: marker.  ARGV: ledger; epoch; `hold` of the marker when the pass of the sweep began.
-- Returns 1 if it is removed by this call.
local at = redis.call('HMGET', KEYS[1], 'ledger', 'epoch', 'hold')
if at[1] == ARGV[1] and at[2] == ARGV[2] and at[3] == ARGV[3] then
    return redis.call('HDEL', KEYS[1], 'hold')
end
return 0
