-- lease: take, keep or give back the right to fold. One token, one holder. Safe to repeat.
-- KEYS: subscriber.  ARGV: token; for how long (ms; 0 gives it back); who holds it, for people;
--       time (ms) of the last message it heard, 0 if none; the channel for cuts.
-- Returns {outcome, folded, left}: outcome 2 kept, 1 taken, 0 another holds it for `left` ms more, or it was given back;
--         folded: the last segment that was folded.
-- Only Redis's own clock decides when a lease is over, and nothing but the speed of a take-over hangs on it.
local at = redis.call('HMGET', KEYS[1], 'holder', 'until', 'folded')
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local folded = at[3] or '0'
if ARGV[2] == '0' then
    if at[1] == ARGV[1] then
        redis.call('HDEL', KEYS[1], 'holder', 'until', 'who')
        redis.call('PUBLISH', ARGV[5], 'released')
    end
    return {0, folded, 0}
end
local mine = at[1] == ARGV[1]
local left = tonumber(at[2] or 0) - now
if at[1] and not mine and left > 0 then
    return {0, folded, left}
end
redis.call('HSET', KEYS[1], 'holder', ARGV[1], 'until', string.format('%.0f', now + ARGV[2]), 'who', ARGV[3])
if ARGV[4] ~= '0' then
    redis.call('HSET', KEYS[1], 'heard', ARGV[4])
end
return {mine and 2 or 1, folded, 0}
