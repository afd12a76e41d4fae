-- remove_announced: remove ids from the changed set that nobody has announced since a time. Safe to repeat.
-- In a cluster, where no script can look at the counters as well: a VOD that is announced again gets a later time.
-- KEYS: changed set.  ARGV: the time (ms), then the ids.
-- Returns how many were removed.
local through, settled = tonumber(ARGV[1]), {}
for i = 2, #ARGV do
    local announced = redis.pcall('ZSCORE', KEYS[1], ARGV[i])
    if type(announced) == 'string' and tonumber(announced) <= through then
        settled[#settled + 1] = ARGV[i]
    end
end
return #settled > 0 and redis.call('ZREM', KEYS[1], unpack(settled)) or 0
