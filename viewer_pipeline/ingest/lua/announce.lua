-- announce: write one part of a segment of announcements, once, whichever worker sends it and however often. Of a cluster,
-- where no script can look at counters and changed set at once: the set has the time of the last announcement.
-- KEYS: subscriber, changed sets.
-- ARGV: fencing token; ledger; segment number; part; number of parts; which of the changed sets each id belongs to,
--       separated by blanks, empty if there is one; then the ids.
-- Returns {outcome, ...}: 1 this call wrote the part; 0 it was written before; -1 another worker holds the lease; -2 the
--         segment was begun in another number of parts, which follows.
local token, ledger, segment, part, parts, set_numbers = unpack(ARGV, 1, 6)
local reply = begin_part(token, ledger, segment, part, parts)
if reply then
    return reply
end
local set_of = numbers_in(set_numbers)
local now, announced = string.format('%.0f', now_ms()), {}
for i = 7, #ARGV do
    local key = KEYS[2 + (set_of[i - 6] or 0)]
    local of_set = announced[key] or {}
    of_set[#of_set + 1] = now
    of_set[#of_set + 1] = ARGV[i]
    announced[key] = of_set
end
for key, of_set in pairs(announced) do
    redis.pcall('ZADD', key, 'GT', unpack(of_set)) -- another program may use the name: sweeps find all counters
end
return {1}
