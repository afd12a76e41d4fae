-- fold: write one part of a segment, once, whoever sends it and however often.
-- KEYS: subscriber, changed set, then counters.
-- ARGV: segment number; part; number of parts; time (ms); 1 if messages carry the views, else 0; length of the counter
--       prefix; the views, separated by blanks.
-- Returns {done, ...}: done is 1 if this call wrote the part, 0 if it was written before; then what went wrong, as
-- pairs of position and error: counters that cannot be raised.
local folded = tonumber(redis.call('HGET', KEYS[1], 'folded') or 0)
local part = tonumber(redis.call('HGET', KEYS[1], 'part') or 0)
local segment = tonumber(ARGV[1])
local partly = tonumber(redis.call('HGET', KEYS[1], 'segment') or 0)
if segment <= folded or (segment == partly and tonumber(ARGV[2]) <= part) then
    return {0}
end
-- First of all writes, because it can fail (out of memory, a replica): then nothing has been counted.
if ARGV[2] == ARGV[3] then
    redis.call('HSET', KEYS[1], 'folded', ARGV[1], 'segment', ARGV[1], 'part', 0)
else
    redis.call('HSET', KEYS[1], 'segment', ARGV[1], 'part', ARGV[2])
end
local views = {}
for count in string.gmatch(ARGV[7], '%d+') do
    views[#views + 1] = count
end
local answer = {1}
for i = 3, #KEYS do
    local done = true
    if ARGV[5] == '1' then
        done = redis.pcall('INCRBY', KEYS[i], views[i - 2])
    end
    if type(done) == 'table' then
        answer[#answer + 1] = i - 2
        answer[#answer + 1] = done['err']
    else
        redis.pcall('ZADD', KEYS[2], 'NX', ARGV[4], string.sub(KEYS[i], tonumber(ARGV[6]) + 1))
    end
end
return answer
