-- announce: write one part of a segment of announcements, once, whichever worker sends it and however often. Of a cluster,
-- where no script can look at counters and changed set at once: the set has the time of the last announcement.
-- KEYS: subscriber, changed set.
-- ARGV: fencing token; ledger; segment number; part; number of parts; then the ids.
-- Returns {outcome, ...}: 1 this call wrote the part; 0 it was written before; -1 another worker holds the lease; -2 the
--         segment was begun in another number of parts, which follows.
local token, ledger, segment, part, parts = unpack(ARGV, 1, 5)
local reply = begin_part(token, ledger, segment, part, parts)
if reply then
    return reply
end
local now, announced = string.format('%.0f', now_ms()), {}
for i = 6, #ARGV do
    announced[#announced + 1] = now
    announced[#announced + 1] = ARGV[i]
end
if #announced > 0 then
    redis.pcall('ZADD', KEYS[2], 'GT', unpack(announced)) -- another program may use the name: sweeps find all counters
end
return {1}
