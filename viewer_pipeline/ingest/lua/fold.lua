-- fold: write one part of a segment, once, whoever sends it and however often.
-- KEYS: subscriber, changed set, then counters.
-- ARGV: token of the lease; segment number; part; number of parts; time (ms); 1 if messages carry the views, else 0;
--       length of the counter prefix; the views, separated by blanks; ledger.
-- Returns {outcome, ...}: 1 this call wrote the part; 0 it was written before; -1 another holds the lease; -2 another
--         began this segment in so many parts as the next number says. After a 1: what went wrong, as pairs of position
--         and error: counters that cannot be raised.
local at = redis.call('HMGET', KEYS[1], 'holder', 'folded', 'segment', 'part', 'parts', 'ledger')
if at[1] ~= ARGV[1] or (at[6] or '') ~= ARGV[9] then
    return {-1}
end
local segment, begun = tonumber(ARGV[2]), tonumber(at[3] or 0)
-- A segment that was begun closes all before it: to fold one of those would forget which parts were written.
if segment <= tonumber(at[2] or 0) or segment < begun then
    return {0}
end
if segment == begun then
    -- Parts are cut by a hash of the id: so the parts of two subscribers go together, but only if they are as many.
    if at[5] ~= ARGV[4] then
        return {-2, tonumber(at[5])}
    end
    if tonumber(ARGV[3]) <= tonumber(at[4]) then
        return {0}
    end
end
-- First of all writes, because it can fail (out of memory, a replica): then nothing has been counted.
redis.call('HSET', KEYS[1], 'segment', ARGV[2], 'part', ARGV[3], 'parts', ARGV[4],
    'folded', ARGV[3] == ARGV[4] and ARGV[2] or at[2] or 0)
local views = {}
for count in string.gmatch(ARGV[8], '%d+') do
    views[#views + 1] = count
end
local answer = {1}
for i = 3, #KEYS do
    local done = true
    if ARGV[6] == '1' then
        done = redis.pcall('INCRBY', KEYS[i], views[i - 2])
    end
    if type(done) == 'table' then
        answer[#answer + 1] = i - 2
        answer[#answer + 1] = done['err']
    else
        redis.pcall('ZADD', KEYS[2], 'NX', ARGV[5], string.sub(KEYS[i], tonumber(ARGV[7]) + 1))
    end
end
return answer
