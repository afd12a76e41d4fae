-- fold: write one part of a segment, once, whichever worker sends it and however often. Of a single Redis.
-- KEYS: subscriber, changed sets, then counters.
-- ARGV: fencing token; segment number; part; number of parts; time (ms); 1 where messages carry the views, else 0;
--       length of the counter prefix; the views, separated by blanks; ledger; number of changed sets; which of them each
--       counter belongs to, separated by blanks, empty if there is one.
-- Returns {outcome, ...}: 1 this call wrote the part; 0 it was written before; -1 another worker holds the lease; -2 the
--         segment was begun in another number of parts, which follows. After a 1: counters that cannot be raised, as
--         pairs of position and error.
local token, segment, part, parts, time, increment, prefix_length, counts, ledger, sets, set_numbers = unpack(ARGV)
local reply = begin_part(token, ledger, segment, part, parts)
if reply then
    return reply
end
local views, set_of = numbers_in(counts), numbers_in(set_numbers)
reply = {1}
local first = 2 + tonumber(sets)
for i = first, #KEYS do
    local position = i - first + 1
    local raised = true
    if increment == '1' then
        raised = redis.pcall('INCRBY', KEYS[i], views[position])
    end
    if type(raised) == 'table' then
        reply[#reply + 1] = position
        reply[#reply + 1] = raised['err']
    else
        local changed = KEYS[2 + (set_of[position] or 0)]
        redis.pcall('ZADD', changed, 'NX', time, string.sub(KEYS[i], tonumber(prefix_length) + 1))
    end
end
return reply
