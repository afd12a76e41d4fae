-- fold: write one part of a segment, once, whichever worker sends it and however often. Of a single Redis.
-- KEYS: subscriber, changed set, then counters.
-- ARGV: fencing token; segment number; part; number of parts; time (ms); 1 where messages carry the views, else 0;
--       length of the counter prefix; the views, separated by blanks; ledger.
-- Returns {outcome, ...}: 1 this call wrote the part; 0 it was written before; -1 another worker holds the lease; -2 the
--         segment was begun in another number of parts, which follows. After a 1: counters that cannot be raised, as
--         pairs of position and error.
local token, segment, part, parts, time, increment, prefix_length, counts, ledger = unpack(ARGV)
local reply = begin_part(token, ledger, segment, part, parts)
if reply then
    return reply
end
local views = {}
for count in string.gmatch(counts, '%d+') do
    views[#views + 1] = count
end
reply = {1}
for i = 3, #KEYS do
    local raised = true
    if increment == '1' then
        raised = redis.pcall('INCRBY', KEYS[i], views[i - 2])
    end
    if type(raised) == 'table' then
        reply[#reply + 1] = i - 2
        reply[#reply + 1] = raised['err']
    else
        redis.pcall('ZADD', KEYS[2], 'NX', time, string.sub(KEYS[i], tonumber(prefix_length) + 1))
    end
end
return reply
