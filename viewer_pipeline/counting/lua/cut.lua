-- cut: end a segment of the channel. Its number is published, so that every subscriber cuts at the same message.
-- KEYS: subscriber.  ARGV: the channel for cuts.  Returns the number.
-- Sent twice it makes an empty segment more, which nobody misses. After a Redis that lost its last writes, numbers go on
-- above what was folded.
local cut = tonumber(redis.call('HGET', KEYS[1], 'cut') or 0)
local folded = tonumber(redis.call('HGET', KEYS[1], 'folded') or 0)
local number = string.format('%.0f', math.max(cut, folded) + 1)
redis.call('HSET', KEYS[1], 'cut', number)
redis.call('PUBLISH', ARGV[1], number)
return number
