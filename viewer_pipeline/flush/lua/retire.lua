-- retire: forget a pipeline that is gone, with its keys. Safe to repeat.
-- KEYS: registry, marker and subscriber of version 0.1.0; marker, subscriber and changed set of that pipeline.
-- ARGV: its counter prefix.
-- Returns {1} if it was known, {0} if not; {-1, who} while its worker holds the lease.
local lease = redis.call('HMGET', KEYS[5], 'expires', 'who', 'holder')
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local left = tonumber(lease[1] or 0) - now
if lease[3] and left > 0 and left < 120000 then -- no lease is as long: else the clock was put back
    return {-1, lease[2] or ''}
end
local known = redis.call('HDEL', KEYS[1], ARGV[1])
if known == 1 then
    redis.call('DEL', KEYS[4], KEYS[5], KEYS[6])
    guard(KEYS[2], KEYS[3])
end
return {known}
