-- remove_announced: remove ids from the changed set that were announced before a time, and not since. Safe to repeat.
-- In a cluster, where no script can look at the counters as well: a VOD that is announced again gets a later time.
-- KEYS: changed set.  ARGV: the time (ms), then the ids.
-- Returns how many were removed.
local before, settled = tonumber(ARGV[1]), {}
for i = 2, #ARGV do
    local announced = redis.pcall('ZSCORE', KEYS[1], ARGV[i])
    if type(announced) == 'string' and tonumber(announced) < before then
        settled[#settled + 1] = ARGV[i]
    end
end
return #settled > 0 and redis.call('ZREM', KEYS[1], unpack(settled)) or 0
