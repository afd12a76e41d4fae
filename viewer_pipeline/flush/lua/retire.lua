-- retire: discard a pipeline that is gone, with its keys. Safe to repeat.
-- KEYS: registry, marker and subscriber of version 0.1.0; marker, subscriber and changed set of that pipeline.
-- ARGV: its counter prefix.
-- Returns {1} if it was known, {0} if not; {-1, worker} while its worker holds the lease.
local lease = redis.call('HMGET', KEYS[5], 'expires', 'worker', 'holder')
if lease[3] and is_held(lease[1]) then
    return {-1, lease[2] or ''}
end
local known = redis.call('HDEL', KEYS[1], ARGV[1])
if known == 1 then
    redis.call('DEL', KEYS[4], KEYS[5], KEYS[6])
    keep_old_version_out(KEYS[2], KEYS[3])
end
return {known}
